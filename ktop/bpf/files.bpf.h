/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Files layer: what the syscalls on regular files do and how long they take, by file, process and
 * filesystem; opens, mounts; open descriptors of every process; pauses of those who dirty pages.
 * An operation is counted twice besides the host's total: by (file, process), of which the sums are
 * the files, and by (process, filesystem), of which they are the processes and the filesystems.
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
    FS_N_USES, FS_N_NAMES_CUT, FS_N_SHARES, FS_N_COUNTERS,
};
BPF_PERCPU_ARRAY(fs_counters, u64, FS_N_COUNTERS);

static __always_inline void fs_count(u32 which)
{
    u64 *n = fs_counters.lookup(&which);
    if (n)
        (*n)++;
}

/* A file; what a process does with it; what it does on a filesystem (0: on none). */
struct fs_key {
    u64 ino;
    u32 dev, generation;
};
struct fs_use {
    struct fs_key file;
    u32 tgid, pad;
};
struct fs_share {
    u32 tgid, dev;
};

struct fs_stat {
    u64 n[4], errors[4], ns[4];
    u64 bytes[2];
    u64 longest[4], longest_before[4];  /* in `epoch`, and in the one before that had any */
    u32 epoch, epoch_before;
    u32 born, pad;                      /* the epoch in which it was made */
    u64 cgroup;
    char comm[16];
};
_Static_assert(sizeof(struct fs_stat) == KTOP_FS_STAT_SIZE, "files_layer.STAT");
struct fs_hist {
    u32 slots[3 * KTOP_HIST_SLOTS];     /* read, write, fsync */
};
struct fs_both {
    struct fs_stat stat;
    struct fs_hist hist;
};
struct fs_host {
    struct fs_stat stat;
    u64 slots[4 * KTOP_HIST_SLOTS];
};
BPF_TABLE("lru_hash", struct fs_use, struct fs_stat, fs_stats, KTOP_FS_USES);
BPF_TABLE("lru_hash", struct fs_use, struct fs_hist, fs_hists, KTOP_FS_HISTS);
BPF_TABLE("lru_hash", struct fs_share, struct fs_both, fs_shares, KTOP_FS_SHARES);
BPF_TABLE("lru_hash", struct fs_key, u64, fs_named, KTOP_FS_NAMED);  /* when its path was sent */
BPF_PERCPU_ARRAY(fs_hosts, struct fs_host, 1);
BPF_PERCPU_ARRAY(fs_blank, struct fs_host, 1);

/* A syscall under way. */
struct fs_slot {
    u64 start_ns, arg[4];
    u64 named_ns;   /* when the file's name was last seen to */
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

/* Opens folded where they happen, by path and cgroup: a storm costs one entry, not an event each. */
struct fs_open_key {
    u64 hash;
    char comm[16];
    s32 error;
    u32 pad;
};
struct fs_open_fold {
    u64 count, last_ns, first_ns, cgroup;
    u32 tgid, named, shared, pad;  /* shared: others than tgid are in it */
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
    struct files_struct *files = F(task, files);
    if (!files)
        return NULL;
    struct fdtable *fdt = F(files, fdt);
    struct file *file = NULL;
    if (!fdt || (u32)fd >= F(fdt, max_fds))
        return NULL;
    void *array = F(fdt, fd);
    bpf_probe_read_kernel(&file, sizeof(file), array + (u64)(u32)fd * sizeof(file));
    return file;
}

/* The file's identity; false when it is no regular file. */
static __always_inline bool fs_identify(struct file *file, struct fs_key *key)
{
    if (!file)
        return false;
    struct inode *inode = PR(file, f_inode);
    if ((PR(inode, i_mode) & 0170000) != 0100000)
        return false;
    struct super_block *sb = PR(inode, i_sb);
    key->ino = PR(inode, i_ino);
    key->dev = PR(sb, s_dev);
    key->generation = PR(inode, i_generation);
    return true;
}

/* Names from a dentry up to the root of the mount namespace, each NUL-terminated; their length. */
static __always_inline u64 fs_walk(struct fs_buffer *b, struct dentry *dentry, struct vfsmount *mnt)
{
    b->e.base_whole = 0;
    /* Zero, which the verifier must not know: else no two of its states are alike. */
    u64 used = *(volatile u32 *)&b->e.base_whole;
    for (int i = 0; i < KTOP_FS_DEPTH; i++) {
        asm volatile("" : "+r"(used));
        if (used > KTOP_FS_BASE)
            break;
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
        if (!dentry || dentry == parent)
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

static __always_inline bool fs_send(struct fs_buffer *b, u64 base)
{
    /* All of it in 64 bits: else LLVM 19 compares one register and passes on another. */
    u64 size = offsetof(struct fs_buffer, base) + base;
    asm volatile("" : "+r"(size));
    if (size > sizeof(*b))
        return false;
    if (!files_events.ringbuf_output(b, size, BPF_RB_NO_WAKEUP))
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

static __always_inline void fs_observe(struct fs_hist *h, u32 op, u64 ns)
{
    u32 slot = hist_slot(ns, KTOP_HIST_SLOTS) + op * KTOP_HIST_SLOTS;
    asm volatile("" : "+r"(slot));
    if (op < 3 && slot < 3 * KTOP_HIST_SLOTS)
        __sync_fetch_and_add(&h->slots[slot], 1);
}

static __always_inline void fs_begin(struct fs_stat *s, u32 epoch)
{
    s->born = epoch;
    s->cgroup = cgroup_of(fs_current());
    bpf_get_current_comm(s->comm, sizeof(s->comm));
}

/* One operation on a file. */
static __always_inline void fs_account(struct fs_key *file, u32 op, u64 ns, s64 ret, u32 epoch)
{
    struct fs_use key = { .file = *file, .tgid = bpf_get_current_pid_tgid() >> 32 };
    u32 zero = 0;
    struct fs_stat *s = fs_stats.lookup(&key);
    if (!s) {
        struct fs_host *blank = fs_blank.lookup(&zero);
        if (!blank)
            return;
        bool made = !fs_stats.insert(&key, &blank->stat);
        s = fs_stats.lookup(&key);
        if (s && made) {
            fs_count(FS_N_USES);
            fs_begin(s, epoch);
        }
    }
    if (s)
        fs_add(s, op, ns, ret, epoch);
    if (op > 2)
        return;
    struct fs_hist *h = fs_hists.lookup(&key);
    if (!h) {
        struct fs_host *blank = fs_blank.lookup(&zero);
        if (!blank)
            return;
        fs_hists.insert(&key, (struct fs_hist *)blank->slots);
        h = fs_hists.lookup(&key);
    }
    if (h)
        fs_observe(h, op, ns);
}

/* One operation, for the host, its process and its filesystem. */
static __always_inline void fs_operation(u32 dev, u32 op, u64 ns, s64 ret, u32 epoch)
{
    struct fs_share key = { .tgid = bpf_get_current_pid_tgid() >> 32, .dev = dev };
    u32 zero = 0;
    struct fs_host *host = fs_hosts.lookup(&zero);
    if (host) {
        fs_add(&host->stat, op, ns, ret, epoch);
        u32 slot = hist_slot(ns, KTOP_HIST_SLOTS) + op * KTOP_HIST_SLOTS;
        asm volatile("" : "+r"(slot));
        if (slot < 4 * KTOP_HIST_SLOTS)
            host->slots[slot]++;
    }
    struct fs_both *p = fs_shares.lookup(&key);
    if (!p) {
        struct fs_host *blank = fs_blank.lookup(&zero);
        if (!blank)
            return;
        bool made = !fs_shares.insert(&key, (struct fs_both *)blank);
        p = fs_shares.lookup(&key);
        if (!p)
            return;
        if (made) {
            fs_count(FS_N_SHARES);
            fs_begin(&p->stat, epoch);
        }
    }
    fs_add(&p->stat, op, ns, ret, epoch);
    fs_observe(&p->hist, op, ns);
}

/* Files are named when first seen, and every ten seconds again: they may be renamed or deleted. */
static __always_inline void fs_name(struct task_struct *task, struct file *file,
                                    struct fs_key *key, u64 now)
{
    u64 *named = fs_named.lookup(key);
    if (named && now - *named < 10000000000ULL)
        return;
    if (!fs_allowed(0, now, KTOP_FS_NAMES))
        fs_count(FS_N_NAMES_CUT);
    else if (fs_send_name(task, file, key, now))
        fs_named.update(key, &now);
}
