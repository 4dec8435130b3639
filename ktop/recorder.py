"""`ktop record`: frames from a source into a file, with a line on how it goes.

The same tree of processes as the live UI (ktop.launch): the collector is root, the recorder is the
invoking user, so the file is theirs, and nothing is written with more rights than they have. A
collector that dies is started again; what is missing meanwhile is a gap.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from ktop import format as fmt
from ktop import launch
from ktop.diagnosis.engine import Diagnosis
from ktop.model import Frame
from ktop.narrow import narrow
from ktop.recording import Info, RecordingError, Writer, default_name
from ktop.redact import Redactor
from ktop.remote import Far, begin
from ktop.scope import Roster, Scope
from ktop.sources import ENDED, LiveSource, Source
from ktop.text import clean
from ktop.wire import Control

SECOND = 1_000_000_000
RESTARTS, RESTART_SPAN_S = 3, 60.0  # collectors started anew within that time, before we give up
PULSE_S = 1.0
SAY_EVERY_S = 600.0                 # a line in a log
STALLED_S = 5.0


@dataclass(frozen=True)
class Order:
    """What the command line asks for. output None: a name by host and time, in this directory."""

    interval_ns: int = SECOND
    bpf: bool = True
    limits: tuple[str, ...] = ()
    output: str | None = None
    duration_ns: int | None = None
    max_bytes: int | None = None
    keep_ns: int | None = None
    layers: tuple[str, ...] = ()
    redact: bool = False
    scope: Scope | None = None
    far: Far | None = None  # another host

    @property
    def hostname(self) -> str:
        """What is recorded, for the file's name."""
        return os.uname().nodename if self.far is None else self.far.host.rpartition("@")[2]


class Progress:
    """A line that is written over on a terminal; lines of a log elsewhere."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._live = self._stream.isatty()
        self._shown = False
        self._said_at = 0.0

    def say(self, line: str) -> None:
        """Something that stays."""
        self._write(f"\r\x1b[K{line}\n" if self._shown else f"{line}\n")
        self._shown = False

    def show(self, line: str, now: float) -> None:
        """How it goes."""
        if self._live:
            width = shutil.get_terminal_size().columns - 1
            self._write(f"\r\x1b[K{line[:width]}")
            self._shown = True
        elif now - self._said_at >= SAY_EVERY_S:
            if self._said_at:
                self.say(line)
            self._said_at = now

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            self._live = False  # nobody looks any more; that is no reason to end


class Recorder:
    """One recording, from its first frame to its end."""

    def __init__(self, order: Order, progress: Progress | None = None) -> None:
        self._order = order
        self._progress = progress or Progress()
        self._status = 0
        self._why = ""
        self._over = asyncio.Event()
        self._restarts: deque[float] = deque(maxlen=RESTARTS)
        self._roster = Roster(order.scope) if order.scope else None
        self._redactor = Redactor() if order.redact else None
        self._diagnosis = Diagnosis()  # of what is recorded, as a replay will see it
        self._banner = ""
        self._first: Frame | None = None
        self._last: Frame | None = None
        self._last_at = 0.0
        self._began = 0.0
        self._lost = 0          # events, of collectors that have ended
        self._writer: Writer
        self._source: Source

    async def run(self, make_source: Callable[[], Source]) -> int:
        """Until it is told to end, or has to; the exit status."""
        path = Path(self._order.output or default_name(self._order.hostname, time.time_ns()))
        try:
            self._writer = Writer(path, self._info())
        except RecordingError as err:
            self._progress.say(f"ktop: {err}")
            return 2
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._end, signal.Signals(number).name)
        self._source = make_source()
        self._last_at = loop.time()
        try:
            self._progress.say(f"recording to {clean(os.fsencode(path))}")
            self._source.start(self._arrived, self._changed)
            self._source.ask(Control(watch=list(self._order.layers)))
            while not self._over.is_set():
                self._pulse(loop.time())
                try:
                    await asyncio.wait_for(self._over.wait(), PULSE_S)
                except TimeoutError:
                    continue
        finally:
            self._source.close()
            self._close()
        return self._status

    def _info(self) -> Info:
        order = self._order
        scope = " > ".join(order.scope.crumbs()[1:]) if order.scope else ""
        if scope and self._redactor is not None and order.scope is not None:
            scope = " > ".join(map(self._redactor.path, order.scope.crumbs()[1:]))
        return Info(scope, order.redact, {"interval_ns": str(order.interval_ns),
                                          "layers": ",".join(order.layers)})

    def _end(self, why: str, status: int = 0) -> None:
        """Once; the first reason is the one."""
        if not self._over.is_set():
            self._why, self._status = why, status
            self._over.set()

    # -- frames --------------------------------------------------------------------------------

    def _arrived(self, frames: list[Frame]) -> None:
        bodies: list[bytes | None] = [*self._source.bodies]
        bodies += [None] * (len(frames) - len(bodies))
        for frame, body in zip(frames, bodies, strict=True):
            if self._over.is_set():
                return
            self._keep(frame, body)

    def _keep(self, frame: Frame, body: bytes | None) -> None:
        """One more into the file. Its failure is the end."""
        now = asyncio.get_running_loop().time()
        if self._last is not None and frame.seq <= self._last.seq:  # another collector's
            self._lost += self._last.health.lost_total
        if self._first is None:
            self._first, self._began = frame, now
        self._last, self._last_at = frame, now
        if (frame.health.banner or "") != self._banner:
            self._banner = frame.health.banner or ""
            self._progress.say(self._banner or "nothing is missing any more")
        if self._roster is not None:
            frame, body = narrow(frame, self._roster.members(frame)), None
        if self._redactor is not None:
            frame, body = self._redactor.frame(frame), None
        order, writer = self._order, self._writer
        try:
            writer.add(frame, body, self._diagnosis.update(frame))
            if order.keep_ns is not None:
                writer.trim(order.max_bytes, order.keep_ns)
            elif order.max_bytes is not None and writer.size > order.max_bytes - writer.step:
                self._end(f"it has reached {fmt.size(order.max_bytes)}")
        except RecordingError as err:
            self._end(str(err), 1)

    def _changed(self) -> None:
        """The collector came or went."""
        if self._source.state != ENDED or self._over.is_set():
            return
        now = asyncio.get_running_loop().time()
        why = f"the collector has ended ({self._source.reason})"
        often = len(self._restarts) == RESTARTS and now - self._restarts[0] < RESTART_SPAN_S
        self._restarts.append(now)
        if often or not self._source.restart():
            self._end(why, 1)
        else:
            self._progress.say(f"{why}; another one is started")

    # -- saying how it goes --------------------------------------------------------------------

    def _pulse(self, now: float) -> None:
        line = self.line(now)
        if now - self._last_at > STALLED_S + 2 * self._order.interval_ns / SECOND:
            line += f"  no sample for {now - self._last_at:.0f}s"
        self._progress.show(line, now)
        ends = self._order.duration_ns
        if ends is not None and self._first is not None and now - self._began >= ends / SECOND:
            self._end("the time is over")

    def line(self, now: float) -> str:
        """Time, frames, size, size an hour, losses."""
        writer = self._writer
        if self._first is None or self._last is None:
            return "waiting for the first sample"
        seconds = max(0, round(now - self._began))
        size = writer.size
        hour = fmt.size(size / seconds * 3600) if seconds >= 10 else fmt.UNKNOWN
        lost = self._lost + self._last.health.lost_total
        skipped = self._last.health.skipped_frames
        return (f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}  "
                f"{writer.frames} samples  {fmt.size(size)}  {hour}/h  lost {lost} events"
                + (f", {skipped} samples" if skipped else ""))

    def _close(self) -> None:
        line = "" if self._first is None else self.line(self._last_at)
        try:
            self._writer.close(self._why)
        except RecordingError as err:
            self._progress.say(f"ktop: {err}; it opens as it is: keep FILE and FILE-wal together")
            self._status = self._status or 1
        if not self._writer.frames:
            self._writer.discard()
        if self._status:
            self._progress.say(f"ktop: {self._why}")
        if line:
            self._progress.say(f"{clean(os.fsencode(self._writer.path))}: {line}")
        elif not self._status:
            self._progress.say("no sample came: nothing is recorded")
            self._status = 1


def record(order: Order) -> int:
    """Record this host, or another; the exit status: 0, 1 when it ended by itself, 2 when it could
    not begin.
    """
    if order.output is not None and os.path.lexists(order.output):
        print(f"ktop: {clean(order.output, 200)}: is already there; ktop never overwrites",
              file=sys.stderr)
        return 2

    def interface(session: launch.Session) -> int:
        return asyncio.run(Recorder(order).run(lambda: LiveSource(session)))

    options = launch.Options(interval_ns=order.interval_ns, bpf=order.bpf, limits=order.limits,
                             host=order.far.host if order.far else "")
    collect: launch.Collect | None = begin(order.far) if order.far else launch.collect_live
    if collect is None:
        return 2
    return launch.Supervisor(options, collect, interface, headless=True).run()
