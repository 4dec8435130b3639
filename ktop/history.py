"""The recent past that charts and feeds need, taken from Frames as they pass. Bounded; no clock.

A tick keeps a few figures and one histogram, not its Frame. Time is the frames' own: monotonic,
plus the time that passed while the machine was suspended: a suspend is a gap. What was not measured
stays a gap: columns without a tick are None, not zero.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from ktop import hist
from ktop.diagnosis.model import Report
from ktop.history_feeds import Fed, Feeds
from ktop.model import Block, Files, Frame, Hist, ProcessEvent
from ktop.model_block import SlowIo
from ktop.scope import Members

SECOND = 1_000_000_000
SPAN_NS = 600 * SECOND
EVENTS = 5_000
BLOCK_HISTS = 6  # histograms of the busiest (device, operation) pairs kept of a tick


@dataclass(frozen=True)
class Tick:
    """One frame's figures. It speaks for the time (at_ns - interval_ns, at_ns].

    busy_pct: per CPU, 100 - idle - iowait. block: device time by (device, operation), of the
    BLOCK_HISTS busiest pairs. files: latency by operation on files.
    rtt: round trips of established connections. states: mean number of threads `cpu` (running),
    `runq` (waiting for a CPU) and off CPU by reason (model.OFF_CPU); they sum to all threads.
    mark: where the feeds stood. monotonic_ns: of the frame's clock.
    report: the diagnosis at this tick, where one was made. Units and None as in the model.
    """

    at_ns: int
    wall_ns: int
    interval_ns: int | None
    runq: Hist | None
    waiting: float | None
    switches_per_s: float | None
    migrations_per_s: float | None
    forks_per_s: float | None
    execs_per_s: float | None
    exits_per_s: float | None
    tasks: int
    busy_pct: dict[int, float | None]
    runq_len: dict[int, float | None]
    block: dict[tuple[str, str], Hist] | None = None
    files: dict[str, Hist] | None = None
    rtt: Hist | None = None
    states: dict[str, float] | None = None
    mark: tuple[tuple[int, int], ...] = ()
    monotonic_ns: int = 0
    report: Report | None = None


def _file_hists(files: Files | None) -> dict[str, Hist] | None:
    """Latency of file operations; none while nobody looks."""
    if files is None or files.host is None or files.host.reads_per_s is None:
        return None
    return {"read": files.host.read or Hist({}), "write": files.host.write or Hist({}),
            "fsync": files.host.fsync or Hist({})}


def _states(frame: Frame) -> dict[str, float] | None:
    """Mean number of threads by what they did in the interval."""
    off = frame.sched.off_cpu
    if off is None or frame.clock.interval_ns is None:
        return None
    cpu = sum(p.cpu_pct or 0.0 for p in frame.processes.rows) / 100.0
    runq = sum(p.runq_wait_pct or 0.0 for p in frame.processes.rows) / 100.0
    return {"cpu": cpu, "runq": runq, **off}


def _block_hists(block: Block | None) -> dict[tuple[str, str], Hist] | None:
    """Device time (the total where it is not known apart) of the busiest operations."""
    if block is None or not any(device.ops for device in block.devices):
        return None
    found = sorted(((op.per_s, device.name, op.op, hist_of) for device in block.devices
                    for op in device.ops if (hist_of := op.device or op.total)),
                   key=lambda item: -item[0])
    return {(device, op): hist_of for _, device, op, hist_of in found[:BLOCK_HISTS]}


def _busy(idle: float | None, iowait: float | None) -> float | None:
    return None if idle is None else max(0.0, 100.0 - idle - (iowait or 0.0))


class History:
    """The last `span_ns` of ticks and the last events of each kind. Fed every frame."""

    def __init__(self, span_ns: int = SPAN_NS, events: int = EVENTS) -> None:
        self.span_ns = span_ns
        self.ticks: deque[Tick] = deque()
        self.feeds = Feeds(events)
        self._monotonic_ns: int | None = None
        self._suspended_ns = 0

    def clear(self) -> None:
        """Forget everything: another host, or a jump in a recording."""
        self.ticks.clear()
        self.feeds.clear()
        self._monotonic_ns = None
        self._suspended_ns = 0

    def add(self, frame: Frame, report: Report | None = None) -> None:
        """Take what charts need from a frame. One that is older than the last starts afresh."""
        clock = frame.clock
        if self._monotonic_ns is not None:
            if clock.monotonic_ns == self._monotonic_ns:
                return
            if clock.monotonic_ns < self._monotonic_ns:
                self.clear()
        self._monotonic_ns = clock.monotonic_ns
        # a step of the clock looks like a suspend when it goes forward, and like nothing backward
        self._suspended_ns += max(0, clock.gap_ns)
        at_ns = clock.monotonic_ns + self._suspended_ns
        self.feeds.add(frame)
        sched, processes = frame.sched, frame.processes
        self.ticks.append(Tick(
            at_ns, clock.wall_ns, clock.interval_ns, sched.runq, sched.waiting,
            sched.switches_per_s, sched.migrations_per_s, processes.forks_per_s,
            processes.execs_per_s, processes.exits_per_s, len(processes.rows),
            {c.cpu: _busy(c.idle_pct, c.iowait_pct) for c in frame.cpus},
            {c.cpu: c.runq_len for c in frame.cpus}, _block_hists(frame.block),
            _file_hists(frame.files), frame.tcp.rtt if frame.tcp else None, _states(frame),
            self.feeds.mark(), clock.monotonic_ns, report))
        while self.ticks[0].at_ns < at_ns - self.span_ns:
            self.ticks.popleft()

    def until(self, monotonic_ns: int) -> History:
        """The past as it was at the last tick at or before that time: a view that is cheap."""
        past = History(self.span_ns)
        past.ticks = deque(tick for tick in self.ticks if tick.monotonic_ns <= monotonic_ns)
        if past.ticks:
            past.feeds = self.feeds.until(past.ticks[-1].mark)
        return past

    def narrowed(self, members: Members) -> History:
        """The beginning of a scope's own past: its events, and no ticks yet."""
        past = History(self.span_ns)
        past.feeds = self.feeds.narrowed(members)
        return past

    @property
    def newest(self) -> Tick | None:
        """The last tick."""
        return self.ticks[-1] if self.ticks else None

    def events(self) -> list[Fed[ProcessEvent]]:
        """Executions and exits, newest first."""
        return self.feeds.processes.newest_first()

    @property
    def events_cut(self) -> int:
        """Executions and exits that happened and were not in their frame."""
        return self.feeds.processes.cut

    def slow_ios(self) -> list[Fed[SlowIo]]:
        """Slow block requests, newest first."""
        return self.feeds.slow_io.newest_first()

    def runq_columns(self, columns: int, span_ns: int) -> list[Hist | None]:
        """Run queue latency over the last `span_ns`, oldest first, in `columns` equal parts."""
        return self._columns(lambda tick: tick.runq, columns, span_ns)

    def block_columns(self, device: str, op: str, columns: int,
                      span_ns: int) -> list[Hist | None]:
        """The same for the device time of one operation on one device. Ticks in which it was not
        done, or not among the busiest, are empty, not unknown."""
        nothing = Hist({})
        return self._columns(
            lambda tick: None if tick.block is None else tick.block.get((device, op), nothing),
            columns, span_ns)

    def file_columns(self, op: str, columns: int, span_ns: int) -> list[Hist | None]:
        """The same for reads, writes or fsyncs of files; None while nobody looked."""
        return self._columns(lambda tick: (tick.files or {}).get(op), columns, span_ns)

    def rtt_columns(self, columns: int, span_ns: int) -> list[Hist | None]:
        """The same for the round-trip times of established TCP connections, one each per tick."""
        return self._columns(lambda tick: tick.rtt, columns, span_ns)

    def _columns(self, get: Callable[[Tick], Hist | None], columns: int,
                 span_ns: int) -> list[Hist | None]:
        """Parts begin at multiples of their own length, so that a tick changes the newest one only.

        None: no histogram in that time. A tick longer than a part fills every part it spans.
        """
        if not self.ticks or columns <= 0:
            return [None] * columns
        parts: list[list[Hist]] = [[] for _ in range(columns)]
        length = max(1, span_ns // columns)
        oldest = _parts(self.ticks[-1], length)[-1] - columns + 1
        for tick in reversed(self.ticks):
            spanned = _parts(tick, length)
            if spanned[-1] < oldest:
                break
            found = get(tick)
            if found is None or not tick.interval_ns:
                continue
            # only those in view: a tick may say that it spans a century
            for part in range(max(spanned.start, oldest), min(spanned.stop, oldest + columns)):
                parts[part - oldest].append(found)
        return [hist.merge(found) if found else None for found in parts]


def _parts(tick: Tick, length: int) -> range:
    """The parts of time a tick speaks for: the one it lies in, or all whose middle it covers.

    Ticks that follow each other without a hole leave no part out, whatever their jitter.
    """
    begin = tick.at_ns - (tick.interval_ns or 0)
    first, last = (begin + length // 2) // length, (tick.at_ns - length // 2) // length
    if last < first:
        first = last = (begin + tick.at_ns) // 2 // length
    return range(first, last + 1)
