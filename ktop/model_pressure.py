"""Memory under pressure, and limits of control groups. Conventions: ktop/model.py."""

from __future__ import annotations

from ktop.parts import Part, Real


class MemoryGroup(Part):
    """A memory control group that limits processes which waited for memory in this interval.

    path: in the hierarchy of the memory controller, of the nearest group with a limit.
    limit_hits_per_s: how often a charge met the limit (memory.failcnt; v2 memory.events,
    high and max).
    refaults_per_s: pages that it had to give back and then needed again (memory.stat).
    some_pct: PSI of the group, v2 only. pids: those that waited.
    """

    path: str
    usage_bytes: int | None = None
    limit_bytes: int | None = None
    limit_hits_per_s: Real | None = None
    some_pct: Real | None = None
    oom_kills_total: int | None = None
    pids: list[int] = []
    refaults_per_s: Real | None = None


class IoLimit(Part):
    """A limit that the administrator has set on I/O of a group, with processes that wait there.

    path: in the hierarchy of the blkio (v2 io) controller. dev: major << 20 | minor.
    what: `reads`, `writes` (a second), `read bytes`, `write bytes`.
    """

    path: str
    dev: int
    what: str
    per_s: Real
    pids: list[int] = []


class Pressure(Part):
    """Memory of the host under pressure, and the limits that waiting processes are under.

    memory_some_pct, memory_full_pct, io_some_pct, cpu_some_pct: % of the interval in which some
    (all) tasks were stalled, /proc/pressure (differences of total=). The rates are of /proc/vmstat:
    allocstall (direct reclaims), pgscan_direct, pgscan_kswapd, pswpin, pswpout (pages),
    workingset_refault (pages that had been evicted and came back), oom_kill.
    groups, io_limits: looked up for processes that wait, a few a tick.
    """

    memory_some_pct: Real | None = None
    memory_full_pct: Real | None = None
    io_some_pct: Real | None = None
    cpu_some_pct: Real | None = None
    direct_reclaims_per_s: Real | None = None
    scanned_direct_per_s: Real | None = None
    scanned_kswapd_per_s: Real | None = None
    swap_in_per_s: Real | None = None
    swap_out_per_s: Real | None = None
    refaults_per_s: Real | None = None
    oom_kills_per_s: Real | None = None
    swap_total_bytes: int | None = None
    swap_free_bytes: int | None = None
    groups: list[MemoryGroup] = []
    io_limits: list[IoLimit] = []
