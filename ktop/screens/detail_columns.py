"""The columns of the process screen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ktop import format as fmt
from ktop import theme
from ktop.format import clock_time
from ktop.history import History
from ktop.history_feeds import Fed
from ktop.model import Process, ProcessEvent, Thread
from ktop.model_block import SlowIo
from ktop.model_detail import Descriptor, Detail, ResourceLimit, ThreadDetail
from ktop.model_files import SlowOp
from ktop.model_tcp import TcpEvent
from ktop.panes.figures import NEVER, figure
from ktop.panes.files_columns import tail
from ktop.panes.process_columns import event_text
from ktop.panes.tcp_columns import endpoint, event_note
from ktop.screens.detail_facts import Fact, limit_share, limit_text
from ktop.screens.detail_state import thread_states
from ktop.widgets.columns import Column
from ktop.widgets.state_bars import cells_of, without
from ktop.widgets.strips import Piece

_STATE_STYLE = {"R": "good", "D": "bad", "Z": "warn", "T": "warn", "t": "warn"}
_BAR = 16
EVENTS = 500  # rows of the feed of everything


@dataclass(frozen=True)
class ThreadRow:
    """A thread with what the frame and the look at it say; `place` None: not looked at."""

    thread: Thread | Process
    tid: int
    place: ThreadDetail | None = None


def thread_rows(row: Process | None, threads: list[Thread],
                detail: Detail | None) -> list[ThreadRow]:
    """All threads; alone, a thread is its process."""
    if row is None:
        return []
    places = {place.tid: place for place in detail.threads} if detail else {}
    if not threads:
        return [ThreadRow(row, row.pid, places.get(row.pid))]
    return [ThreadRow(thread, thread.tid, places.get(thread.tid)) for thread in threads]


def _bar(row: ThreadRow, width: int) -> list[Piece]:
    """Its interval as a bar of states."""
    states = thread_states(row.thread)
    if states is None:
        return [("-".ljust(width), "dim")]
    g = theme.glyphs()
    cells = cells_of(without(states, frozenset()), max(1.0, sum(states.values())), width)
    pieces: list[Piece] = [(g.states[state], f"state.{state}") for state in cells]
    return [*pieces, (" " * (width - len(cells)), "normal")]


def _where(row: ThreadRow) -> str:
    """The function it sleeps in, innermost of its stack where the kernel hides wchan."""
    if row.place is None:
        return "-"
    return row.place.wchan or (row.place.stack[0] if row.place.stack else "-")


def thread_columns() -> list[Column]:
    """Rows are ThreadRows."""
    def of(name: str) -> Any:
        return lambda r: getattr(r.thread, name)

    return [
        Column("tid", "TID", 7, lambda r: str(r.tid), sort=lambda r: r.tid, help="thread id"),
        Column("name", "THREAD", 15, lambda r: r.thread.comm, "left",
               sort=lambda r: r.thread.comm.casefold(), style=lambda _: "strong",
               help="its name (comm)"),
        Column("state", "S", 1, lambda r: r.thread.state, "left", sort=lambda r: r.thread.state,
               style=lambda r: _STATE_STYLE.get(r.thread.state, "dim"),
               help="state at the tick, as ps(1) has it"),
        figure("cpu", "CPU%", 5, fmt.pct, of("cpu_pct"), "CPU time, % of one CPU",
               (NEVER, NEVER, 0.05)),
        figure("runq", "RQW%", 5, fmt.pct, of("runq_wait_pct"),
               "time waiting for a CPU, % of its wall time", (5, 20, 0.05)),
        figure("blocked", "BLK%", 5, fmt.pct, of("blocked_pct"),
               "time blocked not by choice: disk, uninterruptible, io, network, lock",
               (NEVER, NEVER, 0.05)),
        Column("bar", "ITS INTERVAL", _BAR, lambda r: "", "left", draw=_bar,
               help="the interval by state, the whole width is all of it; glyphs as in the "
                    "overview; - while it was not looked at"),
        Column("syscall", "SYSCALL", 14,
               lambda r: (r.place.syscall if r.place else None) or "-", "left",
               sort=lambda r: (r.place.syscall if r.place else None) or "",
               help="the system call it is in; running; none: outside of any"),
        figure("vcsw", "VCSW/s", 6, fmt.rate, of("voluntary_per_s"),
               "voluntary context switches a second"),
        figure("icsw", "ICSW/s", 6, fmt.rate, of("involuntary_per_s"),
               "involuntary ones: it wanted to go on"),
        Column("why", "WHY", 10, lambda r: r.thread.blocked_reason or "-", "left",
               sort=lambda r: r.thread.blocked_reason or "",
               help="what it is or was last blocked in"),
        Column("age", "READ", 5,
               lambda r: fmt.age(r.place.age_ns) if r.place else "-", style=lambda _: "dim",
               help="how long before the tick SYSCALL and WHERE were read: many threads are read "
                    "in turns"),
        Column("where", "WHERE", 12, _where, "left", sort=_where, min_width=12,
               help="kernel function it sleeps in (wchan), else the innermost of its stack"),
    ]


def fact_columns() -> list[Column]:
    """Rows are Facts."""
    return [Column("name", "WHAT", 15, lambda f: f.name, "left", style=lambda _: "dim"),
            Column("text", "", 40, lambda f: f.text, "left", style=lambda f: f.style)]


def _fd_what(d: Descriptor) -> str:
    return (d.what or d.kind) + (" (deleted)" if d.deleted else "")


def descriptor_columns() -> list[Column]:
    """Rows are Descriptors."""
    def draw(d: Descriptor, width: int) -> list[Piece]:
        return [(tail(_fd_what(d), width), "warn" if d.deleted else "normal")]

    return [
        Column("fd", "FD", 5, lambda d: str(d.fd), sort=lambda d: d.fd, help="number"),
        Column("kind", "KIND", 9, lambda d: d.kind, "left", sort=lambda d: d.kind,
               style=lambda _: "dim", help="file, directory, socket, pipe, memfd, or the name of "
                                           "an anonymous inode"),
        Column("pos", "POS", 6, lambda d: fmt.size(d.position_bytes) if d.kind in (
            "file", "device", "memfd", "directory") else "", sort=lambda d: d.position_bytes,
               help="position in the file"),
        Column("flags", "FLAGS", 18, lambda d: d.flags or "-", "left", sort=lambda d: d.flags,
               style=lambda _: "dim", help="access mode and O_* flags"),
        Column("what", "PATH, ADDRESS OR PEER", 30, _fd_what, "left", sort=_fd_what, draw=draw,
               min_width=24, help="a long path by its end; sockets: local -> remote, state"),
    ]


def limit_columns() -> list[Column]:
    """Rows are ResourceLimits."""
    return [
        Column("name", "LIMIT", 17, lambda r: r.name, "left", sort=lambda r: r.name,
               style=lambda _: "strong", help="RLIMIT_*, by the kernel's words"),
        Column("used", "USED", 9, lambda r: limit_text(r, r.used), sort=lambda r: r.used,
               style=lambda r: "dim" if r.used is None else "normal",
               help="taken now, where the kernel says; signals: of its user"),
        Column("soft", "SOFT", 9, lambda r: limit_text(r, r.soft), sort=lambda r: r.soft,
               help="in force"),
        Column("hard", "HARD", 9, lambda r: limit_text(r, r.hard), sort=lambda r: r.hard,
               style=lambda _: "dim", help="as far as it may be raised without privilege"),
        Column("share", "USED%", 6, lambda r: fmt.pct(limit_share(r)), sort=limit_share,
               style=lambda r: theme.load(limit_share(r), 70, 90), help="of the soft limit"),
        Column("unit", "UNIT", 9, lambda r: r.unit, "left", style=lambda _: "dim"),
    ]


@dataclass(frozen=True)
class Happened:
    """One line of the feed of everything. key: its kind and number."""

    key: tuple[str, int]
    time_ns: int
    what: str
    text: str
    style: str = "normal"


def _process_event(fed: Fed[ProcessEvent], pid: int) -> Happened:
    event = fed.event
    what, style = event_text(event)
    whose = "" if event.pid == pid else f"child {event.pid} "
    return Happened(("p", fed.serial), event.time_ns, what,
                    f"{whose}{fed.args or event.filename or event.comm}", style)


def _slow_op(fed: Fed[SlowOp]) -> Happened:
    e = fed.event
    result = e.error or fmt.size(e.bytes)
    return Happened(("f", fed.serial), e.time_ns, f"slow {e.op}",
                    f"{fmt.duration(e.latency_ns)} {result} {e.path or '(path not known)'}", "warn")


def _slow_io(fed: Fed[SlowIo]) -> Happened:
    e = fed.event
    parts = (f"queue {fmt.duration(e.queue_ns)}, device {fmt.duration(e.device_ns)}"
             if e.queue_ns is not None else "")
    text = f"{fmt.duration(e.total_ns)} {fmt.size(e.bytes)} on {e.part or e.device} {parts}"
    return Happened(("b", fed.serial), e.time_ns, f"slow {e.op}", " ".join(
        x for x in (text.rstrip(), e.flags, e.error or "") if x), "bad" if e.error else "warn")


def _tcp_event(fed: Fed[TcpEvent]) -> Happened:
    e = fed.event
    ends = f"{endpoint(e.local, e.local_port)} -> {endpoint(e.remote, e.remote_port)}"
    note = event_note(e) if e.kind in ("close", "retransmit") else ""
    took = fmt.duration(e.latency_ns) if e.latency_ns is not None else ""
    text = " ".join(x for x in (ends, e.result or "", took, note) if x)
    failed = e.kind in ("retransmit", "drop") or e.result not in (None, "ok")
    return Happened(("t", fed.serial), e.time_ns, e.kind.replace("_", " "), text,
                    "warn" if failed else "normal")


def happened(history: History, pid: int) -> list[Happened]:
    """Executions and exits of it and its children, slow operations, what its connections did."""
    feeds = history.feeds
    found = [_process_event(fed, pid) for fed in feeds.processes.newest_first()]
    found += [_slow_op(fed) for fed in feeds.slow_ops.newest_first()]
    found += [_slow_io(fed) for fed in feeds.slow_io.newest_first()]
    found += [_tcp_event(fed) for fed in feeds.tcp.newest_first()]
    found.sort(key=lambda h: h.time_ns, reverse=True)
    return found[:EVENTS]


def happened_columns() -> list[Column]:
    """Rows are Happened."""
    return [
        Column("time", "TIME", 8, lambda h: clock_time(h.time_ns), "left", style=lambda _: "dim",
               help="time of day"),
        Column("what", "WHAT", 16, lambda h: h.what, "left", style=lambda h: h.style,
               help="exec, exit and its status, slow operations over their threshold, what "
                    "happened to connections"),
        Column("text", "", 40, lambda h: h.text, "left", help="about what"),
    ]


def fact_key(fact: Fact) -> int:
    """A fact's place."""
    return fact.at


def limit_key(limit: ResourceLimit) -> str:
    """A limit's name."""
    return limit.name
