"""What we are drilled into: the host, a control group, a process, or commands of a name.

A scope is a wish; `Members` is what it means in one frame: the processes and control groups in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from ktop.model import Frame, Process
from ktop.text import clean

MOST_ENDED = 20_000
COMM_BYTES = 15  # TASK_COMM_LEN without its NUL: what a pattern is ever matched against


@dataclass(frozen=True)
class Scope:
    """Nothing set is the host. Set together they narrow each other.

    cgroup: path of a control group; those below belong to it. pid: a process, `start` its
    start_boottime_ns where known (a pid is used again). children: with all that descend from it.
    comm: a regular expression that a command's name must contain (re.search).
    name: how the process is called in the breadcrumb.
    """

    cgroup: str | None = None
    pid: int | None = None
    start: int | None = None
    children: bool = True
    comm: str | None = None
    name: str = ""

    def __bool__(self) -> bool:
        """Whether it is narrower than the host."""
        return self.cgroup is not None or self.pid is not None or self.comm is not None

    def up(self) -> Scope:
        """One step wider: without the process, then the control group above, then the host."""
        if self.pid is not None:
            return replace(self, pid=None, start=None, children=True, name="")
        if self.comm is not None:
            return replace(self, comm=None)
        above = (self.cgroup or "/").rstrip("/").rpartition("/")[0]
        return replace(self, cgroup=above or None)

    def crumbs(self) -> list[str]:
        """The path from the host down, for the header."""
        found = ["host"]
        if self.cgroup is not None:
            found.append(self.cgroup)
        if self.comm is not None:
            found.append(f"comm ~ {self.comm}")
        if self.pid is not None:
            name = f" {self.name}" if self.name else ""
            found.append(f"{self.pid}{name}{'' if self.children else ' alone'}")
        return found


HOST = Scope()


def parse_scope(pid: int | None = None, cgroup: str | None = None,
                comm: str | None = None) -> Scope:
    """A scope from a command line. ValueError says in one line what is wrong with it."""
    if pid is not None and pid <= 0:
        raise ValueError(f"--pid {pid}: a process id is a positive number")
    if cgroup is not None:
        cgroup = "/" + cgroup.strip("/") if cgroup.strip("/") else None
    if comm is not None:
        try:
            re.compile(comm)
        except (re.error, RecursionError, OverflowError) as err:
            raise ValueError(f"--comm {clean(comm, 60)}: {err}") from None
    return Scope(cgroup=cgroup, pid=pid, comm=comm)


@dataclass(frozen=True)
class Members:
    """Who is in a scope, in one frame.

    pids: processes in it, also some that have ended. cgroups: ids of the groups that are wholly in
    it (None: the scope is not about groups; then `pids` alone decides).
    """

    pids: frozenset[int]
    cgroups: frozenset[int] | None = None

    def has(self, pid: int | None, cgroup: int | None = None) -> bool:
        """Whether something of this process, in this control group, is in the scope.

        What is of a group and of no known process is in when the whole group is.
        """
        if pid is not None and pid in self.pids:
            return True
        return self.cgroups is not None and cgroup is not None and cgroup in self.cgroups

    def has_group(self, cgroup: int | None) -> bool:
        """Whether the whole control group is in the scope."""
        return self.cgroups is not None and cgroup in self.cgroups


class Roster:
    """Follows a scope through frames in their order: who is in it, and who was and has ended."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self._groups: dict[int, None] = {}  # ids seen at or below its path, the latest last
        self._joined: dict[int, int | None] = {}  # pid -> start of processes that belong for good
        self._pattern = re.compile(scope.comm) if scope.comm is not None else None

    def members(self, frame: Frame) -> Members:
        """Who is in it in this frame, the next one in time."""
        scope = self.scope
        groups: frozenset[int] | None = None
        if scope.cgroup is not None:
            under = scope.cgroup.rstrip("/") + "/"
            for group in frame.cgroups:
                if group.path == scope.cgroup or group.path.startswith(under):
                    self._groups.pop(group.id, None)
                    self._groups[group.id] = None
            while len(self._groups) > MOST_ENDED:
                del self._groups[next(iter(self._groups))]
            groups = frozenset(self._groups)
        if scope.pid is None and self._pattern is None:
            known = groups or frozenset()
            return Members(frozenset(p.pid for p in frame.processes.rows if p.cgroup in known),
                           groups)
        rows: Iterable[Process] = frame.processes.rows
        if groups is not None:
            rows = [p for p in rows if p.cgroup in groups]
        if scope.pid is not None:
            self._by_descent(rows, frame)
        else:
            self._by_name(rows, frame)
        while len(self._joined) > MOST_ENDED:
            del self._joined[next(iter(self._joined))]
        return Members(frozenset(self._joined))

    def _by_name(self, rows: Iterable[Process], frame: Frame) -> None:
        assert self._pattern is not None
        for p in rows:
            if self._pattern.search(p.comm):
                self._joined[p.pid] = p.start_boottime_ns
            else:  # renamed, or its pid is another's now
                self._joined.pop(p.pid, None)
        for event in frame.processes.events:
            if event.pid not in self._joined and self._pattern.search(event.comm):
                self._joined[event.pid] = None

    def _by_descent(self, rows: Iterable[Process], frame: Frame) -> None:
        """The process and, if wanted, whoever descends from it, orphans too."""
        scope, joined = self.scope, self._joined
        assert scope.pid is not None
        rows = list(rows)
        for p in rows:
            if p.pid in joined and joined[p.pid] not in (None, p.start_boottime_ns):
                del joined[p.pid]  # another process under an old number
        own = next((p for p in rows if p.pid == scope.pid), None)
        if own is None or scope.start in (None, own.start_boottime_ns):
            joined[scope.pid] = own.start_boottime_ns if own else joined.get(scope.pid, scope.start)
        if not scope.children:
            return
        for event in frame.processes.events:
            if event.ppid in joined:
                joined.setdefault(event.pid, None)
        below: dict[int, list[Process]] = {}
        for p in rows:
            below.setdefault(p.ppid, []).append(p)
            if p.pid in joined:
                joined[p.pid] = p.start_boottime_ns
        look = list(joined)
        while look:
            for p in below.get(look.pop(), ()):
                if p.pid not in joined:
                    joined[p.pid] = p.start_boottime_ns
                    look.append(p.pid)


def container_of(path: str) -> str:
    """The control group of the container that a path is in: itself when it is in none."""
    parts = path.split("/")
    for at, part in enumerate(parts):
        if re.search(r"[0-9a-f]{64}(?:\.scope)?$", part):
            return "/".join(parts[:at + 1])
    return path
