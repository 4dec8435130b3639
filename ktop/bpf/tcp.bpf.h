/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* TCP layer: what its programs share: kernel fields, maps, notes of sockets, events. */

/* @kernel
 * sock_common: skc_family skc_state skc_daddr skc_rcv_saddr skc_dport skc_num skc_net
 * sock_common: skc_v6_daddr skc_v6_rcv_saddr skc_flags
 * net: ns
 * ns_common: inum
 * sock: sk_err sk_uid sk_protocol sk_drops sk_ack_backlog sk_max_ack_backlog sk_socket
 * inet_sock: inet_sport
 * socket: sk file
 * file: f_inode private_data?
 * inode: i_ino i_mode?
 * request_sock_queue: qlen
 * minmax_sample: v
 * minmax: s
 * inet_connection_sock: icsk_accept_queue icsk_rto icsk_ca_state icsk_pending icsk_ack.lrcvtime
 * inet_connection_sock: icsk_probes_out
 * tcp_sock: bytes_sent bytes_retrans bytes_received segs_out segs_in data_segs_out total_retrans
 * tcp_sock: srtt_us mdev_us rtt_min snd_cwnd mss_cache write_seq snd_nxt snd_una rcv_nxt copied_seq
 * tcp_sock: snd_wnd rcv_wnd lsndtime rate_delivered rate_interval_us dsack_dups reord_seen
 * sk_buff: protocol network_header transport_header head data sk dev
 * net_device: nd_net
 * request_sock: __req_common
 * enum sock_flags: SOCK_DONE
 * enum skb_drop_reason: SKB_NOT_DROPPED_YET SKB_CONSUMED SKB_DROP_REASON_QUEUE_PURGE
 * bpf_iter__tcp: meta sk_common
 * bpf_iter__task_file: meta task file
 * bpf_iter__bpf_sk_storage_map: meta sk?
 * tracepoint inet_sock_set_state tcp_retransmit_skb tcp_retransmit_synack tcp_send_reset
 * tracepoint tcp_receive_reset kfree_skb net_dev_queue netif_receive_skb
 */

enum ktop_tcp_state {  /* include/net/tcp_states.h */
    KTOP_TCP_ESTABLISHED = 1, KTOP_TCP_SYN_SENT = 2, KTOP_TCP_SYN_RECV = 3, KTOP_TCP_FIN_WAIT1 = 4,
    KTOP_TCP_CLOSE = 7, KTOP_TCP_LAST_ACK = 9, KTOP_TCP_LISTEN = 10,
};
enum ktop_tcp_kind {   /* tcp_layer.KINDS */
    KTOP_TCP_CONNECT = 1, KTOP_TCP_ACCEPT, KTOP_TCP_CLOSED, KTOP_TCP_RETRANSMIT,
    KTOP_TCP_RESET_SENT, KTOP_TCP_RESET_RECEIVED, KTOP_TCP_DROP, KTOP_TCP_LISTENS,
};
enum ktop_tcp_why {    /* tcp_layer.RETRANSMITS */
    KTOP_WHY_UNKNOWN, KTOP_WHY_RTO, KTOP_WHY_FAST, KTOP_WHY_TLP, KTOP_WHY_SYN, KTOP_WHY_SYNACK,
};
enum ktop_tcp_counter {  /* tcp_layer.COUNTERS */
    KTOP_TN_CONNECTS, KTOP_TN_CONNECTS_FAILED, KTOP_TN_ACCEPTS, KTOP_TN_CLOSES,
    KTOP_TN_RETRANS, KTOP_TN_RESETS_SENT = KTOP_TN_RETRANS + 6, KTOP_TN_RESETS_RECEIVED,
    KTOP_TN_DROPS, KTOP_TN_LOST, KTOP_TN_DNS_QUERIES, KTOP_TN_DNS_ANSWERS, KTOP_TN_DNS_FAILED,
    KTOP_TN_NO_NOTE, KTOP_TN_COUNTERS,
};
_Static_assert(KTOP_TN_COUNTERS == KTOP_TCP_COUNTERS, "tcp_layer.COUNTERS");
enum ktop_tcp_flag {   /* tcp_layer.ACTIVE... */
    KTOP_TF_ACTIVE = 1, KTOP_TF_PASSIVE = 2, KTOP_TF_RECOVERY = 4, KTOP_TF_LOSS = 8, KTOP_TF_PROBING = 16,
};
#define KTOP_AF_INET 2
#define KTOP_AF_INET6 10

BPF_RINGBUF_OUTPUT(tcp_events, KTOP_TCP_RING_PAGES);
BPF_PERCPU_ARRAY(tcp_counters, u64, KTOP_TCP_COUNTERS);
/* Number of the reading of descriptors; how many drops and retransmits may still be events, and of
 * how many drops the stack may be taken. */
BPF_ARRAY(tcp_control, s64, 4);
enum { KTOP_TC_PASS, KTOP_TC_DROPS, KTOP_TC_RETRANS, KTOP_TC_STACKS };

struct ktop_tcp_latency {
    u64 sum_ns, max_ns;
    u64 hist[KTOP_HIST_SLOTS];
};
BPF_PERCPU_ARRAY(tcp_latency, struct ktop_tcp_latency, 1);  /* SYN to established, connects */

static __always_inline void tcp_count(u32 which)
{
    u64 *n = tcp_counters.lookup(&which);
    if (n)
        (*n)++;
}

static __always_inline bool tcp_spend(u32 which)
{
    s64 *left = tcp_control.lookup(&which);
    if (!left || *left <= 0)
        return false;
    __sync_fetch_and_add(left, -1);
    return true;
}

/* What no field of a socket tells: whose it is and when it began. Lives and dies with it. */
struct ktop_tcp_note {
    u64 start_ns, cgroup;      /* CLOCK_MONOTONIC of SYN or of ESTABLISHED; owner's cgroup */
    u32 tgid, previous, last;  /* owner now, owner before this pass, holder seen last */
    u32 pass, holders, flags;
    u32 ino, pad;              /* of the file that it is to its processes, once somebody asked */
    char comm[16];
};
#ifdef KTOP_TASK_STORAGE
BPF_SK_STORAGE(tcp_notes, struct ktop_tcp_note);
#else
/* Before 5.11 tracing programs have no socket storage: least recently used sockets are forgotten */
BPF_TABLE("lru_hash", u64, struct ktop_tcp_note, tcp_notes, 65536);
#endif

static __always_inline struct ktop_tcp_note *tcp_note(struct sock *sk, bool create)
{
#ifdef KTOP_TASK_STORAGE
    struct ktop_tcp_note *n = tcp_notes.sk_storage_get(
        sk, NULL, create ? BPF_LOCAL_STORAGE_GET_F_CREATE : 0);
    if (create && !n)  /* memory, or net.core.optmem_max of that socket */
        tcp_count(KTOP_TN_NO_NOTE);
    return n;
#else
    u64 key = (u64)sk;
    struct ktop_tcp_note blank = {}, *found = tcp_notes.lookup(&key);
    if (found || !create)
        return found;
    tcp_notes.update(&key, &blank);
    return tcp_notes.lookup(&key);
#endif
}

static __always_inline void tcp_own(struct ktop_tcp_note *n, struct task_struct *task, u32 tgid)
{
    struct task_struct *leader = PR(task, group_leader);
    n->cgroup = cgroup_by_helper(task);
    n->tgid = tgid;
    bpf_probe_read_kernel(n->comm, sizeof(n->comm), leader->comm);
}

static __always_inline void tcp_own_current(struct ktop_tcp_note *n)
{
    u32 tgid = bpf_get_current_pid_tgid() >> 32;
    if (tgid)
        tcp_own(n, (void *)bpf_get_current_task(), tgid);
}

/* -- latency of connects -----------------------------------------------------------------------*/

static __always_inline void tcp_latency_add(u64 ns)
{
    u32 zero = 0, slot = hist_slot(ns, KTOP_HIST_SLOTS);
    struct ktop_tcp_latency *l = tcp_latency.lookup(&zero);
    if (!l || slot >= KTOP_HIST_SLOTS)
        return;
    l->hist[slot]++;
    l->sum_ns += ns;
    if (ns > l->max_ns)
        l->max_ns = ns;
}

/* -- addresses -----------------------------------------------------------------------------------*/

struct ktop_tcp_ends { u16 local_port, remote_port, family; u8 state, flags; u8 local[16], remote[16]; };

static __always_inline u32 tcp_netns(struct sock_common *c)
{
    struct net *net = F(c, skc_net);
    return F(net, ns.inum);
}

static __always_inline void tcp_ends(struct ktop_tcp_ends *e, struct sock_common *c)
{
    u16 port = F(c, skc_dport);
    e->family = F(c, skc_family);
    e->local_port = F(c, skc_num);
    e->remote_port = port >> 8 | port << 8;
    if (e->family == KTOP_AF_INET6) {
        bpf_probe_read_kernel(e->local, 16, &c->skc_v6_rcv_saddr);
        bpf_probe_read_kernel(e->remote, 16, &c->skc_v6_daddr);
    } else {
        *(u32 *)e->local = F(c, skc_rcv_saddr);
        *(u32 *)e->remote = F(c, skc_daddr);
    }
}

/* Of a full socket, also when it is closing: skc_num is zero by then (inet_put_port). */
static __always_inline u16 tcp_port(struct tcp_sock *tp)
{
    u16 port = F((struct inet_sock *)tp, inet_sport);
    return port >> 8 | port << 8;
}

/* bytes_received counts the FIN as one (tcp_rcv_nxt_update, net/ipv4/tcp_input.c). */
static __always_inline u64 tcp_rx_bytes(struct tcp_sock *tp)
{
    u64 bytes = F(tp, bytes_received), flags = F((struct sock_common *)tp, skc_flags);
    return bytes && (flags >> SOCK_DONE & 1) ? bytes - 1 : bytes;
}

static __always_inline struct tcp_sock *tcp_of(struct sock *sk)
{
#ifdef KTOP_TYPED
    return bpf_skc_to_tcp_sock(sk);
#else
    return F(sk, sk_protocol) == 6 ? (struct tcp_sock *)sk : NULL;
#endif
}

/* -- events --------------------------------------------------------------------------------------*/

struct ktop_tcp_event {
    u64 sk, time_ns, latency_ns, tx_bytes, rx_bytes, cgroup;
    u32 kind, pid, uid, netns, retrans;
    s32 code, stack;
    u32 pad;
    u16 local_port, remote_port, family;
    u8 state, flags;
    u8 local[16], remote[16];
    char comm[16];
};
_Static_assert(sizeof(struct ktop_tcp_event) == KTOP_TCP_EVENT_SIZE, "tcp_layer.EVENT");

static __always_inline void tcp_send(struct ktop_tcp_event *e)
{
    if (tcp_events.ringbuf_output(e, sizeof(*e), BPF_RB_NO_WAKEUP))
        tcp_count(KTOP_TN_LOST);
}

/* sk: a tcp_sock; typed programs had it from tcp_of(). */
static __always_inline void tcp_about(struct ktop_tcp_event *e, struct sock *sk, u32 kind)
{
    struct sock_common *c = (void *)sk;
    struct ktop_tcp_ends ends = {};
    tcp_ends(&ends, c);
    e->sk = (u64)sk;
    e->time_ns = bpf_ktime_get_ns();
    e->kind = kind;
    e->netns = tcp_netns(c);
    e->state = F(c, skc_state);
    e->uid = F(sk, sk_uid);
    e->local_port = tcp_port((struct tcp_sock *)sk);
    e->remote_port = ends.remote_port;
    e->family = ends.family;
    e->stack = -1;
    __builtin_memcpy(e->local, ends.local, 16);
    __builtin_memcpy(e->remote, ends.remote, 16);
}

static __always_inline void tcp_whose(struct ktop_tcp_event *e, struct ktop_tcp_note *n)
{
    if (!n)
        return;
    e->pid = n->tgid;
    e->cgroup = n->cgroup;
    e->flags = n->flags;
    __builtin_memcpy(e->comm, n->comm, 16);
}

/* The addresses of a packet, whoever it belongs to. Returns its protocol, 0 when it is not IP. */
static __always_inline u32 tcp_packet(struct ktop_tcp_event *e, struct sk_buff *skb)
{
    u16 protocol = F(skb, protocol), ports[2] = {};
    unsigned char *at = (void *)F(skb, head);
    u8 first = 0, next = 0;
    u32 length = 40;
    at += F(skb, network_header);
    if (protocol == 0x0008) {            /* ETH_P_IP in network order */
        bpf_probe_read_kernel(&first, 1, at);
        bpf_probe_read_kernel(&next, 1, at + 9);
        length = (first & 15) * 4;
        if (next != 6 && next != 17)
            return 0;
        bpf_probe_read_kernel(e->remote, 4, at + 12);
        bpf_probe_read_kernel(e->local, 4, at + 16);
        e->family = KTOP_AF_INET;
    } else if (protocol == 0xdd86) {     /* ETH_P_IPV6; extension headers are not followed */
        bpf_probe_read_kernel(&next, 1, at + 6);
        if (next != 6 && next != 17)
            return 0;
        bpf_probe_read_kernel(e->remote, 16, at + 8);
        bpf_probe_read_kernel(e->local, 16, at + 24);
        e->family = KTOP_AF_INET6;
    } else {
        return 0;
    }
    bpf_probe_read_kernel(ports, 4, at + length);
    e->remote_port = ports[0] >> 8 | ports[0] << 8;  /* as received: from remote to local */
    e->local_port = ports[1] >> 8 | ports[1] << 8;
    return next;
}

static __always_inline u32 tcp_packet_netns(struct sk_buff *skb)
{
    struct net_device *dev = F(skb, dev);
    struct net *net = PR(dev, nd_net);
    return PR(net, ns.inum);
}
