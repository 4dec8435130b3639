"""Files layer: opens folded by command, path, result and cgroup, over a sliding minute."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Mapping
from operator import itemgetter
from typing import NamedTuple

from ktop.bpf.files_layer import FOLDS, OPEN_FOLD, OPEN_FOLD_STRUCT, OPEN_KEY_STRUCT
from ktop.bpf.layout import packer
from ktop.bpf.table import Table
from ktop.collect.events import errno_name
from ktop.model_files import OpenFold
from ktop.text import comm

WINDOW_NS = 60_000_000_000
FOLDS_PER_TICK = 2_000  # of one tick remembered, the most frequent: a storm of new paths is bounded
_SLACK_NS = 10_000_000  # between an open and its being counted
_LAST = packer(OPEN_FOLD[:1]).size


class _Value(NamedTuple):
    """struct fs_open_fold."""

    opens: int
    last_ns: int
    first_ns: int
    cgroup: int
    tgid: int
    named: int
    shared: int
    pad: int


class OpenFolds:
    """From the kernel's own counts."""

    def __init__(self) -> None:
        self._values: dict[bytes, _Value] = {}
        self._ticks: deque[tuple[int, list[tuple[bytes, int]]]] = deque()
        self._sums: dict[bytes, int] = {}
        self._start = 0
        self._read = 0

    def begin(self, now: int) -> None:
        """Somebody looks from about now on: what was counted before is another minute."""
        self._ticks.clear()
        self._sums.clear()
        self._start = now

    def update(self, table: Table, now: int) -> None:
        """Count what is new in the `fs_opens` map at `now` (CLOCK_MONOTONIC ns)."""
        since, self._read = self._read - _SLACK_NS, now
        found: list[tuple[bytes, int]] = []
        for i, last in enumerate(table.column(_LAST, "Q")):
            if last < since:
                continue
            key, value = table.key(i), _Value._make(OPEN_FOLD_STRUCT.unpack(table.value(i)))
            old = self._values.get(key)
            if old is not None and old.first_ns != value.first_ns:
                old = None  # dropped and made again
            self._values[key] = value
            grown = value.opens - (old.opens if old else 0)
            if grown > 0:
                found.append((key, grown))
        if len(found) > FOLDS_PER_TICK:
            found = heapq.nlargest(FOLDS_PER_TICK, found, key=itemgetter(1))
        for key, grown in found:
            self._sums[key] = self._sums.get(key, 0) + grown
        if found:
            self._ticks.append((now, found))
        self._forget(table, now)

    def _forget(self, table: Table, now: int) -> None:
        sums = self._sums
        while self._ticks and self._ticks[0][0] <= now - WINDOW_NS:
            for key, grown in self._ticks.popleft()[1]:
                sums[key] -= grown
                if not sums[key]:
                    del sums[key]
        if len(self._values) > table.entries + len(sums) + FOLDS // 4:
            there = table.key_set() | sums.keys()
            self._values = {key: value for key, value in self._values.items() if key in there}

    def rows(self, now: int, paths: Mapping[bytes, str], most: int) -> tuple[list[OpenFold], int]:
        """Most frequent first, and how many were left out."""
        window = max(1_000_000_000, min(WINDOW_NS, now - self._start))
        sums = self._sums.items()
        found = heapq.nlargest(most, sums, key=itemgetter(1)) if len(sums) > most else sorted(
            sums, key=lambda item: (item[1], item[0]), reverse=True)
        return [self._row(key, count, paths, window) for key, count in found], (
            max(0, len(sums) - most))

    def _row(self, key: bytes, count: int, paths: Mapping[bytes, str], window: int) -> OpenFold:
        fold, command, error, _ = OPEN_KEY_STRUCT.unpack(key)
        value = self._values[key]
        return OpenFold(
            comm=comm(command), path=paths.get(key), count=count,
            error=errno_name(error) if error else None, per_min=count * 60e9 / window,
            pid=value.tgid, fold=fold, cgroup=value.cgroup or None, shared=bool(value.shared))
