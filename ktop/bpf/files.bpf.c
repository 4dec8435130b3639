/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Files layer: the programs. What they count into, and how a path is found: files.bpf.h. */

/* -- syscalls ---------------------------------------------------------------------------------- */

#if defined(KTOP_HAS_pt_regs_di)
#define FS_ARG0(regs) F(regs, di)
#define FS_ARG1(regs) F(regs, si)
#define FS_ARG2(regs) F(regs, dx)
#define FS_ARG3(regs) F(regs, r10)
#elif defined(KTOP_HAS_pt_regs_regs)
#define FS_ARG0(regs) PR(regs, regs[0])
#define FS_ARG1(regs) PR(regs, regs[1])
#define FS_ARG2(regs) PR(regs, regs[2])
#define FS_ARG3(regs) PR(regs, regs[3])
#endif

#if defined(FS_ARG0) && defined(KTOP_HAS_pt_regs_orig_ax)
static __always_inline bool fs_compat(struct task_struct *task)
{
#ifdef KTOP_HAS_thread_info_status
    return F(task, thread_info.status) & FS_TS_COMPAT;
#else
    return false;
#endif
}

static __always_inline int fs_entered(struct pt_regs *regs, u32 nr)
{
    u8 *what = fs_op.lookup(&nr);
    if (!what || !*what)
        return 0;
    struct task_struct *task = fs_current();
    struct fs_key key = {};
    if (fs_compat(task))
        return 0;
    struct file *file = NULL;
    if (*what <= FS_FSYNC) {
        file = fs_file(task, FS_ARG0(regs));
        if (!fs_identify(file, &key))
            return 0;
    }
    struct fs_slot *s = fs_slot_of(task, true);
    if (!s)
        return 0;
    u64 now = bpf_ktime_get_ns();
    /* Who goes on with the same file is not asked again for a second. */
    if (file && (s->file.ino != key.ino || s->file.dev != key.dev ||
                 now - s->named_ns > 1000000000)) {
        fs_name(task, file, &key, now);
        s->named_ns = now;
        now = bpf_ktime_get_ns();  /* the walk is not the caller's latency */
    }
    s->arg[0] = FS_ARG0(regs);
    s->arg[1] = FS_ARG1(regs);
    s->arg[2] = FS_ARG2(regs);
    s->arg[3] = FS_ARG3(regs);
    s->file = key;
    s->what = *what;
    s->nr = nr;
    s->start_ns = now;
    return 0;
}

int fs_enter(u64 *ctx)
{
    return fs_entered((void *)ctx[0], ctx[1]);
}

static __always_inline void fs_slow(struct task_struct *task, struct fs_slot *s, u64 ns, s64 ret,
                                    u64 now)
{
    fs_count(FS_N_SLOW);
    if (!fs_allowed(1, now, KTOP_FS_SLOW)) {
        fs_count(FS_N_SLOW_CUT);
        return;
    }
    struct fs_buffer *b = fs_event(task, FS_E_SLOW, now);
    if (!b)
        return;
    b->e.file = s->file;
    b->e.latency_ns = ns;
    b->e.ret = ret;
    b->e.nr = s->nr;
    fs_send(b, 0);
}

/* The open_how of openat2, or the flags argument of the others. */
static __always_inline u32 fs_open_flags(struct fs_slot *s)
{
    u64 flags = s->what == FS_OPEN ? s->arg[1] : s->arg[2];
    if (s->what == FS_CREAT)
        return 01101;  /* O_CREAT|O_WRONLY|O_TRUNC */
    if (s->what == FS_OPENAT2 && bpf_probe_read_user(&flags, sizeof(flags), (void *)s->arg[2]))
        return 0;
    return flags;
}

/* Counts the open in its fold; false when there is no need, or no room, to show it. */
static __always_inline bool fs_fold(struct fs_buffer *b, u64 hash, s64 ret, u64 now)
{
    struct fs_open_key key = { .hash = hash, .error = ret < 0 ? ret : 0 };
    struct fs_open_fold blank = { .last_ns = now, .first_ns = now, .cgroup = b->e.cgroup,
                                  .tgid = b->e.tgid };
    __builtin_memcpy(key.comm, b->e.comm, sizeof(key.comm));
    struct fs_open_fold *fold = fs_opens.lookup(&key);
    if (!fold) {
        fs_opens.insert(&key, &blank);
        fold = fs_opens.lookup(&key);
        if (!fold)
            return false;
    }
    __sync_fetch_and_add(&fold->count, 1);
    fold->last_ns = now;
    if (fold->tgid != b->e.tgid) {
        fold->tgid = b->e.tgid;
        fold->shared = 1;
    }
    b->e.fold = hash;
    if (!fs_allowed(fold->named ? 2 : 3, now, fold->named ? KTOP_FS_FEED : KTOP_FS_NEW_FOLDS))
        return false;
    fold->named = 1;
    return true;
}

static __always_inline void fs_opened(struct task_struct *task, struct fs_slot *s, u64 now, s64 ret)
{
    bool at = s->what == FS_OPENAT || s->what == FS_OPENAT2;
    struct path base = {};
    u64 hash = 0, used = 0;
    fs_count(FS_N_OPENS);
    if (ret < 0)
        fs_count(FS_N_OPENS_FAILED);
    struct fs_buffer *b = fs_event(task, FS_E_OPEN, now);
    if (!b)
        return;
    __builtin_memset(b->text, 0, sizeof(b->text));
    long n = bpf_probe_read_user_str(b->text, sizeof(b->text), (void *)(at ? s->arg[1] : s->arg[0]));
    if (n < 0)
        n = 0;
    b->e.text_len = n;
    for (int i = 0; i < KTOP_FS_TEXT / 8; i++) {
        asm volatile("" : "+r"(n));  /* or clang computes an end that the verifier loses */
        if (i * 8 >= n)
            break;
        hash = (hash ^ ((u64 *)b->text)[i]) * 0x9e3779b97f4a7c15ULL;
        hash ^= hash >> 29;
    }
    if (n > 0 && b->text[0] != '/') {
        if (at && (s32)s->arg[0] != FS_AT_FDCWD) {
            struct file *file = fs_file(task, s->arg[0]);
            base = PR(file, f_path);
        } else {
            struct fs_struct *fs = PR(task, fs);
            base = PR(fs, pwd);
        }
        hash ^= (u64)base.dentry * 0x9e3779b97f4a7c15ULL;
    }
    hash ^= b->e.cgroup * 0x9e3779b97f4a7c15ULL;
    if (!fs_fold(b, hash, ret, now))
        return;
    b->e.flags = fs_open_flags(s);
    b->e.ret = ret;
    b->e.nr = s->nr;
    if (base.dentry)
        used = fs_walk(b, base.dentry, base.mnt);
    if (fs_send(b, used))
        fs_count(FS_N_OPENS_SHOWN);
}

static __always_inline void fs_text(struct fs_buffer *b, u32 third, u64 from)
{
    long n = from ? bpf_probe_read_user_str(b->text + third * (KTOP_FS_TEXT / 3), KTOP_FS_TEXT / 3,
                                            (void *)from) : 0;
    if (n <= 0)
        b->text[third * (KTOP_FS_TEXT / 3)] = 0;
}

static __always_inline void fs_mounted(struct task_struct *task, struct fs_slot *s, u64 ns, s64 ret,
                                       u64 now)
{
    struct fs_buffer *b = fs_event(task, FS_E_MOUNT, now);
    if (!b)
        return;
    u32 what = s->what;
    b->e.ret = ret;
    b->e.nr = s->nr;
    b->e.latency_ns = ns;
    b->e.flags = what == FS_MOUNT ? s->arg[3] : what == FS_FSMOUNT ? s->arg[2] : s->arg[1];
    if (what == FS_MOVE_MOUNT)
        b->e.flags = 0;
    fs_text(b, 0, what == FS_MOUNT ? s->arg[0] : what == FS_MOVE_MOUNT ? s->arg[1] : 0);
    fs_text(b, 1, what == FS_MOUNT ? s->arg[1] : what == FS_UMOUNT ? s->arg[0]
                  : what == FS_MOVE_MOUNT ? s->arg[3] : 0);
    fs_text(b, 2, what == FS_MOUNT ? s->arg[2] : what == FS_FSOPEN ? s->arg[0] : 0);
    fs_send(b, 0);
}

static __always_inline int fs_left(u32 nr, s64 ret)
{
    u32 zero = 0;
    u8 *what = fs_op.lookup(&nr);
    if (!what || !*what)
        return 0;
    struct task_struct *task = fs_current();
    struct fs_slot *s = fs_slot_of(task, false);
    struct fs_config *config = fs_config.lookup(&zero);
    if (!s || !config || !s->start_ns || s->nr != nr)
        return 0;
    u64 now = bpf_ktime_get_ns(), start = s->start_ns, ns = now - start;
    s->start_ns = 0;
    /* EAGAIN, and the codes from 512 on that restart a syscall, are no answers. */
    if (start < config->since_ns || ret == -11 || (ret <= -512 && ret > -4096))
        return 0;
    if (s->what <= FS_FSYNC) {
        u32 op = s->what - FS_READ;
        op &= 3;
        fs_operation(s->file.dev, op, ns, ret, config->epoch);
        fs_account(&s->file, op, ns, ret, config->epoch);
        if (ns >= config->threshold_ns)
            fs_slow(task, s, ns, ret, now);
        return 0;
    }
    if (s->what > FS_CREAT) {
        fs_mounted(task, s, ns, ret, now);
        return 0;
    }
    struct fs_key key = {};
    struct file *file = ret >= 0 ? fs_file(task, ret) : NULL;
    if (fs_identify(file, &key)) {
        fs_name(task, file, &key, now);
        fs_account(&key, 3, ns, ret, config->epoch);
    }
    fs_operation(key.dev, 3, ns, ret, config->epoch);
    fs_opened(task, s, now, ret);
    return 0;
}

static __always_inline u32 fs_number(struct pt_regs *regs)
{
    return F(regs, orig_ax);
}

int fs_exit(u64 *ctx)
{
    return fs_left(fs_number((void *)ctx[0]), ctx[1]);
}
#endif

/* -- page cache: who is made to wait because there is too much dirty ---------------------------- */

struct fs_pause {
    u64 pauses, jiffies, cgroup;
    char comm[16];
};
BPF_TABLE("lru_hash", u32, struct fs_pause, fs_pauses, 1024);

/* Runs in the task that dirtied the pages, just before it sleeps for `pause` jiffies. */
static __always_inline int fs_throttled(s64 pause)
{
    u32 tgid = bpf_get_current_pid_tgid() >> 32;
    struct fs_pause blank = {};
    if (pause <= 0)  /* let through */
        return 0;
    struct fs_pause *p = fs_pauses.lookup(&tgid);
    if (!p) {
        blank.cgroup = cgroup_of(fs_current());
        bpf_get_current_comm(blank.comm, sizeof(blank.comm));
        fs_pauses.insert(&tgid, &blank);
        p = fs_pauses.lookup(&tgid);
        if (!p)
            return 0;
    }
    __sync_fetch_and_add(&p->pauses, 1);
    __sync_fetch_and_add(&p->jiffies, pause);
    return 0;
}

#ifdef KTOP_ARGS_balance_dirty_pages
int fs_throttle(u64 *ctx)
{
    /* The last but one argument: 12 of them until 6.17, 8 since (the control struct as one). */
    return fs_throttled(ctx[KTOP_ARGS_balance_dirty_pages - 2]);
}
#endif

/* -- open descriptors -------------------------------------------------------------------------- */

struct fs_fds {
    u32 tgid, fds, max_fds, pad;
    u64 limit, start_boottime_ns, cgroup, now_ns, jiffies;
    char comm[16];
};
_Static_assert(sizeof(struct fs_fds) == KTOP_FS_FDS_SIZE, "files_layer.FDS");

static __always_inline u32 fs_bits(u64 v)
{
    v -= (v >> 1) & 0x5555555555555555ULL;
    v = (v & 0x3333333333333333ULL) + ((v >> 2) & 0x3333333333333333ULL);
    v = (v + (v >> 4)) & 0x0f0f0f0f0f0f0f0fULL;
    return (v * 0x0101010101010101ULL) >> 56;
}

/* Bits of fdt->open_fds: exact up to KTOP_FS_FD_WORDS * 64 descriptors. */
static __always_inline int fs_count_fds(struct seq_file *seq, struct task_struct *task)
{
    struct fs_fds r = {};
    if (F(task, pid) != F(task, tgid))
        return 0;
    struct files_struct *files = F(task, files);
    struct signal_struct *sig = F(task, signal);
    if (!files)
        return 0;
    struct fdtable *fdt = PR(files, fdt);
    u64 *words = PR(fdt, open_fds);
    r.max_fds = PR(fdt, max_fds);
    for (int i = 0; i < KTOP_FS_FD_WORDS; i++) {
        u64 word = 0;
        if (i * 64 >= r.max_fds || bpf_probe_read_kernel(&word, sizeof(word), words + i))
            break;
        r.fds += fs_bits(word);
    }
    r.tgid = F(task, tgid);
    r.limit = PR(sig, rlim[FS_RLIMIT_NOFILE].rlim_cur);
    r.start_boottime_ns = F(task, start_boottime);
    r.cgroup = cgroup_of(task);
    r.now_ns = bpf_ktime_get_ns();
    r.jiffies = bpf_jiffies64();
    bpf_probe_read_kernel(r.comm, sizeof(r.comm), task->comm);
    bpf_seq_write(seq, &r, sizeof(r));
    return 0;
}

int fs_fds(struct bpf_iter__task *ctx)
{
    struct task_struct *task = ctx->task;
    if (!task)
        return 0;
    return fs_count_fds(ctx->meta->seq, task);
}
