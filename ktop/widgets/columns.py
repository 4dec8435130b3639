"""The table's logic without a terminal: columns, sort order, which columns fit, who inherits a row.

Rows are any objects; their identity (a comparable, hashable key) is what selection, ties and
"where am I" hold on to, never a row number.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import Any, Protocol

from ktop.widgets.strips import Piece

Key = Any  # a comparable, hashable identity


@dataclass(frozen=True)
class Column:
    """One column of declared width (cells); the last column of a table takes what remains.

    text: the cell's text. sort: its value for ordering, None sorts last whichever direction; no
    sort function, no sorting. style: a theme name. draw: pieces instead of text, given the width.
    min_width: of the last column, below which columns before it give way. kind: `ns`, `bytes` or
    `number` for the filter's units, "" where it does not matter. value: for the filter where
    `sort` is not the value that people compare; without both it reads the text.
    """

    key: str
    title: str
    width: int
    text: Callable[[Any], str]
    align: str = "right"
    sort: Callable[[Any], Any] | None = None
    style: Callable[[Any], str] | None = None
    draw: Callable[[Any, int], list[Piece]] | None = None
    help: str = ""
    min_width: int = 0
    kind: str = ""
    value: Callable[[Any], Any] | None = None

    @property
    def first_descending(self) -> bool:
        """Figures are first sorted from the largest, names from A."""
        return self.align == "right"


@dataclass(frozen=True)
class Plan:
    """Which columns are visible, with their widths, and whether there are more on either side."""

    shown: list[tuple[Column, int]]
    more_left: bool
    more_right: bool


WIDTHS = (1, 200)  # what a column may be made


@dataclass(frozen=True)
class Layout:
    """What somebody made of a table's columns. order: keys; those not named stay behind the column
    that they were declared behind. hidden: keys. widths: cells by key.
    """

    order: tuple[str, ...] = ()
    hidden: frozenset[str] = frozenset()
    widths: Mapping[str, int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Whether it differs from what was declared."""
        return bool(self.order or self.hidden or self.widths)


def ordered(columns: Sequence[Column], frozen: int, layout: Layout) -> list[Column]:
    """All columns in the layout's order and widths, the hidden too; the frozen stay in front."""
    by_key = {c.key: c for c in columns}
    head = [c.key for c in columns[:frozen]]
    wanted = [key for key in dict.fromkeys(layout.order) if key in by_key and key not in head]
    if wanted:
        before = ""
        for column in columns[frozen:]:
            if column.key not in wanted:
                wanted.insert(wanted.index(before) + 1 if before in wanted else 0, column.key)
            before = column.key
    else:
        wanted = [c.key for c in columns[frozen:]]
    found = [by_key[key] for key in (*head, *wanted)]
    return [replace(c, width=min(max(layout.widths[c.key], WIDTHS[0]), WIDTHS[1]))
            if c.key in layout.widths else c for c in found]


def arranged(columns: Sequence[Column], frozen: int, layout: Layout) -> list[Column]:
    """The columns that are shown; there is always one that is not frozen."""
    found = ordered(columns, frozen, layout)
    rest = [c for c in found[frozen:] if c.key not in layout.hidden] or found[-1:]
    return [*found[:frozen], *rest]


def order_rows(rows: Sequence[Any], identity: Callable[[Any], Key], column: Column | None,
               descending: bool) -> list[Any]:
    """Rows by the column's value; ties by identity, so an order without news is the same order.

    Without a column the rows stay as given.
    """
    if column is None or column.sort is None:
        return list(rows)
    value = column.sort
    known: list[tuple[Any, Any]] = []
    unknown: list[Any] = []
    for row in sorted(rows, key=identity):
        found = value(row)
        if found is None:
            unknown.append(row)
        else:
            known.append((found, row))
    known.sort(key=itemgetter(0), reverse=descending)  # stable also when reversed
    return [row for _, row in known] + unknown


def interleave(rows: Sequence[Any], children: Mapping[Key, Sequence[Any]],
               identity: Callable[[Any], Key]) -> list[Any]:
    """Each row followed by its children, in the children's own order."""
    if not children:
        return list(rows)
    placed: list[Any] = []
    for row in rows:
        placed.append(row)
        placed.extend(children.get(identity(row), ()))
    return placed


def plan(columns: Sequence[Column], width: int, frozen: int, skip: int) -> Plan:
    """Lay out columns in `width` cells: one of gutter, one between columns.

    The first `frozen` and the last are always there; of those between, `skip` are scrolled away and
    then as many follow as leave the last its least width (a quarter of the line on wide ones).
    """
    *body, last = columns
    head, middle = body[:frozen], body[frozen:]
    skip = max(0, min(skip, len(middle) - 1)) if middle else 0
    least = max(last.min_width or last.width, width // 4 if width >= 100 else 0)
    used = 1 + sum(c.width + 1 for c in head)
    shown = [(c, c.width) for c in head]
    taken = 0
    for column in middle[skip:]:
        if used + column.width + 1 + least > width:
            break
        shown.append((column, column.width))
        used += column.width + 1
        taken += 1
    # a figure at the far right of the screen would be lost there
    shown.append((last, max(1, min(last.width, width - used) if last.align == "right"
                            else width - used)))
    return Plan(shown, skip > 0, skip + taken < len(middle))


def skip_to_show(columns: Sequence[Column], width: int, frozen: int, skip: int, key: str) -> int:
    """How many columns to scroll away so that column `key` is visible."""
    count = len(columns)
    index = next((i for i, c in enumerate(columns) if c.key == key), 0)
    if index < frozen or index == count - 1:
        return skip
    if index - frozen < skip:
        return index - frozen
    while skip < count and all(c.key != key for c, _ in plan(columns, width, frozen, skip).shown):
        skip += 1
    return skip


def heir(old_keys: Sequence[Key], at: int, alive: Mapping[Hashable, int]) -> Key | None:
    """Who inherits the place of the row at `at`: the next one alive, else the one before."""
    for key in old_keys[at + 1:]:
        if key in alive:
            return key
    for key in reversed(old_keys[:at]):
        if key in alive:
            return key
    return None


class Tree(Protocol):
    """Rows as a tree: lines of its own that stand for many rows, and rows below those unfolded."""

    def takes(self, row: Any) -> bool:
        """Whether rows like this one have a place in it."""

    def lines(self, rows: Sequence[Any], identity: Callable[[Any], Key], column: Column | None,
              descending: bool) -> list[Any]:
        """All lines, in the order of a column among their siblings."""

    def key(self, line: Any) -> Key | None:
        """The identity of a line of the tree's own; None of a row."""

    def columns(self, columns: Sequence[Column]) -> list[Column]:
        """The table's columns, for lines of both kinds; the first names the branch."""

    def toggle(self, line: Any) -> None:
        """Unfold a line of the tree's own, or fold it."""
