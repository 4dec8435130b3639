"""Files layer: the accounts by (file, process) and (process, filesystem) -> rows.

Each operation is in one account of either kind. Files are sums of the first kind, processes and
filesystems of the second; of more rows than a frame holds only the busiest are made.
"""

from __future__ import annotations

import heapq
import struct
from collections.abc import Callable
from typing import NamedTuple

from ktop.bpf.files_layer import SHARE_STRUCT, USE_STRUCT
from ktop.bpf.table import Table
from ktop.collect.files_ops import (
    NOTHING,
    STAT_END,
    Changed,
    Grown,
    Hists,
    Last,
    grown,
    histograms,
    merged,
    operations,
    together,
)
from ktop.model import Process
from ktop.model_files import FileOps, FileProcess, FileShare, FileSystem, FileUse
from ktop.text import comm

_NS = struct.Struct("@4Q")
_NS_AT = 64  # of fs_stat.ns
_FILE = 16   # bytes of a key that are the file's
Of = Callable[[int], Process | None]


def device(number: int) -> str:
    """A kernel dev_t (20 bits of minor) as "major:minor"."""
    return f"{number >> 20}:{number & 0xFFFFF}"


def owner(pid: int, change: Grown, process: Of) -> tuple[str, int | None]:
    """Command and cgroup: of the process now, else those it had when it was first counted."""
    row = process(pid)
    return (row.comm if row else comm(change.comm),
            row.cgroup if row and row.cgroup is not None else change.cgroup or None)


class FileSum(NamedTuple):
    """One file of the interval: its identity as the kernel has it, and all that was done to it."""

    file: bytes
    ops: FileOps


class Uses:
    """By (file, process)."""

    def __init__(self) -> None:
        self._last = Last()
        self._hists: dict[bytes, bytes] = {}
        self.entries = 0

    def update(self, stats: Table, hists: Table, epoch: int, interval: int | None, most: int,
               process: Of) -> tuple[list[FileSum], int, list[FileUse], int]:
        """(files, how many were left out, uses, how many were left out), busiest first."""
        self.entries = stats.entries
        changes = list(self._last.changed(stats, epoch))
        places = {hists.key(i): i for i in range(hists.entries)} if changes else {}
        if interval is None:
            self._keep(changes, hists, places)
            return [], 0, [], 0
        spent = [(_spent(change), change) for change in changes]
        files: dict[bytes, list[Changed]] = {}
        sums: dict[bytes, int] = {}
        for ns, change in spent:
            file = change.key[:_FILE]
            files.setdefault(file, []).append(change)
            sums[file] = sums.get(file, 0) + ns
        chosen = heapq.nlargest(most, sums, key=sums.__getitem__)
        busiest = heapq.nlargest(most, spent, key=lambda s: s[0])
        known: dict[bytes, tuple[Grown, Hists, FileOps]] = {}

        def made(change: Changed) -> tuple[Grown, Hists, FileOps] | None:
            if change.key not in known:
                found = grown(change.key, change.new, change.old, epoch)
                if found is None:
                    return None
                at = places.get(change.key)
                latency: Hists = [None, None, None] if at is None else histograms(
                    found, hists.value(at), self._hists.get(change.key))
                known[change.key] = found, latency, operations(found, latency, interval)
            return known[change.key]

        rows = []
        for file in chosen:
            parts = [m for m in map(made, files[file]) if m]
            if parts:
                rows.append(FileSum(file, parts[0][2] if len(parts) == 1 else operations(
                    together([p[0] for p in parts]), merged([p[1] for p in parts]), interval)))
        uses = [_use(m, process) for m in (made(change) for _, change in busiest) if m]
        self._keep(changes, hists, places)
        return rows, len(files) - len(chosen), uses, len(changes) - len(busiest)

    def _keep(self, changes: list[Changed], hists: Table, places: dict[bytes, int]) -> None:
        """The histograms of what changed, for the next difference."""
        for change in changes:
            at = places.get(change.key)
            if at is not None:
                self._hists[change.key] = hists.value(at)
        if len(self._hists) > hists.entries + 500:
            self._hists = {key: value for key, value in self._hists.items() if key in places}


def _spent(change: Changed) -> int:
    """ns inside the syscalls."""
    new: int = sum(_NS.unpack_from(change.new, _NS_AT))
    if change.old is None:
        return new
    before: int = sum(_NS.unpack_from(change.old, _NS_AT))
    return new - before if new >= before else new


def _use(made: tuple[Grown, Hists, FileOps], process: Of) -> FileUse:
    change, _, ops = made
    file, pid, _ = USE_STRUCT.unpack(change.raw_key)
    ino, dev, generation = struct.unpack("@QII", file)
    name, cgroup = owner(pid, change, process)
    return FileUse(pid, device(dev), ino, generation, ops, name, cgroup)


_Part = tuple[Grown, Hists]


class Shares:
    """By (process, filesystem)."""

    def __init__(self) -> None:
        self._last = Last()
        self.processes: list[FileProcess] = []
        self.processes_cut = 0
        self.shares: list[FileShare] = []
        self.filesystems: list[FileSystem] = []
        self.done = 0  # operations of the last interval, and what they were
        self.all = FileOps()
        self._dropped = 0

    def whole(self, table: Table, made: int) -> bool:
        """Whether none had to go since the last call. made: how many there have been so far."""
        before, self._dropped = self._dropped, max(self._dropped, made - table.entries)
        return self._dropped == before

    def update(self, table: Table, epoch: int, interval: int | None, most: int,
               process: Of) -> None:
        """Make all rows of the interval anew."""
        self.processes, self.shares, self.filesystems = [], [], []
        self.processes_cut = self.done = 0
        by_pid: dict[int, list[tuple[int, _Part]]] = {}
        by_dev: dict[int, list[_Part]] = {}
        for change in self._last.changed(table, epoch):
            found = grown(change.key, change.new, change.old, epoch)
            if found is None or interval is None:
                continue
            pid, dev = SHARE_STRUCT.unpack(change.key)
            part = found, histograms(found, change.new, change.old, STAT_END)
            by_pid.setdefault(pid, []).append((dev, part))
            if dev:
                by_dev.setdefault(dev, []).append(part)
            self.done += sum(found.n)
        if interval is None:
            return
        self.all = _sum([part for parts in by_pid.values() for _, part in parts], interval)
        pids = list(by_pid)
        if len(pids) > most:
            pids = heapq.nlargest(most, pids, key=lambda pid: sum(
                sum(part[0].ns) for _, part in by_pid[pid]))
            self.processes_cut = len(by_pid) - most
        for pid in pids:
            self._process(pid, by_pid.pop(pid), interval, process)
        self._rest(by_pid, interval, process)
        self.filesystems = [FileSystem(dev=device(dev), ops=_sum(parts, interval))
                            for dev, parts in by_dev.items()]

    def _process(self, pid: int, parts: list[tuple[int, _Part]], interval: int,
                 process: Of) -> None:
        name, cgroup = owner(pid, parts[0][1][0], process)
        for dev, part in parts:
            self.shares.append(FileShare(
                pid, cgroup, device(dev) if dev else None, _sum([part], interval)))
        ops = self.shares[-1].ops if len(parts) == 1 else _sum([p for _, p in parts], interval)
        self.processes.append(FileProcess(pid=pid, comm=name, ops=ops, cgroup=cgroup))

    def _rest(self, left: dict[int, list[tuple[int, _Part]]], interval: int, process: Of) -> None:
        """Those for which there is no row, by cgroup."""
        groups: dict[tuple[int | None, int], list[_Part]] = {}
        for pid, parts in left.items():
            _, cgroup = owner(pid, parts[0][1][0], process)
            for dev, part in parts:
                groups.setdefault((cgroup, dev), []).append(part)
        self.shares += [FileShare(None, cgroup, device(dev) if dev else None, _sum(parts, interval))
                        for (cgroup, dev), parts in groups.items()]


def _sum(parts: list[_Part], interval: int) -> FileOps:
    if not parts:
        return operations(NOTHING, [None, None, None], interval)
    return operations(together([p[0] for p in parts]), merged([p[1] for p in parts]), interval)
