/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The account of each thread, kept by the scheduler layer and read by the processes layer; the
 * counters of both. */

/* @kernel
 * task_struct: __state|state signal cred mm
 * task_struct: start_boottime|real_start_time se sched_info in_iowait
 * task_struct: utime stime nvcsw nivcsw maj_flt ioac? thread_info? on_cpu exit_state
 * thread_info: cpu?
 * sched_info: run_delay pcount last_queued
 * sched_entity: sum_exec_runtime nr_migrations cfs_rq
 * cfs_rq: rq?
 * rq: nr_running clock
 * task_io_accounting: read_bytes write_bytes
 * signal_struct: nr_threads utime stime sum_sched_runtime nvcsw nivcsw
 * signal_struct: maj_flt
 * cred: euid
 * mm_struct: rss_stat
 * mm_rss_stat: count?
 * percpu_counter: count?
 * bpf_iter__task: meta task
 * tracepoint sched_switch sched_process_fork
 */

#define KTOP_TASK_DEAD 0x80

/* layout.REASONS */
enum ktop_reason {
    KTOP_RUNNABLE, KTOP_DISK, KTOP_UNINTERRUPTIBLE, KTOP_IO, KTOP_NETWORK, KTOP_LOCK,
    KTOP_SLEEP, KTOP_STOPPED, KTOP_OTHER,
};

/* The account of one thread; lives and dies with it in task storage. */
struct ktop_account {
    u64 off_ns;        /* CLOCK_MONOTONIC when it last left a CPU; 0 while it is on one */
    u64 pend_ns;       /* length of its last time off CPU, not yet split into sleep and queue */
    u64 run_delay_ns;  /* sched_info.run_delay that the histogram already holds */
    u64 slept_ns[KTOP_REASONS];
    u32 reason;        /* why it left, enum ktop_reason */
    s32 syscall;       /* the syscall it left in, -1 outside one */
    u32 forks;         /* processes it has created */
    u32 dirty;         /* the histogram has changed since the iterator last wrote it out */
    u32 hist[KTOP_TASK_HIST_SLOTS];
};

#ifdef KTOP_TASK_STORAGE
BPF_TASK_STORAGE(accounts, struct ktop_account);
#else
/* Before 5.12 tracing programs have no task storage: least recently used threads are forgotten. */
BPF_TABLE("lru_hash", u32, struct ktop_account, accounts, 32768);
BPF_PERCPU_ARRAY(blank_account, struct ktop_account, 1);
#endif

BPF_ARRAY(syscall_reason, u8, 1024);  /* syscall number -> enum ktop_reason */

/* The syscall a thread is in; -1 in a page fault or a kernel thread. */
static __always_inline s32 syscall_of(struct task_struct *task)
{
#if defined(KTOP_TYPED) && defined(KTOP_HAS_pt_regs_orig_ax)
    struct pt_regs *regs = (struct pt_regs *)bpf_task_pt_regs(task);
    return regs->orig_ax;
#else
    return -1;
#endif
}

static __always_inline u32 off_cpu_reason(struct task_struct *task, u32 state, s32 nr)
{
    u32 key = nr;
    if (state & 4 || state & 8)          /* TASK_STOPPED, TASK_TRACED */
        return KTOP_STOPPED;
    if (state & 2 && !(state & 0x400)) { /* TASK_UNINTERRUPTIBLE, not TASK_NOLOAD (idle kthread) */
#ifdef KTOP_TYPED
        return task->in_iowait ? KTOP_DISK : KTOP_UNINTERRUPTIBLE;
#else
        return KTOP_UNINTERRUPTIBLE;
#endif
    }
    if (F(task, flags) & KTOP_PF_KTHREAD)
        return KTOP_SLEEP;
    u8 *reason = syscall_reason.lookup(&key);
    return reason && *reason ? *reason : KTOP_OTHER;
}

/* Created where no run queue lock is held: at fork, and by the iterator for older threads. */
static __always_inline struct ktop_account *account_of(struct task_struct *task, bool create)
{
#ifdef KTOP_TASK_STORAGE
    return accounts.task_storage_get(task, NULL, create ? BPF_LOCAL_STORAGE_GET_F_CREATE : 0);
#else
    u32 pid = F(task, pid), zero = 0;
    struct ktop_account *found = accounts.lookup(&pid);
    if (found || !create)
        return found;
    struct ktop_account *blank = blank_account.lookup(&zero);
    if (blank)
        accounts.update(&pid, blank);
    return accounts.lookup(&pid);
#endif
}

/* layout.COUNTERS: totals since the start. */
enum ktop_counter { KTOP_N_FORKS, KTOP_N_UNTRACKED, KTOP_N_COUNTERS };
BPF_PERCPU_ARRAY(counters, u64, KTOP_N_COUNTERS);

static __always_inline void count(u32 which)
{
    u64 *n = counters.lookup(&which);
    if (n)
        (*n)++;
}
