"""The Textual application: which pane, which frame, which keys. It draws nothing itself.

Frames come from a `Source` whenever they come; a tick shows the newest one to the pane in view, in
one batch, and only when the terminal has taken the picture before. Keys never wait for a tick.
"""

from __future__ import annotations

import contextlib
import copy
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, cast

from textual.app import ComposeResult, SystemCommand
from textual.binding import Binding, BindingType
from textual.command import CommandPalette
from textual.containers import Container
from textual.screen import Screen
from textual.timer import Timer
from textual.widget import Widget

from ktop import format as fmt
from ktop import terminal, theme
from ktop.actions import ACTIONS, PAIRS, bindings
from ktop.driver import CalmPalette, CalmScreen, TerminalApp
from ktop.history import History
from ktop.launch import Session
from ktop.model import Frame
from ktop.panes import PANES, Pane
from ktop.screens.help import Help, KeyLine, help_page
from ktop.sources import ENDED, LIVE, STARTING, LiveSource, Silence, Source
from ktop.widgets.header import Banner, Cost, Header, Hint, Keys, Status, TabBar, interval_text
from ktop.widgets.table import VirtualTable
from ktop.wire import Control

INTERVALS_NS = tuple(round(s * 1e9) for s in (0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60))
MESSAGE_S = 5.0
RETRY_S = 0.1
MIN_SIZE = (80, 24)
# The table's own names for what the shell's keys do as well.
SORTING = ("sort_step", "invert")
KEY_NAMES = {"up": "Up", "down": "Down", "left": "Left", "right": "Right", "pageup": "PgUp",
             "pagedown": "PgDn", "home": "Home", "end": "End", "enter": "Enter", "escape": "Esc"}


class MainScreen(CalmScreen):
    """The screen of the panes. Textual's own screens take Tab for moving the focus."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("tab", "app.pane_step(1)", show=False),
        Binding("shift+tab", "app.pane_step(-1)", show=False)]


class KtopApp(TerminalApp):
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
        border: round ansi_cyan; background: ansi_default; color: ansi_default; padding: 0 1;
    }
    CommandPalette CommandInput, CommandPalette CommandInput:focus {
        border: none; height: 1; padding: 0; background: ansi_default;
    }
    CommandPalette CommandList, CommandPalette CommandList:focus {
        border: round ansi_cyan; background: ansi_default; scrollbar-size-vertical: 1;
    }
    CommandPalette CommandList > .option-list--option { padding: 0 1; }
    CommandPalette > .command-palette--help-text { text-style: not bold; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        *bindings(),
        # also where a text field would take it for copying
        Binding("ctrl+c", "quit", show=False, priority=True)]

    def __init__(self, source: Callable[[], Source], interval_ns: int = 1_000_000_000,
                 ascii_only: bool = False, panes: Sequence[type[Pane]] = PANES) -> None:
        theme.use_ascii(ascii_only)
        super().__init__(ascii_only)
        self.theme = theme.THEME
        self._make_source = source
        self.source: Source = Silence()
        self.interval_ns = interval_ns
        self.history = History()
        self.frame: Frame | None = None  # the one on screen
        self.newest: Frame | None = None
        self.paused = False
        self.panes = [make() for make in panes]
        self.number = 1
        self._focus_of: dict[str, Widget | None] = {}
        self._held: History | None = None  # the past as it was at the moment of the pause
        self._built = False
        self._tick_due = False
        self._skipped = 0
        self._held_up = False  # a tick had to wait for the terminal
        self._own_cpu: float | None = None
        self._cpu_mark = (time.monotonic(), time.process_time())
        self._message_timer: Timer | None = None

    # -- building ------------------------------------------------------------------------------

    def get_default_screen(self) -> Screen[Any]:
        """Ours."""
        return MainScreen(id="_default")

    def compose(self) -> ComposeResult:
        """Lines around one body. Panes are built when they are first looked at."""
        yield Header()
        yield TabBar([pane.title for pane in self.panes])
        yield Banner()
        yield Container(id="panes")
        yield Status()
        yield Keys()

    async def on_mount(self) -> None:
        """Show the first pane and begin to listen."""
        self.header, self.tabs = self.query_one(Header), self.query_one(TabBar)
        self.banner, self.status = self.query_one(Banner), self.query_one(Status)
        self.keys = self.query_one(Keys)
        self._built = True
        await self._show_pane(1)
        self.app_resume_signal.subscribe(self, self._resumed)
        self.screen.bindings_updated_signal.subscribe(self, self._keys_changed)
        self.source = self._make_source()
        self.source.start(self._arrived, self._source_changed)
        self.source.ask(Control(watch=[self.pane.layer]))
        self._source_changed()

    def on_unmount(self) -> None:
        """The collector sees the end of its stream."""
        self.source.close()

    def get_key_display(self, binding: Binding) -> str:
        """As the table has it."""
        return binding.key_display or super().get_key_display(binding)

    @property
    def pane(self) -> Pane:
        """The one in view."""
        return self.panes[self.number - 1]

    # -- frames --------------------------------------------------------------------------------

    def _arrived(self, frames: list[Frame]) -> None:
        """From the source: all of them into the history, the newest to the screen, soon."""
        for frame in frames:
            self.history.add(frame)
        self._skipped += len(frames) - (not self._tick_due)
        self.newest = frames[-1]
        if not self._tick_due:
            self._tick_due = True
            self.call_next(self._tick)

    def _tick(self) -> None:
        """Show what is newest, unless the terminal still has the last picture to swallow."""
        if self.return_code is not None:  # on the way out: the panes are being taken apart
            return
        if self.terminal_busy:
            self._held_up = True
            self.set_timer(RETRY_S, self._tick)
            return
        self._tick_due = False
        self._measure()
        with self.batch_update():
            if not self.paused:
                self.frame = self.newest
            self._show_frame(self.frame if not self.paused else None)

    def _measure(self) -> None:
        """Our own share of a CPU since the last tick."""
        now, used = time.monotonic(), time.process_time()
        before, used_before = self._cpu_mark
        if now - before >= 0.05:
            self._own_cpu = 100 * (used - used_before) / (now - before)
            self._cpu_mark = (now, used)

    def _show_frame(self, frame: Frame | None) -> None:
        """The frame to the pane in view and what it says about itself to the lines around it."""
        self._show_lines()
        if frame is None:
            return
        self.pane.show(frame, self._held or self.history)
        if self._skipped and self._held_up and self.source.state == LIVE:
            lost = "1 sample" if self._skipped == 1 else f"{self._skipped} samples"
            self.say(f"link slow: {lost} not drawn", "warn")
        self._skipped, self._held_up = 0, False

    @property
    def state_word(self) -> str:
        """LIVE, PAUSED, STARTING or DEAD."""
        if self.paused and self.source.state != ENDED:
            return "PAUSED"
        return self.source.state

    def cost(self) -> Cost:
        """What ktop takes, from the newest sample and our own clock."""
        if self.newest is None:
            return Cost(self._own_cpu)
        health = self.newest.health
        parts = [p for p in (self._own_cpu, health.collector_cpu_pct) if p is not None]
        return Cost(sum(parts) if parts else None, health.probes_cpu_pct,
                    health.probes_estimated, health.lost_total)

    def _show_lines(self) -> None:
        """Everything around the pane but the keys."""
        self._say_standing()
        cost = self.cost()
        self.header.set(self.frame or self.newest, cost, self.state_word, self.interval_ns)
        self.status.show_cost(cost)
        if self.source.state == ENDED:
            self.banner.say(f"The collector has ended ({self.source.reason}). "
                            "The last picture stays; r starts a new one.", "bad", "strong")
        else:
            self.banner.say((self.newest.health.banner if self.newest else None) or "")

    def _source_changed(self) -> None:
        if self._built:
            if self.source.state != ENDED:
                self._message_over()  # about the source that was
            self._show_lines()
            self._keys_changed()

    # -- messages ------------------------------------------------------------------------------

    def say(self, text: str, style: str = "normal") -> None:
        """A line for the user; after a while it gives way to what always holds."""
        if self._message_timer is not None:
            self._message_timer.stop()
        self._message_timer = self.set_timer(MESSAGE_S, self._message_over)
        self.status.say(text, style)

    def _message_over(self) -> None:
        if self._message_timer is not None:
            self._message_timer.stop()
            self._message_timer = None
        self._say_standing()

    def _say_standing(self) -> None:
        """What the status line says while there is nothing to report."""
        if self._message_timer is not None:
            return
        columns, lines = self.size
        text = ""
        if self.source.state == STARTING:
            text = "starting: waiting for the first sample"
        elif self.paused:
            text = "paused (samples go on), Space resumes"
        elif columns < MIN_SIZE[0] or lines < MIN_SIZE[1]:
            text = f"{columns}x{lines}: ktop needs 80x24 to show everything"
        elif self.frame is not None and self.frame.clock.interval_ns is None:
            text = "first sample, no rates yet"
        self.status.say(text, "dim")

    def on_resize(self) -> None:
        """Other room for the lines around the pane."""
        if self._built:
            self.call_after_refresh(self._show_lines)

    def _keys_changed(self, _screen: object = None) -> None:
        """The footer: keys of what has the focus, then ours."""
        if not self._built or len(self.screen_stack) != 1:
            return
        hints = [Hint(shown, label, 5 + n) for n, (shown, label) in enumerate(self._local_keys())]
        if self.source.state == ENDED:
            hints.insert(0, Hint("r", "Restart collector", 0))
        hints += [Hint(shown, label, 20 + rank) for shown, label, rank in PAIRS]
        hints += [Hint(action.shown.split()[0], "Resume" if action.name == "pause" and self.paused
                       else action.label, action.footer + 15 * (action.footer > 3))
                  for action in sorted(ACTIONS, key=lambda action: -action.footer) if action.footer]
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
        self.source.ask(Control(watch=[pane.layer]))
        self.tabs.set(number)
        if self.frame is not None:
            pane.show(self.frame, self._held or self.history)
        self._focus(pane)
        self._keys_changed()

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

    def action_pause(self) -> None:
        """Hold the picture still; samples go on coming in."""
        self.paused = not self.paused
        self._held = _still(self.history) if self.paused else None
        if not self.paused:
            self.frame, self._skipped = self.newest, 0
        self._message_over()
        with self.batch_update():
            self._show_frame(self.frame if not self.paused else None)
        self._keys_changed()

    def action_interval(self, step: int) -> None:
        """The next longer or shorter interval."""
        later = [i for i in INTERVALS_NS if (i - self.interval_ns) * step > 0]
        if not later:
            self.say(f"every {interval_text(self.interval_ns)} is as far as it goes")
            return
        self.interval_ns = min(later, key=lambda i: abs(i - self.interval_ns))
        self.source.ask(Control(interval_ns=self.interval_ns))
        self._show_lines()
        self.say(f"a sample every {interval_text(self.interval_ns)}")

    def _table(self) -> VirtualTable | None:
        """The table that sorting is about: the one with the focus, or the pane's first."""
        if isinstance(self.focused, VirtualTable):
            return self.focused
        return next(iter(self.pane.tables()), None)

    def action_sort(self, step: int) -> None:
        """Sort by the column beside the one sorted by."""
        if (table := self._table()) is not None:
            table.action_sort_step(step)

    def action_invert(self) -> None:
        """Turn the order round."""
        if (table := self._table()) is not None:
            table.action_invert()

    def action_help(self) -> None:
        """What this pane shows, and all keys."""
        pane = self.pane
        notes = []
        if self.newest is not None:
            health = self.newest.health
            notes = [text for text in (health.banner, *health.notes) if text]
            notes += [f"{p.name}: {p.status}. {p.reason or p.fallback}".rstrip(". ") + "."
                      for p in health.probes if p.status != "live"]
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

    async def _run(self, action: str, node: Any) -> None:
        await self.run_action(action, node)

    def action_restart(self) -> None:
        """A new collector after one has ended."""
        if self.source.state != ENDED:
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


def _still(history: History) -> History:
    """The history as it is now, for a picture that stays while the real one goes on."""
    held = copy.copy(history)
    for name, value in vars(history).items():
        if isinstance(value, deque):
            setattr(held, name, value.copy())
    return held


def preload() -> None:
    """Import what Textual would only import when it needs it, for a user who could not then."""
    import importlib
    import pkgutil

    import textual.widgets

    names = [f"textual.widgets.{module.name}" for module in
             pkgutil.iter_modules(textual.widgets.__path__)]
    for name in (*names, "textual.system_commands", "rich.traceback", "encodings.idna"):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def main(session: Session) -> int:
    """The UI process: run the app on this terminal, return its exit status."""
    options = session.options
    app = KtopApp(lambda: LiveSource(session), options.interval_ns, bool(options.ascii))
    app.run(mouse=terminal.mouse_wanted(options.mouse))
    if app.failure is not None:
        raise app.failure
    return app.return_code or 0
