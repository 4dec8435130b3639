"""Resident and proportional memory of every process of ktop, htop and btop, after some seconds; and
the kernel's memory for ktop's maps (fdinfo's memlock), which is in nobody's Rss."""

from __future__ import annotations

import contextlib

from bench.common import Row, map_bytes, memory_bytes, programs_of
from bench.screen import open_all, settle, watch
from bench.terminal import home

MB = 1e6


def roles(pids: list[int]) -> dict[int, str]:
    """Which process of ktop is what: the first one supervises, the collector has the programs."""
    return {pid: "supervisor" if pid == pids[0] else "collector" if programs_of([pid]) else "ui"
            for pid in pids}


def run(quick: bool) -> list[Row]:
    """Sums, and each process of ktop."""
    found: dict[str, dict[str, list[float]]] = {"Rss": {}, "Pss": {}}
    parts: dict[str, list[float]] = {}
    maps: list[float] = []
    with home() as where, contextlib.ExitStack() as stack:
        running, absent = open_all(stack, where)
        settle(running)
        for _ in range(2 if quick else 4):
            watch(running, 1.5)
            for name, terminal in running.items():
                pids = terminal.pids()[:3] if name == "ktop" else terminal.pids()
                sizes = {pid: memory_bytes(pid) for pid in pids}
                for kind, values in found.items():
                    values.setdefault(name, []).append(sum(s[kind] for s in sizes.values()) / MB)
                if name == "ktop":
                    for pid, role in roles(pids).items():
                        parts.setdefault(role, []).append(sizes[pid]["Rss"] / MB)
                    maps.append(map_bytes(pids) / MB)
    rows = [Row(f"{kind}, all processes", "MB", values.get("ktop") or absent.get("ktop", "-"),
                {name: values.get(name) or absent.get(name, "-") for name in ("htop", "btop")})
            for kind, values in found.items()]
    rows += [Row(f"Rss of the {role} process", "MB", values) for role, values in parts.items()]
    both = list(zip(parts.get("collector", []), parts.get("ui", []), strict=False))
    if both:
        rows.append(Row("Rss of collector and UI together", "MB", [a + b for a, b in both]))
    return [*rows, Row("kernel memory of the BPF maps", "MB", maps or "-")]
