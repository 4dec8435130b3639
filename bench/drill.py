"""What it takes until another scope, filter or fold is drawn: 5,000 processes, 10,000 connections
(a frame holds the busiest of them), 120x40, from the key to the picture handed to the driver, in
CPU time.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from msgspec.structs import replace

from bench.common import Row
from ktop.app import KtopApp
from ktop.model import Frame
from ktop.model_tcp import CONNECTIONS_PER_FRAME
from ktop.sources import Silence
from tests.frames import make_frame
from tests.session import frames as session_frames

PROCESSES, CONNECTIONS = 5_000, 10_000
WAYS = {"scope: into a control group": ("c", "backspace"),
        "scope: into a process": ("p", "backspace"),
        "filter, all processes searched": ("/", "c", "p", "u", "space", "greater_than_sign", "5"),
        "fold by control group": ("g", "g")}


class Played(Silence):
    """A source that the bench plays."""

    def start(self, frames: Any, changed: Any) -> None:
        self.play = frames


def connected(frame: Frame, count: int) -> None:
    """Gives it so many connections; a frame holds the busiest of them."""
    real = session_frames()[-1].tcp
    assert real is not None
    rows = frame.processes.rows
    frame.tcp = replace(real, connections_total=count, connections=[
        replace(real.connections[i % len(real.connections)], id=i, pid=rows[i % len(rows)].pid,
                cgroup=rows[i % len(rows)].cgroup)
        for i in range(min(count, CONNECTIONS_PER_FRAME))])


def big(seq: int) -> Frame:
    """A busy host."""
    frame = make_frame(seq, processes=PROCESSES)
    connected(frame, CONNECTIONS)
    return frame


async def _press(app: KtopApp, pilot: Any, key: str) -> float:
    """From a key to the first picture after it, in ms. What is worked out in slices comes later."""
    begun, drawn = time.process_time(), 0.0
    display = app._display

    def noted(*what: Any) -> None:
        nonlocal drawn
        display(*what)
        drawn = drawn or time.process_time()

    app._display = noted  # type: ignore[assignment,method-assign]
    try:
        await pilot.press(key)
        await pilot.pause()
    finally:
        app._display = display  # type: ignore[method-assign]
    return (drawn - begun) * 1e3 if drawn else 0.0


async def _measure(rounds: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in WAYS}
    source = Played()
    app = KtopApp(lambda: source)
    async with app.run_test(size=(120, 40)) as pilot:
        for seq in range(1, 5):
            source.play([big(seq)])
            await pilot.pause()
        await pilot.press("down", "down")
        for _ in range(rounds):
            for name, keys in WAYS.items():
                took = [await _press(app, pilot, key) for key in keys]
                found[name].append(max(took))
                await pilot.press("escape")
                await pilot.press("escape")
                await pilot.press("down")
    return found


def run(quick: bool) -> list[Row]:
    """Milliseconds, the slowest key of each way."""
    return [Row(f"{name} ({PROCESSES:,} processes, {CONNECTIONS:,} connections)", "ms CPU", took)
            for name, took in asyncio.run(_measure(2 if quick else 9)).items()]
