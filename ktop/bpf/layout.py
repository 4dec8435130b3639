"""The bytes that cross from the BPF programs to Python: one definition for both sides.

Each record is a list of (name, struct format); the C structs in `ktop.bpf.h` carry the same names
in the same order, and the compile child passes the sizes below to the compiler, which asserts them.
"""

from __future__ import annotations

import struct

# Off-CPU reasons, as the scheduler program files them (enum ktop_reason in ktop.bpf.h).
REASONS = ("runnable", "disk", "uninterruptible", "io", "network", "lock", "sleep", "stopped",
           "other")

# What was waited for, finer than the reason and exclusive: ktop.model.WAITS (enum ktop_wait).
WAITS = ("disk", "memory", "fsync", "file", "file_lock", "mutex", "socket", "reclaim")

# Latency histograms: bucket 0 is under 2**HIST_SHIFT ns, then 2**HIST_SUB buckets an octave.
HIST_SHIFT = 10
HIST_SUB = 2
HIST_SLOTS = 105        # up to 2**36 ns, 68 s; the last bucket holds all beyond
TASK_HIST_SLOTS = 82    # of one thread: the same buckets, all beyond 1.3 s in the last

RUNQLEN_SLOTS = 64      # lengths 0..62, the last holds all beyond
ARGS_MAX = 4096         # bytes of a command line that an exec event carries at most
FILENAME_MAX = 128

TAG_TASK, TAG_HIST = 1, 2
EVENT_EXEC, EVENT_EXEC_FAILED, EVENT_EXIT = 1, 2, 3

TASK = (
    ("tag", "I"), ("pid", "I"), ("tgid", "I"), ("ppid", "I"), ("uid", "I"), ("state", "I"),
    ("flags", "I"), ("cpu", "i"), ("reason", "I"), ("syscall", "i"), ("threads", "I"),
    ("forks", "I"), ("comm", "16s"), ("start_boottime_ns", "Q"), ("cgroup", "Q"),
    ("cpu_ns", "Q"), ("run_delay_ns", "Q"), ("utime_ns", "Q"), ("stime_ns", "Q"),
    ("voluntary", "Q"), ("involuntary", "Q"), ("major_faults", "Q"), ("read_bytes", "Q"),
    ("write_bytes", "Q"), ("migrations", "Q"), ("rss_pages", "q"), ("waiting_ns", "Q"),
    ("off_ns", "Q"), ("pend_ns", "Q"), ("seen_delay_ns", "Q"), ("slept_ns", "9Q"),
    ("wait", "Q"), ("waited_ns", f"{len(WAITS)}Q"),
    ("dead_cpu_ns", "Q"), ("dead_utime_ns", "Q"), ("dead_stime_ns", "Q"),
    ("dead_voluntary", "Q"), ("dead_involuntary", "Q"), ("dead_major_faults", "Q"),
)
TASK_FLAG_KTHREAD, TASK_FLAG_IOWAIT, TASK_FLAG_TRACKED = 1, 2, 4

EVENT = (
    ("kind", "I"), ("pid", "I"), ("ppid", "I"), ("uid", "I"), ("time_ns", "Q"),
    ("start_boottime_ns", "Q"), ("cgroup", "Q"), ("code", "i"), ("args_len", "I"),
    ("cpu_ns", "Q"), ("run_delay_ns", "Q"), ("lifetime_ns", "Q"), ("comm", "16s"),
    ("parent_comm", "16s"), ("filename", f"{FILENAME_MAX}s"),
)


def packer(fields: tuple[tuple[str, str], ...]) -> struct.Struct:
    """The struct.Struct of a record, in the C ABI's own alignment."""
    return struct.Struct("@" + "".join(fmt for _, fmt in fields))


RECORD_SIZE = max(packer(TASK).size, 8 + 4 * TASK_HIST_SLOTS)  # both kinds are this long
TASK_STRUCT = packer((*TASK, ("", f"{RECORD_SIZE - packer(TASK).size}x")))
HIST_STRUCT = packer((("tag", "I"), ("pid", "I"), ("hist", f"{TASK_HIST_SLOTS}I"),
                      ("", f"{RECORD_SIZE - 8 - 4 * TASK_HIST_SLOTS}x")))
EVENT_STRUCT = packer(EVENT)

# What the C side is told, and asserts.
DEFINES = {
    "KTOP_REASONS": len(REASONS),
    "KTOP_WAITS": len(WAITS),
    "KTOP_HIST_SHIFT": HIST_SHIFT,
    "KTOP_HIST_SUB": HIST_SUB,
    "KTOP_HIST_SLOTS": HIST_SLOTS,
    "KTOP_TASK_HIST_SLOTS": TASK_HIST_SLOTS,
    "KTOP_RUNQLEN_SLOTS": RUNQLEN_SLOTS,
    "KTOP_ARGS_MAX": ARGS_MAX,
    "KTOP_FILENAME_MAX": FILENAME_MAX,
    "KTOP_TASK_SIZE": packer(TASK).size,
    "KTOP_RECORD_SIZE": RECORD_SIZE,
    "KTOP_EVENT_SIZE": EVENT_STRUCT.size,
}

# Totals since the programs were loaded, summed over CPUs (enum ktop_counter, ktop_life_counter).
COUNTERS = ("forks", "untracked")
LIFE_COUNTERS = ("execs", "execs_failed", "exits", "lost_events")
