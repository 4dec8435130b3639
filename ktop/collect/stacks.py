"""Call stacks on request: load, attach, read, detach, forget.

Nothing of it exists before somebody asks. The run ends by itself; then the programs are detached
and every map is closed at once, and what they found stays in the frames for `KEEP_S`.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

from ktop.bpf import syscall
from ktop.bpf.engine import Engine
from ktop.bpf.layers import STACKS
from ktop.bpf.stacks_layer import (
    CONFIG_CGROUPS,
    CONFIG_CHILDREN,
    CONFIG_PIDS,
    CONFIG_STRUCT,
    HZ,
    KINDS,
    PROBES_OF,
    TARGETS,
)
from ktop.collect.stacks_symbols import Symbols
from ktop.collect.stacks_table import Table
from ktop.model import Cgroup, Frame, Process, Stacks
from ktop.wire import Profile

DEFAULT_S, LONGEST_S = 30.0, 3600.0
KEEP_S = 60.0        # the result stays in the frames that long: they are recorded, too
NAMING_S = 60.0      # after the end, names are waited for that long
BUSY_READ_S = 0.004  # maps that take longer to read are read once a tick only
_EVENT = {"cpu": "stacks_profile", "off": "stacks_switch"}


class Price:
    """What the programs cost, by the kernel's own statistics: on for one second in ten."""

    ON_S, EVERY_S = 1.0, 10.0

    def __init__(self) -> None:
        self._fd = -1
        self._since = self._next = 0.0
        self._before: dict[str, tuple[int, int]] = {}
        self._ns: dict[str, int] = {}
        self._runs: dict[str, int] = {}
        self._window_s = 0.0

    def look(self, engine: Engine, last: bool = False) -> None:
        """Begin or end a window of statistics."""
        now = time.monotonic()
        if self._fd >= 0 and (last or now - self._since >= self.ON_S):
            for name, (ns, runs) in engine.run_times().items():
                before_ns, before_runs = self._before.get(name, (0, 0))
                self._ns[name] = self._ns.get(name, 0) + ns - before_ns
                self._runs[name] = self._runs.get(name, 0) + runs - before_runs
            self._window_s += now - self._since
            self._next = now + self.EVERY_S - self.ON_S
            self.close()
        elif self._fd < 0 and not last and now >= self._next:
            try:
                self._fd = syscall.enable_run_stats()
            except OSError:
                self._next = now + self.EVERY_S
                return
            self._before, self._since = engine.run_times(), now

    def cpu_pct(self) -> float | None:
        """Of one CPU, all programs; None until a window has passed."""
        return sum(self._ns.values()) / self._window_s / 1e7 if self._window_s else None

    def event_ns(self) -> dict[str, float]:
        """Mean cost of a sample and of a context switch."""
        return {kind: self._ns[name] / self._runs[name] for kind, name in _EVENT.items()
                if self._runs.get(name)}

    def close(self) -> None:
        """Statistics off."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Run:
    """One request, from loading to the last name."""

    def __init__(self, wish: Profile, options: dict[str, Any], engines: list[Engine]) -> None:
        self.wish = wish
        self.kinds = [kind for kind in KINDS if kind in wish.kinds] or list(KINDS)
        self.limit_s = min(wish.seconds or DEFAULT_S, LONGEST_S)
        self.state = "loading"
        self.reason = ""
        self.started_ns = time.time_ns()
        self.ended_at = 0.0
        self.notes: list[str] = []
        self._engines = engines
        self._began = self._elapsed = 0.0
        self._map_bytes: int | None = None
        self._slow = False
        self._symbols = Symbols()
        self._table = Table(self._symbols)
        self._price = Price()
        self._targets: set[int] = set()  # control groups that the programs know of
        self.engine: Engine | None = Engine(options, STACKS)
        self.engine.start()

    # -- life ----------------------------------------------------------------------------------

    def poll(self, processes: list[Process]) -> None:
        """Whatever can be done now; never waits."""
        if self.state == "loading" and self.engine is not None and self.engine.poll():
            self._loaded(self.engine, processes)
        elif self.engine is not None and self.state == "running":
            self._price.look(self.engine)
            if not self._slow:
                self.read()
            if time.monotonic() - self._began >= self.limit_s:
                self.stop()
        self._symbols.poll()
        self._table.name()
        if self.state == "naming":
            self._name_the_rest()

    def _name_the_rest(self) -> None:
        if self._symbols.busy and time.monotonic() - self.ended_at > NAMING_S:
            self._symbols.give_up("the reader of symbols is too slow")
        if not self._symbols.busy:
            self._table.name()
            self._over("ended")

    def _loaded(self, engine: Engine, processes: list[Process]) -> None:
        loaded = engine.loaded
        if loaded.fatal is not None:
            self.fail(loaded.fatal)
            return
        wish = self.wish
        flags = (CONFIG_PIDS * bool(wish.pids) | CONFIG_CGROUPS * bool(wish.cgroups)
                 | CONFIG_CHILDREN * wish.children)
        pids = self._pids(processes)
        if len(pids) > TARGETS:
            self.notes.append(f"{len(pids) - TARGETS} processes of the target left out: too many")
        for pid in pids[:TARGETS]:
            syscall.map_update(loaded.maps["stacks_pids"].fd, pid.to_bytes(4, sys.byteorder),
                               b"\1")
        self._add_groups(set(wish.cgroups))
        only = pids[0] if flags == CONFIG_PIDS and len(pids) == 1 else 0
        syscall.map_update(loaded.maps["stacks_config"].fd, bytes(4),
                           CONFIG_STRUCT.pack(flags, only))
        engine.attach_only({name for kind in self.kinds for name in PROBES_OF[kind]})
        missing = [kind for kind in self.kinds if not engine.live(_EVENT[kind])]
        for kind in missing:
            name = _EVENT[kind]
            self.notes.append(f"no {name}: {loaded.reasons.get(name) or 'not attached'}")
        if len(missing) == len(self.kinds):
            self.fail("; ".join(self.notes))
            return
        self._began, self.started_ns = time.monotonic(), time.time_ns()
        if engine.live("stacks_blocked"):
            engine.read_iter("stacks_blocked")
        self.state = "running"
        self._map_bytes = engine.map_bytes()
        self._engines.append(engine)
        self._price.look(engine)

    def _pids(self, processes: list[Process]) -> list[int]:
        """The target's processes, with their descendants where those were asked for."""
        found = list(dict.fromkeys(self.wish.pids))
        if self.wish.children and found:
            below: dict[int, list[int]] = {}
            for row in processes:
                below.setdefault(row.ppid, []).append(row.pid)
            known = set(found)
            for pid in found:  # grows as it is walked
                fresh = [child for child in below.get(pid, ()) if child not in known]
                known.update(fresh)
                found += fresh
        return found

    def stop(self) -> None:
        """The end, by the clock or on request: detach, read for the last time, let go."""
        engine, self.engine = self.engine, None
        if engine is not None:
            try:
                if self.state == "running":
                    engine.attach_only(())
                    self._elapsed = time.monotonic() - self._began
                    self._table.read(engine, time.monotonic_ns())
                    self._price.look(engine, last=True)
            finally:
                self._free(engine)
        self.ended_at = time.monotonic()
        if self.state == "running":
            self.state = "naming"
            self.poll([])
        elif self.state == "loading":
            self._over("ended")

    def fail(self, reason: str) -> None:
        """It cannot be done."""
        self.reason = reason
        if self.engine is not None:
            self._free(self.engine)
            self.engine = None
        self._over("failed")

    def _free(self, engine: Engine) -> None:
        if engine in self._engines:
            self._engines.remove(engine)
        engine.close()

    def _over(self, state: str) -> None:
        self.state = state
        self.ended_at = time.monotonic()
        self._price.close()
        self._symbols.close()

    def close(self) -> None:
        """End everything, keep nothing."""
        if self.engine is not None:
            self._free(self.engine)
            self.engine = None
        self._over("ended")

    # -- data ----------------------------------------------------------------------------------

    def tick(self, frame: Frame, path: Callable[[int], str | None]) -> None:
        """Once a frame, however long the maps take to read."""
        self.follow(frame.cgroups, path)
        self.read()
        self.poll(frame.processes.rows)

    def read(self) -> None:
        """Take the sums as they are now."""
        if self.engine is None or self.state != "running":
            return
        began = time.thread_time()
        self._table.read(self.engine, time.monotonic_ns())
        self._slow = time.thread_time() - began > BUSY_READ_S

    def follow(self, groups: list[Cgroup], path: Callable[[int], str | None]) -> None:
        """Control groups that were made below the target's since."""
        if not self.wish.cgroups or self.state != "running":
            return
        above = [p for p in map(path, self.wish.cgroups) if p is not None]
        if "/" in above:
            self._add_groups({group.id for group in groups})
            return
        roots = tuple(p + "/" for p in above)
        self._add_groups({group.id for group in groups if group.path.startswith(roots)})

    def _add_groups(self, ids: set[int]) -> None:
        assert self.engine is not None
        for number in sorted(ids - self._targets)[:TARGETS - len(self._targets)]:
            syscall.map_update(self.engine.loaded.maps["stacks_cgroups"].fd,
                               number.to_bytes(8, sys.byteorder), b"\1")
            self._targets.add(number)

    def result(self) -> Stacks:
        """For the frame."""
        table, running = self._table, self.state == "running"
        elapsed = time.monotonic() - self._began if running else self._elapsed
        return Stacks(
            state="ended" if self.state == "naming" else self.state, started_ns=self.started_ns,
            elapsed_ns=round(elapsed * 1e9), limit_ns=round(self.limit_s * 1e9),
            pids=list(self.wish.pids), cgroups=list(self.wish.cgroups), hz=HZ,
            names=list(table.names), stacks=list(table.stacks), reason=self.reason,
            children=self.wish.children, kinds=list(self.kinds), naming=table.naming,
            lost_traces=table.lost["traces"], lost_sums=table.lost["sums"],
            lost_threads=table.lost["threads"], cpu_pct=self._price.cpu_pct(),
            event_ns=self._price.event_ns(), map_bytes=self._map_bytes,
            notes=[*self.notes, *self._symbols.notes])


def _impossible(wish: Profile) -> str:
    """What is wrong with a request; it comes from a process with fewer rights than ours."""
    if not all(0 < pid < 1 << 31 for pid in wish.pids):
        return "a process id is a positive number"
    if not all(0 < group < 1 << 64 for group in wish.cgroups):
        return "a control group's id is a positive number"
    return ""


class StacksLayer:
    """The last request and its result."""

    def __init__(self, options: dict[str, Any], engines: list[Engine],
                 path: Callable[[int], str | None], without: str = "") -> None:
        """engines: those that health accounts for; ours joins them while it is loaded.

        path: of a control group's id. without: why there is no BPF.
        """
        self._options, self._engines, self._path = options, engines, path
        self._without = without
        self._run: Run | None = None
        self._failed: Stacks | None = None
        self._processes: list[Process] = []

    def request(self, wish: Profile) -> None:
        """Begin, end, or forget (ktop.wire.Profile)."""
        if not wish.seconds > 0:
            if self._run is not None and self._run.state in ("loading", "running"):
                self._try(self._run.stop)
            else:
                self._forget()
            return
        self._forget()
        why = self._without or _impossible(wish)
        if why:
            self._failed = Stacks("failed", time.time_ns(), pids=wish.pids, cgroups=wish.cgroups,
                                  children=wish.children, reason=why)
            return
        self._run = Run(wish, self._options, self._engines)

    def _forget(self) -> None:
        if self._run is not None:
            self._run.close()
        self._run = self._failed = None

    def drain(self) -> None:
        """Between ticks: go on with what is under way."""
        run = self._run
        if run is not None and run.state not in ("ended", "failed"):
            self._try(lambda: run.poll(self._processes))

    def _try(self, work: Callable[[], None]) -> None:
        """What the kernel refuses is the end of this run, not of the collector."""
        try:
            work()
        except OSError as err:
            if self._run is not None:
                self._run.fail(f"the kernel refused: {err.strerror or err}")

    def update(self, frame: Frame) -> None:
        """This tick's part of the frame."""
        self._processes = frame.processes.rows
        run = self._run
        if run is None:
            frame.stacks = self._failed
            return
        over = run.state in ("ended", "failed")
        if over and time.monotonic() - run.ended_at > KEEP_S:
            self._forget()
            return
        if not over:
            self._try(lambda: run.tick(frame, self._path))
        frame.stacks = run.result()

    def close(self) -> None:
        """Detach everything."""
        self._forget()
