"""Every key of rewind and replay, by Pilot, on the recorded session; live and as a file."""

from __future__ import annotations

import asyncio
import contextlib
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from ktop import when
from ktop.app import KtopApp
from ktop.live_recording import free_path
from ktop.model import Frame
from ktop.recording import Recording, Writer
from ktop.scope import Scope
from ktop.sources import LIVE
from ktop.sources_replay import ReplaySource
from ktop.widgets.table import VirtualTable
from tests import session
from tests.frames import make_frame
from tests.test_app import FakeSource, Stage

SECOND = 1_000_000_000


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Files that keys write go to a directory of the test's own; times are UTC."""
    with monkeypatch.context() as m:
        m.setenv("TZ", "UTC")
        when.time.tzset()
        m.chdir(tmp_path)
        yield
    when.time.tzset()


def record(path: Path, frames: list[Frame]) -> Path:
    with Writer(path) as writer:
        for frame in frames:
            writer.add(frame)
    return path


@pytest.fixture(scope="module")
def session_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("recorded") / "session.ktop", session.frames())


@contextlib.asynccontextmanager
async def live(frames: int = 42, size: tuple[int, int] = (100, 30)) -> AsyncIterator[Stage]:
    """The session as if it were coming in now."""
    source = FakeSource()
    app = KtopApp(lambda: source)
    async with app.run_test(size=size) as pilot:
        stage = Stage(app, source, pilot)
        if frames:
            await stage.play(*session.frames()[:frames])
        yield stage


class Replay(Stage):
    """A recording that is shown, standing still."""

    def __init__(self, app: KtopApp, source: Any, pilot: Pilot[None]) -> None:
        super().__init__(app, source, pilot)
        self.track = source.track

    @property
    def at(self) -> int:
        return self.app.player.at


@contextlib.asynccontextmanager
async def replay(path: Path, at: int | None = 20, size: tuple[int, int] = (100, 30),
                 scope: Scope | None = None) -> AsyncIterator[Replay]:
    recording = Recording(path)
    source = ReplaySource(recording, None if at is None else recording.moment(at).wall_ns)
    app = KtopApp(lambda: source, **({"scope": scope} if scope else {}))
    async with app.run_test(size=size) as pilot:
        stage = Replay(app, source, pilot)
        await settled(stage)
        yield stage


async def settled(stage: Stage) -> None:
    """The past is made up for."""
    await until(stage, lambda: not any(lens.behind for lens in stage.app.lenses()))


async def until(stage: Stage, true: Callable[[], bool]) -> None:
    for _ in range(400):
        if true():
            await stage.pilot.pause()
            return
        await stage.pilot.pause(0.02)
    raise TimeoutError("it does not come")


def clock_of(frame: Frame) -> str:
    return when.clock(frame.clock.wall_ns)


# -- rewind while live -------------------------------------------------------------------------


async def test_step_back_while_live_and_return() -> None:
    frames = session.frames()
    async with live() as s:
        await s.press("T")
        assert f"PAST {clock_of(frames[-2])} 1x PAUSED" in s.lines[0]
        assert s.app.host.whole == frames[-2]
        assert "1s before now" in s.text
        await s.press("T", "T", "t")
        assert s.app.host.whole == frames[-3]
        await s.play(make_later(frames[-1]))
        assert s.app.host.whole == frames[-3]
        assert "3s before now" in s.text
        await s.press("0")
        assert "LIVE" in s.lines[0]
        assert s.app.host.at == 42


def make_later(frame: Frame, seconds: int = 1) -> Frame:
    later = session.frames()[-1]
    later.seq = frame.seq + seconds
    later.clock.wall_ns = frame.clock.wall_ns + seconds * SECOND
    later.clock.monotonic_ns = frame.clock.monotonic_ns + seconds * SECOND
    return later


async def test_stepping_forward_ends_in_now() -> None:
    async with live() as s:
        await s.press("T", "T", "t")
        assert "PAST" in s.lines[0]
        await s.press("t")
        assert "LIVE" in s.lines[0]
        assert "this is now" in s.text
        assert s.app.following


async def test_minutes_and_the_beginning() -> None:
    async with live() as s:
        await s.press("left_square_bracket")
        assert s.app.host.at == 0
        await s.press("T")
        assert "this is the oldest in memory" in s.text
        await s.press("right_square_bracket")
        assert "LIVE" in s.lines[0]


async def test_freeze_holds_the_picture_with_full_drill_down() -> None:
    frames = session.frames()
    async with live() as s:
        await s.press("space")
        assert "PAUSED" in s.lines[0]
        pid = next(p.pid for p in frames[-1].processes.rows if "api.py" in (p.args or ""))
        await s.play(make_later(frames[-1]))
        s.app.set_scope(Scope(pid=pid, name="api.py"))
        await settled(s)
        assert s.app.host.whole == frames[-1]
        assert s.app.lens.frame is not None
        assert pid in [p.pid for p in s.app.lens.frame.processes.rows]
        assert len(s.app.lens.frame.processes.rows) < len(frames[-1].processes.rows)
        await s.press("plus")
        assert s.source.intervals == [2 * SECOND]
        await s.press("space")
        assert "LIVE" in s.lines[0]
        assert s.app.host.at == 42


async def test_space_plays_the_past_into_now() -> None:
    async with live() as s:
        await s.press("left_square_bracket", "space")
        assert "PLAYING" in s.lines[0]
        await s.press("plus", "plus", "plus")
        assert "8x" in s.lines[0]
        assert s.source.intervals == []
        await until(s, lambda: s.app.following)
        assert "LIVE" in s.lines[0]


async def test_collector_goes_on_while_the_past_plays_and_pauses() -> None:
    async with live() as s:
        await s.press("T", "T", "T", "space", "space")
        assert "PAUSED" in s.lines[0]
        at = s.app.host.at
        await s.play(make_later(session.frames()[-1]))
        assert s.app.host.at == at
        assert s.source.state == LIVE


async def test_end_is_the_tables_until_its_cursor_is_there() -> None:
    async with live() as s:
        await s.press("T", "end")
        assert "LIVE" in s.lines[0]
        table = s.app.pane.tables()[0]
        await s.press("end")
        assert table.selected_row is table.rows[-1]
        await s.press("T", "up")
        at = s.app.host.at
        await s.press("end")
        assert s.app.host.at == at
        assert table.selected_row is table.rows[-1]
        await s.press("end")
        assert "LIVE" in s.lines[0]


@pytest.mark.parametrize(("wall_s", "mono_s", "says"), [
    (721, 1, "gap of 12m00s: a suspend, or the clock was set forward"),
    (-3599, 1, "the clock was set back by 1h00m"), (30, 30, "gap of 29s: no samples"), (1, 1, "")])
async def test_a_clock_that_jumps_is_told_live(wall_s: int, mono_s: int, says: str) -> None:
    async with live() as s:
        later, last = make_later(session.frames()[-1]), session.frames()[-1].clock
        later.clock.wall_ns = last.wall_ns + wall_s * SECOND
        later.clock.monotonic_ns = last.monotonic_ns + mono_s * SECOND
        later.clock.interval_ns = SECOND
        s.app._message_over()
        s.source.frames([later])
        await s.pilot.pause()
        assert s.app.status.text == says


async def test_a_ring_that_forgets_moves_the_picture_on() -> None:
    async with live() as s:
        await s.press("left_square_bracket")
        ring = s.app.ring
        ring._budget = ring.bytes // 3
        s.source.frames([make_later(session.frames()[-1])])
        await s.pilot.pause()
        assert ring.first > 0
        assert s.app.host.at == ring.first
        assert "left the memory" in s.text
        await s.press("t")
        assert s.app.host.at == ring.first + 1


async def test_before_the_first_frame_nothing_breaks() -> None:
    async with live(frames=0) as s:
        for key in ("T", "t", "left_square_bracket", "right_square_bracket", "b", "0", "end",
                    "space", "plus", "m", "w", "R", "z"):
            await s.press(key)
            assert s.app.is_running
            assert len(s.app.screen_stack) == 1
        assert not list(Path().iterdir())


# -- the timeline ------------------------------------------------------------------------------


async def test_timeline_earns_its_lines() -> None:
    async with live() as s:
        assert not s.app.timeline.display
        await s.press("T")
        assert s.app.timeline.display
        assert s.app.timeline.size.height == 2
        assert clock_of(session.frames()[0]) in s.lines[2]
        assert "cpu" in s.lines[3]
        await s.press("0")
        assert not s.app.timeline.display
        await s.press("z")
        assert s.app.timeline.display
        await s.press("z")
        assert not s.app.timeline.display


async def test_timeline_has_one_line_where_there_is_no_room() -> None:
    async with live(size=(80, 20)) as s:
        await s.press("T")
        assert s.app.timeline.size.height == 1


async def test_zoom_looks_closer(tmp_path: Path) -> None:
    frames = [make_frame(n + 1, processes=3) for n in range(150)]
    async with replay(record(tmp_path / "long.ktop", frames), at=100) as s:
        assert s.lines[3].strip().startswith("2.5m")
        await s.press("z")
        assert s.lines[3].strip().startswith("60s")
        assert when.clock(frames[100].clock.wall_ns - 30 * SECOND) in s.lines[2]
        await s.press("z")
        assert s.lines[3].strip().startswith("2.5m")


async def test_click_on_the_timeline_goes_there(session_file: Path) -> None:
    async with replay(session_file) as s:
        await s.pilot.click("#timeline", offset=(11 + 77, 0))
        await s.pilot.pause()
        assert s.at == 41
        await s.pilot.click("#timeline", offset=(11, 0))
        await s.pilot.pause()
        assert s.at == 0


# -- marks, saving, recording ------------------------------------------------------------------


async def test_mark_is_kept_and_saved_with_the_memory() -> None:
    frames = session.frames()
    async with live() as s:
        await s.press("T", "T", "m", *"deploy", "enter")
        assert "marked" in s.text
        await s.press("w")
        await until(s, lambda: "are in" in s.text)
        (path,) = Path().glob("*.ktop")
        assert path.name in s.text
        assert path.name.startswith(f"ktop-{frames[0].host.hostname}-")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        saved = Recording(path)
        assert [saved.frame(n) for n in range(saved.first, saved.end)] == frames
        assert [(m.wall_ns, m.note) for m in saved.marks()] == [
            (frames[-3].clock.wall_ns, "deploy")]
        saved.close()
        await s.press("w")
        await until(s, lambda: len(list(Path().glob("*.ktop"))) == 2)


async def test_save_where_nothing_may_be_written_is_one_line(
        monkeypatch: pytest.MonkeyPatch) -> None:
    async with live() as s:
        monkeypatch.setattr("ktop.shell.keeping.free_path", lambda *_: Path("/proc/none/x.ktop"))
        await s.press("w")
        await until(s, lambda: "not saved" in s.text)
        await s.press("R")
        assert s.app.recording is not None
        recording = s.app.recording
        await until(s, lambda: bool(recording.problem))
        s.source.frames([make_later(session.frames()[-1])])
        await s.pilot.pause()
        assert "recording ended" in s.text
        assert s.app.recording is None
        assert "LIVE" in s.lines[0]


async def test_record_from_the_live_ui() -> None:
    frames = session.frames()
    async with live(frames=10) as s:
        await s.press("R")
        assert "REC" in s.lines[0]
        await s.play(*frames[10:20])
        await s.press("m", *"here", "enter")
        await until(s, lambda: s.app.recording is not None and s.app.recording.frames == 10)
        await s.play(frames[20])
        assert s.app.recording is not None
        await s.press("R")
        assert "REC" not in s.lines[0]
        assert "11 samples" in s.text
        (path,) = Path().glob("*.ktop")
        found = Recording(path)
        assert [found.frame(n) for n in range(found.first, found.end)] == frames[10:21]
        assert [mark.note for mark in found.marks()] == ["here"]
        found.close()
        assert not list(Path().glob("*-wal"))


async def test_quitting_closes_the_recording() -> None:
    async with live(frames=10) as s:
        await s.press("R")
        await s.play(*session.frames()[10:15])
    (path,) = Path().glob("*.ktop")
    found = Recording(path)
    assert found.end - found.first == 5
    assert found.about["ended"]
    found.close()


def test_free_path_never_takes_one_that_is_there(tmp_path: Path) -> None:
    first = free_path("a/b", 0, tmp_path)
    first.symlink_to("nowhere")
    second = free_path("a/b", 0, tmp_path)
    assert first != second
    assert first.parent == second.parent == tmp_path


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
    import sqlite3

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
        await asyncio.sleep(0)


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


async def test_the_memory_knows_the_verdict() -> None:
    frames = session.frames()
    async with live(frames=0) as s:
        for frame in frames[:5]:
            await s.play(frame)
        verdict = s.app.host.history.newest.report.verdict
        (found,) = s.app.ring.levels(4, 5)
        assert (found.pipe, found.state) == (verdict.pipe, verdict.state)
