"""Files layer: counters by file, process and filesystem -> what was done since last time."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ktop import hist
from ktop.bpf.files_layer import STAT, STAT_STRUCT
from ktop.bpf.layout import HIST_SLOTS, packer
from ktop.bpf.table import Table
from ktop.model import Hist
from ktop.model_files import FileOps

_HIST = struct.Struct(f"@{3 * HIST_SLOTS}I")
_HOST_SLOTS = struct.Struct(f"@{4 * HIST_SLOTS}Q")
_NAMES = [name for name, _ in STAT]
READ, WRITE, FSYNC, OPEN = range(4)
Hists = list[Hist | None]  # latency of read, write, fsync


def _offset(field: str) -> int:
    return packer(STAT[:_NAMES.index(field)]).size


_EPOCH, _BORN = _offset("epoch"), _offset("born")
_UNBORN = bytes(4)  # it was read while it was being made
STAT_END = STAT_STRUCT.size


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
NOTHING = Grown(b"", (0,) * 4, (0,) * 4, (0,) * 4, (0, 0), (0,) * 4, 0, b"")


def grown(raw_key: bytes, new: bytes, old: bytes | None, epoch: int) -> Grown | None:
    """The difference of two values of one entry; None when nothing was done.

    An entry that was dropped and made again begins at zero. epoch: that of the interval.
    """
    a = STAT_STRUCT.unpack_from(new)
    b = STAT_STRUCT.unpack_from(old) if old is not None else _NOTHING
    if any(x < y for x, y in zip(a[:4], b[:4], strict=True)):
        b = _NOTHING
    change = tuple(x - y for x, y in zip(a[:14], b[:14], strict=True))
    if not any(change[:4]):
        return None
    longest = (a[14:18] if a[22] == epoch else
               a[18:22] if a[23] == epoch else (0, 0, 0, 0))
    return Grown(raw_key, change[:4], change[4:8], change[8:12], change[12:14],
                 longest, a[26], a[27])


def together(changes: list[Grown]) -> Grown:
    """Several entries' as one; key and owner are the first one's."""
    if len(changes) == 1:
        return changes[0]
    first = changes[0]
    n, errors, ns, moved = (
        tuple(map(sum, zip(*(g[at] for g in changes), strict=True))) for at in (1, 2, 3, 4))
    longest = tuple(map(max, zip(*(g.longest for g in changes), strict=True)))
    return Grown(first.raw_key, n, errors, ns, moved, longest, first.cgroup, first.comm)


def merged(hists: list[Hists]) -> Hists:
    """Several entries' histograms as one; None where none has any."""
    if len(hists) == 1:
        return hists[0]
    found: Hists = []
    for column in zip(*hists, strict=True):
        known = [h for h in column if h is not None]
        found.append(hist.merge(known) if len(known) > 1 else known[0] if known else None)
    return found


class Changed(NamedTuple):
    """An entry that was used in the interval: its value now, and when it was used before."""

    key: bytes
    new: bytes
    old: bytes | None


class Last:
    """The values of a map's entries when they last changed.

    Each has the epoch (tick) it was last used in, so what was not used costs nothing.
    """

    def __init__(self) -> None:
        self._values: dict[bytes, bytes] = {}

    def changed(self, table: Table, epoch: int) -> Iterator[Changed]:
        """What was used since the last call. epoch: of the tick that ends now."""
        values = self._values
        # One epoch back: what is counted just after a reading may still bear that reading's.
        for i, used in enumerate(table.column(_EPOCH, "I")):
            if used < epoch - 1:
                continue
            key, new = table.key(i), table.value(i)
            old = values.get(key)
            if old == new:
                continue
            values[key] = new
            if old is not None and new[_BORN:_BORN + 4] != old[_BORN:_BORN + 4] != _UNBORN:
                old = None  # dropped and made again
            yield Changed(key, new, old)
        if len(values) > table.entries + 1_000:
            there = table.key_set()
            self._values = {key: value for key, value in values.items() if key in there}


def histograms(change: Grown, new: bytes, old: bytes | None, at: int = 0) -> Hists:
    """Latency of read, write and fsync from the three arrays at `at`; None where nothing ran."""
    a = _HIST.unpack_from(new, at)
    b = _HIST.unpack_from(old, at) if old is not None else None
    return [histogram(a[op * HIST_SLOTS:(op + 1) * HIST_SLOTS],
                      b[op * HIST_SLOTS:(op + 1) * HIST_SLOTS] if b else None,
                      change.ns[op], change.longest[op]) if change.n[op] else None
            for op in (READ, WRITE, FSYNC)]


def histogram(new: tuple[int, ...], old: tuple[int, ...] | None, sum_ns: int,
              longest: int) -> Hist | None:
    """What a histogram grew by; one that was dropped and made again begins at zero."""
    if old is None:
        counts = {i: n for i, n in enumerate(new) if n}
    else:
        counts = {i: x - y for i, (x, y) in enumerate(zip(new, old, strict=True)) if x != y}
        if counts and min(counts.values()) < 0:
            counts = {i: n for i, n in enumerate(new) if n}
    return Hist(counts, sum_ns, longest or None) if counts else None


def operations(change: Grown, hists: Hists, interval_ns: int | None) -> FileOps:
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
    """The per-CPU totals of the whole host: exact whatever was dropped from the tables.

    done: operations of the last interval.
    """

    def __init__(self) -> None:
        self._stat = bytes(STAT_STRUCT.size)
        self._slots = (0,) * (4 * HIST_SLOTS)
        self.done = 0

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
        new = STAT_STRUCT.pack(*sums, *longest, 0, 0, 0, 0, epoch, 0, 0, 0, 0, b"")
        change = grown(b"", new, self._stat, epoch) or NOTHING
        old_slots, self._stat, self._slots = self._slots, new, tuple(slots)
        self.done = sum(change.n)
        hists = [histogram(self._slots[i * HIST_SLOTS:(i + 1) * HIST_SLOTS],
                           old_slots[i * HIST_SLOTS:(i + 1) * HIST_SLOTS],
                           change.ns[i], change.longest[i]) for i in (READ, WRITE, FSYNC)]
        return operations(change, hists, interval_ns)
