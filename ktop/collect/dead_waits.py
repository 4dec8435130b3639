"""Waits for a CPU of threads that have ended, by cgroup, as far as no live row has shown them."""

from __future__ import annotations

import struct
import sys
from collections import Counter
from collections.abc import Iterable
from operator import sub

from ktop.bpf.layout import TASK_HIST_SLOTS

_HIST = struct.Struct(f"@{TASK_HIST_SLOTS}I")
_NONE = bytes(_HIST.size)


class DeadWaits:
    """What dead_hists has grown by, from read to read.

    A host makes and removes cgroups all its life: those that have not changed cost no Python.
    """

    def __init__(self) -> None:
        self._last: dict[bytes, bytes] = {}
        self._early: dict[int, Counter[int]] = {}
        self.moved: list[bytes] = []  # keys

    def update(self, entries: dict[bytes, bytes], taken: Iterable[tuple[bytes, bytes]],
               buried: Iterable[tuple[int, tuple[int, ...]]]) -> dict[int, dict[int, int]]:
        """Waits by cgroup id and histogram slot.

        entries: dead_hists, read before the threads were. taken: those that a Sweep took out of it
        before. buried: cgroup and histogram, since it was forked, of each thread found to have
        ended: what rows have told already.
        """
        told: dict[int, Counter[int]] = {}
        for cgroup, counts in buried:
            told.setdefault(cgroup, Counter()).update(_slots(counts))
        early, self._early = self._early, told
        found = {}
        for cgroup, grown in self._growth(entries, taken).items():
            grown -= early.get(cgroup, Counter())
            untold = grown - told.get(cgroup, Counter())
            if untold:
                found[cgroup] = dict(untold)
            # Who ended between the two reads is in the table at the next. Not later: an entry
            # that was given up for another never tells of its threads.
            if cgroup in told:
                told[cgroup] -= grown
        return found

    def _growth(self, entries: dict[bytes, bytes],
                taken: Iterable[tuple[bytes, bytes]]) -> dict[int, Counter[int]]:
        found: dict[int, Counter[int]] = {}
        last, self._last = self._last, entries
        parts = [(key, value, last.pop(key, _NONE)) for key, value in taken]
        self.moved = [key for key, _ in entries.items() - last.items()]
        parts += [(key, entries[key], last.get(key, _NONE)) for key in self.moved]
        for key, value, before in parts:
            found.setdefault(int.from_bytes(key, sys.byteorder), Counter()).update(
                _slots(map(sub, _HIST.unpack(value), _HIST.unpack(before))))
        return found


def _slots(counts: Iterable[int]) -> Counter[int]:
    return Counter({i: n for i, n in enumerate(counts) if n > 0})
