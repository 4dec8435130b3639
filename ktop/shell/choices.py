"""What the user chooses and the config file keeps: columns, sorting, theme, interval, keys."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from textual.app import SystemCommand
from textual.timer import Timer

from ktop import theme
from ktop.config import Columns, ConfigError, Settings
from ktop.diagnosis.thresholds import chosen
from ktop.keymap import keymap
from ktop.panes.base import Pane
from ktop.screens.base import FrameScreen
from ktop.shell.base import Shell
from ktop.sources import STARTING
from ktop.text import clean
from ktop.widgets.columns import Layout
from ktop.widgets.strips import StripWidget
from ktop.widgets.table import VirtualTable
from ktop.wire import Control

QUIET_S = 1.0  # nothing was chosen for so long: write it down


def table_name(table: VirtualTable) -> str | None:
    """What the config calls a table: `tcp-connections`; None for those that are not kept."""
    place = next((n for n in table.ancestors if isinstance(n, Pane | FrameScreen)), None)
    if place is None or not table.id:
        return None
    layer = getattr(place, "layer", "") or type(place).__name__.lower()
    return f"{layer}-{table.id.removesuffix('-table')}"


def _layout(columns: Columns) -> Layout:
    return Layout(columns.order, frozenset(columns.hidden), columns.width)


class Choices(Shell):
    """Columns, sorting, theme, keys; the config file."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.settings: Settings | None = None
        self._unsaved: dict[tuple[str, ...], Any] = {}
        self._save_timer: Timer | None = None
        self._complaint = ""
        for made in theme.textual_themes()[1:]:
            self.register_theme(made)

    def use_settings(self, settings: Settings) -> list[str]:
        """Before the app runs: what the config says. What is chosen later is written there.

        What is wrong with it, a line each.
        """
        problems, changes = keymap(settings, self.panes)
        settings = replace(settings, problems=(*settings.problems, *problems))
        self.settings = settings
        self.set_keymap(changes)
        self._put_on(settings.theme)
        self.limits = chosen(settings.thresholds)
        self.look_anew()
        return settings.complaints()

    async def on_mount(self) -> None:
        """The source is there: tell it the thresholds. The user: what is broken in the file."""
        settings = self.settings
        if settings is None:
            return
        asked = {name.removesuffix("_slow"): int(ns) for name, ns in settings.thresholds.items()
                 if name.endswith("_slow")}
        if asked:
            self.source.ask(Control(thresholds=asked))
        if settings.problems:
            more = len(settings.problems) - 1
            self._complaint = (f"{settings.file.name}: {settings.problems[0]}; left out"
                               + (f" (and {more} more)" if more else ""))
            self._complain()

    def source_changed(self) -> None:
        """What is wrong in the file is said when somebody may look: with the first sample."""
        super().source_changed()
        self._complain()

    def _complain(self) -> None:
        if self._complaint and self.source.state != STARTING:
            text, self._complaint = self._complaint, ""
            self.say(text, "bad")

    # -- tables --------------------------------------------------------------------------------

    def dress(self, table: VirtualTable) -> None:
        """A table comes to be: the columns and the order that were chosen for it."""
        name = table_name(table)
        if self.settings is None or name is None:
            return
        known = {c.key for c in table.declared}
        chosen = self.settings.columns.get(name)
        if chosen is not None:
            table.choose_columns(_layout(chosen))
            self._unknown(f"columns.{name}", {*chosen.order, *chosen.hidden, *chosen.width} - known)
        key, descending = self.settings.sort.get(name, ("", False))
        if any(c.key == key and c.sort for c in table.declared) and not table.feed:
            table.sort_key, table.descending = key, descending
        elif key:
            self._unknown(f"sort.{name}", {key})

    def _unknown(self, where: str, names: set[str]) -> None:
        """The file speaks of columns that this table does not have, or does not sort by."""
        if names and self.settings is not None:
            line = self.settings.lines.get(where, 0)
            self.say(f"{self.settings.file.name}: line {line}: {where}: no such column: "
                     f"{clean(', '.join(sorted(names)), 60)}", "bad")

    def on_virtual_table_sorted(self, message: VirtualTable.Sorted) -> None:
        """Keep the order."""
        table = message.table
        name = table_name(table)
        if name is not None and table.sort_key:
            self.keep(("sort", name),
                      f"{table.sort_key} {'desc' if table.descending else 'asc'}")

    def action_columns(self) -> None:
        """Choose the columns of the table at hand."""
        from ktop.screens.columns import ColumnChooser

        table = self.table_at_hand()
        if table is None:
            self.say("there is no table here")
            return
        name = table_name(table)

        def chosen(layout: Layout | None) -> None:
            if layout is not None and name is not None:
                self.keep_columns(name, layout)

        self.push_screen(ColumnChooser(table, name or ""), chosen)

    def table_at_hand(self) -> VirtualTable | None:
        """The table that keys are about."""
        raise NotImplementedError

    def keep_columns(self, name: str, layout: Layout) -> None:
        """Write a table's columns down."""
        for part, value in (("order", list(layout.order)), ("hidden", sorted(layout.hidden)),
                            ("width", dict(layout.widths))):
            self.keep(("columns", name, part), value or None)

    # -- theme ---------------------------------------------------------------------------------

    def _put_on(self, name: str) -> None:
        theme.use_theme(name)
        self.theme = theme.THEME if name == "default" else f"ktop-{name}"

    def action_theme(self, name: str) -> None:
        """Another theme, now and next time."""
        self._put_on(name)
        for screen in self.screen_stack:
            for widget in screen.query(StripWidget):
                widget.repaint()
        self.keep(("theme", "name"), name)
        if name != "mono" and not theme.color_on():
            self.say("NO_COLOR is set: there are no colours", "warn")

    def theme_commands(self) -> Iterable[SystemCommand]:
        """For the palette."""
        about = {"default": "The terminal's own colours.", "mono": "No colour at all.",
                 "contrast": "Nothing dim, alarms on a ground of their own."}

        def choose(name: str) -> Callable[[], None]:
            return lambda: self.action_theme(name)

        for name in theme.THEMES:
            yield SystemCommand(f"Theme: {name}", about[name], choose(name))

    # -- the file ------------------------------------------------------------------------------

    def keep(self, where: tuple[str, ...], value: Any) -> None:
        """A choice for next time: written when nothing has been chosen for a moment."""
        if self.settings is None:
            return
        self._unsaved[where] = value
        if self._save_timer is not None:
            self._save_timer.stop()
        self._save_timer = self.set_timer(QUIET_S, self._save_soon)

    async def _save_soon(self) -> None:
        """Not in the loop's thread: a home directory may be far away."""
        changes, self._unsaved = self._unsaved, {}
        if problem := await asyncio.to_thread(self._save, changes):
            self.say(problem, "warn")

    def _save(self, changes: dict[tuple[str, ...], Any]) -> str:
        """Why it could not be written, "" when it was."""
        if self.settings is None or not changes:
            return ""
        try:
            from ktop import config_store

            config_store.save(self.settings.file, changes)
        except (ConfigError, ImportError) as err:  # after sudo not every library can be read
            return str(err)
        return ""

    def on_unmount(self) -> None:
        """What is not written yet is written now."""
        changes, self._unsaved = self._unsaved, {}
        self._save(changes)
