"""The columns of the Files pane."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.cells import get_character_cell_size

from ktop import format as fmt
from ktop import theme
from ktop.history_feeds import Fed
from ktop.model import Hist
from ktop.model_files import (
    Descriptors,
    FileOps,
    FileRow,
    FileSystem,
    MountEvent,
    OpenEvent,
    OpenFold,
    SlowOp,
    Throttled,
)
from ktop.panes.base import Names
from ktop.panes.figures import (
    NEVER,
    cgroup_column,
    figure,
    latency,
    latency_style,
    percentile,
)
from ktop.widgets.columns import Column
from ktop.widgets.strips import Piece, cells, printable

_PSEUDO = {"proc", "sysfs", "cgroup", "cgroup2", "tracefs", "debugfs", "bpf", "securityfs"}


def tail(text: str, width: int) -> str:
    """The end of a path in at most `width` cells: what tells files apart is at the end."""
    text = printable(text)
    if cells(text) <= width:
        return text
    used, kept = 1, []
    for char in reversed(text):
        used += get_character_cell_size(char)
        if used > width:
            break
        kept.append(char)
    return theme.glyphs().ellipsis + "".join(reversed(kept))


def _path(title: str, text: Callable[[Any], str], style: Callable[[Any], str], help: str,
          sort: bool = True) -> Column:
    def draw(row: Any, width: int) -> list[Piece]:
        return [(tail(text(row), width), style(row))]

    return Column("path", title, 20, text, "left", sort=text if sort else None, style=style,
                  draw=draw, help=help, min_width=24)


def _quantile(op: str, pct: float) -> Callable[[FileOps], float | None]:
    def get(ops: FileOps) -> float | None:
        return percentile(getattr(ops, op), pct)

    return get


def _longest(op: str) -> Callable[[FileOps], float | None]:
    def get(ops: FileOps) -> float | None:
        found: Hist | None = getattr(ops, op)
        return None if found is None else found.max_ns

    return get


def _latency(key: str, title: str, get: Callable[[FileOps], float | None], text: str) -> Column:
    return latency(key, title, lambda r: get(r.ops), text)


def _rate(key: str, title: str, field: str, text: str, warn: float = 1e12) -> Column:
    return figure(key, title, 5, fmt.rate, f"ops.{field}", text, (warn, 1e12))


def _bytes(key: str, title: str, field: str, text: str) -> Column:
    return figure(key, title, 5, fmt.size, f"ops.{field}", text, (NEVER, NEVER, 1e-9))


def _ops_columns() -> list[Column]:
    """What files, processes and filesystems have in common. Rows have `ops`."""
    columns = [
        Column("inside", "IN", 5, lambda r: fmt.number(r.ops.inside), sort=lambda r: r.ops.inside,
               style=lambda r: theme.load(r.ops.inside, 0.5, 2, 0.005),
               help="mean number of threads inside these calls: rate x mean latency"),
        _rate("reads", "RD/s", "reads_per_s", "reads a second (read pread64 readv preadv preadv2)"),
        _rate("writes", "WR/s", "writes_per_s", "writes a second (write pwrite64 writev ...)"),
        _bytes("rbytes", "RDB/s", "read_bytes_per_s", "bytes read a second"),
        _bytes("wbytes", "WRB/s", "write_bytes_per_s", "bytes written a second"),
    ]
    for op, name, short in (("read", "reads", "RD"), ("write", "writes", "WR"),
                            ("fsync", "fsyncs", "FS")):
        columns.append(_latency(f"{op}99", f"{short}P99", _quantile(op, 99),
                                f"99th percentile of its {name}"))
    columns += [
        _rate("fsyncs", "FSY/s", "fsyncs_per_s", "fsync, fdatasync, sync_file_range a second"),
        _rate("opens", "OPN/s", "opens_per_s", "opens a second"),
        _rate("errors", "ERR/s", "errors_per_s", "of all these, failed a second; EAGAIN apart",
              0.1),
    ]
    for op, name, short in (("read", "reads", "RD"), ("write", "writes", "WR"),
                            ("fsync", "fsyncs", "FS")):
        columns += [
            _latency(f"{op}50", f"{short}P50", _quantile(op, 50), f"median of its {name}"),
            _latency(f"{op}max", f"{short}MAX", _longest(op), f"longest of its {name}")]
    return columns


def file_name(row: FileRow) -> str:
    """The path, or what else is known of the file."""
    if row.path is None:
        return f"({row.dev} inode {row.ino})"
    return row.path + (" (deleted)" if row.deleted else "")


def _file_style(row: FileRow) -> str:
    return "dim" if row.path is None or row.deleted or row.fstype in _PSEUDO else "normal"


def file_columns() -> list[Column]:
    """Rows are FileRows."""
    return [
        *_ops_columns(),
        Column("fs", "FS", 8, lambda r: r.fstype or "-", "left", sort=lambda r: r.fstype or "",
               style=lambda _: "dim", help="filesystem type; of FUSE with its subtype"),
        _path("FILE", file_name, _file_style, "path in the mount namespace of who uses it, its end "
              "if it is long; dim: not on a disk (proc, sysfs), deleted, or path not known"),
    ]


def _command_columns(names: Names) -> list[Column]:
    return [
        cgroup_column(names),
        Column("command", "COMMAND", 14, lambda r: r.comm, "left",
               sort=lambda r: r.comm.casefold(), min_width=12, help="command"),
    ]


def _pid() -> Column:
    return Column("pid", "PID", 7, lambda r: str(r.pid), sort=lambda r: r.pid, help="process id")


def process_columns(names: Names) -> list[Column]:
    """Rows are FileProcesses."""
    return [_pid(), *_ops_columns(), *_command_columns(names)]


def _mount(row: FileSystem) -> str:
    return row.mount or f"({row.dev}, not in ktop's mount namespace)"


def filesystem_columns() -> list[Column]:
    """Rows are FileSystems."""
    return [
        Column("fs", "FS", 8, lambda r: r.fstype or "-", "left", sort=lambda r: r.fstype or "",
               help="filesystem type"),
        *_ops_columns(),
        Column("source", "SOURCE", 14, lambda r: r.source or "-", "left",
               sort=lambda r: r.source or "", help="what is mounted there"),
        _path("MOUNTED ON", _mount, lambda r: "dim" if r.fstype in _PSEUDO else "normal",
              "where, in ktop's own mount namespace"),
    ]


def _of(get: Callable[[Any], str]) -> Callable[[Fed[Any]], str]:
    return lambda fed: get(fed.event)


def _value(get: Callable[[Any], Any]) -> Callable[[Fed[Any]], Any]:
    return lambda fed: get(fed.event)


def _feed_time() -> Column:
    return Column("time", "TIME", 8, _of(lambda e: fmt.clock_time(e.time_ns)), "left",
                  style=lambda _: "dim", help="time of day")


def _feed_who(names: Names) -> tuple[Column, Column, Column]:
    return (
        Column("pid", "PID", 7, _of(lambda e: "-" if e.pid is None else str(e.pid)),
               help="process id"),
        Column("command", "COMMAND", 12, _of(lambda e: e.comm or "-"), "left", help="command"),
        Column("cgroup", "CGROUP", 14, _of(lambda e: names.cgroup(e.cgroup)), "left",
               help="container, pod or unit"))


def slow_columns(names: Names) -> list[Column]:
    """Rows are Fed SlowOps."""
    pid, command, cgroup = _feed_who(names)

    def path(e: SlowOp) -> str:
        return e.path or "(path not known)"

    return [
        _feed_time(),
        Column("latency", "TOOK", 6, _of(lambda e: fmt.duration(e.latency_ns)), kind="ns",
               value=_value(lambda e: e.latency_ns),
               style=_of(lambda e: latency_style(e.latency_ns)),
               help="from entry to exit of the call"),
        Column("op", "CALL", 9, _of(lambda e: e.op), "left", help="the system call"),
        command, pid,
        Column("bytes", "BYTES", 6, _of(lambda e: fmt.size(e.bytes) if e.error is None
                                        else e.error), style=_of(
            lambda e: "bad" if e.error else "normal"), value=_value(
            lambda e: None if e.error else e.bytes), help="bytes moved, or the error"),
        cgroup,
        Column("fs", "FS", 8, _of(lambda e: e.fstype or "-"), "left", style=lambda _: "dim",
               help="filesystem type"),
        _path("FILE", _of(path), lambda _: "normal", "path", sort=False),
    ]


def _result(event: OpenEvent) -> str:
    return event.error if event.error else str(event.fd)


def open_columns(names: Names) -> list[Column]:
    """Rows are Fed OpenEvents."""
    pid, command, cgroup = _feed_who(names)
    return [
        _feed_time(), command,
        Column("result", "FD/ERR", 7, _of(_result), "left",
               style=_of(lambda e: "bad" if e.error else "dim"),
               help="the descriptor, or the error by name"),
        pid, cgroup,
        Column("flags", "FLAGS", 18, _of(lambda e: e.flags.replace("O_", "")), "left",
               style=lambda _: "dim", help="O_* flags without their prefix"),
        _path("FILE", _of(lambda e: e.path), lambda _: "normal",
              "path; a relative one behind its directory, or ./ where that is not known",
              sort=False),
    ]


def fold_columns() -> list[Column]:
    """Rows are OpenFolds."""
    def path(row: OpenFold) -> str:
        return row.path or "(too many at once: path not shown)"

    return [
        Column("rate", "OPEN/m", 6, lambda r: fmt.rate(r.per_min), sort=lambda r: r.per_min,
               style=lambda r: theme.load(r.per_min, 600 if r.error else 1e12, 1e12),
               help="opens a minute of this path by this command with this result"),
        Column("error", "ERROR", 8, lambda r: r.error or "", "left", sort=lambda r: r.error or "",
               style=lambda _: "bad", help="errno by name; blank: opened"),
        Column("command", "COMMAND", 14, lambda r: r.comm, "left",
               sort=lambda r: r.comm.casefold(), style=lambda _: "strong", help="command"),
        Column("count", "COUNT", 6, lambda r: fmt.count(r.count), sort=lambda r: r.count,
               help="in the last minute"),
        Column("pid", "PID", 7, lambda r: str(r.pid), sort=lambda r: r.pid, style=lambda _: "dim",
               help="process that did it last"),
        _path("FILE", path, lambda r: "normal" if r.path else "dim", "path"),
    ]


def share(row: Descriptors) -> float | None:
    """Open descriptors, % of the limit."""
    return 100 * row.open / row.limit if row.limit else None


def descriptor_columns(names: Names) -> list[Column]:
    """Rows are Descriptors."""
    return [
        _pid(),
        Column("open", "OPEN", 6, lambda r: fmt.count(r.open), sort=lambda r: r.open,
               help="open descriptors: set bits of files_struct's open_fds"),
        Column("limit", "LIMIT", 6, lambda r: "none" if r.limit is None else fmt.count(r.limit),
               sort=lambda r: r.limit, style=lambda _: "dim", help="RLIMIT_NOFILE, soft"),
        Column("share", "USED%", 5, lambda r: fmt.pct(share(r)), sort=share,
               style=lambda r: theme.load(share(r), 50, 80), help="of the limit"),
        Column("growth", "GROW/m", 6, _growth, sort=lambda r: r.growth_per_min,
               style=lambda r: "bad" if r.steady else "normal" if r.growth_per_min else "dim",
               help="growth a minute over the time it is watched, five minutes at most"),
        Column("left", "LEFT", 6, lambda r: fmt.age(r.left_ns) if r.steady else "",
               sort=lambda r: r.left_ns, kind="ns", style=lambda _: "bad",
               help="time to the limit, for what grows steadily: in every third of that time, "
                    "never falling back"),
        *_command_columns(names),
    ]


def _growth(row: Descriptors) -> str:
    per_min = row.growth_per_min
    if per_min is None or per_min == 0:
        return fmt.rate(per_min)
    return ("+" if per_min > 0 else "-") + fmt.rate(abs(per_min))


def _mount_text(event: MountEvent) -> str:
    where = event.target or ""
    what = " ".join(part for part in (event.fstype, event.source) if part)
    arrow = " on " if what and where else ""
    return f"{what}{arrow}{where}" + (f" [{event.flags}]" if event.flags else "")


def mount_columns(names: Names) -> list[Column]:
    """Rows are Fed MountEvents."""
    pid, command, cgroup = _feed_who(names)
    return [
        _feed_time(),
        Column("op", "WHAT", 10, _of(lambda e: e.op), "left", help="the system call; mounted or "
               "unmounted: seen in mountinfo, by whom is not known"),
        Column("result", "RESULT", 8, _of(_mount_result), "left",
               style=_of(lambda e: "bad" if e.error else "dim"), help="ok, or the error by name"),
        command, pid, cgroup,
        Column("text", "MOUNT", 30, _of(_mount_text), "left", min_width=24,
               help="type, source, target, flags, as they were asked for"),
    ]


def _mount_result(event: MountEvent) -> str:
    return event.error or ("ok" if event.pid is not None else "")


def throttled_columns(names: Names) -> list[Column]:
    """Rows are Throttled."""
    return [
        _pid(),
        Column("pause", "PAUSED%", 7, lambda r: fmt.pct(r.pause_pct), sort=lambda r: r.pause_pct,
               style=lambda r: theme.load(r.pause_pct, 5, 30),
               help="time its threads were made to wait by balance_dirty_pages(), % of wall time"),
        Column("pauses", "PAUSE/s", 7, lambda r: fmt.rate(r.pauses_per_s),
               sort=lambda r: r.pauses_per_s, help="such pauses a second"),
        *_command_columns(names),
    ]


def throttled_key(row: Throttled) -> int:
    """Identity of a row."""
    return row.pid
