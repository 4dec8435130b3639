"""The columns of the Processes pane: table, feed of executions and exits, folded view."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ktop import format as fmt
from ktop import theme
from ktop.history_feeds import Fed
from ktop.model import Process, ProcessEvent, ProcessFold, Thread
from ktop.panes.base import Names
from ktop.widgets.columns import Column

Row = Process | Thread
_STATE_STYLE = {"R": "good", "D": "bad", "Z": "warn", "T": "warn", "t": "warn"}
_SHORT = {"uninterruptible": "unintr."}
# a signal that somebody sends to end a process in order is no accident
_ORDERLY = {"SIGTERM", "SIGINT", "SIGHUP", "SIGPIPE"}


def _figure(field: str) -> Callable[[Row], Any]:
    """The field's value; None where threads do not have it."""
    return lambda row: getattr(row, field, None)


def _rounded(field: str) -> Callable[[Row], Any]:
    """The percentage as it is shown: rows do not change places for what nobody sees."""
    def value(row: Row) -> float | None:
        found: float | None = getattr(row, field, None)
        return None if found is None else round(found, 1)
    return value


def _coarse(field: str) -> Callable[[Row], Any]:
    """The rate as it is shown, while it is small enough to matter."""
    def value(row: Row) -> float | None:
        found: float | None = getattr(row, field, None)
        if not found or found >= 999.5:
            return found
        return max(0.05, round(found, 1)) if found < 9.95 else round(found)
    return value


def _shown(field: str, write: Callable[[Any], str]) -> Callable[[Row], str]:
    """The field as text; blank where a thread has none of its own: that is not unknown."""
    return lambda row: write(getattr(row, field)) if hasattr(row, field) else ""


def _load(field: str, warn: float, bad: float, quiet: float = 0.05) -> Callable[[Row], str]:
    return lambda row: theme.load(getattr(row, field, None), warn, bad, quiet)


def _percent(key: str, title: str, field: str, warn: float, bad: float, text: str) -> Column:
    return Column(key, title, 5, _shown(field, fmt.pct),
                  sort=_rounded(field), style=_load(field, warn, bad), help=text, kind="number",
                  value=_figure(field))


def _rate(key: str, title: str, field: str, text: str, warn: float = 1e12) -> Column:
    return Column(key, title, 6, _shown(field, fmt.rate),
                  sort=_coarse(field), style=_load(field, warn, 1e12), help=text, kind="number",
                  value=_figure(field))


def _cpu_style(row: Row) -> str:
    if row.cpu_pct is None or row.cpu_pct < 0.05:
        return "dim"
    return "strong" if row.cpu_pct >= 50 else "normal"


def _blocked_style(row: Row) -> str:
    """Only what waits for a device or cannot be woken is alarming: idle workers block on locks."""
    if row.blocked_pct is None or row.blocked_pct < 0.05:
        return "dim"
    off = getattr(row, "off_cpu_pct", None)
    if off is None:
        hard = row.blocked_pct if row.state == "D" or row.blocked_reason == "iowait" else 0.0
    else:
        hard = off.get("disk", 0.0) + off.get("uninterruptible", 0.0)
    return theme.load(max(hard, 0.05), 20, 60)


def _why(row: Row) -> str:
    return _SHORT.get(row.blocked_reason or "-", row.blocked_reason or "-")


def _why_style(row: Row) -> str:
    return "dim" if (row.blocked_pct or 0) < 1 and row.state != "D" else "normal"


def _time_columns() -> list[Column]:
    """Where its time goes."""
    return [
        Column("cpu", "CPU%", 5, lambda r: fmt.pct(r.cpu_pct), sort=_rounded("cpu_pct"),
               style=_cpu_style, kind="number", value=_figure("cpu_pct"),
               help="CPU time, % of one CPU (sum_exec_runtime); many threads can exceed 100"),
        _percent("runq", "RQW%", "runq_wait_pct", 5, 20,
                 "time runnable but waiting for a CPU, % of one thread's wall time "
                 "(sched_info.run_delay)"),
        Column("blocked", "BLK%", 5, lambda r: fmt.pct(r.blocked_pct),
               sort=_rounded("blocked_pct"), style=_blocked_style, kind="number",
               value=_figure("blocked_pct"),
               help="time off CPU not by choice, % of one thread's wall time, all threads "
                    "together: disk, uninterruptible, io, network, lock"),
        Column("why", "WHY", 10, _why, "left",
               sort=_figure("blocked_reason"), style=_why_style,
               help="the system call it is or was last blocked in, iowait, or unintr. "
                    "(uninterruptible for another reason)"),
    ]


def process_columns(names: Names, command: Callable[[Row], str]) -> list[Column]:
    """The table's columns; `command` also draws the branch of an unfolded thread."""
    def user(row: Row) -> str:
        return "" if isinstance(row, Thread) else names.user(row.uid)

    def cgroup(row: Row) -> str:
        return "" if isinstance(row, Thread) else names.cgroup(row.cgroup)

    def age(row: Row) -> int | None:
        return None if isinstance(row, Thread) else names.uptime_ns - row.start_boottime_ns

    return [
        Column("pid", "PID", 7, lambda r: str(getattr(r, "tid", r.pid)), sort=lambda r: r.pid,
               help="process id; of an unfolded thread its thread id"),
        Column("user", "USER", 8, user, "left", sort=lambda r: user(r) or None,
               style=lambda r: "dim" if user(r) == "root" else "normal", help="owner (real uid)"),
        Column("state", "S", 1, lambda r: r.state, "left", sort=lambda r: r.state,
               style=lambda r: _STATE_STYLE.get(r.state, "dim"),
               help="state of the most active thread: R running or runnable, S sleeping, D "
                    "uninterruptible, T stopped, t traced, Z zombie, I idle kernel thread"),
        *_time_columns(),
        Column("rss", "RSS", 5, _shown("rss_bytes", fmt.size),
               sort=_figure("rss_bytes"), style=_load("rss_bytes", 1e18, 1e18),
               kind="bytes",
               help="resident memory, bytes by 1024 (the kernel's own approximation)"),
        _rate("vcsw", "VCSW/s", "voluntary_per_s", "voluntary context switches a second"),
        _rate("icsw", "ICSW/s", "involuntary_per_s", "involuntary ones: it wanted to go on"),
        Column("threads", "THR", 5, _shown("threads", fmt.count),
               sort=_figure("threads"), style=_load("threads", 1e9, 1e9, quiet=2), help="threads",
               kind="number"),
        Column("read", "RD/s", 5, _shown("read_bytes_per_s", fmt.size),
               sort=_figure("read_bytes_per_s"), style=_load("read_bytes_per_s", 1e18, 1e18),
               kind="bytes",
               help="bytes read from block devices a second (task_io_accounting)"),
        Column("write", "WR/s", 5, _shown("write_bytes_per_s", fmt.size),
               sort=_figure("write_bytes_per_s"), style=_load("write_bytes_per_s", 1e18, 1e18),
               kind="bytes",
               help="bytes to be written to block devices a second"),
        _rate("majf", "MAJF/s", "major_faults_per_s",
              "page faults a second that had to read from disk", warn=10),
        Column("age", "AGE", 6, lambda r: "" if isinstance(r, Thread) else fmt.age(age(r)),
               sort=age, kind="ns",
               style=lambda _: "dim", help="time since it was forked"),
        Column("cgroup", "CGROUP", 16, cgroup, "left", sort=lambda r: cgroup(r) or None,
               help="container, pod or unit"),
        _rate("fork", "FORK/s", "forks_per_s", "processes it created a second"),
        _rate("exec", "EXEC/s", "execs_per_s", "executions by it and its children a second"),
        Column("command", "COMMAND", 24, command, "left", sort=lambda r: r.comm.casefold(),
               style=lambda r: "dim" if getattr(r, "kernel_thread", False) else "normal",
               min_width=20, help="command line, the program without its directory; [kernel "
                                  "threads] in brackets"),
    ]


def event_text(event: ProcessEvent) -> tuple[str, str]:
    """What happened, and the style: exec, FAIL ENOENT, exit 0, exit 3, SIGSEGV core."""
    if event.kind == "exec":
        return "exec", "normal"
    if event.kind == "exec_failed":
        return f"FAIL {event.error or (event.code if event.code is not None else '-')}", "bad"
    if event.signal:
        style = "warn" if event.signal in _ORDERLY else "bad"
        return event.signal + (" core" if event.core_dumped else ""), style
    if event.code is None:
        return "exit -", "dim"
    return f"exit {event.code}", "warn" if event.code else "dim"


def _event_command(event: ProcessEvent, args: str | None) -> str:
    text = args or event.filename or event.comm
    return f"{text} (+{fmt.size(event.args_cut)} cut)" if event.args_cut else text


def feed_columns(names: Names) -> list[Column]:
    """The feed's columns. Rows are Fed ProcessEvents."""
    def quiet(item: Fed[ProcessEvent]) -> str:
        return "dim" if item.event.kind == "exit" and not item.event.code else "normal"

    return [
        Column("time", "TIME", 8, lambda f: fmt.clock_time(f.event.time_ns), "left",
               style=lambda _: "dim", help="time of day"),
        Column("what", "WHAT", 12, lambda f: event_text(f.event)[0], "left",
               style=lambda f: event_text(f.event)[1],
               help="exec, FAIL and why, exit and its status, or the signal that ended it"),
        Column("pid", "PID", 7, lambda f: str(f.event.pid), style=quiet, help="process id"),
        Column("parent", "PARENT", 10, lambda f: f.event.parent_comm or "-", "left", style=quiet,
               help="command of the parent"),
        Column("life", "LIFE", 6, lambda f: fmt.duration(f.event.lifetime_ns), kind="ns",
               value=lambda f: f.event.lifetime_ns,
               style=lambda _: "dim", help="time from fork to exit"),
        Column("ppid", "PPID", 7, lambda f: str(f.event.ppid), style=quiet,
               help="process id of the parent"),
        Column("user", "USER", 8, lambda f: names.user(f.event.uid), "left", style=quiet,
               help="user"),
        Column("cgroup", "CGROUP", 16, lambda f: names.cgroup(f.event.cgroup), "left",
               style=quiet, help="container, pod or unit"),
        Column("cpu", "CPU", 6, lambda f: fmt.duration(f.event.cpu_ns), style=lambda _: "dim",
               kind="ns", value=lambda f: f.event.cpu_ns,
               help="CPU time of its whole life, a tick too little at most; -: not known yet"),
        Column("command", "COMMAND", 20, lambda f: _event_command(f.event, f.args), "left",
               style=quiet, min_width=16, help="command line, with what did not fit"),
    ]


def _mean_life(fold: ProcessFold) -> float | None:
    return fold.lifetime_ns / fold.exits if fold.exits else None


def _cpu_ms_per_min(fold: ProcessFold) -> float | None:
    return fold.cpu_ns / 1e6 * 60e9 / fold.window_ns if fold.exits and fold.window_ns else None


def fold_columns(names: Names) -> list[Column]:
    """The folded view's columns. Rows are ProcessFolds."""
    return [
        Column("parent", "PARENT", 10, lambda f: f.parent_comm, "left",
               sort=lambda f: f.parent_comm.casefold(), help="command of the parent"),
        Column("comm", "COMMAND", 12, lambda f: f.comm, "left",
               sort=lambda f: f.comm.casefold(), style=lambda _: "strong", help="command"),
        Column("execs", "EXEC/m", 6, lambda f: fmt.rate(f.execs_per_min),
               sort=lambda f: f.execs_per_min, style=lambda f: theme.load(f.execs_per_min, 30, 1e9),
               help="executions a minute"),
        Column("failed", "FAIL", 4, lambda f: fmt.count(f.failed), sort=lambda f: f.failed,
               style=lambda f: theme.load(f.failed, 1, 1), help="executions that failed"),
        Column("bad", "BAD", 4, lambda f: fmt.count(f.exits_bad), sort=lambda f: f.exits_bad,
               style=lambda f: theme.load(f.exits_bad, 1, 1e9),
               help="exits with a status that is not 0, or by a signal"),
        Column("error", "ERROR", 8, lambda f: f.last_error or "", "left",
               style=lambda _: "warn", help="errno, exit status or signal last seen"),
        Column("life", "LIFE", 6, lambda f: fmt.duration(_mean_life(f)), sort=_mean_life,
               kind="ns",
               help="mean time from fork to exit"),
        Column("cpu", "CPUms/m", 7, lambda f: fmt.rate(_cpu_ms_per_min(f)), sort=_cpu_ms_per_min,
               help="CPU milliseconds a minute, of those that ended"),
        Column("cgroup", "CGROUP", 16, lambda f: names.cgroup(f.cgroup), "left",
               sort=lambda f: names.cgroup(f.cgroup), help="container, pod or unit"),
        Column("args", "LAST ARGUMENTS", 20, lambda f: f.last_args or "-", "left",
               style=lambda _: "dim", min_width=14, help="newest command line"),
    ]
