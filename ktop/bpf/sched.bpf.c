/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Scheduler layer: one hook at sched_switch keeps, for the host and for every thread, the run
 * queue latency histogram and the time off CPU by reason; a 99 Hz sample counts the queue.
 *
 * The wait comes from the kernel's own account (sched_info.run_delay, kernel/sched/stats.h), read
 * when the thread next leaves the CPU: the difference since last time is exactly the wait before
 * the time slice that now ends, parts spent on other run queues before a migration included. So
 * the sum of the histogram is the sum of run_delay, and no start-time hash is needed.
 */
struct ktop_cpu {
    u64 switches;
    u64 waits;                      /* time slices begun after a wait, however short */
    u64 wait_ns;                    /* sum of those waits */
    u64 hist[KTOP_HIST_SLOTS];
    u64 runqlen[KTOP_RUNQLEN_SLOTS];  /* samples in which nr_running was 0, 1, 2... */
};
BPF_PERCPU_ARRAY(cpus, struct ktop_cpu, 1);
BPF_ARRAY(epoch, u32, 1);           /* the collector's tick counter */
/* Longest wait by the parity of the tick: the collector reads and clears the one not in use. */
BPF_PERCPU_ARRAY(longest_wait, u64, 2);

static __always_inline void note_longest(u64 wait)
{
    u32 zero = 0, parity = 0;
    u32 *tick = epoch.lookup(&zero);
    if (tick)
        parity = *tick & 1;
    u64 *longest = longest_wait.lookup(&parity);
    if (longest && wait > *longest)
        *longest = wait;
}

/* What threads that have ended had waited, by cgroup: their own histograms are freed with them. */
struct ktop_dead_hist {
    u32 hist[KTOP_TASK_HIST_SLOTS];
};
BPF_TABLE("lru_hash", u64, struct ktop_dead_hist, dead_hists, 4096);
BPF_PERCPU_ARRAY(dead_blank, struct ktop_dead_hist, 1);

/* A thread leaves the CPU for the last time. */
static __always_inline void bury(struct task_struct *task, struct ktop_account *a)
{
    u32 zero = 0;
    u64 cgroup = cgroup_of(task);
    struct ktop_dead_hist *d = dead_hists.lookup(&cgroup);
    if (!d) {
        struct ktop_dead_hist *blank = dead_blank.lookup(&zero);
        if (blank)
            dead_hists.insert(&cgroup, blank);
        d = dead_hists.lookup(&cgroup);
        if (!d)
            return;
    }
    for (int i = 0; i < KTOP_TASK_HIST_SLOTS; i++) {
        u32 n = a->hist[i];
        if (n)
            __sync_fetch_and_add(&d->hist[i], n);
    }
}

/* The process that is looked at: what its ended threads did is kept, thread by thread, so that its
 * states sum to wall time also while threads come and go. [0] of slept_ns is run_delay. */
struct ktop_mourned {
    u64 start_boottime_ns;
    u64 slept_ns[KTOP_REASONS];
};
BPF_ARRAY(looked_at, u32, 1);
BPF_TABLE("lru_hash", u32, struct ktop_mourned, mourned, 1024);

static __always_inline void mourn(struct task_struct *task, struct ktop_account *a)
{
    u32 zero = 0, pid = F(task, pid);
    u32 *wanted = looked_at.lookup(&zero);
    struct ktop_mourned m = {};
    if (!wanted || !*wanted || *wanted != F(task, tgid))
        return;
    m.start_boottime_ns = F(task, start_boottime);
#pragma unroll
    for (int i = 1; i < KTOP_REASONS; i++)
        m.slept_ns[i] = a->slept_ns[i];
    m.slept_ns[0] = a->run_delay_ns;
    mourned.update(&pid, &m);
}

/* A thread leaves the CPU: the wait before its slice is final, its last absence can be split. */
static __always_inline void leave(struct task_struct *prev, struct ktop_cpu *cpu, bool preempted,
                                  u32 state, u64 now)
{
    struct ktop_account *a = account_of(prev, false);
    if (!a) {
        count(KTOP_N_UNTRACKED);
#ifdef KTOP_KERNEL_HEADERS  /* no iterator opens the accounts of older threads */
        a = account_of(prev, true);
        if (a)
            a->run_delay_ns = F(prev, sched_info.run_delay);
#endif
        return;
    }
    u64 delay = F(prev, sched_info.run_delay);
    u64 wait = delay - a->run_delay_ns;
    u64 slot = hist_slot(wait, KTOP_HIST_SLOTS);
    a->run_delay_ns = delay;
    a->hist[bounded(slot, KTOP_TASK_HIST_SLOTS)]++;
    a->dirty = 1;
    cpu->hist[slot]++;
    cpu->waits++;
    cpu->wait_ns += wait;
    if (slot)
        note_longest(wait);
    u32 reason = a->reason;
    if (reason < KTOP_REASONS && a->pend_ns > wait) {
        u64 slept = a->pend_ns - wait;
        u32 which = a->wait;
        a->slept_ns[reason] += slept;
        if (which < KTOP_WAITS)
            a->waited_ns[which] += slept;
    }
    if (state & KTOP_TASK_DEAD) {
        bury(prev, a);
        mourn(prev, a);
        return;
    }
    a->pend_ns = 0;
    a->off_ns = now;
    why_off_cpu(a, prev, preempted ? 0 : state);
}

static __always_inline int switched(bool preempted, struct task_struct *prev,
                                    struct task_struct *next, u32 state)
{
    u32 zero = 0;
    u64 now = bpf_ktime_get_ns();
    struct ktop_cpu *cpu = cpus.lookup(&zero);
    if (!cpu)
        return 0;
    cpu->switches++;
    if (F(prev, pid))
        leave(prev, cpu, preempted, state, now);
    if (F(next, pid)) {
        struct ktop_account *a = account_of(next, false);
        if (a && a->off_ns) {
            a->pend_ns = now - a->off_ns;
            a->off_ns = 0;
        }
    }
    return 0;
}

int sched_switch(u64 *ctx)
{
    struct task_struct *prev = (void *)ctx[1], *next = (void *)ctx[2];
#if KTOP_ARGS_sched_switch >= 4
    u32 state = ctx[3];  /* 5.18, 9c2136be0878: __state may have changed by a wakeup meanwhile */
#else
    u32 state = PR(prev, __state);
#endif
    return switched(ctx[0], prev, next, state);
}

/* Direct reclaim: a thread that needs memory frees some itself. What of it is waiting is in its
 * account as KTOP_W_MEMORY; these two find the rest, which is spent on a CPU. */
static __always_inline struct ktop_account *current_account(void)
{
#ifdef KTOP_TASK_STORAGE
    return account_of((struct task_struct *)bpf_get_current_task_btf(), false);
#else
    u32 pid = bpf_get_current_pid_tgid();
    return accounts.lookup(&pid);
#endif
}

/* All its time off CPU and in run queues, up to the last time it came back to a CPU. */
static __always_inline u64 off_cpu_ns(struct ktop_account *a)
{
    u64 sum = a->run_delay_ns + a->pend_ns;
#pragma unroll
    for (int i = 0; i < KTOP_REASONS; i++)
        sum += a->slept_ns[i];
    return sum;
}

static __always_inline int reclaim_begins(void)
{
    struct ktop_account *a = current_account();
    if (a && !a->reclaim_ns) {
        a->reclaim_ns = bpf_ktime_get_ns();
        a->reclaim_off_ns = off_cpu_ns(a);
    }
    return 0;
}

static __always_inline int reclaim_ends(void)
{
    struct ktop_account *a = current_account();
    if (!a || !a->reclaim_ns)
        return 0;
    u64 wall = bpf_ktime_get_ns() - a->reclaim_ns, off = off_cpu_ns(a) - a->reclaim_off_ns;
    a->reclaim_ns = 0;
    if (wall > off)
        a->waited_ns[KTOP_W_RECLAIM] += wall - off;
    return 0;
}

int reclaim_enter(void *ctx) { return reclaim_begins(); }
int reclaim_leave(void *ctx) { return reclaim_ends(); }
int reclaim_group_enter(void *ctx) { return reclaim_begins(); }
int reclaim_group_leave(void *ctx) { return reclaim_ends(); }

#ifdef KTOP_HAS_rq_nr_running  /* struct rq is in no installed header */
/* Run queue length as runqlen(8) samples it: nr_running of this CPU, the running thread included. */
static __always_inline int sample_runqlen(void)
{
    u32 zero = 0;
    struct ktop_cpu *cpu = cpus.lookup(&zero);
    struct task_struct *task = (void *)bpf_get_current_task();
    struct cfs_rq *cfs = PR(task, se.cfs_rq);
    struct rq *rq = PR(cfs, rq);
    u32 n = PR(rq, nr_running);
    if (!cpu)
        return 0;
    cpu->runqlen[bounded(n, KTOP_RUNQLEN_SLOTS)]++;
    return 0;
}

int runqlen(void *ctx)
{
    return sample_runqlen();
}
#endif
