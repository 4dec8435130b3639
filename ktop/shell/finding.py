"""Filter and search: `/` n N Esc. The prompt takes every key before anything else can."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from textual import events

from ktop import format as fmt
from ktop.query import QueryError, parse
from ktop.query_complete import complete
from ktop.query_match import Matcher, SlowPattern, compile
from ktop.screens.base import FrameScreen
from ktop.shell.choices import Choices
from ktop.widgets.prompt import Prompt
from ktop.widgets.table import VirtualTable

# what the prompt leaves to the application: leaving, suspending, drawing anew
LEFT_ALONE = ("ctrl+c", "ctrl+q", "ctrl+z", "ctrl+l", "f10")


@dataclass
class _Open:
    """The prompt while it is open, and how the table was before. waiting: held back so far."""

    prompt: Prompt
    table: VirtualTable
    text: str
    filter: Any
    selected: Any
    top: int
    over: Any  # the screen it is on
    waiting: tuple[Matcher, str] | None = None


class Finding(Choices):
    """Filter, search."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._open: _Open | None = None
        self._queries: list[str] = []

    def table_at_hand(self) -> VirtualTable | None:
        """The table that keys are about: the one with the focus, or the first in view."""
        if isinstance(self.focused, VirtualTable):
            return self.focused
        if len(self.screen_stack) > 1:
            return next(iter(self.screen.query(VirtualTable)), None)
        return next(iter(self.pane.tables()), None)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """`/` comes before everything else has its keys, but not in dialogs: they want text.

        Nor in a screen that has something of its own to look through.
        """
        if action == "find":
            return self._open is None and (len(self.screen_stack) == 1 or (
                isinstance(self.screen, FrameScreen) and not hasattr(self.screen, "action_find")))
        return super().check_action(action, parameters)

    async def on_event(self, event: events.Event) -> None:
        """While the prompt is open every key is the prompt's."""
        typed = isinstance(event, events.Key | events.Paste) and not event.is_forwarded
        if typed and self._open is not None and self._open.over is not self.screen:
            self._typed_out(True)  # the screen that it was on has gone
        if self._open is not None and typed and getattr(event, "key", "") not in LEFT_ALONE:
            self._open.prompt.take(event)  # type: ignore[arg-type]
            return
        await super().on_event(event)

    # -- the prompt ----------------------------------------------------------------------------

    async def action_find_user(self) -> None:
        """The filter of a user is begun."""
        table = self.table_at_hand()
        if table is None or all(column.title != "USER" for column in table.declared):
            self.say("no users here: u is for tables with the column USER")
        else:
            await self.action_find("user = ")

    async def action_find(self, begun: str = "") -> None:
        """Type a filter for the table at hand; it holds while it is typed. begun: of a new one."""
        table = self.table_at_hand()
        if table is None:
            self.say("there is no table here to look through")
            return
        prompt = Prompt(self._queries, self._typed, self._typed_out, self._offer)
        filtering = table.filtering
        self._open = _Open(prompt, table, filtering.text, filtering.matcher, table.selected,
                           table.top, self.screen)
        self._lines_around(False)
        prompt.open(begun or filtering.text)
        await self.screen.mount(prompt)

    def _lines_around(self, there: bool) -> None:
        """The prompt stands where messages and keys are."""
        if len(self.screen_stack) == 1:
            self.status.display = self.keys.display = there

    def _offer(self, text: str, cursor: int) -> list[Any]:
        if self._open is None:
            return []
        table = self._open.table
        return complete(text, cursor, table.vocabulary(), table.unfiltered)

    def _typed(self, text: str) -> None:
        """The last query that can be understood holds."""
        if self._open is None:
            return
        self._open.waiting = None
        table, error = self._open.table, None
        try:
            asked = parse(text)
            matcher = compile(asked, table.vocabulary())
            if self._open.prompt.offers and not matcher.any(table.unfiltered):
                # a name that is still being typed is no reason to empty the table
                self._open.waiting = (matcher, text.strip())
            else:
                self._hold(matcher, text.strip())
        except QueryError as err:
            error = err
        except SlowPattern:
            error = QueryError("the pattern takes too long: make it simpler", 0)
        found = table.filtering
        counts = "0" if self._open.waiting else fmt.grouped(found.matched)
        self._open.prompt.show(error, f"{counts} of {fmt.grouped(found.total)}")

    def _hold(self, matcher: Matcher, text: str) -> None:
        """A filter for the table of the prompt; its cursor goes back to its row when it can."""
        assert self._open is not None
        table, wanted = self._open.table, self._open.selected
        table.set_filter(matcher, text)
        if wanted is not None and table.selected != wanted:
            table.select(wanted)

    def _typed_out(self, kept: bool) -> None:
        """Enter keeps what holds; Escape puts back what was."""
        if self._open is None:
            return
        if kept and self._open.waiting is not None:
            self._hold(*self._open.waiting)
        was, self._open = self._open, None
        if not kept:
            was.table.set_filter(was.filter, was.text)
            if was.selected is not None:
                was.table.select(was.selected)
            was.table.scroll_rows(was.top - was.table.top)
        elif was.prompt.error is not None:
            self.say(f"kept: {was.table.filtering.text or 'no filter'} "
                     f"({was.prompt.error.message})", "warn")
        if was.prompt.is_attached:
            was.prompt.remove()
        self._lines_around(True)
        self.keys_changed()

    def on_virtual_table_filtered(self, message: VirtualTable.Filtered) -> None:
        """A filter that was taken out says why."""
        if message.problem:
            self.say(message.problem, "bad")
            if self._open is not None:
                self._open.prompt.show(QueryError(message.problem, 0), "")
        self.keys_changed()

    # -- as in top -----------------------------------------------------------------------------

    def action_sort_column(self, title: str) -> None:
        """Sort by the column of this title, the largest first."""
        table = self.table_at_hand()
        key = next((c.key for c in table.declared if c.title == title and c.sort and not table.feed
                    ), None) if table is not None else None
        if table is None or key is None:
            self.say(f"no column {title} here: < and > choose another order")
        else:
            table.sort_by(key, True)

    def action_only_looks(self) -> None:
        """What ends processes elsewhere."""
        self.say("ktop only looks: it ends no process and changes no priority")

    # -- search --------------------------------------------------------------------------------

    def action_find_next(self, step: int) -> None:
        """Cursor to the next or the previous row that matches what was looked for last."""
        table = self.table_at_hand()
        if table is not None and (said := table.find(step)):
            self.say(said)
