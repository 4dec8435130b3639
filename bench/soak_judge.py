"""What a soak has shown of each figure: flat, growing, or lost in the noise; and README's table."""

from __future__ import annotations

import itertools
import math
import statistics
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- begin: soak -->", "<!-- end: soak -->"
WINDOWS = 8  # at most. Each is longer than a round of all keys: its lowest value is what is held
FEWEST = 6
FLAT, GROWS, NOISE = "flat", "GROWS", "noise"
# (key of a sample, what it is called, unit, growth over the run that is none: of the level, at
# least). What is held in objects is told exactly; resident memory has holes that come and go.
HELD = (
    ("ui_blocks", "objects of the interface", "k", 0.02, 4.0),
    ("collector_blocks", "objects of the collector", "k", 0.03, 6.0),
    ("ui_malloc", "malloc of the interface", "MB", 0.03, 1.0),
    ("collector_malloc", "malloc of the collector", "MB", 0.03, 1.0),
    ("ui_rss", "memory of the interface", "MB", 0.05, 2.0),
    ("collector_rss", "memory of the collector", "MB", 0.05, 2.0),
    ("supervisor_rss", "memory of the supervisor", "MB", 0.02, 0.5),
    ("ui_fds", "descriptors of the interface", "", 0.0, 1.0),
    ("collector_fds", "descriptors of the collector", "", 0.0, 1.0),
    ("ui_threads", "threads of the interface", "", 0.0, 1.0),
    ("collector_threads", "threads of the collector", "", 0.0, 1.0),
    ("programs", "BPF programs", "", 0.0, 1.0),
    ("maps", "BPF maps", "", 0.0, 1.0),
    ("map_mb", "kernel memory of the maps", "MB", 0.0, 0.5))

Point = tuple[float, float]  # minute, value


def windows(points: list[Point]) -> list[Point]:
    """The lowest of each of equal parts: what is there only while a screen is open, or a load
    goes on, is in none of them; what is not given back is."""
    parts = max(1, min(WINDOWS, len(points) // 3))
    cuts = [len(points) * n // parts for n in range(parts + 1)]
    return [(statistics.median(m for m, _ in found), min(v for _, v in found))
            for found in (points[a:b] for a, b in itertools.pairwise(cuts)) if found]


def trend(points: list[Point]) -> tuple[float, float, float]:
    """Theil-Sen: the median of the slopes of all pairs, a minute, and between which two it lies
    with 95% probability (Sen 1968, by the variance of Kendall's S)."""
    slopes = sorted((b[1] - a[1]) / (b[0] - a[0])
                    for a, b in itertools.combinations(points, 2) if b[0] > a[0])
    if not slopes:
        return 0.0, 0.0, 0.0
    n = len(points)
    half = 1.96 * math.sqrt(n * (n - 1) * (2 * n + 5) / 18) / 2
    low = max(0, math.floor(len(slopes) / 2 - half))
    high = min(len(slopes) - 1, math.ceil(len(slopes) / 2 + half))
    return statistics.median(slopes), slopes[low], slopes[high]


def verdict(points: list[Point], share: float, least: float) -> dict[str, Any]:
    """What `points` grew by from the first to the last of their windows, and what that means.

    GROWS: beyond what is none, and beyond noise. flat: the most that it may have grown by is none.
    """
    found = windows(points)
    span = found[-1][0] - found[0][0]
    grown, low, high = (slope * span for slope in trend(found))
    none = max(least, share * statistics.median(v for _, v in found))
    said = (GROWS if grown > none and low > 0 else FLAT if high <= none else
            FLAT if grown <= none and found[-1][1] <= found[0][1] else NOISE)
    return {"first": found[0][1], "last": found[-1][1], "highest": max(v for _, v in points),
            "grown": round(grown, 3), "low": round(low, 3), "high": round(high, 3),
            "none": round(none, 3), "said": said}


def judge(samples: list[dict[str, Any]], warm_min: float) -> dict[str, dict[str, Any]]:
    """Of each of HELD, after warming up. `said` is None where the run was too short."""
    found: dict[str, dict[str, Any]] = {}
    for key, name, unit, share, least in HELD:
        points = [(row["minute"], row[key]) for row in samples
                  if row["minute"] >= warm_min and row.get(key) is not None]
        found[key] = {"name": name, "unit": unit, "said": None}
        if len(points) >= 3 * FEWEST:
            found[key] |= verdict(points, share, least)
    return found


def table(held: dict[str, dict[str, Any]]) -> list[str]:
    """For people."""
    lines = ["| | lowest at first | lowest at the end | highest | grew by (95% sure) | |",
             "|---|---|---|---|---|---|"]
    for row in held.values():
        if row["said"] is None:
            lines.append(f"| {row['name']} | - | - | - | - | too short to say |")
            continue
        unit = f" {row['unit']}" if row["unit"] else ""
        figures = " | ".join(f"{row[key]:.4g}{unit}" for key in ("first", "last", "highest"))
        said = row["said"] if row["said"] != NOISE else "not told from noise"
        lines.append(f"| {row['name']} | {figures} | {row['grown']:+.2g}{unit} "
                     f"({row['low']:+.2g} to {row['high']:+.2g}) | {said} |")
    return lines


def readme(result: dict[str, Any], path: Path) -> bool:
    """Replace what is between the markers; False where there are none."""
    text = path.read_text(encoding="utf-8")
    begin, end = text.find(BEGIN), text.find(END)
    if not 0 <= begin < end:
        return False
    told = (f"{result['minutes']:g} minutes of `make soak`, {result['date']}, Linux "
            f"{result['kernel']}, {result['cpus']} CPUs; figures after the first "
            f"{result['warm_minutes']:g} minutes. {_summary(result['held'])}")
    new = "\n".join([BEGIN, told, "", *table(result["held"]), ""])
    path.write_text(text[:begin] + new + text[end:], encoding="utf-8")
    return True


def _summary(held: dict[str, dict[str, Any]]) -> str:
    rows = list(held.values())
    growing = [row["name"] for row in rows if row["said"] == GROWS]
    noisy = [row["name"] for row in rows if row["said"] == NOISE]
    said = [f"Growing: {', '.join(growing)}." if growing else "Nothing grows."]
    if noisy:
        said.append(f"Not told from noise: {', '.join(noisy)}.")
    return " ".join(said)
