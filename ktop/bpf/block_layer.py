"""Block layer: its probes, its records' bytes, what its C side is told.

Runs under the system's python3 too (standard library only).
"""

from __future__ import annotations

from ktop.bpf.layout import HIST_SLOTS, TASK_HIST_SLOTS, packer
from ktop.bpf.probes import Probe

DEFAULT_SLOW_NS = 10_000_000
OP_SYNC = 254          # a request that is only a flush: an fsync's
MAX_OPS = 1024         # (device, operation) pairs
MAX_PROCS = 3072       # (process, cgroup, device), the least recent go first
SLOT_BITS = 15         # places for requests under way
RING_PAGES = 256       # 1 MiB: 7,000 slow requests between two drains

# struct ktop_block_op: totals, two ticks' longest (epoch, queue, device, total), histograms.
OP_TOTALS = ("requests", "bytes", "errors", "unstamped", "undivided", "queue_ns", "device_ns",
             "total_ns")
OP = (*((name, "Q") for name in OP_TOTALS), ("longest", "8Q"), ("queue", f"{HIST_SLOTS}I"),
      ("device", f"{HIST_SLOTS}I"), ("total", f"{HIST_SLOTS}I"), ("", "4x"))
# struct ktop_block_proc: each of reads, writes, others, syncs; histograms of the first three, syncs
# are in the third.
PROC = (("requests", "4Q"), ("bytes", "4Q"), ("total_ns", "4Q"), ("errors", "4Q"),
        ("born_ns", "Q"), ("hist", f"{3 * TASK_HIST_SLOTS}I"), ("comm", "16s"))
SLOW = (("time_ns", "Q"), ("queue_ns", "Q"), ("device_ns", "Q"), ("total_ns", "Q"),
        ("cgroup", "Q"), ("sector", "Q"), ("dev", "I"), ("part", "I"), ("op", "I"), ("flags", "I"),
        ("bytes", "I"), ("pid", "I"), ("error", "i"), ("known", "I"), ("comm", "16s"))
SLOW_DIVIDED, SLOW_OWNED = 1, 2
OP_STRUCT, PROC_STRUCT, SLOW_STRUCT = packer(OP), packer(PROC), packer(SLOW)

# Totals since the programs were loaded, summed over CPUs (enum ktop_block_counter).
COUNTERS = ("lost_events", "full", "unowned")

# enum req_op (include/linux/blk_types.h), values that have never changed.
OPS = {0: "read", 1: "write", 2: "flush", 3: "discard", 5: "secure erase", 7: "zone append",
       9: "write zeroes", 11: "zone open", 13: "zone close", 15: "zone finish", 32: "driver in",
       33: "driver out", 34: "driver in", 35: "driver out", OP_SYNC: "sync"}


def _kernel_has(name: str, btf: str = "/sys/kernel/btf/vmlinux") -> bool:
    """Whether BTF knows a name; without BTF nobody knows: yes."""
    try:
        with open(btf, "rb") as f:
            return b"\0" + name.encode() + b"\0" in f.read()
    except OSError:
        return True


_DONE = Probe(
    "block_done", "block", "tp", "block_rq_complete",
    "latency histograms by device and operation, in queue and device time; by process",
    "means from /proc/diskstats", "devices without requests: zram, most device mapper")
_UNSEEN = ("requests of devices whose iostats are off; what a kernel thread writes back is its own "
           "on cgroup v1, and of the cgroup that dirtied it on v2")
_SINCE_6_5 = (
    Probe("block_start", "block", "tp", "block_io_start",
          "which process and cgroup submitted a request", "none", _UNSEEN),
    Probe("block_stamp", "block", "tp", "block_rq_issue",
          "queue and device time where the queue keeps no statistics (no write-back throttling)",
          "none: only the total is known there", "nothing",
          "costs every request about 90 ns, and most queues stamp their requests themselves"),
)
_BEFORE = (
    Probe("block_queued", "block", "tp", "block_rq_insert",
          "which process and cgroup submitted a request, where a scheduler queues", "none",
          _UNSEEN + "; what a kernel worker inserts"),
    Probe("block_issued", "block", "tp", "block_rq_issue",
          "the same where none queues, and when it was issued", "none",
          _UNSEEN + "; what a kernel worker issues"),
)
PROBES: tuple[Probe, ...] = (
    _DONE, *(_SINCE_6_5 if _kernel_has("btf_trace_block_io_start") else _BEFORE))
DEFINES: dict[str, int] = {
    # RQF_FLUSH_SEQ's bit: the second of an enum since 6.11 (5f89154e8e9e), 1 << 4 before
    "KTOP_BLOCK_FLUSH_SEQ": 1 if _kernel_has("__RQF_FLUSH_SEQ") else 4,
    "KTOP_BLOCK_OPS": MAX_OPS,
    "KTOP_BLOCK_PROCS": MAX_PROCS,
    "KTOP_BLOCK_SLOT_BITS": SLOT_BITS,
    "KTOP_BLOCK_RING_PAGES": RING_PAGES,
    "KTOP_BLOCK_OP_SIZE": OP_STRUCT.size,
    "KTOP_BLOCK_PROC_SIZE": PROC_STRUCT.size,
    "KTOP_BLOCK_SLOW_SIZE": SLOW_STRUCT.size,
}
