"""Resident and proportional memory of every process of ktop, htop and btop, after some seconds."""

from __future__ import annotations

import contextlib

from bench.common import Row, memory_bytes, programs_of
from bench.screen import SETTLE_S, open_all, watch
from bench.terminal import home

MB = 1e6


def _role(pid: int, top: int) -> str:
    """What a process of ktop is: the first one supervises, the collector has the programs."""
    if pid == top:
        return "supervisor"
    return "collector" if programs_of([pid]) else "ui"


def _sample(pids: list[int]) -> dict[int, tuple[str, dict[str, int]]]:
    found = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            found[pid] = (_role(pid, pids[0]), memory_bytes(pid))
    return found


def run(quick: bool) -> list[Row]:
    samples = 2 if quick else 4
    rss: dict[str, list[float]] = {}
    pss: dict[str, list[float]] = {}
    roles: dict[tuple[int, str], list[float]] = {}
    with home() as where, contextlib.ExitStack() as stack:
        running, absent = open_all(stack, where)
        watch(running, SETTLE_S)
        for _ in range(samples):
            watch(running, 1.5)
            for name, terminal in running.items():
                parts = _sample(terminal.pids())
                if not parts:
                    absent[name] = "it ended by itself"
                    continue
                for (values, kind) in ((rss, "Rss"), (pss, "Pss")):
                    total = sum(sizes[kind] for _, sizes in parts.values())
                    values.setdefault(name, []).append(total / MB)
                if name == "ktop":
                    for pid, (role, sizes) in parts.items():
                        roles.setdefault((pid, role), []).append(sizes["Rss"] / MB)
    rows = []
    for label, values in (("Rss", rss), ("Pss", pss)):
        peers = {name: values.get(name) or absent.get(name, "-") for name in ("htop", "btop")}
        rows.append(Row(f"{label}, all processes", "MB",
                        values.get("ktop") or absent.get("ktop", "-"), peers))
    rows += [Row(f"Rss of the {role} process", "MB", values) for (_, role), values in roles.items()]
    return rows
