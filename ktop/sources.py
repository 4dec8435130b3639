"""Where frames come from, for the app's event loop. A source calls back; it never blocks the loop.

Now: `LiveSource`, the collector's socket. Recordings will be another class with the same face.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from typing import Protocol

from ktop.border import harmless
from ktop.launch import DEAD, NEW, RESTART, Session
from ktop.model import Frame
from ktop.text import clean
from ktop.wire import Control, Reader, WireError, encode_control

STARTING, LIVE, SILENT, ENDED = "STARTING", "LIVE", "SILENT", "DEAD"
CHUNK = 1 << 20
# At most this much is decoded before keys get their turn again.
READ_LIMIT = 4 << 20
LOG_TAIL = 4096
# A live collector is silent when it has not been heard of for two intervals and so many seconds.
SILENT_S = 3

Frames = Callable[[list[Frame]], None]
Changed = Callable[[], None]


class Source(Protocol):
    """What the app needs of a source. `reason` says in one line why `state` is ENDED or SILENT.

    bodies: encoded, of the frames that are being handed out, in step with them (to keep them
    without encoding again); empty when the source has none.
    """

    state: str
    reason: str
    bodies: list[bytes]

    def start(self, frames: Frames, changed: Changed) -> None:
        """Begin. `frames` gets all that arrived, oldest first; `changed` is told of `state`."""

    def ask(self, control: Control) -> None:
        """Ask the collector for something: another interval, probes, thresholds."""

    def restart(self) -> bool:
        """Ask for a new collector; False where there is nobody to ask."""

    def close(self) -> None:
        """Let go of everything."""


class Silence:
    """A source without frames: what an app has before it is told where to listen."""

    state = STARTING
    reason = ""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    def start(self, frames: Frames, changed: Changed) -> None:
        """Nothing will come."""

    def ask(self, control: Control) -> None:
        """Nobody minds."""

    def restart(self) -> bool:
        """Nobody is there."""
        return False

    def close(self) -> None:
        """Nothing is held."""


class LiveSource:
    """The collector at the other end of a stream socket, and the supervisor who can renew it."""

    def __init__(self, session: Session) -> None:
        self.state = STARTING
        self.reason = ""
        self.bodies: list[bytes] = []
        self._loop = asyncio.get_running_loop()
        self._stream: socket.socket | None = session.stream
        self._log = session.log
        self._control = session.control
        self._foreign = bool(session.options.host)  # text of another host is not believed
        self._wanted = Control(interval_ns=session.options.interval_ns)  # all that was asked for
        self._reader = Reader()
        self._outgoing = bytearray()
        self._last_words = ""
        self._quiet_s = 0  # seconds without a frame
        self._pulse: asyncio.TimerHandle | None = None
        self._frames: Frames = lambda frames: None
        self._changed: Changed = lambda: None

    def start(self, frames: Frames, changed: Changed) -> None:
        """Begin to read, on the running loop."""
        self._frames, self._changed = frames, changed
        self._control.setblocking(False)
        self._loop.add_reader(self._control, self._supervisor_speaks)
        self._attach()

    def _attach(self) -> None:
        if self._stream is not None:
            self._stream.setblocking(False)
            self._loop.add_reader(self._stream, self._readable)
            self._quiet_s = 0
            self._pulse = self._loop.call_later(1, self._listen)

    def _listen(self) -> None:
        """Once a second: has the collector been heard of? One that is stopped, starved, or behind
        a link that hangs, keeps its stream open.

        Seconds are counted and no clock is read: one that was stopped ourselves did not wait.
        """
        self._pulse = self._loop.call_later(1, self._listen)
        self._quiet_s += 1
        interval_s = (self._wanted.interval_ns or 0) / 1e9
        if self.state in (LIVE, SILENT) and self._quiet_s >= SILENT_S + 2 * interval_s:
            self.state, self.reason = SILENT, f"no sample for {self._quiet_s}s"
            self._changed()

    def _readable(self) -> None:
        """Take what is there. Nothing is drawn here: the callback decides when."""
        stream = self._stream
        if stream is None:
            return
        taken = 0
        found: list[Frame] = []
        self.bodies = []
        ended = ""
        while taken < READ_LIMIT and not ended:
            try:
                data = stream.recv(CHUNK)
            except BlockingIOError:
                break
            except OSError as err:
                ended = err.strerror or "connection lost"
                break
            if not data:
                ended = "it closed its stream"
                break
            taken += len(data)
            try:
                messages = self._reader.feed(data)
            except WireError as err:
                ended = str(err)
                break
            self.bodies += self._reader.bodies
            for message in messages:
                if isinstance(message, Frame):
                    found.append(harmless(message) if self._foreign else message)
                elif isinstance(message, str):
                    self._last_words = message
        if found:
            self._deliver(found)
        if ended:
            self._end(ended)

    def _deliver(self, frames: list[Frame]) -> None:
        self._quiet_s = 0
        self._frames(frames)
        if self.state != LIVE:
            self.state, self.reason = LIVE, ""
            self._changed()

    def _end(self, why: str) -> None:
        """The stream is over. The supervisor may know better why, and will say so."""
        self._detach()
        said = self._last_words or self._log_tail()
        self.state = ENDED
        self.reason = clean(f"{why}: {said}" if said else why, 300)
        self._changed()

    def _detach(self) -> None:
        if self._pulse is not None:
            self._pulse.cancel()
            self._pulse = None
        if self._stream is not None:
            self._loop.remove_reader(self._stream)
            self._loop.remove_writer(self._stream)
            self._stream.close()
            self._stream = None
        self._outgoing.clear()

    def _log_tail(self) -> str:
        """The last line that the collector wrote to stderr."""
        with contextlib.suppress(OSError):
            size = os.fstat(self._log).st_size
            tail = os.pread(self._log, LOG_TAIL, max(0, size - LOG_TAIL))
            lines = [line for line in tail.splitlines() if line.strip()]
            return clean(lines[-1].strip(), 250) if lines else ""
        return ""

    def _supervisor_speaks(self) -> None:
        try:
            word, descriptors, _, _ = socket.recv_fds(self._control, 256, 2)
        except BlockingIOError:
            return
        except OSError:
            word, descriptors = b"", []
        if word == NEW and len(descriptors) == 2:
            self._renew(*descriptors)
        elif word.startswith(DEAD):
            self._readable()  # its last words may still be on their way
            self._end(word[len(DEAD):].decode())
        elif not word:  # the supervisor is gone, and our SIGTERM is on its way
            self._loop.remove_reader(self._control)

    def _renew(self, stream: int, log: int) -> None:
        self._detach()
        os.close(self._log)
        self._stream, self._log = socket.socket(fileno=stream), log
        self._reader = Reader()
        self._last_words = ""
        self.state, self.reason = STARTING, ""
        self._attach()
        self.ask(self._wanted)
        self._changed()

    def ask(self, control: Control) -> None:
        """Tell the collector; one that is started later is told the same."""
        wanted = self._wanted
        if control.interval_ns is not None:
            wanted.interval_ns = control.interval_ns
        if control.watch is not None:
            wanted.watch = control.watch
        if control.thresholds is not None:
            wanted.thresholds = {**(wanted.thresholds or {}), **control.thresholds}
        if self._stream is not None:
            self._outgoing += encode_control(control)
            self._flush()

    def _flush(self) -> None:
        """Write what the socket takes; the rest when it takes more."""
        if self._stream is None:
            return
        try:
            sent = self._stream.send(self._outgoing)
            del self._outgoing[:sent]
        except BlockingIOError:
            pass
        except OSError:
            return  # the reading side will see the end
        if self._outgoing:
            self._loop.add_writer(self._stream, self._flush)
        else:
            self._loop.remove_writer(self._stream)

    def restart(self) -> bool:
        """Ask the supervisor for a new collector."""
        try:
            self._control.send(RESTART)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Let go: the collector sees the end of its stream and leaves."""
        self._loop.remove_reader(self._control)
        self._detach()
        self._control.close()
        os.close(self._log)
