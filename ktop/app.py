"""The Textual application: which pane, which frame, which keys. It draws nothing itself.

Frames come from a `Source` whenever they come; a tick shows the newest one to the pane in view, in
one batch, and only when the terminal has taken the picture before. Keys never wait for a tick.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, cast

from textual.app import ComposeResult, SystemCommand
from textual.binding import Binding, BindingType
from textual.command import CommandPalette
from textual.screen import Screen
from textual.widget import Widget

from ktop import format as fmt
from ktop import terminal
from ktop.actions import ACTIONS, PAIRS, bindings
from ktop.driver import CalmPalette, CalmScreen
from ktop.launch import Options, Session
from ktop.panes import PANES, Pane
from ktop.scope import HOST, Scope
from ktop.screens.help import Help, KeyLine, help_page
from ktop.shell.finding import Finding
from ktop.shell.scoping import Scoping
from ktop.shell.timing import Timing
from ktop.sources import ENDED, SILENT, LiveSource, Source
from ktop.sources_replay import ReplaySource
from ktop.widgets.header import (
    Banner,
    Crumbs,
    Header,
    Hint,
    Keys,
    Status,
    TabBar,
)
from ktop.widgets.pipes import PipeBar
from ktop.widgets.strips import Box
from ktop.widgets.timeline import Timeline

# The table's own names for what the shell's keys do as well.
SORTING = ("sort_step", "invert")
KEY_NAMES = {"up": "Up", "down": "Down", "left": "Left", "right": "Right", "pageup": "PgUp",
             "pagedown": "PgDn", "home": "Home", "end": "End", "enter": "Enter", "escape": "Esc"}


class MainScreen(CalmScreen):
    """The screen of the panes. Textual's own screens take Tab for moving the focus."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("tab", "app.pane_step(1)", show=False, id="ktop.pane_step(1)"),
        Binding("shift+tab", "app.pane_step(-1)", show=False, id="ktop.pane_step(-1)")]


class KtopApp(Scoping, Timing, Finding):
    """ktop's screen."""

    TITLE = "ktop"
    ENABLE_COMMAND_PALETTE = True
    COMMAND_PALETTE_BINDING = "ctrl+p"
    CSS = """
    Screen { layout: vertical; overflow: hidden; }
    #panes { height: 1fr; width: 1fr; overflow: hidden; }
    #panes > * { height: 1fr; width: 1fr; }
    CommandPalette > Vertical {
        width: 84; max-width: 100%; margin-top: 2; background: ansi_default;
    }
    CommandPalette SearchIcon { display: none; }
    CommandPalette #--input, CommandPalette #--input.--list-visible {
        border: round $secondary; background: ansi_default; color: ansi_default; padding: 0 1;
    }
    CommandPalette CommandInput, CommandPalette CommandInput:focus {
        border: none; height: 1; padding: 0; background: ansi_default;
    }
    CommandPalette CommandList, CommandPalette CommandList:focus {
        border: round $secondary; background: ansi_default; scrollbar-size-vertical: 1;
    }
    CommandPalette CommandList > .option-list--option { padding: 0 1; }
    CommandPalette > .command-palette--help-text { text-style: not bold; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        *bindings(),
        # also where a text field would take it for copying
        Binding("ctrl+c", "quit", show=False, priority=True)]

    def __init__(self, source: Callable[[], Source], interval_ns: int = 1_000_000_000,
                 ascii_only: bool = False, panes: Sequence[type[Pane]] = PANES,
                 scope: Scope = HOST) -> None:
        super().__init__(interval_ns, ascii_only, panes)
        self._make_source = source
        self._first_scope = scope
        self._focus_of: dict[str, Widget | None] = {}

    # -- building ------------------------------------------------------------------------------

    def get_default_screen(self) -> Screen[Any]:
        """Ours."""
        return MainScreen(id="_default")

    def compose(self) -> ComposeResult:
        """Lines around one body. Panes are built when they are first looked at."""
        yield Header()
        yield TabBar([pane.title for pane in self.panes])
        yield Timeline()
        yield PipeBar()
        yield Crumbs()
        yield Banner()
        yield Box(id="panes")
        yield Status()
        yield Keys()

    async def on_mount(self) -> None:
        """Show the first pane and begin to listen."""
        self.header, self.tabs = self.query_one(Header), self.query_one(TabBar)
        self.banner, self.status = self.query_one(Banner), self.query_one(Status)
        self.keys, self.crumbs = self.query_one(Keys), self.query_one(Crumbs)
        self.pipes = self.query_one(PipeBar)
        self.timeline = self.query_one(Timeline)
        self._built = True
        await self._show_pane(1)
        self.app_resume_signal.subscribe(self, self._resumed)
        self.screen.bindings_updated_signal.subscribe(self, self.keys_changed)
        self.set_scope(self._first_scope)
        self.source = self._make_source()
        self.source.start(self.arrived, self.source_changed)
        if isinstance(self.source, ReplaySource):
            self.open_recording(self.source)
            self.set_scope(self._first_scope)
        self.want_probes()
        self.source_changed()

    def on_unmount(self) -> None:
        """The collector sees the end of its stream."""
        self.source.close()

    def get_key_display(self, binding: Binding) -> str:
        """As the table has it."""
        return binding.key_display or super().get_key_display(binding)

    def keys_changed(self, _screen: Any = None) -> None:
        """The footer: keys of what has the focus, then ours."""
        if not self._built or len(self.screen_stack) != 1:
            return
        hints = [Hint(shown, label, 5 + n) for n, (shown, label) in enumerate(self._local_keys())]
        if self.source.state in (ENDED, SILENT) and self.renewable:
            hints.insert(0, Hint("r", "Restart collector", 0))
        moving = self.time_hints()
        hints += moving
        hints += [Hint(shown, label, 20 + rank) for shown, label, rank in PAIRS
                  if not (moving and label == "Interval")]
        for action in sorted(ACTIONS, key=lambda action: -action.footer):
            if action.footer and not (moving and action.name == "pause"):
                resume = action.name == "pause" and not self.following
                hints.append(Hint(action.shown.split()[0], "Resume" if resume else action.label,
                                  action.footer + 15 * (action.footer > 3)))
        self.keys.set(hints)

    def _local_keys(self) -> list[KeyLine]:
        """Keys that the pane, or what has the focus in it, wants in the footer."""
        found: dict[str, KeyLine] = {}
        for active in self.screen.active_bindings.values():
            binding = active.binding
            if active.node is not self and binding.show and binding.description and active.enabled:
                found.setdefault(binding.action, (self.get_key_display(binding),
                                                  binding.description))
        return list(found.values())

    # -- panes ---------------------------------------------------------------------------------

    async def _show_pane(self, number: int) -> None:
        self.pane.display = False
        self._focus_of[self.pane.key] = self.focused
        self.number = number
        pane = self.pane
        if not pane.is_attached:
            await self.query_one("#panes").mount(pane)
        pane.display = True
        self.want_probes()
        self.tabs.set(number)
        self.show_pane(pane)
        self._focus(pane)
        self.keys_changed()

    def _focus(self, pane: Pane) -> None:
        """Where it was when the pane was last in view, else where the pane wants it."""
        last = self._focus_of.get(pane.key)
        if last is not None and last.is_attached and last.display:
            self.screen.set_focus(last)
        else:
            pane.focus_main()

    async def on_tab_bar_chosen(self, message: TabBar.Chosen) -> None:
        """A click on a tab."""
        await self.action_pane(message.number)

    async def action_pane(self, number: int) -> None:
        """Show a pane by its number."""
        if number != self.number and 1 <= number <= len(self.panes):
            with self.batch_update():
                await self._show_pane(number)

    def on_pane_ask(self, message: Pane.Ask) -> None:
        """A pane wants something of the collector."""
        self.source.ask(message.wish)

    async def action_pane_step(self, step: int) -> None:
        """Show the pane beside this one."""
        await self.action_pane((self.number - 1 + step) % len(self.panes) + 1)

    # -- actions -------------------------------------------------------------------------------

    def action_sort(self, step: int) -> None:
        """Sort by the column beside the one sorted by."""
        if (table := self.table_at_hand()) is not None:
            table.action_sort_step(step)

    def action_invert(self) -> None:
        """Turn the order round."""
        if (table := self.table_at_hand()) is not None:
            table.action_invert()

    def action_help(self) -> None:
        """What this pane shows, and all keys."""
        pane = self.pane
        notes = self.scope_notes(pane.layer)
        if self.newest is not None:
            health = self.newest.health
            notes += [text for text in (health.banner, *health.notes) if text]
            notes += [f"{p.name}: {p.status}. {p.reason or p.fallback}".rstrip(". ") + "."
                      for p in health.probes if p.status != "live" and health.source == "bpf"]
            notes += [f"The collector takes {fmt.size(health.collector_rss_bytes)} of memory; "
                      f"a sample took {fmt.duration(health.tick_ns)} of CPU time."]
        self.push_screen(Help(help_page(pane.title, pane.help_text(), self._pane_keys(), notes)))

    def _pane_keys(self) -> list[KeyLine]:
        """All keys of the pane and of what has the focus, shown in the footer or not."""
        ours = {action.label for action in ACTIONS}
        found: dict[str, KeyLine] = {}
        for node, binding in self._pane_bindings():
            name = ("a" if node is self.pane else "b") + binding.action
            text = (binding.tooltip or binding.description).rstrip(".") + "."
            key = KEY_NAMES.get(binding.key, self.get_key_display(binding))
            if binding.action.partition("(")[0] not in SORTING and binding.description not in ours:
                found[name] = (f"{found[name][0]} {key}" if name in found else key, text)
        return [found[name] for name in sorted(found, key=lambda name: name[0])]

    def _pane_bindings(self) -> list[tuple[Widget, Binding]]:
        """What the pane, and what has the focus in it, answer to."""
        return [(active.node, active.binding) for active in self.screen.active_bindings.values()
                if isinstance(active.node, Widget) and not isinstance(active.node, Screen)
                and active.binding.description]

    def action_command_palette(self) -> None:
        """Find an action by name."""
        if not CommandPalette.is_open(cast(Any, self)):
            self.push_screen(CalmPalette(id="--command-palette"))

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """For the palette: the table, and whatever the pane offers."""
        for action in ACTIONS:
            if action.name != "command_palette":
                yield SystemCommand(f"{action.label} ({action.shown})", action.about,
                                    lambda name=action.name: self._run(name, self))
        for node, binding in self._pane_bindings():
            if node is self.pane:
                yield SystemCommand(f"{binding.description} ({self.get_key_display(binding)})",
                                    binding.tooltip or f"In {self.pane.title}.",
                                    lambda name=binding.action, on=node: self._run(name, on))
        yield from self.theme_commands()

    async def _run(self, action: str, node: Any) -> None:
        await self.run_action(action, node)

    def action_restart(self) -> None:
        """A new collector after one has ended."""
        if self.replaying:
            self.say("this is a recording: there is no collector")
        elif self.source.state not in (ENDED, SILENT):
            self.say("the collector is running")
        elif self.source.restart():
            self.say("starting a new collector")
        else:
            self.say("nobody is there to start a collector: leave ktop and start it again", "bad")

    def action_redraw(self) -> None:
        """Draw all of it again: something else has written on the terminal."""
        self.redraw()

    def _resumed(self, _app: object) -> None:
        """After Ctrl-Z and fg the screen is blank."""
        self.redraw()


def preload() -> None:
    """Import what Textual would only import when it needs it, for a user who could not then."""
    import importlib
    import pkgutil

    import textual.widgets
    from rich.cells import cell_len

    import ktop.screens

    names = [f"{package.__name__}.{module.name}" for package in (textual.widgets, ktop.screens)
             for module in pkgutil.iter_modules(package.__path__)]
    for name in (*names, "regex", "tomlkit", "ktop.config_store", "difflib",
                 "concurrent.futures.thread", "textual.system_commands", "textual.pilot",
                 "textual.layouts.factory", "rich._emoji_codes", "_sha2",
                 "rich.traceback", "encodings.idna"):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    cell_len("\u6f22")  # what is not ASCII: Rich reads its table of widths


def main(session: Session) -> int:
    """The UI process of a live session; the exit status."""
    options = session.options
    return show(KtopApp(lambda: LiveSource(session), options.interval_ns, bool(options.ascii),
                        scope=options.scope or HOST), options)


def show(app: KtopApp, options: Options) -> int:
    """Run an app on this terminal, as the config file wants it; the exit status."""
    if (settings := options.settings) is not None:
        told = settings.complaints()  # by `go_by`
        for line in app.use_settings(settings):
            if line not in told:
                print(f"ktop: {line}; left out", file=sys.stderr)
    app.run(mouse=terminal.mouse_wanted(options.mouse))
    if app.failure is not None:
        raise app.failure
    return app.return_code or 0
