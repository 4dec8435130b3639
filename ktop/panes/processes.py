"""Processes: who runs, who waits and for what, and who comes and goes between two ticks."""

from __future__ import annotations

from typing import Any, ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from ktop import format as fmt
from ktop import theme
from ktop.history import History
from ktop.model import Frame, Process, Thread
from ktop.panes.base import Names, Pane, column_help, paragraph, short_command, why_missing
from ktop.panes.process_columns import Row, feed_columns, fold_columns, process_columns
from ktop.widgets.columns import Key
from ktop.widgets.strips import Box, Line, Piece, Rule
from ktop.widgets.table import VirtualTable

WIDE = 140  # columns from which the feed stands beside the table
SIDES = ("feed", "folded", "hidden")
_TITLES = {"feed": "Executions and exits", "folded": "Executions a minute, folded"}


class ProcessesPane(Pane):
    """Every process, and a feed of executions and exits beside or below it."""

    title = "Processes"
    key = "1"
    layer = "processes"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("H", "threads", "Threads", id="processes.threads",
                tooltip="Unfold every process into its threads, or fold them"),
        Binding("e", "side", "Exec feed", id="processes.side",
                tooltip="Executions and exits: feed, folded by command, hidden"),
        Binding("o", "other", "Other part", id="processes.other",
                tooltip="Move the focus between the table and the executions"),
    ]
    DEFAULT_CSS = """
    ProcessesPane #body { layout: vertical; width: 1fr; height: 1fr; }
    ProcessesPane #main { height: 2fr; }
    ProcessesPane #side { layout: vertical; width: 1fr; height: 1fr; }
    ProcessesPane.-wide #body { layout: horizontal; }
    ProcessesPane.-wide #main { width: 3fr; height: 1fr; margin: 0 1 0 0; }
    ProcessesPane.-wide #side { width: 2fr; height: 1fr; }
    """

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.names = Names()
        self.unfolded = False
        self.side = "feed"
        self._frame: Frame | None = None
        self._history: History | None = None
        self._starts: dict[int, int] = {}
        self._last_tids: set[int] = set()
        self._fed: object = None

    def compose(self) -> ComposeResult:
        """Summary, table, and the part beside or below it."""
        yield Line(id="summary")
        with Box(id="body"):
            yield VirtualTable(process_columns(self.names, self._command), self._identity,
                               sort="cpu", frozen=2, id="main", empty="no processes",
                               row_style=lambda r: "dim" if isinstance(r, Thread) else None)
            with Box(id="side"):
                yield Rule(id="side-rule")
                yield VirtualTable(feed_columns(self.names), lambda f: f.serial, feed=True,
                                   frozen=2, id="feed", empty="none so far")
                yield VirtualTable(fold_columns(self.names),
                                   lambda f: (f.parent_comm, f.comm, f.cgroup), sort="execs",
                                   frozen=2, id="folded", empty="none in the last minute")

    def on_mount(self) -> None:
        """The folded view comes second."""
        self._arrange()

    # -- rows ----------------------------------------------------------------------------------

    def _identity(self, row: Row) -> Key:
        if isinstance(row, Process):
            return row.pid, row.start_boottime_ns, 0
        return row.pid, self._starts.get(row.pid, 0), row.tid

    def _command(self, row: Row) -> str:
        if isinstance(row, Thread):
            g = theme.glyphs()
            return f"{g.last if row.tid in self._last_tids else g.branch}{row.comm}"
        if row.kernel_thread:
            return f"[{row.comm}]"
        return short_command(row.args or row.comm) + (" <defunct>" if row.state == "Z" else "")

    def _threads(self, frame: Frame) -> dict[Key, list[Any]]:
        """Threads by their process's identity; alone, a thread is its process."""
        if not self.unfolded:
            return {}
        self._starts = {p.pid: p.start_boottime_ns for p in frame.processes.rows}
        found: dict[Key, list[Any]] = {}
        for thread in sorted(frame.processes.threads, key=lambda t: t.tid):
            if thread.pid in self._starts:
                key = (thread.pid, self._starts[thread.pid], 0)
                found.setdefault(key, []).append(thread)
        self._last_tids = {threads[-1].tid for threads in found.values()}
        return found

    # -- each tick -----------------------------------------------------------------------------

    def show(self, frame: Frame, history: History) -> None:
        """This tick's processes."""
        self._frame, self._history = frame, history
        self.names.learn(frame)
        self.query_one("#summary", Line).set(self._summary(frame, history))
        self.query_one("#main", VirtualTable).set_rows(frame.processes.rows, self._threads(frame))
        self._show_side()

    def _summary(self, frame: Frame, history: History) -> list[Piece]:
        rows, layer = frame.processes.rows, frame.processes
        running = sum(1 for row in rows if row.state == "R")
        blocked = sum(1 for row in rows if row.state == "D")
        lost = frame.health.lost_total
        pieces: list[Piece] = [
            (" ", "normal"), (fmt.grouped(len(rows)), "strong"), (" tasks  ", "dim"),
            (str(running), "strong" if running else "dim"), (" running  ", "dim"),
            (str(blocked), "bad" if blocked else "dim"), (" blocked   ", "dim")]
        for name, value in (("forks", layer.forks_per_s), ("execs", layer.execs_per_s),
                            ("exits", layer.exits_per_s)):
            pieces += [(fmt.rate(value), "normal" if value else "dim"), (f" {name}/s  ", "dim")]
        pieces += [(fmt.grouped(lost), "bad" if lost else "dim"), (" lost", "dim")]
        if history.events_cut:
            pieces += [("   ", "dim"), (fmt.grouped(history.events_cut), "warn"),
                       (" beyond the feed", "dim")]
        return pieces

    def _show_side(self) -> None:
        if self._frame is None or self._history is None or self.side == "hidden":
            return
        if self.side == "folded":
            self.query_one("#folded", VirtualTable).set_rows(self._frame.processes.folds)
            return
        feed = self.query_one("#feed", VirtualTable)
        feed.empty = why_missing(self._frame, "process_exec", "no executions")
        found = self._history.events()
        newest = (id(self._history), found[0].serial if found else 0, len(found))
        if newest != self._fed:
            self._fed = newest
            feed.set_rows(found)

    # -- layout --------------------------------------------------------------------------------

    def on_resize(self, event: events.Resize) -> None:
        """Beside on wide screens, below on narrow ones."""
        self.set_class(event.size.width >= WIDE, "-wide")

    def _arrange(self) -> None:
        self.query_one("#side").display = self.side != "hidden"
        self.query_one("#feed").display = self.side == "feed"
        self.query_one("#folded").display = self.side == "folded"
        self._show_side()
        self._rules()

    def _rules(self) -> None:
        if self.side == "hidden":
            return
        focused = self.query_one(f"#{self.side}", VirtualTable).has_focus
        self.query_one("#side-rule", Rule).set(
            _TITLES[self.side], "o focus  e change" if not focused else "o back  e change", focused)

    # -- keys ----------------------------------------------------------------------------------

    def action_threads(self) -> None:
        """Unfold or fold threads."""
        self.unfolded = not self.unfolded
        if self._frame is not None:
            self.query_one("#main", VirtualTable).set_rows(
                self._frame.processes.rows, self._threads(self._frame))

    def action_side(self) -> None:
        """Feed, folded, hidden."""
        was_there = self.side != "hidden" and self.query_one(f"#{self.side}").has_focus
        self.side = SIDES[(SIDES.index(self.side) + 1) % len(SIDES)]
        self._arrange()
        if was_there:
            self.query_one("#main" if self.side == "hidden" else f"#{self.side}").focus()

    # -- help ----------------------------------------------------------------------------------

    def help_text(self) -> str:
        """What every figure of this pane means."""
        return "\n".join([
            paragraph("""Every process with its threads folded in, read each tick by the kernel's
                task iterator; executions and exits come as events, so that a process that lives
                for less than a tick is seen. `-` is unknown, never zero. BLK% stands out only as
                far as it is disk or uninterruptible: a pool of idle workers is blocked too."""),
            "", "Columns (% of one thread's wall time unless said otherwise)",
            column_help(process_columns(self.names, self._command)),
            "", "Executions and exits", column_help(feed_columns(self.names)),
            "", "Folded by parent, command and cgroup over the last minute",
            column_help(fold_columns(self.names)),
            "", paragraph("""lost: events that did not fit into the ring buffer; the totals are
                exact anyway. beyond the feed: events that were counted and not sent. Cannot be
                seen: the time of a process that began and ended between two ticks is in its exit,
                not in a row; a command line is what the process says it is."""),
        ])
