"""All that is made of frames beside the picture, each by its own name."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

from ktop import flame, levels
from ktop.border import harmless
from ktop.commands import diagnose, diff
from ktop.compare import Tally, compare
from ktop.diagnosis.engine import Diagnosis
from ktop.export import tables
from ktop.export_formats import ExportError, sink
from ktop.model import Frame
from ktop.narrow import narrow, notes
from ktop.recording import Recording, Writer
from ktop.redact import Redactor
from ktop.rewind import Ring
from ktop.scope import HOST, Roster, Scope
from ktop.snapshot import _summary
from ktop.snapshot import as_json as plain
from ktop.text import is_clean
from ktop.wire import WireError, decode_body, encode_body
from tests.fuzz import TIMES

FORMS = ("jsonl", "csv", "parquet")  # in the suite each table in one of them, by turns


def scopes(frames: list[Frame]) -> list[Scope]:
    """Some of what could be looked at in them."""
    row = frames[0].processes.rows[0]
    return [HOST, Scope(pid=row.pid, start=row.start_boottime_ns),
            Scope(pid=row.pid, start=row.start_boottime_ns, children=True),
            Scope(cgroup="/"), Scope(comm="e")]


def through_scopes(frames: list[Frame]) -> None:
    """Narrowed, and what is not known then."""
    for scope in scopes(frames)[1:]:
        roster = Roster(scope)
        for frame in frames:
            members = roster.members(frame)
            seen = narrow(frame, members)
            with contextlib.suppress(WireError):  # sums beyond 64 bits
                decode_body(encode_body(seen))
            for layer in ("processes", "files", "tcp", "block", "sched"):
                notes(frame, members, layer)


def judged(frames: list[Frame]) -> None:
    """The diagnosis, as it is printed and as it is kept."""
    for scope in scopes(frames):
        diagnosis, roster = Diagnosis(), Roster(scope)
        for frame in frames:
            members = roster.members(frame) if scope else None
            report = diagnosis.update(frame, members)
            for line in diagnose.as_text(report, frame.health):
                assert is_clean(line), line
            json.dumps(diagnose.as_json(report, frame.health))
            found = levels.levels(frame, report)
            levels.worst(found)
            assert levels.decode(levels.encode(found)) is not None


def exported(frames: list[Frame]) -> None:
    """Every table in every format, read again. A negative inode number does not fit: one line."""
    csv.field_size_limit(1 << 30)
    for number, table in enumerate(tables().values()):
        for form in FORMS[(number + frames[1].seq) % 3:][:1] if not TIMES else FORMS:
            out = io.BytesIO()
            into = sink(form, out, table)
            try:
                for frame in frames:
                    into.put(frame)
                into.close()
            except ExportError as err:
                assert form == "parquet" and "\n" not in str(err)
            if form == "jsonl":
                for line in out.getvalue().splitlines():
                    json.loads(line)
            elif form == "csv":
                rows = list(csv.reader(io.StringIO(out.getvalue().decode(), newline="")))
                assert len({len(row) for row in rows}) == 1


def compared(frames: list[Frame]) -> None:
    """Before and after."""
    a, b = Tally(), Tally()
    a.add(frames[0])
    a.add(frames[1])
    b.add(frames[2])
    found = compare(a, b)
    for line in diff.as_text(a, b, found, 10_000):
        assert is_clean(line), line
    json.dumps(diff.as_json(a, b, found))


def hidden(frames: list[Frame]) -> None:
    """--redact."""
    redactor = Redactor()
    for frame in frames:
        encode_body(redactor.frame(frame))


def told(frames: list[Frame]) -> None:
    """`ktop snapshot`."""
    for frame in frames:
        assert is_clean(_summary(frame).replace("\n", " "))
        json.dumps(plain(frame))


def folded(frames: list[Frame]) -> None:
    """Stacks as files, and as a picture."""
    for frame in frames:
        if frame.stacks is None:
            continue
        for kind in ("cpu", "off"):
            text = flame.folded(frame.stacks, kind)
            for line in text.splitlines():
                assert is_clean(line) and line.rpartition(" ")[2].lstrip("-").isdigit(), line
            found = flame.Flame(kind)
            for _ in found.work(frame.stacks):
                pass
            found.functions()
            flame.top_stacks(frame.stacks, None, kind, 5)


def kept(frames: list[Frame]) -> None:
    """In memory, in a file, and read again."""
    ring = Ring()
    for frame in frames:
        ring.add(frame, None)
    for at in range(ring.first, ring.end):
        ring.frame(at)
        ring.moment(at)
    ring.find(frames[0].clock.wall_ns)
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "a.ktop")
        diagnosis = Diagnosis()
        with Writer(path) as writer:
            for frame in frames:
                writer.add(frame, report=diagnosis.update(frame))
            writer.mark(frames[0].clock.wall_ns, "note")
        with Recording(path) as recording:
            assert recording.end - recording.first == len(frames)
            for at in range(recording.first, recording.end):
                recording.frame(at)
                recording.moment(at)
            recording.levels(recording.first, recording.end)


def bordered(frames: list[Frame]) -> None:
    """As if from elsewhere."""
    for frame in frames:
        harmless(decode_body(encode_body(frame)))


ALL: list[Callable[[list[Frame]], None]] = [
    through_scopes, judged, exported, compared, hidden, told, folded, kept, bordered]
