/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* TCP layer: packets dropped, counted by reason, place and namespace; a stack takes 4 us, so only
 * some are taken. */

struct ktop_tcp_drop {
    u32 reason, protocol;
    u64 location;
    u32 netns, pad;
};
_Static_assert(sizeof(struct ktop_tcp_drop) == KTOP_TCP_DROP_KEY_SIZE, "tcp_layer.DROP_KEY");
struct ktop_tcp_dropped {
    u64 count;
    s64 stack;  /* of the newest that was taken, -1: none */
};
BPF_TABLE("lru_hash", struct ktop_tcp_drop, struct ktop_tcp_dropped, tcp_drops, 4096);
BPF_STACK_TRACE(tcp_stacks, KTOP_TCP_STACKS);

static __always_inline bool tcp_is_ip(struct sk_buff *skb)
{
    u16 protocol = F(skb, protocol);
    return protocol == 0x0008 || protocol == 0xdd86;
}

static __always_inline int tcp_dropped(struct sk_buff *skb, u64 location, u32 reason, s32 stack)
{
    struct ktop_tcp_event e = {};
    struct ktop_tcp_drop key = {.reason = reason, .location = location};
    struct ktop_tcp_dropped first = {.count = 1, .stack = stack};
    key.protocol = tcp_packet(&e, skb);
    if (!key.protocol)
        return 0;
    struct sock *sk = F(skb, sk);
    if (sk) {
        struct net *net = PR((struct sock_common *)sk, skc_net);
        key.netns = PR(net, ns.inum);
    } else {
        key.netns = tcp_packet_netns(skb);
    }
    tcp_count(KTOP_TN_DROPS);
    struct ktop_tcp_dropped *d = tcp_drops.lookup(&key);
    if (d) {
        __sync_fetch_and_add(&d->count, 1);
        if (stack >= 0)
            d->stack = stack;
    } else {
        tcp_drops.update(&key, &first);
    }
    if (!tcp_spend(KTOP_TC_DROPS))
        return 0;
    e.sk = (u64)sk;
    e.time_ns = bpf_ktime_get_ns();
    e.kind = KTOP_TCP_DROP;
    e.netns = key.netns;
    e.code = reason;
    e.stack = stack;
    e.state = key.protocol;
    e.tx_bytes = location;
    tcp_send(&e);
    return 0;
}

int tcp_drop(u64 *ctx)
{
    struct sk_buff *skb = (void *)ctx[0];
    u32 reason = 0;
    if (!tcp_is_ip(skb))
        return 0;
#if KTOP_ARGS_kfree_skb >= 3             /* 5.17, c504e5c2f964 */
    reason = ctx[2];
#ifdef KTOP_HAS_SKB_CONSUMED
    if (reason == SKB_CONSUMED)
        return 0;
#endif
#ifdef KTOP_HAS_SKB_DROP_REASON_QUEUE_PURGE  /* a FIN or data that nobody read before the close */
    if (reason == SKB_DROP_REASON_QUEUE_PURGE)
        return 0;
#endif
#endif
    s32 stack = tcp_spend(KTOP_TC_STACKS) ? tcp_stacks.get_stackid(ctx, 0) : -1;
    return tcp_dropped(skb, ctx[1], reason, stack);
}
