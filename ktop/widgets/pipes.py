"""Pipes side by side, wide where they are free and narrow where they are tight; and all in a line.

Knows nothing of what flows: a `Section` is a name, how tight it is, and words below it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from textual.strip import Strip

from ktop import theme
from ktop.widgets.strips import Piece, StripWidget, cells, cut, fit, strip

FULL_NAMES = 118  # columns from which the line has room for whole names
RAMP = 2          # cells over which a wall grows to its height
TUBE = 5          # rows of the tube before there is a third line of words below it


@dataclass(frozen=True)
class Section:
    """One pipe. tight: 0 free to 1; None: cannot be seen. narrowest: the one that counts.

    style: of its walls and name. words: lines below the picture, each in versions from the longest
    to the shortest. group: what it leads to.
    """

    name: str
    short: str
    tight: float | None = 0.0
    narrowest: bool = False
    style: str = "dim"
    words: tuple[tuple[str, ...], ...] = ()
    group: str = ""


def level_glyph(tight: float | None) -> str:
    """One cell for how tight it is; `?` where that cannot be seen."""
    g = theme.glyphs()
    if tight is None:
        return "?"
    if tight <= 0:
        return g.dot
    return g.levels[min(len(g.levels) - 1, int(tight * len(g.levels)))]


class PipeBar(StripWidget):
    """All pipes in one line, and the verdict in words behind them."""

    DEFAULT_CSS = "PipeBar { height: 1; }"

    def __init__(self) -> None:
        super().__init__(id="pipebar")
        self.sections: Sequence[Section] = ()
        self.verdict: list[Piece] = []
        self.brief: list[Piece] = []

    def set(self, sections: Sequence[Section], verdict: list[Piece],
            brief: list[Piece] | None = None) -> None:
        """What is known now. brief: the verdict where there is no room for its first two pieces."""
        self.sections, self.verdict, self.brief = sections, verdict, brief or verdict
        self.repaint()

    def lines(self, width: int, height: int) -> list[Strip]:
        """The one line."""
        pieces: list[Piece] = [(" ", "normal")]
        for section in self.sections:
            name = section.name if width >= FULL_NAMES else section.short
            style = "cursor" if section.narrowest else section.style
            pieces += [(name, style), (level_glyph(section.tight), section.style), (" ", "normal")]
        pieces.append((" ", "normal"))
        needed = sum(cells(text) for text, _ in (*pieces, *self.verdict[:2]))
        return [strip([*pieces, *(self.verdict if needed <= width else self.brief)], width)]


def shares(width: int, count: int) -> list[int]:
    """`width` cells for `count` sections, as even as whole cells can be."""
    return [width * (n + 1) // count - width * n // count for n in range(count)]


def walls(tights: Sequence[float | None], widths: Sequence[int], most: int) -> list[int]:
    """Thickness of the wall in each column, 0 to `most`; it grows and shrinks over RAMP cells."""
    flat = [round(most * (t or 0.0)) for t in tights]
    found: list[int] = []
    for n, width in enumerate(widths):
        before = flat[n - 1] if n else flat[n]
        after = flat[n + 1] if n + 1 < len(flat) else flat[n]
        for x in range(width):
            edge = min(x, width - 1 - x)
            beside = before if x < width - 1 - x else after
            if edge >= RAMP or beside >= flat[n]:
                found.append(flat[n])
            else:
                found.append(flat[n] + (beside - flat[n]) * (RAMP - edge) // (RAMP + 1))
    return found


class PipePicture(StripWidget):
    """The sections as one tube: its walls close where a section is tight."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.sections: Sequence[Section] = ()

    def set(self, sections: Sequence[Section]) -> None:
        """Other sections."""
        self.sections = sections
        self.repaint()

    def lines(self, width: int, height: int) -> list[Strip]:
        """Where it leads, the tube, and the words below."""
        if not self.sections:
            return []
        words = min(max(len(section.words) for section in self.sections),
                    max(2, height - 2 - TUBE))
        tube = max(3, height - 2 - words)
        tube -= 1 - tube % 2  # a middle row
        widths = shares(width - 2, len(self.sections))
        return [self._groups(widths, width), *self._tube(widths, width, tube),
                self._names(widths, width),
                *(self._words(n, widths, width) for n in range(words))]

    def _groups(self, widths: list[int], width: int) -> Strip:
        pieces: list[Piece] = [(" ", "normal")]
        at = 0
        while at < len(self.sections):
            name, room, leads = self.sections[at].group, 0, at > 0
            while at < len(self.sections) and self.sections[at].group == name:
                room += widths[at]
                at += 1
            title = cut(f" {theme.glyphs().more_right + ' ' if leads else ''}{name} ",
                        max(0, room - 3))
            line = theme.glyphs().rule
            pieces += [(line, "rule"), (title, "dim"),
                       (line * (room - 2 - cells(title)) + " ", "rule")]
        return strip(pieces, width)

    def _tube(self, widths: list[int], width: int, rows: int) -> list[Strip]:
        """Walls by half rows; what is free is blank, and an arrow says which way it flows."""
        half = theme.glyphs().ascii
        upper, lower = ('"', "_") if half else ("▀", "▄")
        solid = theme.glyphs().bar
        thick = walls([section.tight for section in self.sections], widths, rows - 1)
        styles = [section.style for section, n in zip(self.sections, widths, strict=True)
                  for _ in range(n)]
        blind = [section.tight is None for section, n in zip(self.sections, widths, strict=True)
                 for _ in range(n)]
        lines = []
        for row in range(rows):
            top, bottom = 2 * row, 2 * (rows - 1 - row)  # half rows outside of this one
            pieces: list[Piece] = [(" ", "normal")]
            for x, t in enumerate(thick):
                t = max(1, t)  # the pipe itself
                if t >= top + 2 or t >= bottom + 2:
                    pieces.append((solid, styles[x]))
                elif t == top + 1:
                    pieces.append((upper, styles[x]))
                elif t == bottom + 1:
                    pieces.append((lower, styles[x]))
                elif blind[x]:
                    pieces.append(("?" if row == rows // 2 and x % 2 else " ", "dim"))
                elif row == rows // 2 and x % 4 == 1:
                    pieces.append((theme.glyphs().more_right, "dim"))
                else:
                    pieces.append((" ", "normal"))
            lines.append(strip(pieces, width))
        return lines

    def _names(self, widths: list[int], width: int) -> Strip:
        pieces: list[Piece] = [(" ", "normal")]
        for section, room in zip(self.sections, widths, strict=True):
            needed = cells(section.name) + section.narrowest
            name = section.name if needed < room else section.short
            if section.narrowest:
                name = cut(theme.glyphs().up + name, room - 1)
                pieces += [(name, "cursor"), (" " * (room - cells(name)), "normal")]
            else:
                pieces.append((fit(name, room), "strong" if section.tight else "normal"))
        return strip(pieces, width)

    def _words(self, n: int, widths: list[int], width: int) -> Strip:
        pieces: list[Piece] = [(" ", "normal")]
        for section, room in zip(self.sections, widths, strict=True):
            versions = section.words[n] if n < len(section.words) else ("",)
            word = next((text for text in versions if cells(text) < room), versions[-1])
            pieces.append((fit(cut(word, room - 1), room),
                           section.style if section.tight else "dim"))
        return strip(pieces, width)


def spark(values: Sequence[float | None], width: int) -> str:
    """The newest `width` values as one line of levels, from zero to their largest; gaps blank."""
    g = theme.glyphs()
    shown = list(values)[-width:]
    most = max((v for v in shown if v is not None), default=0.0)
    if most <= 0:
        return "".join(" " if v is None else g.levels[0] for v in shown)
    top = len(g.levels) - 1
    return "".join(" " if v is None else g.levels[min(top, round(max(0.0, v) / most * top))]
                   for v in shown)
