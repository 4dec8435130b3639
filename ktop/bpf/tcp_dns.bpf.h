/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* TCP layer: queries over UDP port 53 and their answers, while the layer is looked at. */

struct ktop_tcp_dns {
    u64 sent_ns, latency_ns, cgroup;
    u32 pid, netns;
    s32 rcode;
    u32 pad;
    u16 port, id, family, tries;
    u8 server[16];
    char name[64];  /* as in the packet: length, label, length, label... */
    char comm[16];
};
_Static_assert(sizeof(struct ktop_tcp_dns) == KTOP_TCP_DNS_SIZE, "tcp_layer.DNS");
/* Not by the server's address: NAT may have changed it on the way (Docker's own resolver). */
struct ktop_tcp_ask { u32 netns; u16 port, id; };
BPF_TABLE("lru_hash", struct ktop_tcp_ask, struct ktop_tcp_dns, tcp_dns_asked, 4096);

static __always_inline int tcp_dns_asks(struct sk_buff *skb)
{
    u16 protocol = F(skb, protocol), words[6] = {};
    struct sock *sk = F(skb, sk);
    if (!sk || (protocol != 0x0008 && protocol != 0xdd86))
        return 0;
    struct sock_common *c = (void *)sk;
    u8 state = PR(c, skc_state);
    if (state == 6 || state == 12 || PR(sk, sk_protocol) != 17)  /* not whole, or not UDP */
        return 0;
    unsigned char *at = (void *)F(skb, head);
    bpf_probe_read_kernel(words, sizeof(words), at + F(skb, transport_header));
    u16 asked = PR(c, skc_dport);        /* of a connected socket: what it asked for, before NAT */
    if ((words[1] != 0x3500 && asked != 0x3500) || words[5] & 0x80)  /* port 53, a query */
        return 0;
    struct net *net = PR(c, skc_net);
    struct ktop_tcp_ask key = {.netns = PR(net, ns.inum)};
    key.port = words[0] >> 8 | words[0] << 8;
    key.id = words[4];
    struct ktop_tcp_dns *old = tcp_dns_asked.lookup(&key);
    if (old && bpf_ktime_get_ns() - old->sent_ns < 5000000000ULL) {
        old->tries++;
        return 0;
    }
    struct ktop_tcp_note whose = {};
    struct ktop_tcp_dns q = {};
    tcp_own_current(&whose);
    q.sent_ns = bpf_ktime_get_ns();
    q.cgroup = whose.cgroup;
    q.pid = whose.tgid;
    q.netns = key.netns;
    q.port = key.port;
    q.id = key.id;
    q.tries = 1;
    q.family = protocol == 0x0008 ? KTOP_AF_INET : KTOP_AF_INET6;
    unsigned char *ip = at + F(skb, network_header);
    if (asked && q.family == KTOP_AF_INET)
        *(u32 *)q.server = PR(c, skc_daddr);
    else if (q.family == KTOP_AF_INET)
        bpf_probe_read_kernel(q.server, 4, ip + 16);
    else
        bpf_probe_read_kernel(q.server, 16, ip + 24);
    bpf_probe_read_kernel(q.name, sizeof(q.name), at + F(skb, transport_header) + 20);
    __builtin_memcpy(q.comm, whose.comm, 16);
    tcp_dns_asked.update(&key, &q);
    tcp_count(KTOP_TN_DNS_QUERIES);
    return 0;
}

int tcp_dns_out(u64 *ctx)
{
    return tcp_dns_asks((void *)ctx[0]);
}

static __always_inline int tcp_dns_answers(struct sk_buff *skb)
{
    u16 protocol = F(skb, protocol), words[6] = {};
    u32 length = 40;
    u8 first = 0, next = 0;
    unsigned char *at = (void *)F(skb, data);
    if (protocol == 0x0008) {
        bpf_probe_read_kernel(&next, 1, at + 9);
        bpf_probe_read_kernel(&first, 1, at);
        length = (first & 15) * 4;
    } else if (protocol == 0xdd86) {
        bpf_probe_read_kernel(&next, 1, at + 6);
    }
    if (next != 17)
        return 0;
    bpf_probe_read_kernel(words, sizeof(words), at + length);
    if (!(words[5] & 0x80))              /* QR: an answer */
        return 0;
    struct ktop_tcp_ask key = {.netns = tcp_packet_netns(skb)};
    key.port = words[1] >> 8 | words[1] << 8;
    key.id = words[4];
    struct ktop_tcp_dns *asked = tcp_dns_asked.lookup(&key);
    if (!asked)
        return 0;
    asked->latency_ns = bpf_ktime_get_ns() - asked->sent_ns;
    asked->rcode = words[5] >> 8 & 15;
    tcp_count(asked->rcode ? KTOP_TN_DNS_FAILED : KTOP_TN_DNS_ANSWERS);
    if (tcp_events.ringbuf_output(asked, sizeof(*asked), BPF_RB_NO_WAKEUP))
        tcp_count(KTOP_TN_LOST);
    tcp_dns_asked.delete(&key);
    return 0;
}

int tcp_dns_in(u64 *ctx)
{
    return tcp_dns_answers((void *)ctx[0]);
}
