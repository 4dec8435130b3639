"""Names that somebody chose to do harm, everywhere a name is shown or written.

A name may be anything the kernel takes. What must hold: nothing that reaches a terminal, a file
name or a title is a command to it, no markup is believed, no row is lost, nothing ends in a
traceback.
"""

from __future__ import annotations

import asyncio
import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from ktop import flame
from ktop.app import KtopApp
from ktop.border import walk
from ktop.commands import diagnose, diff
from ktop.compare import Tally, compare
from ktop.diagnosis.engine import Diagnosis
from ktop.export import tables
from ktop.export_formats import sink
from ktop.live_recording import free_path
from ktop.model import Frame
from ktop.recording import Recording, Writer
from ktop.redact import Redactor
from ktop.sources_replay import ReplaySource
from ktop.text import clean, is_clean
from tests.fuzz.keyboard import picture, send
from tests.fuzz.oddities import NAMES, real_frames
from tests.test_app import FakeSource

CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff]")
# What fields with a meaning say: another word there is not a name.
MEANT = {"R", "S", "D", "live", "bpf", "exec", "exit", "cpu", "off", "ended", "running", "ESTAB"}


def hostile_frames(raw: bool = False) -> list[Frame]:
    """Real frames in which every text is a hostile one. raw: as a forged file would have it."""
    names = [name if isinstance(name, str) else name.decode("utf-8", "replace") for name in NAMES]
    found = real_frames(0)
    for number, frame in enumerate(found):
        turn = [number * 7]

        def swap(text: str, turn: list[int] = turn) -> str:
            if text in MEANT:
                return text
            turn[0] += 1
            name = names[turn[0] % len(names)]
            return name if raw else clean(name)

        walk(frame, swap)
        frame.health.source = "bpf"
    return found


def test_the_names_are_hostile() -> None:
    raw = [name if isinstance(name, bytes) else name.encode("utf-8", "surrogatepass")
           for name in NAMES]
    assert sum(b"\x1b" in name for name in raw) >= 3 and max(map(len, raw)) >= 4096
    assert sum(not is_clean(name) for name in NAMES if isinstance(name, str)) >= 4
    assert all(is_clean(clean(name)) for name in NAMES)


async def everywhere(app: KtopApp, play: Any) -> list[str]:
    """Pictures of all panes, views and screens, and what was written besides."""
    seen: list[str] = []
    async with app.run_test(size=(160, 50)) as pilot:
        play()
        await pilot.pause()
        for key in ["1", "v", "g", "2", "v", "3", "v", "v", "4", "v", "5", "6", "g", "1", "H", "e",
                    "down", "enter", "2", "3", "4", "5", "question_mark", "escape", "S", "v",
                    "escape", "escape", "down", "p", "2", "3", "backspace", "D", "escape", "C",
                    "escape", "m", "escape", "colon", "escape", "question_mark", "escape"]:
            await send(pilot, key)
            await pilot.pause()
            seen.append(picture(app))
        seen.append(app.export_screenshot())
        seen += [app.title, str(app.sub_title), app.clipboard]
    return seen


def assert_harmless(seen: list[str]) -> None:
    for text in seen:
        bad = CONTROL.search(text.replace("\n", "").replace("\t", ""))
        assert bad is None, text[max(0, bad.start() - 40):bad.end() + 40]


def test_in_every_pane_and_screen() -> None:
    source = FakeSource()
    app = KtopApp(lambda: source)
    seen = asyncio.run(everywhere(app, lambda: source.play(*hostile_frames())))
    assert_harmless(seen)
    shown = "\n".join(seen)
    for name in ("[red]x[/red]", "\\e[2J", "=cmd|' /C", "数据库"):
        assert name in shown, name


def test_a_forged_recording_is_harmless_on_the_screen(tmp_path: Path) -> None:
    path = tmp_path / "a.ktop"
    with Writer(path) as writer:
        for frame in hostile_frames(raw=True):
            writer.add(frame)
        writer.mark(hostile_frames()[0].clock.wall_ns, "\x1b]52;c;cHduZWQ=\x07")
    assert b"\x1b]52" not in path.name.encode()
    app = KtopApp(lambda: ReplaySource(Recording(path)))
    assert_harmless(asyncio.run(everywhere(app, lambda: None)))
    with Recording(path) as recording:
        for at in range(recording.first, recording.end):
            walk(recording.frame(at), lambda text: text if is_clean(text) else pytest.fail(text))


def test_exports_have_every_row_and_no_more() -> None:
    frames = hostile_frames()
    csv.field_size_limit(1 << 30)
    for name, table in tables().items():
        lines, comma = io.BytesIO(), io.BytesIO()
        for form, out in (("jsonl", lines), ("csv", comma)):
            into = sink(form, out, table)
            for frame in frames:
                into.put(frame)
            into.close()
        objects = [json.loads(line) for line in lines.getvalue().split(b"\n") if line]
        rows = list(csv.DictReader(io.StringIO(comma.getvalue().decode(), newline="")))
        assert len(objects) == len(rows), name
        for one, other in zip(objects, rows, strict=True):
            assert list(one) == list(other)
            assert all(is_clean(text) for text in other.values())
            for column, value in one.items():
                if isinstance(value, str):
                    assert other[column].removeprefix("'") == value.removeprefix("'")


def test_csv_has_no_formulas() -> None:
    """What a spreadsheet would run (CWE-1236) is text there too."""
    frames = hostile_frames()
    out = io.BytesIO()
    into = sink("csv", out, tables()["processes"])
    for frame in frames:
        into.put(frame)
    into.close()
    rows = list(csv.DictReader(io.StringIO(out.getvalue().decode(), newline="")))
    texts = [text for row in rows for column, text in row.items()
             if column in ("comm", "args", "state", "blocked_reason")]
    assert any("=cmd" in text for text in texts)
    assert not [text for text in texts if text[:1] in ("=", "+", "-", "@")]


def test_parquet_as_it_is(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    frames = hostile_frames()
    for name in ("processes", "tcp", "files.rows", "tcp.events"):
        table = tables().get(name)
        if table is None:
            continue
        path = tmp_path / f"{name}.parquet"
        with path.open("wb") as out:
            into = sink("parquet", out, table)
            for frame in frames:
                into.put(frame)
            into.close()
        assert parquet.read_table(path).num_rows >= 0


def test_folded_stacks_are_a_line_each() -> None:
    stacks = hostile_frames()[1].stacks
    assert stacks is not None
    for stack in stacks.stacks:
        stack.kind = "cpu"
        stack.samples = max(1, stack.samples)
    text = flame.folded(stacks, "cpu")
    assert text
    for line in text.splitlines():
        names, _, count = line.rpartition(" ")
        assert names and int(count) > 0 and is_clean(line)
    assert len(text.splitlines()) == text.count("\n")


def test_words_of_diagnosis_and_comparison() -> None:
    frames = hostile_frames()
    diagnosis = Diagnosis()
    for _ in range(4):
        for frame in frames:
            report = diagnosis.update(frame)
            assert all(map(is_clean, diagnose.as_text(report, frame.health)))
    a, b = Tally(), Tally()
    a.add(frames[0])
    b.add(frames[2])
    assert all(map(is_clean, diff.as_text(a, b, compare(a, b), 10_000)))


def test_hidden_names_are_hidden() -> None:
    frame = hostile_frames()[1]
    hidden = json.dumps([row.args for row in Redactor().frame(frame).processes.rows])
    for name in ("=cmd", "数据库", "etc"):
        assert name not in hidden


@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name)[:24])
def test_no_name_leads_a_file_elsewhere(name: str | bytes, tmp_path: Path) -> None:
    """A recording is named after its host, whatever the host calls itself."""
    text = clean(name)
    path = free_path(text, 1_770_000_000_000_000_000, tmp_path)
    assert path.parent == tmp_path and not path.name.startswith(("-", "."))
    assert is_clean(path.name) and len(path.name.encode()) < 255
    path.write_bytes(b"")
