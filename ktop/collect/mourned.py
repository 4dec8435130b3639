"""What the ended threads of one process did: of the process that is looked at.

A thread takes its account with it when it ends. For one process the scheduler program keeps the
accounts of ended threads (`mourned`), so that its states sum to wall time x threads also while
threads come and go.
"""

from __future__ import annotations

import contextlib
import struct
import sys
from collections.abc import Collection, Iterable

from ktop.bpf import syscall
from ktop.bpf.engine import Engine
from ktop.bpf.layout import REASONS
from ktop.collect.records import TaskRecord

_ENTRY = struct.Struct(f"@{1 + len(REASONS)}Q")
_PATIENCE = 3  # ticks that an account may be later than its thread's absence, or earlier

Thread = tuple[int, int]  # tid and start_boottime_ns
Slept = list[int]         # ns by layout.REASONS, the first is run_delay


class Mourned:
    """Takes the accounts out of the kernel and puts them to the threads they belong to."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.pid = 0
        self._found: dict[Thread, Slept] = {}
        self._known: dict[Thread, tuple[int, Slept]] = {}  # ticks left; counted while it lived

    def look_at(self, pid: int) -> None:
        """Whose ended threads are to be kept, 0 for nobody's."""
        if "looked_at" in self._engine.loaded.maps and pid != self.pid:
            self.pid = pid
            self._engine.write_u32("looked_at", pid)
            self._take()
            self._found.clear()
            self._known.clear()

    def _take(self) -> list[tuple[int, tuple[int, ...]]]:
        fd = self._engine.loaded.maps["mourned"].fd
        found = []
        for key, value in self._engine.read_hash("mourned"):
            with contextlib.suppress(OSError):
                syscall.map_delete(fd, key)
            found.append((int.from_bytes(key, sys.byteorder), _ENTRY.unpack(value)))
        return found

    def sample(self) -> None:
        """Read the kernel."""
        if self.pid:
            for tid, (start, *slept) in self._take():
                self._found[tid, start] = slept

    def settle(self, alive: Collection[Thread],
               ended: Iterable[tuple[TaskRecord, Slept]]) -> Slept:
        """What ended threads did that no row has shown, by layout.REASONS.

        alive: threads of the process in this tick. ended: those that were in the tick before and
        are no more, with what rows have shown of them.
        """
        for record, shown in ended:
            self._known[record.pid, record.start_boottime_ns] = _PATIENCE, shown
        total = [0] * len(REASONS)
        for thread in [t for t in self._found if t not in alive]:
            slept = self._found.pop(thread)
            _, shown = self._known.pop(thread, (0, [0] * len(REASONS)))
            total = [a + max(0, b - c) for a, b, c in zip(total, slept, shown, strict=True)]
        self._known = {thread: (left - 1, shown) for thread, (left, shown) in self._known.items()
                       if left > 0}
        return total
