"""How much a scheduler ping-pong slows down while ktop runs (whole, in a pty) and while the
libbpf-tools that show the same do. The load is C (two `cat`); off and on take turns.
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

OBSERVERS = {"off": [], "ktop": [], "runqlat + cpudist -O": ["runqlat", "cpudist -O"],
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


def run(quick: bool) -> list[Row]:
    require_root()
    cpus = sorted(os.sched_getaffinity(0))
    places = {"one CPU": cpus[:1], "two CPUs": cpus[:2]}
    seconds, rounds = (0.4, 2) if quick else (1.0, 5)
    absent: dict[str, str] = {}
    rates: dict[tuple[str, str], list[float]] = {}
    with home() as where:
        for i in range(rounds):
            order = [*OBSERVERS][i % 4:] + [*OBSERVERS][:i % 4]
            for name in order:
                if name in absent:
                    continue
                try:
                    with _observer(name, where):
                        for place, there in places.items():
                            rates.setdefault((name, place), []).append(_rate(there, seconds))
                except (Missing, OSError) as err:
                    absent[name] = str(err)
    rows = []
    for place in places:
        off = rates["off", place]
        slower: dict[str, list[float] | str] = {}
        for name in [*OBSERVERS][1:]:
            on = rates.get((name, place), [])
            slower[name] = absent.get(name) or [
                (1 - b / a) * 100 for a, b in zip(off, on, strict=True)]
        rows.append(Row(f"ping-pong on {place} slowed by", "%", slower.pop("ktop"), slower))
    return rows
