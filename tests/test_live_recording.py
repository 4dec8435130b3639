"""Recording from the live UI: a thread of its own, whatever the disk does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ktop import live_recording
from ktop.live_recording import LiveRecording, save
from ktop.recording import DiskFull, Recording, Writer
from ktop.rewind import Ring
from tests.frames import make_frame


def until(true: Callable[[], bool]) -> None:
    for _ in range(1000):
        if true():
            return
        time.sleep(0.01)
    raise TimeoutError


def test_everything_that_was_put_is_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.ktop"
    recording = LiveRecording(path, "cgroup /x")
    frames = [make_frame(n, processes=5) for n in range(1, 21)]
    for frame in frames:
        recording.put(frame)
    recording.mark(frames[3].clock.wall_ns, "here")
    assert recording.stop()
    assert not recording.problem
    assert recording.frames == 20
    assert recording.bytes == path.stat().st_size
    found = Recording(path)
    assert [found.frame(n) for n in range(found.first, found.end)] == frames
    assert [mark.note for mark in found.marks()] == ["here"]
    assert found.about["scope"] == "cgroup /x"
    found.close()
    recording.put(frames[0])  # too late, and harmless
    assert recording.stop()


def test_a_full_disk_ends_it_with_one_line(tmp_path: Path,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    add = Writer.add

    def full(self: Writer, *rest: object) -> int:
        if self.frames == 3:
            raise DiskFull("x.ktop: no space left on the disk")
        return add(self, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Writer, "add", full)
    recording = LiveRecording(tmp_path / "x.ktop")
    for n in range(1, 8):
        recording.put(make_frame(n, processes=5))
    until(lambda: bool(recording.problem))
    assert "no space left" in recording.problem
    assert recording.stop()
    found = Recording(tmp_path / "x.ktop")
    assert found.end - found.first == 3
    found.close()


def test_a_file_that_is_there_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "x.ktop"
    path.write_text("mine")
    recording = LiveRecording(path)
    until(lambda: bool(recording.problem))
    assert "overwrites" in recording.problem
    assert path.read_text() == "mine"


def test_a_disk_that_hangs_is_not_waited_for(tmp_path: Path,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    let_go = threading.Event()
    monkeypatch.setattr(Writer, "add", lambda *_: let_go.wait(20))
    monkeypatch.setattr(live_recording, "BACKLOG", 5)
    monkeypatch.setattr(live_recording, "CLOSE_S", 0.1)
    recording = LiveRecording(tmp_path / "x.ktop")
    for n in range(1, 10):
        recording.put(make_frame(n, processes=2))
    assert "too slow" in recording.problem
    assert not recording.stop()  # it would be true, had it waited for the writer
    let_go.set()
    assert recording.stop()


def test_saving_says_how_it_went(tmp_path: Path) -> None:
    ring = Ring()
    for n in range(1, 31):
        ring.add(make_frame(n, processes=5))
    snapshot = ring.snapshot()
    assert snapshot is not None
    said: list[tuple[str, str]] = []
    for path in (tmp_path / "x.ktop", tmp_path / "none" / "x.ktop"):
        before = len(said)
        save(snapshot, path, lambda text, style: said.append((text, style)))
        until(lambda n=before: len(said) > n)  # type: ignore[misc]
    assert said[0][0].startswith("30 samples, ")
    assert said[0][1] == "good"
    assert said[1][0].startswith("not saved: ")
