"""Insults to the screen: it is opened and closed for days, and of a host ten times too large."""

from __future__ import annotations

import gc
from collections import Counter

from textual._styles_cache import StylesCache
from textual.widget import Widget

from ktop.app import KtopApp
from ktop.model import Cgroup, Frame
from ktop.model_tcp import CONNECTIONS_PER_FRAME, Connection, Tcp
from ktop.wire import decode_body, encode_body
from tests import session
from tests.frames import make_frame
from tests.test_app import FakeSource, Stage
from tests.work import counted


def held() -> Counter[str]:
    """Widgets, and what they keep of their pictures."""
    gc.collect()
    return Counter(type(o).__name__ for o in gc.get_objects()
                   if isinstance(o, Widget | StylesCache))


async def test_a_screen_that_is_closed_leaves_nothing_in_memory() -> None:
    source = FakeSource()
    app = KtopApp(lambda: source)
    async with app.run_test(size=(120, 40)) as pilot:
        stage = Stage(app, source, pilot)
        await stage.play(*session.frames()[:3])
        steps = (("question_mark", "escape"), ("C", "escape"), ("enter", "escape"),
                 ("colon", "escape"), ("S", "escape"))
        for keys in steps:
            await stage.press(*keys)
        before = held()
        for keys in steps:
            await stage.press(*keys)
        assert held() == before


def crowd(seq: int) -> Frame:
    """10,000 processes in 5,000 control groups, with as many connections as a frame may hold."""
    frame = make_frame(seq, 10_000)
    frame.cgroups = [Cgroup(number, f"/pods/pod{number // 10}/c{number}", f"c{number}")
                     for number in range(1, 5_001)]
    for i, process in enumerate(frame.processes.rows):
        process.cgroup = i % 5_000 + 1
    frame.tcp = Tcp(connections=[
        Connection(n, 1, "10.0.0.1", 443, f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}",
                   1024 + n % 60_000, "ESTAB", pid=103 + n % 10_000 * 3, comm="nginx",
                   tx_bytes_per_s=float(n % 977), srtt_ns=n * 1_000)
        for n in range(CONNECTIONS_PER_FRAME)])
    return frame


async def test_a_crowded_host_answers_every_key() -> None:
    """No key does much for each of many rows. (In milliseconds: bench/drill.py.)"""
    source = FakeSource()
    app = KtopApp(lambda: source)
    async with app.run_test(size=(120, 40)) as pilot:
        stage = Stage(app, source, pilot)
        first = crowd(1)
        later = decode_body(encode_body(first))
        later.seq, later.clock.interval_ns = 2, 1_000_000_000
        later.clock.monotonic_ns += 1_000_000_000
        later.clock.wall_ns += 1_000_000_000
        await stage.play(first)
        with counted() as work:
            await stage.play(later)
        taken = {"a sample": work.lines}
        for key in ("down", "pagedown", "end", "greater_than_sign", "I", "3", "end", "5", "6", "1",
                    "g", "down", "g", "p", "backspace", "c", "backspace"):
            with counted() as work:
                await stage.press(key)
            taken[key] = max(taken.get(key, 0), work.lines)
        assert app.newest is not None and len(app.newest.processes.rows) == 10_000
    assert taken.pop("g") < 6_000_000  # 5,000 groups are summed up
    assert max(taken.values()) < 2_000_000, taken
