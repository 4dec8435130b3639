"""Pipe `quota`: control groups that may not use the CPUs although they could."""

from __future__ import annotations

from ktop.diagnosis.look import Look, held_back, weighted
from ktop.diagnosis.model import Evidence, Pipe
from ktop.model import Cgroup


def measure(look: Look) -> list[Pipe]:
    """One pipe for each group whose quota holds somebody of the scope back."""
    if all(g.throttled_pct is None for g in look.frame.cgroups if g.quota_cpus is not None):
        return [Pipe("quota", stalled=0.0)]
    held = held_back(look.frame)
    stalls: dict[int, float] = {}
    quotas: dict[int, Cgroup] = {}
    for w in look.waiters.values():
        if w.quota and w.process.cgroup in held:
            quota = held[w.process.cgroup][1]
            quotas[quota.id] = quota
            stalls[quota.id] = stalls.get(quota.id, 0.0) + w.quota
    pipes = [_one(look, quotas[i], stalled) for i, stalled in stalls.items()]
    return pipes or [Pipe("quota", stalled=0.0)]


def _one(look: Look, group: Cgroup, stalled: float) -> Pipe:
    t = look.limits
    quota = group.quota_cpus or 0.0
    below = group.path.rstrip("/") + "/"
    inside = {g.id for g in look.frame.cgroups
              if g.id == group.id or g.path.startswith(below)}
    used = sum((g.cpu_pct or 0.0) for g in look.frame.cgroups if g.id in inside) / 100
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
