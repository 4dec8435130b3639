"""Every key of a replay by Pilot, on a recording of the recorded session."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from ktop.scope import Scope
from ktop.widgets.table import VirtualTable
from tests import session
from tests.timekit import SECOND, clock_of, here, record, replay, session_file, settled, until

__all__ = ["here", "session_file"]  # fixtures


# -- replay ------------------------------------------------------------------------------------


async def test_replay_plays_from_the_beginning_and_stays_at_the_end(session_file: Path) -> None:
    async with replay(session_file, at=None) as s:
        assert "REPLAY" in s.lines[0]
        assert "PLAYING" in s.lines[0]
        for _ in range(6):
            await s.press("plus")
        assert "64x" in s.lines[0]
        await until(s, lambda: not s.app.player.playing)
        await settled(s)
        assert s.at == 41
        assert "END" in s.lines[0]
        assert s.app.host.whole == session.frames()[-1]
        assert len(s.app.history.ticks) == 42
        await s.press("minus")
        assert "32x" in s.lines[0]
        await s.press("space")
        assert s.at < 41


async def test_replay_keys(session_file: Path) -> None:
    frames = session.frames()
    async with replay(session_file) as s:
        assert f"REPLAY {clock_of(frames[20])} 1x PAUSED" in s.lines[0]
        for key, at in (("t", 21), ("T", 20), ("T", 19), ("right_square_bracket", 41),
                        ("left_square_bracket", 0), ("0", 41), ("T", 40), ("end", 41)):
            await s.press(key)
            assert s.at == at, key
            assert s.app.host.whole == frames[at]
        await s.press("space")
        assert "PLAYING" in s.lines[0]
        assert s.at == 0
        await s.press("space")
        assert "PAUSED" in s.lines[0]
        assert "r starts" not in s.text
        await s.press("r")
        assert "this is a recording" in s.text
        for key in ("w", "R"):
            await s.press(key)
            assert "recording already" in s.text
        assert not list(Path().glob("ktop-*"))


async def test_replay_jump(session_file: Path) -> None:
    frames = session.frames()
    async with replay(session_file) as s:
        await s.press("b", *"25:10", "enter")
        assert len(s.app.screen_stack) == 2
        assert "25 is more than 23" in s.text
        await s.press("escape")
        assert s.at == 20
        await s.press("b", *clock_of(frames[30]), "enter")
        assert len(s.app.screen_stack) == 1
        assert clock_of(s.app.host.whole) == clock_of(frames[30])
        await s.press("b", *"-5s", "enter")
        assert frames[23].clock.wall_ns <= s.app.host.whole.clock.wall_ns < (
            frames[27].clock.wall_ns)
        await s.press("b", *"-2h", "enter")
        assert s.at == 0
        assert "nothing before" in s.text
        await s.press("b", *"end", "enter")
        assert s.at == 41


async def test_marks_are_stored_in_the_file(tmp_path: Path) -> None:
    path = record(tmp_path / "s.ktop", session.frames())
    async with replay(path) as s:
        await s.press("m", *"it began", "enter")
        assert "◆" in s.lines[3] or "▲" in s.lines[3]
        await s.press("t")
        assert "◆" in s.lines[3]
        await s.press("T")
        s.app._message_over()
        await s.pilot.pause()
        assert "mark: it began" in s.text
    async with replay(path) as s:
        assert [mark.note for mark in s.app.marks] == ["it began"]
        await s.press("m", "escape")
        assert len(s.app.marks) == 1


async def test_scope_and_panes_work_in_replay(session_file: Path) -> None:
    pid = next(p.pid for p in session.frames()[20].processes.rows if "api.py" in (p.args or ""))
    async with replay(session_file, scope=Scope(pid=pid, name="api.py")) as s:
        assert s.app.lens.frame is not None
        assert [p.pid for p in s.app.lens.frame.processes.rows] == [pid]
        for key in "23451":
            await s.press(key)
            await s.press("t")
            await settled(s)
            assert "REPLAY" in s.lines[0]
        await s.press("backspace")
        assert len(s.app.lens.frame.processes.rows) > 1


async def test_what_was_taken_then_cannot_be_changed(session_file: Path) -> None:
    async with replay(session_file) as s:
        await s.press("4")
        before = s.text
        await s.press("right_parenthesis")
        assert "cannot be changed" in s.text
        assert s.app.pane._slow_ns() == s.app.host.whole.block.slow_ns
        s.app._message_over()
        await s.pilot.pause()
        assert s.text == before


async def test_damaged_samples_are_passed(tmp_path: Path) -> None:
    path = record(tmp_path / "s.ktop", session.frames())
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE blobs SET data = x'00112233' WHERE position IN (21, 22)")
    async with replay(path) as s:
        await s.press("t")
        await settled(s)
        assert s.at == 23
        await s.press("T")
        assert s.at == 20


async def test_seeking_never_decodes_in_the_key(tmp_path: Path) -> None:
    """A key press decodes the frame that it shows; its past comes in slices."""
    path = record(tmp_path / "s.ktop", session.frames())
    async with replay(path, at=0) as s:
        decoded: list[int] = []
        frame = s.track.frame
        s.track.frame = lambda at: (decoded.append(at), frame(at))[1]
        s.app.player.seek(41)
        s.app._arrive(1, "")
        assert decoded == [41]
        await settled(s)
        assert set(decoded) == set(range(1, 42))
        assert len(s.app.history.ticks) == 42


async def test_gap_is_told(tmp_path: Path) -> None:
    frames = session.frames()[:20]
    for frame in frames[10:]:
        frame.clock.wall_ns += 200 * SECOND
    frames[10].clock.gap_ns = 200 * SECOND
    async with replay(record(tmp_path / "gap.ktop", frames), at=9) as s:
        assert "┊┊┊┊" in s.lines[2]
        await s.press("t")
        assert "gap of 3m20s: a suspend, or the clock was set forward" in s.text
        s.app._message_over()
        await s.pilot.pause()
        assert "before this: gap of 3m20s" in s.text
        history = s.app.history
        assert history.ticks[-1].at_ns - history.ticks[-2].at_ns > 200 * SECOND
        columns = history.runq_columns(60, 240 * SECOND)
        assert columns[-2:].count(None) == 1
        assert columns[12:58] == [None] * 46


async def test_a_table_keeps_its_cursor_while_time_moves(session_file: Path) -> None:
    async with replay(session_file) as s:
        await s.press("down", "down")
        table = s.app.focused
        assert isinstance(table, VirtualTable)
        key = table.selected
        for key_ in ("t", "t", "T", "0"):
            await s.press(key_)
        assert table.selected == key


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (60, 15), (20, 6)])
async def test_sizes(session_file: Path, size: tuple[int, int]) -> None:
    async with replay(session_file, size=size) as s:
        for key in ("t", "T", "m", "escape", "b", "escape", "space", "space", "z"):
            await s.press(key)
        assert all(len(line) <= size[0] for line in s.lines)
        if size >= (80, 24):
            assert "Step" in s.lines[-1]
            assert "REPLAY" in s.lines[0]


async def test_time_moves_below_a_process_in_full(session_file: Path) -> None:
    async with replay(session_file, size=(120, 40)) as s:
        await s.press("down", "enter")
        assert len(s.app.screen_stack) == 2
        await s.press("t", "t")
        assert s.at == 22
        await s.press("0")
        assert s.at == 41
        await s.press("b", *"start", "enter")
        assert s.at == 0
        assert len(s.app.screen_stack) == 2
        await s.press("backspace")
        assert len(s.app.screen_stack) == 1
