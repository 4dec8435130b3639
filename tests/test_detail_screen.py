"""The screen of one process, by Textual's Pilot: every view, every key, alive, ended, replayed."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec.structs import replace

from ktop.model import Frame
from ktop.model_detail import Detail, Ended
from ktop.model_files import FileOps, FileRow, Files, FileUse
from ktop.screens.detail import ProcessDetail
from ktop.screens.detail_pane import VIEWS
from ktop.screens.help import Help
from ktop.widgets.strips import cells
from ktop.widgets.table import VirtualTable
from ktop.wire import Control
from tests.frames import bare_frame, make_frame
from tests.test_app import Stage, stage
from tests.test_detail import PID, exit_event, make_detail, start_of, without


def played(seq: int, detail: Detail | None = None, **kwargs: Any) -> Frame:
    """A tick in which the process has a child, a file and its threads' states."""
    frame = make_frame(seq, **kwargs)
    frame.detail = detail
    for row in frame.processes.rows[5:7]:
        row.ppid = PID
    for thread in frame.processes.threads:
        thread.off_cpu_pct = {"lock": 60.0, "sleep": 30.0}
    frame.files = Files(watched=True, rows=[FileRow("/srv/data.db", "8:1", 7, FileOps(5.0))],
                        uses=[FileUse(PID, "8:1", 7, 0, FileOps(3.0, 2.0), "python3", 4)])
    return frame


@contextlib.asynccontextmanager
async def opened(size: tuple[int, int] = (100, 30), detail: bool = True,
                 **kwargs: Any) -> AsyncIterator[tuple[Stage, ProcessDetail]]:
    """The screen of one process of the synthetic host."""
    async with stage(size, played=0, **kwargs) as s:
        for seq in range(1, 4):
            await s.play(played(seq, make_detail() if detail else None))
        screen = ProcessDetail(PID, start_of(PID), "python3")
        s.app.open_over(screen)
        await s.pilot.pause()
        await s.pilot.pause()
        yield s, screen


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
async def test_every_view_by_every_key(size: tuple[int, int]) -> None:
    async with opened(size) as (s, screen):
        seen = []
        for number, view in enumerate(VIEWS, 1):
            await s.press(str(number))
            assert screen.body.view == view
            assert f"{number} {view}" in s.lines[1]
            seen.append(s.text)
            assert all(cells(line) <= size[0] for line in s.lines) and len(s.lines) == size[1]
            for table in screen.body.tables():
                assert table.has_focus or screen.body.tables()[0].has_focus
                await s.press("o")
        assert len(set(seen)) == len(VIEWS)
        await s.press("1")
        for key, step in (("tab", 1), ("v", 1), ("shift+tab", -1), ("V", -1)):
            before = list(VIEWS).index(screen.body.view)
            await s.press(key)
            assert screen.body.view == list(VIEWS)[(before + step) % len(VIEWS)]
        await s.press("j", "k", "x", "left", "right", "end", "home", "pagedown", "pageup")
        assert s.app.screen is screen


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
async def test_what_each_view_shows(size: tuple[int, int]) -> None:
    async with opened(size) as (s, screen):
        text = s.text
        assert "java 109" in s.lines[0] and "1 Overview" in s.lines[1]
        assert "threads (mean)" in text and "on CPU" in text and "sum: threads" in text
        assert "exe" in text or size[1] == 24
        for key, *words in (
                ("2", "THREAD", "futex_do_wait", "__futex_wait"),
                ("3", "/srv/data.db", "(deleted)", "3 of 1024"), ("4", "LISTENS ON"),
                ("6", "Enter opens one", "Parents"), ("7", "open files", "97.7", "net_raw"),
                ("8", "S takes stacks"), ("9", "TIME")):
            await s.press(key)
            for word in words:
                assert word in s.text, (key, word)
        await s.press("1")
        table = screen.query_one("#who-table", VirtualTable)
        facts = {f.name: f.text for f in table.rows if f.name}
        assert {"arguments", "exe", "cwd", "root", "parents", "cgroup", "user", "group", "memory",
                "oom", "scheduling"} <= facts.keys()
        assert "cut)" in " ".join(f.text for f in table.rows)


async def test_hostile_words_stay_words() -> None:
    async with opened((120, 40)) as (s, _):
        for key in "1234679":
            await s.press(key)
            assert "\x1b" not in s.text and "\u202e" not in s.text
        await s.press("7")
        assert "[/]" in s.text


async def test_focus_leaves_sleep_out_of_the_picture() -> None:
    async with opened((120, 40)) as (s, screen):
        await s.press("f")
        assert "without sleep" in s.text
        await s.press("f")
        assert "without sleep and lock" in s.text
        await s.press("f")
        assert screen.body.focus_states == "all"


async def test_family_and_the_way_back() -> None:
    async with opened((120, 40)) as (s, screen):
        await s.press("6", "down", "enter")
        await s.pilot.pause()
        top = s.app.screen
        assert isinstance(top, ProcessDetail) and top is not screen
        assert "ppid" not in s.lines[0]
        await s.press("u")  # its parent is the process we came from
        await s.pilot.pause()
        assert isinstance(s.app.screen, ProcessDetail) and s.app.screen.scope.pid == PID
        for _ in range(2):
            await s.press("backspace")
            await s.pilot.pause()
        assert s.app.screen is screen
        await s.press("escape")  # takes the cursor away first
        assert s.app.screen is screen
        await s.press("escape")
        assert not isinstance(s.app.screen, ProcessDetail)
        assert "COMMAND" in s.text


async def test_a_parent_that_is_not_there() -> None:
    async with opened((120, 40)) as (s, screen):
        for seq in (4, 5):
            frame = played(seq)
            frame.processes.rows = [p for p in frame.processes.rows if p.pid != 1]
            await s.play(frame)
        await s.press("u")
        assert s.app.screen is screen and "its parent is not in the table" in s.lines[0]


async def test_enter_on_other_rows_stays_here() -> None:
    async with opened() as (s, screen):
        for key in "2379":
            await s.press(key, "down", "enter")
            assert s.app.screen is screen


async def test_help_and_sorting() -> None:
    async with opened((120, 40)) as (s, screen):
        await s.press("question_mark")
        assert isinstance(s.app.screen, Help)
        assert "Keys in one process" in s.text
        await s.press("escape", "2")
        table = screen.query_one("#threads-table", VirtualTable)
        before = table.sort_key
        await s.press("greater_than_sign")
        assert table.sort_key != before
        descending = table.descending
        await s.press("I")
        assert table.descending is not descending


async def test_find_and_time_hold_here_too() -> None:
    async with opened((120, 40)) as (s, screen):
        await s.press("3", "o")
        assert screen.query_one("#fds-table", VirtualTable).has_focus
        await s.press("slash", *"null", "enter")
        table = screen.query_one("#fds-table", VirtualTable)
        assert [d.fd for d in table.rows] == [0]
        await s.press("escape")
        assert len(table.rows) == 3 and s.app.screen is screen
        await s.press("n", "N", "space", "T", "T", "0", "plus", "minus", "ctrl+l")
        assert s.app.screen is screen


async def test_rewind_goes_to_before_the_end() -> None:
    async with opened((120, 40)) as (s, _):
        frame = without(played(4), PID)
        frame.processes.events = [exit_event(frame, PID, start_of(PID), code=1)]
        await s.play(frame)
        assert "ENDED" in s.lines[0]
        await s.press("T")
        await s.pilot.pause()
        assert "ENDED" not in s.lines[0] and "sum: threads" in s.text


async def test_it_asks_and_lets_go() -> None:
    asked: list[int] = []
    async with stage((100, 30), played=0) as s:
        plain = s.source.ask

        def ask(control: Control) -> None:
            if control.detail is not None:
                asked.append(control.detail)
            plain(control)

        s.source.ask = ask  # type: ignore[method-assign]
        for seq in range(1, 3):
            await s.play(played(seq))
        s.app.open_over(ProcessDetail(PID, start_of(PID), "python3"))
        await s.pilot.pause()
        assert asked == [PID]
        assert "files" in s.source.watched[-1] and "block" in s.source.watched[-1]
        for seq in range(3, 8):  # nobody answers: another collector?
            await s.play(played(seq))
        assert asked[1:] and set(asked) == {PID}
        await s.press("6", "down", "enter")
        await s.pilot.pause()
        assert asked[-1] != PID
        await s.press("escape")
        await s.pilot.pause()
        assert asked[-1] == PID
        await s.press("backspace")
        await s.pilot.pause()
        assert asked[-1] == 0 and "files" not in s.source.watched[-1]


async def test_it_ends_while_it_is_looked_at() -> None:
    async with opened((120, 40)) as (s, screen):
        frame = without(played(4), PID)
        frame.processes.events = [exit_event(frame, PID, start_of(PID), signal="SIGKILL")]
        frame.detail = replace(make_detail(), ended=Ended())
        await s.play(frame)
        assert "ENDED SIGKILL" in s.lines[0]
        assert "does not run at this time" in s.text and "it lived" in s.text
        for key in "23456789":
            await s.press(key)
        await s.press("2")
        assert "last known: 8" in s.text
        await s.play(without(played(5), PID))
        assert "ENDED SIGKILL" in s.lines[0]
        assert screen.body.life.row is not None


async def test_one_that_had_ended_is_found_in_the_past() -> None:
    async with stage((120, 40), played=0) as s:
        for seq in range(1, 4):
            await s.play(played(seq))
        frame = without(played(4), PID)
        frame.processes.events = [exit_event(frame, PID, start_of(PID), code=1)]
        await s.play(frame)
        s.app.open_over(ProcessDetail(PID, None, "python3"))
        await s.pilot.pause()
        await s.pilot.pause()
        assert "ENDED exit 1" in s.lines[0] and "8 threads" in s.lines[0]
        assert "kafka.jar" in s.text


async def test_replay_without_a_look() -> None:
    async with opened((120, 40), detail=False) as (s, _):
        for seq in range(4, 8):
            await s.play(played(seq))
        assert "not looked at while this was taken" in s.text
        await s.press("3")
        assert "not looked at while this was taken" in s.text and "/srv/data.db" in s.text
        await s.press("7")
        assert "not looked at while this was taken" in s.text


async def test_a_host_that_tells_nothing() -> None:
    async with stage((80, 24), played=0) as s:
        await s.play(bare_frame(1))
        s.app.open_over(ProcessDetail(1, 0, "task-0"))
        await s.pilot.pause()
        for key in "123456789":
            await s.press(key)
        await s.press("1")
        assert "task-0 1" in s.lines[0]


async def test_ascii() -> None:
    async with opened((80, 24), ascii_only=True) as (s, _):
        for key in "12346":
            await s.press(key)
            drawn = "\n".join(line for line in s.lines)
            assert not set("█▒·│─▸…") & set(drawn)
