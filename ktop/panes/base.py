"""What a pane is: a view of Frames and their History, and of nothing else."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import ClassVar

from textual.message import Message
from textual.widget import Widget

from ktop.history import History
from ktop.model import Frame
from ktop.panes.groups import GroupTree
from ktop.widgets.columns import Column
from ktop.widgets.strips import Remembering
from ktop.widgets.table import VirtualTable
from ktop.wire import Control


class Pane(Remembering, can_focus=True):
    """One tab. It never reads the kernel, /proc or a clock.

    title, key: of the tab. layer: whose on-demand probes are wanted while it is looked at; also: of
    other layers.
    BINDINGS carry ids and descriptions; footer, help and palette are made
    from them.
    """

    class Ask(Message):
        """The pane wants something of the collector (a threshold, for one)."""

        def __init__(self, wish: Control) -> None:
            super().__init__()
            self.wish = wish

    title: ClassVar[str] = ""
    key: ClassVar[str] = ""
    layer: ClassVar[str] = ""
    also: ClassVar[tuple[str, ...]] = ()
    grouped = False  # tables are folded by control group
    DEFAULT_CSS = """
    Pane { width: 1fr; height: 1fr; layout: vertical; }
    """

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._trees: dict[str, GroupTree] = {}

    def show(self, frame: Frame, history: History) -> None:
        """Show this tick. Called once per tick while visible, and at once on becoming visible."""
        raise NotImplementedError

    def refused(self) -> None:
        """What it asked for cannot be had: a recording holds what was taken then."""

    def help_text(self) -> str:
        """Plain text: what each figure means, its unit, where in the kernel it comes from."""
        raise NotImplementedError

    def tables(self) -> list[VirtualTable]:
        """The tables that are in view, the main one first: what sort and find work on."""
        return [table for table in self.query(VirtualTable) if in_view(table, self)]

    def fold_tables(self, frame: Frame) -> int:
        """Fold the tables by control group, or unfold them; how many in view are folded.

        A table can be while its rows say what control group they belong to.
        """
        groups = {group.id: group for group in frame.cgroups}
        for table in self.query(VirtualTable):
            tree = self._trees.setdefault(str(table.id), GroupTree())
            tree.groups = groups
            table.fold_by(tree if self.grouped else None)
            if not self.grouped:
                tree.forget()
        return sum(1 for table in self.tables() if table.folding is not None)

    def focus_main(self) -> None:
        """Put the keyboard focus where this pane wants it."""
        tables = self.tables()
        (tables[0] if tables else self).focus()

    def action_other(self) -> None:
        """The next table in view."""
        tables = self.tables()
        if tables:
            at = next((i for i, table in enumerate(tables) if table.has_focus), -1)
            tables[(at + 1) % len(tables)].focus()

    def _rules(self) -> None:
        """Have the rules say where the focus is."""

    def on_descendant_focus(self) -> None:
        """The rules say where the focus is."""
        self._rules()

    def on_descendant_blur(self) -> None:
        """The rules say where the focus is."""
        self._rules()

    def on_focus(self) -> None:
        """A pane holds the focus itself only while it has no table in view: its keys must work."""
        tables = self.tables()
        if tables:
            tables[0].focus()


def in_view(widget: Widget, pane: Widget) -> bool:
    """Whether a widget inside `pane` is displayed, and all that it is in."""
    node: Widget | None = widget
    while node is not None and node is not pane:
        if not node.display:
            return False
        node = node.parent if isinstance(node.parent, Widget) else None
    return True


class Names:
    """Users and cgroups by number. Remembers those that are gone: events still speak of them."""

    LIMIT = 20_000

    def __init__(self) -> None:
        self._users: dict[int, str] = {}
        self._cgroups: dict[int, str] = {}
        self.uptime_ns = 0

    def learn(self, frame: Frame) -> None:
        """Take the names of this frame."""
        if len(self._cgroups) > self.LIMIT:
            self._cgroups.clear()
        self._users.update(frame.users)
        self._cgroups.update((group.id, group.name) for group in frame.cgroups)
        self.uptime_ns = frame.host.uptime_ns

    def user(self, uid: int | None) -> str:
        """User name, else the number, "-" when unknown."""
        return "-" if uid is None else self._users.get(uid, str(uid))

    def cgroup(self, number: int | None) -> str:
        """Container, pod or unit; its id when it was never seen; "-" when unknown."""
        return "-" if number is None else self._cgroups.get(number, str(number))


def short_command(args: str) -> str:
    """A command line without the directory of its program: what fits is what tells it apart."""
    program, space, rest = args.partition(" ")
    if program[:1] in ("/", ".") and not program.endswith("/"):
        program = program.rpartition("/")[2]
    return program + space + rest


def why_missing(frame: Frame, probe: str, what: str = "no histogram") -> str:
    """Why something that `probe` measures is not there, in one line."""
    found = next((p for p in frame.health.probes if p.name == probe), None)
    if found is not None and found.status != "live":
        instead = f"; instead: {found.fallback}" if found.status == "fallback" else ""
        return f"{what}: probe {found.name} {found.status}: {found.reason or 'no reason'}{instead}"
    if frame.clock.interval_ns is None:
        return f"{what} yet: it takes one full interval"
    if frame.health.source != "bpf":
        return f"{what}: without BPF it cannot be known"
    return f"{what} so far"


HELP_WIDTH = 76  # what a help page of an 80-column terminal holds


def paragraph(text: str, width: int = HELP_WIDTH) -> str:
    """Running text for a help page."""
    return textwrap.fill(" ".join(text.split()), width)


def column_help(columns: Iterable[Column], width: int = HELP_WIDTH) -> str:
    """The columns' own help, one below the other."""
    lines: list[str] = []
    for column in columns:
        if column.help:
            lines += textwrap.wrap(column.help, width, initial_indent=f"  {column.title:<10}",
                                   subsequent_indent=" " * 12)
    return "\n".join(lines)
