"""Every key of rewind by Pilot, on the recorded session as if it were coming in now."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from ktop import when
from ktop.diagnosis.engine import Diagnosis
from ktop.levels import levels
from ktop.live_recording import free_path
from ktop.recording import Recording
from ktop.scope import Scope
from ktop.sources import LIVE
from tests import session
from tests.frames import make_frame
from tests.timekit import (
    SECOND,
    clock_of,
    here,
    live,
    make_later,
    record,
    replay,
    session_file,
    settled,
    until,
)

__all__ = ["here", "session_file"]  # fixtures


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
        assert "tcp" in s.lines[3]  # of each frame what the verdict on it says
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


async def test_the_memory_knows_the_verdict_on_each_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of frames that come together, and while the picture stands still; worked out once."""
    frames = session.frames()
    worked_out = []
    monkeypatch.setattr("ktop.kept.levels", lambda frame, report: worked_out.append(frame.seq)
                        or levels(frame, report))
    async with live(frames=0) as s:
        await s.play(*frames[:20])
        await s.press("R", "space")
        await s.play(*frames[20:30])
        await s.press("space")
        for frame in frames[30:]:
            await s.play(frame)
        await settled(s)
        diagnosis = Diagnosis()
        truth = [levels(frame, diagnosis.update(frame)) for frame in frames]
        assert s.app.ring.levels(0, len(frames)) == truth
        recording = s.app.recording
        assert recording is not None
        await until(s, lambda: recording.frames == 22)
        await s.press("R")
        (path,) = Path().glob("*.ktop")
        with Recording(path) as found:
            assert found.levels(0, 22) == truth[20:]
        in_memory = [seq for seq in worked_out if seq < frames[20].seq]
        assert in_memory == [frame.seq for frame in frames[:20]]


async def test_the_timeline_of_a_scope_says_whose_it_is(session_file: Path) -> None:
    async with replay(session_file) as s:
        assert "host" not in s.lines[3]
        pid = s.app.host.whole.processes.rows[0].pid
        s.app.set_scope(Scope(pid=pid))
        await settled(s)
        assert s.lines[3].strip().startswith("host ")
