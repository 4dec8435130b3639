"""What a row is about: the process or control group that Enter, p and c go to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ktop.diagnosis.model import Pipe
from ktop.history_feeds import Fed
from ktop.model import Cgroup, Frame, ProcessFold
from ktop.model_block import Device
from ktop.model_files import FileRow, FileSystem
from ktop.model_tcp import Drop, Interface, Namespace
from ktop.panes.groups import Group


@dataclass(frozen=True)
class Subject:
    """A process (start: its start_boottime_ns, where it lives), its control group, or why none."""

    pid: int | None = None
    start: int | None = None
    name: str = ""
    cgroup: int | None = None
    why: str = ""
    path: str | None = None  # of the control group, where it is known here


_SLACK_NS = 100_000_000  # the boot time is known to some ms only
_NO_PROCESS = "{}: no process of this host"
_NOBODY: dict[Any, str] = {
    Device: "a device is used by many; its users are in the table below",
    Drop: "a packet that was dropped belongs to nobody",
    Interface: "an interface belongs to a namespace, not to a process",
    FileSystem: "a filesystem is used by many",
}


def _user_of(row: FileRow, frame: Frame) -> int | None:
    """Who used a file most in this interval."""
    uses = getattr(frame.files, "uses", None) or []
    return next((use.pid for use in uses if (use.dev, use.ino) == (row.dev, row.ino)), None)


def _parent_of(fold: ProcessFold, frame: Frame) -> int | None:
    """Who executes what a fold counts: of those of its parent's name the one that forks most."""
    named = [p for p in frame.processes.rows if p.comm == fold.parent_comm]
    here = [p for p in named if p.cgroup == fold.cgroup] or named
    return max(here, key=lambda p: p.forks_per_s or 0.0).pid if here else None


def _of_pipe(pipe: Pipe) -> Subject:
    """Who squeezes it."""
    first = next((actor for actor in pipe.culprits), None)
    if first is None:
        return Subject(why="nobody is known to squeeze it")
    if first.pid is None and first.cgroup is None:
        return Subject(why=_NO_PROCESS.format(first.comm))
    return Subject(pid=first.pid, name=first.comm, path=first.cgroup)


def _older(row: Any, start_boottime_ns: int, frame: Frame) -> bool:
    """Whether an event is of a process that had this number before."""
    time_ns: int | None = getattr(row, "time_ns", None)
    return time_ns is not None and (
        frame.host.boot_wall_ns + start_boottime_ns > time_ns + _SLACK_NS)


def subject_of(row: Any, frame: Frame) -> Subject:
    """What a table's row is about, in this frame of the host."""
    if row is None:
        return Subject()
    if isinstance(row, Fed):
        row = row.event
    if isinstance(row, Group | Cgroup):
        return Subject(cgroup=row.id or 0, path=row.path)
    if type(row) in _NOBODY:
        return Subject(why=_NOBODY[type(row)])
    if isinstance(row, Pipe):
        return _of_pipe(row)
    pid: int | None = getattr(row, "pid", None)
    path: str | None = getattr(row, "group", None)  # of one that a diagnosis names
    if isinstance(row, FileRow):
        pid = _user_of(row, frame)
    elif isinstance(row, ProcessFold):
        pid = _parent_of(row, frame)
    if not pid and getattr(row, "pids", None):
        pid = row.pids[0]
    group: int | None = getattr(row, "cgroup", None)
    if not pid:
        if group is not None or path is not None:
            return Subject(cgroup=group, path=path)
        if isinstance(row, Namespace):
            return Subject(why="no control group of this namespace is known")
        # a verdict also names rules, limits, peers
        return Subject(why=_NO_PROCESS.format(row.comm) if getattr(row, "role", "")
                       else "whose it is is not known")
    live = next((p for p in frame.processes.rows if p.pid == pid), None)
    if live is None or _older(row, live.start_boottime_ns, frame):
        return Subject(pid, None, getattr(row, "comm", "") or "", group, path=path)
    return Subject(pid, live.start_boottime_ns, live.comm, live.cgroup if group is None else group,
                   path=path)
