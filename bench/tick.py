"""CPU time of one refresh with so many more sleeping tasks: ktop's collector (tick and encoding for
the wire), psutil asked for the same columns, htop and btop whole.

In its first samples the collector looks at each process for what it later looks at in turns (a row
of its own, FIRST of them); psutil makes its objects in the first pass, which does not count either.
"""

from __future__ import annotations

import contextlib
import time

import psutil

from bench.common import Missing, Row, collector, cpu_ns
from bench.load import sleepers
from bench.screen import watch
from bench.terminal import Terminal, command, home
from ktop.collect.main import Collector
from ktop.wire import encode_frame

COLUMNS = ["pid", "ppid", "uids", "name", "cmdline", "status", "num_threads", "create_time",
           "cpu_times", "memory_info", "io_counters", "num_ctx_switches"]


FIRST = 10


def tick_costs(one: Collector, ticks: int) -> list[float]:
    """CPU milliseconds of so many ticks, encoding included."""
    one.tick()
    costs = []
    for _ in range(ticks):
        time.sleep(0.2)
        begun = time.process_time_ns()
        encode_frame(one.tick())
        costs.append((time.process_time_ns() - begun) / 1e6)
    return costs


def _ktop(ticks: int) -> tuple[list[float], list[float]]:
    """Of the first samples, of those after them."""
    with collector(("processes",)) as (one, _):
        costs = tick_costs(one, FIRST + ticks)
        return costs[:FIRST], costs[FIRST:]


def _psutil(ticks: int) -> list[float]:
    costs = []
    for i in range(ticks + 1):
        begun = time.process_time_ns()
        for process in psutil.process_iter(COLUMNS):
            _ = process.info
        if i:  # the first makes the objects
            costs.append((time.process_time_ns() - begun) / 1e6)
    return costs


def _terminals(ticks: int, where: str) -> dict[str, list[float] | str]:
    """CPU per refresh of htop and btop, each refreshing once a second."""
    found: dict[str, list[float] | str] = {}
    with contextlib.ExitStack() as stack:
        running = {}
        for name in ("htop", "btop"):
            try:
                running[name] = stack.enter_context(Terminal(command(name), where))
                found[name] = []
            except (Missing, OSError) as err:
                found[name] = str(err)
        watch(running, 2.5)
        # One refresh at a time would see none or two of them: windows of two seconds.
        for _ in range(max(ticks // 2, 1)):
            before = {name: cpu_ns(terminal.pids()) for name, terminal in running.items()}
            watch(running, 2.0)
            for name, terminal in running.items():
                values = found[name]
                assert isinstance(values, list)
                values.append((cpu_ns(terminal.pids()) - before[name]) / 2e6)
    return found


def run(quick: bool) -> list[Row]:
    rows = []
    cases = [(100, 0), (1000, 0), (5000, 0), (10_000, 0), (0, 5000)]
    for processes, threads in cases[1:2] if quick else cases:
        label = f"{threads:,} threads" if threads else f"{processes:,} processes"
        with home() as where, sleepers(processes, threads):
            time.sleep(0.3)
            first: list[float] | str
            ours: list[float] | str
            try:
                first, ours = _ktop(4 if quick else 16)
            except (Missing, OSError) as err:
                first = ours = str(err)
            peers: dict[str, list[float] | str] = {"psutil": _psutil(2 if quick else 4)}
            peers |= _terminals(2 if quick else 4, where)
        if threads:  # these two have no rows for threads
            peers = {name + ("" if name == "htop" else " (processes only)"): values
                     for name, values in peers.items()}
        rows.append(Row(f"one refresh, {label} asleep", "ms CPU", ours, peers))
        rows.append(Row(f"each of the first {FIRST}, {label} asleep", "ms CPU", first))
    return rows
