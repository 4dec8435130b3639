/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Processes layer: every thread's state, counters and account by one iterator read. The life of
 * processes as events is in lifecycle.bpf.c. */
#ifndef KTOP_KERNEL_HEADERS  /* without BTF there are no iterators */
struct ktop_task {
    u32 tag, pid, tgid, ppid, uid, state, flags;
    s32 cpu;
    u32 reason;
    s32 syscall;
    u32 threads, forks;
    char comm[16];
    u64 start_boottime_ns, cgroup, cpu_ns, run_delay_ns, utime_ns, stime_ns;
    u64 voluntary, involuntary, major_faults, read_bytes, write_bytes, migrations;
    s64 rss_pages;
    u64 waiting_ns, off_ns, pend_ns, seen_delay_ns, slept_ns[KTOP_REASONS];
    u64 wait, waited_ns[KTOP_WAITS];
    u64 dead_cpu_ns, dead_utime_ns, dead_stime_ns, dead_voluntary, dead_involuntary;
    u64 dead_major_faults;
};
_Static_assert(sizeof(struct ktop_task) == KTOP_TASK_SIZE, "layout.TASK");

/* Written after a thread's record when its histogram has changed since the last read. */
struct ktop_task_hist {
    u32 tag, pid;
    u32 hist[KTOP_TASK_HIST_SLOTS];
};

union ktop_record {
    struct ktop_task task;
    struct ktop_task_hist hist;
};
_Static_assert(sizeof(union ktop_record) == KTOP_RECORD_SIZE, "layout.RECORD_SIZE");
BPF_PERCPU_ARRAY(record, union ktop_record, 1);

static __always_inline s64 rss_pages(struct mm_struct *mm)
{
    s64 pages;
#ifdef KTOP_HAS_mm_rss_stat_count            /* until 6.2, f1a7941243c1 */
    pages = PR(mm, rss_stat.count[0]) + PR(mm, rss_stat.count[1]) + PR(mm, rss_stat.count[3]);
#else
    pages = PR(mm, rss_stat[0].count) + PR(mm, rss_stat[1].count) + PR(mm, rss_stat[3].count);
#endif
    return pages > 0 ? pages : 0;
}

static __always_inline void fill_leader(struct ktop_task *r, struct task_struct *task)
{
    struct signal_struct *sig = F(task, signal);
    struct mm_struct *mm = F(task, mm);
    r->threads = F(sig, nr_threads);
    r->rss_pages = mm ? rss_pages(mm) : 0;
    r->dead_cpu_ns = F(sig, sum_sched_runtime);
    r->dead_utime_ns = F(sig, utime);
    r->dead_stime_ns = F(sig, stime);
    r->dead_voluntary = F(sig, nvcsw);
    r->dead_involuntary = F(sig, nivcsw);
    r->dead_major_faults = F(sig, maj_flt);
    /* Not signal->ioac: wait(2) adds the children's I/O to it (kernel/exit.c). */
}

static __always_inline void fill_account(struct ktop_task *r, struct ktop_account *a)
{
    r->flags |= 4;
    r->reason = a->reason;
    r->syscall = a->syscall;
    r->forks = a->forks;
    r->off_ns = a->off_ns;
    r->pend_ns = a->pend_ns;
    r->seen_delay_ns = a->run_delay_ns;
#pragma unroll
    for (int i = 0; i < KTOP_REASONS; i++)
        r->slept_ns[i] = a->slept_ns[i];
    r->wait = a->wait;
#pragma unroll
    for (int i = 0; i < KTOP_WAITS; i++)
        r->waited_ns[i] = a->waited_ns[i];
}

static __always_inline void fill_thread(struct ktop_task *r, struct task_struct *task)
{
    struct task_struct *parent = F(task, real_parent);
    struct cred *cred = (struct cred *)F(task, cred);
    u64 queued = F(task, sched_info.last_queued);
    r->tag = 1;
    r->pid = F(task, pid);
    r->tgid = F(task, tgid);
    r->ppid = F(parent, tgid);
    r->uid = VALUE(cred, euid, val);
    r->state = (u32)F(task, __state) | (u32)F(task, exit_state);
    r->flags = F(task, flags) & KTOP_PF_KTHREAD ? 1 : 0;
    r->flags |= BITS(task_struct, task, in_iowait) ? 2 : 0;
    bpf_probe_read_kernel(r->comm, sizeof(r->comm), task->comm);
    r->start_boottime_ns = F(task, start_boottime);
    r->cgroup = cgroup_of(task);
    r->cpu_ns = F(task, se.sum_exec_runtime);
    r->run_delay_ns = F(task, sched_info.run_delay);
    r->utime_ns = F(task, utime);
    r->stime_ns = F(task, stime);
    r->voluntary = F(task, nvcsw);
    r->involuntary = F(task, nivcsw);
    r->major_faults = F(task, maj_flt);
    r->migrations = F(task, se.nr_migrations);
#ifdef KTOP_HAS_task_struct_ioac
    r->read_bytes = F(task, ioac.read_bytes);
    r->write_bytes = F(task, ioac.write_bytes);
#endif
#ifdef KTOP_HAS_thread_info_cpu
    r->cpu = F(task, thread_info.cpu);
#else
    r->cpu = -1;
#endif
    /* A wait that has not ended is in no counter yet: the run queue's own clock measures it. Only
     * of what can run: sleepers were seen with last_queued set (6.18, rarely; it looks as if a
     * delayed dequeue and a migration together leave it behind). */
    if (queued && !r->state) {
        struct cfs_rq *cfs = F(task, se.cfs_rq);
        struct rq *rq = F(cfs, rq);
        u64 clock = F(rq, clock);
        r->waiting_ns = clock > queued ? clock - queued : 0;
    }
}

/* A thread older than ktop: what it has waited so far is not ours, what it is doing now is. */
static __always_inline void open_account(struct ktop_task *r, struct task_struct *task)
{
    struct ktop_account *a = account_of(task, true);
    if (!a)
        return;
    a->run_delay_ns = r->run_delay_ns;
    a->syscall = syscall_in(regs_of(task));
    if (F(task, on_cpu))
        return;
    why_off_cpu(a, task, r->state);
    a->off_ns = bpf_ktime_get_ns();
    fill_account(r, a);
}

static __always_inline int one_task(struct seq_file *seq, struct task_struct *task)
{
    u32 zero = 0;
    union ktop_record *r = record.lookup(&zero);
    if (!r)
        return 0;
    __builtin_memset(&r->task, 0, sizeof(r->task));
    fill_thread(&r->task, task);
    if (r->task.pid == r->task.tgid)
        fill_leader(&r->task, task);
    struct ktop_account *a = account_of(task, false);
    if (a) {
        fill_account(&r->task, a);
    } else {
        open_account(&r->task, task);
        a = NULL;
    }
    bpf_seq_write(seq, r, sizeof(*r));
    if (!a || !a->dirty)
        return 0;
    u32 pid = r->task.pid;
    a->dirty = 0;
    r->hist.tag = 2;
    r->hist.pid = pid;
    bpf_probe_read_kernel(r->hist.hist, sizeof(r->hist.hist), a->hist);
    if (bpf_seq_write(seq, r, sizeof(*r)))
        a->dirty = 1;  /* the buffer is full: the thread comes again in the next read(2) */
    return 0;
}

int tasks(struct bpf_iter__task *ctx)
{
    struct task_struct *task = ctx->task;
    if (!task)
        return 0;
    return one_task(ctx->meta->seq, task);
}
#endif

/* Fork: the child's account is made here, where no run queue lock is held. */
static __always_inline int forked(struct task_struct *parent, struct task_struct *child)
{
    account_of(child, true);
    if (F(child, pid) != F(child, tgid))
        return 0;  /* a thread */
    count(KTOP_N_FORKS);
    struct ktop_account *a = account_of(parent, false);
    if (a)
        a->forks++;
    return 0;
}

int process_fork(u64 *ctx)
{
    return forked((void *)ctx[0], (void *)ctx[1]);
}
