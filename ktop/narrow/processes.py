"""Processes, scheduler and control groups as a scope sees them."""

from __future__ import annotations

from msgspec.structs import replace

from ktop.model import OFF_CPU, Cgroup, Frame, Hist, Process, Processes, Sched
from ktop.narrow.rules import merged, total
from ktop.scope import Members


def narrow_processes(frame: Frame, members: Members) -> Processes:
    """Rows, threads, events and folds of the scope, and rates summed over them.

    Totals since the start are the host's and not known for a scope. Executions and exits a second
    are counted from this frame's events: unknown where some did not fit into it.
    """
    layer, interval = frame.processes, frame.clock.interval_ns
    rows = [p for p in layer.rows if p.pid in members.pids]
    events = [e for e in layer.events if members.has(e.pid, e.cgroup) or e.ppid in members.pids]
    counted = interval and not layer.events_cut and layer.execs_per_s is not None

    def per_s(*kinds: str) -> float | None:
        if not counted or not interval:
            return None
        return sum(1 for e in events if e.kind in kinds) * 1e9 / interval

    return Processes(
        rows=rows, threads=[t for t in layer.threads if t.pid in members.pids], events=events,
        events_cut=layer.events_cut, folds=[f for f in layer.folds if members.has_group(f.cgroup)],
        forks_per_s=total(p.forks_per_s for p in rows), execs_per_s=per_s("exec"),
        exits_per_s=per_s("exit"))


def _off_cpu(rows: list[Process]) -> dict[str, float] | None:
    """Mean number of threads off CPU by reason."""
    tracked = [p.off_cpu_pct for p in rows if p.off_cpu_pct is not None]
    if not tracked:
        return None
    return {reason: sum(found.get(reason, 0.0) for found in tracked) / 100.0 for reason in OFF_CPU}


def narrow_sched(frame: Frame, members: Members, rows: list[Process],
                 groups: list[Cgroup]) -> Sched:
    """The scheduler's figures over the threads of the scope. Queue lengths are the host's.

    The histogram of whole control groups has threads that ended in the interval too.
    """
    if members.cgroups is not None:
        runq = merged(group.runq for group in groups if group.id in members.cgroups)
    else:
        runq = merged(p.runq for p in rows)
    if runq is None and frame.sched.runq is not None:
        runq = Hist({})
    waiting = total(p.runq_wait_pct for p in rows)
    switches = [total((p.voluntary_per_s, p.involuntary_per_s)) for p in rows]
    return Sched(
        runq=runq, runq_len=frame.sched.runq_len,
        waiting=None if waiting is None else waiting / 100.0, switches_per_s=total(switches),
        migrations_per_s=total(p.migrations_per_s for p in rows), off_cpu=_off_cpu(rows))


def narrow_cgroups(frame: Frame, members: Members, rows: list[Process]) -> list[Cgroup]:
    """The scope's groups; of processes alone, the groups they live in, whole as they are."""
    if members.cgroups is not None:
        return [group for group in frame.cgroups if group.id in members.cgroups]
    homes = {p.cgroup for p in rows}
    return [group for group in frame.cgroups if group.id in homes]


def narrow_host_layers(frame: Frame, members: Members) -> Frame:
    """The frame with processes, scheduler and control groups narrowed."""
    processes = narrow_processes(frame, members)
    groups = narrow_cgroups(frame, members, processes.rows)
    return replace(frame, processes=processes, cgroups=groups,
                   sched=narrow_sched(frame, members, processes.rows, groups))


_NOTES = {
    "processes": [
        "forks, executions and exits since the start are the host's alone: unknown here",
        "folds of a process are counted from the executions that ktop remembers"],
    "sched": ["CPUs and queue lengths are the host's: CPUs are shared",
              "of a process, waits of threads that ended within the interval are not known"],
    "diagnosis": ["victims are in the scope; who squeezes them may be outside of it"],
}


def narrow_notes(layer: str) -> list[str]:
    """What of these layers' figures is not the scope's alone, or not known for it."""
    return _NOTES.get(layer, [])
