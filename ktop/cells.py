"""What the terminal shows, cell by cell, and the shortest way to make it show something else.

`Cells` is a shadow of the terminal. A picture is `put` into it, `update` gives the bytes for the
cells that differ. It knows nothing of Textual: it takes (text, SGR parameters) pairs.

Characters whose width terminals disagree about (wide, combining, emoji) make their line `hard`: it
is erased and written as a whole when anything in it changes, and the cursor is put where it belongs
after each of them, so that a terminal that counts otherwise spoils no more than one character.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from itertools import compress
from operator import ne, or_

from rich.cells import cell_len, get_character_cell_size

# One cell wide on every terminal in a UTF-8 locale.
SAFE = frozenset(map(chr, [
    *range(0x20, 0x7f), *range(0xa0, 0xad), *range(0xae, 0x300), *range(0x370, 0x483),
    *range(0x2500, 0x25fd), *range(0x2800, 0x2900), *map(ord, "…‹›–—•≤≥∞←→↑↓")]))
_SAFE_OR_UNKNOWN: frozenset[str | None] = SAFE | {None}
# Attributes that show on a blank; a background does as well.
_SHOW_ON_BLANK = {"4", "5", "6", "7", "9", "21", "51", "52", "53"}
# Longer gaps between changed cells are jumped over unseen: a jump takes no more bytes than this.
_GAP = 4
_JOINER = "\u200d"

Parts = tuple[frozenset[str], str, str]  # attributes, foreground, background


@lru_cache(maxsize=4096)
def sgr_parts(sgr: str) -> Parts:
    """SGR parameters taken apart."""
    attributes, colours = set(), {"3": "", "4": ""}
    numbers = iter(sgr.split(";") if sgr else ())
    for number in numbers:
        if number in ("38", "48"):
            kind = next(numbers, "5")
            rest = [next(numbers, "0") for _ in range(3 if kind == "2" else 1)]
            colours[number[0]] = ";".join((number, kind, *rest))
        elif len(number) == 3 or (len(number) == 2 and number[0] in "34"):
            colours["3" if number[0] in "39" else "4"] = number
        elif len(number) == 2 and number[0] == "9":
            colours["3"] = number
        else:
            attributes.add(number)
    return frozenset(attributes), colours["3"], colours["4"]


@lru_cache(maxsize=4096)
def canonical(sgr: str) -> str:
    """One way to write each style: the terminal's own colours (39, 49) need not be asked for."""
    attributes, fore, back = sgr_parts(sgr)
    colours = [fore if fore != "39" else "", back if back != "49" else ""]
    return ";".join([*sorted(attributes - {"0"}), *filter(None, colours)])


@lru_cache(maxsize=4096)
def plain(sgr: str) -> bool:
    """Whether a blank looks the same with it and without."""
    attributes, _, background = sgr_parts(sgr)
    return not background and not attributes & _SHOW_ON_BLANK


@lru_cache(maxsize=16384)
def change(old: str, new: str) -> str:
    """The sequence that takes the terminal from one style to another."""
    if old == new:
        return ""
    if not new:
        return "\x1b[m"
    have, fore, back = sgr_parts(old)
    want, new_fore, new_back = sgr_parts(new)
    if not have <= want or (fore and not new_fore) or (back and not new_back):
        return f"\x1b[0;{new}m"
    added = sorted(want - have)
    added += [colour for colour, before in ((new_fore, fore), (new_back, back)) if colour != before]
    return f"\x1b[{';'.join(added)}m" if added else ""


def goto(x: int, y: int) -> str:
    """Cursor to column x of line y, both from 0."""
    if x:
        return f"\x1b[{y + 1};{x + 1}H"
    return f"\x1b[{y + 1}H" if y else "\x1b[H"


def _forward(count: int) -> str:
    return f"\x1b[{count}C" if count > 1 else "\x1b[C"


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


def clusters(text: str) -> tuple[str, ...]:
    """Text as cells: what belongs to one character together, "" for the cells it covers as well.

    Control characters are left out: nothing that is shown may command the terminal.
    """
    cells: list[str] = []
    taken, before = 0, ""
    for char in text:
        if char < " " or "\x7f" <= char < "\xa0":
            continue
        if char in SAFE and not before.endswith(_JOINER):
            cells.append(char)
            taken, before = 1, char
            continue
        before += char
        width = cell_len(before) - taken
        if get_character_cell_size(char) == 0 or width <= 0:
            at = next((i for i in range(len(cells) - 1, -1, -1) if cells[i]), None)
            if at is not None:
                cells[at] += char
        else:
            cells.append(char)
            width -= 1
        cells += [""] * width
        taken = max(taken, cell_len(before))
    return tuple(cells)


@lru_cache(maxsize=4096)
def styled(text: str, sgr: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Cells and their styles. A blank that shows none has none: it need not be written again."""
    sgr = canonical(sgr)
    cells = tuple(text) if SAFE.issuperset(text) else clusters(text)
    if not sgr or not plain(sgr):
        return cells, (sgr,) * len(cells)
    return cells, tuple("" if cell == " " else sgr for cell in cells)


class Line:
    """A line of cells: texts (None: nobody knows, "": covered by the one before) and their SGR."""

    __slots__ = ("styles", "texts")

    def __init__(self, texts: list[str | None], styles: list[str]) -> None:
        self.texts, self.styles = texts, styles

    def copy(self) -> Line:
        """Another one like it."""
        return Line(self.texts.copy(), self.styles.copy())

    def same(self, other: Line) -> bool:
        """Whether it looks like the other one."""
        return self.texts == other.texts and self.styles == other.styles

    @property
    def hard(self) -> bool:
        """Whether terminals may disagree about where its cells are."""
        return not _SAFE_OR_UNKNOWN.issuperset(self.texts)

    def heal(self) -> None:
        """Blanks for characters that lost a part, be it the first cell or one of those covered."""
        texts, styles = self.texts, self.styles
        x, width = 0, len(texts)
        while x < width:
            text, end = texts[x], x + 1
            while end < width and texts[end] == "" and styles[end] == styles[x]:
                end += 1
            needs = 1 if text is None or text in SAFE else cell_len(text)
            lost = x + needs if 0 < needs <= end - x else x
            for at in range(lost, end):
                texts[at] = " "
                styles[at] = "" if plain(styles[at]) else styles[at]
            x = end


class Cells:
    """The shadow. All of it is unknown at first, after `forget` and when the size changes."""

    def __init__(self) -> None:
        self.width = self.height = 0
        self.known = False
        self._lines: list[Line] = []
        self._next: dict[int, Line] = {}
        self._out: list[str] = []
        self._sgr = ""  # what the terminal writes with, within one update

    def forget(self) -> None:
        """The terminal may show anything now: the next update writes all that is put."""
        self.known = False
        self._next.clear()
        self._lines = [Line([None] * self.width, [""] * self.width) for _ in range(self.height)]

    def resize(self, width: int, height: int) -> None:
        """This is the terminal's size."""
        if (width, height) != (self.width, self.height):
            self.width, self.height = width, height
            self.forget()

    def put(self, x: int, y: int, pieces: Iterable[tuple[str, str]], limit: int) -> None:
        """(text, SGR parameters) pieces from this cell on, at most `limit` cells."""
        if not 0 <= y < self.height:
            return
        texts: list[str | None] = []
        styles: list[str] = []
        for text, sgr in pieces:
            found = styled(text, sgr)
            texts += found[0]
            styles += found[1]
        room = max(0, min(limit, self.width - x, len(texts)))
        if room == len(texts) == self.width:
            self._next[y] = Line(texts, styles)
            return
        line = self._next.get(y)
        if line is None:
            line = self._next[y] = self._lines[y].copy()
        line.texts[x:x + room] = texts[:room]
        line.styles[x:x + room] = styles[:room]

    def update(self) -> str:
        """What makes the terminal show all that was put. "" when it does already."""
        self._out, self._sgr = [], ""
        for y, line in sorted(self._next.items()):
            old = self._lines[y]
            if line.same(old):
                continue
            if line.hard:
                line.heal()
            if line.hard or old.hard:
                self._whole(y, line)
            else:
                self._runs(y, old, line)
            self._lines[y] = line
        self._next.clear()
        self.known = True
        if self._sgr:
            self._out.append("\x1b[m")
        return "".join(self._out)

    # -- writing -------------------------------------------------------------------------------

    def _whole(self, y: int, line: Line) -> None:
        """A hard line, all of it."""
        line.texts = [" " if text is None else text for text in line.texts]
        self._out.append(goto(0, y) + change(self._sgr, "") + "\x1b[K")
        self._sgr = ""
        end = _blank_from(line)
        x = 0
        while x < end:
            after = x + 1
            while after < end and line.texts[after] == "":
                after += 1
            self._out.append(self._painted(line, x, after))
            if line.texts[x] not in SAFE and after < end:
                self._out.append(f"\x1b[{after + 1}G")
            x = after

    def _runs(self, y: int, old: Line, line: Line) -> None:
        """The cells that differ, and what is cheaper to write again than to jump over."""
        differs = map(ne, old.texts, line.texts)
        if old.styles != line.styles:
            differs = map(or_, differs, map(ne, old.styles, line.styles))
        changed = list(compress(range(len(line.texts)), differs))
        tail = _blank_from(line)
        blanks = [x for x in changed if x >= tail]
        erase = blanks[0] if blanks and blanks[-1] - blanks[0] >= 3 else None
        if erase is not None:
            changed = changed[:len(changed) - len(blanks)]
        at: int | None = None  # the cursor's column
        number = 0
        while number < len(changed):
            x = start = changed[number]
            number += 1
            while number < len(changed) and changed[number] == x + 1:
                x += 1
                number += 1
            self._move(y, at, start, line)
            self._out.append(self._painted(line, start, x + 1))
            at = x + 1
        if erase is not None:
            self._move(y, at, erase, line)
            self._out.append(change(self._sgr, "") + "\x1b[K")
            self._sgr = ""

    def _move(self, y: int, at: int | None, x: int, line: Line) -> None:
        """The cursor from column `at` of the line, None when it is elsewhere, to column x."""
        if at is None:
            self._out.append(goto(x, y))
        elif at < x:
            jump, sgr = _forward(x - at), self._sgr
            gap, styles = line.texts[at:x], line.styles[at:x]
            if x - at <= _GAP and None not in gap and (
                    styles.count(sgr) == x - at or (plain(sgr) and all(
                        style == sgr or (text == " " and not style)
                        for text, style in zip(gap, styles, strict=True)))):
                again = "".join(text or "" for text in gap)
                jump = again if _size(again) <= len(jump) else jump
            self._out.append(jump)

    def _painted(self, line: Line, start: int, end: int) -> str:
        """These cells with their styles; a plain blank takes any style it looks the same in."""
        parts: list[str] = []
        sgr = self._sgr
        for text, style in zip(line.texts[start:end], line.styles[start:end], strict=True):
            if style != sgr and not (text == " " and not style and plain(sgr)):
                parts.append(change(sgr, style))
                sgr = style
            parts.append(text or "")
        self._sgr = sgr
        return "".join(parts)


def _blank_from(line: Line) -> int:
    """The column from which on the line is blank to its end."""
    end = len(line.texts)
    while end and line.texts[end - 1] == " " and not line.styles[end - 1]:
        end -= 1
    return end
