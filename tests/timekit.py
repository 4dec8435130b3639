"""What the tests of rewind and replay share: the recorded session live, and as a file."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from ktop import when
from ktop.app import KtopApp
from ktop.model import Frame
from ktop.recording import Recording, Writer
from ktop.scope import Scope
from ktop.sources_replay import ReplaySource
from tests import session
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


def make_later(frame: Frame, seconds: int = 1) -> Frame:
    later = session.frames()[-1]
    later.seq = frame.seq + seconds
    later.clock.wall_ns = frame.clock.wall_ns + seconds * SECOND
    later.clock.monotonic_ns = frame.clock.monotonic_ns + seconds * SECOND
    return later
