/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Shared by all layers: typed and untyped reads, histogram buckets, the cgroup of a task.
 *
 * KTOP_TYPED: the programs are typed (tp_btf), so a kernel pointer is read by a plain load that
 * the verifier checks; otherwise every read is bpf_probe_read_kernel. bcc rewrites neither inside
 * a static inline function, so all logic lives in such functions.
 */
#ifdef KTOP_KERNEL_HEADERS  /* no BTF: the structs of the installed headers, trusted as they are */
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/cgroup.h>
#include <linux/kernfs.h>
#include <linux/cred.h>
#include <linux/mm_types.h>
#include <linux/binfmts.h>
#define KTOP_HAS_cpu_cgrp_id 1
#define VALUE(p, field, inner) F(p, field.inner)
#else                       /* structs from BTF hold kuid_t, atomic_t and their like as numbers */
#define VALUE(p, field, inner) F(p, field)
#endif

#ifdef KTOP_TYPED
#define F(p, field) ((p)->field)
#else
#define F(p, field) PR(p, field)
#endif
/* Always by helper: for pointers that the verifier does not know in either flavour. */
#define PR(p, field) ({ typeof((p)->field) v_; \
    bpf_probe_read_kernel(&v_, sizeof(v_), (const void *)&(p)->field); v_; })

/* A bit field. By helper its word is read, and of that the bits where BTF has them; where they are in
 * the structs of installed headers cannot be asked: 0. */
#ifdef KTOP_TYPED
#define BITS(record, p, field) ((p)->field)
#elif defined(KTOP_KERNEL_HEADERS)
#define BITS(record, p, field) 0
#else
#define BITS(record, p, field) \
    (PR(p, field##_word) >> KTOP_SHIFT_##record##_##field & KTOP_MASK_##record##_##field)
#endif

/* @kernel
 * task_struct: pid tgid comm flags real_parent|parent group_leader cgroups
 * css_set: dfl_cgrp subsys
 * cgroup_subsys_state: cgroup
 * cgroup: kn
 * kernfs_node: id
 * task_struct: stack?
 * pt_regs: orig_ax|syscallno? di? si? dx? cs?
 * bpf_iter_meta: seq
 * helper task_pt_regs sock_from_file
 * enum cgroup_subsys_id: cpu_cgrp_id
 */

#define KTOP_PF_KTHREAD 0x00200000

/* An index below the constant `limit`, tested against an immediate: clang would test one copy of a
 * register and use another, or compare two registers, which verifiers of 6.1 and older lose. */
#define bounded(index, limit) ({ u64 i_ = (index); \
    asm volatile("if %0 < %1 goto +1\n\t%0 = %2" : "+r"(i_) : "i"(limit), "i"((limit) - 1)); i_; })

/* Bucket of a latency, as ktop/hist.py numbers them: 0 is under 2^SHIFT ns, then 2^SUB an octave. */
static __always_inline u64 hist_slot(u64 ns, const u32 slots)
{
    u32 octave = 0;
    u64 v = ns >> KTOP_HIST_SHIFT;
    if (!v)
        return 0;
    if (v >> 32) { v >>= 32; octave += 32; }
    if (v >> 16) { v >>= 16; octave += 16; }
    if (v >> 8) { v >>= 8; octave += 8; }
    if (v >> 4) { v >>= 4; octave += 4; }
    if (v >> 2) { v >>= 2; octave += 2; }
    octave += v >> 1;
    return bounded(1 + (octave << KTOP_HIST_SUB) + ((ns >> (octave + KTOP_HIST_SHIFT
                   - KTOP_HIST_SUB)) & ((1 << KTOP_HIST_SUB) - 1)), slots);
}

/* Which cgroup a task is in: the v2 hierarchy's, or with v1 the cpu controller's. The id is the
 * inode number of its directory (kernfs_node.id, 5.5 and later). */
static __always_inline u64 cgroup_of(struct task_struct *task)
{
    struct css_set *set = F(task, cgroups);
#if defined(KTOP_CGROUP_V1) && defined(KTOP_HAS_cpu_cgrp_id)
    struct cgroup_subsys_state *css = F(set, subsys[cpu_cgrp_id]);
    struct cgroup *cgrp = F(css, cgroup);
#else
    struct cgroup *cgrp = F(set, dfl_cgrp);
#endif
    struct kernfs_node *node = F(cgrp, kn);
    return F(node, id);
}

/* The same by helper alone: where a task is no typed pointer (perf events, after a cast). */
static __always_inline u64 cgroup_by_helper(struct task_struct *task)
{
    struct css_set *set = PR(task, cgroups);
#if defined(KTOP_CGROUP_V1) && defined(KTOP_HAS_cpu_cgrp_id)
    struct cgroup_subsys_state *css = PR(set, subsys[cpu_cgrp_id]);
    struct cgroup *cgrp = PR(css, cgroup);
#else
    struct cgroup *cgrp = PR(set, dfl_cgrp);
#endif
    struct kernfs_node *node = PR(cgrp, kn);
    return PR(node, id);
}

/* The registers a thread entered the kernel with, read by REG(). */
#if defined(KTOP_TYPED) && defined(KTOP_HELPER_task_pt_regs)   /* 5.15, dd6e10fbd9fb */
#define KTOP_REGS 1
#define REG(regs, field) ((regs)->field)
static __always_inline struct pt_regs *regs_of(struct task_struct *task)
{
    return (struct pt_regs *)bpf_task_pt_regs(task);
}
#elif defined(KTOP_HAS_pt_regs_cs) && defined(KTOP_HAS_task_struct_stack)
/* Before: where x86's task_pt_regs() has them, and only if they are those of 64-bit user code. */
#define KTOP_REGS 1
#define KTOP_THREAD_SIZE 16384
#define KTOP_USER_CS 0x33
#define REG(regs, field) PR(regs, field)
static __always_inline struct pt_regs *regs_of(struct task_struct *task)
{
    void *stack = F(task, stack);
    struct pt_regs *regs = stack + KTOP_THREAD_SIZE - sizeof(struct pt_regs);
    return PR(regs, cs) == KTOP_USER_CS ? regs : NULL;
}
#else
static __always_inline struct pt_regs *regs_of(struct task_struct *task) { return NULL; }
#endif
