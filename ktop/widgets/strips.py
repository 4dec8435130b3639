"""Drawing by lines: text cut by terminal cells, and a widget that repaints only what changed.

Every widget of ktop is a pure function from its data and a size to a list of Strips, plus a
`StripWidget` that compares the new lines with the ones on screen and marks only the others dirty.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

from rich.cells import cell_len, get_character_cell_size
from rich.segment import Segment
from textual import events
from textual.containers import Container
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from ktop import theme

Piece = tuple[str, str]  # (text, style name)


def cells(text: str) -> int:
    """Width of `text` in terminal cells."""
    return len(text) if text.isascii() else cell_len(text)


def printable(text: str) -> str:
    """`text` as the terminal can show it: in an ASCII locale everything else becomes "?"."""
    if theme.glyphs().ascii and not text.isascii():
        return text.encode("ascii", "replace").decode("ascii")
    return text


def cut(text: str, width: int) -> str:
    """`text` in at most `width` cells; an ellipsis stands for what is cut off."""
    if cells(text) <= width:
        return text
    if width <= 0:
        return ""
    if text.isascii():
        return text[:width - 1] + theme.glyphs().ellipsis
    used, kept = 0, []
    for char in text:
        used += get_character_cell_size(char)
        if used > width - 1:
            break
        kept.append(char)
    return "".join(kept) + theme.glyphs().ellipsis


def shown(text: str, width: int) -> tuple[str, int]:
    """`text` as the terminal can show it in at most `width` cells, and how many it takes."""
    if len(text) <= width and text.isascii():  # most of what is drawn, all the time
        return text, len(text)
    text = cut(printable(text), width)
    return text, cells(text)


def fit(text: str, width: int, align: str = "left") -> str:
    """`text` in exactly `width` cells: cut or padded on the side that `align` leaves."""
    text, used = shown(text, width)
    blank = " " * (width - used)
    return blank + text if align == "right" else text + blank


def cell(text: str, width: int, align: str, name: str, lead: str) -> list[Piece]:
    """`text` fitted to `width` cells, behind the blanks of `lead`; the padding is plain, so that no
    underline runs on."""
    text, used = shown(text, width)
    blank = " " * (width - used)
    if align == "right":
        return [(lead + blank, "normal"), (text, name)]
    return [(lead, "normal"), (text, name), (blank, "normal")]


def strip(pieces: Iterable[Piece], width: int | None = None) -> Strip:
    """A Strip of (text, style name) pieces, cut or padded to `width` cells when given."""
    return _strip(tuple(pieces), width, theme.look())


@lru_cache(512)  # most lines of a picture are those of the picture before
def _strip(pieces: tuple[Piece, ...], width: int | None, look: object) -> Strip:
    runs: list[list[str]] = []  # neighbours of one style are one segment: fewer escape sequences
    for text, name in pieces:
        if width is not None:
            used = len(text)
            if used > width or not text.isascii():
                text, used = shown(text, width)
            width -= used
        if not text:
            continue
        if runs and runs[-1][1] == name:
            runs[-1][0] += text
        else:
            runs.append([text, name])
    if width:
        runs.append([" " * width, "normal"])
    return Strip([Segment(text, theme.style(name)) for text, name in runs])


class Remembering(Widget):
    """A widget that the compositor does not make render what has not changed.

    It asks every widget in view when one of them has changed. The answer is the last one, while no
    line is dirty and no style has changed (that empties Textual's own cache of lines).
    """

    _answer: tuple[Region, list[Strip]] | None = None

    def render_lines(self, crop: Region) -> list[Strip]:
        """The lines of that part."""
        cache, answer = self._styles_cache, self._answer
        if answer is None or answer[0] != crop or cache._dirty_lines or not cache._cache:
            self.prepare()
            answer = self._answer = crop, super().render_lines(crop)
        return answer[1]

    def prepare(self) -> None:
        """Lines are about to be asked for."""


class Box(Remembering, Container):
    """What others are in; nothing of it is seen."""


class StripWidget(Remembering):
    """A widget of lines. Subclasses give `lines`; call `repaint` when the data changed."""

    ALLOW_SELECT = False
    DEFAULT_CSS = """
    StripWidget { width: 1fr; height: 1fr; }
    """

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._painted: list[Strip] = []
        self._painted_size = (0, 0)

    def lines(self, width: int, height: int) -> list[Strip]:
        """The whole picture for this size: at most `height` lines of `width` cells each."""
        raise NotImplementedError

    def _draw(self, width: int, height: int) -> list[Strip]:
        drawn: Sequence[Strip] = self.lines(width, height)[:height] if width and height else []
        blank = Strip.blank(width)
        return [*drawn, *([blank] * (height - len(drawn)))]

    def repaint(self) -> None:
        """Draw anew, and mark the lines that differ from those on screen as dirty; no others."""
        width, height = self.size
        if not width or not height or not self.is_attached:
            return
        old, self._painted = self._painted, self._draw(width, height)
        if self._painted_size != (width, height) or len(old) != height:
            self._painted_size = (width, height)
            self.refresh()
            return
        regions, y = [], 0
        while y < height:
            start = y
            while y < height and old[y] != self._painted[y]:
                y += 1
            if y > start:
                regions.append(Region(0, start, width, y - start))
            y += 1
        if regions:
            self.refresh(*regions)

    def prepare(self) -> None:
        """A picture of this size, if the last was of another. Once for all lines: to ask for the
        size takes Textual longer than to give a line."""
        width, height = self.size
        if self._painted_size != (width, height):
            self._painted_size = (width, height)
            self._painted = self._draw(width, height)

    def render_line(self, y: int) -> Strip:
        """One line of the picture, for the compositor."""
        if y < len(self._painted):
            return self._painted[y]
        return Strip.blank(self._painted_size[0])

    def on_resize(self, _event: events.Resize) -> None:
        """A new size is a new picture."""
        self.repaint()


class Line(StripWidget):
    """A fixed number of lines of pieces, one by default: summaries and messages."""

    DEFAULT_CSS = """
    Line { height: 1; }
    """

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._content: list[list[Piece]] = []

    def set(self, *content: list[Piece]) -> None:
        """Show these lines of (text, style name) pieces."""
        self._content = list(content)
        self.repaint()

    def lines(self, width: int, height: int) -> list[Strip]:
        """The lines, cut at the right edge."""
        return [strip(pieces, width) for pieces in self._content[:height]]


def rule(title: str, note: str, width: int, active: bool = False) -> Strip:
    """`── Title ───────── note ──`: where a section begins. `active`: its part has the focus."""
    line = theme.glyphs().rule
    left = cut(printable(title), max(0, width - 6))
    room = width - 4 - cells(left)
    right = f" {cut(printable(note), room - 6)} " if note and room > 8 else ""
    fill = max(0, room - cells(right) - (2 if right else 0))
    name = "sorted" if active else "title"
    return strip([(line * 2 + " ", "rule"), (left, name), (" " + line * fill, "rule"),
                  (right, "dim"), (line * 2 if right else "", "rule")], width)


class Rule(StripWidget):
    """The line above a section: its title, and a note at the right."""

    DEFAULT_CSS = """
    Rule { height: 1; }
    """

    def __init__(self, title: str = "", *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.title = title
        self.note = ""
        self.active = False

    def set(self, title: str | None = None, note: str | None = None,
            active: bool | None = None) -> None:
        """Change what is given, keep the rest."""
        self.title = self.title if title is None else title
        self.note = self.note if note is None else note
        self.active = self.active if active is None else active
        self.repaint()

    def lines(self, width: int, height: int) -> list[Strip]:
        """The one line."""
        return [rule(self.title, self.note, width, self.active)]
