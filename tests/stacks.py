"""Stacks for tests and pictures: real ones of our own workload, and small ones made by hand.

tests/make_stacks.py took the real ones. `show(app, stacks)` puts them on a FlameScreen.
"""

from __future__ import annotations

import functools
import gzip
import random
from pathlib import Path

import msgspec

from ktop.driver import TerminalApp
from ktop.history import History
from ktop.model import Frame, Stacks
from ktop.model_stacks import Stack
from ktop.scope import HOST, Scope
from ktop.screens.flame import FlameScreen
from tests.frames import make_frame

FILE = Path(__file__).parent / "data" / "stacks.msgpack.gz"
MS = 1_000_000


@functools.cache
def _bytes() -> bytes:
    return gzip.decompress(FILE.read_bytes())


def recorded() -> Stacks:
    """20 s of a little shop: one server thread and a mailer; new objects each time."""
    return msgspec.msgpack.decode(_bytes(), type=Stacks)


def made(seq: int = 1, state: str = "running") -> Stacks:
    """By hand: 60 ms * seq on CPU in two commands, 200 ms * seq blocked."""
    names = ["main", "serve", "parse", "render", "do_syscall_64_[k]", "vfs_read_[k]", "[libc.so.6]",
             "[unknown]"]
    rows = [("cpu", "web", [0, 1, 2], 30, ""), ("cpu", "web", [0, 1, 3], 10, ""),
            ("cpu", "web", [0, 1], 5, ""), ("cpu", "cron", [0, 4, 5], 15, ""),
            ("off", "web", [0, 1, 4, 5], 150, "D"), ("off", "cron", [0, 6], 50, "S")]
    return Stacks(
        state, 1_770_000_000_000_000_000, seq * 1000 * MS, 30_000 * MS, names=names,
        stacks=[Stack(kind, 7 if comm == "web" else 8, comm, at, seq * 3, seq * ms * MS, letter)
                for kind, comm, at, ms, letter in rows],
        kinds=["cpu", "off"], cpu_pct=0.12, event_ns={"cpu": 2100.0, "off": 1500.0},
        map_bytes=15_000_000)


def frame_with(stacks: Stacks | None, seq: int = 5) -> Frame:
    """A synthetic frame that carries them."""
    frame = make_frame(seq)
    frame.stacks = stacks
    return frame


async def show(app: TerminalApp, stacks: Stacks, scope: Scope = HOST) -> FlameScreen:
    """A FlameScreen of their target on top of an app, that shows them."""
    screen = FlameScreen(scope, stacks.pids, stacks.cgroups)
    await app.push_screen(screen)
    frame = frame_with(stacks)
    screen.show(frame, History(), frame)
    return screen


def many(n: int = 8_000) -> Stacks:
    rng = random.Random(7)
    names = [f"function_{i}" for i in range(3_000)]
    return Stacks("running", 1, names=names, kinds=["cpu", "off"], stacks=[
        Stack(rng.choice(["cpu", "off"]), i % 500, f"comm{i % 40}",
              [i % 40, *(rng.randrange(3_000) for _ in range(rng.randrange(5, 40)))], 1 + i % 9,
              rng.randrange(1, 10 ** 8)) for i in range(n)])
