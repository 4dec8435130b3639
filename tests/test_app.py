"""The app on synthetic frames, by Textual's Pilot: every key, every state, no other process."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Input, OptionList

from ktop import theme
from ktop.actions import ACTIONS
from ktop.app import KtopApp
from ktop.driver import to_ascii
from ktop.model import Frame
from ktop.screens.help import Help
from ktop.shell.timing import INTERVALS_NS
from ktop.sources import ENDED, LIVE, STARTING
from ktop.widgets.header import Cost, Status, cost_pieces
from ktop.widgets.table import VirtualTable
from ktop.wire import Control
from tests.frames import bare_frame, make_frame, stream

SECOND = 1_000_000_000


class FakeSource:
    """A source that the test plays."""

    def __init__(self) -> None:
        self.state = STARTING
        self.reason = ""
        self.bodies: list[bytes] = []
        self.intervals: list[int] = []
        self.watched: list[list[str]] = []
        self.restarts = 0
        self.closed = False
        self.can_restart = True

    def start(self, frames: Any, changed: Any) -> None:
        self.frames, self.changed = frames, changed

    def play(self, *frames: Frame) -> None:
        self.frames(list(frames))
        self.turn(LIVE)

    def turn(self, state: str, reason: str = "") -> None:
        self.state, self.reason = state, reason
        self.changed()

    def ask(self, control: Control) -> None:
        if control.interval_ns is not None:
            self.intervals.append(control.interval_ns)
        if control.watch is not None:
            self.watched.append(control.watch)

    def restart(self) -> bool:
        self.restarts += 1
        return self.can_restart

    def close(self) -> None:
        self.closed = True


class Stage:
    """An app that runs, its source and its pilot."""

    def __init__(self, app: KtopApp, source: FakeSource, pilot: Pilot[None]) -> None:
        self.app, self.source, self.pilot = app, source, pilot

    async def play(self, *frames: Frame) -> None:
        self.source.play(*frames)
        await self.pilot.pause()

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)
        await self.pilot.pause()

    @property
    def lines(self) -> list[str]:
        """The whole screen as text, of the top screen only."""
        screen = self.app.screen
        strips = screen._compositor.render_strips(screen.size)
        return [strip.text.rstrip() for strip in strips]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


@contextlib.asynccontextmanager
async def stage(size: tuple[int, int] = (100, 30), played: int = 3,
                ascii_only: bool = False) -> AsyncIterator[Stage]:
    source = FakeSource()
    app = KtopApp(lambda: source, ascii_only=ascii_only)
    try:
        async with app.run_test(size=size) as pilot:
            found = Stage(app, source, pilot)
            for frame in stream(played):
                await found.play(frame)
            yield found
    finally:
        theme.use_ascii(False)
    assert source.closed


async def test_frame_reaches_the_screen() -> None:
    async with stage() as s:
        frame = make_frame(9)
        await s.play(frame)
        assert frame.host.hostname in s.lines[0]
        assert "LIVE" in s.lines[0]
        assert "every 1s" in s.lines[0]
        assert "1 Processes" in s.lines[1]
        assert "COMMAND" in s.text
        assert "? Help" in s.lines[-1]
        assert "q Quit" in s.lines[-1]


@pytest.mark.parametrize("key", ["1", "2", "3", "4", "5", "6"])
async def test_number_shows_pane(key: str) -> None:
    async with stage() as s:
        await s.press(key)
        assert s.app.number == int(key)
        assert [pane.display for pane in s.app.panes if pane.is_attached].count(True) == 1
        assert s.app.pane.display
        assert s.app.pane.title in s.text
        await s.play(make_frame(9))
        assert s.app.is_running


async def test_tab_goes_round() -> None:
    async with stage() as s:
        for expected in (2, 3, 4, 5, 6, 1):
            await s.press("tab")
            assert s.app.number == expected
        await s.press("shift+tab")
        assert s.app.number == 6


async def test_hidden_panes_do_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async with stage() as s:
        await s.press("2")
        first = s.app.panes[0]
        shown: list[int] = []
        monkeypatch.setattr(first, "show", lambda frame, history: shown.append(frame.seq))
        await s.play(make_frame(7), make_frame(8))
        assert shown == []
        await s.press("1")
        assert shown == [8]  # right when it comes into view, with the newest


async def test_newest_frame_wins_and_history_gets_all(monkeypatch: pytest.MonkeyPatch) -> None:
    async with stage() as s:
        shown: list[int] = []
        before = len(s.app.history.ticks)
        monkeypatch.setattr(s.app.pane, "show", lambda frame, history: shown.append(frame.seq))
        s.source.play(make_frame(10), make_frame(11))
        s.source.play(make_frame(12))
        await s.pilot.pause()
        assert shown == [12]
        assert len(s.app.history.ticks) == before + 3


async def test_pause_holds_the_picture_and_its_past() -> None:
    async with stage() as s:
        await s.press("space")
        assert "PAUSED" in s.lines[0]
        assert "Space Resume" in s.lines[-1]
        ticks = len(s.app.history.ticks)
        body = s.lines[2:-2]
        await s.play(make_frame(20, processes=7))
        assert s.lines[2:-2] == body
        assert len(s.app.history.ticks) == ticks
        assert s.app.track.frame(s.app.track.end - 1).seq == 20  # remembered behind the picture
        await s.press("5", "1")  # looking around shows the same moment
        assert s.app.frame is not None
        assert s.app.frame.seq == 3
        await s.press("space")
        assert s.app.frame is not None
        assert s.app.frame.seq == 20
        assert len(s.app.history.ticks) == ticks + 1
        assert "LIVE" in s.lines[0]


async def test_the_pane_in_view_is_what_is_watched() -> None:
    async with stage() as s:
        await s.press("5", "1")
        assert s.source.watched == [["processes"], ["sched"], ["processes"]]


async def test_interval_steps() -> None:
    async with stage() as s:
        await s.press("plus", "plus", "minus", "equals_sign")
        assert s.source.intervals == [2 * SECOND, 5 * SECOND, 2 * SECOND, 5 * SECOND]
        assert "every 5s" in s.lines[0]
        for _ in INTERVALS_NS:
            await s.press("plus")
        assert s.app.interval_ns == INTERVALS_NS[-1]
        for _ in INTERVALS_NS:
            await s.press("minus")
        assert s.app.interval_ns == INTERVALS_NS[0]
        assert "as far as it goes" in s.text


async def test_an_odd_interval_finds_its_neighbours() -> None:
    async with stage() as s:
        s.app.interval_ns = 3 * SECOND
        await s.press("minus")
        assert s.app.interval_ns == 2 * SECOND
        s.app.interval_ns = 3 * SECOND
        await s.press("plus")
        assert s.app.interval_ns == 5 * SECOND


async def test_sorting_keys() -> None:
    async with stage() as s:
        table = s.app.pane.tables()[0]
        start = table.sort_key
        await s.press("greater_than_sign")
        assert table.sort_key != start
        await s.press("less_than_sign")
        assert table.sort_key == start
        await s.press("f6")
        assert table.sort_key != start
        down = table.descending
        await s.press("I")
        assert table.descending is not down


async def test_sorting_works_without_focus() -> None:
    async with stage() as s:
        table = s.app.pane.tables()[0]
        start = table.sort_key
        s.app.screen.set_focus(None)
        await s.press("greater_than_sign")
        assert table.sort_key != start


@pytest.mark.parametrize("key", ["question_mark", "f1", "h"])
async def test_help_shows_pane_and_keys(key: str) -> None:
    async with stage(size=(100, 200)) as s:
        await s.press(key)
        assert isinstance(s.app.screen, Help)
        page = s.app.screen.page.plain
        assert s.app.panes[0].help_text().strip() in page
        for action in ACTIONS:
            if not action.name.startswith("pane("):
                assert action.about in page
        await s.play(make_frame(9))
        await s.press("escape")
        assert not isinstance(s.app.screen, Help)


async def test_help_says_what_the_probes_lack() -> None:
    async with stage() as s:
        await s.play(make_frame(9, absent=("sched_switch",)))
        await s.press("question_mark")
        assert isinstance(s.app.screen, Help)
        assert "sched_switch: absent" in s.app.screen.page.plain


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 6])
async def test_every_pane_has_help(number: int) -> None:
    async with stage() as s:
        await s.press(str(number), "question_mark")
        assert s.app.panes[number - 1].title in s.text
        await s.press("tab", "1")  # panes do not change below a dialog
        assert s.app.number == number
        await s.press("q")
        assert s.app.is_running
        assert not isinstance(s.app.screen, Help)


@pytest.mark.parametrize("key", ["colon", "ctrl+p"])
async def test_palette_finds_and_runs(key: str) -> None:
    async with stage() as s:
        await s.press(key)
        box = s.app.screen.query_one(Input)
        box.value = "Scheduler"
        await s.pilot.pause(0.5)
        for _ in range(50):
            if s.app.screen.query_one(OptionList).option_count:
                break
            await s.pilot.pause(0.1)
        await s.press("enter")
        await s.pilot.pause(0.1)
        assert s.app.number == 5


async def test_palette_has_every_action() -> None:
    async with stage() as s:
        titles = [command.title for command in s.app.get_system_commands(s.app.screen)]
        for action in ACTIONS:
            if action.name != "command_palette":
                assert any(title.startswith(action.label) for title in titles)


@pytest.mark.parametrize("key", ["q", "f10", "ctrl+c"])
async def test_quit(key: str) -> None:
    async with stage() as s:
        await s.press(key)
        assert s.app.return_code == 0
        assert s.app._exit


@pytest.mark.parametrize("key", [
    "escape", "k", "j", "p", "c", "g", "slash", "n", "N", "t", "T", "x", "d",
    "left_square_bracket", "right_square_bracket", "ctrl+l", "enter", "f5", "s"])
async def test_harmless_keys(key: str) -> None:
    async with stage() as s:
        await s.press(key)
        await s.play(make_frame(9))
        assert s.app.is_running
        assert not s.app._exit
        assert len(s.app.screen_stack) == 1


async def test_collector_dies_and_comes_back() -> None:
    async with stage() as s:
        s.source.turn(ENDED, "killed by SIGKILL: out of [bold]luck[/bold]")
        await s.pilot.pause()
        assert "DEAD" in s.lines[0]
        assert "killed by SIGKILL: out of [bold]luck[/bold]" in s.text
        assert "COMMAND" in s.text
        assert "r Restart" in s.lines[-1]
        await s.press("r")
        assert s.source.restarts == 1
        s.source.turn(STARTING)
        await s.play(make_frame(1))
        assert "LIVE" in s.lines[0]
        assert "has ended" not in s.text


async def test_restart_needs_a_dead_collector_and_a_supervisor() -> None:
    async with stage() as s:
        await s.press("r")
        assert s.source.restarts == 0
        assert "the collector is running" in s.text
        s.source.can_restart = False
        s.source.turn(ENDED, "gone")
        await s.press("r")
        assert "nobody" in s.text


async def test_before_the_first_frame() -> None:
    async with stage(played=0) as s:
        assert "STARTING" in s.lines[0]
        assert "waiting for the first sample" in s.text
        await s.press("1", "5", "question_mark", "escape", "space", "space", "plus", "I")
        assert s.app.is_running


async def test_first_sample_has_no_rates_and_says_so() -> None:
    async with stage(played=0) as s:
        await s.play(bare_frame(1))
        assert "first sample, no rates yet" in s.text
        await s.play(make_frame(2))
        assert "first sample" not in s.text


async def test_banner_of_the_collector() -> None:
    async with stage() as s:
        frame = make_frame(9)
        frame.health.banner = "no BPF: run as root [bold]x[/bold]"
        await s.play(frame)
        assert "no BPF: run as root [bold]x[/bold]" in s.lines[3]
        await s.play(make_frame(10))
        assert "no BPF" not in s.text


async def test_cost_is_always_on_the_screen() -> None:
    for width in (80, 120):
        async with stage(size=(width, 24)) as s:
            frame = make_frame(9)
            frame.health.probes_cpu_pct, frame.health.probes_estimated = 0.4, True
            frame.health.lost_total = 17
            await s.play(frame)
            assert "probes ~0.40%" in s.text
            assert "lost 17" in s.text


def test_unknown_cost_is_a_dash() -> None:
    assert "".join(text for text, _ in cost_pieces(Cost(estimated=True))) == (
        "ktop -  probes -  lost 0")


async def test_slow_link_skips_frames_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async with stage() as s:
        busy = True
        monkeypatch.setattr(type(s.app), "terminal_busy", property(lambda _: busy))
        shown: list[int] = []
        show = s.app.pane.show
        monkeypatch.setattr(s.app.pane, "show",
                            lambda frame, history: (shown.append(frame.seq), show(frame, history)))
        for seq in (10, 11, 12):
            await s.play(make_frame(seq))
        assert shown == []
        busy = False
        for _ in range(50):
            await s.pilot.pause(0.1)
            if shown:
                break
        assert shown == [12]
        assert "link slow: 2 samples not drawn" in s.text


async def test_what_changed_since_a_picture_that_is_owed_is_in_it(
        monkeypatch: pytest.MonkeyPatch) -> None:
    async with stage() as s:
        screen, status = s.app.screen, s.app.query_one(Status)
        drawn: list[Any] = []
        monkeypatch.setattr(s.app, "_display", lambda _, update: drawn.append(update))
        screen._owes_refresh = True  # the terminal was busy
        status.refresh()
        screen._dirty_widgets = {status}
        screen._on_timer_update()
        assert {y for update in drawn if update for y, _, _ in update.spans} == {status.region.y}
        assert not screen._owes_refresh and not screen._dirty_widgets


@pytest.mark.parametrize("size", [
    (80, 24), (120, 40), (200, 60), (60, 15), (30, 8), (8, 3), (1, 1)])
async def test_sizes(size: tuple[int, int]) -> None:
    async with stage(size=size) as s:
        for key in "123456":
            await s.press(key)
            await s.play(make_frame(9))
        assert all(len(line) <= size[0] for line in s.lines)
        if size == (60, 15):
            assert "needs 80x24" in s.text
        if size >= (80, 24):
            assert "needs 80x24" not in s.text


async def test_eighty_columns_show_state_cost_and_help() -> None:
    async with stage(size=(80, 24)) as s:
        assert s.lines[0].rstrip().endswith("LIVE")
        assert "6 Diagnosis" in s.lines[1]
        assert "? Help" in s.lines[-1]


async def test_ascii_only_draws_ascii() -> None:
    async with stage(ascii_only=True) as s:
        for key in "123456":
            await s.press(key)
            assert to_ascii(s.text).isascii()
            assert theme.glyphs().ascii


def test_to_ascii_keeps_every_cell() -> None:
    from rich.cells import cell_len

    for text in ("plain", "┌─┐│█▇", "日本語 é", "a\u0301", "🔎 x", "…"):
        assert to_ascii(text).isascii()
        assert len(to_ascii(text)) == cell_len(text)


async def test_keys_between_ticks_are_all_seen() -> None:
    async with stage() as s:
        for seq in range(10, 40):
            s.source.play(make_frame(seq, processes=300))
            await s.pilot.press("plus" if seq % 2 else "minus")
        await s.pilot.pause()
        assert len(s.source.intervals) == 30


async def test_focus_stays_where_it_was() -> None:
    async with stage(size=(120, 40)) as s:
        tables = s.app.pane.tables()
        if len(tables) > 1:
            s.app.screen.set_focus(tables[1])
        focused = s.app.focused
        assert isinstance(focused, VirtualTable)
        await s.press("5", "1")
        assert s.app.focused is focused


async def test_a_message_outlives_the_time_of_the_one_before() -> None:
    """After a stop both are due at once: the old one's time, and what there is to say."""
    async with stage() as s:
        s.app.say("old")
        over = s.app._message_timer._callback  # type: ignore[union-attr]
        s.app.say("new")
        over()  # type: ignore[misc]
        await s.pilot.pause()
        assert s.app.query_one(Status).text == "new"


async def test_message_goes_away() -> None:
    async with stage() as s:
        s.app.say("hello")
        assert s.app.query_one(Status).text == "hello"
        s.app._message_over()
        assert s.app.query_one(Status).text == ""
