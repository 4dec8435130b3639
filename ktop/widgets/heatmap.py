"""Latency over time: newest at the right, octaves upward, intensity by log of the count."""

from __future__ import annotations

import math
from collections.abc import Sequence

from textual import events
from textual.message import Message
from textual.strip import Strip

from ktop import hist, theme
from ktop.model import Hist
from ktop.widgets.octaves import Row, condense, label
from ktop.widgets.strips import Piece, StripWidget, strip

_STEPS = (5, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)  # seconds between time labels
LABEL = 7  # cells left of the picture: six of label, one of axis


def shade(count: int, most: int) -> int:
    """Intensity of a cell, 0 (nothing) to the number of shades - 1, by log; one is visible."""
    top = len(theme.glyphs().shades) - 1
    if count <= 0:
        return 0
    if most <= 1:
        return top
    return 1 + round((top - 1) * math.log(count) / math.log(most))


def _rows(columns: Sequence[Hist | None], height: int) -> tuple[list[Row], list[list[int]]]:
    """The rows shown, upward, and per column the samples of each row."""
    counted = [{low: n for low, _, n in hist.octaves(h)} if h else {} for h in columns]
    found = sorted({low for octaves in counted for low in octaves})
    if not found:
        return [], []
    ladder = [found[0]]
    while ladder[-1] < found[-1]:
        ladder.append(ladder[-1] * 2 if ladder[-1] else hist.bounds(0)[1])
    first = hist.bounds(0)[1]
    rows = condense([(low, low * 2 or first, 0) for low in ladder], height)
    groups = [[low for low in ladder if row[0] <= low < row[1]] for row in rows]
    return rows, [[sum(octaves.get(low, 0) for low in group) for group in groups]
                  for octaves in counted]


def axis(columns: Sequence[object], span_ns: int, width: int) -> list[Strip]:
    """A line that breaks where nothing was measured, and times below it."""
    g = theme.glyphs()
    line = "".join(g.rule if c is not None else " " for c in columns)
    labels = [" "] * len(columns)
    seconds = span_ns / 1e9
    step = next((s for s in _STEPS if seconds / s <= 6), _STEPS[-1])
    for back in range(0, int(seconds) + 1, step):
        text = f"-{back}s" if back < 60 or seconds < 120 else f"-{back // 60}m"
        text = text if back else "now"
        at = max(0, round(len(columns) * (1 - back / seconds)) - (len(text) if back == 0 else 1))
        if at + len(text) <= len(columns) and all(x == " " for x in labels[at:at + len(text) + 1]):
            labels[at:at + len(text)] = text
    return [strip([(" " * LABEL, "dim"), (line, "rule")], width),
            strip([(" " * LABEL, "dim"), ("".join(labels), "dim")], width)]


def heatmap_lines(columns: Sequence[Hist | None], span_ns: int, width: int, height: int,
                  empty: str = "nothing yet") -> list[Strip]:
    """The picture of `columns` (oldest first, None: not measured) that together span `span_ns`."""
    rows, cells = _rows(columns, max(1, height - 2))
    if not rows:
        return [strip([(" " + empty, "dim")], width)]
    g = theme.glyphs()
    most = max((n for found in cells for n in found), default=1)
    scale = (theme.HEAT_LEVELS - 1) / (len(g.shades) - 1)
    drawn = []
    for at in range(len(rows) - 1, -1, -1):
        pieces: list[Piece] = [(f"{label(rows[at]):>{LABEL - 1}}", "dim"), (g.pipe, "rule")]
        for found in cells:
            level = shade(found[at], most)
            pieces.append((g.shades[level], f"heat{round(level * scale)}"))
        drawn.append(strip(pieces, width))
    return drawn + axis(columns, span_ns, width)


class Heatmap(StripWidget):
    """Shows columns of Hists. It is asked how many it can show: `columns`."""

    class Sized(Message):
        """There is room for another number of columns."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._columns: Sequence[Hist | None] = []
        self._span_ns = 1
        self._empty = "nothing yet"

    @property
    def columns(self) -> int:
        """How many columns there is room for."""
        return max(0, self.size.width - LABEL)

    def on_resize(self, _event: events.Resize) -> None:
        """Whoever shows columns is to give as many as there is room for now."""
        self.post_message(self.Sized())

    def show(self, columns: Sequence[Hist | None], span_ns: int,
             empty: str = "nothing yet") -> None:
        """Another picture."""
        self._columns, self._span_ns, self._empty = columns, span_ns, empty
        self.repaint()

    def lines(self, width: int, height: int) -> list[Strip]:
        """The picture."""
        columns = self._columns[-max(1, width - LABEL):]
        return heatmap_lines(columns, self._span_ns, width, height, self._empty)
