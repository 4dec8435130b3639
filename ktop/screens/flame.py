"""Stacks of a target as an icicle: on CPU and off CPU, walked, zoomed, searched, written out."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical

from ktop import format as fmt
from ktop.flame import Flame, Function, folded
from ktop.history import History
from ktop.model import Frame
from ktop.model_stacks import Stacks
from ktop.panes.base import Pane
from ktop.scope import Scope
from ktop.screens import flame_facts as words
from ktop.screens.base import FrameScreen
from ktop.screens.help import Help, help_page
from ktop.screens.question import Question
from ktop.widgets.columns import Column
from ktop.widgets.flame import Icicle
from ktop.widgets.header import Hint, Keys
from ktop.widgets.strips import Line, Rule
from ktop.widgets.table import VirtualTable
from ktop.wire import Control, Profile

SECONDS = 30.0
WORK_S, PAUSE_S = 0.004, 0.002  # building: a slice of work, then the keys' turn
MESSAGE_S = 6.0
WIDE = 110        # columns from which the table has room beside the icicle
TABLE_WIDTH = 44
TOP_FUNCTIONS = 300


def _columns(total: list[int]) -> list[Column]:
    """Of the table of functions; `total` holds the whole in ns."""

    def pct(ns: int) -> str:
        return fmt.pct(100 * ns / total[0]) if total[0] else "-"

    return [
        Column("self", "SELF%", 6, lambda f: pct(f.own), sort=lambda f: f.own,
               help="time in the function itself, % of all shown"),
        Column("total", "TOTAL%", 6, lambda f: pct(f.total), sort=lambda f: f.total,
               help="and in what it called"),
        Column("function", "FUNCTION", 20, lambda f: f.name, align="left",
               sort=lambda f: f.name.casefold(), help="wherever it was called from"),
    ]


def write_new(directory: Path, stem: str, suffix: str, text: str) -> Path:
    """Write a file that was not there, for its owner only. Raises OSError."""
    for number in range(1, 100):
        path = directory / f"{stem}{'' if number == 1 else f'-{number}'}{suffix}"
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC,
                         0o600)
        except FileExistsError:
            continue
        with os.fdopen(fd, "w", encoding="utf-8") as out:
            out.write(text)
        return path
    raise FileExistsError(17, "a hundred such files are there already")


class FlameScreen(FrameScreen):
    """Stacks of processes or control groups (neither: of the host).

    Asks for them when the samples have none of this target; ends what runs when it is closed.
    """

    CSS = """
    FlameScreen { layout: vertical; overflow: hidden; background: ansi_default; }
    FlameScreen #flame-facts, FlameScreen #flame-selected { height: 2; }
    FlameScreen #flame-body { height: 1fr; }
    FlameScreen #flame-left, FlameScreen #flame-right { width: 1fr; height: 1fr; }
    FlameScreen Icicle, FlameScreen VirtualTable { height: 1fr; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("o,tab,shift+tab", "kind", "On/off CPU", key_display="o Tab",
                tooltip="From what runs to what blocks, and back.", id="stacks.kind"),
        Binding("slash", "find", "Find", key_display="/",
                tooltip="Mark functions whose name contains a text; again with nothing: no more.",
                id="stacks.find"),
        Binding("n", "next(1)", "Next found", tooltip="To the next place that is marked.",
                id="stacks.next"),
        Binding("N", "next(-1)", "Found before", tooltip="To the one before.",
                id="stacks.previous"),
        Binding("v", "view", "Table", tooltip="Between the icicle and the table of functions; "
                "Enter there marks where the function is called.", id="stacks.view"),
        Binding("s", "again", "Stop/start", tooltip="End what runs; begin anew when it has ended.",
                id="stacks.again"),
        Binding("w", "write", "Write", tooltip="Write the stacks in folded form, as FlameGraph "
                "reads it, to a new file in the current directory.", id="stacks.write"),
        Binding("space", "app.pause", "Pause", show=False, id="stacks.pause"),
        Binding("question_mark,f1,h", "help", "Help", key_display="?", id="stacks.help"),
        Binding("escape,q,S", "close", "Close", key_display="Esc", id="stacks.close"),
        Binding("f10,ctrl+c", "app.quit", "Quit", show=False),
    ]

    def __init__(self, scope: Scope, pids: list[int], cgroups: list[int]) -> None:
        super().__init__()
        self.scope = scope
        self.cgroups = cgroups
        # the collector finds a process's children itself: those born meanwhile, too
        self.pids = [scope.pid] if scope.pid is not None and scope.pid in pids else pids
        self.kind = "cpu"
        self.stacks: Stacks | None = None
        self.wanted = ""           # what was looked for
        self._flames = {kind: Flame(kind) for kind in words.KIND_NAMES}
        self._building: Iterator[None] | None = None
        self._later = False        # there is something newer to build
        self._asked = False
        self._table_only = False   # where there is no room for both
        self._total = [0]
        self._message = ""
        self._share = 0.0

    # -- building ------------------------------------------------------------------------------

    def compose(self) -> ComposeResult:
        """Title and facts, icicle and table, the function, keys."""
        yield Line(id="flame-title")
        yield Line(id="flame-facts")
        with Horizontal(id="flame-body"):
            with Vertical(id="flame-left"):
                yield Rule("Callers above what they call", id="flame-rule")
                yield Icicle(id="icicle")
            with Vertical(id="flame-right"):
                yield Rule("Heaviest functions", id="functions-rule")
                yield VirtualTable(_columns(self._total), lambda f: f.name, sort="self",
                                   empty="none so far", id="functions")
        yield Line(id="flame-selected")
        yield Line(id="flame-message")
        yield Keys()

    def on_mount(self) -> None:
        """The icicle has the keys."""
        self.icicle = self.query_one(Icicle)
        self.table = self.query_one("#functions", VirtualTable)
        self._arrange()
        self.icicle.focus()
        self._paint()

    def on_resize(self) -> None:
        """With room, both; without, one of them."""
        if self.is_mounted:
            self._arrange()
            self._paint()

    def _arrange(self) -> None:
        wide = self.app.size.width >= WIDE
        left, right = self.query_one("#flame-left"), self.query_one("#flame-right")
        left.display = wide or not self._table_only
        right.display = wide or self._table_only
        right.styles.width = TABLE_WIDTH if wide else "1fr"

    @property
    def recorded(self) -> bool:
        """A recording is shown: nothing can be asked for."""
        return bool(getattr(self.app, "replaying", False))

    @property
    def flame(self) -> Flame:
        """The tree of the kind in view."""
        return self._flames[self.kind]

    # -- data ----------------------------------------------------------------------------------

    def show(self, frame: Frame, history: History, host: Frame) -> None:
        """Take the stacks of this tick; the first without ours asks for them."""
        found = host.stacks if self._ours(host.stacks) else frame.stacks
        if not self._ours(host.stacks) and not self.recorded:
            found = None
            if not self._asked:
                self._ask(SECONDS)
        if found is None and self.stacks is not None and not self.recorded:
            return  # they left the samples a minute after their end, not this screen
        if found == self.stacks:
            self._paint()
            return
        self.stacks = found
        self._build()

    def _ours(self, stacks: Stacks | None) -> bool:
        """Whether these are of the same target."""
        return stacks is not None and (
            set(stacks.pids), set(stacks.cgroups)) == (set(self.pids), set(self.cgroups))

    def _ask(self, seconds: float) -> None:
        self._asked = True
        self.post_message(Pane.Ask(Control(profile=Profile(
            pids=self.pids, cgroups=self.cgroups, seconds=seconds,
            children=self.scope.pid is not None and self.scope.children))))

    def _build(self) -> None:
        """Bring the tree in view up to date, in slices."""
        if self._building is not None:
            self._later = True
            return
        if self.stacks is None:
            self._flames = {kind: Flame(kind) for kind in self._flames}
            self._built()
            return
        self._building = self.flame.work(self.stacks)
        self._work()

    def _work(self) -> None:
        building = self._building
        if building is None:
            return
        until = time.perf_counter() + WORK_S
        for _ in building:
            if time.perf_counter() > until:
                self.set_timer(PAUSE_S, self._work)
                return
        self._building = None
        if self._later:
            self._later = False
            self._build()
        else:
            self._built()

    def _built(self) -> None:
        """The tree is what the stacks say."""
        if not self.is_mounted:
            return
        self.icicle.show(self.flame)
        self._total[0] = self.flame.root.total
        functions = sorted(self.flame.functions(), key=lambda f: (-f.own, -f.total, f.name))
        self.table.set_rows(functions[:TOP_FUNCTIONS])
        self._mark()
        self._paint()

    # -- picture -------------------------------------------------------------------------------

    def _paint(self) -> None:
        """Everything around the icicle; lines that are the same are not drawn again."""
        stacks = self.stacks
        self.query_one("#flame-title", Line).set(
            words.title(self.scope, stacks, self.kind, self.recorded))
        self.query_one("#flame-facts", Line).set(*words.facts(stacks, self.flame))
        following = bool(getattr(self.app, "following", True))
        empty = words.empty_text(stacks, self.kind, following, self.recorded)
        if empty != self.icicle.empty:
            self.icicle.empty = empty
            self.icicle.repaint()
        self._selected_changed()
        self.query_one("#flame-message", Line).set([(" " + self._message, "normal")])
        self._keys()

    def _selected_changed(self) -> None:
        node = self.icicle.selected
        self.query_one("#flame-selected", Line).set(*words.selected_lines(
            node, self.flame, self.icicle.matches, self.wanted, self._share))
        zoomed = " > ".join(self.icicle.root.path()[-3:])
        above, below = self.icicle.hidden
        more = f"{above} rows above" if above else ""
        more += (", " if more and below else "") + ("more below" if below else "")
        self.query_one("#flame-rule", Rule).set(
            f"zoomed: {zoomed}" if zoomed else "Callers above what they call", more,
            self.icicle.has_focus)
        self.query_one("#functions-rule", Rule).set(active=self.table.has_focus)

    def _keys(self) -> None:
        running = self.stacks is not None and self.stacks.state in ("loading", "running")
        table = self.table.has_focus
        hints = [Hint("Esc", "Close", 0), Hint("o", KIND_OTHER[self.kind], 2),
                 Hint("Enter", "Mark" if table else "Zoom", 3)]
        if not table:
            hints += [Hint("Bksp", "Out", 8), Hint("Arrows", "Walk", 9)]
        hints += [Hint("/", "Find", 4), Hint("v", "Icicle" if table else "Table", 6)]
        if not self.recorded:
            hints.append(Hint("s", "Stop" if running else "Start", 5))
        hints += [Hint("w", "Write", 7), Hint("?", "Help", 1)]
        self.query_one(Keys).set(hints)

    def on_icicle_selected(self) -> None:
        """Another function."""
        self._selected_changed()

    def on_descendant_focus(self) -> None:
        """The rules and the footer say where the keys go."""
        if self.is_mounted and hasattr(self, "table"):
            self._paint()

    def _say(self, text: str) -> None:
        self._message = text
        self._paint()
        self.set_timer(MESSAGE_S, lambda: self._unsay(text))

    def _unsay(self, text: str) -> None:
        if self._message == text and self.is_mounted:
            self._message = ""
            self._paint()

    # -- keys ----------------------------------------------------------------------------------

    def action_kind(self) -> None:
        """The other kind."""
        self.kind = "off" if self.kind == "cpu" else "cpu"
        self._building, self._later = None, False
        self._build()

    def action_view(self) -> None:
        """The keys to the table or to the icicle; where there is room for one only, that one."""
        to_table = not self.table.has_focus
        self._table_only = to_table
        self._arrange()
        (self.table if to_table else self.icicle).focus()
        self._paint()

    def on_virtual_table_selected(self, message: VirtualTable.Selected) -> None:
        """Mark the function, and go where it is heaviest."""
        if isinstance(message.row, Function):
            message.stop()
            self._table_only = False
            self._arrange()
            self.icicle.focus()
            self._look_for(message.row.name, exact=True)

    def action_find(self) -> None:
        """Ask for a part of a name."""
        self.app.push_screen(Question(
            "Find a function", "Part of its name, whatever the case; nothing unmarks.\n"
            "Enter marks, n and N go from one to the next, Esc closes."), self._answered)

    def _answered(self, text: str | None) -> None:
        if text is not None:
            self._look_for(text.strip())

    def _look_for(self, text: str, exact: bool = False) -> None:
        self.wanted, self._exact = text, exact
        self._mark()
        if self.icicle.matches:
            self.action_next(0)
        elif text:
            self._say(f"no function contains \"{text}\"")
        self._paint()

    _exact = False

    def _mark(self) -> None:
        """Which functions are found in the tree as it is now."""
        if not self.wanted:
            names: frozenset[str] = frozenset()
        else:
            names = self.flame.matching(self.wanted)
            if self._exact:
                names &= {self.wanted}
        self._share = self.flame.share(names) if names else 0.0
        if names != self.icicle.matches:
            self.icicle.find(names)

    def action_next(self, step: int) -> None:
        """To the next box that is marked, the heaviest first; 0: to the heaviest."""
        found = self.flame.heaviest(self.icicle.matches)
        if not found:
            if step:
                self._say("nothing is marked: / finds functions")
            return
        here = self.icicle.selected
        at = found.index(here) + step if here in found else 0
        self.icicle.select(found[at % len(found) if step else 0])

    def action_again(self) -> None:
        """End, or begin anew."""
        if self.recorded:
            self._say("this is a recording: nothing can be taken")
        elif self.stacks is not None and self.stacks.state in ("loading", "running"):
            self._ask(0.0)
            self._say("ending: the next sample has it all")
        else:
            self._ask(SECONDS)
            self._say(f"stacks asked for, for {SECONDS:.0f} s")

    def action_write(self) -> None:
        """All stacks of this kind, in folded form."""
        text = folded(self.stacks, self.kind) if self.stacks is not None else ""
        if self.stacks is None or not text:
            self._say("there are no stacks to write")
            return
        began = time.localtime(self.stacks.started_ns / 1e9)
        stem = time.strftime(f"ktop-{self.kind}-%Y%m%d-%H%M%S", began)
        try:
            path = write_new(Path.cwd(), stem, ".folded", text)
        except OSError as err:
            self._say(f"not written: {err.strerror or err}")
            return
        what = "samples" if self.kind == "cpu" else "microseconds"
        self._say(f"{text.count(chr(10))} stacks ({what}) written to {path.name}")

    def action_help(self) -> None:
        """What is to be seen, and all keys."""
        lines = []
        for binding in (*Icicle.BINDINGS, *self.BINDINGS):
            if isinstance(binding, Binding) and binding.tooltip:
                key = binding.key_display or KEY_NAMES.get(binding.key, binding.key)
                lines.append((key, binding.tooltip))
        page: Text = help_page("Stacks", words.HELP, lines,
                               self.stacks.notes if self.stacks is not None else [])
        self.app.push_screen(Help(page))

    def action_close(self) -> None:
        """Back; what runs is ended, its result stays in the samples for a minute."""
        if self.stacks is not None and self.stacks.state in ("loading", "running") and (
                not self.recorded):
            self._ask(0.0)
        self.dismiss()


KIND_OTHER = {"cpu": "Off CPU", "off": "On CPU"}
KEY_NAMES = {"up": "Up", "down": "Down", "left": "Left", "right": "Right", "home": "Home",
             "end": "End", "enter": "Enter", "backspace": "Backspace"}
