"""One process, everything: a screen above the panes that follows it, alive or ended."""

from __future__ import annotations

import contextlib
from typing import Any, ClassVar, cast

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container

from ktop import format as fmt
from ktop.history import History
from ktop.model import Frame, Process
from ktop.panes.base import Pane
from ktop.scope import Scope
from ktop.screens.base import FrameScreen
from ktop.screens.detail_pane import VIEWS, DetailPane
from ktop.screens.detail_state import Who, end_text
from ktop.screens.help import Help, help_page
from ktop.widgets.header import Hint, Keys, TabBar
from ktop.widgets.strips import Line, Piece, cut
from ktop.widgets.table import VirtualTable
from ktop.wire import Control

_ASK_AGAIN = 3  # frames without an answer after which a collector (another one?) is asked again
_SAID_S = 4.0
_BACK = 2  # frames before its exit that are looked through for its last row
_STATE_STYLE = {"R": "good", "D": "bad", "Z": "warn", "T": "warn", "t": "warn"}
_HINTS = (Hint("Esc", "Back", 0), Hint("?", "Help", 1), Hint("Tab", "View", 2),
          Hint("o", "Other part", 5), Hint("S", "Stacks", 4), Hint("u", "Parent", 7),
          Hint("f", "States shown", 6), Hint("Space", "Pause", 8), Hint("/", "Find", 9),
          Hint("t T", "Time", 10), Hint("q", "Quit", 3))
_KEYS = (
    ("1-9 Tab v", "A view by its number, or the next one."),
    ("Shift+Tab V", "The view before."),
    ("o", "Move the focus to the next table."),
    ("Enter", "In Children: open that process."),
    ("u", "Open its parent."),
    ("f", "Picture with all states, without sleep, without sleep and lock."),
    ("S", "Take its stacks, on CPU and blocked."),
    ("< > F6 I", "Sort the table by another column, invert the order."),
    ("/ n N C", "Find in the table, next and previous match; choose its columns."),
    ("Space + -", "Hold the picture still; a longer or shorter interval."),
    ("t T [ ] b 0", "A sample on or back, a minute, to a time of day, now."),
    ("Esc", "Take the cursor away, then back to where it was opened."),
    ("Backspace", "Back to where it was opened."),
    ("r Ctrl-L", "Start an ended collector anew; draw the screen again."),
    ("q F10", "Leave ktop."))


class ProcessDetail(FrameScreen):
    """Everything about one process. start: its start_boottime_ns, None where it has ended."""

    wanted_layers: ClassVar[tuple[str, ...]] = ("processes", "files", "tcp", "block", "sched")
    CSS = """
    ProcessDetail { layout: vertical; background: ansi_default; }
    ProcessDetail #view { height: 1fr; width: 1fr; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,backspace", "back", "Back", key_display="Esc"),
        Binding("u", "parent", "Parent", tooltip="Open the process that started it"),
        Binding("S", "stacks", "Stacks", tooltip="Take its stacks: on CPU and blocked"),
        Binding("question_mark,f1,h", "help", "Help", key_display="?"),
        Binding("space", "app.pause", "Pause"),
        Binding("n", "app.find_next(1)", show=False),
        Binding("N", "app.find_next(-1)", show=False),
        Binding("C", "app.columns", show=False),
        Binding("plus,equals_sign", "app.interval(1)", show=False),
        Binding("minus", "app.interval(-1)", show=False),
        Binding("r", "app.restart", show=False),
        Binding("ctrl+l", "app.redraw", show=False),
        Binding("greater_than_sign,f6", "sort(1)", show=False),
        Binding("less_than_sign", "sort(-1)", show=False),
        Binding("I", "invert", show=False),
        Binding("q,f10", "app.quit", "Quit")]

    def __init__(self, pid: int, start: int | None, name: str) -> None:
        super().__init__()
        self.scope = Scope(pid=pid, start=start, children=False, name=name)
        self.body = DetailPane(Who(pid, start, name))
        self._unanswered = 0
        self._seq = -1
        self._sought = False  # its last row, in the past
        self._host: Frame | None = None
        self._said = ""

    def compose(self) -> ComposeResult:
        """Who, the views, the view, the keys."""
        yield Line(id="who-line")
        yield TabBar(list(VIEWS))
        with Container(id="view"):
            yield self.body
        yield Keys()

    def on_mount(self) -> None:
        """The keys are always the same."""
        self.query_one(Keys).set(_HINTS)
        self.body.focus_main()

    def on_screen_resume(self) -> None:
        """On top, also when a screen above it has closed: the detail is this one's."""
        self._wish(Control(detail=self.scope.pid))

    def _wish(self, wish: Control) -> None:
        self.post_message(Pane.Ask(wish))

    # -- each tick -----------------------------------------------------------------------------

    def show(self, frame: Frame, history: History, host: Frame) -> None:
        """This tick."""
        self.body.look(frame, history, host)
        self._ask_again(frame)
        if self._remember():
            self.body.look(frame, history, host)
        self._host = host
        self._show_who()

    def _remember(self) -> bool:
        """Of one that had ended before it was looked at, the last frame that has it is in the
        past: just before its exit."""
        life = self.body.life
        track = getattr(self.app, "track", None)
        if life.row is not None or life.ended is None or track is None or self._sought:
            return False
        if life.ended.at_wall_ns is None:
            return False
        self._sought = True
        at = track.find(life.ended.at_wall_ns)
        for position in range(at, max(track.first, at - _BACK) - 1, -1):
            with contextlib.suppress(LookupError):
                if self.body.observer.remember(track.frame(position)):
                    return True
        return False

    def _ask_again(self, frame: Frame) -> None:
        """A collector that was started since does not know what is wanted."""
        if frame.seq == self._seq:
            return
        self._seq = frame.seq
        answered = frame.detail is not None and frame.detail.pid == self.scope.pid
        self._unanswered = 0 if answered else self._unanswered + 1
        if self._unanswered >= _ASK_AGAIN:
            self._unanswered = 0
            self._wish(Control(detail=self.scope.pid))

    def _who(self, host: Frame) -> list[Piece]:
        life = self.body.life
        row, who = life.row, life.who
        name = row.comm if row is not None else who.name or "process"
        pieces: list[Piece] = [(f" {cut(name, 24)} ", "title"), (f"{who.pid}", "strong")]
        if life.alive and row is not None:
            pieces += [("  ", "normal"), (row.state, _STATE_STYLE.get(row.state, "dim"))]
        ended = end_text(life)
        if ended:
            pieces += [("  ", "normal"), (ended, "bad")]
        if row is not None:
            names = self.body.names
            group = names.cgroup(row.cgroup)
            pieces += [(f"  {names.user(row.uid)}", "normal"),
                       (f"  {cut(group, 24)}" if group not in ("-", "/") else "", "accent"),
                       (f"  {fmt.count(row.threads)} thread{'s' * (row.threads != 1)}", "dim")]
            age = host.host.uptime_ns - row.start_boottime_ns
            if life.alive and age >= 0:
                pieces.append((f"  up {fmt.age(age)}", "dim"))
        detail = life.detail
        if detail is not None and detail.reused:
            pieces.append(("  its number is another process's now", "warn"))
        state = getattr(self.app, "state_word", "")
        if state and state != "LIVE":
            pieces.append((f"  {state}", "warn"))
        if self._said:
            pieces.insert(1, (f"{self._said}  ", "warn"))
        return pieces

    # -- views ---------------------------------------------------------------------------------

    def on_detail_pane_turned(self, message: DetailPane.Turned) -> None:
        """The tabs say which view it is."""
        self.query_one(TabBar).set(list(VIEWS).index(message.view) + 1)

    def on_tab_bar_chosen(self, message: TabBar.Chosen) -> None:
        """A click on a tab."""
        message.stop()
        self.body.action_view_number(message.number)

    # -- keys ----------------------------------------------------------------------------------

    def on_virtual_table_selected(self, message: VirtualTable.Selected) -> None:
        """Enter on one of the family opens it; all else here is about this process."""
        message.stop()
        if isinstance(message.row, Process):
            self._open(message.row)

    def _open(self, row: Process) -> None:
        cast(Any, self.app).open_over(ProcessDetail(row.pid, row.start_boottime_ns, row.comm))

    def _say(self, text: str) -> None:
        """A word in the first line, for a few seconds."""
        self._said = text
        self._show_who()
        if text:
            self.set_timer(_SAID_S, lambda: self._say(""))

    def _show_who(self) -> None:
        if self._host is not None:
            self.query_one("#who-line", Line).set(self._who(self._host))

    def action_parent(self) -> None:
        """Open the process that started it."""
        parents = self.body.parents()
        if parents:
            self._open(parents[0])
        else:
            self._say("its parent is not in the table")

    def action_stacks(self) -> None:
        """Take its stacks."""
        from ktop.screens.flame import FlameScreen

        scope = self.scope
        pids = [scope.pid] if scope.pid is not None else []
        cast(Any, self.app).open_over(FlameScreen(scope, pids, []))

    def action_back(self) -> None:
        """To where it was opened."""
        self._wish(Control(detail=0))
        self.dismiss()

    def _table(self) -> VirtualTable | None:
        focused = self.focused
        if isinstance(focused, VirtualTable):
            return focused
        return next(iter(self.body.tables()), None)

    def action_sort(self, step: int) -> None:
        """Sort by the column beside the one sorted by."""
        if (table := self._table()) is not None:
            table.action_sort_step(step)

    def action_invert(self) -> None:
        """Turn the order round."""
        if (table := self._table()) is not None:
            table.action_invert()

    def action_help(self) -> None:
        """What the figures mean, and the keys."""
        notes = []
        detail = self.body.life.detail
        if detail is not None:
            notes = [f"The look at /proc/{detail.pid} took {fmt.duration(detail.cost_ns)} of CPU "
                     "time."]
            notes += [f"{name}: {why}" for name, why in sorted(detail.reasons.items())]
        self.app.push_screen(Help(help_page("one process", self.body.help_text(), _KEYS, notes,
                                       everywhere=False)))

