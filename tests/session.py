"""The recorded session: a real minute of a busy host, filtered to our own workload.

tests/make_session.py made it. `play()` is an app that shows it, `still()` makes it stand still at
the last frame with a pane in view.
"""

from __future__ import annotations

import functools
import gzip
import shutil
import tempfile
from pathlib import Path
from typing import Any, ClassVar

from textual.pilot import Pilot

from ktop.app import KtopApp
from ktop.model import Frame
from ktop.recording import Recording
from ktop.sources import LIVE, STARTING, Changed, Frames
from ktop.sources_replay import ReplaySource
from ktop.wire import Control, Reader

# Pictures of the recorded incidents: which, at what second of it, and the keys.
INCIDENTS: dict[str, tuple[str, int, list[str]]] = {
    "diagnosis": ("disk", 85, ["6"]),
    "pipes": ("upstream", 45, ["6", "v", "v"]),
    "verdict": ("quota", 35, ["6"]),
    "detail": ("disk", 85, ["slash", *"orders", "enter", "down", "enter"]),
    "flame": ("disk", 95, ["slash", *"orders", "enter", "down", "S"]),
    "cgroups": ("disk", 85, ["4", "g"]),
    "past": ("network", 100, ["3"]),
    "scoped": ("network", 100, ["slash", *"gateway", "enter", "down", "p", "3"])}
FILE = Path(__file__).parent / "data" / "session.wire.gz"


@functools.cache
def _bytes() -> bytes:
    return gzip.decompress(FILE.read_bytes())


def frames() -> list[Frame]:
    """All of it, oldest first; new objects each time."""
    return [message for message in Reader().feed(_bytes()) if isinstance(message, Frame)]


class Played:
    """A source that says all it has at once."""

    state = STARTING
    reason = ""
    bodies: ClassVar[list[bytes]] = []

    def start(self, frames_: Frames, changed: Changed) -> None:
        """As LiveSource does when it was not asked for a while."""
        frames_(frames())
        self.state = LIVE
        changed()

    def ask(self, control: Control) -> None:
        """It was recorded with everything watched."""

    def restart(self) -> bool:
        """It is over."""
        return False

    def close(self) -> None:
        """Nothing is held."""


class SessionApp(KtopApp):
    """The app on the session. What depends on the machine that shows it is left out."""

    def _measure(self) -> None:
        """Our own share of a CPU is not the session's."""


def play(ascii_only: bool = False) -> SessionApp:
    """An app that will show the session."""
    return SessionApp(Played, ascii_only=ascii_only)


@functools.cache
def _copies() -> tempfile.TemporaryDirectory[str]:
    """Where they are, until the process ends."""
    return tempfile.TemporaryDirectory(prefix="ktop-test-")


def recorded(name: str) -> Recording:
    """A recorded incident (tests/make_incidents.py): a copy, for keys write marks into it."""
    place = tempfile.mkdtemp(dir=_copies().name)
    return Recording(shutil.copy(FILE.parent / f"{name}.ktop", place))


def incident(name: str, second: int) -> SessionApp:
    """An app that shows it at that second."""
    recording = recorded(name)
    start_ns = recording.moment(recording.first + second).wall_ns
    return SessionApp(lambda: ReplaySource(recording, start_ns))


async def still(pilot: Pilot[Any], *keys: str) -> None:
    """Pause at the last frame, press keys, wait until the picture changes no more."""
    await pilot.pause()
    app = pilot.app
    assert isinstance(app, KtopApp)

    async def made_up() -> None:
        """The past is there, of screens above the panes too, however busy the machine is."""
        while any(lens.behind for lens in app.lenses()):
            await pilot.pause(0.05)

    await made_up()
    if app.following:
        await pilot.press("space")
    for key in keys:
        await pilot.press(key)
        await pilot.pause()
        await made_up()
    before, same = "", 0
    for _ in range(100):
        await pilot.pause(0.05)
        screen = pilot.app.screen
        now = "\n".join(strip.text for strip in screen._compositor.render_strips(screen.size))
        before, same = now, same + 1 if now == before else 0
        if same == 4:
            return
    raise TimeoutError("the picture does not stand still")
