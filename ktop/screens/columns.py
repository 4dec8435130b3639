"""Choosing a table's columns: which, how wide, in which order. The table shows it at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical

from ktop.driver import CalmModal
from ktop.widgets.columns import WIDTHS, Column, Layout, ordered
from ktop.widgets.strips import Line, Piece, Rule
from ktop.widgets.table import VirtualTable

KEYS = (("Space", "show"), ("+ -", "width"), ("< >", "move"), ("r", "reset"), ("Enter", "keep"),
        ("Esc", "undo"))


@dataclass(frozen=True)
class Entry:
    """One column in the list. fixed: it names the row, so it can neither be hidden nor moved."""

    column: Column
    shown: bool
    fixed: bool


def entries(columns: list[Column], frozen: int, layout: Layout) -> list[Entry]:
    """The list for a layout."""
    return [Entry(column, n < frozen or column.key not in layout.hidden, n < frozen)
            for n, column in enumerate(ordered(columns, frozen, layout))]


def layout_of(found: list[Entry], columns: list[Column]) -> Layout:
    """The layout for a list: nothing in it that is as it was declared."""
    order = tuple(e.column.key for e in found if not e.fixed)
    declared = {c.key: c.width for c in columns}
    frozen = sum(e.fixed for e in found)
    return Layout(() if order == tuple(c.key for c in columns[frozen:]) else order,
                  frozenset(e.column.key for e in found if not e.shown),
                  {e.column.key: e.column.width for e in found
                   if e.column.width != declared[e.column.key]})


def _mark(entry: Entry) -> str:
    return " = " if entry.fixed else "[x]" if entry.shown else "[ ]"


class _List(VirtualTable, inherit_bindings=False):
    """The columns as rows: the keys of sorting are for moving here."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", show=False), Binding("down,j", "move(1)", show=False),
        Binding("pageup", "page(-1)", show=False), Binding("pagedown", "page(1)", show=False),
        Binding("home", "move_to(0)", show=False), Binding("end", "move_to(-1)", show=False)]

    def __init__(self) -> None:
        super().__init__([
            Column("mark", "", 3, _mark, "left", style=lambda e: "accent" if e.shown else "dim"),
            Column("title", "COLUMN", 10, lambda e: e.column.title, "left",
                   style=lambda e: "strong" if e.shown else "dim"),
            Column("width", "WIDE", 4, lambda e: str(e.column.width)),
            Column("help", "WHAT IT IS", 40, lambda e: e.column.help or e.column.title, "left",
                   style=lambda e: "normal" if e.shown else "dim"),
        ], lambda e: e.column.key, frozen=3, id="list")


class ColumnChooser(CalmModal):
    """Which columns, how wide, in which order. Dismissed with the layout, or None to undo."""

    CSS = """
    ColumnChooser { align: center bottom; background: transparent; }
    ColumnChooser > Vertical {
        width: 100%; max-width: 100; height: 75%; max-height: 30;
        border: round $secondary; background: ansi_default; padding: 0 1;
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "show_or_hide", "Show or hide", key_display="Space"),
        Binding("plus,equals_sign", "widen(1)", "Wider", key_display="+"),
        Binding("minus", "widen(-1)", "Narrower", key_display="-"),
        Binding("less_than_sign,shift+up,shift+left", "shift(-1)", "Move up", key_display="<"),
        Binding("greater_than_sign,shift+down,shift+right", "shift(1)", "Move down",
                key_display=">"),
        Binding("r", "reset", "As it was made"),
        Binding("enter", "keep", "Keep", key_display="Enter"),
        Binding("escape,q,C", "undo", "Undo", key_display="Esc"),
        Binding("f10", "app.quit", "Quit", show=False),
        Binding("tab,shift+tab", "nothing", show=False)]

    def __init__(self, table: VirtualTable, name: str = "") -> None:
        super().__init__()
        self.table = table
        self.before = table.layout_chosen
        self.entries = entries(table.declared, table.frozen, self.before)
        self.about = name

    def compose(self) -> ComposeResult:
        """A list, with its keys below."""
        with Vertical():
            yield Rule("Columns" + (f" of {self.about}" if self.about else ""), id="title")
            yield _List()
            yield Line(id="hints")

    def on_mount(self) -> None:
        """The cursor is on the first column that can be changed."""
        pieces: list[Piece] = []
        for key, label in KEYS:
            pieces += [(key, "accent"), (f" {label}  ", "normal")]
        self.query_one("#hints", Line).set(pieces)
        rows = self.query_one(_List)
        rows.set_rows(self.entries)
        first = next((e for e in self.entries if not e.fixed), self.entries[0])
        rows.select(first.column.key)
        rows.focus()

    # -- keys ----------------------------------------------------------------------------------

    @property
    def _at(self) -> int:
        key = self.query_one(_List).selected
        return next((n for n, e in enumerate(self.entries) if e.column.key == key), 0)

    def _say(self, text: str) -> None:
        self.query_one("#title", Rule).set(note=text)

    def _changed(self, note: str = "") -> None:
        self._say(note)
        self.query_one(_List).set_rows(self.entries)
        self.table.choose_columns(layout_of(self.entries, self.table.declared))

    def action_show_or_hide(self) -> None:
        """Hide it, or show it."""
        at = self._at
        entry = self.entries[at]
        if entry.fixed:
            self._say("it says which row it is: always there")
        elif entry.shown and sum(e.shown and not e.fixed for e in self.entries) == 1:
            self._say("the last one stays")
        else:
            self.entries[at] = replace(entry, shown=not entry.shown)
            self._changed()

    def action_widen(self, step: int) -> None:
        """A cell more, or less."""
        at = self._at
        entry = self.entries[at]
        width = min(max(entry.column.width + step, WIDTHS[0]), WIDTHS[1])
        self.entries[at] = replace(entry, column=replace(entry.column, width=width))
        shown = [e for e in self.entries if e.shown]
        last = entry is shown[-1] if entry in shown else False
        self._changed("the last takes what remains of the line" if last else "")

    def action_shift(self, step: int) -> None:
        """One place to the left or the right in the table."""
        at, to = self._at, self._at + step
        if self.entries[at].fixed or not 0 <= to < len(self.entries) or self.entries[to].fixed:
            self._say("it cannot go further")
            return
        self.entries[at], self.entries[to] = self.entries[to], self.entries[at]
        self._changed()
        rows = self.query_one(_List)
        rows.select(self.entries[to].column.key)

    def action_reset(self) -> None:
        """All of it as ktop has it."""
        self.entries = entries(self.table.declared, self.table.frozen, Layout())
        self._changed("as ktop has it")

    def action_keep(self) -> None:
        """Keep it, also for next time."""
        self.dismiss(self.table.layout_chosen)

    def action_undo(self) -> None:
        """As it was before."""
        self.table.choose_columns(self.before)
        self.dismiss(None)

    def action_nothing(self) -> None:
        """Panes do not change below a dialog."""
