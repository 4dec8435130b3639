"""Bars: shares of a whole in distinct glyphs, and named values one below the other."""

from __future__ import annotations

from collections.abc import Sequence

from textual.strip import Strip

from ktop import theme
from ktop.widgets.histogram import bar
from ktop.widgets.strips import Piece, StripWidget, cells, fit, strip

KINDS = ("user", "nice", "system", "irq", "softirq", "iowait", "steal")


def stacked(shares: Sequence[tuple[str, float | None]], width: int) -> list[Piece]:
    """One stacked bar of (kind, percent); what is left of 100 % is blank.

    Cells go to the largest remainders, so that the bar is as long as the sum says.
    """
    g = theme.glyphs()
    known = [(kind, max(0.0, value)) for kind, value in shares if value is not None]
    if not known:
        return [(fit("-", width), "dim")]
    exact = [value * width / 100 for _, value in known]
    whole = [int(x) for x in exact]
    spare = min(width, round(sum(exact))) - sum(whole)
    for i in sorted(range(len(known)), key=lambda i: whole[i] - exact[i])[:max(0, spare)]:
        whole[i] += 1
    pieces: list[Piece] = []
    used = 0
    for (kind, _), n in zip(known, whole, strict=True):
        n = min(n, width - used)
        used += n
        pieces.append((g.stack[kind] * n, kind))
    pieces.append((g.dot * (width - used), "rule"))
    return pieces


def legend(kinds: Sequence[str] = KINDS) -> list[Piece]:
    """Which glyph stands for which kind."""
    pieces: list[Piece] = [(" ", "normal")]
    for kind in kinds:
        pieces += [(theme.glyphs().stack[kind], kind), (f" {kind}  ", "dim")]
    return pieces


def value_lines(rows: Sequence[tuple[str, float | None, str, str]], width: int,
                label: int = 15, value: int = 7) -> list[Strip]:
    """Named bars: (label, size or None for no bar, value as text, style), scaled to the largest."""
    most = max((size for _, size, _, _ in rows if size), default=0.0)
    room = max(0, width - label - value - 4)
    drawn = []
    for name, size, text, style in rows:
        filled = bar(size / most, room) if size and most else ""
        drawn.append(strip([
            (" " + fit(name, label), style), (" " + fit(text, value, "right") + " ", style),
            (filled + " " * (room - cells(filled)), "bar")], width))
    return drawn


class ValueBars(StripWidget):
    """Named bars one below the other."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._rows: Sequence[tuple[str, float | None, str, str]] = []
        self._empty = "unknown"

    def show(self, rows: Sequence[tuple[str, float | None, str, str]], empty: str = "") -> None:
        """Other values; without any, `empty` says why."""
        self._rows, self._empty = rows, empty
        self.repaint()

    def lines(self, width: int, height: int) -> list[Strip]:
        """The picture."""
        if not self._rows:
            return [strip([(" " + self._empty, "dim")], width)]
        return value_lines(self._rows[:height], width)
