"""The classic run queue latency: wakeup to switch, with a start-time hash, as runqlat(8) does it.

Run by the system's python3 (bcc): `reference_runqlat.py INCLUDE_TREE DEFINES...`. Prints `ready`,
then for each line on standard input the totals so far as JSON: {"counts": [samples by bucket],
"sum_ns": n}. Buckets are ktop's own (ktop/hist.py), so that distributions can be compared.
"""

import json
import os
import sys

PROGRAM = r"""
BPF_HASH(start, u32, u64, 65536);
BPF_PERCPU_ARRAY(hist, u64, KTOP_HIST_SLOTS);
BPF_PERCPU_ARRAY(sum, u64, 1);

static __always_inline u32 hist_slot(u64 ns)
{
    u32 octave = 0, slot;
    u64 v = ns >> KTOP_HIST_SHIFT;
    if (!v)
        return 0;
    for (int i = 0; i < 40; i++)
        if (v >> (i + 1))
            octave = i + 1;
    slot = 1 + (octave << KTOP_HIST_SUB)
         + ((ns >> (octave + KTOP_HIST_SHIFT - KTOP_HIST_SUB)) & ((1 << KTOP_HIST_SUB) - 1));
    return slot < KTOP_HIST_SLOTS ? slot : KTOP_HIST_SLOTS - 1;
}

static __always_inline int queued(struct task_struct *p)
{
    u32 pid = 0;
    u64 now = bpf_ktime_get_ns();
    bpf_probe_read_kernel(&pid, sizeof(pid), &p->pid);
    if (pid)
        start.update(&pid, &now);
    return 0;
}

RAW_TRACEPOINT_PROBE(sched_wakeup) { return queued((void *)ctx->args[0]); }
RAW_TRACEPOINT_PROBE(sched_wakeup_new) { return queued((void *)ctx->args[0]); }

RAW_TRACEPOINT_PROBE(sched_switch)
{
    struct task_struct *prev = (void *)ctx->args[1], *next = (void *)ctx->args[2];
    u32 pid = 0, state = 0, zero = 0;
    bpf_probe_read_kernel(&state, sizeof(state), &prev->__state);
    if (state == 0)
        queued(prev);
    bpf_probe_read_kernel(&pid, sizeof(pid), &next->pid);
    u64 *since = start.lookup(&pid);
    if (!since)
        return 0;
    u64 wait = bpf_ktime_get_ns() - *since;
    start.delete(&pid);
    u32 slot = hist_slot(wait);
    u64 *n = hist.lookup(&slot), *s = sum.lookup(&zero);
    if (n)
        (*n)++;
    if (s)
        *s += wait;
    return 0;
}
"""


def main() -> None:
    os.environ["BCC_KERNEL_SOURCE"] = sys.argv[1]
    from bcc import BPF

    program = BPF(text=PROGRAM, cflags=sys.argv[2:])

    def totals():
        slots = int(next(f for f in sys.argv if "HIST_SLOTS" in f).split("=")[1])
        return ([sum(program["hist"][program["hist"].Key(i)]) for i in range(slots)],
                sum(program["sum"][program["sum"].Key(0)]))

    print("ready", flush=True)
    for _ in sys.stdin:
        counts, total = totals()
        print(json.dumps({"counts": counts, "sum_ns": total}), flush=True)
    program.cleanup()


if __name__ == "__main__":
    main()
