"""Writing to files from the live UI: in threads of their own, so that no key waits for a disk."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

from ktop.diagnosis.model import Report
from ktop.model import Frame
from ktop.recording_schema import RecordingError, default_name
from ktop.rewind import Snapshot

BACKLOG = 300  # frames that a slow disk may be behind
CLOSE_S = 3.0
# a frame, its body and its diagnosis; or a mark
Item = tuple[Frame, bytes | None, Report | None] | tuple[int, str]


def free_path(hostname: str, wall_ns: int, folder: Path | None = None) -> Path:
    """A name in the current directory that is not taken."""
    folder = Path() if folder is None else folder
    path = folder / default_name(hostname, wall_ns)
    for number in range(2, 1000):
        if not os.path.lexists(path):
            break
        path = folder / default_name(hostname, wall_ns).replace(".ktop", f"-{number}.ktop")
    return path


class LiveRecording:
    """A recording under way. `problem` says in one line why it ended by itself."""

    def __init__(self, path: Path, scope: str = "") -> None:
        self.path = path
        self.bytes = 0
        self.frames = 0
        self.problem = ""
        self._scope = scope
        self._ending = False
        self._queue: SimpleQueue[Item | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name="recording", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """It goes on."""
        return not self.problem and not self._ending

    def put(self, frame: Frame, body: bytes | None = None, report: Report | None = None) -> None:
        """One more frame. body: its encoding, report: its diagnosis, if at hand."""
        if not self.running:
            return
        if self._queue.qsize() >= BACKLOG:
            self.problem = f"the disk is too slow: {BACKLOG} samples are waiting for it"
            self._end()
            return
        self._queue.put((frame, body, report))

    def mark(self, wall_ns: int, note: str) -> None:
        """A note about a time of day."""
        if self.running:
            self._queue.put((wall_ns, note))

    def _end(self) -> None:
        self._ending = True
        self._queue.put(None)

    def stop(self) -> bool:
        """End it; True when the file is closed. A disk that hangs is not waited for long."""
        if not self._ending:
            self._end()
        self._thread.join(CLOSE_S)
        return not self._thread.is_alive()

    def _run(self) -> None:
        from ktop.recording_writer import Info, Writer

        try:
            with Writer(self.path, Info(scope=self._scope)) as writer:
                while (item := self._queue.get()) is not None:
                    if len(item) == 2:
                        writer.mark(*item)
                        continue
                    writer.add(*item)
                    self.frames, self.bytes = writer.frames, writer.size
        except RecordingError as err:
            self.problem = str(err)
        with contextlib.suppress(OSError):
            self.bytes = os.stat(self.path).st_size


def save(snapshot: Snapshot, path: Path, done: Callable[[str, str], None]) -> None:
    """Write what is remembered, from another thread; `done` gets a line and its style, there."""
    def work() -> None:
        try:
            snapshot.save(path)
            size = os.stat(path).st_size
        except (RecordingError, OSError) as err:
            done(f"not saved: {err}", "bad")
            return
        done(f"{len(snapshot.entries)} samples, {size / 1e6:.1f} MB, are in {path.name}", "good")

    Thread(target=work, name="saving", daemon=True).start()
