"""Bytes written to a terminal of 120x40 per second, all refreshing once a second side by side."""

from __future__ import annotations

import contextlib
import time

from bench.common import Missing, Row, cpu_ns
from bench.load import mild
from bench.terminal import Terminal, command, home

NAMES = ("ktop", "htop", "btop")
SETTLE_S, LOADING_S = 5, 60


def open_all(stack: contextlib.ExitStack, where: str) -> tuple[dict[str, Terminal], dict[str, str]]:
    """Those that run, and why the others do not."""
    running, absent = {}, {}
    for name in NAMES:
        try:
            running[name] = stack.enter_context(Terminal(command(name), where))
        except (Missing, OSError) as err:
            absent[name] = str(err)
    return running, absent


def watch(running: dict[str, Terminal], seconds: float) -> set[str]:
    """Read them all for so long; the names of those that ended."""
    ended: set[str] = set()
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        for name, terminal in running.items():
            if name not in ended and not terminal.read(0.005):
                ended.add(name)
    return ended


def settle(running: dict[str, Terminal]) -> set[str]:
    """Read until ktop has loaded its later probes (a child each compiles them), and a little more;
    the names of those that ended."""
    ended = watch(running, SETTLE_S)
    until, quiet = time.perf_counter() + LOADING_S, 0
    while "ktop" in running and quiet < 3 and time.perf_counter() < until:
        ended |= watch(running, 1.0)
        quiet = quiet + 1 if len(running["ktop"].pids()) <= 3 else 0
    return ended


def used(terminal: Terminal) -> dict[int, int]:
    """CPU time of each of its processes so far, ns."""
    return {pid: cpu_ns([pid]) for pid in terminal.pids()}


def _measure(quick: bool, load: contextlib.AbstractContextManager[None]) -> dict[
        str, dict[str, list[float] | str]]:
    """bytes/s and CPU % of each, in windows."""
    windows, seconds = (2, 2.0) if quick else (4, 5.0)
    found: dict[str, dict[str, list[float] | str]] = {"bytes": {}, "cpu": {}}
    with home() as where, load, contextlib.ExitStack() as stack:
        running, absent = open_all(stack, where)
        ended = settle(running)
        for name in absent | dict.fromkeys(ended, "it ended by itself"):
            found["bytes"][name] = found["cpu"][name] = absent.get(name, "it ended by itself")
            running.pop(name, None)
        for _ in range(windows):
            before = {n: (t.written, used(t)) for n, t in running.items()}
            begun = time.perf_counter()
            watch(running, seconds)
            lasted = time.perf_counter() - begun
            for name, terminal in running.items():
                written, cpu = before[name]
                _add(found["bytes"], name, (terminal.written - written) / lasted)
                # of those that lasted: a child that comes or goes brings its whole past
                spent = sum(ns - cpu[pid] for pid, ns in used(terminal).items() if pid in cpu)
                _add(found["cpu"], name, spent / lasted / 1e7)
    return found


def _add(values: dict[str, list[float] | str], name: str, value: float) -> None:
    known = values.setdefault(name, [])
    if isinstance(known, list):
        known.append(value)


def run(quick: bool) -> list[Row]:
    rows = []
    for label, load in (("idle host", contextlib.nullcontext()), ("mild load", mild()))[
            :1 if quick else 2]:
        found = _measure(quick, load)
        for what, unit in (("bytes", "B/s"), ("cpu", "% CPU")):
            values = found[what]
            name = "written to the terminal" if what == "bytes" else "CPU of all its processes"
            ktop = values.pop("ktop", "not measured")
            rows.append(Row(f"{name}, {label}", unit, ktop, values))
    return rows
