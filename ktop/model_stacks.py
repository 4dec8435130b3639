"""Call stacks of a target, taken on request. Conventions: ktop/model.py."""

from __future__ import annotations

from ktop.parts import Part, Real


class Stack(Part):
    """One call stack of one process. kind: `cpu` (profile) or `off` (offcputime).

    comm: of the thread. names: indexes into `Stacks.names`, outermost caller first. samples: how
    often it was seen, or blocked. ns: CPU time it stands for (samples / rate), or time blocked in
    it, from the switch away to the wakeup, what has not ended yet included. state: of a blocked
    thread, as ps(1) has it: S, D, T, t (idle kernel threads, I, are left out).
    """

    kind: str
    pid: int
    comm: str
    names: list[int]
    samples: int
    ns: int
    state: str = ""


class Stacks(Part):
    """Stacks since `started_ns` (wall clock): sums, not of this interval alone.

    state: `loading`, `running`, `ended` or `failed` (reason). pids, cgroups: the target, as asked;
    both empty: the whole host. children: with all that descend from the pids. kinds: `cpu`, `off`.
    names: functions; kernel ones end in `_[k]`, `[module]` is a function without a symbol.
    From frame to frame of one run, `names` and `stacks` only grow at their ends; sums change.
    naming: stacks seen whose functions have no names yet: they follow.
    lost_traces, lost_sums, lost_threads: stacks, sums and absences that did not fit into their
    tables (they are in no figure; a lost trace shows as `[stack lost]`).
    cpu_pct: share of one CPU that the programs took; event_ns: mean cost of a sample (`cpu`) and
    of a context switch (`off`). Both from the kernel's own statistics, None and empty until
    sampled. map_bytes: kernel memory while it ran. notes: what the names lack, and why.
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
    children: bool = False
    kinds: list[str] = []
    naming: int = 0
    lost_traces: int = 0
    lost_sums: int = 0
    lost_threads: int = 0
    cpu_pct: Real | None = None
    event_ns: dict[str, Real] = {}
    map_bytes: int | None = None
    notes: list[str] = []
