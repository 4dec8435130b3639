"""Every probe: what it attaches to, what it shows, what stands in for it, what it cannot see.

With the other layers' tables the one source behind loading, `ktop doctor` and `Frame.health`. Runs
under the system's python3 too (standard library only).
"""

from __future__ import annotations

from dataclasses import dataclass

RUNQLEN_HZ = 99
TRACEFS = "/sys/kernel/tracing"  # Documentation/trace/ftrace.rst
PERF_KINDS = ("tracepoint", "clock")  # held attached by perf events, all others by a link


@dataclass(frozen=True)
class Probe:
    """One BPF program and its attach point.

    kind: `iter` (target: the iterator), `tp` (a raw tracepoint, typed where the kernel can),
    `tracepoint` (tracefs, category/event) or `clock` (target: samples per second on each CPU).
    """

    name: str
    layer: str
    kind: str
    target: str
    shows: str
    fallback: str
    blind: str
    on_demand: str = ""  # why it is attached only while its layer is looked at or recorded
    over: str = ""       # the map that an iterator of a map's elements runs over

    @property
    def attach_point(self) -> str:
        """As `doctor` prints it."""
        if self.kind == "clock":
            return f"perf cpu-clock {self.target} Hz"
        return f"{'raw_tp' if self.kind == 'tp' else self.kind}/{self.target}"


_RECLAIM = "time that threads spend freeing memory themselves"
_NOT_KSWAPD = "what kswapd frees in the background"
PROBES = (
    Probe("tasks", "processes", "iter", "task",
          "every thread's state, counters and account in one read",
          "/proc by psutil: no blocked time, costs 20 times as much",
          "threads that live and die between two reads (their exit event has them)"),
    Probe("process_fork", "processes", "tp", "sched_process_fork",
          "forks per process and in all",
          "forks in all, threads included, from /proc/stat", "nothing"),
    Probe("sched_switch", "sched", "tp", "sched_switch",
          "run queue latency histograms, time off CPU by reason, context switches per CPU",
          "waiting threads from run_delay, switches from /proc/stat: no histogram, no reasons",
          "the wait of a time slice that has not ended (it counts when the thread next leaves)"),
    Probe("reclaim_enter", "sched", "tp", "mm_vmscan_direct_reclaim_begin", _RECLAIM,
          "pressure of the host and waits, without what reclaim burns on a CPU", _NOT_KSWAPD),
    Probe("reclaim_leave", "sched", "tp", "mm_vmscan_direct_reclaim_end", _RECLAIM,
          "as reclaim_enter", _NOT_KSWAPD),
    Probe("reclaim_group_enter", "sched", "tp", "mm_vmscan_memcg_reclaim_begin",
          _RECLAIM + " for its control group's limit", "as reclaim_enter", _NOT_KSWAPD),
    Probe("reclaim_group_leave", "sched", "tp", "mm_vmscan_memcg_reclaim_end",
          _RECLAIM + " for its control group's limit", "as reclaim_enter", _NOT_KSWAPD),
    Probe("runqlen", "sched", "clock", str(RUNQLEN_HZ),
          "run queue length per CPU",
          "none: waiting threads per CPU come from the waits", "queues shorter-lived than 10 ms"),
)
