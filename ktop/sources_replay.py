"""Sources that are no collector: a recording, and a stream of frames from a pipe."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from collections.abc import Sequence

from ktop.border import harmless
from ktop.lens import Track
from ktop.model import Frame
from ktop.sources import ENDED, LIVE, STARTING, Changed, Frames
from ktop.text import clean
from ktop.wire import Control, Reader, WireError

REPLAY = "REPLAY"
CHUNK = 1 << 18


class ReplaySource:
    """A recording: it hands out no frames, the track has them all.

    start_ns: where to begin, wall clock; None: at the beginning. speed: of playing. notes: lines
    for the user about how the file was found.
    """

    renewable = False

    def __init__(self, track: Track, start_ns: int | None = None, speed: float = 1.0,
                 notes: Sequence[str] = ()) -> None:
        self.state, self.reason = REPLAY, ""
        self.bodies: list[bytes] = []
        self.track = track
        self.start_ns, self.speed, self.notes = start_ns, speed, list(notes)

    def start(self, frames: Frames, changed: Changed) -> None:
        """Nothing comes by itself."""
        changed()

    def ask(self, control: Control) -> None:
        """What was not recorded cannot be had."""

    def restart(self) -> bool:
        """There is no collector."""
        return False

    def close(self) -> None:
        """Close the file."""
        close = getattr(self.track, "close", None)
        if close is not None:
            close()


class PipeSource:
    """Frames in the wire's format from a descriptor, one way: what a collector elsewhere writes.

    Whoever wrote them is not believed: their text is made harmless here.
    """

    renewable = False

    def __init__(self, descriptor: int) -> None:
        self.state, self.reason = STARTING, ""
        self.bodies: list[bytes] = []
        self._loop = asyncio.get_running_loop()
        self._descriptor: int | None = descriptor
        # the loop cannot wait for a plain file: it is read a piece a turn
        self._plain = stat.S_ISREG(os.fstat(descriptor).st_mode)
        self._reader = Reader()
        self._last_words = ""
        self._frames: Frames = lambda frames: None
        self._changed: Changed = lambda: None

    def start(self, frames: Frames, changed: Changed) -> None:
        """Begin to read, on the running loop."""
        self._frames, self._changed = frames, changed
        if self._descriptor is None:
            return
        if self._plain:
            self._loop.call_soon(self._readable)
        else:
            os.set_blocking(self._descriptor, False)
            self._loop.add_reader(self._descriptor, self._readable)

    def _readable(self) -> None:
        """Take one piece, so that keys come in between."""
        if self._descriptor is None:
            return
        try:
            data = os.read(self._descriptor, CHUNK)
        except BlockingIOError:
            return
        except OSError as err:
            self._end(err.strerror or "it cannot be read")
            return
        if not data:
            self._end("the stream has ended")
            return
        try:
            messages = self._reader.feed(data)
        except WireError as err:
            self._end(str(err))
            return
        self.bodies = list(self._reader.bodies)
        found = [harmless(message) for message in messages if isinstance(message, Frame)]
        self._last_words = next((message for message in reversed(messages)
                                 if isinstance(message, str)), self._last_words)
        if found:
            self._frames(found)
            if self.state != LIVE:
                self.state = LIVE
                self._changed()
        if self._plain:
            self._loop.call_soon(self._readable)

    def _end(self, why: str) -> None:
        self._detach()
        self.state = ENDED
        self.reason = clean(f"{why}: {self._last_words}" if self._last_words else why, 300)
        self._changed()

    def _detach(self) -> None:
        if self._descriptor is not None:
            if not self._plain:
                self._loop.remove_reader(self._descriptor)
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = None

    def ask(self, control: Control) -> None:
        """A pipe goes one way."""

    def restart(self) -> bool:
        """Whoever writes it is not ours."""
        return False

    def close(self) -> None:
        """The writer sees the end of its reader."""
        self._detach()
