/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Processes layer, second part: executions, failed ones and exits as events. Compiled by itself, so
 * that the first figures need not wait for it. */

/* @kernel
 * task_struct: mm signal cred start_boottime|real_start_time se sched_info exit_code
 * sched_info: run_delay
 * sched_entity: sum_exec_runtime
 * signal_struct: live group_exit_code flags sum_sched_runtime
 * cred: euid
 * mm_struct: arg_start arg_end
 * linux_binprm: filename
 * tracepoint sched_process_exec sched_process_exit
 */

#define KTOP_SIGNAL_GROUP_EXIT 4

/* layout.LIFE_COUNTERS: totals since the start, exact whatever becomes of the events. */
enum ktop_life_counter {
    KTOP_N_EXECS, KTOP_N_EXECS_FAILED, KTOP_N_EXITS, KTOP_N_LOST_EVENTS, KTOP_N_LIFE_COUNTERS,
};
BPF_PERCPU_ARRAY(life_counters, u64, KTOP_N_LIFE_COUNTERS);

static __always_inline void count(u32 which)
{
    u64 *n = life_counters.lookup(&which);
    if (n)
        (*n)++;
}

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

/* One event under construction: header, then the command line as NUL-separated bytes. */
struct ktop_event_buffer {
    struct ktop_event e;
    char args[KTOP_ARGS_MAX];
};
BPF_PERCPU_ARRAY(event_buffer, struct ktop_event_buffer, 1);

static __always_inline void fill_event(struct ktop_event *e, struct task_struct *task, u32 kind)
{
    struct task_struct *parent = F(task, real_parent);
    struct cred *cred = (struct cred *)F(task, cred);
    __builtin_memset(e, 0, sizeof(*e));
    e->kind = kind;
    e->pid = F(task, tgid);
    e->ppid = F(parent, tgid);
    e->uid = VALUE(cred, euid, val);
    e->time_ns = bpf_ktime_get_ns();
    e->start_boottime_ns = F(task, start_boottime);
    e->cgroup = cgroup_of(task);
    bpf_probe_read_kernel(e->comm, sizeof(e->comm), task->comm);
    bpf_probe_read_kernel(e->parent_comm, sizeof(e->parent_comm), parent->comm);
}

static __always_inline void send(struct ktop_event_buffer *b, u64 args)
{
    /* All of it in 64 bits, or clang tests a copy and the verifier loses the bound. */
    u64 size = sizeof(b->e) + args;
    asm volatile("" : "+r"(size));
    if (size > sizeof(*b))
        return;
    if (events.ringbuf_output(b, size, BPF_RB_NO_WAKEUP))
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

#if defined(KTOP_REGS) && defined(KTOP_HAS_pt_regs_di)
/* argv of an exec that failed: the old program still stands, and so do the registers. */
static __always_inline u64 read_argv(struct ktop_event_buffer *b, u64 argv)
{
    u64 used = 0;
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
    struct pt_regs *regs = regs_of(task);
    u64 path = 0, argv = 0;
    u32 len = 0;
    if (regs) {
        path = at ? REG(regs, si) : REG(regs, di);
        argv = at ? REG(regs, dx) : REG(regs, si);
    }
    fill_event(&b->e, task, 2);
    b->e.code = ret;
    if (path) {
        bpf_probe_read_user_str(b->e.filename, sizeof(b->e.filename), (void *)path);
        len = read_argv(b, argv);
    }
    b->e.args_len = len;
    send(b, len);
    return 0;
}

/* The common part of every tracefs syscalls/sys_exit_* record. */
struct ktop_sys_exit { u64 common; s64 nr; s64 ret; };

#ifdef KTOP_TYPED
#define KTOP_CURRENT ((struct task_struct *)bpf_get_current_task_btf())
#else
#define KTOP_CURRENT ((struct task_struct *)bpf_get_current_task())
#endif

int exec_failed(struct ktop_sys_exit *ctx)
{
    long ret = ctx->ret;
    return ret < 0 ? exec_failed_in(KTOP_CURRENT, ret, false) : 0;
}

int execat_failed(struct ktop_sys_exit *ctx)
{
    long ret = ctx->ret;
    return ret < 0 ? exec_failed_in(KTOP_CURRENT, ret, true) : 0;
}
#endif

static __always_inline int ended(struct task_struct *task)
{
    u32 zero = 0;
    struct signal_struct *sig = F(task, signal);
    if (VALUE(sig, live, counter))  /* other threads of the process go on */
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
