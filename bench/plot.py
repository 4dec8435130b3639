"""A plot with logarithmic axes as SVG, readable on light and dark; lines differ in marks too."""

from __future__ import annotations

import math
from html import escape

_WIDTH, _HEIGHT, _LEFT, _TOP, _RIGHT, _BOTTOM = 640, 360, 60, 40, 130, 46
_LOOKS = (("#0b6e99", "circle"), ("#b35900", "square"), ("#555555", "diamond"),
          ("#7a3e9d", "up"), ("#2e7d32", "cross"))
Point = tuple[float, float]


def _mark(kind: str, x: float, y: float, colour: str) -> str:
    shapes = {"circle": f"M{x - 4},{y}a4,4 0 1,0 8,0a4,4 0 1,0 -8,0",
              "square": f"M{x - 4},{y - 4}h8v8h-8z", "diamond": f"M{x},{y - 5}l5,5l-5,5l-5,-5z",
              "up": f"M{x},{y - 5}l5,9h-10z", "cross": f"M{x - 4},{y - 4}l8,8m0,-8l-8,8"}
    return f'<path d="{shapes[kind]}" fill="{colour}" stroke="{colour}" stroke-width="2"/>'


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"


class Plot:
    """Lines through points; both axes are logarithmic, over whole decades."""

    def __init__(self, title: str, across: str, up: str) -> None:
        self.title, self.across, self.up = title, across, up
        self.lines: dict[str, list[Point]] = {}

    def add(self, name: str, points: list[Point]) -> None:
        """A line; none without points."""
        points = sorted(p for p in points if p[0] > 0 and p[1] > 0)
        if points:
            self.lines[name] = points

    def _decades(self, axis: int) -> tuple[int, int]:
        values = [math.log10(point[axis]) for line in self.lines.values() for point in line]
        low, high = math.floor(min(values)), math.ceil(max(values))
        return low, max(high, low + 1)

    def svg(self) -> str:
        """The picture."""
        (x0, x1), (y0, y1) = self._decades(0), self._decades(1)
        wide, high = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

        def place(point: Point) -> Point:
            return (round(_LEFT + (math.log10(point[0]) - x0) / (x1 - x0) * wide, 1),
                    round(_TOP + high - (math.log10(point[1]) - y0) / (y1 - y0) * high, 1))

        out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
               'font-family="sans-serif" font-size="12" fill="#222222">',
               f'<title>{escape(self.title)}</title>',
               f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
               f'<text x="{_LEFT}" y="22" font-size="14">{escape(self.title)}, '
               f'{escape(self.up)}</text>']
        for decade in range(x0, x1 + 1):
            x, _ = place((10.0 ** decade, 10.0 ** y0))
            out += [f'<path d="M{x},{_TOP}v{high}" stroke="#dddddd"/>',
                    f'<text x="{x}" y="{_TOP + high + 18}" text-anchor="middle">'
                    f'{_short(10.0 ** decade)}</text>']
        for decade in range(y0, y1 + 1):
            _, y = place((10.0 ** x0, 10.0 ** decade))
            out += [f'<path d="M{_LEFT},{y}h{wide}" stroke="#dddddd"/>',
                    f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">'
                    f'{_short(10.0 ** decade)}</text>']
        out.append(f'<text x="{_LEFT + wide / 2}" y="{_HEIGHT - 8}" text-anchor="middle">'
                   f'{escape(self.across)}</text>')
        return "\n".join([*out, *self._drawn(place), "</svg>"]) + "\n"

    def _drawn(self, place: object) -> list[str]:
        assert callable(place)
        out: list[str] = []
        taken: list[float] = []
        for number, (name, points) in enumerate(self.lines.items()):
            colour, mark = _LOOKS[number % len(_LOOKS)]
            spots = [place(point) for point in points]
            path = "L".join(f"{x},{y}" for x, y in spots)
            out.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
            out += [_mark(mark, x, y, colour) for x, y in spots]
            x, y = spots[-1]
            while any(abs(y - other) < 14 for other in taken):  # names do not cover each other
                y += 7
            taken.append(y)
            out.append(f'<text x="{x + 10}" y="{y + 4}" fill="{colour}">{escape(name)}</text>')
        return out
