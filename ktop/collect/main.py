"""The collector: reads the kernel each tick and emits Frames. No Textual, no LLVM, no bcc."""

from __future__ import annotations

import selectors
import socket
import time
from dataclasses import dataclass

from ktop import capabilities, wire
from ktop.bpf.engine import Engine
from ktop.collect import cgroups as cg
from ktop.collect import host as host_mod
from ktop.collect.block_limits import parse_limit
from ktop.collect.detail import DetailReader
from ktop.collect.health import HealthLayer
from ktop.collect.late import LateLayers
from ktop.collect.layer import Tick
from ktop.collect.memory import memory as read_memory
from ktop.collect.pressure import PressureLayer
from ktop.collect.proc import ProcfsLayer
from ktop.collect.processes import ProcessesLayer
from ktop.collect.sched import SchedLayer
from ktop.collect.stacks import StacksLayer
from ktop.model import SCHEMA, Frame, Processes, Sched

FIRST_INTERVAL_NS = 100_000_000  # the first rates come early
DRAIN_NS = 250_000_000           # how long the event ring is left alone at most
MIN_INTERVAL_NS, MAX_INTERVAL_NS = 100_000_000, 60_000_000_000


@dataclass
class Options:
    """interval_ns between frames; bpf False: psutil only; watch: layers whose on-demand probes are
    attached from the start; skip: probes not to load, btf False: use the installed kernel headers,
    typed False: read by helper only, as on 5.10 (all for tests). limits: what volumes are sold as,
    `vda=3000iops,125MBps`. as_root: what a user would start to see everything."""

    interval_ns: int = 1_000_000_000
    bpf: bool = True
    watch: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    btf: bool = True
    typed: bool = True
    limits: tuple[str, ...] = ()
    as_root: str = "sudo ktop"


class Collector:
    """Everything that makes frames. Use: start, tick, tick, ..., close."""

    def __init__(self, options: Options | None = None) -> None:
        self.options = options or Options()
        # What volumes and interfaces were declared to do, by their names.
        self.limits = {limit.device: limit for limit in map(parse_limit, self.options.limits)}
        self._clocks = host_mod.Clocks()
        self._cpu_times = host_mod.CpuTimes()
        self._stat = host_mod.StatRates()
        self._users = host_mod.Users()
        self._processes: ProcessesLayer | None = None
        self._procfs = ProcfsLayer(self._clocks)
        self._sched: SchedLayer | None = None
        self._cgroups = cg.Cgroups(None)
        self._pressure = PressureLayer()
        self._health = HealthLayer([])
        self._late: LateLayers | None = None
        self._stacks: StacksLayer | None = None
        self._detail: DetailReader | None = None
        self._syscalls: dict[int, str] = {}
        self._seq = 0
        self._tick_ns: int | None = None
        self.skipped_frames = 0

    def start(self) -> None:
        """Load and attach what can be loaded. What cannot is in every frame's health."""
        self._clocks.tick()
        hierarchy = cg.find_hierarchy()
        if not self.options.bpf:
            self._without("started with --no-bpf")
            return
        if (why := capabilities.why_no_bpf()) is not None:
            self._without(f"{why}: {self.options.as_root} shows everything")
            return
        options = {"cgroup_v1": bool(hierarchy and hierarchy.v1),
                   "skip": list(self.options.skip), "btf": self.options.btf,
                   "typed": self.options.typed}
        engine = Engine(options)
        engine.start()
        loaded = engine.wait()
        if not any(engine.live(probe.name) for probe in engine.table):
            reason = loaded.fatal or next(iter(loaded.reasons.values()), "nothing is attached")
            engine.close()
            self._without(reason)
            return
        self._processes = ProcessesLayer(engine, self._clocks)
        self._sched = SchedLayer(engine)
        self._syscalls = engine.loaded.syscalls
        self._cgroups = cg.Cgroups(hierarchy)
        self._late = LateLayers(options, True, self._settings(),
                                {"lifecycle": self._processes.join})
        self._late.engines.append(engine)
        self._late.watch(set(self.options.watch))
        self._health = HealthLayer(self._late.engines)
        self._stacks = StacksLayer(options, self._late.engines,
                                   lambda group: self._cgroups.path(group, self._clocks.now))

    def _settings(self) -> dict[str, dict[str, object]]:
        """Attributes of layers that the command line sets."""
        return {"block": {"limits": self.limits}, "tcp": {"limits": self.limits}}

    def _without(self, reason: str) -> None:
        self._late = LateLayers({}, False, self._settings())
        self._stacks = StacksLayer({}, [], lambda group: None, reason)
        self._health = HealthLayer(
            [], f"no BPF: {reason}. From /proc only: no events, no histograms, no blocked time",
            reason)

    def settle(self) -> None:
        """Wait until every layer is loaded; live frames do not."""
        if self._late is not None:
            if not self._seq:
                self.tick()
            self._late.wait()

    def watch(self, layers: list[str]) -> None:
        """Attach the on-demand probes of the layers that are looked at."""
        if self._late is not None:
            self._late.watch(set(layers))

    def set_thresholds(self, thresholds: dict[str, int]) -> None:
        """What counts as slow, ns by layer."""
        if self._late is not None:
            self._late.set_thresholds(thresholds)

    def look_at(self, pid: int) -> None:
        """Whose `Frame.detail` is wanted, 0 for nobody's."""
        if self._detail is None:
            self._detail = DetailReader(self._syscalls)
        self._detail.ask(pid)
        if self._processes is not None:
            self._processes.look_at(pid)

    def profile(self, wish: wire.Profile) -> None:
        """Begin or end taking stacks."""
        if self._stacks is not None:
            self._stacks.request(wish)

    def drain(self) -> None:
        """Make room in the event rings between ticks."""
        if self._stacks is not None:
            self._stacks.drain()
        if self._processes is not None:
            self._processes.drain()
        if self._late is not None:
            self._late.drain()

    def tick(self) -> Frame:
        """One frame. The first has no rates."""
        began = time.process_time_ns()
        self._health.tend()
        clock = self._clocks.tick()
        now, interval = clock.monotonic_ns, clock.interval_ns if self._seq else None
        clock.interval_ns = interval
        if not self._seq:
            self._clocks.interval_ns = None
        if self._processes is not None and self._sched is not None:
            self._processes.sample()
            self._sched.sample()
        cpus = self._cpu_times.rows()
        processes = self._processes.update() if self._processes else self._procfs.update()
        sched = self._sched.update(cpus) if self._sched else Sched()
        dead = self._processes.dead_waits if self._processes else {}
        if self._processes is not None:
            changes = self._processes.changes
            self._cgroups.apply(changes)
            sched.off_cpu = self._cgroups.off_cpu()
            if interval:
                sched.migrations_per_s = sum(p.migrations_per_s or 0.0 for _, p in changes if p)
        self._stand_in(processes, sched, interval)
        groups = self._cgroups.rows(dead, now, interval)
        health = self._health.update(self._tick_ns)
        health.skipped_frames = self.skipped_frames
        if self._processes is not None:
            health.lost_events, health.lost_total = self._processes.lost, self._processes.lost_total
            health.untracked_total = self._processes.untracked_total
        self._seq += 1
        memory = read_memory()
        frame = Frame(
            schema=SCHEMA, seq=self._seq, clock=clock,
            host=host_mod.host(self._clocks, memory.info, len(cpus)),
            processes=processes, sched=sched, cpus=cpus, cgroups=groups,
            users=self._users.names(processes), health=health,
            pressure=self._pressure.update(processes.rows, now, interval, memory))
        self._update_late(frame, interval, memory.vmstat)
        if self._stacks is not None:
            self._stacks.update(frame)
        if self._detail is not None:
            frame.detail = self._detail.update(frame)
        self._tick_ns = time.process_time_ns() - began
        return frame

    def _update_late(self, frame: Frame, interval: int | None, vmstat: dict[str, int]) -> None:
        """The layers of the later groups; their compile children start after the first frame."""
        if self._late is None:
            return
        rows = {row.pid: row for row in frame.processes.rows} if self._late.layers else {}
        clocks = self._clocks
        self._late.update(frame, Tick(
            now=clocks.now, interval_ns=interval, wall_offset=clocks.wall_offset,
            boot_offset=clocks.boot_offset, process=rows.get, processes=frame.processes.rows,
            watched=False, vmstat=vmstat))
        if self._seq == 1:
            self._late.start()

    def _stand_in(self, processes: Processes, sched: Sched, interval: int | None) -> None:
        """What /proc says where a probe is missing."""
        if sched.switches_per_s is not None and processes.forks_per_s is not None:
            return
        switches, forks = self._stat.read(interval)
        if sched.switches_per_s is None:
            sched.switches_per_s = switches
            waits = [p.runq_wait_pct for p in processes.rows if p.runq_wait_pct is not None]
            sched.waiting = sum(waits) / 100.0 if waits else None
        if processes.forks_per_s is None:
            processes.forks_per_s = forks

    def close(self) -> None:
        """Detach everything."""
        self._health.close()
        if self._stacks is not None:
            self._stacks.close()
        if self._detail is not None:
            self._detail.close()
        if self._processes is not None:
            self._processes.close()
        if self._late is not None:
            self._late.close()  # the first group's engine too
        self._cgroups.close()
        self._users.close()


class Server:
    """One reader on a socket: newest frame wins, the kernel is never waited for by the reader."""

    def __init__(self, sock: socket.socket, options: Options) -> None:
        self._sock, self._options = sock, options
        self._collector = Collector(options)
        self._reader = wire.Reader()
        self._selector: selectors.BaseSelector = selectors.DefaultSelector()
        self._sending = memoryview(b"")
        self._waiting: bytes | None = None
        self._due = 0
        self._interval = FIRST_INTERVAL_NS
        self._open = True

    def run(self) -> None:
        """Until the reader has gone."""
        self._sock.setblocking(False)
        self._selector.register(self._sock, selectors.EVENT_READ)
        self._collector.start()
        try:
            while self._open:
                now = time.monotonic_ns()
                if now >= self._due:
                    self._tick(now)
                    now = time.monotonic_ns()
                # also when the next is due already: the reader may have had enough of us
                self._wait(max(0, min(self._due - now, DRAIN_NS)))
                self._collector.drain()
        finally:
            self._collector.close()

    def _tick(self, now: int) -> None:
        frame = self._collector.tick()
        if frame.seq > 1:
            self._interval = self._options.interval_ns
        # On the grid, so that ticks of a slow moment do not drift; missed ones are not made up for.
        self._due = max(self._due + self._interval, now + self._interval // 2) if self._due else (
            now + FIRST_INTERVAL_NS)
        if self._waiting is not None:
            self._collector.skipped_frames += 1
        self._waiting = wire.encode_frame(frame)
        self._send()

    def _wait(self, timeout_ns: int) -> None:
        events = selectors.EVENT_READ
        if self._sending:
            events |= selectors.EVENT_WRITE
        self._selector.modify(self._sock, events)
        for _, ready in self._selector.select(timeout_ns / 1e9):
            if ready & selectors.EVENT_READ:
                self._receive()
            if ready & selectors.EVENT_WRITE and self._open:
                self._send()

    def _receive(self) -> None:
        try:
            data = self._sock.recv(1 << 16)
            messages = self._reader.feed(data)
        except BlockingIOError:
            return
        except (OSError, wire.WireError):
            data, messages = b"", []
        if not data:
            self._open = False
        for message in messages:
            if isinstance(message, wire.Control):
                self._obey(message)

    def _obey(self, control: wire.Control) -> None:
        if control.quit:
            self._open = False
        if control.watch is not None:
            self._collector.watch(control.watch)
        if control.thresholds is not None:
            self._collector.set_thresholds(control.thresholds)
        if control.profile is not None:
            self._collector.profile(control.profile)
        if control.detail is not None:
            self._collector.look_at(control.detail)
        if control.interval_ns is not None:
            interval = min(max(control.interval_ns, MIN_INTERVAL_NS), MAX_INTERVAL_NS)
            self._options.interval_ns = self._interval = interval
            self._due = min(self._due, time.monotonic_ns() + interval)

    def _send(self) -> None:
        try:
            while self._sending or self._waiting is not None:
                if not self._sending:
                    self._sending, self._waiting = memoryview(self._waiting or b""), None
                self._sending = self._sending[self._sock.send(self._sending):]
        except BlockingIOError:
            pass
        except OSError:
            self._open = False


def serve(sock: socket.socket, options: Options) -> int:
    """Run the collector for the reader at the other end of a stream socket, until it closes.

    Exit status: 0, or 1 when the collector failed; then its last words went over the wire.
    """
    try:
        Server(sock, options).run()
    except Exception as err:
        import traceback

        traceback.print_exc()
        try:
            sock.setblocking(True)
            sock.settimeout(1.0)
            sock.sendall(wire.encode_error(f"{type(err).__name__}: {err}"))
        except OSError:
            pass
        return 1
    finally:
        sock.close()
    return 0
