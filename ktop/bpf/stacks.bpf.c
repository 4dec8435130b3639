/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Call stacks of a target, on request: sampled on the CPU, and timed while blocked.
 *
 * Stacks are kept under a 64-bit hash of their own instead of in a stack map: there two stacks that
 * fall into one bucket push each other out (-EEXIST), which at 1,000 stacks loses several of a
 * hundred; here none is lost until the table is full, and then it is counted.
 *
 * Blocked time is from the switch away to the wakeup. No wakeup hook is needed: the wait for a CPU
 * after it is sched_info.run_delay, final when the thread next leaves the CPU (sched.bpf.c).
 */

/* @kernel
 * task_struct: __state|state sched_info exit_state? on_cpu?
 * sched_info: run_delay
 * bpf_iter__task: meta task
 * tracepoint sched_switch
 */

#define KTOP_STACK_DEAD 0x80      /* TASK_DEAD */
#define KTOP_STACK_NEW 0x800      /* TASK_NEW */
#define KTOP_STACK_IDLE 0x400     /* TASK_NOLOAD: a kernel thread that waits for work (4.2) */

enum { KTOP_STACK_CPU, KTOP_STACK_OFF };
/* Stacks without a hash: there is none, it did not fit, the thread slept before we looked. */
enum { KTOP_STACK_NONE, KTOP_STACK_LOST, KTOP_STACK_UNSEEN, KTOP_STACK_FIRST };
/* stacks_layer.CONFIG_* */
enum { KTOP_STACKS_PIDS = 1, KTOP_STACKS_CGROUPS = 2, KTOP_STACKS_CHILDREN = 4 };

/* The target. only: its one process, for an early way out; 0 where it is more than that. */
struct ktop_stacks_config {
    u32 flags, only;
};

struct ktop_stack {
    u64 n;
    u64 ip[KTOP_STACK_DEPTH];   /* innermost first */
};
_Static_assert(sizeof(struct ktop_stack) == KTOP_STACK_SIZE, "stacks_layer.STACK");

struct ktop_stack_key {
    u64 kernel, user;           /* hashes */
    u32 tgid;
    u32 kind_state;             /* kind, task state << 8 */
    char comm[16];
};
_Static_assert(sizeof(struct ktop_stack_key) == KTOP_STACK_KEY_SIZE, "stacks_layer.KEY");

struct ktop_stack_sum {
    u64 samples, ns;
};

/* A thread that is off the CPU (off_ns), or back on it with the absence not yet split (pend_ns). */
struct ktop_absence {
    u64 off_ns, pend_ns, run_delay_ns;
    struct ktop_stack_key key;
};
_Static_assert(sizeof(struct ktop_absence) == KTOP_STACK_ABSENCE_SIZE, "stacks_layer.ABSENCE");

BPF_ARRAY(stacks_config, struct ktop_stacks_config, 1);
BPF_TABLE("hash", u32, u8, stacks_pids, KTOP_STACK_TARGETS);
BPF_TABLE("hash", u64, u8, stacks_cgroups, KTOP_STACK_TARGETS);
BPF_TABLE("hash", u64, struct ktop_stack, stacks_traces, KTOP_STACK_TRACES);
BPF_TABLE("hash", struct ktop_stack_key, struct ktop_stack_sum, stacks_sums, KTOP_STACK_SUMS);
BPF_TABLE("hash", u32, struct ktop_absence, stacks_threads, KTOP_STACK_THREADS);
BPF_PERCPU_ARRAY(stacks_scratch, struct ktop_stack, 2);  /* a sample may interrupt a switch */

/* stacks_layer.COUNTERS */
enum ktop_stack_counter {
    KTOP_STACK_N_TRACES, KTOP_STACK_N_SUMS, KTOP_STACK_N_THREADS, KTOP_STACK_N_COUNTERS,
};
BPF_PERCPU_ARRAY(stacks_counters, u64, KTOP_STACK_N_COUNTERS);

static __always_inline void stacks_count(u32 which)
{
    u64 *n = stacks_counters.lookup(&which);
    if (n)
        (*n)++;
}

/* Whether a process may be of the target, before anything dear is looked at. */
static __always_inline bool stacks_may(struct ktop_stacks_config *c, u32 tgid)
{
    return !c->only || c->only == tgid;
}

/* Whether it is: by process, or by control group; neither given: everything but the idle tasks. */
static __always_inline bool stacks_by_pid(struct ktop_stacks_config *c, u32 tgid)
{
    return !(c->flags & (KTOP_STACKS_PIDS | KTOP_STACKS_CGROUPS)) || c->only == tgid ||
           (c->flags & KTOP_STACKS_PIDS && stacks_pids.lookup(&tgid));
}

static __always_inline bool stacks_by_cgroup(u64 cgroup)
{
    return stacks_cgroups.lookup(&cgroup);
}

/* The control group is only looked up when it decides. */
#define stacks_wanted(c, tgid, cgroup) (stacks_by_pid(c, tgid) || \
    ((c)->flags & KTOP_STACKS_CGROUPS && stacks_by_cgroup(cgroup)))

/* Where a stack is kept that the helper has left in the scratch: the rest of it is zero. */
static __always_inline u64 stacks_keep(struct ktop_stack *s, s64 bytes)
{
    u64 hash = 0x9E3779B97F4A7C15ULL;
    if (bytes < 8)
        return KTOP_STACK_NONE;
    s->n = bytes / 8;
    for (u32 i = 0; i < KTOP_STACK_DEPTH; i++) {
        u64 ip = s->ip[i];
        if (!ip)
            break;
        hash = (hash ^ ip) * 0xBF58476D1CE4E5B9ULL;
        hash ^= hash >> 31;
    }
    if (hash < KTOP_STACK_FIRST)
        hash += KTOP_STACK_FIRST;
    if (stacks_traces.lookup(&hash))
        return hash;
    if (stacks_traces.update(&hash, s)) {
        stacks_count(KTOP_STACK_N_TRACES);
        return KTOP_STACK_LOST;
    }
    return hash;
}

static __always_inline void stacks_add(struct ktop_stack_key *key, u64 ns)
{
    struct ktop_stack_sum blank = {}, *sum = stacks_sums.lookup(key);
    if (!sum) {
        stacks_sums.insert(key, &blank);
        sum = stacks_sums.lookup(key);
    }
    if (!sum) {
        stacks_count(KTOP_STACK_N_SUMS);
        return;
    }
    __sync_fetch_and_add(&sum->samples, 1);
    if (ns)  /* clang makes something else of adding 0, which 5.10 does not know */
        __sync_fetch_and_add(&sum->ns, ns);
}

/* -- on the CPU -------------------------------------------------------------------------------- */

static __always_inline int stacks_sample(void *ctx)
{
    u64 both = bpf_get_current_pid_tgid();
    u32 zero = 0, one = 1;
    struct ktop_stacks_config *c = stacks_config.lookup(&zero);
    if (!c || !(u32)both || !stacks_may(c, both >> 32))
        return 0;
    if (!stacks_wanted(c, both >> 32, cgroup_by_helper((void *)bpf_get_current_task())))
        return 0;
    struct ktop_stack *s = stacks_scratch.lookup(&one);
    if (!s)
        return 0;
    struct ktop_stack_key key = {.tgid = both >> 32, .kind_state = KTOP_STACK_CPU};
    bpf_get_current_comm(key.comm, sizeof(key.comm));
    key.kernel = stacks_keep(s, bpf_get_stack(ctx, s->ip, sizeof(s->ip), 0));
    key.user = stacks_keep(s, bpf_get_stack(ctx, s->ip, sizeof(s->ip), BPF_F_USER_STACK));
    stacks_add(&key, 0);
    return 0;
}

int stacks_profile(void *ctx)
{
    return stacks_sample(ctx);
}

/* -- blocked ----------------------------------------------------------------------------------- */

/* `prev`, still the current task, leaves the CPU. */
static __always_inline void stacks_leave(void *ctx, struct task_struct *prev, bool preempted,
                                         u32 state, struct ktop_stacks_config *c)
{
    u32 tid = F(prev, pid), tgid = F(prev, tgid), zero = 0;
    if (!tid || !stacks_may(c, tgid) || !stacks_wanted(c, tgid, cgroup_of(prev)))
        return;
    struct ktop_absence *a = stacks_threads.lookup(&tid);
    u64 delay = F(prev, sched_info.run_delay);
    if (a && a->pend_ns) {
        u64 wait = delay - a->run_delay_ns;
        stacks_add(&a->key, a->pend_ns > wait ? a->pend_ns - wait : 0);
        a->pend_ns = 0;
    }
    if (a)
        a->off_ns = 0;
    if (preempted || !state || state & KTOP_STACK_IDLE)
        return;  /* it can run and only waits for a CPU, or has nothing to do: not blocked */
    if (state & KTOP_STACK_DEAD) {
        stacks_threads.delete(&tid);
        return;
    }
    struct ktop_stack *s = stacks_scratch.lookup(&zero);
    if (!s)
        return;
    struct ktop_absence out = {.off_ns = bpf_ktime_get_ns(), .run_delay_ns = delay};
    out.key.tgid = tgid;
    out.key.kind_state = KTOP_STACK_OFF | state << 8;
    bpf_get_current_comm(out.key.comm, sizeof(out.key.comm));
    out.key.kernel = stacks_keep(s, bpf_get_stack(ctx, s->ip, sizeof(s->ip), 0));
    out.key.user = stacks_keep(s, bpf_get_stack(ctx, s->ip, sizeof(s->ip), BPF_F_USER_STACK));
    if (a)
        *a = out;
    else if (stacks_threads.update(&tid, &out))
        stacks_count(KTOP_STACK_N_THREADS);
}

static __always_inline int stacks_switched(void *ctx, bool preempted, struct task_struct *prev,
                                           struct task_struct *next, u32 state)
{
    u32 zero = 0, next_tid = F(next, pid);
    struct ktop_stacks_config *c = stacks_config.lookup(&zero);
    if (!c)
        return 0;
    stacks_leave(ctx, prev, preempted, state, c);
    if (!next_tid || !stacks_may(c, F(next, tgid)))
        return 0;
    struct ktop_absence *a = stacks_threads.lookup(&next_tid);
    if (a && a->off_ns) {
        u64 now = bpf_ktime_get_ns();
        a->pend_ns = now > a->off_ns ? now - a->off_ns : 0;
        a->off_ns = 0;
    }
    return 0;
}

int stacks_switch(u64 *ctx)
{
    struct task_struct *prev = (void *)ctx[1], *next = (void *)ctx[2];
#if KTOP_ARGS_sched_switch >= 4
    u32 state = ctx[3];  /* 5.18, 9c2136be0878: __state may have changed by a wakeup meanwhile */
#else
    u32 state = PR(prev, __state);
#endif
    return stacks_switched(ctx, ctx[0], prev, next, state);
}

/* With all that descend from the target's processes: those born later, too. */
static __always_inline int stacks_forked(struct task_struct *parent, struct task_struct *child)
{
    u32 from = F(parent, tgid), to = F(child, tgid), zero = 0;
    struct ktop_stacks_config *c = stacks_config.lookup(&zero);
    u8 one = 1;
    if (c && from != to && c->flags & KTOP_STACKS_CHILDREN && stacks_pids.lookup(&from))
        stacks_pids.update(&to, &one);
    return 0;
}

int stacks_fork(u64 *ctx)
{
    return stacks_forked((void *)ctx[0], (void *)ctx[1]);
}

/* Threads that were blocked before anybody looked: their kernel stack, once, at the start. */
#ifdef KTOP_TYPED
static __always_inline int stacks_asleep(struct task_struct *task)
{
    u32 tid = task->pid, zero = 0, state = task->__state;
    if (!tid || !state || state & (KTOP_STACK_DEAD | KTOP_STACK_NEW | KTOP_STACK_IDLE))
        return 0;
#ifdef KTOP_HAS_task_struct_on_cpu
    if (task->on_cpu)
        return 0;  /* about to sleep, or to give it up: the switch will tell */
#endif
#ifdef KTOP_HAS_task_struct_exit_state
    if (task->exit_state)
        return 0;
#endif
    struct ktop_stacks_config *c = stacks_config.lookup(&zero);
    if (!c || !stacks_may(c, task->tgid) || !stacks_wanted(c, task->tgid, cgroup_of(task)))
        return 0;
    if (stacks_threads.lookup(&tid))
        return 0;
    struct ktop_stack *s = stacks_scratch.lookup(&zero);
    if (!s)
        return 0;
    struct ktop_absence out = {.off_ns = bpf_ktime_get_ns()};
    out.run_delay_ns = task->sched_info.run_delay;
    out.key.tgid = task->tgid;
    out.key.kind_state = KTOP_STACK_OFF | state << 8;
    out.key.user = task->flags & KTOP_PF_KTHREAD ? KTOP_STACK_NONE : KTOP_STACK_UNSEEN;
    bpf_probe_read_kernel(out.key.comm, sizeof(out.key.comm), task->comm);
    out.key.kernel = stacks_keep(s, bpf_get_task_stack(task, s->ip, sizeof(s->ip), 0));
    if (stacks_threads.insert(&tid, &out))
        stacks_count(KTOP_STACK_N_THREADS);
    return 0;
}

int stacks_blocked(struct bpf_iter__task *ctx)
{
    struct task_struct *task = ctx->task;
    return task ? stacks_asleep(task) : 0;
}
#endif
