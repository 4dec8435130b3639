"""What panes of several views share: sections that come and go, focus, subject, thresholds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from textual import events
from textual.binding import Binding
from textual.containers import Container
from textual.widget import Widget

from ktop.history import History, Tick
from ktop.history_feeds import Feed
from ktop.model import Frame
from ktop.panes.base import Names, Pane, in_view
from ktop.widgets.columns import Key
from ktop.widgets.strips import Line, Piece, Rule
from ktop.widgets.table import VirtualTable
from ktop.wire import Control

MINUTE_NS = 60_000_000_000
SPAN_NS = 5 * MINUTE_NS


def view_keys(layer: str, views: str) -> list[Binding]:
    """The keys that every pane of views has; `views` says which those are."""
    return [Binding("v", "view", "View", id=f"{layer}.view", tooltip=views),
            Binding("o", "other", "Other part", id=f"{layer}.other",
                    tooltip="Move the focus to the next table")]


def chart_span(history: History, counts: Callable[[Tick], object] = lambda _: True,
               ) -> tuple[int, str]:
    """How much time a picture of the past shows, and its name.

    The first minute is shown large: in an incident nobody waits for five. `counts`: whether a tick
    has anything to show.
    """
    first = next((tick.at_ns for tick in history.ticks if counts(tick)), None)
    young = first is None or history.ticks[-1].at_ns - first < MINUTE_NS
    return (MINUTE_NS, "minute") if young else (SPAN_NS, "5 minutes")


class ViewPane(Pane):
    """A line of totals and sections, of which each view shows some; `v` goes to the next view.

    views: the sections of each view. big_views: those of a view when the pane has BIG cells or
    more. titles: of every section, in the order of the screen. A section NAME is a container with
    this id, a rule `NAME-rule` and often a table `NAME-table`; `_show_NAME(*self._about(frame))`
    fills it. groups: containers that are there while any of these sections is. split: two
    sections or groups; the class -split is set while both are there. subjects: sections whose
    row under the cursor is the subject of the sections in `followers`.
    """

    views: ClassVar[Mapping[str, tuple[str, ...]]]
    big_views: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    titles: ClassVar[Mapping[str, str]]
    groups: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    split: ClassVar[tuple[str, str] | None] = None
    subjects: ClassVar[tuple[str, ...]] = ()
    followers: ClassVar[tuple[str, ...]] = ()
    BIG: ClassVar[tuple[int, int]] = (120, 32)
    DEFAULT_CSS = """
    ViewPane #body { layout: horizontal; width: 1fr; height: 1fr; }
    ViewPane .column, ViewPane .section { layout: vertical; width: 1fr; height: 1fr; }
    """

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.names = Names()
        self.view = next(iter(self.views))
        self.shown: tuple[str, ...] = ()  # sections of the view, at this size
        self._subject: tuple[str, Key] | None = None  # section and identity of its row
        self._frame: Frame | None = None
        self._history = History()
        self._fed: dict[str, object] = {}
        self._heights: dict[str, int | str] = {}

    def _section(self, name: str, *widgets: Widget) -> Container:
        return Container(Rule(self.titles[name], id=f"{name}-rule"), *widgets, id=name,
                         classes="section")

    def on_mount(self) -> None:
        """The first view."""
        self._arrange()

    # -- each tick -----------------------------------------------------------------------------

    def _about(self, frame: Frame) -> tuple[Any, ...]:
        """What sections are made from."""
        return (frame,)

    def _summary(self, *about: Any) -> list[list[Piece]]:
        raise NotImplementedError

    def show(self, frame: Frame, history: History) -> None:
        """This tick: only what is in view is worked out."""
        self._frame, self._history = frame, history
        self.names.learn(frame)
        about = self._about(frame)
        self.query_one("#summary", Line).set(*self._summary(*about))
        self._show(self.shown, about)

    def _show(self, sections: tuple[str, ...], about: tuple[Any, ...]) -> None:
        for section in sections:
            getattr(self, f"_show_{section}")(*about)

    def _again(self) -> None:
        """Show the same tick otherwise."""
        if self._frame is not None:
            self.show(self._frame, self._history)

    def _fill(self, section: str, rows: list[Any], empty: str, note: str = "") -> None:
        table = self.query_one(f"#{section}-table", VirtualTable)
        table.empty = empty
        self.query_one(f"#{section}-rule", Rule).set(note=note)
        table.set_rows(rows)

    def _feed(self, section: str, feed: Feed[Any], empty: str, note: str, kind: str = "",
              keep: Callable[[Any], bool] = lambda _: True) -> None:
        """A feed's table is given its rows only when there are new ones, or of another kind."""
        self.query_one(f"#{section}-rule", Rule).set(note=note)
        table = self.query_one(f"#{section}-table", VirtualTable)
        state = (id(feed), feed.newest, empty, kind)
        if self._fed.get(section) != state:
            self._fed[section] = state
            table.empty = empty
            table.set_rows([fed for fed in feed.newest_first() if keep(fed.event)])

    # -- the subject ---------------------------------------------------------------------------

    def on_virtual_table_highlighted(self, message: VirtualTable.Highlighted) -> None:
        """Charts follow the cursor."""
        self._follow(str(message.table.id).removesuffix("-table"), message.key)

    def _follow(self, section: str, key: Key | None) -> None:
        """The cursor of a section's table is on this row now."""
        if section not in self.subjects:
            return
        if key is not None:
            self._subject = (section, key)
        elif self._subject is not None and self._subject[0] == section:
            self._subject = None
        self._show_followers()

    def _show_followers(self) -> None:
        if self._frame is not None:
            self._show(tuple(name for name in self.followers if name in self.shown),
                       self._about(self._frame))

    # -- layout --------------------------------------------------------------------------------

    @property
    def big(self) -> bool:
        """There is room for more than one section beside or below the other."""
        return self.size.width >= self.BIG[0] and self.size.height >= self.BIG[1]

    def on_heatmap_sized(self) -> None:
        """Now it is known how much its picture of the past can show."""
        self._again()

    def on_resize(self, _event: events.Resize) -> None:
        """Another size may have room for more, or less."""
        self._arrange()

    def _arrange(self) -> None:
        shown = self.views[self.view]
        self.shown = shown = self.big_views.get(self.view, shown) if self.big else shown
        there = {*shown, *(group for group, sections in self.groups.items()
                           if any(section in shown for section in sections))}
        for name in (*self.titles, *self.groups):
            self.query_one(f"#{name}").display = name in there
        if self.split:
            self.set_class(there.issuperset(self.split), "-split")
        self._rules()
        if self._frame is not None:
            # sizes are known after the layout: the charts ask for their width
            self.call_after_refresh(self._again)
        if self.is_attached and self.has_focus_within:
            focused = self.screen.focused
            if focused is None or focused is self or not in_view(focused, self):
                self.focus_main()

    def _fix_height(self, section: str, height: int | str) -> None:
        """A height that is not the style sheet's: what a table needs above others."""
        if self._heights.get(section) != height:
            self._heights[section] = height
            self.query_one(f"#{section}").styles.height = height

    def action_view(self, step: int = 1) -> None:
        """The next view."""
        views = list(self.views)
        self.view = views[(views.index(self.view) + step) % len(views)]
        self._arrange()
        self.focus_main()

    def _rules(self) -> None:
        for table in self.query(VirtualTable):
            name = str(table.id).removesuffix("-table")
            self.query_one(f"#{name}-rule", Rule).set(active=table.has_focus)


class SlowPane(ViewPane):
    """A pane with a feed of what was slow; `(` and `)` change what counts as that.

    finest_ns, coarsest_ns: the limits. least_ns: what half of the finest is.
    """

    finest_ns: ClassVar[int]
    coarsest_ns: ClassVar[int] = 60_000_000_000
    least_ns: ClassVar[int]

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._asked_ns: int | None = None  # the collector may not have heard of it yet

    def refused(self) -> None:
        """What counts as slow stays what it was."""
        self._asked_ns = None
        self._again()

    def _told_ns(self, frame: Frame) -> int | None:
        """What the collector counts as slow; None while it has no such layer."""
        raise NotImplementedError

    def _slow_ns(self) -> int | None:
        """What counts as slow: as asked for, until the collector says the same."""
        told = self._told_ns(self._frame) if self._frame is not None else None
        if self._asked_ns == told:
            self._asked_ns = None
        return told if self._asked_ns is None else self._asked_ns

    def action_threshold(self, step: int) -> None:
        """Half or twice what counts as slow."""
        ns = self._slow_ns()
        if ns is None:
            return
        if step > 0:
            ns = min(max(2 * ns, self.finest_ns), self.coarsest_ns)
        else:
            ns = ns // 2 if ns // 2 >= self.finest_ns else self.least_ns
        self._asked_ns = ns
        self.post_message(self.Ask(Control(thresholds={self.layer: ns})))
        self._again()
