"""Files layer: counters of files, processes and filesystems -> what was done since last time."""

from __future__ import annotations

import heapq
import struct
from collections.abc import Iterable
from typing import NamedTuple

from ktop.bpf.files_layer import STAT_STRUCT
from ktop.bpf.layout import HIST_SLOTS
from ktop.model import Hist
from ktop.model_files import FileOps

_HIST = struct.Struct(f"@{3 * HIST_SLOTS}I")
_HOST_SLOTS = struct.Struct(f"@{4 * HIST_SLOTS}Q")
READ, WRITE, FSYNC, OPEN = range(4)
Raw = tuple[bytes, bytes | memoryview]


class Grown(NamedTuple):
    """What one entry grew by. longest: by operation, ns, 0 where nothing ran in the interval."""

    raw_key: bytes
    n: tuple[int, ...]
    errors: tuple[int, ...]
    ns: tuple[int, ...]
    moved: tuple[int, ...]
    longest: tuple[int, ...]
    cgroup: int
    comm: bytes


_NOTHING = STAT_STRUCT.unpack(bytes(STAT_STRUCT.size))


def grown(raw_key: bytes, new: bytes, old: bytes | None, epoch: int) -> Grown | None:
    """The difference of two values of one entry; None when nothing was done.

    An entry that was dropped and made again begins at zero. epoch: that of the interval.
    """
    a = STAT_STRUCT.unpack(new)
    b = STAT_STRUCT.unpack(old) if old is not None else _NOTHING
    if any(x < y for x, y in zip(a[:4], b[:4], strict=True)):
        b = _NOTHING
    change = tuple(x - y for x, y in zip(a[:14], b[:14], strict=True))
    if not any(change[:4]):
        return None
    longest = (a[14:18] if a[22] == epoch else
               a[18:22] if a[23] == epoch else (0, 0, 0, 0))
    return Grown(raw_key, change[:4], change[4:8], change[8:12], change[12:14],
                 longest, a[25], a[26])


class Counters:
    """Differences of the entries' counts and histograms from tick to tick."""

    def __init__(self) -> None:
        self._stats: dict[bytes, bytes] = {}
        self._hists: dict[bytes, bytes] = {}
        self._before: dict[bytes, bytes] = {}
        self.entries = 0

    def update(self, stats: Iterable[Raw], hists: Iterable[Raw], epoch: int) -> list[Grown]:
        """Every entry that did anything since the last update."""
        old = self._stats
        self._stats = {key: bytes(value) for key, value in stats}
        self._before, self._hists = self._hists, {key: bytes(value) for key, value in hists}
        self.entries = len(self._stats)
        found = []
        for key, raw in self._stats.items():
            before = old.get(key)
            if raw != before:
                change = grown(key, raw, before, epoch)
                if change is not None:
                    found.append(change)
        return found

    def update_both(self, entries: list[tuple[bytes, memoryview]], epoch: int) -> list[Grown]:
        """The same from a map that has both in one value (struct fs_both)."""
        end = STAT_STRUCT.size
        return self.update([(key, value[:end]) for key, value in entries],
                           [(key, value[end:end + _HIST.size]) for key, value in entries], epoch)

    def histograms(self, change: Grown) -> list[Hist | None]:
        """Latency of read, write and fsync; None where nothing ran or it was not kept."""
        raw = self._hists.get(change.raw_key)
        if raw is None:
            return [None, None, None]
        new = _HIST.unpack(raw)
        before = self._before.get(change.raw_key)
        old = _HIST.unpack(before) if before is not None else None
        found: list[Hist | None] = []
        for op in (READ, WRITE, FSYNC):
            if not change.n[op]:
                found.append(None)
                continue
            a = new[op * HIST_SLOTS:(op + 1) * HIST_SLOTS]
            b = old[op * HIST_SLOTS:(op + 1) * HIST_SLOTS] if old else (0,) * HIST_SLOTS
            found.append(histogram(a, b, change.ns[op], change.longest[op]))
        return found


def histogram(new: tuple[int, ...], old: tuple[int, ...], sum_ns: int, longest: int) -> Hist | None:
    """What a histogram grew by; one that was dropped and made again begins at zero."""
    if any(x < y for x, y in zip(new, old, strict=True)):
        old = (0,) * len(new)
    counts = {i: x - y for i, (x, y) in enumerate(zip(new, old, strict=True)) if x != y}
    return Hist(counts, sum_ns, longest or None) if counts else None


def busiest(changes: list[Grown], most: int) -> tuple[list[Grown], int]:
    """Those on which most time was spent, and how many were left out."""
    if len(changes) <= most:
        return changes, 0
    return heapq.nlargest(most, changes, key=lambda g: sum(g.ns)), len(changes) - most


def operations(change: Grown, hists: list[Hist | None], interval_ns: int | None) -> FileOps:
    """One row's figures. Without an interval there are no rates."""
    read, write, fsync = hists
    ops = FileOps(read=read, write=write, fsync=fsync)
    if interval_ns:
        per = 1e9 / interval_ns
        ops.inside = sum(change.ns) / interval_ns
        ops.reads_per_s, ops.writes_per_s, ops.fsyncs_per_s, ops.opens_per_s = (
            n * per for n in change.n)
        ops.errors_per_s = sum(change.errors) * per
        ops.read_bytes_per_s, ops.write_bytes_per_s = (n * per for n in change.moved)
    return ops


class HostTotals:
    """The per-CPU totals of the whole host: exact whatever was dropped from the tables."""

    def __init__(self) -> None:
        self._stat = bytes(STAT_STRUCT.size)
        self._slots = (0,) * (4 * HIST_SLOTS)

    def update(self, cpus: Iterable[bytes | memoryview], epoch: int,
               interval_ns: int | None) -> FileOps:
        """All operations since the last update."""
        sums, slots, longest = [0] * 14, [0] * (4 * HIST_SLOTS), [0] * 4
        for raw in cpus:
            stat = STAT_STRUCT.unpack_from(raw)
            sums = [a + b for a, b in zip(sums, stat[:14], strict=True)]
            slots = [a + b for a, b in zip(
                slots, _HOST_SLOTS.unpack_from(raw, STAT_STRUCT.size), strict=True)]
            mine = (stat[14:18] if stat[22] == epoch else
                    stat[18:22] if stat[23] == epoch else (0, 0, 0, 0))
            longest = [max(a, b) for a, b in zip(longest, mine, strict=True)]
        new = STAT_STRUCT.pack(*sums, *longest, 0, 0, 0, 0, epoch, 0, 0, 0, b"")
        change = grown(b"", new, self._stat, epoch)
        old_slots, self._stat, self._slots = self._slots, new, tuple(slots)
        if change is None:
            change = Grown(b"", (0,) * 4, (0,) * 4, (0,) * 4, (0, 0),
                           (0,) * 4, 0, b"")
        hists = [histogram(self._slots[i * HIST_SLOTS:(i + 1) * HIST_SLOTS],
                           old_slots[i * HIST_SLOTS:(i + 1) * HIST_SLOTS],
                           change.ns[i], change.longest[i]) for i in (READ, WRITE, FSYNC)]
        return operations(change, hists, interval_ns)
