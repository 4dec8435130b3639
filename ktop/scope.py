"""What we are drilled into: the host, a control group, a process, or commands of a name.

A scope is a wish; `Members` is what it means in one frame: the processes and control groups in it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Scope:
    """Nothing set is the host. Set together they narrow each other.

    cgroup: path of a control group; those below belong to it. pid: a process, `start` its
    start_boottime_ns where known (a pid is used again). children: with all that descend from it.
    comm: a regular expression that a command must contain (re.search).
    """

    cgroup: str | None = None
    pid: int | None = None
    start: int | None = None
    children: bool = True
    comm: str | None = None
    name: str = ""  # how the process is called in the breadcrumb

    def __bool__(self) -> bool:
        """Whether it is narrower than the host."""
        return self != HOST

    def up(self) -> Scope:
        """One step wider: without the process, then the control group above, then the host."""
        if self.pid is not None:
            return replace(self, pid=None, start=None, children=True, name="")
        if self.comm is not None:
            return replace(self, comm=None)
        above = (self.cgroup or "/").rstrip("/").rpartition("/")[0]
        return replace(self, cgroup=above or None)


HOST = Scope()


@dataclass(frozen=True)
class Members:
    """Who is in a scope, in one frame.

    pids: processes in it, also some that have ended. cgroups: ids of the groups that are wholly in
    it (None: the scope is not about groups; then `pids` alone decides).
    """

    pids: frozenset[int]
    cgroups: frozenset[int] | None

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
