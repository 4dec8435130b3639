"""A recording: what goes in comes out, who may write it, and in what state it is left."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ktop import levels
from ktop.diagnosis.model import Report, Verdict
from ktop.lens import Track
from ktop.packing import GROUP
from ktop.recording import Info, Recording, RecordingError, Writer, default_name
from ktop.rewind import Ring
from ktop.wire import encode_body
from tests import session
from tests.frames import SECOND, WALL0, stream


def made(path: Path, frames=None, **info: object) -> Path:
    """A finished recording."""
    with Writer(path, Info(**info)) as writer:
        for frame in stream(40, processes=10) if frames is None else frames:
            writer.add(frame)
    return path


def beside(path: Path) -> list[str]:
    """Names of what lies in its directory."""
    return sorted(os.listdir(path.parent))


def test_what_goes_in_comes_out(tmp_path):
    frames = session.frames()
    with Writer(tmp_path / "a.ktop", Info("pid 7", more={"options": "-x"})) as writer:
        for number, frame in enumerate(frames):
            assert writer.add(frame, encode_body(frame) if number % 2 else None) == number
    assert beside(writer.path) == ["a.ktop"]
    with Recording(writer.path) as recording:
        track: Track = recording
        assert (track.first, track.end) == (0, len(frames))
        for at in (41, 0, 17, *range(len(frames))):
            assert track.frame(at) == frames[at]
            clock = frames[at].clock
            assert track.moment(at) == (clock.wall_ns, clock.monotonic_ns, clock.interval_ns,
                                        clock.gap_ns)
            assert track.find(clock.wall_ns) == at
        assert isinstance(recording, levels.Levelled)
        assert recording.levels(0, 42) == [levels.levels(frame) for frame in frames]
        assert recording.levels(40, 44)[2:] == [None, None]
        assert recording.about["scope"] == "pid 7" and recording.about["options"] == "-x"
        assert recording.about["hostname"] == frames[0].host.hostname
        assert recording.about["redacted"] == "no" and recording.about["ended"] == "yes"
        assert recording.notes == []
        probes = recording.probes()
        assert len(probes) >= len(frames[0].health.probes)
        assert {(p.layer, p.name) for p in probes} == {
            (p.layer, p.name) for f in frames for p in f.health.probes}
        for at in (-1, 42):
            with pytest.raises(LookupError):
                track.frame(at)
            with pytest.raises(LookupError):
                track.moment(at)


def test_it_is_private_and_never_overwrites(tmp_path):
    path = made(tmp_path / "a.ktop")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(RecordingError, match="already there"):
        Writer(path)
    (tmp_path / "link.ktop").symlink_to(tmp_path / "victim")
    with pytest.raises(RecordingError, match="already there"):
        Writer(tmp_path / "link.ktop")
    assert not (tmp_path / "victim").exists()
    (tmp_path / "b.ktop-wal").write_bytes(b"old")
    with pytest.raises(RecordingError, match="in the way"):
        Writer(tmp_path / "b.ktop")
    with pytest.raises(RecordingError, match="No such file"):
        Writer(tmp_path / "no" / "b.ktop")


def test_two_writers(tmp_path):
    with Writer(tmp_path / "a.ktop") as first:
        first.add(stream(1)[0])
        with pytest.raises(RecordingError, match="already there"):
            Writer(tmp_path / "a.ktop")
        first.add(stream(2)[1])
    with Recording(tmp_path / "a.ktop") as recording:
        assert recording.end == 2


def test_a_reader_while_it_is_written(tmp_path):
    frames = stream(40, processes=10)
    with Writer(tmp_path / "a.ktop") as writer:
        for frame in frames[:20]:
            writer.add(frame)
        with Recording(writer.path) as reader:
            assert reader.end == 20 and reader.notes == []
            for frame in frames[20:]:
                writer.add(frame)
            assert reader.refresh() == 20 and reader.refresh() == 0
            assert [reader.frame(at) for at in range(40)] == frames
            mark = reader.mark(WALL0, "seen")
            assert writer.mark(WALL0 + 1).id == mark.id + 1
            writer.close()  # cannot be made one file while somebody reads
        with Recording(writer.path) as reader:
            assert reader.end == 40 and [m.note for m in reader.marks()] == ["seen", ""]
    assert beside(writer.path) == ["a.ktop"]


def test_marks_are_in_the_file(tmp_path):
    path = made(tmp_path / "a.ktop")
    with Recording(path) as recording, Recording(path) as other:
        late = recording.mark(WALL0 + 9, "late \x1b[31m\n")
        early = other.mark(WALL0 + 1, "early")
        assert recording.marks() == other.marks() == [early, late]
        assert late.note == "late \\e[31m"
        assert other.unmark(late.id) and not recording.unmark(late.id)
        assert recording.marks() == [early]
    assert beside(path) == ["a.ktop"]


@pytest.fixture
def public():
    """A directory that everybody can look into, nobody but root write to."""
    with tempfile.TemporaryDirectory(prefix="ktop-test-") as place:
        os.chmod(place, 0o755)
        yield Path(place)


NOBODY = """
import os, sys
from ktop.recording import Recording, RecordingError
os.setgid(65534); os.setuid(65534)
recording = Recording(sys.argv[1])
print(*recording.notes, recording.end, recording.frame(recording.end - 1).seq)
try:
    recording.mark(1, "x")
except RecordingError as err:
    print(err)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="root becomes somebody else")
def test_a_mark_in_a_read_only_file(public):
    path = made(public / "a.ktop")
    path.chmod(0o444)
    done = _python(NOBODY, str(path))
    assert done.stdout == f"40 40\n{path}: cannot be written to: no mark is kept\n", done.stderr


def _python(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True,
                          check=False, timeout=60)


def test_a_ring_is_saved_while_it_goes_on(tmp_path):
    frames = stream(90, processes=8)
    ring = Ring(budget_bytes=60_000)
    for frame in frames:
        ring.add(frame)
    ring.mark(WALL0 + 80 * SECOND, "here")
    assert ring.first > 0
    taken = ring.snapshot()
    first, end = ring.first, ring.end
    for frame in stream(150, processes=8)[90:]:
        ring.add(frame)
    taken.save(tmp_path / "a.ktop")
    with Recording(tmp_path / "a.ktop") as recording:
        assert recording.end == end - first
        assert [recording.frame(at) for at in range(recording.end)] == frames[first:]
        assert recording.levels(0, 5) == [levels.levels(f) for f in frames[first:first + 5]]
        assert [m.note for m in recording.marks()] == ["here"]
        assert recording.about["hostname"] == "db-1"
    assert beside(tmp_path / "a.ktop") == ["a.ktop"]


def test_a_sliding_window_forgets_whole_groups_and_does_not_grow(tmp_path):
    frames = stream(200, processes=8)
    sizes = []
    with Writer(tmp_path / "a.ktop") as writer:
        for frame in frames:
            writer.add(frame)
            writer.trim(150_000, None)
            sizes.append(writer.size)
        writer.trim(None, 20 * SECOND)
    assert max(sizes) <= 150_000 + 20_000
    assert writer.path.stat().st_size < 220_000
    with Recording(writer.path) as recording:
        assert recording.end == 200 and recording.first % GROUP == 0
        span = recording.moment(199).wall_ns - recording.moment(recording.first).wall_ns
        assert 20 * SECOND <= span <= (20 + GROUP) * SECOND
        for at in range(recording.first, 200):
            assert recording.frame(at) == frames[at]


def test_verdicts_are_kept_from_when_to_when(tmp_path):
    frames = stream(8, processes=3)
    told = [("none", "ok"), ("block", "saturated"), ("block", "saturated"), ("cpu", "saturated"),
            ("none", "ok"), ("none", "blind"), ("block", "errors"), ("block", "errors")]
    with Writer(tmp_path / "a.ktop") as writer:
        for frame, (pipe, state) in zip(frames, told, strict=True):
            writer.add(frame, report=Report(Verdict(pipe=pipe, state=state, text=f"{pipe}\x1b")))
    wall = [frame.clock.wall_ns for frame in frames]
    with Recording(writer.path) as recording:
        assert recording.verdicts() == [
            (wall[1], wall[3], "block", "saturated", "block\\e"),
            (wall[3], wall[4], "cpu", "saturated", "cpu\\e"),
            (wall[6], None, "block", "errors", "block\\e")]
        found = recording.levels(1, 2)[0]
        assert found is not None and (found.pipe, found.state) == ("block", "saturated")


def test_a_newer_version_is_refused_by_name(tmp_path):
    path = made(tmp_path / "a.ktop")
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version=7")
    with pytest.raises(RecordingError, match="version 7; this ktop reads up to version 1"):
        Recording(path)


def test_the_default_name():
    assert default_name("db-1/../x", WALL0).startswith("ktop-db-1_.._x-2026")
    assert default_name("", WALL0).startswith("ktop-host-")


def test_an_empty_recording_says_so(tmp_path):
    with pytest.raises(RecordingError, match="holds no sample"):
        Recording(made(tmp_path / "a.ktop", []))
