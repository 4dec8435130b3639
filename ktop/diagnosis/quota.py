"""Pipe `quota`: control groups that may not use the CPUs although they could."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from ktop.diagnosis.look import Look, weighted
from ktop.diagnosis.model import Actor, Evidence, Finding, Pipe
from ktop.model import Cgroup


def measure(look: Look) -> list[Pipe]:
    """One pipe for each group whose quota holds somebody of the scope back."""
    if all(g.throttled_pct is None for g in look.frame.cgroups if g.quota_cpus is not None):
        return [Pipe("quota", stalled=0.0)]
    stalls: dict[int, float] = {}
    quotas: dict[int, Cgroup] = {}
    for w in look.waiters.values():
        if w.quota and w.process.cgroup in look.held:
            quota = look.held[w.process.cgroup][1]
            quotas[quota.id] = quota
            stalls[quota.id] = stalls.get(quota.id, 0.0) + w.quota
    pipes = [_one(look, quotas[i], stalled) for i, stalled in stalls.items()]
    return pipes or [Pipe("quota", stalled=0.0)]


def _one(look: Look, group: Cgroup, stalled: float) -> Pipe:
    t = look.limits
    quota = group.quota_cpus or 0.0
    inside = {g.id for g in look.within(group)}
    used = sum((g.cpu_pct or 0.0) for g in look.within(group)) / 100
    periods = group.periods_per_s or 0.0
    share = 100 * (group.throttled_per_s or 0.0) / periods if periods else 0.0
    pipe = Pipe("quota", group.path, stalled=stalled, rate_per_s=group.throttled_per_s,
                utilisation_pct=100 * used / quota if quota else None, concurrency=used)
    if pipe.utilisation_pct is not None:
        pipe.headroom_pct = max(0.0, 100 - pipe.utilisation_pct)
    if stalled < t.quota_stalled or share < t.quota_periods_pct:
        return pipe
    pipe.state, pipe.confidence = "saturated", 0.95
    pipe.victims = look.victims("quota")
    pipe.culprits = weighted(look, ((p.cpu_pct or 0.0, p) for p in look.by_pid.values()
                                    if p.cgroup in inside))
    pipe.evidence = [
        Evidence("periods in which the group was throttled", share, "%", "cpu.stat nr_throttled",
                 t.quota_periods_pct),
        Evidence("time throttled, summed over CPUs", group.throttled_pct or 0.0, "%",
                 "cpu.stat throttled time"),
        Evidence("CPUs used, of the quota", used, "CPUs", "sum_exec_runtime", quota)]
    pipe.check = f"cat the cpu.stat of {group.path} twice (nr_throttled), and its cpu.max"
    pipe.next = "raise the quota (cpu.max, cfs_quota_us; limits.cpu), or use fewer threads at once"
    return pipe


@dataclass
class QuotaBursts:
    """Moments at which one group was held back. moments: (when, ms of one CPU, who forked)."""

    moments: deque[tuple[int, float, Actor | None]] = field(default_factory=deque)
    since_ns: int = 0  # of the burst under way; a burst is throttled ticks without a break


def _starter(look: Look, group: Cgroup) -> Actor | None:
    """Who was at it in a burst: the parent of what was run in the group, else who used the CPU."""
    inside = {g.id for g in look.within(group)}
    parents: dict[tuple[int, str], int] = {}
    for e in look.frame.processes.events:
        if e.kind == "exit" and e.cgroup in inside:
            parents[e.ppid, e.parent_comm] = parents.get((e.ppid, e.parent_comm), 0) + 1
    if parents:
        pid, comm = max(parents, key=lambda key: (parents[key], -key[0]))
        return look.actor_of(pid, comm, group.id, 1.0)
    busy = max((p for p in look.by_pid.values() if p.cgroup in inside and p.cpu_pct),
               key=lambda p: (p.cpu_pct or 0.0, -p.pid), default=None)
    return look.actor(busy, 1.0) if busy is not None else None


def quota_bursts(look: Look, known: dict[int, QuotaBursts]) -> list[tuple[str, Finding]]:
    """Groups that use up their quota in short bursts: too short to be named, felt each time."""
    t, now = look.limits, look.frame.clock.monotonic_ns
    for group in look.frame.cgroups:
        part, quota = look.held.get(group.id, (0.0, group))
        if not group.throttled_pct or quota.id != group.id:
            continue
        bursts = known.setdefault(group.id, QuotaBursts())
        ms = 1e3 * part * look.seconds
        if bursts.moments and now - bursts.since_ns <= 1.5 * look.seconds * 1e9:
            at, before, who = bursts.moments.pop()
            bursts.moments.append((at, before + ms, who or _starter(look, group)))
        else:
            bursts.moments.append((now, ms, _starter(look, group)))
        bursts.since_ns = now
    found = []
    for number, bursts in list(known.items()):
        while bursts.moments and now - bursts.moments[0][0] > t.quota_burst_every_s * 1e9:
            bursts.moments.popleft()
        if not bursts.moments or number not in look.groups:
            del known[number]
            continue
        long = [moment for moment in bursts.moments if moment[1] >= t.quota_burst_ms]
        if len(long) >= 2 and look.inside(None, number):
            found.append((f"quota bursts {number}", _bursts(look, look.groups[number], long)))
    return found


def _bursts(look: Look, group: Cgroup, moments: list[tuple[int, float, Actor | None]]) -> Finding:
    mean = sum(ms for _, ms, _ in moments) / len(moments)
    every = (moments[-1][0] - moments[0][0]) / 1e9 / (len(moments) - 1)
    who = next((actor for _, _, actor in reversed(moments) if actor is not None), None)
    return Finding(
        "quota bursts", f"{group.path} uses up its CPU quota every {every:.0f} s, and is held "
        f"back {mean:.0f} ms each time", 0.0, [who] if who is not None else [],
        [Evidence("held back in a burst, mean", mean, "ms", "cpu.stat throttled time",
                  look.limits.quota_burst_ms),
         Evidence("from burst to burst", every, "s", "cpu.stat, each tick",
                  look.limits.quota_burst_every_s),
         Evidence("quota", group.quota_cpus or 0.0, "CPUs", "cpu.max, cfs_quota_us")],
        f"watch the cpu.stat of {group.path} (nr_throttled); pane Processes, executions",
        "raise the quota, or spread what is done at once")
