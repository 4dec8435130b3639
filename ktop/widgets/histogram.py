"""A latency histogram as horizontal bars: one line per octave, percentiles from the same counts."""

from __future__ import annotations

from collections import deque

from textual.strip import Strip

from ktop import format as fmt
from ktop import hist, theme
from ktop.model import Hist
from ktop.widgets.octaves import fold, label
from ktop.widgets.strips import Piece, StripWidget, cells, strip

_LABEL, _COUNT, _SHARE, _MARK = 6, 8, 6, 10


def bar(share: float, width: int) -> str:
    """A bar of `share` (0 to 1) of `width` cells, by eighths; something is never nothing."""
    g = theme.glyphs()
    share = max(0.0, min(1.0, share))
    eighths = max(1, round(share * width * 8)) if share > 0 else 0
    full, rest = divmod(eighths, 8)
    text = g.bar * full
    if rest and full < width:
        tip = g.eighths[rest]
        text += tip if tip != " " or full else g.eighths[-4 if g.ascii else 1]
    return text


def percentile_pieces(h: Hist) -> list[Piece]:
    """`P50 12us  P95 108us  P99 4.3ms  P99.9 21ms  max 32ms`."""
    pieces: list[Piece] = []
    for name, value in hist.percentiles(h).items():
        pieces += [(f"{name.upper() if name != 'max' else name} ", "dim"),
                   (fmt.duration(value), "strong"), ("  ", "normal")]
    return pieces


def _marks(h: Hist) -> list[tuple[float, str]]:
    found = ((hist.percentile(h, pct), f"P{pct:g}") for pct in (50.0, 99.0))
    return [(value, name) for value, name in found if value is not None]


def _spread(rows: list[tuple[int, int, int]], low: int, high: int) -> list[tuple[int, int, int]]:
    """The octaves with empty ones added on both ends, down to `low` and up to `high` ns."""
    first = hist.bounds(0)[1]
    while rows[0][0] > low:
        bottom = rows[0][0] // 2 if rows[0][0] > first else 0
        rows = [(bottom, rows[0][0], 0), *rows]
    while rows[-1][1] < high:
        rows = [*rows, (rows[-1][1], rows[-1][1] * 2, 0)]
    return rows


def histogram_lines(h: Hist | None, width: int, height: int, empty: str = "no samples",
                    reach: tuple[int, int] | None = None) -> list[Strip]:
    """The picture: percentiles, a blank line if there is room, then the bars of the octaves.

    `reach` (ns): show at least these octaves, so that the lines stay where they are.
    """
    if h is None or not hist.count(h):
        return [strip([(" " + empty, "dim")], width)]
    octaves = hist.octaves(h)
    octaves = _spread(octaves, *reach) if reach else octaves
    head = [strip([(" ", "normal"), *percentile_pieces(h)], width)]
    if height > len(octaves) + 1:
        head.append(strip([], width))
    rows = fold(octaves, height - len(head))
    total = hist.count(h)
    most = max(n for _, _, n in rows)
    room = max(4, width - _LABEL - _COUNT - _SHARE - _MARK - 6)
    marks = _marks(h)
    g = theme.glyphs()
    drawn = []
    for low, high, n in rows:
        names = "/".join(name for value, name in marks
                         if low <= value < high or (value == high == rows[-1][1]))
        filled = bar(n / most, room)
        drawn.append(strip([
            (f"{label((low, high, n)):>{_LABEL}} ", "dim"), (g.pipe, "rule"), (filled, "bar"),
            (" " * (room - cells(filled)), "normal"),
            (f" {fmt.grouped(n):>{_COUNT}}", "normal" if n else "dim"),
            (f" {fmt.pct(100 * n / total):>{_SHARE - 1}}%", "dim"),
            (f" {g.point} {names}" if names else "", "bar.mark")], width))
    return head + drawn


class Histogram(StripWidget):
    """Shows one Hist. `empty` says why when there is none.

    The octaves of the last minute's ticks keep their lines, so that the picture does not jump.
    """

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._hist: Hist | None = None
        self._empty = "no samples"
        self._of: object = None
        self._reaches: deque[tuple[int, int]] = deque(maxlen=60)

    def show(self, h: Hist | None, empty: str = "no samples", of: object = None) -> None:
        """Another histogram; of another thing (`of`), its lines are its own."""
        if of != self._of:
            self._of = of
            self._reaches.clear()
        self._hist, self._empty = h, empty
        if h is not None and h.counts:
            octaves = hist.octaves(h)
            self._reaches.append((octaves[0][0], octaves[-1][1]))
        self.repaint()

    def lines(self, width: int, height: int) -> list[Strip]:
        """The picture."""
        reach = None
        if self._reaches:
            reach = min(low for low, _ in self._reaches), max(high for _, high in self._reaches)
        return histogram_lines(self._hist, width, height, self._empty, reach)
