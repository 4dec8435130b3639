"""Executions and exits: ring buffer records -> the feed, and the folds of the last minute."""

from __future__ import annotations

import errno
import os
import signal
from collections import OrderedDict, deque
from dataclasses import dataclass, field

from ktop.bpf.layout import EVENT_EXEC, EVENT_EXEC_FAILED, EVENT_STRUCT
from ktop.collect.records import EventRecord
from ktop.model import EVENTS_PER_FRAME, ProcessEvent, ProcessFold
from ktop.text import arguments, clean, comm

WINDOW_NS = 60_000_000_000
MAX_FOLDS = 4096
_KINDS = {EVENT_EXEC: "exec", EVENT_EXEC_FAILED: "exec_failed"}


def errno_name(code: int) -> str:
    """ENOENT for 2; the number where it has no name."""
    return errno.errorcode.get(abs(code), str(abs(code)))


def signal_name(number: int) -> str:
    """SIGKILL for 9; real-time signals as SIGRTMIN+n."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}" if number > signal.SIGRTMIN else str(number)


def decode(raw: bytes, wall_offset_ns: int) -> ProcessEvent:
    """One record as an event. wall_offset_ns: CLOCK_REALTIME - CLOCK_MONOTONIC."""
    r = EventRecord._make(EVENT_STRUCT.unpack_from(raw))
    args = raw[EVENT_STRUCT.size:EVENT_STRUCT.size + r.args_len]
    event = ProcessEvent(
        kind=_KINDS.get(r.kind, "exit"), time_ns=r.time_ns + wall_offset_ns, pid=r.pid,
        ppid=r.ppid, uid=r.uid, comm=comm(r.comm), parent_comm=comm(r.parent_comm),
        cgroup=r.cgroup)
    if event.kind == "exit":
        number = r.code & 0x7F
        event.lifetime_ns, event.cpu_ns = r.lifetime_ns, r.cpu_ns
        if number:
            event.signal, event.core_dumped = signal_name(number), bool(r.code & 0x80)
        else:
            event.code = (r.code >> 8) & 0xFF
        return event
    event.args = arguments(args) if args else None
    event.args_cut = max(0, r.args_len - len(args))
    event.filename = clean(r.filename.split(b"\0", 1)[0], 256)
    if event.kind == "exec_failed":
        event.code, event.error = -r.code, errno_name(r.code)
        # comm is still the caller's: what it wanted to become is in the path.
        event.parent_comm = event.comm
        event.comm = clean(os.path.basename(event.filename), 64)
    return event


@dataclass
class _Tick:
    """Counts of one key in one tick."""

    time_ns: int
    execs: int = 0
    failed: int = 0
    exits: int = 0
    exits_bad: int = 0
    cpu_ns: int = 0
    lifetime_ns: int = 0


@dataclass
class _Fold:
    ticks: deque[_Tick] = field(default_factory=deque)
    last_error: str | None = None
    last_args: str | None = None


class Folds:
    """Counts by (parent command, command, cgroup) over a sliding minute.

    At most MAX_FOLDS keys: the least recently seen go first.
    """

    def __init__(self, start_ns: int) -> None:
        self._start = start_ns
        self._folds: OrderedDict[tuple[str, str, int], _Fold] = OrderedDict()

    def add(self, event: ProcessEvent, now: int) -> None:
        """Count one event at `now` (CLOCK_MONOTONIC ns)."""
        key = (event.parent_comm, event.comm, event.cgroup)
        fold = self._folds.get(key)
        if fold is None:
            fold = self._folds[key] = _Fold()
            if len(self._folds) > MAX_FOLDS:
                self._folds.popitem(last=False)
        self._folds.move_to_end(key)
        if not fold.ticks or fold.ticks[-1].time_ns != now:
            fold.ticks.append(_Tick(now))
        tick = fold.ticks[-1]
        if event.kind == "exit":
            tick.exits += 1
            tick.cpu_ns += event.cpu_ns or 0
            tick.lifetime_ns += event.lifetime_ns or 0
            if event.signal or event.code:
                tick.exits_bad += 1
                fold.last_error = event.signal or f"exit {event.code}"
            return
        fold.last_args = event.args or event.filename
        if event.kind == "exec":
            tick.execs += 1
        else:
            tick.failed += 1
            fold.last_error = event.error

    def rows(self, now: int) -> list[ProcessFold]:
        """Folds with anything in the window, busiest first."""
        window = max(1, min(WINDOW_NS, now - self._start))
        found = []
        for key in list(self._folds):
            fold = self._folds[key]
            while fold.ticks and fold.ticks[0].time_ns <= now - WINDOW_NS:
                fold.ticks.popleft()
            if not fold.ticks:
                del self._folds[key]
                continue
            sums = [sum(column) for column in zip(*(
                (t.execs, t.failed, t.exits, t.exits_bad, t.cpu_ns, t.lifetime_ns)
                for t in fold.ticks), strict=True)]
            parent, command, cgroup = key
            execs, failed, exits, bad, cpu, lifetime = sums
            found.append(ProcessFold(
                parent_comm=parent, comm=command, cgroup=cgroup, window_ns=window, execs=execs,
                failed=failed, exits=exits, exits_bad=bad,
                execs_per_min=(execs + failed) * 60e9 / window, cpu_ns=cpu, lifetime_ns=lifetime,
                last_error=fold.last_error, last_args=fold.last_args))
        found.sort(key=lambda f: (-f.execs - f.failed, -f.exits, f.parent_comm, f.comm, f.cgroup))
        return found


def feed(events: list[ProcessEvent]) -> tuple[list[ProcessEvent], int]:
    """The newest EVENTS_PER_FRAME, and how many were left out."""
    cut = max(0, len(events) - EVENTS_PER_FRAME)
    return events[cut:], cut
