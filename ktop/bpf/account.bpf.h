/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The account of each thread, kept by the scheduler layer and read by the processes layer; the
 * counters of both. */

/* @kernel
 * task_struct: __state|state signal cred mm
 * task_struct: start_boottime|real_start_time se sched_info in_iowait
 * task_struct: utime stime nvcsw nivcsw maj_flt ioac? thread_info? on_cpu exit_state
 * task_struct: in_memstall? files
 * files_struct: fdt
 * fdtable: max_fds fd
 * file: f_inode
 * inode: i_mode
 * pt_regs: orig_ax|syscallno? di? si? dx? regs?
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

/* layout.WAITS: exclusive; KTOP_WAITS is none of them. */
enum ktop_wait {
    KTOP_W_DISK, KTOP_W_MEMORY, KTOP_W_FSYNC, KTOP_W_FILE, KTOP_W_FILE_LOCK, KTOP_W_MUTEX,
    KTOP_W_SOCKET, KTOP_W_RECLAIM,
};
/* What a syscall waits for, the high half of `syscall_reason` (syscalls.CLASSES). */
enum ktop_class {
    KTOP_C_NONE, KTOP_C_FSYNC, KTOP_C_PATH, KTOP_C_FD, KTOP_C_LOCK, KTOP_C_FUTEX, KTOP_C_SOCKET,
};

/* The account of one thread; lives and dies with it in task storage. What every switch touches comes
 * first: a cold cache line costs as much as a helper. */
struct ktop_account {
    u64 off_ns;        /* CLOCK_MONOTONIC when it last left a CPU; 0 while it is on one */
    u64 pend_ns;       /* length of its last time off CPU, not yet split into sleep and queue */
    u64 run_delay_ns;  /* sched_info.run_delay that the histogram already holds */
    u32 reason;        /* why it left, enum ktop_reason */
    s32 syscall;       /* the syscall it left in, -1 outside one */
    u32 wait;          /* finer, enum ktop_wait */
    u32 forks;         /* processes it has created */
    u32 dirty;         /* the histogram has changed since the iterator last wrote it out */
    u64 slept_ns[KTOP_REASONS];
    u64 waited_ns[KTOP_WAITS];
    u64 reclaim_ns;    /* CLOCK_MONOTONIC when it began to reclaim memory, 0 when it does not */
    u64 reclaim_off_ns;  /* how long it had been off CPU by then, see off_cpu_ns() */
    u32 hist[KTOP_TASK_HIST_SLOTS];
};

#ifdef KTOP_TASK_STORAGE
BPF_TASK_STORAGE(accounts, struct ktop_account);
#else
/* Before 5.12 tracing programs have no task storage: least recently used threads are forgotten. */
BPF_TABLE("lru_hash", u32, struct ktop_account, accounts, 32768);
BPF_PERCPU_ARRAY(blank_account, struct ktop_account, 1);
#endif

/* syscall number -> enum ktop_reason, and in the high half enum ktop_class */
BPF_ARRAY(syscall_reason, u8, 1024);

/* The syscall a thread is in; -1 in a page fault or a kernel thread. */
static __always_inline s32 syscall_in(struct pt_regs *regs)
{
#if defined(KTOP_REGS) && defined(KTOP_HAS_pt_regs_orig_ax)
    if (regs)
        return REG(regs, orig_ax);
#endif
    return -1;
}

#if defined(KTOP_HAS_pt_regs_di)
#define KTOP_ARG(regs, x86, n) REG(regs, x86)
#elif defined(KTOP_HAS_pt_regs_regs)
#define KTOP_ARG(regs, x86, n) PR(regs, regs[n])
#endif

#if defined(KTOP_REGS) && defined(KTOP_ARG)
/* What a descriptor is: the S_IFMT bits of its inode, 0 when it cannot be told. */
static __always_inline u32 kind_of_fd(struct task_struct *task, u32 fd)
{
    struct files_struct *files = F(task, files);
    if (!files)
        return 0;
    struct fdtable *fdt = F(files, fdt);
    if (!fdt || fd >= F(fdt, max_fds))
        return 0;
    void *array = F(fdt, fd);
    struct file *file = 0;
    bpf_probe_read_kernel(&file, sizeof(file), array + (u64)fd * sizeof(file));
    if (!file)
        return 0;
    struct inode *inode = PR(file, f_inode);
    return inode ? PR(inode, i_mode) & 0170000 : 0;
}

static __always_inline u32 wait_on_fd(struct task_struct *task, struct pt_regs *regs)
{
    u32 kind = kind_of_fd(task, KTOP_ARG(regs, di, 0));
    if (kind == 0140000)                                              /* S_IFSOCK */
        return KTOP_W_SOCKET;
    return kind == 0100000 || kind == 0040000 || kind == 0060000      /* S_IFREG, DIR, BLK */
        ? KTOP_W_FILE : KTOP_WAITS;
}

/* A contended mutex: the value 2 by which glibc, musl, Go and Rust mark one with waiters, or a
 * futex that the kernel locks. Condition variables, semaphores and idle pools are neither. */
static __always_inline u32 wait_on_futex(struct pt_regs *regs)
{
    u32 op = KTOP_ARG(regs, si, 1) & 0x7f, value = KTOP_ARG(regs, dx, 2);
    if (op == 6 || op == 13)                     /* FUTEX_LOCK_PI, FUTEX_LOCK_PI2 */
        return KTOP_W_MUTEX;
    return (op == 0 || op == 9) && value == 2    /* FUTEX_WAIT, FUTEX_WAIT_BITSET */
        ? KTOP_W_MUTEX : KTOP_WAITS;
}
#else
static __always_inline u32 wait_on_fd(struct task_struct *task, struct pt_regs *regs)
{
    return KTOP_WAITS;
}

static __always_inline u32 wait_on_futex(struct pt_regs *regs) { return KTOP_WAITS; }
#endif

/* An uninterruptible wait, enum ktop_wait. */
static __always_inline u32 hard_wait(struct task_struct *task, u32 class)
{
#ifdef KTOP_HAS_task_struct_in_memstall
    if (BITS(task_struct, task, in_memstall))
        return KTOP_W_MEMORY;
#endif
    if (class == KTOP_C_FSYNC)
        return KTOP_W_FSYNC;
    if (BITS(task_struct, task, in_iowait))
        return KTOP_W_DISK;
    return class == KTOP_C_PATH || class == KTOP_C_FD ? KTOP_W_FILE : KTOP_WAITS;
}

static __always_inline u32 soft_wait(struct task_struct *task, struct pt_regs *regs, u32 class)
{
    switch (class) {
    case KTOP_C_FSYNC: return KTOP_W_FSYNC;
    case KTOP_C_PATH: return KTOP_W_FILE;
    case KTOP_C_FD: return wait_on_fd(task, regs);
    case KTOP_C_LOCK: return KTOP_W_FILE_LOCK;
    case KTOP_C_FUTEX: return wait_on_futex(regs);
    case KTOP_C_SOCKET: return KTOP_W_SOCKET;
    }
    return KTOP_WAITS;
}

/* In which syscall and why a thread leaves the CPU; state 0: it could go on. */
static __always_inline void why_off_cpu(struct ktop_account *a, struct task_struct *task, u32 state)
{
    struct pt_regs *regs = regs_of(task);
    u32 key = a->syscall = syscall_in(regs);
    a->wait = KTOP_WAITS;
    if (!state) {
        a->reason = KTOP_RUNNABLE;
        return;
    }
    if (state & 4 || state & 8) {          /* TASK_STOPPED, TASK_TRACED */
        a->reason = KTOP_STOPPED;
        return;
    }
    u8 *known = syscall_reason.lookup(&key);
    u32 both = known ? *known : 0, reason = both & 15;
    if (state & 2 && !(state & 0x400)) {   /* TASK_UNINTERRUPTIBLE, not TASK_NOLOAD (idle kthread) */
        a->reason = BITS(task_struct, task, in_iowait) ? KTOP_DISK : KTOP_UNINTERRUPTIBLE;
        a->wait = hard_wait(task, both >> 4);
        return;
    }
    if (F(task, flags) & KTOP_PF_KTHREAD) {
        a->reason = KTOP_SLEEP;
        return;
    }
    a->reason = reason ? reason : KTOP_OTHER;
    a->wait = soft_wait(task, regs, both >> 4);
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
