/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Block layer: one hook at block_rq_complete reads the request's own time stamps (start_time_ns,
 * io_start_time_ns: block/blk-mq.c) and files queue time, device time and their sum by device and
 * operation, and by process, cgroup and device; what is slow goes to the ring as well. A second
 * hook at block_io_start notes who submitted the request.
 *
 * A request is counted once, at its end; bytes as they complete. A write with a flush before it
 * (RQF_FLUSH_SEQ, block/blk-flush.c) completes in steps: its data, then itself; the flush that the
 * device executes is a request of its own, and one that carries no data is filed as `sync`.
 */

/* @kernel
 * request: q cmd_flags rq_flags __data_len __sector bio start_time_ns io_start_time_ns part?
 * request: rq_disk?
 * request_queue: disk?
 * gendisk: major first_minor
 * block_device: bd_dev?
 * bio: bi_blkg?
 * blkcg_gq: blkcg?
 * blkcg: css?
 * enum rqf_flags: __RQF_FLUSH_SEQ
 * tracepoint block_io_start block_rq_issue block_rq_insert
 */

#ifndef __RQF_FLUSH_SEQ
#define __RQF_FLUSH_SEQ KTOP_BLOCK_FLUSH_SEQ  /* an enum without a name, or before 6.11 none */
#endif
#define KTOP_OP_WRITE 1
#define KTOP_OP_FLUSH 2
#define KTOP_OP_DRIVER 32  /* and above: commands, not I/O */
#define KTOP_OP_SYNC 254   /* ours: a request that is only a flush (an fsync's) */

/* Longest of one tick, by the parity of the tick: the collector reads the one not in use. */
struct ktop_block_longest {
    u64 epoch, queue_ns, device_ns, total_ns;
};

struct ktop_block_key {
    u32 dev, op;       /* MKDEV (major << 20 | minor) of the whole disk; enum req_op */
};

/* Totals since loaded, shared by all CPUs: updated by atomics. */
struct ktop_block_op {
    u64 requests, bytes, errors;
    u64 unstamped;     /* requests without a start time: not in any sum or histogram */
    u64 undivided;     /* in total only: nobody noted when they were issued */
    u64 queue_ns, device_ns, total_ns;
    struct ktop_block_longest longest[2];
    u32 queue[KTOP_HIST_SLOTS], device[KTOP_HIST_SLOTS], total[KTOP_HIST_SLOTS];
};
_Static_assert(sizeof(struct ktop_block_op) == KTOP_BLOCK_OP_SIZE, "block_layer.OP");
BPF_HASH(block_ops, struct ktop_block_key, struct ktop_block_op, KTOP_BLOCK_OPS);
BPF_PERCPU_ARRAY(block_blank_op, struct ktop_block_op, 1);
BPF_ARRAY(block_epoch, u32, 1);      /* the collector's tick counter */
BPF_ARRAY(block_slow_ns, u64, 1);    /* requests of this less 1 ns are events; 0: none are */

struct ktop_block_who {
    u64 cgroup;
    u32 pid, dev;      /* of the whole disk */
};

/* Totals since first seen; class: 0 read, 1 write, 2 anything else, 3 only a flush (`sync`). The
 * histograms are of the first three, the third holds the fourth too. */
struct ktop_block_proc {
    u64 requests[4], bytes[4], total_ns[4], errors[4];
    u64 born_ns;
    u32 hist[3 * KTOP_TASK_HIST_SLOTS];
    char comm[16];
};
_Static_assert(sizeof(struct ktop_block_proc) == KTOP_BLOCK_PROC_SIZE, "block_layer.PROC");
BPF_TABLE("lru_hash", struct ktop_block_who, struct ktop_block_proc, block_procs,
          KTOP_BLOCK_PROCS);
BPF_PERCPU_ARRAY(block_blank_proc, struct ktop_block_proc, 1);

/* Who submitted a request that is under way. The place is a hash of its address; one that is taken
 * by another request is overwritten, and the loser's submitter is not known (counted). */
struct ktop_block_slot {
    u64 rq, issue_ns, cgroup;
    u64 start_ns;      /* start_time_ns where it is set before anyone can look: not since 6.12 */
    u32 pid, bytes;    /* bytes of it that have completed so far */
    char comm[16];
};
BPF_ARRAY(block_slots, struct ktop_block_slot, 1 << KTOP_BLOCK_SLOT_BITS);
BPF_PERCPU_ARRAY(block_address, u64, 1);

struct ktop_block_slow {
    u64 time_ns, queue_ns, device_ns, total_ns, cgroup, sector;
    u32 dev, part, op, flags, bytes, pid;
    s32 error;
    u32 known;         /* 1: queue and device time, 2: the submitter */
    char comm[16];
};
_Static_assert(sizeof(struct ktop_block_slow) == KTOP_BLOCK_SLOW_SIZE, "block_layer.SLOW");
BPF_RINGBUF_OUTPUT(block_events, KTOP_BLOCK_RING_PAGES);

/* block_layer.COUNTERS */
enum ktop_block_counter {
    KTOP_BLOCK_LOST_EVENTS, KTOP_BLOCK_FULL, KTOP_BLOCK_UNOWNED, KTOP_BLOCK_N,
};
BPF_PERCPU_ARRAY(block_counters, u64, KTOP_BLOCK_N);

static __always_inline void block_count(u32 which)
{
    u64 *n = block_counters.lookup(&which);
    if (n)
        (*n)++;
}

/* The verifier does no arithmetic on kernel pointers: as a number it comes back out of a map. */
static __always_inline u64 block_number(struct request *rq)
{
    u32 zero = 0;
    u64 *address = block_address.lookup(&zero);
    if (!address)
        return 0;
    *(volatile u64 *)address = (u64)rq;
    return *(volatile u64 *)address;
}

static __always_inline struct ktop_block_slot *block_slot(u64 number)
{
    u32 at = (number >> 5) * 0x9E3779B97F4A7C15ull >> (64 - KTOP_BLOCK_SLOT_BITS);
    return block_slots.lookup(&at);
}

/* The cgroup whose page or bio this is, by the v2 hierarchy's io controller; 0 when not known. */
static __always_inline u64 block_charged(struct request *rq)
{
#if !defined(KTOP_CGROUP_V1) && defined(KTOP_HAS_bio_bi_blkg) && \
    defined(KTOP_HAS_blkcg_gq_blkcg) && defined(KTOP_HAS_blkcg_css)
    struct bio *bio = F(rq, bio);
    if (!bio)
        return 0;
    struct blkcg_gq *blkg = F(bio, bi_blkg);
    if (!blkg)
        return 0;
    struct blkcg *blkcg = F(blkg, blkcg);
    struct cgroup *cgrp = F(blkcg, css.cgroup);
    struct kernfs_node *node = F(cgrp, kn);
    return F(node, id);
#else
    return 0;
#endif
}

/* The submitter runs. Kernel threads write back what others dirtied: v2 knows whose it was. */
static __always_inline void block_own(struct request *rq, struct ktop_block_slot *s, u64 number)
{
    u64 charged;
#ifdef KTOP_TYPED
    struct task_struct *task = (void *)bpf_get_current_task_btf();
#else
    struct task_struct *task = (void *)bpf_get_current_task();
#endif
    s->rq = number;
    s->issue_ns = 0;
    s->bytes = 0;
    s->pid = F(task, tgid);
    charged = F(task, flags) & KTOP_PF_KTHREAD ? block_charged(rq) : 0;
    s->cgroup = charged ? charged : cgroup_of(task);
    bpf_get_current_comm(s->comm, sizeof(s->comm));
}

#ifdef KTOP_ARGS_block_io_start      /* 6.5, 5a80bd075f3b */
static __always_inline void block_started(struct request *rq)
{
    u64 number = block_number(rq);
    struct ktop_block_slot *s = block_slot(number);
    if (s)
        block_own(rq, s, number);
}

int block_start(u64 *ctx)
{
    block_started((void *)ctx[0]);
    return 0;
}

/* Only for queues that keep no statistics (no rq_qos): the others stamp their requests. */
static __always_inline void block_stamped(struct request *rq)
{
    u64 number = block_number(rq);
    struct ktop_block_slot *s = block_slot(number);
    if (s && s->rq == number)
        s->issue_ns = bpf_ktime_get_ns();
}

int block_stamp(u64 *ctx)
{
    block_stamped((void *)ctx[0]);
    return 0;
}
#else
#if KTOP_ARGS_block_rq_issue >= 2    /* (queue, request) until 5.11, a54895fa057c */
#define KTOP_BLOCK_RQ 1
#else
#define KTOP_BLOCK_RQ 0
#endif
/* Inserted, then issued, or issued at once: the first of the two is the submitter's. */
static __always_inline void block_moved(struct request *rq, u64 issue_ns)
{
    u64 number = block_number(rq), start = F(rq, start_time_ns);
    struct ktop_block_slot *s = block_slot(number);
    if (!s)
        return;
    if (s->rq != number || s->start_ns != start)
        block_own(rq, s, number);
    s->start_ns = start;
    s->issue_ns = issue_ns;
}

int block_queued(u64 *ctx)
{
    block_moved((void *)ctx[KTOP_BLOCK_RQ], 0);
    return 0;
}

int block_issued(u64 *ctx)
{
    block_moved((void *)ctx[KTOP_BLOCK_RQ], bpf_ktime_get_ns());
    return 0;
}
#endif

/* One request, as far as it is known. */
struct ktop_block_done {
    u64 now, queue_ns, device_ns, total_ns;
    u32 dev, part, op, bytes;
    bool stamped, divided;
};

static __always_inline void block_device_of(struct request *rq, struct ktop_block_done *d)
{
#ifdef KTOP_HAS_request_queue_disk   /* 5.15; before, the request has it */
    struct request_queue *q = F(rq, q);
    struct gendisk *disk = F(q, disk);
#else
    struct gendisk *disk = F(rq, rq_disk);
#endif
    if (!disk)
        return;
    d->dev = d->part = F(disk, major) << 20 | F(disk, first_minor);
#if defined(KTOP_HAS_request_queue_disk) && defined(KTOP_HAS_request_part)
    struct block_device *part = F(rq, part);
    if (part)
        d->part = F(part, bd_dev);
#endif
}

static __always_inline struct ktop_block_op *block_op(u32 dev, u32 op)
{
    struct ktop_block_key key = {.dev = dev, .op = op};
    struct ktop_block_op *o = block_ops.lookup(&key);
    u32 zero = 0;
    if (o)
        return o;
    struct ktop_block_op *blank = block_blank_op.lookup(&zero);
    if (blank)
        block_ops.insert(&key, blank);
    o = block_ops.lookup(&key);
    if (!o)
        block_count(KTOP_BLOCK_FULL);
    return o;
}

static __always_inline void block_note_longest(struct ktop_block_op *o, struct ktop_block_done *d)
{
    u32 zero = 0;
    u32 *tick = block_epoch.lookup(&zero);
    u64 epoch = tick ? *tick : 0;
    struct ktop_block_longest *l = &o->longest[epoch & 1];
    if (l->epoch != epoch) {
        l->epoch = epoch;
        l->queue_ns = l->device_ns = l->total_ns = 0;
    }
    if (d->total_ns > l->total_ns)
        l->total_ns = d->total_ns;
    if (!d->divided)
        return;
    if (d->queue_ns > l->queue_ns)
        l->queue_ns = d->queue_ns;
    if (d->device_ns > l->device_ns)
        l->device_ns = d->device_ns;
}

static __always_inline void block_bucket(u32 *hist, u64 ns)
{
    u32 slot = hist_slot(ns, KTOP_HIST_SLOTS);
    asm volatile("" : "+r"(slot));  /* or clang tests a copy and the verifier loses the bound */
    if (slot < KTOP_HIST_SLOTS)
        __sync_fetch_and_add(&hist[slot], 1);
}

static __always_inline void block_file(struct ktop_block_op *o, struct ktop_block_done *d)
{
    __sync_fetch_and_add(&o->requests, 1);
    if (!d->stamped) {
        __sync_fetch_and_add(&o->unstamped, 1);
        return;
    }
    __sync_fetch_and_add(&o->total_ns, d->total_ns);
    block_bucket(o->total, d->total_ns);
    block_note_longest(o, d);
    if (!d->divided) {
        __sync_fetch_and_add(&o->undivided, 1);
        return;
    }
    __sync_fetch_and_add(&o->queue_ns, d->queue_ns);
    __sync_fetch_and_add(&o->device_ns, d->device_ns);
    block_bucket(o->queue, d->queue_ns);
    block_bucket(o->device, d->device_ns);
}

static __always_inline void block_charge(struct ktop_block_slot *s, struct ktop_block_done *d,
                                         s32 error)
{
    struct ktop_block_who who = {.cgroup = s->cgroup, .pid = s->pid, .dev = d->dev};
    struct ktop_block_proc *p = block_procs.lookup(&who);
    u64 class = d->op;
    u32 zero = 0, slot;
    if (!p) {
        struct ktop_block_proc *blank = block_blank_proc.lookup(&zero);
        if (blank)
            block_procs.insert(&who, blank);
        p = block_procs.lookup(&who);
        if (!p)
            return;
        __builtin_memcpy(p->comm, s->comm, sizeof(p->comm));
        p->born_ns = d->now;
    }
    if (class == KTOP_OP_SYNC)
        class = 3;
    else if (class > 2)
        class = 2;
    asm volatile("" : "+r"(class));
    if (class > 3)
        return;
    if (error)
        __sync_fetch_and_add(&p->errors[class], 1);
    __sync_fetch_and_add(&p->requests[class], 1);
    __sync_fetch_and_add(&p->bytes[class], d->bytes);
    if (!d->stamped)
        return;
    __sync_fetch_and_add(&p->total_ns[class], d->total_ns);
    slot = hist_slot(d->total_ns, KTOP_TASK_HIST_SLOTS);
    slot += (class > 2 ? 2 : class) * KTOP_TASK_HIST_SLOTS;
    asm volatile("" : "+r"(slot));
    if (slot < 3 * KTOP_TASK_HIST_SLOTS)
        __sync_fetch_and_add(&p->hist[slot], 1);
}

static __always_inline void block_slow(struct request *rq, struct ktop_block_slot *s,
                                       struct ktop_block_done *d, s32 error)
{
    struct ktop_block_slow e = {};
    e.time_ns = d->now;
    e.queue_ns = d->queue_ns;
    e.device_ns = d->device_ns;
    e.total_ns = d->total_ns;
    e.sector = F(rq, __sector);
    e.dev = d->dev;
    e.part = d->part;
    e.op = d->op;
    e.flags = F(rq, cmd_flags);
    e.bytes = d->bytes;
    e.error = error;
    e.known = d->divided ? 1 : 0;
    if (s) {
        e.known |= 2;
        e.cgroup = s->cgroup;
        e.pid = s->pid;
        __builtin_memcpy(e.comm, s->comm, sizeof(e.comm));
    }
    if (block_events.ringbuf_output(&e, sizeof(e), BPF_RB_NO_WAKEUP))
        block_count(KTOP_BLOCK_LOST_EVENTS);
}

static __always_inline void block_times(struct request *rq, struct ktop_block_slot *s,
                                        struct ktop_block_done *d)
{
    u64 start = F(rq, start_time_ns), issued = F(rq, io_start_time_ns);
    if (!issued && s)
        issued = s->issue_ns;
    if (!start)
        return;
    d->stamped = true;
    d->total_ns = d->now > start ? d->now - start : 0;
    if (!issued)
        return;
    /* a time stamp may be the plug's, taken before (blk_time_get_ns, 6.9): no negative times */
    if (issued < start)
        issued = start;
    d->divided = true;
    d->queue_ns = issued - start;
    d->device_ns = d->now > issued ? d->now - issued : 0;
}

static __always_inline int block_completed(struct request *rq, s32 error, u32 bytes)
{
    struct ktop_block_done d = {.now = bpf_ktime_get_ns()};
    u32 flags = F(rq, cmd_flags), zero = 0;
    bool step = F(rq, rq_flags) & (1 << __RQF_FLUSH_SEQ);
    u64 number = block_number(rq);
    struct ktop_block_slot *s = block_slot(number);
    d.op = flags & 0xff;
    if (s && (s->rq != number || d.op >= KTOP_OP_DRIVER))
        s = NULL;
    d.bytes = bytes;
    block_device_of(rq, &d);
    bool more = bytes < F(rq, __data_len) || (step && d.op != KTOP_OP_FLUSH);
    if (s && !more)
        d.bytes += s->bytes;
    if (d.op == KTOP_OP_WRITE && !more && !d.bytes)  /* REQ_PREFLUSH is off by now */
        d.op = KTOP_OP_SYNC;
    struct ktop_block_op *o = block_op(d.dev, d.op);
    if (!o)
        return 0;
    if (bytes)
        __sync_fetch_and_add(&o->bytes, bytes);
    if (error)
        __sync_fetch_and_add(&o->errors, 1);
    if (more) {
        if (s)
            s->bytes += bytes;
        return 0;
    }
    block_times(rq, s, &d);
    block_file(o, &d);
    if (s)
        block_charge(s, &d, error);
    else if (d.op != KTOP_OP_FLUSH && d.op < KTOP_OP_DRIVER)
        block_count(KTOP_BLOCK_UNOWNED);
    u64 *threshold = block_slow_ns.lookup(&zero);
    if (error || (threshold && *threshold && d.stamped && d.total_ns >= *threshold - 1))
        block_slow(rq, s, &d, error);
    if (s)
        s->rq = 0;
    return 0;
}

int block_done(u64 *ctx)
{
    return block_completed((void *)ctx[0], (s32)ctx[1], (u32)ctx[2]);
}
