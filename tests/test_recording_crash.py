"""Recordings that were not ended properly: killed writers, full disks, places to read only."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ktop.packing import GROUP
from ktop.recording import DiskFull, Recording, RecordingError, Writer
from ktop.wire import encode_body
from tests import session
from tests.test_recording import NOBODY, _python, beside, public  # noqa: F401

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="mounts, and becomes somebody else")
INSTANTS = 60


def written(path: Path, frames: list, bodies: list[bytes], ends: bool, report: int) -> None:
    """In a child: write as fast as it goes, and say after each frame how many are safe."""
    writer = Writer(path)
    for number in range(3 * GROUP if ends else 100_000):
        at = number % len(frames)
        writer.add(frames[at], bodies[at])
        os.write(report, b".")
    writer.close()


def killed(path: Path, frames: list, bodies: list[bytes], ends: bool, after_s: float) -> int:
    """Fork a writer and kill it; how many frames it had reported."""
    reading, report = os.pipe()
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            written(path, frames, bodies, ends, report)
        os._exit(0)
    os.close(report)
    time.sleep(after_s)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with open(reading, "rb") as pipe:
        return len(pipe.read())


def test_kill_9_at_any_instant_loses_at_most_the_frame_under_way(tmp_path):
    frames = session.frames()
    bodies = list(map(encode_body, frames))
    rng = random.Random(int.from_bytes(os.urandom(4), "big"))
    seen, early = [], 0
    for number in range(INSTANTS):
        path = tmp_path / f"{number}.ktop"
        after = rng.uniform(0, 0.25) if number % 10 else rng.uniform(0, 0.01)
        reported = killed(path, frames, bodies, number % 3 == 0, after)
        if not path.exists():
            assert not reported
            early += 1
            continue
        try:
            recording = Recording(path)
        except RecordingError as err:
            assert not reported, err
            assert "\n" not in str(err)
            early += 1
            continue
        with recording:
            seen.append(recording.end)
            assert reported <= recording.end <= reported + 1
            for at in {0, *range(max(0, recording.end - 3), recording.end),
                       rng.randrange(recording.end)}:
                assert recording.frame(at) == frames[at % len(frames)]
        assert [name for name in beside(path) if name.startswith(f"{number}.")] == [path.name]
    assert len(seen) >= 50 - early and len(set(seen)) > 10 and early < INSTANTS / 2


@pytest.fixture
def small(tmp_path) -> Iterator[Path]:
    """A filesystem of a few megabytes."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "ktop-test", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def fill(path: Path, frames: list, bodies: list[bytes]) -> int:
    """Write until the disk is full; how many frames fitted."""
    writer = Writer(path)
    count = 0
    try:
        with pytest.raises(DiskFull, match=r"(?i)no space left"):
            while count < 10_000:
                writer.add(frames[count % 42], bodies[count % 42])
                count += 1
        with pytest.raises(DiskFull):  # it stays full
            writer.add(frames[0], bodies[0])
    finally:
        writer.close("disk full")
    return count


@ROOT
@pytest.mark.parametrize("other", [0, 1 << 20, 2_800_000])
def test_a_full_disk_leaves_a_whole_file(small, other):
    frames = session.frames()
    bodies = list(map(encode_body, frames))
    (small / "other").write_bytes(bytes(other))
    count = fill(small / "a.ktop", frames, bodies)
    assert beside(small / "a.ktop") == ["a.ktop", "other"]
    if not other:
        assert count > 50
    if not count:
        with pytest.raises(RecordingError, match="no sample"):
            Recording(small / "a.ktop")
        return
    with Recording(small / "a.ktop") as recording:
        assert recording.end == count and not recording.notes
        for at in range(count):
            assert recording.frame(at) == frames[at % 42]


@ROOT
def test_somebody_else_fills_the_disk(small):
    frames = session.frames()
    bodies = list(map(encode_body, frames))
    with Writer(small / "a.ktop") as writer:
        for number in range(30):
            writer.add(frames[number], bodies[number])
        with contextlib.suppress(OSError), open(small / "other", "wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        count = 30
        with pytest.raises(DiskFull):
            while True:
                writer.add(frames[count % 42], bodies[count % 42])
                count += 1
    assert beside(small / "a.ktop") == ["a.ktop", "other"]
    with Recording(small / "a.ktop") as recording:
        assert recording.end == count
        assert recording.frame(count - 1) == frames[(count - 1) % 42]


@ROOT
def test_what_a_killed_recorder_left_is_read_where_nothing_can_be_written(public):  # noqa: F811
    frames = session.frames()
    bodies = list(map(encode_body, frames))
    path = public / "a.ktop"
    assert killed(path, frames, bodies, False, 0.5)
    assert os.path.getsize(f"{path}-wal") > 0
    for name in beside(path):
        os.chmod(public / name, 0o444)
    refused = f"{path}: cannot be written to: no mark is kept"
    first, second = _python(NOBODY, str(path)).stdout.splitlines()
    assert second == refused
    os.unlink(f"{path}-shm")  # with it SQLite manages by itself
    copied, second = _python(NOBODY, str(path)).stdout.splitlines()
    assert copied.startswith("its recorder was killed") and copied.endswith(f"a copy {first}")
    assert second == refused
    count = int(first.split()[0])
    with Recording(path) as recording:  # root can put it in order
        assert recording.end == count > 0 and "killed" in recording.notes[0]
    assert beside(path) == ["a.ktop"]
    assert _python(NOBODY, str(path)).stdout.startswith(f"{count} ")


def test_a_writer_that_lives_is_left_alone(tmp_path):
    frames = session.frames()
    writer = Writer(tmp_path / "a.ktop")
    writer.add(frames[0])
    for number in range(1, 10):
        with Recording(writer.path) as recording:
            assert recording.end == number and not recording.notes
        writer.add(frames[number])
    writer.close()
    assert beside(writer.path) == ["a.ktop"]
