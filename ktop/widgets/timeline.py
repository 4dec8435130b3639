"""The session in two lines: where it hurt and how much, where we are, marks, and what is missing.

A cell is as high as the mean number that its worst pipe held up, each step twice the one below
(0.05, 0.1, 0.2 ... 6.4 and more); below it stands the pipe's name, underlined while the verdict
was that this pipe is tight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from textual import events
from textual.message import Message
from textual.strip import Strip

from ktop import theme
from ktop.overview import Cell
from ktop.widgets.strips import Piece, StripWidget, fit, strip

MARGIN = 11  # cells at each side, for times and figures
# Colours only help: the names say the same.
STYLES = {"cpu": "user", "quota": "nice", "steal": "steal", "memory": "system", "file": "system",
          "block": "iowait", "tcp": "irq", "lock": "softirq", "upstream": "irq",
          "uninterruptible": "iowait"}
SHORT = {"uninterruptible": "D"}  # as the state is called in the tables


@dataclass(frozen=True)
class Picture:
    """What a timeline shows. cursor, marks: column numbers, None or left out where not in view.

    left, right: times at the ends. span: how much time it is. here: what the cursor's frame says.
    """

    cells: Sequence[Cell] = ()
    cursor: int | None = None
    marks: Sequence[int] = ()
    left: str = ""
    right: str = ""
    span: str = ""
    here: str = ""
    styles: dict[str, str] = field(default_factory=lambda: STYLES)


def heights(picture: Picture) -> list[Piece]:
    """The upper line, one cell a column."""
    g = theme.glyphs()
    plain = {"idle": (g.idle, "dim"), "gap": (g.gap, "dim"), "unknown": ("?", "dim"),
             "none": (" ", "normal")}
    pieces: list[Piece] = []
    for number, cell in enumerate(picture.cells):
        glyph, name = plain.get(cell.kind) or (
            g.levels[cell.height - 1], picture.styles.get(cell.pipe, "bar"))
        pieces.append((glyph, "cursor" if number == picture.cursor else name))
    return pieces


def names(picture: Picture) -> list[Piece]:
    """The lower line: each run of a pipe begins with its name, or the name's first letter as a
    capital; cursor, marks and gaps stand out."""
    g = theme.glyphs()
    pieces: list[Piece] = []
    cells = picture.cells
    at = 0
    while at < len(cells):
        pipe, end = cells[at].pipe, at
        while end < len(cells) and cells[end].pipe == pipe and cells[end].tight == cells[at].tight:
            end += 1
        name = SHORT.get(pipe, pipe)
        if len(name) >= end - at:  # a blank must fit between it and the next
            name = name[:1].upper()
        # underlined: the verdict was that it is tight
        style = "sorted" if cells[at].tight else picture.styles.get(pipe, "dim")
        pieces += [(char, style if char != " " else "normal") for char in
                   name.ljust(end - at)[:end - at]]
        at = end
    for number, cell in enumerate(cells):
        if cell.event:
            pieces[number] = (g.gap if cell.event == "gap" else "!", "warn")
    for number in picture.marks:
        if 0 <= number < len(pieces):
            pieces[number] = (g.flag, "strong")
    if picture.cursor is not None and 0 <= picture.cursor < len(pieces):
        pieces[picture.cursor] = (g.up, "accent")
    return pieces


class Timeline(StripWidget):
    """Two lines under the header, or one where there is no room."""

    DEFAULT_CSS = "Timeline { height: 2; }"

    class Picked(Message):
        """A click on a column, of so many."""

        def __init__(self, column: int, columns: int) -> None:
            super().__init__()
            self.column, self.columns = column, columns

    def __init__(self) -> None:
        super().__init__(id="timeline")
        self.display = False
        self.picture = Picture()

    def show(self, picture: Picture) -> None:
        """Another picture."""
        if picture != self.picture:
            self.picture = picture
            self.repaint()

    def lines(self, width: int, height: int) -> list[Strip]:
        """The two lines."""
        shown = self.picture
        side = MARGIN - 1
        return [
            strip([(fit(shown.left, side, "right") + " ", "dim"), *heights(shown),
                   (" " + fit(shown.right, side), "dim")], width),
            strip([(fit(shown.span, side, "right") + " ", "dim"), *names(shown),
                   (" " + fit(shown.here, side), "normal")], width)]

    def on_click(self, event: events.Click) -> None:
        """Which column was it?"""
        column = event.x - MARGIN
        columns = len(self.picture.cells)
        if 0 <= column < columns:
            self.post_message(self.Picked(column, columns))
