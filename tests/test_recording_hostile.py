"""Files that anybody may have written: one line, or what is readable; never more memory than that.

What is fuzzed is opened in a child with a limit on its memory (RLIMIT_AS) and on its time.
"""

from __future__ import annotations

import contextlib
import functools
import os
import resource
import signal
import sqlite3
import struct
import tempfile
from pathlib import Path

import msgspec
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ktop.border import harmless
from ktop.model import Frame
from ktop.packing import MAX_BODY, Packer
from ktop.recording import FrameError, Recording, RecordingError, Writer
from ktop.recording_schema import APPLICATION_ID, TABLES, VERSION
from ktop.text import is_clean
from ktop.wire import decode_body, encode_body
from tests import session
from tests.frames import make_frame, stream

MEMORY = 1 << 30  # beyond what the test itself has
TIME_S = 20
SETTINGS = settings(max_examples=60, deadline=None,
                    suppress_health_check=[HealthCheck.function_scoped_fixture])


@functools.cache
def good() -> bytes:
    """A recording, as bytes."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "a.ktop")
        with Writer(path) as writer:
            for frame in stream(40, processes=6):
                writer.add(frame)
            writer.mark(5, "note")
        return path.read_bytes()


def look(path: Path) -> str:
    """Everything that can be asked of a file; the complaint, or what was read."""
    try:
        with Recording(path) as recording:
            read = 0
            for at in range(recording.first, recording.end):
                recording.moment(at)
                with contextlib.suppress(FrameError):
                    assert isinstance(recording.frame(at), Frame)
                    read += 1
            recording.levels(recording.first, recording.end)
            recording.find(2**62)
            assert all(is_clean(str(value)) for value in recording.about.values())
            assert all(is_clean(mark.note) for mark in recording.marks())
            assert all(is_clean(change.reason) for change in recording.probes())
            assert all(is_clean(spell.line) for spell in recording.verdicts())
            assert recording.refresh() >= 0
            return f"read {read}"
    except RecordingError as err:
        assert str(err) and "\n" not in str(err) and is_clean(str(err))
        return str(err)


def confined(path: Path) -> str:
    """`look` in a child that may take MEMORY more than this process, and TIME_S."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            signal.alarm(TIME_S)
            now = int(Path("/proc/self/statm").read_text().split()[0]) * 4096
            resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, now + MEMORY))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            try:
                said = look(path)
            except BaseException as err:
                said = f"{type(err).__name__}: {err!r}"
            os.write(writing, said.encode(errors="replace")[:4000])
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        said = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    assert status == 0 and said, f"status {status}"
    assert "Error: " not in said, said
    return said


def changed(path: Path, *statements: str | tuple[str, tuple]) -> Path:
    """The good recording after some SQL."""
    path.write_bytes(good())
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA writable_schema=ON")
        for statement in statements:
            db.execute(*((statement,) if isinstance(statement, str) else statement))
    return path


@SETTINGS
@given(data=st.data())
def test_cut_off_anywhere(tmp_path, data):
    path = tmp_path / "a.ktop"
    path.write_bytes(good()[:data.draw(st.integers(0, len(good()) - 1))])
    said = confined(path)
    assert not said.startswith("read") or int(said.split()[1]) <= 40


@SETTINGS
@given(data=st.data())
def test_bits_flipped(tmp_path, data):
    bad = bytearray(good())
    for _ in range(data.draw(st.integers(1, 20))):
        bad[data.draw(st.integers(0, len(bad) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path / "a.ktop"
    path.write_bytes(bad)
    confined(path)


@SETTINGS
@given(data=st.data())
def test_pages_overwritten(tmp_path, data):
    bad = bytearray(good())
    page = data.draw(st.integers(0, len(bad) // 4096 - 1)) * 4096
    junk = data.draw(st.binary(min_size=1, max_size=200))
    offset = page + (100 if not page else 0) + data.draw(st.integers(0, 300))
    bad[offset:offset + len(junk)] = junk
    path = tmp_path / "a.ktop"
    path.write_bytes(bad)
    confined(path)


@SETTINGS
@given(tail=st.binary(max_size=6000), head=st.booleans())
def test_anything_at_all(tmp_path, tail, head):
    path = tmp_path / "a.ktop"
    path.write_bytes(good()[:100] + tail if head else tail)
    assert not confined(path).startswith("read")


def test_one_damaged_blob_costs_one_frame_and_a_keyframe_its_group(tmp_path):
    frames = stream(40, processes=6)
    path = changed(tmp_path / "a.ktop",
                   "UPDATE blobs SET data = zeroblob(length(data)) WHERE position = 5",
                   "UPDATE blobs SET data = substr(data, 1, 40) WHERE position = 16",
                   "DELETE FROM blobs WHERE position = 37",
                   "UPDATE blobs SET data = 'text' WHERE position = 38")
    with Recording(path) as recording:
        for at in range(40):
            if at in (5, 37, 38) or 16 <= at < 32:
                with pytest.raises(LookupError, match=rf"sample {at} cannot be read: "):
                    recording.frame(at)
                assert recording.moment(at).wall_ns == frames[at].clock.wall_ns
            else:
                assert recording.frame(at) == frames[at]


def test_missing_rows_are_missing_samples(tmp_path):
    path = changed(tmp_path / "a.ktop", "DELETE FROM frames WHERE position IN (3, 20, 21)")
    with Recording(path) as recording:
        assert recording.end == 40 and recording.notes == ["3 samples are missing"]
        assert recording.moment(21).wall_ns == recording.moment(19).wall_ns
        assert recording.levels(20, 23)[:2] == [None, None]
        for at in (3, 20, 21):
            with pytest.raises(LookupError, match="missing"):
                recording.frame(at)
        assert recording.frame(22).seq == 23


def test_a_position_out_of_order_is_a_missing_sample(tmp_path):
    path = changed(tmp_path / "a.ktop",
                   "UPDATE frames SET position = 1 << 60 WHERE position = 39")
    with Recording(path) as recording:
        assert recording.end == 39 and recording.notes == ["1 sample is missing"]
    # fuzzing found this one: a varint within the page, so that the order is broken
    bad = bytearray(good())
    bad[8192 + 39:8192 + 56] = b"PS\xfd\xf7/q\xa7\x01Ia\xdd\xdf\xe6\xa5\xa33\xb8"
    path.write_bytes(bad)
    confined(path)


def test_names_that_are_no_text(tmp_path):
    bad = good().replace(b"db-1", b"\xff\xfe-1")
    path = tmp_path / "a.ktop"
    path.write_bytes(bad)
    with Recording(path) as recording:
        assert recording.about["hostname"] == "\\xff\\xfe-1"
    path.write_bytes(good().replace(b"CREATE TABLE probes(", b"CREATE TABLE pr\xffbes("))
    assert "damaged" in confined(path) or "not ktop's" in confined(path)


def test_a_damaged_page_of_the_table_costs_its_rows(tmp_path):
    path = tmp_path / "a.ktop"
    frames = stream(200, processes=2)
    with Writer(path) as writer:
        for frame in frames:
            writer.add(frame)
    bad = bytearray(path.read_bytes())
    with contextlib.closing(sqlite3.connect(path)) as db:
        root = db.execute("SELECT rootpage FROM sqlite_schema WHERE name='frames'").fetchone()[0]
    page = (root - 1) * 4096
    assert bad[page] == 5  # an interior page: its second leaf
    offset = int.from_bytes(bad[page + 14:page + 16], "big")
    leaf = (int.from_bytes(bad[page + offset:page + offset + 4], "big") - 1) * 4096
    bad[leaf] = 99
    path.write_bytes(bad)
    with Recording(path) as recording:
        assert recording.notes[0] == "it is damaged" and "missing" in recording.notes[1]
        assert (recording.first, recording.end) == (0, 200)
        assert recording.frame(0) == frames[0] and recording.frame(199) == frames[199]


@pytest.mark.parametrize(("statements", "complaint"), [
    (["PRAGMA application_id=7"], "a database, but not a ktop recording"),
    (["PRAGMA user_version=0"], "no known version"),
    (["CREATE TABLE more(x)"], "not ktop's"),
    (["DROP TABLE marks"], "not ktop's"),
    (["CREATE TRIGGER t AFTER INSERT ON marks BEGIN DELETE FROM frames; END"], "not ktop's"),
    (["DROP TABLE meta", "CREATE VIEW meta AS SELECT 1 AS name, randomblob(1 << 29) AS value"],
     "not ktop's"),
    (["ALTER TABLE frames ADD COLUMN x GENERATED ALWAYS AS (zeroblob(1 << 30))"], "not ktop's"),
    (["DELETE FROM frames"], "holds no sample"),
    (["UPDATE frames SET wall_ns = 'x' WHERE position = 3"], "table frames is damaged"),
    (["UPDATE frames SET position = position * 5000"], "table frames is damaged"),
    (["UPDATE frames SET position = position * 1900"], "table frames is damaged"),
], ids=str)
def test_what_is_not_one_of_ours(tmp_path, statements, complaint):
    said = confined(changed(tmp_path / "a.ktop", *statements))
    assert complaint in said and str(tmp_path / "a.ktop") in said


def test_other_things_than_files(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_bytes(b"hello\n" * 100)
    assert "not a file" in confined(tmp_path / "fifo")
    assert "not a file" in confined(tmp_path)
    assert "is empty" in confined(tmp_path / "empty")
    assert "not a ktop recording" in confined(tmp_path / "text")
    assert "No such file" in confined(tmp_path / "none")
    assert "\\e[31m" in confined(tmp_path / "\x1b[31m")


def bodies() -> dict[str, bytes]:
    """Bodies that are small packed and large in memory."""
    frame = make_frame(1, 2)
    array = msgspec.msgpack.decode(encode_body(frame))

    def row(value: bytes) -> bytes:
        count = (MAX_BODY - 10_000) // len(value)
        return b"\xdd" + struct.pack("!I", count) + value * count

    def with_cpus(value: bytes) -> bytes:
        encode = msgspec.msgpack.encode
        return b"\xdc\x00\x0a" + b"".join(
            value if number == 6 else encode(part) for number, part in enumerate(array[:10]))

    return {"cpus": with_cpus(row(b"\x91\x00")), "wrong": with_cpus(row(b"\xc0")),
            "deep": b"\x91" * (MAX_BODY - 1), "zeros": bytes(MAX_BODY)}


@pytest.mark.parametrize("name", ["cpus", "wrong", "deep", "zeros"])
def test_bombs(tmp_path, name):
    blob = Packer().pack(bodies()[name]).data
    assert len(blob) < MAX_BODY / 100
    path = changed(tmp_path / "a.ktop",
                   ("UPDATE blobs SET data = ? WHERE position = 0", (blob,)))
    said = confined(path)
    assert said in ("read 24", "read 25"), said


def test_a_blob_beyond_the_limit_is_not_even_read(tmp_path):
    path = changed(tmp_path / "a.ktop",
                   f"UPDATE blobs SET data = zeroblob({MAX_BODY * 4}) WHERE position = 32",
                   ("UPDATE blobs SET data = ? WHERE position = 31",
                    (zstandard.ZstdCompressor().compress(bytes(1 << 30)),)))
    assert confined(path) == "read 31"


def test_text_in_a_recording_is_made_harmless(tmp_path):
    frame = make_frame(1, 3)
    frame.processes.rows[0].comm = "\x1b]0;pwned\x07"
    frame.processes.rows[1].args = "a" * 100_000
    frame.users[7] = "rtl\u202e"
    with Writer(tmp_path / "a.ktop") as writer:
        writer.add(frame)
    with Recording(tmp_path / "a.ktop") as recording:
        rows = recording.frame(0).processes.rows
        assert rows[0].comm == "\\e]0;pwned\\x07" and len(rows[1].args or "") == 4096
        assert recording.frame(0).users[7] == "rtl\\u202e"


@given(st.text(max_size=40))
def test_a_frame_with_any_text_is_harmless(text):
    frame = make_frame(1, 1, events=0)
    row = frame.processes.rows[0]
    row.comm = text
    frame.health.notes = [text]
    frame.tcp = None
    found = harmless(decode_body(encode_body(frame)))
    assert is_clean(found.processes.rows[0].comm)
    assert is_clean(text) == (found == frame)


def test_clean_frames_are_untouched():
    for frame in (*session.frames(), make_frame(3)):
        assert harmless(decode_body(encode_body(frame))) == frame


def test_the_statements_are_those_of_version_1():
    assert VERSION == 1 and APPLICATION_ID.to_bytes(4, "big") == b"ktop"
    assert sorted(TABLES) == ["blobs", "frames", "marks", "meta", "probes", "verdicts"]
