"""Control groups: id -> path and name, quota and throttling, sums over their processes.

A cgroup's id is the inode number of its directory, which the kernel turns back into a path by
file handle (open_by_handle_at with FILEID_KERNFS, fs/kernfs/mount.c, 5.5 and later): one look-up
per new cgroup and never a walk of the tree. Where that is refused, the tree is walked, rarely.
"""

from __future__ import annotations

import contextlib
import ctypes as ct
import os
import re
import struct
from dataclasses import dataclass, field

from ktop import hist
from ktop.collect.proctext import read_text, unescaped
from ktop.model import OFF_CPU, Cgroup, Hist, Process
from ktop.text import clean

_FILEID_KERNFS = 0xFE
_libc = ct.CDLL(None, use_errno=True)
_RECHECK_NS = 10_000_000_000  # a quota may be set on a cgroup at any time
_WALK_NS = 5_000_000_000

# What container runtimes, systemd and Kubernetes call their directories.
_CONTAINER = re.compile(
    r"(?:^|[-/])(?:(docker|cri-containerd|crio|libpod|containerd|lxc|nerdctl)[-./:])?"
    r"([0-9a-f]{64})(?:\.scope)?$")
_POD = re.compile(r"pod([0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12})")
_RUNTIMES = {"cri-containerd": "containerd", "libpod": "podman", "crio": "cri-o"}


def name_of(path: str) -> str:
    """A short name: `docker:0123456789ab`, `pod 1a2b3c4d/0123456789ab`, or `nginx.service`."""
    found = _CONTAINER.search(path)
    pod = _POD.search(path)
    if found:
        runtime = found.group(1) or ("docker" if "/docker/" in path else
                                     "podman" if "libpod" in path else "")
        runtime = _RUNTIMES.get(runtime, runtime) or "container"
        short = found.group(2)[:12]
        return f"pod {pod.group(1)[:8]}/{short}" if pod else f"{runtime}:{short}"
    if pod:
        return f"pod {pod.group(1)[:8]}"
    last = path.rstrip("/").rsplit("/", 1)[-1]
    return last or "/"


@dataclass(frozen=True)
class Hierarchy:
    """The hierarchy whose cgroups tasks are shown by. v1: the cpu controller's."""

    root: str
    v1: bool


def find_hierarchy(mounts: str = "/proc/mounts") -> Hierarchy | None:
    """cgroup v2 if it has the cpu controller or is all there is, else v1's cpu hierarchy."""
    unified, cpu = None, None
    for line in read_text(mounts).splitlines():
        fields = line.split()
        if len(fields) < 4:
            continue
        if fields[2] == "cgroup2" and unified is None:
            unified = unescaped(fields[1])
        elif fields[2] == "cgroup" and "cpu" in fields[3].split(",") and cpu is None:
            cpu = unescaped(fields[1])
    if unified is not None and "cpu" in read_text(
            os.path.join(unified, "cgroup.controllers")).split():
        return Hierarchy(unified, False)
    if cpu is not None:
        return Hierarchy(cpu, True)
    return Hierarchy(unified, False) if unified else None


def path_by_id(mount_fd: int, cgroup: int, root: str) -> str | None:
    """Path below `root` of a cgroup id; None when it is gone or the kernel refuses."""
    handle = ct.create_string_buffer(struct.pack("@IiQ", 8, _FILEID_KERNFS, cgroup))
    fd = _libc.open_by_handle_at(mount_fd, handle, os.O_RDONLY | os.O_PATH | os.O_CLOEXEC)
    if fd < 0:
        return None
    try:
        full = os.readlink(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
    return "/" + os.path.relpath(full, root) if full != root else "/"


@dataclass
class _Known:
    path: str
    quota: float | None = None
    checked_ns: int = -_RECHECK_NS
    stat: tuple[int, int, int] | None = None  # periods, throttled, throttled time in ns
    parents: list[int] = field(default_factory=list)
    shown: str = field(init=False)
    name: str = field(init=False)

    def __post_init__(self) -> None:
        self.shown = clean(self.path, 1024)
        self.name = clean(name_of(self.path), 64)


class _Sums:
    """Running sums over the processes of one cgroup; exact up to floating point dust."""

    __slots__ = ("blocked", "cpu", "off_cpu", "processes", "rated", "threads", "tracked", "wait")

    def __init__(self) -> None:
        self.processes = self.threads = self.rated = self.tracked = 0
        self.cpu = self.wait = self.blocked = 0.0
        self.off_cpu: dict[str, float] = {}

    def add(self, p: Process, sign: int) -> None:
        """Add (1) or take out (-1) one process."""
        self.processes += sign
        self.threads += sign * p.threads
        if p.cpu_pct is not None:
            self.rated += sign
            self.cpu += sign * p.cpu_pct
            self.wait += sign * (p.runq_wait_pct or 0.0)
        if p.off_cpu_pct is not None:
            self.tracked += sign
            self.blocked += sign * (p.blocked_pct or 0.0)
            for name, pct in p.off_cpu_pct.items():
                self.off_cpu[name] = self.off_cpu.get(name, 0.0) + sign * pct


def _no_dust(value: float) -> float:
    return value if value > 1e-6 else 0.0


class Cgroups:
    """Names cgroups and sums their processes, tick by tick."""

    def __init__(self, hierarchy: Hierarchy | None) -> None:
        self.hierarchy = hierarchy
        self._known: dict[int, _Known] = {}
        self._fd = -1
        self._walked_ns = -_WALK_NS
        self._sums: dict[int, _Sums] = {}
        self._hists: dict[int, list[Hist]] = {}
        if hierarchy is not None:
            self._fd = os.open(hierarchy.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        """Release the hierarchy."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _find(self, cgroup: int, now: int) -> _Known | None:
        known = self._known.get(cgroup)
        if known is not None or self.hierarchy is None:
            return known
        path = path_by_id(self._fd, cgroup, self.hierarchy.root)
        if path is not None:
            known = self._known[cgroup] = _Known(path)
        elif now - self._walked_ns >= _WALK_NS:
            self._walked_ns = now
            root = self.hierarchy.root
            for directory, _, _ in os.walk(root):
                with contextlib.suppress(OSError):  # removed meanwhile
                    self._known.setdefault(
                        os.stat(directory).st_ino,
                        _Known("/" + os.path.relpath(directory, root) if directory != root
                               else "/"))
            known = self._known.get(cgroup)
        return known

    def path(self, cgroup: int, now: int) -> str | None:
        """Raw path of a cgroup id, None when it cannot be known."""
        known = self._find(cgroup, now)
        return known.path if known else None

    def _read(self, known: _Known, name: str) -> str | None:
        try:
            fd = os.open(known.path.lstrip("/") + "/" + name if known.path != "/" else name,
                         os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._fd)
        except OSError:
            return None
        try:
            return os.read(fd, 4096).decode("ascii", "replace")
        except OSError:
            return None
        finally:
            os.close(fd)

    def _quota(self, known: _Known) -> float | None:
        """CPUs that the cgroup may use: cpu.max, or cfs_quota_us / cfs_period_us."""
        assert self.hierarchy is not None
        try:
            if not self.hierarchy.v1:
                quota, period = (self._read(known, "cpu.max") or "max 1").split()
                return None if quota == "max" else int(quota) / (int(period) or 100_000)
            quota = (self._read(known, "cpu.cfs_quota_us") or "-1").strip()
            if int(quota) <= 0:
                return None
            return int(quota) / (int(self._read(known, "cpu.cfs_period_us") or 0) or 100_000)
        except ValueError:
            return None

    def _stat(self, known: _Known) -> tuple[int, int, int] | None:
        """cpu.stat: nr_periods, nr_throttled, throttled time in ns (v1 ns, v2 us)."""
        text = self._read(known, "cpu.stat")
        if text is None:
            return None
        stat = dict(line.split() for line in text.splitlines() if len(line.split()) == 2)
        try:
            time_ns = (int(stat["throttled_time"]) if "throttled_time" in stat
                       else int(stat["throttled_usec"]) * 1000)
            return int(stat["nr_periods"]), int(stat["nr_throttled"]), time_ns
        except (KeyError, ValueError):
            return None

    def _throttling(self, row: Cgroup, known: _Known, now: int, interval: int | None) -> None:
        if now - known.checked_ns >= _RECHECK_NS:
            first = known.checked_ns < 0  # then by turns: not all of those found together at once
            known.checked_ns = now - (row.id % 8 * _RECHECK_NS // 8 if first else 0)
            known.quota = self._quota(known)
            if known.quota is None:
                known.stat = None
        row.quota_cpus = known.quota
        if known.quota is None:
            return
        before, known.stat = known.stat, self._stat(known)
        if before is None or known.stat is None or not interval:
            return
        periods, throttled, time_ns = (
            max(0, a - b) for a, b in zip(known.stat, before, strict=True))
        row.periods_per_s = periods * 1e9 / interval
        row.throttled_per_s = throttled * 1e9 / interval
        row.throttled_pct = time_ns * 100.0 / interval

    def _ancestors(self, cgroup: int, now: int) -> list[int]:
        """Ids of the cgroups above one, nearest first: a quota may sit on any of them."""
        known = self._find(cgroup, now)
        if known is None or self.hierarchy is None or known.path == "/" or known.parents:
            return known.parents if known else []
        path = known.path
        while path not in ("/", ""):
            path = os.path.dirname(path)
            try:
                inode = os.stat(self.hierarchy.root + path).st_ino
            except OSError:
                continue
            self._known.setdefault(inode, _Known(path))
            known.parents.append(inode)
        return known.parents

    def apply(self, changes: list[tuple[Process | None, Process | None]]) -> None:
        """Keep the sums up to date: only processes that changed cost anything."""
        self._hists = {}
        for old, new in changes:
            if old is not None and old.cgroup is not None:
                self._sums[old.cgroup].add(old, -1)
                if not self._sums[old.cgroup].processes:
                    del self._sums[old.cgroup]
            if new is not None and new.cgroup is not None:
                self._sums.setdefault(new.cgroup, _Sums()).add(new, 1)
                if new.runq is not None:
                    self._hists.setdefault(new.cgroup, []).append(new.runq)

    def off_cpu(self) -> dict[str, float] | None:
        """Mean number of threads off CPU by reason, over all processes; None when not known."""
        found = dict.fromkeys(OFF_CPU, 0.0)
        for sums in self._sums.values():
            for name, pct in sums.off_cpu.items():
                found[name] += pct
        known = any(sums.tracked for sums in self._sums.values())
        return {name: _no_dust(pct) / 100.0 for name, pct in found.items()} if known else None

    def rows(self, dead: dict[int, dict[int, int]], now: int,
             interval: int | None) -> list[Cgroup]:
        """A row for each cgroup with processes or a quota. dead: waits of ended threads in the
        interval, by cgroup id and histogram slot."""
        found: dict[int, Cgroup] = {}
        for cgroup, sums in self._sums.items():
            row = found[cgroup] = self._row(cgroup, now)
            row.processes, row.threads = sums.processes, sums.threads
            if sums.rated:
                row.cpu_pct, row.runq_wait_pct = _no_dust(sums.cpu), _no_dust(sums.wait)
            if sums.tracked:
                row.blocked_pct = _no_dust(sums.blocked)
        for cgroup in list(found):
            for above in self._ancestors(cgroup, now):
                if above not in found:
                    found[above] = self._row(above, now)
        self._bury(dead, found, now)
        for cgroup, row in list(found.items()):
            known = self._known.get(cgroup)
            if known is not None and self._fd >= 0:
                self._throttling(row, known, now, interval)
            if cgroup in self._hists and interval:
                row.runq = hist.merge(self._hists[cgroup])
            if not row.processes and row.quota_cpus is None and row.runq is None:
                del found[cgroup]
        for gone in self._known.keys() - found.keys():
            if now - self._known[gone].checked_ns > 60 * _RECHECK_NS:
                del self._known[gone]
        return list(found.values())

    def _bury(self, dead: dict[int, dict[int, int]], found: dict[int, Cgroup], now: int) -> None:
        for cgroup, waits in dead.items():
            self._hists.setdefault(cgroup, []).append(Hist(waits, hist.midpoint_sum(waits)))
            found.setdefault(cgroup, self._row(cgroup, now))

    def _row(self, cgroup: int, now: int) -> Cgroup:
        known = self._find(cgroup, now)
        if known is not None:
            return Cgroup(id=cgroup, path=known.shown, name=known.name)
        gone = f"(gone: {cgroup})"
        return Cgroup(id=cgroup, path=gone, name=gone)
