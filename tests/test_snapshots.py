"""How each pane looks on the recorded session, and what else there is on recorded incidents.

`--snapshot-update` takes a new look as right.

What would differ between machines is fixed: time zone, colours, glyphs, our own CPU time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from textual.pilot import Pilot

from ktop import theme
from tests.session import INCIDENTS, incident, play, still

PANES = {"1": "processes", "2": "files", "3": "tcp", "4": "block", "5": "scheduler"}


@pytest.fixture(autouse=True)
def one_place(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """UTC, colours on, Unicode."""
    before = theme.color_on()
    with monkeypatch.context() as m:
        m.setenv("TZ", "UTC")
        for name in ("NO_COLOR", "FORCE_COLOR", "TEXTUAL_COLOR_SYSTEM", "COLUMNS", "LINES"):
            m.delenv(name, raising=False)
        time.tzset()
        theme.use_color(True)
        yield
    time.tzset()
    theme.use_color(before)
    theme.use_ascii(False)


def drawn(pilot: Pilot[Any]) -> None:
    """An app that fails is a blank picture, which must never be taken as right."""
    screen = pilot.app.screen
    lines = [strip.text for strip in screen._compositor.render_strips(screen.size)]
    assert sum(bool(line.strip()) for line in lines) > len(lines) // 2


@pytest.mark.parametrize("size", [(120, 40), (80, 24)], ids=["120x40", "80x24"])
@pytest.mark.parametrize("key", PANES, ids=PANES.values())
def test_pane(snap_compare: Callable[..., bool], key: str, size: tuple[int, int]) -> None:
    async def look(pilot: Pilot[Any]) -> None:
        await still(pilot, key)
        drawn(pilot)

    assert snap_compare(play(), terminal_size=size, run_before=look)


@pytest.mark.parametrize("size", [(120, 40), (80, 24)], ids=["120x40", "80x24"])
@pytest.mark.parametrize("name", INCIDENTS)
def test_incident(snap_compare: Callable[..., bool], name: str, size: tuple[int, int]) -> None:
    which, second, keys = INCIDENTS[name]

    async def look(pilot: Pilot[Any]) -> None:
        await still(pilot, *keys)
        drawn(pilot)

    assert snap_compare(incident(which, second), terminal_size=size, run_before=look)
