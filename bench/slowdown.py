"""How much a scheduler ping-pong slows down while ktop runs (whole, in a pty) and while the
libbpf-tools that show the same do. The load is C (two `cat`); off and on take turns. On two CPUs
the time to wake an idle CPU hides most of it: the spread says so.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

from bench.common import Missing, Row, require_root
from bench.hooks import STACKS, peer
from bench.load import pingpong
from bench.terminal import Terminal, command, home

OBSERVERS = {"ktop": [], "runqlat + cpudist -O": ["runqlat", "cpudist -O"],
             "runqlat + offcputime (walks stacks too)": ["runqlat", STACKS]}


@contextlib.contextmanager
def _observer(name: str, where: str) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        if name == "ktop":
            terminal = stack.enter_context(Terminal(command("ktop"), where))
            if not terminal.run(1.8):
                raise Missing("ktop ended by itself")
        for one in OBSERVERS[name]:
            stack.enter_context(peer(one))
        yield


def _rate(cpus: list[int], seconds: float) -> float:
    with pingpong(cpus) as load:
        time.sleep(0.2)
        before, begun = load.switches(), time.perf_counter()
        time.sleep(seconds)
        return (load.switches() - before) / (time.perf_counter() - begun)


def _round(name: str, where: str, seconds: float,
           slower: dict[str, dict[str, list[float] | str]]) -> None:
    """Off, then on: how much slower, in each place."""
    off = {place: _rate(cpus, seconds) for place, cpus in _places().items()}
    with _observer(name, where):
        for place, cpus in _places().items():
            values = slower[place].setdefault(name, [])
            assert isinstance(values, list)
            values.append((1 - _rate(cpus, seconds) / off[place]) * 100)


def _places() -> dict[str, list[int]]:
    cpus = sorted(os.sched_getaffinity(0))
    return {"one CPU": cpus[:1], "two CPUs": cpus[:2]}


def run(quick: bool) -> list[Row]:
    require_root()
    seconds, rounds = (0.4, 2) if quick else (0.8, 5)
    slower: dict[str, dict[str, list[float] | str]] = {place: {} for place in _places()}
    absent: dict[str, str] = {}
    with home() as where:
        for i in range(rounds):
            for name in [*OBSERVERS][i % 3:] + [*OBSERVERS][:i % 3]:
                if name not in absent:
                    try:
                        _round(name, where, seconds, slower)
                    except (Missing, OSError) as err:
                        absent[name] = str(err)
    rows = []
    for place, found in slower.items():
        values = found | absent
        rows.append(Row(f"ping-pong on {place} slowed by", "%", values.pop("ktop", "-"), values))
    return rows
