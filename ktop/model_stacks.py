"""Call stacks of a scope, sampled on request. Conventions: ktop/model.py."""

from __future__ import annotations

from ktop.parts import Part


class Stack(Part):
    """One call stack of one process. kind: `cpu` (profile) or `off` (offcputime).

    names: indexes into `Stacks.names`, outermost caller first. samples: how often it was seen.
    ns: CPU time it stands for (samples / rate), or time blocked in it.
    """

    kind: str
    pid: int
    comm: str
    names: list[int]
    samples: int
    ns: int


class Stacks(Part):
    """Stacks since `started_ns` (wall clock): sums, not of this interval alone.

    state: `loading`, `running`, `ended` or `failed` (reason). pids, cgroups: the target, as asked;
    both empty: the whole host. names: functions; kernel ones end in `_[k]`.
    """

    state: str
    started_ns: int
    elapsed_ns: int = 0
    limit_ns: int = 0
    pids: list[int] = []
    cgroups: list[int] = []
    hz: int = 49
    names: list[str] = []
    stacks: list[Stack] = []
    reason: str = ""
