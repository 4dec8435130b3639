"""Tables folded by control group, in every pane and view, under every key of a table."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ktop.app import KtopApp
from ktop.panes.groups import GroupTree
from ktop.widgets.table import VirtualTable
from tests import session
from tests.fuzz import TIMES
from tests.fuzz.keyboard import picture, send

KEYS = ["home", "up", "pagedown", "end", "down", "pageup", "enter", "down", "p", "backspace", "c",
        "T", "t", "backspace", "left_square_bracket", "end", "right_square_bracket", "0", "n", "N",
        ">", "I", "S", "C", "m", "D", "slash", "x", "enter", "n", "N", "escape", "right", "left"]
VIEWS = 3 if TIMES else 1


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    with monkeypatch.context() as m:
        m.setenv("HOME", str(tmp_path))
        m.chdir(tmp_path)
        yield


async def crawl(make: Callable[[], KtopApp], panes: str, views: int) -> int:
    """Every key in every view of the panes; on how many lines of groups the cursor has been."""
    app = make()
    on_groups = 0
    way: list[str] = []

    async with app.run_test(size=(110, 32)) as pilot:
        async def press(key: str) -> None:
            way.append(key)
            await send(pilot, key)
            if app._exception is not None:
                app._exception.add_note(f"after {way[-12:]}")
                raise app._exception

        await pilot.pause()
        await press("g")
        for pane in panes:
            await press(pane)
            for _ in range(views):
                for key in KEYS:
                    await press(key)
                    while len(app.screen_stack) > 1 and way[-1] != "slash":
                        await press("escape")
                    table = app.focused
                    on_groups += (isinstance(table, VirtualTable)
                                  and isinstance(table.folding, GroupTree)
                                  and table.selected_row is not None
                                  and table.folding.key(table.selected_row) is not None)
                await pilot.pause()
                picture(app)
                for key in ("backspace", "backspace", "v"):  # whatever the keys have narrowed
                    await press(key)
    return on_groups


@pytest.mark.parametrize(("source", "panes"), [
    ("session", "123456"), ("disk", "14")])
def test_every_key_on_folded_tables(source: str, panes: str) -> None:
    make = session.play if source == "session" else lambda: session.incident(
        source, 85)
    assert asyncio.run(crawl(make, panes, VIEWS)) > 5
