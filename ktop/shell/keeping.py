"""What is kept: marks, the memory as a file, recording from the live UI."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from ktop import format as fmt
from ktop.diagnosis.model import Report
from ktop.kept import Mark
from ktop.live_recording import LiveRecording, free_path, save
from ktop.model import Frame
from ktop.panes.base import Pane
from ktop.recording_schema import RecordingError
from ktop.shell.base import Shell
from ktop.sources_replay import REPLAY


class Keeping(Shell):
    """m w R."""

    def __init__(self, interval_ns: int, ascii_only: bool, panes: Sequence[type[Pane]]) -> None:
        super().__init__(interval_ns, ascii_only, panes)
        self.recording: LiveRecording | None = None
        self.marks: list[Mark] = []
        self.marked: dict[int, list[str]] = {}  # their notes, by position

    @property
    def replaying(self) -> bool:
        """A recording is shown; there is no now."""
        return self.source.state == REPLAY

    def kept(self, frame: Frame, body: bytes | None, report: Report | None) -> None:
        """Also into the file."""
        recording = self.recording
        if recording is None:
            return
        recording.put(frame, body, report)
        if recording.problem:
            self.say(f"recording ended: {recording.problem}", "bad")
            self.recording = None

    # -- R and w -------------------------------------------------------------------------------

    def action_record(self) -> None:
        """Begin or end to record into a file."""
        if self.replaying:
            self.say("this is a recording already")
        elif self.recording is not None:
            self.stop_recording()
        elif self.newest is None:
            self.say("nothing to record so far")
        else:
            host = self.newest.host
            path = free_path(host.hostname, self.newest.clock.wall_ns)
            self.recording = LiveRecording(path)
            self.say(f"recording into {path.name}; R ends it, w saves what was before")
        self._show_lines()

    def stop_recording(self) -> None:
        """Close the file and say what it is."""
        recording, self.recording = self.recording, None
        if recording is None:
            return
        closed = recording.stop()
        if recording.problem:
            self.say(f"recording ended: {recording.problem}", "bad")
        else:
            later = "" if closed else "; the disk is still writing"
            self.say(f"{fmt.grouped(recording.frames)} samples, {fmt.size(recording.bytes)}, "
                     f"are in {recording.path.name}{later}", "good")

    def on_unmount(self) -> None:
        """A recording under way is closed."""
        if self.recording is not None:
            self.recording.stop()

    def action_save(self) -> None:
        """Write what is in memory to a file."""
        snapshot = None if self.replaying else self.ring.snapshot()
        if self.replaying:
            self.say("this is a recording already: nothing to save")
        elif snapshot is None:
            self.say("nothing to save so far")
        else:
            path = free_path(snapshot.newest.host.hostname, snapshot.newest.clock.wall_ns)
            self.say(f"saving {len(snapshot.entries)} samples to {path.name}")
            save(snapshot, path, self._saved)

    def _saved(self, text: str, style: str) -> None:
        """From the thread that did it."""
        with contextlib.suppress(Exception):  # the app may be gone
            self.call_from_thread(self.say, text, style)

    # -- marks ---------------------------------------------------------------------------------

    def learn_marks(self) -> None:
        """Those of the track, anew."""
        try:
            self.marks = self.track.marks()  # type: ignore[attr-defined]
        except (RecordingError, AttributeError):
            self.marks = []
        self.marked = {}
        for mark in self.marks:  # found once: a long recording is searched for each
            at = max(self.track.first, self.track.find(mark.wall_ns))
            self.marked.setdefault(at, []).append(mark.note or "(no note)")

    def action_mark(self) -> None:
        """A note for the moment in view."""
        from ktop.screens.mark import Note

        if self.host.whole is None:
            self.say("nothing to mark so far")
            return
        wall_ns = self.host.whole.clock.wall_ns
        kept = ("It is kept in the file." if self.replaying else
                "It is kept in memory, and saved with it by w.")

        def answered(note: str | None) -> None:
            if note is not None:
                self.add_mark(wall_ns, note)

        self.push_screen(Note(wall_ns, kept), answered)

    def add_mark(self, wall_ns: int, note: str) -> None:
        """Keep a mark with the track, and in the recording under way."""
        try:
            self.track.mark(wall_ns, note)  # type: ignore[attr-defined]
        except RecordingError as err:
            self.say(f"not marked: {err}", "bad")
            return
        if self.recording is not None:
            self.recording.mark(wall_ns, note)
        self.learn_marks()
        self.say("marked")
        self.show_again()
