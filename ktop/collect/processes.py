"""Processes layer: iter/task and the event ring -> rows, feed, folds."""

from __future__ import annotations

import os
import time

from ktop.bpf.engine import Engine
from ktop.bpf.layout import COUNTERS, LIFE_COUNTERS
from ktop.collect import events
from ktop.collect.dead_waits import DeadWaits
from ktop.collect.host import Clocks
from ktop.collect.mourned import Mourned
from ktop.collect.proc import ProcfsLayer
from ktop.collect.ringlayer import RingLayer
from ktop.collect.sweep import Sweep
from ktop.collect.tasks import TaskTable
from ktop.folds import Folds
from ktop.model import Process, Processes, ProcessEvent
from ktop.text import arguments

_ARGS_PER_TICK = 400  # command lines read from /proc in one tick; all others came with an exec


def read_cmdline(pid: int) -> str | None:
    """A command line from /proc; None for kernel threads and what is gone or forbidden."""
    try:
        fd = os.open(f"/proc/{pid}/cmdline", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        raw = os.read(fd, 4096)
    except OSError:
        return None
    finally:
        os.close(fd)
    return arguments(raw) if raw else None


class ProcessesLayer(RingLayer):
    """The processes of the host, tick by tick."""

    def __init__(self, engine: Engine, clocks: Clocks) -> None:
        super().__init__()
        self._engine, self._clocks = engine, clocks
        self._tasks: TaskTable | None = None
        if engine.live("tasks"):
            self._tasks = TaskTable(engine.loaded.syscalls, engine.live("sched_switch"))
        self._procfs = ProcfsLayer(clocks)
        self._table: TaskTable | ProcfsLayer = self._tasks or self._procfs
        self._life: Engine | None = None
        self._pending: list[ProcessEvent] = []
        self._folds: Folds | None = None
        self._counters: tuple[int, dict[str, int]] = (0, {})  # when read, and what
        self._counters_ns, self._counts = 0, dict[str, int]()
        self._read_ns, self._data = 0, b""
        self._dead = DeadWaits()
        self._sweep = (Sweep(engine, "dead_hists")
                       if "dead_hists" in engine.loaded.maps else None)
        self._dead_read: tuple[dict[bytes, bytes], list[tuple[bytes, bytes]]] = {}, []
        self.dead_waits: dict[int, dict[int, int]] = {}  # of ended threads: by cgroup id and slot
        self._no_args: set[int] = set()   # processes whose command line is still to be read
        self._execd: set[int] = set()     # processes with an exec rate other than zero
        self.untracked_total = 0

    def join(self, lifecycle: Engine) -> None:
        """Executions and exits are there from now on."""
        self._life = lifecycle
        self._open(lifecycle, "events")

    def look_at(self, pid: int) -> None:
        """Whose threads are to be told in full, 0 for nobody's."""
        if self._tasks is not None:
            if self._tasks.mourned is None:
                self._tasks.mourned = Mourned(self._engine)
            self._tasks.mourned.look_at(pid)

    def drain(self) -> None:
        """Empty the event ring; called between ticks too, so that a burst finds room."""
        offset = self._clocks.wall_offset
        self._pending += [events.decode(raw, offset) for raw in self._take()]

    def sample(self) -> None:
        """Read the kernel (SchedLayer.sample says why this is a step of its own)."""
        self.drain()
        if self._sweep is not None:  # DeadWaits says why first
            taken = self._sweep.take()
            self._dead_read = self._engine.read_table("dead_hists").items(), taken
        self._read_ns = time.monotonic_ns()
        if self._tasks is not None:
            self._data = self._engine.read_iter("tasks")
        if self._tasks is not None and self._tasks.mourned is not None:
            self._tasks.mourned.sample()
        self._counters_ns, self._counts = time.monotonic_ns(), self._read_counters()

    def update(self) -> Processes:
        """One tick: everything since the last."""
        now, interval = self._clocks.now, self._clocks.interval_ns
        found, self._pending = self._pending, []
        if self._tasks is not None:
            self._tasks.update(self._data, self._read_ns, self._clocks.boot_offset)
            self._data = b""
        else:
            self._procfs.update()
        if self._sweep is not None:
            self.dead_waits = self._dead.update(
                *self._dead_read, self._tasks.buried if self._tasks else ())
            self._sweep.note(self._dead_read[0], self._dead.moved)
        if self._folds is None:
            self._folds = Folds(now)
        for event in found:
            self._folds.add(event, now)
        self._arguments(found)
        self._exec_rates(found, interval)
        rows = self._table.rows()
        shown, cut = events.feed(found)
        layer = Processes(rows=rows, events=shown, events_cut=cut, folds=self._folds.rows(now),
                          threads=self._tasks.threads() if self._tasks else [])
        self._totals(layer)
        return layer

    @property
    def changes(self) -> list[tuple[Process | None, Process | None]]:
        """(row before, row now) of the processes that changed in the last update."""
        return self._table.changes

    def _arguments(self, found: list[ProcessEvent]) -> None:
        """Command lines: from the exec event where there was one, else once from /proc."""
        executed = {e.pid: e.args for e in found if e.kind == "exec"}
        for _, row in self._table.changes:
            if row is None:
                continue
            if row.pid in executed:
                row.args = executed[row.pid]
            elif row.args is None and not row.kernel_thread:
                self._no_args.add(row.pid)
        for pid in list(self._no_args)[:_ARGS_PER_TICK]:
            self._no_args.discard(pid)
            row = self._table.row(pid)
            if row is not None and row.args is None:
                row.args = read_cmdline(pid) or ""

    def _exec_rates(self, found: list[ProcessEvent], interval: int | None) -> None:
        if not interval or self._life is None or not self._life.live("process_exec"):
            return
        execs: dict[int, int] = {}
        for event in found:
            if event.kind == "exec":
                execs[event.pid] = execs.get(event.pid, 0) + 1
                execs[event.ppid] = execs.get(event.ppid, 0) + 1
        for pid in self._execd - execs.keys():
            execs[pid] = 0
        for _, row in self._table.changes:
            if row is not None and row.execs_per_s is None:
                row.execs_per_s = 0.0
        for pid, n in execs.items():
            row = self._table.row(pid)
            if row is not None:
                row.execs_per_s = n * 1e9 / interval
        self._execd = {pid for pid, n in execs.items() if n}

    def _read_counters(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for engine, map_name, names in ((self._engine, "counters", COUNTERS),
                                        (self._life, "life_counters", LIFE_COUNTERS)):
            if engine is None or map_name not in engine.loaded.maps:
                continue
            found |= engine.read_counters(map_name, names)
        return found

    def _totals(self, layer: Processes) -> None:
        new, (last_ns, old) = self._counts, self._counters
        self._counters = (self._counters_ns, new)
        interval = self._counters_ns - last_ns if last_ns else None
        self._lose(new.get("lost_events", 0))
        self.untracked_total = new.get("untracked", 0)
        for name, probe in (("forks", "process_fork"), ("execs", "process_exec"),
                            ("exits", "process_exit")):
            engine = self._engine if name == "forks" else self._life
            if engine is None or name not in new or not engine.live(probe):
                continue
            setattr(layer, f"{name}_total", new[name])
            if name in old and interval:
                setattr(layer, f"{name}_per_s", (new[name] - old[name]) * 1e9 / interval)
        if self._life is not None and self._life.live("exec_failed"):
            layer.execs_failed_total = new.get("execs_failed")
