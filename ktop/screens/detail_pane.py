"""One process in views: overview, threads, files, network, I/O, family, limits, stacks, events."""

from __future__ import annotations

from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.message import Message

from ktop import format as fmt
from ktop import theme
from ktop.history import History
from ktop.model import Files, Frame, Process, Tcp
from ktop.model_files import FileRow
from ktop.panes.base import column_help, paragraph, short_command, why_missing
from ktop.panes.block_columns import slow_columns, user_columns
from ktop.panes.files_columns import file_columns
from ktop.panes.process_columns import process_columns
from ktop.panes.tcp_columns import Spaces, connection_columns, listener_columns
from ktop.panes.views import ViewPane, chart_span
from ktop.screens import detail_columns as columns
from ktop.screens.detail_facts import limit_text, overview, rights
from ktop.screens.detail_stacks import (
    stack_columns,
    stack_key,
    stack_note,
    stack_rows,
    why_none,
)
from ktop.screens.detail_state import Life, Observer, Who, ancestors, children, states_of
from ktop.widgets.columns import Column
from ktop.widgets.state_bars import ABOUT, FOCUS, STATES, StateFigures, StateTimeline, state_columns
from ktop.widgets.state_bars import name as state_name
from ktop.widgets.strips import Line, Piece, Rule
from ktop.widgets.table import VirtualTable

VIEWS = {
    "Overview": ("timeline", "states", "who"), "Threads": ("threads", "stack"),
    "Files": ("uses", "fds"), "Net": ("connections", "listeners"),
    "I/O": ("users", "slow"), "Children": ("children", "parents"),
    "Limits": ("limits", "rights"), "Stacks": ("stacks", "frames"), "Events": ("events",)}
_FIGURES = 38  # cells that the figures of the states take beside the picture


class DetailPane(ViewPane):
    """The body of the process screen. `look` gives it a tick."""

    class Turned(Message):
        """Another view is shown."""

        def __init__(self, view: str) -> None:
            super().__init__()
            self.view = view

    title = "Process"
    views = VIEWS
    titles: ClassVar = {
        "timeline": "Threads by state", "states": "This interval", "who": "Who it is",
        "threads": "Threads", "stack": "Kernel stack", "uses": "Files used in this interval",
        "fds": "Open descriptors", "connections": "Connections", "listeners": "Listening sockets",
        "users": "Requests to block devices", "slow": "Slow requests",
        "children": "Children", "parents": "Parents, nearest first", "limits": "Limits",
        "rights": "Rights and namespaces", "stacks": "Stacks, the most time first",
        "frames": "The stack under the cursor, innermost first",
        "events": "What happened, newest first"}
    groups: ClassVar = {"top": ("timeline", "states")}
    followers = ("stack", "frames")
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("v,tab", "view(1)", "View", id="detail.view", tooltip="The next view"),
        Binding("V,shift+tab", "view(-1)", show=False, id="detail.view_back"),
        Binding("o", "other", "Other part", id="detail.other",
                tooltip="Move the focus to the next table"),
        Binding("f", "focus_states", "States shown", id="detail.states",
                tooltip="Picture with all states, without sleep, without sleep and lock"),
        *(Binding(str(n), f"view_number({n})", show=False, id=f"detail.{n}")
          for n in range(1, len(VIEWS) + 1))]
    DEFAULT_CSS = f"""
    DetailPane #body {{ layout: vertical; }}
    DetailPane #top {{ layout: horizontal; width: 1fr; height: 14; }}
    DetailPane #timeline {{ width: 1fr; margin: 0 1 0 0; }}
    DetailPane #states {{ width: {_FIGURES}; }}
    DetailPane #threads {{ height: 2fr; }}
    DetailPane #stack-lines, DetailPane #frames-lines {{ height: 1fr; }}
    DetailPane #connections, DetailPane #children {{ height: 2fr; }}
    """

    def __init__(self, who: Who) -> None:
        super().__init__()
        self.observer = Observer(who)
        self.life = Life(who)
        self.focus_states = "all"
        self.spaces = Spaces(self.names)
        self._host: Frame | None = None
        self._events: object = None

    # -- building ------------------------------------------------------------------------------

    def _columns(self) -> dict[str, list[Column]]:
        names = self.names
        family = process_columns(names, self._command)
        return {"who": columns.fact_columns(), "threads": columns.thread_columns(),
                "uses": file_columns(), "fds": columns.descriptor_columns(),
                "connections": connection_columns(names, self.spaces),
                "listeners": listener_columns(names, self.spaces), "users": user_columns(names),
                "slow": slow_columns(names), "children": family, "parents": family,
                "limits": columns.limit_columns(), "rights": columns.fact_columns(),
                "stacks": stack_columns(), "events": columns.happened_columns()}

    def _table(self, name: str, found: list[Column]) -> VirtualTable:
        keys: dict[str, Any] = {
            "who": columns.fact_key, "rights": columns.fact_key, "limits": columns.limit_key,
            "threads": lambda r: r.tid, "fds": lambda d: d.fd,
            "uses": lambda f: (f.dev, f.ino, f.generation), "users": lambda u: (u.pid, u.cgroup),
            "slow": lambda f: f.serial, "stacks": stack_key, "events": lambda h: h.key,
            "children": _process_key, "parents": _process_key}
        sorts = {"threads": "cpu", "uses": "inside", "fds": "fd", "connections": "tx",
                 "listeners": "backlog", "users": "writes", "children": "cpu"}
        sort = sorts.get(name)
        if sort not in {column.key for column in found if column.sort}:
            sort = None
        table = VirtualTable(found, keys.get(name, lambda row: row.id), sort=sort,
                             frozen=0 if name in ("who", "rights", "events") else 1,
                             feed=name in ("events", "slow"), id=f"{name}-table")
        table.descending = table.descending and name != "fds"
        return table

    def compose(self) -> ComposeResult:
        """A line of totals, and the sections of the view."""
        found = self._columns()
        yield Line(id="summary")
        with Container(id="body"):
            with Container(id="top"):
                yield self._section("timeline", StateTimeline(id="timeline-bars"))
                yield self._section("states", StateFigures(id="states-figures"))
            for name in self.titles:
                if name in found:
                    yield self._section(name, self._table(name, found[name]))
                elif name in ("stack", "frames"):
                    yield self._section(name, Line(id=f"{name}-lines"))

    @staticmethod
    def _command(row: Any) -> str:
        return f"[{row.comm}]" if row.kernel_thread else short_command(row.args or row.comm)

    # -- each tick -----------------------------------------------------------------------------

    def look(self, frame: Frame, history: History, host: Frame) -> None:
        """This tick; host: the whole frame, for the family."""
        self._host = host
        self.life = self.observer.look(frame, history)
        if frame.tcp is not None:
            self.spaces.learn(frame.tcp)
        self.show(frame, history)

    def _summary(self, frame: Frame) -> list[list[Piece]]:
        """Both sides of the arithmetic: states sum to wall time x threads."""
        row = self.life.row
        states = states_of(frame, row) if self.life.alive else None
        interval = frame.clock.interval_ns
        pieces: list[Piece] = [(" ", "normal")]
        if row is None or states is None or not interval:
            return [[*pieces, (self._why_no_states(frame), "dim")]]
        total = sum(states.values())
        pieces += [(fmt.duration(interval), "strong"), (f" {theme.glyphs().times} ", "dim"),
                   (fmt.number(total), "strong"), (" threads (mean) = ", "dim"),
                   (fmt.duration(total * interval), "strong"), (" of thread time:  ", "dim")]
        active = sorted(((v, s) for s, v in states.items() if v > 0 and s != "sleep"),
                        reverse=True)
        for value, state in active[:3]:
            pieces += [(state_name(state) + " ", "dim"), (fmt.number(value) + "  ", "strong")]
        if not active:
            pieces.append(("all of it asleep", "dim"))
        return [pieces]

    def _why_no_states(self, frame: Frame) -> str:
        if not self.life.alive:
            return "it does not run at this time; what was last known of it is below"
        if frame.clock.interval_ns is None:
            return "first sample: no rates yet"
        return why_missing(frame, "sched_switch", "no thread states")

    def _show_timeline(self, frame: Frame) -> None:
        picture = self.query_one("#timeline-bars", StateTimeline)
        span, when = chart_span(self._history)
        found = state_columns(self._history, picture.columns, span)
        self.query_one("#timeline-rule", Rule).set(
            f"Threads by state, the last {when}", "" if self.focus_states == "all" else
            self.focus_states)
        picture.show(found, span, FOCUS[self.focus_states],
                     why_missing(frame, "sched_switch", "no thread states"))

    def _show_states(self, frame: Frame) -> None:
        states = states_of(frame, self.life.row) if self.life.alive else None
        self.query_one("#states-figures", StateFigures).show(
            states, self.life.row.threads if self.life.row else None,
            "not at this time" if not self.life.alive else "not known: see above")

    def _show_who(self, frame: Frame) -> None:
        width = self.query_one("#who-table").size.width - 18
        self._fill("who", overview(self.life, frame, self.names, self.parents(), width),
                   "nothing known")

    def _show_threads(self, frame: Frame) -> None:
        life = self.life
        rows = columns.thread_rows(life.row, life.threads, life.detail)
        unread = sum(1 for row in rows if row.place is None)
        note = f"{fmt.grouped(len(rows))}" + (f", {fmt.grouped(unread)} not read yet"
                                               if life.detail and unread else "")
        self._fill("threads", rows, "none known", note if life.alive else f"last known: {note}")

    def _show_stack(self, frame: Frame) -> None:
        table = self.query_one("#threads-table", VirtualTable)
        row = table.selected_row or next(iter(table.rows), None)
        lines: list[list[Piece]] = []
        place = row.place if row is not None else None
        if place is not None:
            lines = [[(f" {name}", "strong" if at == 0 else "normal")]
                     for at, name in enumerate(place.stack)]
        detail = self.life.detail
        reason = (self.life.no_detail if detail is None or place is None else
                  detail.reasons.get("stack", "empty: it runs, or is in user space"))
        self.query_one("#stack-rule", Rule).set(
            note="" if row is None else f"{row.thread.comm} {row.tid}")
        self.query_one("#stack-lines", Line).set(
            *lines or [[(f" no stack: {reason or 'not read yet'}", "dim")]])

    def _show_uses(self, frame: Frame) -> None:
        layer = frame.files or Files()
        used = file_uses(frame, self._host or frame, self.life.who.pid)
        empty = ("files are not watched in this sample" if not layer.watched
                 else "no reads, writes or fsyncs of files")
        self._fill("uses", used, empty, f"{fmt.grouped(len(used))}" if used else "")

    def _show_fds(self, frame: Frame) -> None:
        detail = self.life.detail
        if detail is None:
            self._fill("fds", [], self.life.no_detail)
            return
        total = detail.descriptors_total
        limit = next((x for x in detail.limits if x.name == "open files"), None)
        note = fmt.grouped(total)
        if limit is not None:
            note += f" of {limit_text(limit, limit.soft)}"
        if detail.descriptors_cut:
            note += f", {fmt.grouped(detail.descriptors_cut)} not listed"
        why = detail.reasons.get("descriptors", "none known")
        self._fill("fds", detail.descriptors, why, note + self._age_note())

    def _age_note(self) -> str:
        life = self.life
        if life.detail_wall_ns is not None:
            return f", as of {fmt.clock_time(life.detail_wall_ns)}"
        return "" if life.alive else ", last known"

    def _show_connections(self, frame: Frame) -> None:
        layer = frame.tcp or Tcp()
        mine = [c for c in layer.connections if c.pid == self.life.who.pid]
        self._fill("connections", mine, "no connections" if frame.tcp is not None else
                   "the TCP probes are being loaded", fmt.grouped(len(mine)) if mine else "")

    def _show_listeners(self, frame: Frame) -> None:
        layer = frame.tcp or Tcp()
        self._fill("listeners", [x for x in layer.listeners if x.pid == self.life.who.pid],
                   "it does not listen")

    def _show_users(self, frame: Frame) -> None:
        rows = [] if frame.block is None else [
            user for user in frame.block.users if user.pid == self.life.who.pid]
        self._fill("users", rows, "no request of it ended in this interval"
                   if frame.block is not None else "the block probes are being loaded")

    def _show_slow(self, frame: Frame) -> None:
        pid = self.life.who.pid
        ns = frame.block.slow_ns if frame.block is not None else None
        self._feed("slow", self._history.feeds.slow_io, "none", f"over {fmt.duration(ns)}",
                   keep=lambda io: io.pid == pid)

    def _show_children(self, frame: Frame) -> None:
        rows = children(self._host or frame, self.life.who.pid) if self.life.alive else []
        self._fill("children", rows, "it has none at this time",
                   f"{fmt.grouped(len(rows))}, Enter opens one" if rows else "")

    def parents(self) -> list[Process]:
        """Its parent, the parent's parent and so on."""
        return ancestors(self._host, self.life) if self._host is not None else []

    def _show_parents(self, frame: Frame) -> None:
        self._fill("parents", self.parents(), "none is known")

    def _show_limits(self, frame: Frame) -> None:
        detail = self.life.detail
        self._fill("limits", detail.limits if detail else [],
                   self.life.no_detail or "not known", self._age_note().lstrip(", "))

    def _show_rights(self, frame: Frame) -> None:
        width = self.query_one("#rights-table").size.width - 18
        self._fill("rights", rights(self.life, width), "not known")

    def _show_stacks(self, frame: Frame) -> None:
        self._fill("stacks", stack_rows(frame, self.life.who.pid), why_none(frame),
                   stack_note(frame))

    def _show_frames(self, frame: Frame) -> None:
        table = self.query_one("#stacks-table", VirtualTable)
        row = table.selected_row or next(iter(table.rows), None)
        names = [] if row is None else list(reversed(row.stack.names))
        self.query_one("#frames-lines", Line).set(
            *[[(f" {name}", "strong" if at == 0 else "normal")] for at, name in enumerate(names)])

    def _show_events(self, frame: Frame) -> None:
        feeds = self._history.feeds
        state = (id(feeds), feeds.mark())
        if state == self._events:
            return
        self._events = state
        rows = columns.happened(self._history, self.life.who.pid)
        self._fill("events", rows, "nothing that is watched for",
                   "executions, exits, slow operations, TCP")

    def _follow(self, section: str, key: Any) -> None:
        if section in ("threads", "stacks"):
            self._show_followers()

    # -- layout and keys -----------------------------------------------------------------------

    def _arrange(self) -> None:
        super()._arrange()
        top = max(9, min(18, self.size.height // 2)) if self.size.height else 14
        self._fix_height("top", top)

    def action_view(self, step: int = 1) -> None:
        """The next view."""
        super().action_view(step)
        self.post_message(self.Turned(self.view))

    def action_view_number(self, number: int) -> None:
        """A view by its number."""
        self.action_view(number - 1 - list(VIEWS).index(self.view))

    def action_focus_states(self) -> None:
        """All states, without sleep, without sleep and lock."""
        modes = list(FOCUS)
        self.focus_states = modes[(modes.index(self.focus_states) + 1) % len(modes)]
        self._again()

    def help_text(self) -> str:
        """What every figure of this screen means."""
        found = self._columns()
        states = "\n".join(f"  {theme.glyphs().states[state]} {state_name(state):<18}{ABOUT[state]}"
                           for state in STATES)
        parts = [paragraph("""One process, without its children. Its threads are at any moment in
            exactly one of these states; together they are wall time x threads, so that the
            figures of an interval sum to the mean number of threads, and so does each column of
            the picture. % are of all its thread time. CPU time and run queue wait are the
            kernel's own counters; time off CPU, by reason, is no more than they leave. Threads
            that ended within an interval are counted in full while this screen is open, in
            samples from before with their CPU time only."""), "",
                 states, "", paragraph("""Descriptors, limits, rights, memory, kernel stacks and
            system calls are read from /proc/PID while this screen is open: they are not in a
            recording that was made without it. Many descriptors and threads are read in turns.
            Addresses of sockets are as /proc/PID/net has them, within some seconds.""")]
        for name, about in found.items():
            if name not in ("who", "rights", "parents"):
                parts += ["", self.titles[name], column_help(about)]
        return "\n".join(parts)


def _process_key(row: Process) -> tuple[int, int]:
    return row.pid, row.start_boottime_ns


def file_uses(frame: Frame, host: Frame, pid: int) -> list[FileRow]:
    """What the process did with each file: the files' own rows with its own operations."""
    files = {(f.dev, f.ino, f.generation): f
             for layer in (host.files, frame.files) if layer for f in layer.rows}
    found = []
    for use in frame.files.uses if frame.files else []:
        if use.pid == pid:
            row = files.get((use.dev, use.ino, use.generation))
            found.append(FileRow(
                row.path if row else None, use.dev, use.ino, use.ops, row.fstype if row else None,
                row.deleted if row else False, row.whole if row else True, use.generation))
    return found
