"""The soak's samples as an SVG: small panels one above the other, minutes along all of them."""

from __future__ import annotations

import math
from typing import Any

WIDTH, PANEL, LEFT, RIGHT, TOP, GAP = 860, 84, 64, 190, 44, 30
COLORS = ("#1f6fb4", "#c2571a", "#3b7d3b", "#7a4fa3")
# title, unit, [(key of a sample, label)]
PANELS: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...] = (
    ("Resident memory", "MB", (("ui_rss", "interface"), ("collector_rss", "collector"),
                               ("supervisor_rss", "supervisor"))),
    ("Blocks of Python objects", "thousands", (("ui_blocks", "interface"),
                                               ("collector_blocks", "collector"))),
    ("Open descriptors", "", (("ui_fds", "interface"), ("collector_fds", "collector"))),
    ("Threads", "", (("ui_threads", "interface"), ("collector_threads", "collector"))),
    ("BPF programs and maps", "", (("programs", "programs"), ("maps", "maps"))),
    ("Kernel memory of the maps", "MB", (("map_mb", "all maps"),)),
    ("Entries of all hash maps", "", (("entries", "entries"),)))


def nice(top: float) -> float:
    """The next round number."""
    if top <= 0:
        return 1.0
    step = 10.0 ** math.floor(math.log10(top))
    return next(step * m for m in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if step * m >= top)


def _panel(y: float, title: str, unit: str, lines: tuple[tuple[str, str], ...],
           samples: list[dict[str, Any]], end: float) -> list[str]:
    wide = WIDTH - LEFT - RIGHT
    values = [row[key] for key, _ in lines for row in samples if row.get(key) is not None]
    top = nice(max(values, default=0) * 1.05)
    found = [f'<text x="{LEFT}" y="{y - 7:.0f}" class="t">{title}{", " + unit if unit else ""}'
             "</text>"]
    for share in (0, 0.5, 1):
        at = y + PANEL * (1 - share)
        found.append(f'<path d="M{LEFT} {at:.1f}h{wide}" class="g"/><text x="{LEFT - 8}" '
                     f'y="{at + 4:.1f}" class="n">{top * share:,.4g}</text>')
    ends: list[float] = []
    for number, (key, label) in enumerate(lines):
        points = [(row["minute"], row[key]) for row in samples if row.get(key) is not None]
        if not points:
            continue
        path = " ".join(f"{LEFT + wide * x / end:.1f},{y + PANEL * (1 - v / top):.1f}"
                        for x, v in points)
        color, last = COLORS[number], points[-1][1]
        at = y + PANEL * (1 - last / top) + 4
        while any(abs(at - other) < 13 for other in ends):
            at += 13
        ends.append(at)
        found.append(f'<polyline points="{path}" fill="none" stroke="{color}" '
                     f'stroke-width="1.6"/><text x="{WIDTH - RIGHT + 8}" y="{at:.1f}" '
                     f'fill="{color}">{label} {last:,.4g}</text>')
    return found


def draw(samples: list[dict[str, Any]], warm_min: float) -> str:
    """The picture. Grey: warming up, by design."""
    end = max((row["minute"] for row in samples), default=1.0) or 1.0
    wide, tall = WIDTH - LEFT - RIGHT, TOP + len(PANELS) * (PANEL + GAP) + 20
    bottom = TOP + len(PANELS) * (PANEL + GAP) - GAP
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {tall}" '
           f'font-family="sans-serif" font-size="12">',
           "<style>.g{stroke:#dddddd;fill:none}.n{text-anchor:end;fill:#555555}"
           ".t{font-weight:bold;fill:#222222}</style>",
           f'<rect width="{WIDTH}" height="{tall}" fill="#ffffff"/>',
           f'<rect x="{LEFT}" y="{TOP}" width="{wide * min(1.0, warm_min / end):.1f}" '
           f'height="{bottom - TOP}" fill="#f3f3f3"/>']
    for number, (title, unit, lines) in enumerate(PANELS):
        out += _panel(TOP + number * (PANEL + GAP), title, unit, lines, samples, end)
    for share in (0, 0.25, 0.5, 0.75, 1):
        out.append(f'<text x="{LEFT + wide * share:.0f}" y="{bottom + 18}" text-anchor="middle" '
                   f'fill="#555555">{end * share:.3g}{" min" if share == 1 else ""}</text>')
    return "\n".join([*out, "</svg>"]) + "\n"
