"""One frame as diagnosis looks at it: whose time went where, each second of it charged once."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from operator import attrgetter

from ktop import hist
from ktop.diagnosis.model import Actor, Pipe
from ktop.diagnosis.thresholds import Thresholds
from ktop.model import Cgroup, Frame, Hist, Process
from ktop.model_tcp import Connection
from ktop.scope import Members

MOST = 5  # culprits, victims


@dataclass(slots=True)
class Waiter:
    """A process that waits: task-seconds a second by what for. Exclusive of each other.

    futex: futex waits of unknown kind; socket: in syscalls on sockets. Neither is a stall as such.
    """

    process: Process
    cpu: float = 0.0
    quota: float = 0.0
    memory: float = 0.0
    disk: float = 0.0
    fsync: float = 0.0
    dirty: float = 0.0
    file: float = 0.0
    file_lock: float = 0.0
    mutex: float = 0.0
    futex: float = 0.0
    socket: float = 0.0


@dataclass
class Look:
    """A frame, its scope, and the waiters in it. `seconds`: of the interval.

    held: by control group, the part of its threads' time during which a quota holds them all back,
    and whose quota. tracked: somebody keeps the accounts. fsync_is_disk: fsyncs are charged to a
    device, as the block pipe has found. at_work: processes that others wait for, as the upstream
    pipe has found.
    """

    frame: Frame
    members: Members | None
    limits: Thresholds
    seconds: float
    waiters: dict[int, Waiter] = field(default_factory=dict)
    by_pid: dict[int, Process] = field(default_factory=dict)
    groups: dict[int, Cgroup] = field(default_factory=dict)
    held: dict[int, tuple[float, Cgroup]] = field(default_factory=dict)
    tracked: bool = False
    fsync_is_disk: bool = False
    at_work: dict[int, bool] = field(default_factory=dict)
    _ends: dict[tuple[str, int, int], list[Connection]] | None = None
    _holders: dict[int | None, list[Connection]] | None = None
    _by_path: tuple[list[str], list[Cgroup]] | None = None

    def inside(self, pid: int | None, cgroup: int | None = None) -> bool:
        """Whether it is in the scope."""
        return self.members is None or self.members.has(pid, cgroup)

    def other_end(self, c: Connection) -> Connection | None:
        """The same connection as its peer has it, where that is on this host."""
        if self._ends is None:
            self._ends = {}
            for o in self.frame.tcp.connections if self.frame.tcp is not None else ():
                self._ends.setdefault((o.local, o.local_port, o.remote_port), []).append(o)
        found = self._ends.get((c.remote, c.remote_port, c.local_port), ())
        return next((o for o in found if o.id != c.id), None)

    def connections(self, pid: int) -> list[Connection]:
        """Those of one process."""
        if self._holders is None:
            self._holders = {}
            for c in self.frame.tcp.connections if self.frame.tcp is not None else ():
                self._holders.setdefault(c.pid, []).append(c)
        return self._holders.get(pid, [])

    def sum(self, kind: str) -> float:
        """A kind of wait over the scope."""
        return float(sum(getattr(w, kind) for w in self.waiters.values()))

    def path(self, cgroup: int | None) -> str | None:
        """Path of a control group."""
        group = self.groups.get(cgroup) if cgroup is not None else None
        return group.path if group is not None else None

    def within(self, group: Cgroup) -> list[Cgroup]:
        """A control group and all below it."""
        if self._by_path is None:  # below one path is a run of all of them in order
            ordered = sorted(self.frame.cgroups, key=attrgetter("path"))
            self._by_path = [g.path for g in ordered], ordered
        paths, groups = self._by_path
        path = group.path.rstrip("/")
        if not path:
            return groups
        return (groups[bisect_left(paths, path):bisect_right(paths, path)]
                + groups[bisect_left(paths, f"{path}/"):bisect_left(paths, f"{path}0")])

    def actor(self, process: Process, share: float | None = None) -> Actor:
        """A process by its name in the report."""
        return Actor(process.pid, process.comm, self.path(process.cgroup), share)

    def actor_of(self, pid: int | None, comm: str | None, cgroup: int | None,
                 share: float | None = None) -> Actor:
        """The same for what is known of it elsewhere; its row where there is one."""
        process = self.by_pid.get(pid) if pid is not None else None
        if process is not None:
            return self.actor(process, share)
        return Actor(pid, comm or "?", self.path(cgroup), share)

    def victims(self, *kinds: str) -> list[Actor]:
        """Who waits most, with their share of it."""
        if len(kinds) == 1:
            return self.longest(attrgetter(*kinds))
        return self.longest(lambda w: float(sum(getattr(w, kind) for kind in kinds)))

    def longest(self, waits: Callable[[Waiter], float]) -> list[Actor]:
        """Who waits most by a measure of waiters."""
        found = [(stalled, w) for w in self.waiters.values() if (stalled := waits(w)) > 0.005]
        total = sum(stalled for stalled, _ in found)
        found.sort(key=lambda pair: (-pair[0], pair[1].process.pid))
        return [self.actor(w.process, stalled / total) for stalled, w in found[:MOST]]


def weighted(look: Look, amounts: Iterable[tuple[float, Process]]) -> list[Actor]:
    """Processes with their shares of a sum, the biggest first."""
    found = sorted(((a, p) for a, p in amounts if a > 0), key=lambda pair: (-pair[0], pair[1].pid))
    total = sum(a for a, _ in found)
    return [look.actor(p, a / total) for a, p in found[:MOST]]


def set_percentiles(pipe: Pipe, found: Hist | None) -> None:
    """P50, P95, P99, P99.9 of a histogram into a pipe."""
    if found is None or not found.counts:
        return
    pipe.p50_ns, pipe.p95_ns, pipe.p99_ns, pipe.p999_ns = (
        hist.percentile(found, pct) for pct in hist.PERCENTILES)


def _held_back(look: Look) -> dict[int, tuple[float, Cgroup]]:
    """What Look.held says.

    throttled_pct sums over CPUs. While a group is throttled everybody in it that could run waits,
    so a runnable thread's part is the throttled time of one CPU: divided by the CPUs it could use.
    """
    found: dict[int, tuple[float, Cgroup]] = {}
    for quota in look.frame.cgroups:
        if not quota.throttled_pct:
            continue
        members = look.within(quota)
        runnable = sum((g.cpu_pct or 0.0) + (g.runq_wait_pct or 0.0) for g in members) / 100
        cpus = min(float(look.frame.host.cpus), max(1.0, runnable))
        part = min(1.0, quota.throttled_pct / 100 / cpus)
        for group in members:
            if part > found.get(group.id, (0.0, quota))[0]:
                found[group.id] = (part, quota)
    return found


def look_at(frame: Frame, members: Members | None, limits: Thresholds) -> Look:
    """Split the time of everybody who waits in the scope."""
    interval = frame.clock.interval_ns
    look = Look(frame, members, limits, (interval or 0) / 1e9)
    look.groups = {g.id: g for g in frame.cgroups}
    look.held = _held_back(look)
    pauses: dict[int, float] = {}
    if frame.files is not None and frame.files.cache is not None:
        pauses = {t.pid: (t.pause_pct or 0.0) / 100 for t in frame.files.cache.throttled}
    pids = members.pids if members is not None else None
    by_pid, waiters = look.by_pid, look.waiters
    for p in frame.processes.rows:
        by_pid[p.pid] = p
        waits = p.waits_pct
        if waits is not None:
            look.tracked = True
        if p.kernel_thread or not (waits or p.runq_wait_pct or p.off_cpu_pct):
            continue
        if pids is not None and p.pid not in pids and not look.inside(p.pid, p.cgroup):
            continue
        off = p.off_cpu_pct
        if not waits and not p.runq_wait_pct and not (off and "lock" in off):
            continue
        held, _ = look.held.get(p.cgroup or 0, (0.0, None))
        waiters[p.pid] = _split(p, held, pauses.get(p.pid, 0.0))
    _thrashing(look)
    return look


def _split(p: Process, held: float, pause: float) -> Waiter:
    """One process's time."""
    waits = p.waits_pct or {}
    queued = (p.runq_wait_pct or 0.0) / 100
    w = Waiter(p)
    if held:
        w.quota = min(queued, ((p.cpu_pct or 0.0) / 100 + queued) * held)
    w.cpu = queued - w.quota
    w.memory = (waits.get("memory", 0.0) + waits.get("reclaim", 0.0)) / 100
    w.disk = waits.get("disk", 0.0) / 100
    w.dirty = min(w.disk, pause)  # the pauses of balance_dirty_pages() are waits in iowait
    w.disk -= w.dirty
    w.fsync = waits.get("fsync", 0.0) / 100
    w.file = waits.get("file", 0.0) / 100
    w.file_lock = waits.get("file_lock", 0.0) / 100
    w.mutex = waits.get("mutex", 0.0) / 100
    w.socket = waits.get("socket", 0.0) / 100
    locks = (p.off_cpu_pct or {}).get("lock", 0.0) / 100
    w.futex = max(0.0, locks - w.mutex - w.file_lock)
    return w


def _thrashing(look: Look) -> None:
    """Reads of what was thrown away under a memory limit are the memory's, not the disk's."""
    pressure = look.frame.pressure
    for group in pressure.groups if pressure is not None else ():
        if not group.refaults_per_s or not group.limit_hits_per_s:
            continue
        waiters = [look.waiters[pid] for pid in group.pids if pid in look.waiters]
        read = sum(w.process.read_bytes_per_s or 0.0 for w in waiters)
        if not read:
            continue
        again = min(1.0, group.refaults_per_s * 4096 / read)
        if again < look.limits.refault_share:
            continue
        for w in waiters:
            w.memory += w.disk * again
            w.disk *= 1 - again
