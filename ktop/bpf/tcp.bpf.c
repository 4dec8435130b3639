/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* TCP layer: sockets read once per tick by iterators, connections' lives as events; nothing runs
 * per packet that arrives as it should. (Packets dropped: tcp_drops.bpf.h. DNS, while somebody looks:
 * tcp_dns.bpf.h.) */

/* -- one record per socket --------------------------------------------------------------------- */

struct ktop_tcp_sock {
    u64 sk, tx_bytes, retrans_bytes, rx_bytes, born_ns, cgroup;
    u32 netns, uid, pid, holders, segs_out, segs_in, data_segs_out, retrans, srtt_us8;
    u32 mdev_us4, min_rtt_us, rto_jiffies, cwnd, mss;
    u32 unacked_bytes, unsent_bytes, unread_bytes, snd_wnd;
    u32 rcv_wnd, sent_jiffies, received_jiffies, rate_delivered;
    u32 rate_interval_us, backlog, backlog_max, syn_queue, drops, ino, dsack_dups, reord_seen;
    u16 local_port, remote_port, family;
    u8 state, flags;
    u8 local[16], remote[16];
    char comm[16];
};
_Static_assert(sizeof(struct ktop_tcp_sock) == KTOP_TCP_SOCK_SIZE, "tcp_layer.SOCK");

static __always_inline void tcp_fill_flow(struct ktop_tcp_sock *r, struct tcp_sock *tp)
{
    struct inet_connection_sock *icsk = (void *)tp;
    u32 una = F(tp, snd_una), nxt = F(tp, snd_nxt), written = F(tp, write_seq);
    r->retrans_bytes = F(tp, bytes_retrans);
    r->tx_bytes = F(tp, bytes_sent) - r->retrans_bytes;
    r->rx_bytes = tcp_rx_bytes(tp);
    r->segs_out = F(tp, segs_out);
    r->segs_in = F(tp, segs_in);
    r->data_segs_out = F(tp, data_segs_out);
    r->retrans = F(tp, total_retrans);
    r->dsack_dups = F(tp, dsack_dups);
    r->reord_seen = F(tp, reord_seen);
    r->srtt_us8 = F(tp, srtt_us);
    r->mdev_us4 = F(tp, mdev_us);
    r->min_rtt_us = F(tp, rtt_min.s[0].v);
    r->cwnd = F(tp, snd_cwnd);
    r->mss = F(tp, mss_cache);
    r->unacked_bytes = nxt - una;
    r->unsent_bytes = (s32)(written - nxt) > 0 ? written - nxt : 0;
    r->unread_bytes = F(tp, rcv_nxt) - F(tp, copied_seq);
    r->snd_wnd = F(tp, snd_wnd);
    r->rcv_wnd = F(tp, rcv_wnd);
    r->sent_jiffies = F(tp, lsndtime);
    r->received_jiffies = F(icsk, icsk_ack_lrcvtime);
    r->rate_delivered = F(tp, rate_delivered);
    r->rate_interval_us = F(tp, rate_interval_us);
    r->rto_jiffies = F(icsk, icsk_rto);
    if (F(icsk, icsk_probes_out))
        r->flags |= KTOP_TF_PROBING;
    u32 ca = BITS(inet_connection_sock, icsk, icsk_ca_state);  /* TCP_CA_Recovery, TCP_CA_Loss */
    r->flags |= ca == 3 ? KTOP_TF_RECOVERY : ca == 4 ? KTOP_TF_LOSS : 0;
}

/* Of the file that the socket is to its processes, 0: none. It never changes: it is looked up once,
 * at three reads of the kernel. */
static __always_inline u32 tcp_inode(struct sock *sk, struct ktop_tcp_note *n)
{
    struct socket *s = F(sk, sk_socket);
    if (!s)
        return 0;
    if (!n->ino) {
        struct file *file = PR(s, file);
        struct inode *inode = file ? PR(file, f_inode) : NULL;
        n->ino = inode ? PR(inode, i_ino) : 0;
    }
    return n->ino;
}

BPF_PERCPU_ARRAY(tcp_record, struct ktop_tcp_sock, 1);

static __always_inline int tcp_one(struct seq_file *seq, struct tcp_sock *tp, bool create)
{
    u32 zero = 0;
    struct ktop_tcp_sock *r = tcp_record.lookup(&zero);
    struct sock_common *c = (void *)tp;
    struct sock *sk = (void *)tp;
    if (!r)
        return 0;
    __builtin_memset(r, 0, sizeof(*r));
    r->sk = (u64)tp;
    r->netns = tcp_netns(c);
    r->uid = F(sk, sk_uid);
    r->state = F(c, skc_state);
    r->drops = F(sk, sk_drops);
    struct ktop_tcp_ends e = {};
    tcp_ends(&e, c);
    r->local_port = tcp_port(tp);
    r->remote_port = e.remote_port;
    r->family = e.family;
    __builtin_memcpy(r->local, e.local, 16);
    __builtin_memcpy(r->remote, e.remote, 16);
    struct ktop_tcp_note *n = tcp_note(sk, create);
    if (n) {
        r->born_ns = n->start_ns;
        r->pid = n->tgid;
        r->cgroup = n->cgroup;
        r->holders = n->holders;
        r->ino = tcp_inode(sk, n);
        r->flags = n->flags;
        __builtin_memcpy(r->comm, n->comm, 16);
    }
    if (r->state == KTOP_TCP_LISTEN) {
        struct inet_connection_sock *icsk = (void *)tp;
        r->backlog = F(sk, sk_ack_backlog);
        r->backlog_max = F(sk, sk_max_ack_backlog);
        r->syn_queue = F(icsk, icsk_accept_queue.qlen);
    } else {
        tcp_fill_flow(r, tp);
    }
    bpf_seq_write(seq, r, sizeof(*r));
    return 0;
}

/* The last record of each read has no socket: it tells the time in jiffies. */
static __always_inline int tcp_end(struct seq_file *seq)
{
    u32 zero = 0;
    struct ktop_tcp_sock *r = tcp_record.lookup(&zero);
    if (!r)
        return 0;
    __builtin_memset(r, 0, sizeof(*r));
    r->sent_jiffies = bpf_jiffies64();
    r->born_ns = bpf_ktime_get_ns();
    bpf_seq_write(seq, r, sizeof(*r));
    return 0;
}

#ifdef KTOP_TYPED
/* The sockets of the namespace that the reader is in. All have a note from then on. */
int tcp_socks(struct bpf_iter__tcp *ctx)
{
    struct sock_common *c = ctx->sk_common;
    if (!c)
        return tcp_end(ctx->meta->seq);
    struct tcp_sock *tp = bpf_skc_to_tcp_sock(c);
    if (!tp)  /* TIME_WAIT or a half-open one */
        return 0;
#ifdef KTOP_TASK_STORAGE
    return tcp_one(ctx->meta->seq, tp, true);
#else
    return tcp_one(ctx->meta->seq, tp, false);
#endif
}

#ifdef KTOP_TASK_STORAGE
/* The sockets that have a note, of all namespaces at once. */
int tcp_noted(struct bpf_iter__bpf_sk_storage_map *ctx)
{
    struct sock *sk = ctx->sk;
    if (!sk)
        return tcp_end(ctx->meta->seq);
    struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
    if (!tp || F((struct sock_common *)tp, skc_state) == KTOP_TCP_CLOSE)  /* not freed yet */
        return 0;
    return tcp_one(ctx->meta->seq, tp, false);
}
#endif

/* -- who holds a socket: written into its note, nothing is handed out ----------------------------*/

static __always_inline int tcp_held(struct tcp_sock *tp, struct task_struct *task)
{
    u32 tgid = task->tgid, zero = KTOP_TC_PASS;
    struct ktop_tcp_note *n = tcp_note((void *)tp, true);
    s64 *pass = tcp_control.lookup(&zero);
    if (!n || !pass)
        return 0;
    if (n->pass != (u32)*pass) {
        n->pass = *pass;
        n->previous = n->tgid;
        n->last = 0;
        n->holders = 0;
        if (n->tgid != tgid)
            tcp_own(n, task, tgid);
    } else if (tgid == n->previous && tgid != n->tgid) {
        tcp_own(n, task, tgid);
    }
    if (tgid != n->last)
        n->holders++;
    n->last = tgid;
    return 0;
}

#ifndef KTOP_HELPER_sock_from_file
/* What the helper does. The socket is only a key then: there is no socket storage either. */
static __always_inline int tcp_held_by_hand(struct file *file, struct task_struct *task)
{
    struct inode *inode = PR(file, f_inode);
    if (!inode || (PR(inode, i_mode) & 0170000) != 0140000)  /* S_IFSOCK */
        return 0;
    struct socket *s = PR(file, private_data);
    struct sock *sk = s ? PR(s, sk) : NULL;
    if (!sk || PR(sk, sk_protocol) != 6)
        return 0;
    u16 family = PR((struct sock_common *)sk, skc_family);
    return family == KTOP_AF_INET || family == KTOP_AF_INET6 ? tcp_held((void *)sk, task) : 0;
}
#endif

int tcp_fds(struct bpf_iter__task_file *ctx)
{
    struct file *file = ctx->file;
    struct task_struct *task = ctx->task;
    if (!file || !task)
        return 0;
#ifdef KTOP_HELPER_sock_from_file        /* 5.11, b60da4955f53 */
    struct socket *s = bpf_sock_from_file(file);
    if (!s)
        return 0;
    struct sock *sk = s->sk;
    if (!sk)
        return 0;
    struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
    return tp ? tcp_held(tp, task) : 0;
#else
    return tcp_held_by_hand(file, task);
#endif
}
#endif

/* -- connections' lives --------------------------------------------------------------------------*/

static __always_inline int tcp_connected(struct sock *sk, struct ktop_tcp_note *n, int code)
{
    struct ktop_tcp_event e = {};
    tcp_about(&e, sk, KTOP_TCP_CONNECT);
    tcp_whose(&e, n);
    e.code = code;
    if (n && n->start_ns)
        e.latency_ns = e.time_ns - n->start_ns;
    tcp_count(code ? KTOP_TN_CONNECTS_FAILED : KTOP_TN_CONNECTS);
    if (!code && e.latency_ns)
        tcp_latency_add(e.latency_ns);
    if (n)
        n->start_ns = e.time_ns;
    tcp_send(&e);
    return 0;
}

static __always_inline int tcp_accepted(struct sock *sk, struct tcp_sock *tp)
{
    struct ktop_tcp_event e = {};
    struct ktop_tcp_note *n = tcp_note(sk, true);
    tcp_about(&e, sk, KTOP_TCP_ACCEPT);
    if (n) {
        n->start_ns = e.time_ns;
        n->flags = KTOP_TF_PASSIVE;
    }
    e.flags = KTOP_TF_PASSIVE;
    e.latency_ns = (u64)(F(tp, srtt_us) >> 3) * 1000;  /* SYN-ACK to ACK: its first sample */
    tcp_count(KTOP_TN_ACCEPTS);
    tcp_send(&e);
    return 0;
}

static __always_inline int tcp_closed(struct sock *sk, struct tcp_sock *tp, u32 from)
{
    struct ktop_tcp_event e = {};
    struct ktop_tcp_note *n = tcp_note(sk, false);
    tcp_about(&e, sk, KTOP_TCP_CLOSED);
    tcp_whose(&e, n);
    e.state = from;
    e.code = F(sk, sk_err);
    e.tx_bytes = F(tp, bytes_sent) - F(tp, bytes_retrans);
    e.rx_bytes = tcp_rx_bytes(tp);
    e.retrans = F(tp, total_retrans);
    if (n && n->start_ns)
        e.latency_ns = e.time_ns - n->start_ns;
    tcp_count(KTOP_TN_CLOSES);
    tcp_send(&e);
    return 0;
}

/* connect, listen, close and shutdown change the state in the caller's context; packets do not. */
static __always_inline int tcp_changed(struct sock *sk, struct tcp_sock *tp, u32 from, u32 to)
{
    struct ktop_tcp_note *n;
    if (to == KTOP_TCP_SYN_SENT || to == KTOP_TCP_LISTEN) {
        n = tcp_note(sk, true);
        if (n) {
            n->start_ns = bpf_ktime_get_ns();
            n->flags = to == KTOP_TCP_SYN_SENT ? KTOP_TF_ACTIVE : 0;
            tcp_own_current(n);
        }
        return 0;
    }
    if (from == KTOP_TCP_SYN_SENT) {
        n = tcp_note(sk, false);
        if (to == KTOP_TCP_ESTABLISHED)
            return tcp_connected(sk, n, 0);
        if (to == KTOP_TCP_CLOSE) {
            int err = F(sk, sk_err);
            return tcp_connected(sk, n, err ? err : -1);
        }
        return 0;
    }
    if (from == KTOP_TCP_SYN_RECV && to == KTOP_TCP_ESTABLISHED)
        return tcp_accepted(sk, tp);
    if (to == KTOP_TCP_FIN_WAIT1 || to == KTOP_TCP_LAST_ACK) {
        n = tcp_note(sk, true);
        if (n && !n->tgid)
            tcp_own_current(n);
        return 0;
    }
    if (to == KTOP_TCP_CLOSE && from != KTOP_TCP_LISTEN && from != KTOP_TCP_SYN_RECV)
        return tcp_closed(sk, tp, from);
    return 0;
}

static __always_inline int tcp_state_of(struct sock *sk, u32 from, u32 to)
{
    struct tcp_sock *tp = tcp_of(sk);
    return tp ? tcp_changed((struct sock *)tp, tp, from, to) : 0;
}

int tcp_state(u64 *ctx)
{
    return tcp_state_of((void *)ctx[0], ctx[1], ctx[2]);
}

static __always_inline u32 tcp_why(struct tcp_sock *tp)
{
    struct inet_connection_sock *icsk = (void *)tp;
    u32 state = F((struct sock_common *)tp, skc_state);
    u32 ca = BITS(inet_connection_sock, icsk, icsk_ca_state);
    if (state == KTOP_TCP_SYN_SENT)
        return KTOP_WHY_SYN;
    if (ca == 4)                         /* TCP_CA_Loss: a timeout, and what it declared lost */
        return KTOP_WHY_RTO;
    if (F(icsk, icsk_pending) == 5)      /* ICSK_TIME_LOSS_PROBE: set while the probe is sent */
        return KTOP_WHY_TLP;
    if (ca == 3)                         /* TCP_CA_Recovery */
        return KTOP_WHY_FAST;
    return KTOP_WHY_UNKNOWN;
}

static __always_inline int tcp_resent(struct sock *sk, int err)
{
    struct tcp_sock *tp = tcp_of(sk);
    if (!tp || err)
        return 0;
    u32 why = tcp_why(tp);
    tcp_count(KTOP_TN_RETRANS + why);
    if (!tcp_spend(KTOP_TC_RETRANS))
        return 0;
    struct ktop_tcp_event e = {};
    tcp_about(&e, (struct sock *)tp, KTOP_TCP_RETRANSMIT);
    tcp_whose(&e, tcp_note((struct sock *)tp, false));
    e.code = why;
    e.retrans = F(tp, total_retrans);
    tcp_send(&e);
    return 0;
}

int tcp_retrans(u64 *ctx)
{
#if KTOP_ARGS_tcp_retransmit_skb >= 3
    return tcp_resent((void *)ctx[0], ctx[2]);
#else
    return tcp_resent((void *)ctx[0], 0);
#endif
}

static __always_inline int tcp_synack_resent(struct sock *sk, struct request_sock *req)
{
    struct ktop_tcp_ends ends = {};
    struct ktop_tcp_event e = {};
    struct tcp_sock *tp = tcp_of(sk);
    if (!tp)
        return 0;
    tcp_count(KTOP_TN_RETRANS + KTOP_WHY_SYNACK);
    if (!tcp_spend(KTOP_TC_RETRANS))
        return 0;
    tcp_about(&e, (struct sock *)tp, KTOP_TCP_RETRANSMIT);
    tcp_whose(&e, tcp_note((struct sock *)tp, false));
    tcp_ends(&ends, (struct sock_common *)req);
    __builtin_memcpy(e.remote, ends.remote, 16);
    __builtin_memcpy(e.local, ends.local, 16);
    e.remote_port = ends.remote_port;
    e.family = ends.family;
    e.state = KTOP_TCP_SYN_RECV;
    e.code = KTOP_WHY_SYNACK;
    e.sk = 0;
    tcp_send(&e);
    return 0;
}

int tcp_synack(u64 *ctx)
{
    return tcp_synack_resent((void *)ctx[0], (void *)ctx[1]);
}

static __always_inline int tcp_reset(struct sock *sk, struct sk_buff *skb, u32 kind, int reason)
{
    struct ktop_tcp_event e = {};
    struct tcp_sock *tp = sk ? tcp_of(sk) : NULL;
    tcp_count(kind == KTOP_TCP_RESET_SENT ? KTOP_TN_RESETS_SENT : KTOP_TN_RESETS_RECEIVED);
    if (!tcp_spend(KTOP_TC_DROPS))
        return 0;
    if (tp) {
        tcp_about(&e, (struct sock *)tp, kind);
        tcp_whose(&e, tcp_note((struct sock *)tp, false));
    }
    if (skb && (!tp || e.state == KTOP_TCP_LISTEN)) {
        tcp_packet(&e, skb);
        if (!e.netns)
            e.netns = tcp_packet_netns(skb);
    }
    e.time_ns = bpf_ktime_get_ns();
    e.kind = kind;
    e.code = reason;
    e.stack = -1;
    tcp_send(&e);
    return 0;
}

int tcp_rst_out(u64 *ctx)
{
#if KTOP_ARGS_tcp_send_reset >= 3
    return tcp_reset((void *)ctx[0], (void *)ctx[1], KTOP_TCP_RESET_SENT, ctx[2]);
#else
    return tcp_reset((void *)ctx[0], (void *)ctx[1], KTOP_TCP_RESET_SENT, -1);
#endif
}

int tcp_rst_in(u64 *ctx)
{
    return tcp_reset((void *)ctx[0], NULL, KTOP_TCP_RESET_RECEIVED, -1);
}
