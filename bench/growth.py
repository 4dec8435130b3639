"""How a sample's CPU time grows with tasks, TCP connections, control groups and network namespaces:
the collector's on this kernel (tick and encoding), the interface's over frames made up (unpacking,
diagnosis, memory, drawing at 120x40). A plot of each for the README."""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from bench.common import ROOT, Missing, Row, collector, require_root
from bench.drill import Played, connected
from bench.load import SPACE_SOCKETS, sleepers, spaces
from bench.plot import Plot
from bench.tcp import held
from bench.tick import tick_costs
from ktop.app import KtopApp
from ktop.collect.cgroups import find_hierarchy
from ktop.model import Frame
from ktop.wire import decode_body, encode_body
from tests.frames import make_frame

if TYPE_CHECKING:
    from ktop.collect.main import Collector

SIZES = {"tasks": (100, 1_000, 5_000, 10_000), "connections": (100, 1_000, 5_000, 9_000),
         "control groups": (100, 500, 2_000), "network namespaces": (1, 10, 50)}
PANES = {"tasks": "1", "connections": "3", "control groups": "1", "network namespaces": "3"}
UNIT = "ms CPU"


@contextlib.contextmanager
def groups(count: int) -> Iterator[None]:
    """So many control groups with a sleeping process in each."""
    hierarchy = find_hierarchy()
    if hierarchy is None:
        raise Missing("no cgroup hierarchy is mounted")
    top = Path(hierarchy.root, f"ktop-bench-{os.getpid()}")
    made: list[Path] = []
    try:
        with sleepers(count) as pids:
            top.mkdir()
            for pid in pids:
                made.append(top / str(pid))
                made[-1].mkdir()
                (made[-1] / "cgroup.procs").write_text(str(pid))
            yield
    except OSError as err:
        raise Missing(f"no control groups can be made: {err.strerror}") from None
    finally:
        for path in [*made, top]:
            for _ in range(500):  # until the kernel has taken its last process out of it
                try:
                    path.rmdir()
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.01)
                else:
                    break


def _ticks(one: Collector, what: str, count: int, ticks: int) -> list[float]:
    """The collector's part."""
    makers: dict[str, Callable[[int], AbstractContextManager[Any]]] = {
        "tasks": sleepers, "connections": held, "control groups": groups,
        "network namespaces": spaces}
    with makers[what](count):
        costs = tick_costs(one, ticks)
    one.tick()
    return costs


def _frame(what: str, count: int, seq: int) -> Frame:
    frame = make_frame(seq, processes=count if what == "tasks" else 100)
    if what == "connections":
        connected(frame, count)
    elif what == "control groups":
        frame.cgroups = [replace(frame.cgroups[i % len(frame.cgroups)], id=1_000 + i,
                                 path=f"/bench/{i}") for i in range(count)]
    elif what == "network namespaces":
        connected(frame, count * SPACE_SOCKETS)
        assert frame.tcp is not None
        frame.tcp.namespaces = [replace(frame.tcp.namespaces[0], id=1_000 + i)
                                for i in range(count)]
        for i, row in enumerate(frame.tcp.connections):
            row.netns = 1_000 + i % count
    return frame


async def _drawn(what: str, count: int, ticks: int) -> list[float]:
    """The interface's part, the pane of these rows in view."""
    source, costs = Played(), []
    app = KtopApp(lambda: source)
    bodies = [encode_body(_frame(what, count, seq)) for seq in range(1, ticks + 3)]
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press(PANES[what])
        for body in bodies:
            begun = time.process_time_ns()
            source.bodies = [body]
            source.play([decode_body(body)])
            await pilot.pause()
            costs.append((time.process_time_ns() - begun) / 1e6)
    return costs[2:]


def run(quick: bool) -> list[Row]:
    """A row of each part for each size."""
    require_root()
    rows, ticks = [], 2 if quick else 5
    for what, sizes in SIZES.items():
        with collector() as (one, _):  # a new one: the end of 10,000 tasks is a sample's work too
            for count in sizes[:1] if quick else sizes:
                try:
                    ours: list[float] | str = _ticks(one, what, count, ticks)
                except (Missing, RuntimeError) as err:
                    ours = str(err)
                rows.append(Row(f"collector, {count:,} {what}", UNIT, ours))
    for what, sizes in SIZES.items():
        for count in sizes[:1] if quick else sizes:
            rows.append(Row(f"interface, {count:,} {what}", UNIT,
                            asyncio.run(_drawn(what, count, ticks))))
    return rows


def plots(rows: list[Row], peers: list[Row]) -> list[Path]:
    """An SVG for each of SIZES. peers: rows of bench.tick, for what others take."""
    written = []
    for what in SIZES:
        plot = Plot(f"CPU time of one sample by {what}", what, "ms")
        for part in ("collector", "interface"):
            plot.add(f"ktop {part}", _points(rows, f"{part}, ", f" {what}"))
        for name in ("psutil", "htop", "btop") if what == "tasks" else ():
            theirs = [Row(row.what, row.unit, row.peers.get(name, "-")) for row in peers]
            plot.add(name, _points(theirs, "one refresh, ", " processes asleep"))
        if plot.lines:
            path = ROOT / "screenshots" / f"bench-{what.replace(' ', '-')}.svg"
            path.write_text(plot.svg(), encoding="utf-8")
            written.append(path)
    return written


def _points(rows: list[Row], before: str, after: str) -> list[tuple[float, float]]:
    return [(float(row.what[len(before):-len(after)].replace(",", "")), statistics.median(row.ktop))
            for row in rows if row.what.startswith(before) and row.what.endswith(after)
            and not isinstance(row.ktop, str)]
