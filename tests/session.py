"""The recorded session: a real minute of a busy host, filtered to our own workload.

tests/make_session.py made it. `play()` is an app that shows it, `still()` makes it stand still at
the last frame with a pane in view.
"""

from __future__ import annotations

import functools
import gzip
from pathlib import Path
from typing import Any, ClassVar

from textual.pilot import Pilot

from ktop.app import KtopApp
from ktop.model import Frame
from ktop.sources import LIVE, STARTING, Changed, Frames
from ktop.wire import Control, Reader

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


async def still(pilot: Pilot[Any], *keys: str) -> None:
    """Pause at the last frame, press keys, wait until the picture changes no more."""
    await pilot.pause()
    await pilot.press("space", *keys)
    before, same = "", 0
    for _ in range(100):
        await pilot.pause(0.05)
        screen = pilot.app.screen
        now = "\n".join(strip.text for strip in screen._compositor.render_strips(screen.size))
        before, same = now, same + 1 if now == before else 0
        if same == 4:
            return
    raise TimeoutError("the picture does not stand still")
