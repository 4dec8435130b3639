"""Whatever ktop showed it can show again: each state of each pane, live and replayed, is the same.

The frames come in as from a collector, are recorded by the same Writer meanwhile, and are then
replayed from the file. What is compared is the text and the styles of every line of the pane, of
all views. What belongs to whoever looks, and not to what is looked at, is left out by name: OURS.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from textual.geometry import Region
from textual.pilot import Pilot

from ktop.app import KtopApp
from ktop.model import Frame
from ktop.panes.base import Pane
from ktop.panes.views import ViewPane
from ktop.recording import Recording, Writer
from ktop.scope import HOST, Scope
from ktop.sources_replay import ReplaySource
from ktop.widgets.histogram import Histogram
from tests import session
from tests.test_app import FakeSource

# Widgets around the pane that tell of the looking: header (own cost, LIVE or REPLAY), timeline
# (shown in a replay only), status line (messages, own cost), footer (keys of the moment).
OURS = ("header", "timeline", "status", "keys")
SIZE = (120, 40)
# In a replay the timeline takes two lines: the same room for the pane in both.
TALLER = (SIZE[0], SIZE[1] + 2)
KEYS = {1: ("", "e", "e", "e H", "H"), 2: None, 3: None, 4: None, 5: None, 6: ("",)}
Picture = list[str]


def pane_picture(app: KtopApp) -> Picture:
    """Text and styles of the lines that the pane and the lines about the scope take."""
    region: Region = app.pane.region
    assert not app.query("#banner").first().display
    rendered = app.screen._compositor.render_strips(app.screen.size)
    return [repr([(segment.text, str(segment.style)) for segment in
                  strip.crop(region.x, region.right)])
            for strip in rendered[region.y:region.bottom]]


async def quiet(app: KtopApp, pilot: Pilot[None]) -> None:
    """Whatever is to be made up for is made up for, laid out and drawn."""
    before, same = "", 0
    for _ in range(500):
        await pilot.pause(0.03)
        now = app.screen._compositor.render_strips(app.screen.size)
        text = "\n".join(strip.text for strip in now)
        still = text == before and app._work_timer is None and not any(
            lens.behind for lens in app.lenses())
        before, same = text, same + 1 if still else 0
        if same == 3:
            return
    raise TimeoutError("the picture does not stand still")


def views_of(pane: Pane) -> list[str]:
    """Keys that lead through all views of a pane, and back to the first."""
    told = KEYS[int(pane.key)]
    if told is not None:
        return list(told)
    assert isinstance(pane, ViewPane)
    return ["", *["v"] * len(pane.views)]


async def all_views(app: KtopApp, pilot: Pilot[None]) -> dict[str, Picture]:
    """Every view of every pane as it is now; the same keys bring each pane back to its first."""
    found: dict[str, Picture] = {}
    for number in range(1, len(app.panes) + 1):
        await pilot.press(str(number))
        for step, keys in enumerate(views_of(app.pane)):
            if keys:
                await pilot.press(*keys.split())
            await quiet(app, pilot)
            forget_reach(app)
            await pilot.pause()
            found[f"{app.pane.title} {step}"] = pane_picture(app)
    return found


def forget_reach(app: KtopApp) -> None:
    """Histograms keep lines for what they showed before, so that the picture does not jump: that
    too is of the looking."""
    for histogram in app.query(Histogram):
        histogram._reaches.clear()
        histogram.show(histogram._hist, histogram._empty, histogram._of)


@contextlib.asynccontextmanager
async def running(source: Any, size: tuple[int, int], scope: Scope) -> AsyncIterator[
        tuple[KtopApp, Pilot[None]]]:
    app = KtopApp(lambda: source, scope=scope)
    async with app.run_test(size=size) as pilot:
        yield app, pilot


def own_pid(command: str) -> int:
    return next(p.pid for p in session.frames()[-1].processes.rows if command in (p.args or ""))


async def live_pictures(frames: list[Frame], path: Path, scope: Scope,
                        looked_at: set[int]) -> list[dict[str, Picture]]:
    """What a live session showed, at the samples that are looked at; recorded as it goes."""
    source, shown = FakeSource(), []
    async with running(source, SIZE, scope) as (app, pilot):
        with Writer(path) as writer:
            for number, frame in enumerate(frames):
                writer.add(frame)
                source.play(frame)
                await pilot.pause()
                if number in looked_at:
                    await quiet(app, pilot)
                    shown.append(await all_views(app, pilot))
    return shown


@pytest.mark.parametrize("scope", [HOST, Scope(pid=own_pid("api.py"), name="api.py")],
                         ids=["host", "process"])
async def test_replay_equals_live(tmp_path: Path, scope: Scope) -> None:
    frames = session.frames()
    looked_at = {0, len(frames) - 1} if not scope else {len(frames) - 1}
    live = await live_pictures(frames, tmp_path / "s.ktop", scope, looked_at)
    recording = Recording(tmp_path / "s.ktop")
    source = ReplaySource(recording, recording.moment(0).wall_ns)
    replayed = []
    async with running(source, TALLER, scope) as (app, pilot):
        for number in range(len(frames)):
            assert app.player.at == number
            if number in looked_at:
                await quiet(app, pilot)
                replayed.append(await all_views(app, pilot))
            await pilot.press("t")
    compare(live, replayed)


async def test_seeking_shows_what_was_shown_live(tmp_path: Path) -> None:
    """Not only played through: jumped to, and come back to from the end."""
    frames = session.frames()
    looked_at = {5, 30}
    live = await live_pictures(frames, tmp_path / "s.ktop", HOST, looked_at)
    recording = Recording(tmp_path / "s.ktop")
    source = ReplaySource(recording, recording.moment(30).wall_ns)
    async with running(source, TALLER, HOST) as (app, pilot):
        await quiet(app, pilot)
        late = await all_views(app, pilot)
        await pilot.press("0")
        await quiet(app, pilot)
        app.player.seek(5)
        app._arrive(-1, "")
        await quiet(app, pilot)
        compare(live, [await all_views(app, pilot), late])


async def test_rewinding_shows_what_was_shown(tmp_path: Path) -> None:
    """The same for the memory of a live session, without a file."""
    frames = session.frames()
    live = await live_pictures(frames, tmp_path / "s.ktop", HOST, {20})
    source = FakeSource()
    async with running(source, TALLER, HOST) as (app, pilot):
        source.play(*frames)
        await quiet(app, pilot)
        app.player.seek(20)
        app._arrive(-1, "")
        await quiet(app, pilot)
        compare(live, [await all_views(app, pilot)])


def compare(live: list[dict[str, Picture]], replayed: list[dict[str, Picture]]) -> None:
    assert len(live) == len(replayed)
    for then, now in zip(live, replayed, strict=True):
        assert then.keys() == now.keys()
        for view, picture in then.items():
            for line, (was, is_) in enumerate(zip(picture, now[view], strict=True)):
                assert was == is_, f"{view}, line {line}"
