"""The icicle: walked, zoomed, searched and written out by keys."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from textual.pilot import Pilot

from ktop import theme
from ktop.driver import TerminalApp
from ktop.flame import folded, layout
from ktop.history import History
from ktop.model import Frame, Stacks
from ktop.panes.base import Pane
from ktop.scope import HOST, Scope
from ktop.screens.flame import FlameScreen, write_new
from ktop.widgets.flame import Icicle
from ktop.widgets.header import Keys
from ktop.widgets.table import VirtualTable
from ktop.wire import Profile
from tests.stacks import MS, frame_with, made, many, recorded, show

# -- the screen ------------------------------------------------------------------------------------


class Host(TerminalApp):
    """An app that has nothing but what is put on top of it."""

    def __init__(self, ascii_only: bool = False) -> None:
        super().__init__(ascii_only)
        self.theme = theme.THEME
        self.asked: list[Profile] = []
        self.following, self.replaying, self.pauses = True, False, 0

    def on_pane_ask(self, message: Pane.Ask) -> None:
        assert message.wish.profile is not None
        self.asked.append(message.wish.profile)

    def action_pause(self) -> None:
        self.pauses += 1


def text_of(pilot: Pilot[Any]) -> list[str]:
    screen = pilot.app.screen
    return [strip.text.rstrip() for strip in screen._compositor.render_strips(screen.size)]


async def settled(pilot: Pilot[Any], screen: FlameScreen) -> None:
    for _ in range(200):
        await pilot.pause(0.01)
        if screen._building is None:
            await pilot.pause()
            return
    raise TimeoutError


def give(screen: FlameScreen, stacks: Stacks | None) -> Frame:
    frame = frame_with(stacks)
    screen.show(frame, History(), frame)
    return frame


async def test_walking_and_zooming_by_keys() -> None:
    app = Host()
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await show(app, made())
        await settled(pilot, screen)
        icicle = screen.query_one(Icicle)
        steps = {"down": ["web"], "left": ["web"], "right": ["cron"], "up": [], "end": [
            "web", "main", "serve", "parse"], "right ": ["web", "main", "serve", "render"]}
        for press, path in steps.items():
            await pilot.press(press.strip())
            assert icicle.selected.path() == path, press
        await pilot.press("up", "down")
        assert icicle.selected.name == "render"  # the way one came
        await pilot.press("up", "enter")
        assert icicle.root.name == "serve" and len(layout(icicle.root, 80, 9)[0]) == 1
        assert any("zoomed: web > main > serve" in line for line in text_of(pilot))
        await pilot.press("up")
        assert icicle.selected.name == "serve"  # the picture ends there
        await pilot.press("backspace", "up", "up", "up", "up")
        assert icicle.root.name == "all" and icicle.selected.name == "all"
        await pilot.press("down", "home")
        assert icicle.selected.name == "all"
        await pilot.press("j", "k", "x")
        assert app.screen is screen


async def test_figures_of_the_selected_function() -> None:
    app = Host()
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await show(app, made())
        await settled(pilot, screen)
        await pilot.press("down", "down", "down")
        lines = text_of(pilot)
        assert " serve   user" in lines[-4]
        assert "total 75.0% 45ms  self 8.3% 5.0ms  samples 9 self 3" in lines[-3]
        assert "12 samples at 49 Hz  60ms of CPU time  lost 0" in lines[1]
        assert "cost 0.12% of a CPU, 2.1us a sample" in lines[2]
        assert "running 1 of 30 s" in lines[0]
        await pilot.press("o", "end")
        await settled(pilot, screen)
        lines = text_of(pilot)
        assert "mean 50ms  state D 100%" in lines[-3] and "1.5us a switch" in lines[2]
        assert "150ms uninterruptible" in lines[1]
        await pilot.press("tab")
        await settled(pilot, screen)
        assert screen.kind == "cpu"


async def test_find_next_and_the_table() -> None:
    app = Host()
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await show(app, made())
        await settled(pilot, screen)
        icicle = screen.query_one(Icicle)
        await pilot.press("slash", *"MAIN", "enter")
        await pilot.pause()
        assert icicle.selected.path() == ["web", "main"]
        assert any("*main" in line for line in text_of(pilot))
        await pilot.press("n")
        assert icicle.selected.path() == ["cron", "main"]
        await pilot.press("N")
        assert icicle.selected.path() == ["web", "main"]
        await pilot.press("slash", *"nowhere", "enter")
        await pilot.pause()
        assert any("no function contains \"nowhere\"" in line for line in text_of(pilot))
        await pilot.press("slash", "enter")
        await pilot.pause()
        assert not icicle.matches
        await pilot.press("n")
        assert any("nothing is marked" in line for line in text_of(pilot))
        await pilot.press("v")
        await pilot.pause()
        table = screen.query_one(VirtualTable)
        assert table.has_focus and not icicle.region.area and table.region.area
        assert [f.name for f in table.rows][:3] == ["parse", "vfs_read_[k]", "render"]
        await pilot.press("down", "down", "enter")
        await pilot.pause()
        assert icicle.has_focus and icicle.selected.path() == ["cron", "main", "do_syscall_64_[k]",
                                                               "vfs_read_[k]"]
        await pilot.press("slash", "escape")
        await pilot.pause()
        assert app.screen is screen


async def test_stop_start_pause_help_and_close() -> None:
    app = Host()
    async with app.run_test(size=(120, 40)) as pilot:
        mine = [msgspec.structs.replace(made(n, state), pids=[7], children=True)
                for n, state in ((1, "running"), (2, "ended"), (3, "running"))]
        screen = await show(app, mine[0], Scope(pid=7, name="web"))
        await settled(pilot, screen)
        assert app.asked == []  # there were stacks of the same target
        assert "Stop" in text_of(pilot)[-1] and "7 web" in text_of(pilot)[0]
        await pilot.press("s")
        assert app.asked[-1] == Profile(pids=[7], seconds=0.0, children=True)
        give(screen, mine[1])
        await settled(pilot, screen)
        assert "s Start" in text_of(pilot)[-1] and "ended after 2.0 s" in text_of(pilot)[0]
        await pilot.press("s")
        assert app.asked[-1].seconds == 30.0
        await pilot.press("space")
        assert app.pauses == 1
        await pilot.press("question_mark")
        await pilot.pause()
        assert any("folded form" in line for line in text_of(pilot))
        await pilot.press("escape")
        await pilot.pause()
        give(screen, mine[2])
        await pilot.press("q")
        await pilot.pause()
        assert app.asked[-1].seconds == 0.0 and app.screen is not screen  # what runs is ended


async def test_it_asks_once_and_keeps_what_it_has() -> None:
    app = Host()
    async with app.run_test(size=(80, 24)) as pilot:
        screen = FlameScreen(HOST, [], [4, 5])
        await app.push_screen(screen)
        for _ in range(3):
            give(screen, None)
            await pilot.pause()
        give(screen, made())  # somebody else's: of the whole host
        await pilot.pause()
        assert app.asked == [Profile(cgroups=[4, 5], seconds=30.0)]
        assert any("have been asked for" in line for line in text_of(pilot))
        for state in ("loading", "failed"):
            give(screen, Stacks(state, 1, cgroups=[4, 5], reason="EPERM: lockdown"))
            await settled(pilot, screen)
        assert any("EPERM: lockdown" in line for line in text_of(pilot))
        mine = msgspec.structs.replace(made(1, "ended"), cgroups=[5, 4])
        give(screen, mine)
        await settled(pilot, screen)
        give(screen, None)
        await pilot.pause()
        assert screen.stacks == mine
        assert screen.query_one(Icicle).flame.root.total == 60 * MS


async def test_a_recording_shows_what_its_frames_hold() -> None:
    app = Host()
    app.replaying = True
    async with app.run_test(size=(80, 24)) as pilot:
        screen = FlameScreen(Scope(pid=3), [3], [])
        await app.push_screen(screen)
        give(screen, None)
        await pilot.pause()
        assert any("No stacks in this sample" in line for line in text_of(pilot))
        give(screen, recorded())
        await settled(pilot, screen)
        assert any("serve_request" in line for line in text_of(pilot))
        await pilot.press("s")
        assert app.asked == [] and any("nothing can be taken" in x for x in text_of(pilot))
        give(screen, None)  # another position
        await settled(pilot, screen)
        assert any("No stacks in this sample" in line for line in text_of(pilot))
        app.replaying, app.following = False, False
        give(screen, None)
        await pilot.pause()
        assert any("Space lets it go on" in line for line in text_of(pilot))


async def test_written_out_for_the_owner_only_and_over_nothing(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    app = Host()
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await show(app, recorded())
        await settled(pilot, screen)
        await pilot.press("w", "w", "o")
        await settled(pilot, screen)
        await pilot.press("w")
        assert any("stacks (microseconds) written to ktop-off-" in x for x in text_of(pilot))
        tmp_path.chmod(0o500)
        monkeypatch.setattr(os, "open", refuse)
        await pilot.press("w")
        monkeypatch.undo()
        assert any("not written: Permission denied" in x for x in text_of(pilot))
    tmp_path.chmod(0o700)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 3 and files[0].name.endswith("-2.folded")
    assert all(f.stat().st_mode & 0o777 == 0o600 for f in files)
    assert files[1].read_text() == folded(recorded(), "cpu") == files[0].read_text()
    (tmp_path / "x.folded").symlink_to(tmp_path / "elsewhere")
    assert write_new(tmp_path, "x", ".folded", "y").name == "x-2.folded"
    assert not (tmp_path / "elsewhere").exists()


def refuse(*args: object, **kwargs: object) -> int:
    raise PermissionError(13, "Permission denied")


async def test_nothing_to_write_is_said() -> None:
    app = Host()
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await show(app, Stacks("running", 1, kinds=["cpu", "off"]))
        await settled(pilot, screen)
        await pilot.press("w")
        assert any("no stacks to write" in line for line in text_of(pilot))
        assert any("No sample so far" in line for line in text_of(pilot))


async def test_an_unchanged_picture_is_not_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    app = Host()
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await show(app, recorded())
        await settled(pilot, screen)
        drawn: Counter[str] = Counter()
        for widget in screen.query("*"):
            def refresh(*args: Any, _name: str = type(widget).__name__, **kwargs: Any) -> Any:
                drawn[_name] += 1
            monkeypatch.setattr(widget, "refresh", refresh)
        for _ in range(3):
            give(screen, recorded())
            await settled(pilot, screen)
        assert drawn == {}
        await pilot.press("down")
        assert drawn["Icicle"] == 1


@pytest.mark.parametrize("ascii_only", [False, True])
@pytest.mark.parametrize("size", [(120, 40), (80, 24), (40, 10), (10, 3)])
async def test_every_size_and_glyphs(size: tuple[int, int], ascii_only: bool) -> None:
    theme.use_ascii(ascii_only)
    try:
        app = Host(ascii_only)
        async with app.run_test(size=size) as pilot:
            screen = await show(app, recorded())
            await settled(pilot, screen)
            await pilot.press("end", "enter", "o")
            await settled(pilot, screen)
            await pilot.press("end", "v", "down", "enter", "backspace", "home")
            await settled(pilot, screen)
            lines = text_of(pilot)
            assert all(len(line) <= size[0] for line in lines)
            if ascii_only:
                assert "\n".join(lines).isascii()
            if size[0] >= 80:
                assert "Esc Close" in lines[-1] and screen.query_one(Keys).hints
                kernel, user = (":", "|") if ascii_only else ("┊", "▏")
                text = "\n".join(lines)
                assert kernel + "vfs_read_[k]" in text and user + "take_job" in text
    finally:
        theme.use_ascii(False)


async def test_keys_are_not_kept_waiting_by_a_big_host() -> None:
    app = Host()
    stacks = many()
    async with app.run_test(size=(120, 40)) as pilot:
        screen = FlameScreen(HOST, [], [])
        await app.push_screen(screen)
        everything = sum(s.ns for s in stacks.stacks if s.kind == "cpu")
        give(screen, stacks)
        assert screen.flame.root.total < everything  # a slice, and the keys have their turn
        await settled(pilot, screen)
        assert screen.flame.root.total == everything
