/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Files layer: what the syscalls on regular files do and how long they take, by file, process and
 * filesystem; opens, mounts; open descriptors of every process; pauses of those who dirty pages.
 *
 * Two programs see every syscall of the host and leave early by its number (fs_op): they are
 * attached only while somebody looks. Everything is measured from entry to exit of the syscall:
 * what is buffered or asynchronous and returns at once is not slow.
 */

/* @kernel
 * task_struct: files fs signal start_boottime|real_start_time thread_info?
 * thread_info: status?
 * signal_struct: rlim
 * rlimit: rlim_cur
 * files_struct: fdt
 * fdtable: max_fds fd open_fds
 * fs_struct: pwd
 * file: f_inode f_path f_flags
 * path: mnt dentry
 * inode: i_mode i_ino i_sb i_generation
 * super_block: s_dev s_type s_subtype?
 * file_system_type: name
 * dentry: d_name d_parent d_hash
 * qstr: name
 * hlist_bl_node: pprev
 * vfsmount: mnt_root
 * mount: mnt mnt_parent mnt_mountpoint
 * pt_regs: orig_ax|syscallno? di? si? dx? r10? regs?
 * bpf_iter__task: meta task
 * tracepoint sys_enter sys_exit balance_dirty_pages
 */

#define FS_RLIMIT_NOFILE 7  /* include/uapi/asm-generic/resource.h */
#define FS_AT_FDCWD (-100)
#define FS_TS_COMPAT 2      /* arch/x86/include/asm/thread_info.h: a 32-bit syscall */

/* files_layer.OPS: what a syscall number means; the first four count as operations. */
enum fs_what {
    FS_NONE, FS_READ, FS_WRITE, FS_FSYNC, FS_OPEN, FS_OPENAT, FS_OPENAT2, FS_CREAT,
    FS_MOUNT, FS_UMOUNT, FS_FSOPEN, FS_FSMOUNT, FS_MOVE_MOUNT,
};
BPF_ARRAY(fs_op, u8, 1024);

struct fs_config {
    u64 threshold_ns;
    u64 since_ns;   /* syscalls entered before belong to an earlier session */
    u32 epoch, pad; /* the collector's tick counter */
};
BPF_ARRAY(fs_config, struct fs_config, 1);

/* layout: files_layer.COUNTERS */
enum fs_counter {
    FS_N_LOST, FS_N_OPENS, FS_N_OPENS_FAILED, FS_N_OPENS_SHOWN, FS_N_SLOW, FS_N_SLOW_CUT,
    FS_N_KEYS, FS_N_NAMES_CUT, FS_N_COUNTERS,
};
BPF_PERCPU_ARRAY(fs_counters, u64, FS_N_COUNTERS);

static __always_inline void fs_count(u32 which)
{
    u64 *n = fs_counters.lookup(&which);
    if (n)
        (*n)++;
}

/* What is counted by: a file (inode number, device, generation), a process, a filesystem. */
enum fs_kind { FS_KIND_FILE, FS_KIND_PROCESS, FS_KIND_FILESYSTEM };
struct fs_key {
    u64 id;
    u32 dev, generation, kind, pad;
};

struct fs_stat {
    u64 n[4], errors[4], ns[4];
    u64 bytes[2];
    u64 longest[4], longest_before[4];  /* in `epoch`, and in the one before that had any */
    u32 epoch, epoch_before;
    u64 named_ns;                       /* when the file's path was last sent */
    u64 cgroup;
    char comm[16];
};
_Static_assert(sizeof(struct fs_stat) == KTOP_FS_STAT_SIZE, "files_layer.STAT");
struct fs_hist {
    u32 slots[3 * KTOP_HIST_SLOTS];     /* read, write, fsync */
};
struct fs_host {
    struct fs_stat stat;
    u64 slots[4 * KTOP_HIST_SLOTS];
};
BPF_TABLE("lru_hash", struct fs_key, struct fs_stat, fs_stats, KTOP_FS_KEYS);
BPF_TABLE("lru_hash", struct fs_key, struct fs_hist, fs_hists, KTOP_FS_HISTS);
BPF_PERCPU_ARRAY(fs_hosts, struct fs_host, 1);
BPF_PERCPU_ARRAY(fs_blank, struct fs_host, 1);

/* A syscall under way. */
struct fs_slot {
    u64 start_ns, arg[4];
    struct fs_key file;
    u32 what, nr;
};
#ifdef KTOP_TASK_STORAGE
BPF_TASK_STORAGE(fs_slots, struct fs_slot);
#else
BPF_TABLE("lru_hash", u32, struct fs_slot, fs_slots, 16384);
#endif

BPF_RINGBUF_OUTPUT(files_events, KTOP_FS_RING_PAGES);
enum fs_event_kind { FS_E_NAME = 1, FS_E_SLOW, FS_E_OPEN, FS_E_MOUNT };
struct fs_event {
    u32 kind, tgid;
    u64 time_ns, cgroup, latency_ns;
    s64 ret;
    struct fs_key file;        /* name, slow */
    u64 fold;                  /* open: hash in fs_opens */
    u32 flags, nr;             /* open: O_*; mount: MS_*; name: 1 deleted; the syscall */
    u32 base_whole, text_len;  /* base reached the root; length of the text before the base */
    char comm[16], fstype[32];
};
_Static_assert(sizeof(struct fs_event) == KTOP_FS_EVENT_SIZE, "files_layer.EVENT");
struct fs_buffer {
    struct fs_event e;
    char text[KTOP_FS_TEXT];                    /* what the caller wrote; for mounts, three */
    char base[KTOP_FS_BASE + 256];              /* names from a dentry up to the root */
};
BPF_PERCPU_ARRAY(fs_buffers, struct fs_buffer, 1);

/* Opens folded where they happen: a storm costs one entry, not an event each. */
struct fs_open_key {
    u64 hash;
    char comm[16];
    s32 error;
    u32 pad;
};
struct fs_open_fold {
    u64 count, last_ns;
    u32 tgid, named;
};
BPF_TABLE("lru_hash", struct fs_open_key, struct fs_open_fold, fs_opens, KTOP_FS_FOLDS);

/* Events of one kind per 100 ms, over all CPUs. */
struct fs_bucket { u64 window, n; };
BPF_ARRAY(fs_budget, struct fs_bucket, 4);

static __always_inline bool fs_allowed(u32 which, u64 now, u64 limit)
{
    struct fs_bucket *b = fs_budget.lookup(&which);
    if (!b)
        return false;
    if (now - b->window > 100000000) {
        b->window = now;
        b->n = 0;
    }
    if (b->n >= limit)
        return false;
    __sync_fetch_and_add(&b->n, 1);
    return true;
}

static __always_inline struct task_struct *fs_current(void)
{
#ifdef KTOP_TYPED
    return (struct task_struct *)bpf_get_current_task_btf();
#else
    return (struct task_struct *)bpf_get_current_task();
#endif
}

static __always_inline struct fs_slot *fs_slot_of(struct task_struct *task, bool create)
{
#ifdef KTOP_TASK_STORAGE
    return fs_slots.task_storage_get(task, NULL, create ? BPF_LOCAL_STORAGE_GET_F_CREATE : 0);
#else
    u32 pid = bpf_get_current_pid_tgid();
    struct fs_slot *found = fs_slots.lookup(&pid);
    if (found || !create)
        return found;
    struct fs_slot blank = {};
    fs_slots.update(&pid, &blank);
    return fs_slots.lookup(&pid);
#endif
}

static __always_inline struct file *fs_file(struct task_struct *task, u64 fd)
{
    struct files_struct *files = PR(task, files);
    struct fdtable *fdt = PR(files, fdt);
    struct file *file = NULL;
    if (!files || (u32)fd >= PR(fdt, max_fds))
        return NULL;
    bpf_probe_read_kernel(&file, sizeof(file), PR(fdt, fd) + (u64)(u32)fd * sizeof(file));
    return file;
}

/* The file's identity; false when it is no regular file. */
static __always_inline bool fs_identify(struct file *file, struct fs_key *key)
{
    struct inode *inode = PR(file, f_inode);
    if (!file || (PR(inode, i_mode) & 0170000) != 0100000)
        return false;
    struct super_block *sb = PR(inode, i_sb);
    key->id = PR(inode, i_ino);
    key->dev = PR(sb, s_dev);
    key->generation = PR(inode, i_generation);
    key->kind = FS_KIND_FILE;
    key->pad = 0;
    return true;
}

/* Names from a dentry up to the root of the mount namespace, each NUL-terminated; their length. */
static __always_inline u32 fs_walk(struct fs_buffer *b, struct dentry *dentry, struct vfsmount *mnt)
{
    u32 used = 0;
    b->e.base_whole = 0;
    for (int i = 0; i < KTOP_FS_DEPTH; i++) {
        struct dentry *parent = PR(dentry, d_parent);
        if (dentry == PR(mnt, mnt_root)) {
            struct mount *m = (void *)mnt - offsetof(struct mount, mnt);
            struct mount *up = PR(m, mnt_parent);
            if (up == m) {
                b->e.base_whole = 1;
                break;
            }
            dentry = PR(m, mnt_mountpoint);
            mnt = (void *)up + offsetof(struct mount, mnt);
            continue;
        }
        if (!dentry || dentry == parent || used > KTOP_FS_BASE)
            break;
        struct qstr name = PR(dentry, d_name);
        long n = bpf_probe_read_kernel_str(b->base + used, 256, name.name);
        if (n <= 0)
            break;
        used += n & 0x1ff;
        dentry = parent;
    }
    return used;
}

static __always_inline struct fs_buffer *fs_event(struct task_struct *task, u32 kind, u64 now)
{
    u32 zero = 0;
    struct fs_buffer *b = fs_buffers.lookup(&zero);
    if (!b)
        return NULL;
    __builtin_memset(&b->e, 0, sizeof(b->e));
    b->e.kind = kind;
    b->e.tgid = bpf_get_current_pid_tgid() >> 32;
    b->e.time_ns = now;
    b->e.cgroup = cgroup_of(task);
    bpf_get_current_comm(b->e.comm, sizeof(b->e.comm));
    return b;
}

static __always_inline bool fs_send(struct fs_buffer *b, u32 base)
{
    asm volatile("" : "+r"(base));
    if (base > KTOP_FS_BASE + 256)
        return false;
    if (!files_events.ringbuf_output(b, offsetof(struct fs_buffer, base) + base,
                                     BPF_RB_NO_WAKEUP))
        return true;
    fs_count(FS_N_LOST);
    return false;
}

static __always_inline bool fs_send_name(struct task_struct *task, struct file *file,
                                         struct fs_key *key, u64 now)
{
    struct fs_buffer *b = fs_event(task, FS_E_NAME, now);
    if (!b)
        return false;
    struct inode *inode = PR(file, f_inode);
    struct super_block *sb = PR(inode, i_sb);
    struct file_system_type *type = PR(sb, s_type);
    struct path path = PR(file, f_path);
    struct hlist_bl_node hash = PR(path.dentry, d_hash);
    char *subtype = NULL;
#ifdef KTOP_HAS_super_block_s_subtype
    subtype = PR(sb, s_subtype);
#endif
    b->e.file = *key;
    b->e.flags = hash.pprev ? 0 : 1;
    bpf_probe_read_kernel_str(b->e.fstype, 16, PR(type, name));
    if (subtype)
        bpf_probe_read_kernel_str(b->e.fstype + 16, 16, subtype);
    return fs_send(b, fs_walk(b, path.dentry, path.mnt));
}

static __always_inline struct fs_stat *fs_stat_of(struct fs_key *key, bool create)
{
    u32 zero = 0;
    struct fs_stat *s = fs_stats.lookup(key);
    if (s || !create)
        return s;
    struct fs_host *blank = fs_blank.lookup(&zero);
    if (!blank)
        return NULL;
    if (!fs_stats.insert(key, &blank->stat))
        fs_count(FS_N_KEYS);
    return fs_stats.lookup(key);
}

/* Files are named when first seen, and every ten seconds again: they may be renamed or deleted. */
static __always_inline bool fs_name(struct task_struct *task, struct file *file,
                                    struct fs_key *key, u64 now)
{
    struct fs_stat *s = fs_stat_of(key, true);
    if (!s || (s->named_ns && now - s->named_ns < 10000000000ULL))
        return false;
    if (!fs_allowed(0, now, KTOP_FS_NAMES)) {
        fs_count(FS_N_NAMES_CUT);
        return false;
    }
    if (fs_send_name(task, file, key, now))
        s->named_ns = now;
    return true;
}

static __always_inline void fs_add(struct fs_stat *s, u32 op, u64 ns, s64 ret, u32 epoch)
{
    op &= 3;
    __sync_fetch_and_add(&s->n[op], 1);
    __sync_fetch_and_add(&s->ns[op], ns);
    if (ret < 0)
        __sync_fetch_and_add(&s->errors[op], 1);
    else if (op < 2)
        __sync_fetch_and_add(&s->bytes[op], ret);
    if (s->epoch != epoch) {
        s->epoch_before = s->epoch;
        s->epoch = epoch;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            s->longest_before[i] = s->longest[i];
            s->longest[i] = 0;
        }
    }
    if (ns > s->longest[op])
        s->longest[op] = ns;
}

static __always_inline void fs_account(struct fs_key *key, u32 op, u64 ns, s64 ret, u32 epoch)
{
    u32 zero = 0;
    struct fs_stat *s = fs_stat_of(key, true);
    if (!s)
        return;
    fs_add(s, op, ns, ret, epoch);
    if (key->kind == FS_KIND_PROCESS && !s->comm[0]) {
        s->cgroup = cgroup_of(fs_current());
        bpf_get_current_comm(s->comm, sizeof(s->comm));
    }
    if (op > 2)
        return;
    struct fs_hist *h = fs_hists.lookup(key);
    if (!h) {
        struct fs_host *blank = fs_blank.lookup(&zero);
        if (!blank)
            return;
        fs_hists.insert(key, (struct fs_hist *)blank->slots);
        h = fs_hists.lookup(key);
        if (!h)
            return;
    }
    u32 slot = hist_slot(ns, KTOP_HIST_SLOTS) + op * KTOP_HIST_SLOTS;
    if (slot < 3 * KTOP_HIST_SLOTS)
        __sync_fetch_and_add(&h->slots[slot], 1);
}

/* One operation for everybody it concerns. */
static __always_inline void fs_operation(struct fs_key *file, bool regular, u32 op, u64 ns, s64 ret,
                                         u32 epoch)
{
    u32 zero = 0;
    struct fs_host *host = fs_hosts.lookup(&zero);
    struct fs_key key = { .id = bpf_get_current_pid_tgid() >> 32, .kind = FS_KIND_PROCESS };
    if (host) {
        fs_add(&host->stat, op, ns, ret, epoch);
        u32 slot = hist_slot(ns, KTOP_HIST_SLOTS) + op * KTOP_HIST_SLOTS;
        if (slot < 4 * KTOP_HIST_SLOTS)
            host->slots[slot]++;
    }
    fs_account(&key, op, ns, ret, epoch);
    if (!regular)
        return;
    fs_account(file, op, ns, ret, epoch);
    key.id = 0;
    key.dev = file->dev;
    key.kind = FS_KIND_FILESYSTEM;
    fs_account(&key, op, ns, ret, epoch);
}

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
    u64 now = bpf_ktime_get_ns();
    if (*what <= FS_FSYNC) {
        struct file *file = fs_file(task, FS_ARG0(regs));
        if (!fs_identify(file, &key))
            return 0;
        if (fs_name(task, file, &key, now))
            now = bpf_ktime_get_ns();  /* the walk is not the caller's latency */
    }
    struct fs_slot *s = fs_slot_of(task, true);
    if (!s)
        return 0;
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
    struct fs_open_fold blank = { .last_ns = now };
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
    fold->tgid = b->e.tgid;
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
    u64 hash = 0;
    u32 used = 0;
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
        fs_operation(&s->file, true, s->what - FS_READ, ns, ret, config->epoch);
        if (ns >= config->threshold_ns)
            fs_slow(task, s, ns, ret, now);
        return 0;
    }
    if (s->what > FS_CREAT) {
        fs_mounted(task, s, ns, ret, now);
        return 0;
    }
    struct fs_key key = {};
    bool regular = false;
    if (ret >= 0) {
        struct file *file = fs_file(task, ret);
        regular = fs_identify(file, &key);
        if (regular)
            fs_name(task, file, &key, now);
    }
    fs_operation(&key, regular, 3, ns, ret, config->epoch);
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
