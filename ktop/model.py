"""The contract: one `Frame` is one tick of everything, and the only thing that crosses a border.

Conventions for every field:
- `None` is unknown, never zero. A rate is None on the first sample.
- `_pct` of one CPU or of one thread's wall time (100 = one thread all the time; a process with
  many threads can exceed it), unless the docstring says otherwise; `_per_s` events a second over
  the frame's interval; `_ns` nanoseconds; `_bytes` bytes.
- Times of day are CLOCK_REALTIME in ns. Text was cleaned where it entered (ktop/text.py).
- New fields go to the end of a struct with a default: structs travel as arrays, and old recordings
  must stay readable.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from ktop.model_block import Block
from ktop.model_detail import Detail
from ktop.model_files import Files
from ktop.model_pressure import Pressure
from ktop.model_stacks import Stacks
from ktop.model_tcp import Tcp
from ktop.parts import SCHEMA, Hist, Part, Real, Time

__all__ = ["SCHEMA", "Block", "Detail", "Files", "Hist", "Part", "Pressure", "Stacks", "Tcp"]


class Clock(Part):
    """When the frame was taken. `interval_ns` is the time since the one before, None in the first.

    `gap_ns`: wall-clock time that passed beside the monotonic clock's (a step, a suspend).
    """

    wall_ns: Time
    monotonic_ns: Time
    interval_ns: Annotated[int, msgspec.Meta(ge=1, le=1 << 62)] | None = None
    gap_ns: Annotated[int, msgspec.Meta(ge=-(1 << 62), le=1 << 62)] = 0


class Host(Part):
    """The machine. Memory from /proc/meminfo; load averages over 1, 5 and 15 minutes."""

    hostname: str
    kernel: str
    machine: str
    cpus: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]
    boot_wall_ns: int
    uptime_ns: int
    memory_total_bytes: int | None = None
    memory_available_bytes: int | None = None
    load1: Real | None = None
    load5: Real | None = None
    load15: Real | None = None


class Process(Part):
    """One process, its threads folded in. Identity: (pid, start_boottime_ns).

    state: of the most active thread, as ps(1) has it: R running or runnable, S sleeping, D
    uninterruptible, T stopped, t traced, Z zombie, X dead, I idle kernel thread.
    cpu_pct: sum_exec_runtime. user_pct and system_pct split it in the proportion of utime and
    stime, as the kernel's cputime_adjust() does.
    runq_wait_pct: time runnable but not running (sched_info.run_delay, with waits under way).
    off_cpu_pct: time off CPU by reason (`OFF_CPU`), without run queue wait.
    blocked_pct: the part of it that is not by choice: disk, uninterruptible, io, network, lock.
    blocked_reason: the syscall it is or was last blocked in, `iowait`, or a reason of OFF_CPU.
    voluntary_per_s, involuntary_per_s: context switches (nvcsw, nivcsw).
    rss_bytes: file, anonymous and shared pages; the kernel's own per-CPU approximation.
    read_bytes_per_s, write_bytes_per_s: block device traffic caused (task_io_accounting).
    forks_per_s: processes it created. execs_per_s: executions by it and its direct children.
    runq: run queue latency of its threads in this interval, None where it did not run.
    waits_pct: time by what was waited for, exclusive (`WAITS`): parts of off_cpu_pct, and
    `reclaim`, which is time on a CPU.
    """

    pid: int
    ppid: int
    uid: int | None
    comm: str
    args: str | None
    cgroup: int | None
    state: str
    threads: int
    start_boottime_ns: int
    kernel_thread: bool = False
    cpu_pct: Real | None = None
    user_pct: Real | None = None
    system_pct: Real | None = None
    runq_wait_pct: Real | None = None
    blocked_pct: Real | None = None
    blocked_reason: str | None = None
    off_cpu_pct: dict[str, Real] | None = None
    voluntary_per_s: Real | None = None
    involuntary_per_s: Real | None = None
    migrations_per_s: Real | None = None
    rss_bytes: int | None = None
    major_faults_per_s: Real | None = None
    read_bytes_per_s: Real | None = None
    write_bytes_per_s: Real | None = None
    forks_per_s: Real | None = None
    execs_per_s: Real | None = None
    runq: Hist | None = None
    waits_pct: dict[str, Real] | None = None


class Thread(Part):
    """One thread of a process that has more than one; fields as in Process, for it alone.

    off_cpu_pct: of the process that is looked at (Control.detail) only.
    """

    tid: int
    pid: int
    comm: str
    state: str
    cpu: int | None
    cpu_pct: Real | None = None
    runq_wait_pct: Real | None = None
    blocked_pct: Real | None = None
    blocked_reason: str | None = None
    voluntary_per_s: Real | None = None
    involuntary_per_s: Real | None = None
    off_cpu_pct: dict[str, Real] | None = None


OFF_CPU = ("disk", "uninterruptible", "io", "network", "lock", "sleep", "stopped", "other")
# disk: uninterruptible, in iowait. memory: a memory stall as PSI has it (reclaim, swap-in,
# refaults of what was evicted). fsync: in fsync(2) and its like. file: in another syscall on a
# file, directory or path (inode locks, FUSE). file_lock: flock, fcntl. mutex: a futex marked as a
# contended lock. socket: reading, writing, connecting. reclaim: freeing memory itself, on a CPU.
WAITS = ("disk", "memory", "fsync", "file", "file_lock", "mutex", "socket", "reclaim")
BLOCKED = ("disk", "uninterruptible", "io", "network", "lock")


class Cgroup(Part):
    """One control group that has processes, or a quota. Sums are over its own processes only.

    path: in its hierarchy, "/" is the root. name: the container, pod or unit derived from it.
    quota_cpus: cpu.max or cfs_quota_us / cfs_period_us, None without a limit.
    periods_per_s, throttled_per_s: cpu.stat nr_periods, nr_throttled. throttled_pct: throttled time
    summed over its CPUs, as % of wall time (so it may exceed 100).
    """

    id: int
    path: str
    name: str
    processes: int = 0
    threads: int = 0
    cpu_pct: Real | None = None
    runq_wait_pct: Real | None = None
    blocked_pct: Real | None = None
    quota_cpus: Real | None = None
    periods_per_s: Real | None = None
    throttled_per_s: Real | None = None
    throttled_pct: Real | None = None
    runq: Hist | None = None


class Cpu(Part):
    """One logical CPU. Time shares are % of that CPU's wall time, from /proc/stat.

    runq_len: mean run queue length, the running thread included, over `runq_samples` samples;
    runq_len_max: the longest sampled. waiting: mean number of threads that waited here
    (Little: sum of the waits that ended / interval). switches_per_s: context switches.
    """

    cpu: int
    user_pct: Real | None = None
    system_pct: Real | None = None
    nice_pct: Real | None = None
    irq_pct: Real | None = None
    softirq_pct: Real | None = None
    iowait_pct: Real | None = None
    steal_pct: Real | None = None
    idle_pct: Real | None = None
    runq_len: Real | None = None
    runq_len_max: int | None = None
    runq_samples: int = 0
    waiting: Real | None = None
    switches_per_s: Real | None = None


class Sched(Part):
    """The scheduler of the whole host.

    runq: run queue latency of every time slice that ended in this interval.
    runq_len: samples by queue length, all CPUs. waiting: mean number of threads waiting for a CPU
    (rate x latency). off_cpu: mean number of threads off CPU by reason (`OFF_CPU`).
    """

    runq: Hist | None = None
    runq_len: dict[int, int] = {}
    waiting: Real | None = None
    switches_per_s: Real | None = None
    migrations_per_s: Real | None = None
    off_cpu: dict[str, Real] | None = None


class ProcessEvent(Part):
    """An execution or an exit.

    kind: `exec`, `exec_failed` or `exit`. code: exec_failed: the errno; exit: the exit status, None
    when a signal ended it (`signal`, `core_dumped`). error: errno's name. args: the command line;
    args_cut: bytes of it that did not fit. lifetime_ns since fork.

    cpu_ns: of the whole process, as far as the scheduler has accounted for it before the exit: at
    most a tick (1 to 10 ms) too little; None: for nothing yet (update_curr(), sched/fair.c).
    """

    kind: str
    time_ns: int
    pid: int
    ppid: int
    uid: int
    comm: str
    parent_comm: str
    cgroup: int
    args: str | None = None
    args_cut: int = 0
    filename: str | None = None
    code: int | None = None
    error: str | None = None
    signal: str | None = None
    core_dumped: bool = False
    lifetime_ns: int | None = None
    cpu_ns: int | None = None


class ProcessFold(Part):
    """Executions and exits folded by (parent command, command, cgroup), over the last minute.

    execs, failed, exits, exits_bad (status not 0, or a signal): counts within `window_ns`.
    execs_per_min: execs scaled to a minute. cpu_ns, lifetime_ns: sums over the exits.
    last_error: errno name, exit status or signal last seen. last_args: newest command line.
    """

    parent_comm: str
    comm: str
    cgroup: int
    window_ns: int
    execs: int
    failed: int
    exits: int
    exits_bad: int
    execs_per_min: Real
    cpu_ns: int
    lifetime_ns: int
    last_error: str | None = None
    last_args: str | None = None


class Processes(Part):
    """The processes layer. Totals since the collector started are exact whatever events were lost.

    events: newest last, at most EVENTS_PER_FRAME; `events_cut` more happened in this interval.
    """

    rows: list[Process] = []
    threads: list[Thread] = []
    events: list[ProcessEvent] = []
    events_cut: int = 0
    folds: list[ProcessFold] = []
    forks_total: int | None = None
    execs_total: int | None = None
    execs_failed_total: int | None = None
    exits_total: int | None = None
    forks_per_s: Real | None = None
    execs_per_s: Real | None = None
    exits_per_s: Real | None = None


EVENTS_PER_FRAME = 500


class Probe(Part):
    """How one probe fares. status: `live`, `off` (on demand, nobody looks), `fallback` (another
    source stands in), `absent`.

    run_ns, runs: of the program since it was loaded, as far as sampled; None when never sampled.
    """

    name: str
    layer: str
    attach: str
    status: str
    reason: str = ""
    shows: str = ""
    fallback: str = ""
    blind: str = ""
    run_ns: int | None = None
    runs: int | None = None


class Health(Part):
    """What the figures rest on, and what they cost.

    source: `bpf` or `procfs`. banner: one line when something is missing, None when all is well.
    collector_cpu_pct, collector_rss_bytes, tick_ns (CPU time of the last tick).
    probes_cpu_pct: share of one CPU spent in our programs; probes_estimated when it is extrapolated
    from sampled seconds (statistics cost time themselves, so they are on one second in ten).
    lost_events: that did not fit into the ring buffer, lost_total since the start.
    untracked: context switches of threads without an account (fork bursts, table full).
    skipped_frames: made but not sent, because the reader was slow.
    """

    source: str
    banner: str | None = None
    notes: list[str] = []
    probes: list[Probe] = []
    collector_cpu_pct: Real | None = None
    collector_rss_bytes: int | None = None
    tick_ns: int | None = None
    probes_cpu_pct: Real | None = None
    probes_estimated: bool = False
    lost_events: int = 0
    lost_total: int = 0
    untracked_total: int = 0
    skipped_frames: int = 0
    map_bytes: int | None = None


class Frame(Part):
    """One tick of everything. `seq` counts up from 1. `users` names the uids of this frame.

    files, tcp, block: None until their probes are loaded, a moment after the first frames.
    stacks, detail: None unless asked for (ktop.wire.Control).
    """

    schema: int
    seq: int
    clock: Clock
    host: Host
    processes: Processes
    sched: Sched
    cpus: list[Cpu]
    cgroups: list[Cgroup]
    users: dict[int, str]
    health: Health
    files: Files | None = None
    tcp: Tcp | None = None
    block: Block | None = None
    stacks: Stacks | None = None
    detail: Detail | None = None
    pressure: Pressure | None = None
