/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Processes layer: every thread's state and counters by one iterator read, and the life of
 * processes (fork, exec, failed exec, exit) as events. */
BPF_RINGBUF_OUTPUT(events, KTOP_RING_PAGES);  /* read by ktop/bpf/ringbuf.py, without wake-ups */

/* Events: executions and exits, in order, with counters that know of those that did not fit. */
struct ktop_event {
    u32 kind, pid, ppid, uid;
    u64 time_ns;               /* CLOCK_MONOTONIC */
    u64 start_boottime_ns;     /* CLOCK_BOOTTIME at which the process was forked */
    u64 cgroup;
    s32 code;                  /* exec: 0 or -errno; exit: as wait(2) gives it */
    u32 args_len;              /* of the whole command line; what follows may be cut */
    u64 cpu_ns, run_delay_ns, lifetime_ns;
    char comm[16], parent_comm[16];
    char filename[KTOP_FILENAME_MAX];
};
_Static_assert(sizeof(struct ktop_event) == KTOP_EVENT_SIZE, "layout.EVENT");

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
    u64 dead_cpu_ns, dead_utime_ns, dead_stime_ns, dead_voluntary, dead_involuntary;
    u64 dead_major_faults;
};
_Static_assert(sizeof(struct ktop_task) == KTOP_TASK_SIZE, "layout.TASK");

/* Written after a thread's record when its histogram has changed since the last read. */
struct ktop_task_hist {
    u32 tag, pid;
    u32 hist[KTOP_TASK_HIST_SLOTS];
};
_Static_assert(sizeof(struct ktop_task_hist) == KTOP_RECORD_SIZE, "layout.RECORD_SIZE");

union ktop_record {
    struct ktop_task task;
    struct ktop_task_hist hist;
};
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
}

static __always_inline void fill_thread(struct ktop_task *r, struct task_struct *task)
{
    struct task_struct *parent = F(task, real_parent);
    const struct cred *cred = F(task, cred);
    u64 queued = F(task, sched_info.last_queued);
    r->tag = 1;
    r->pid = F(task, pid);
    r->tgid = F(task, tgid);
    r->ppid = F(parent, tgid);
    r->uid = F(cred, euid);
    r->state = (u32)F(task, __state) | (u32)F(task, exit_state);
    r->flags = F(task, flags) & KTOP_PF_KTHREAD ? 1 : 0;
#ifdef KTOP_TYPED
    r->flags |= task->in_iowait ? 2 : 0;
#endif
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
    /* A wait that has not ended is in no counter yet: the run queue's own clock measures it. */
    if (queued) {
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
    a->syscall = syscall_of(task);
    if (F(task, on_cpu))
        return;
    a->reason = r->state ? off_cpu_reason(task, r->state, a->syscall) : KTOP_RUNNABLE;
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
    bpf_seq_write(seq, r, sizeof(*r));
    return 0;
}

int tasks(struct bpf_iter__task *ctx)
{
    struct task_struct *task = ctx->task;
    if (!task)
        return 0;
    return one_task(ctx->meta->seq, task);
}

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

/* One event under construction: header, then the command line as NUL-separated bytes. */
struct ktop_event_buffer {
    struct ktop_event e;
    char args[KTOP_ARGS_MAX];
};
BPF_PERCPU_ARRAY(event_buffer, struct ktop_event_buffer, 1);

static __always_inline void fill_event(struct ktop_event *e, struct task_struct *task, u32 kind)
{
    struct task_struct *parent = F(task, real_parent);
    const struct cred *cred = F(task, cred);
    __builtin_memset(e, 0, sizeof(*e));
    e->kind = kind;
    e->pid = F(task, tgid);
    e->ppid = F(parent, tgid);
    e->uid = F(cred, euid);
    e->time_ns = bpf_ktime_get_ns();
    e->start_boottime_ns = F(task, start_boottime);
    e->cgroup = cgroup_of(task);
    bpf_probe_read_kernel(e->comm, sizeof(e->comm), task->comm);
    bpf_probe_read_kernel(e->parent_comm, sizeof(e->parent_comm), parent->comm);
}

static __always_inline void send(struct ktop_event_buffer *b, u32 args)
{
    asm volatile("" : "+r"(args));  /* or clang tests a copy and the verifier loses the bound */
    if (args > KTOP_ARGS_MAX)
        return;
    if (events.ringbuf_output(b, sizeof(b->e) + args, BPF_RB_NO_WAKEUP))
        count(KTOP_N_LOST_EVENTS);
}

static __always_inline int executed(struct task_struct *task, struct linux_binprm *bprm)
{
    u32 zero = 0;
    struct ktop_event_buffer *b = event_buffer.lookup(&zero);
    count(KTOP_N_EXECS);
    if (!b)
        return 0;
    fill_event(&b->e, task, 1);
    struct mm_struct *mm = F(task, mm);
    u64 start = F(mm, arg_start), end = F(mm, arg_end);
    u32 len = end > start ? end - start : 0;
    b->e.args_len = len;
    if (len > KTOP_ARGS_MAX)
        len = KTOP_ARGS_MAX;
    asm volatile("" : "+r"(len));
    len &= 2 * KTOP_ARGS_MAX - 1;
    if (len > KTOP_ARGS_MAX || bpf_probe_read_user(b->args, len, (void *)start))
        len = b->e.args_len = 0;
    bpf_probe_read_kernel_str(b->e.filename, sizeof(b->e.filename), (void *)F(bprm, filename));
    send(b, len);
    return 0;
}

int process_exec(u64 *ctx)
{
    return executed((void *)ctx[0], (void *)ctx[2]);
}

#if defined(KTOP_TYPED) && defined(KTOP_HAS_pt_regs_di)
/* argv of an exec that failed: the old program still stands, and so do the registers. */
static __always_inline u32 read_argv(struct ktop_event_buffer *b, u64 argv)
{
    u32 used = 0;
    for (int i = 0; i < 32; i++) {
        u64 arg = 0;
        if (bpf_probe_read_user(&arg, sizeof(arg), (void *)(argv + i * 8)) || !arg)
            break;
        if (used > KTOP_ARGS_MAX - 256)
            break;
        long n = bpf_probe_read_user_str(b->args + used, 256, (void *)arg);
        if (n <= 0)
            break;
        used += n & 0x1ff;
    }
    return used;
}

static __always_inline int exec_failed_in(struct task_struct *task, long ret, bool at)
{
    u32 zero = 0;
    struct ktop_event_buffer *b = event_buffer.lookup(&zero);
    count(KTOP_N_EXECS_FAILED);
    if (!b)
        return 0;
    struct pt_regs *regs = (struct pt_regs *)bpf_task_pt_regs(task);
    u64 path = at ? regs->si : regs->di, argv = at ? regs->dx : regs->si;
    fill_event(&b->e, task, 2);
    b->e.code = ret;
    bpf_probe_read_user_str(b->e.filename, sizeof(b->e.filename), (void *)path);
    u32 len = read_argv(b, argv);
    b->e.args_len = len;
    send(b, len);
    return 0;
}

/* The common part of every tracefs syscalls/sys_exit_* record. */
struct ktop_sys_exit { u64 common; s64 nr; s64 ret; };

int exec_failed(struct ktop_sys_exit *ctx)
{
    long ret = ctx->ret;
    return ret < 0 ? exec_failed_in((void *)bpf_get_current_task_btf(), ret, false) : 0;
}

int execat_failed(struct ktop_sys_exit *ctx)
{
    long ret = ctx->ret;
    return ret < 0 ? exec_failed_in((void *)bpf_get_current_task_btf(), ret, true) : 0;
}
#endif

static __always_inline int ended(struct task_struct *task)
{
    u32 zero = 0;
    struct signal_struct *sig = F(task, signal);
    if (F(sig, live))  /* other threads of the process go on */
        return 0;
    count(KTOP_N_EXITS);
    struct ktop_event_buffer *b = event_buffer.lookup(&zero);
    if (!b)
        return 0;
    fill_event(&b->e, task, 3);
    b->e.code = F(sig, flags) & KTOP_SIGNAL_GROUP_EXIT ? F(sig, group_exit_code)
                                                       : F(task, exit_code);
    b->e.cpu_ns = F(sig, sum_sched_runtime) + F(task, se.sum_exec_runtime);
    b->e.run_delay_ns = F(task, sched_info.run_delay);
    b->e.lifetime_ns = bpf_ktime_get_boot_ns() - b->e.start_boottime_ns;
    send(b, 0);
    return 0;
}

int process_exit(u64 *ctx)
{
    return ended((void *)ctx[0]);
}
