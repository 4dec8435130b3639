"""Memory pressure: PSI, /proc/vmstat, and the limits of control groups whose processes wait.

Times of single threads come with the accounts (`Process.waits_pct`); here is what /proc and the
control groups say of the whole. A group is looked at only while a process of it waits.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from ktop.collect.memory import Memory
from ktop.collect.proctext import figures, number, read_number, read_text, unescaped
from ktop.model import Process
from ktop.model_pressure import IoLimit, MemoryGroup, Pressure
from ktop.text import clean

_PER_TICK = 16              # processes whose groups are looked up, the longest waiting first
_WAITED_PCT = 5.0           # of one thread's time; less is not worth a look
_KEEP_NS = 3_000_000_000    # how long a process's groups and limits are believed
_NO_LIMIT = 1 << 60         # v1 says PAGE_COUNTER_MAX, 2**63 less a page
_RATES = {
    "direct_reclaims_per_s": ("allocstall_",), "scanned_direct_per_s": ("pgscan_direct ",),
    "scanned_kswapd_per_s": ("pgscan_kswapd ",), "swap_in_per_s": ("pswpin ",),
    "swap_out_per_s": ("pswpout ",), "refaults_per_s": ("workingset_refault",),
    "oom_kills_per_s": ("oom_kill ",)}
_V1_LIMITS = {"blkio.throttle.read_iops_device": "reads",
              "blkio.throttle.write_iops_device": "writes",
              "blkio.throttle.read_bps_device": "read bytes",
              "blkio.throttle.write_bps_device": "write bytes"}
_V2_LIMITS = {"riops": "reads", "wiops": "writes", "rbps": "read bytes", "wbps": "write bytes"}


def psi_totals(text: str) -> dict[str, int]:
    """Stalled microseconds by line (`some`, `full`) of a pressure file."""
    found = {}
    for line in text.splitlines():
        words = line.split()
        total = number(words[-1].removeprefix("total=")) if words else None
        if total is not None:
            found[words[0]] = total
    return found


def vmstat_totals(vmstat: Mapping[str, int]) -> dict[str, int]:
    """Counters of /proc/vmstat under the names of Pressure's rates, summed over zones and kinds."""
    found: dict[str, int] = {}
    for what, value in vmstat.items():
        for name, prefixes in _RATES.items():
            if f"{what} ".startswith(prefixes):
                found[name] = found.get(name, 0) + value
    return found


def controllers(mounts: str = "/proc/mounts") -> dict[str, str]:
    """Where `memory` and `blkio` are mounted (v1), and `unified` (v2)."""
    found: dict[str, str] = {}
    for line in read_text(mounts).splitlines():
        words = line.split()
        if len(words) < 4:
            continue
        point = unescaped(words[1])
        if words[2] == "cgroup2":
            found.setdefault("unified", point)
        elif words[2] == "cgroup":
            for name in {"memory", "blkio"} & set(words[3].split(",")):
                found.setdefault(name, point)
    return found


def groups_of(text: str) -> dict[str, str]:
    """Controller -> path, of /proc/PID/cgroup; v2's is `unified`."""
    found = {}
    for line in text.splitlines():
        _, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        for name in names.split(",") if names else ("unified",):
            found[name] = path
    return found


def io_limits(directory: str, v1: bool) -> list[tuple[int, str, float]]:
    """(device, what, a second) of a group's own limits."""
    found = []
    for name, what in _V1_LIMITS.items() if v1 else ():
        for line in read_text(f"{directory}/{name}").splitlines():
            with contextlib.suppress(ValueError):
                device, value = line.split()
                found.append((_device(device), what, float(value)))
    if not v1:
        for line in read_text(f"{directory}/io.max").splitlines():
            device, *limits = line.split() or [""]
            for limit in limits:
                name, _, value = limit.partition("=")
                rate = number(value)
                if rate is not None and name in _V2_LIMITS:
                    with contextlib.suppress(ValueError):
                        found.append((_device(device), _V2_LIMITS[name], float(rate)))
    return found


def _device(text: str) -> int:
    major, minor = text.split(":")
    return int(major) << 20 | int(minor)


def _upwards(path: str) -> list[str]:
    """A group and those above it, without the root."""
    found = []
    while path not in ("/", ""):
        found.append(path)
        path = os.path.dirname(path)
    return found


@dataclass
class _Known:
    """A process's limiting groups, as of `checked_ns`."""

    checked_ns: int
    start: int
    memory: str | None = None
    limits: list[tuple[str, int, str, float]] = field(default_factory=list)


class PressureLayer:
    """`Frame.pressure`, tick by tick."""

    def __init__(self) -> None:
        self._roots = controllers()
        self._vmstat: dict[str, int] | None = None
        self._psi: dict[str, int] = {}
        self._known: dict[int, _Known] = {}
        self._hits: dict[str, dict[str, int | None]] = {}  # group: its counters

    def update(self, rows: list[Process], now: int, interval: int | None,
               memory: Memory) -> Pressure:
        """One tick."""
        layer = Pressure(swap_total_bytes=memory.info.get("SwapTotal"),
                         swap_free_bytes=memory.info.get("SwapFree"))
        self._host(layer, interval, memory.vmstat)
        stalled, disk = self._waiting(rows)
        for pid in self._known.keys() - stalled.keys() - disk.keys():
            if now - self._known[pid].checked_ns > _KEEP_NS:
                del self._known[pid]
        groups: dict[str, MemoryGroup] = {}
        for pid, process in stalled.items():
            path = self._look(process, now).memory
            if path is not None:
                groups.setdefault(path, MemoryGroup(path)).pids.append(pid)
        layer.groups = [self._group(row, interval) for row in groups.values()]
        self._hits = {path: self._hits[path] for path in groups if path in self._hits}
        for row in layer.groups:
            row.path = clean(row.path, 1024)
        limits: dict[tuple[str, int, str, float], IoLimit] = {}
        for pid, process in disk.items():
            for key in self._look(process, now).limits:
                limits.setdefault(key, IoLimit(clean(key[0], 1024), *key[1:])).pids.append(pid)
        layer.io_limits = list(limits.values())
        return layer

    def _host(self, layer: Pressure, interval: int | None, vmstat: Mapping[str, int]) -> None:
        new = vmstat_totals(vmstat)
        old, self._vmstat = self._vmstat, new
        if old is not None and interval:
            for name in new.keys() & old.keys():
                setattr(layer, name, max(0, new[name] - old[name]) * 1e9 / interval)
        totals = {f"{what}_{kind}_pct": us for what in ("memory", "io", "cpu")
                  for kind, us in psi_totals(read_text(f"/proc/pressure/{what}")).items()}
        before, self._psi = self._psi, totals
        for name in ("memory_some_pct", "memory_full_pct", "io_some_pct", "cpu_some_pct"):
            if name in totals and name in before and interval:
                grown = max(0, totals[name] - before[name])
                setattr(layer, name, min(100.0, grown * 1e5 / interval))

    @staticmethod
    def _waiting(rows: list[Process]) -> tuple[dict[int, Process], dict[int, Process]]:
        """Processes that waited for memory, and for a disk; the longest first, a few of each."""
        memory: list[tuple[float, Process]] = []
        disk: list[tuple[float, Process]] = []
        for row in rows:
            waits = row.waits_pct
            if not waits or row.kernel_thread:
                continue
            stalled = waits.get("memory", 0.0) + waits.get("reclaim", 0.0)
            if row.major_faults_per_s:
                stalled += waits.get("disk", 0.0)  # it may be of a group that keeps too little
            if stalled >= _WAITED_PCT:
                memory.append((stalled, row))
            stalled = waits.get("disk", 0.0) + waits.get("fsync", 0.0)
            if stalled >= _WAITED_PCT:
                disk.append((stalled, row))
        longest = ({row.pid: row for _, row in sorted(
            found, key=lambda pair: -pair[0])[:_PER_TICK]} for found in (memory, disk))
        return next(longest), next(longest)

    def _look(self, process: Process, now: int) -> _Known:
        known = self._known.get(process.pid)
        if (known is not None and now - known.checked_ns < _KEEP_NS
                and known.start == process.start_boottime_ns):
            return known
        known = self._known[process.pid] = _Known(now, process.start_boottime_ns)
        paths = groups_of(read_text(f"/proc/{process.pid}/cgroup"))
        for controller in ("memory", "blkio"):
            v1 = controller in self._roots
            name = controller if v1 else "unified"
            if name not in self._roots or name not in paths:
                continue
            for path in _upwards(paths[name]):
                directory = self._roots[name] + path
                if controller == "blkio":
                    known.limits += [(path, *limit) for limit in io_limits(directory, v1)]
                elif known.memory is None and self._limit(directory, v1) is not None:
                    known.memory = path
        return known

    @staticmethod
    def _limit(directory: str, v1: bool) -> int | None:
        """Bytes that the group may use; None without a limit."""
        names = ("memory.limit_in_bytes",) if v1 else ("memory.max", "memory.high")
        found = [read_number(f"{directory}/{name}") for name in names]
        return min((n for n in found if n is not None and n < _NO_LIMIT), default=None)

    def _group(self, row: MemoryGroup, interval: int | None) -> MemoryGroup:
        """Fill in what the group's files say now."""
        v1 = "memory" in self._roots
        directory = self._roots["memory" if v1 else "unified"] + row.path
        row.limit_bytes = self._limit(directory, v1)
        row.usage_bytes = read_number(
            f"{directory}/memory.{'usage_in_bytes' if v1 else 'current'}")
        events = figures(read_text(f"{directory}/memory.{'oom_control' if v1 else 'events'}"))
        row.oom_kills_total = events.get("oom_kill")
        # v2 counts charges over memory.high apart from those that met memory.max
        met = [events[name] for name in ("high", "max") if name in events]
        hits = (read_number(f"{directory}/memory.failcnt") if v1
                else sum(met) if met else None)
        psi = None if v1 else psi_totals(read_text(f"{directory}/memory.pressure")).get("some")
        refaults = sum(value for name, value in figures(read_text(
            f"{directory}/memory.stat")).items() if name.startswith("workingset_refault"))
        new = {"limit_hits_per_s": hits, "refaults_per_s": refaults, "some_pct": psi}
        before = self._hits.get(row.path, {})
        self._hits[row.path] = new
        for name, value in new.items():
            old = before.get(name)
            if value is not None and old is not None and interval:
                scale = 1e5 if name == "some_pct" else 1e9  # us to %, a count to a rate
                setattr(row, name, max(0, value - old) * scale / interval)
        return row
