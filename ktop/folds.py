"""Executions and exits folded over a sliding minute. Pure: fed with events, has no clock."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field

from ktop.model import ProcessEvent, ProcessFold

WINDOW_NS = 60_000_000_000
MAX_FOLDS = 4096


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
    row: ProcessFold | None = None  # until one of these moves


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
        fold.row = None
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
                fold.row = None
            if not fold.ticks:
                del self._folds[key]
                continue
            if fold.row is None or fold.row.window_ns != window:
                fold.row = _row(key, fold, window)
            found.append(fold.row)
        found.sort(key=lambda f: (-f.execs - f.failed, -f.exits, f.parent_comm, f.comm, f.cgroup))
        return found


def _row(key: tuple[str, str, int], fold: _Fold, window: int) -> ProcessFold:
    execs, failed, exits, bad, cpu, lifetime = [sum(column) for column in zip(*(
        (t.execs, t.failed, t.exits, t.exits_bad, t.cpu_ns, t.lifetime_ns)
        for t in fold.ticks), strict=True)]
    parent, command, cgroup = key
    return ProcessFold(
        parent_comm=parent, comm=command, cgroup=cgroup, window_ns=window, execs=execs,
        failed=failed, exits=exits, exits_bad=bad, execs_per_min=(execs + failed) * 60e9 / window,
        cpu_ns=cpu, lifetime_ns=lifetime, last_error=fold.last_error, last_args=fold.last_args)
