"""Pipe `memory`: reclaim, swap-in, and reads of what was thrown away for want of memory."""

from __future__ import annotations

from ktop.diagnosis.look import MOST, Look
from ktop.diagnosis.model import Actor, Evidence, Pipe
from ktop.model_pressure import MemoryGroup, Pressure


def _group_of(look: Look, pressure: Pressure | None) -> MemoryGroup | None:
    """The limited group in which most of the waiting is; None when it is the host's memory."""
    if pressure is None:
        return None
    total = look.sum("memory")
    found = [(sum(look.waiters[pid].memory for pid in g.pids if pid in look.waiters), g)
             for g in pressure.groups if g.limit_hits_per_s]
    if not found:
        return None
    most, group = max(found, key=lambda pair: (pair[0], pair[1].path))
    return group if most >= total / 2 else None


def _holders(look: Look, group: MemoryGroup | None) -> list[Actor]:
    """Who holds the memory that is short: by resident set."""
    rows = [p for p in look.by_pid.values()
            if p.rss_bytes and (group is None or p.pid in group.pids)]
    total = sum(p.rss_bytes or 0 for p in rows)
    rows.sort(key=lambda p: (-(p.rss_bytes or 0), p.pid))
    return [look.actor(p, (p.rss_bytes or 0) / total) for p in rows[:MOST]]


def measure(look: Look) -> list[Pipe]:
    """Time that threads lose for want of memory, asleep or freeing some themselves."""
    if not look.tracked:
        return [Pipe("memory", state="blind", why_blind="no accounts of waiting threads")]
    t, pressure, host = look.limits, look.frame.pressure, look.frame.host
    pipe = Pipe("memory", stalled=look.sum("memory"))
    if host.memory_total_bytes and host.memory_available_bytes is not None:
        pipe.headroom_pct = 100 * host.memory_available_bytes / host.memory_total_bytes
        pipe.utilisation_pct = 100 - pipe.headroom_pct
    if pressure is not None:
        pipe.rate_per_s = pressure.refaults_per_s
    if (pipe.stalled or 0.0) < t.memory_stalled:
        return [pipe]
    group = _group_of(look, pressure)
    pipe.state, pipe.confidence = "saturated", 0.9
    pipe.resource = group.path if group is not None else "host memory"
    pipe.victims = look.victims("memory")
    pipe.culprits = _holders(look, group)
    pipe.evidence = _evidence(look, group, pressure)
    pipe.check = "cat /proc/pressure/memory; grep -E 'allocstall|refault|pswpin' /proc/vmstat"
    pipe.next = "give it more memory (memory.max, limits.memory), or a smaller working set"
    if group is not None and group.limit_bytes:
        pipe.utilisation_pct = 100 * (group.usage_bytes or 0) / group.limit_bytes
        pipe.headroom_pct = max(0.0, 100 - pipe.utilisation_pct)
        pipe.check = f"cat the memory.stat (workingset_refault) and the limit of {group.path}"
    return [pipe]


def _evidence(look: Look, group: MemoryGroup | None, pressure: Pressure | None) -> list[Evidence]:
    own = sum(w.process.waits_pct.get("reclaim", 0.0) for w in look.waiters.values()
              if w.process.waits_pct)
    found = [Evidence("time of threads lost to memory", 100 * look.sum("memory"), "%",
                      "memory stalls in the accounts (task in_memstall), refaults",
                      100 * look.limits.memory_stalled)]
    if own:
        found.append(Evidence("of it freeing memory themselves, on a CPU", own, "%",
                              "mm_vmscan_direct_reclaim, mm_vmscan_memcg_reclaim"))
    if group is not None:
        if group.limit_bytes:
            found.append(Evidence("memory of the group, of its limit",
                                  (group.usage_bytes or 0) / (1 << 20), "MiB",
                                  "memory controller", group.limit_bytes / (1 << 20)))
        found.append(Evidence("charges that met the limit", group.limit_hits_per_s or 0.0, "/s",
                              "memory.failcnt or memory.events"))
        if group.refaults_per_s:
            found.append(Evidence("pages thrown away and needed again", group.refaults_per_s, "/s",
                                  "memory.stat workingset_refault"))
    if pressure is not None:
        if pressure.memory_some_pct is not None:
            found.append(Evidence("PSI memory, some", pressure.memory_some_pct, "%",
                                  "/proc/pressure/memory", look.limits.memory_reference_pct))
        if pressure.swap_in_per_s:
            found.append(Evidence("pages swapped in", pressure.swap_in_per_s, "/s",
                                  "/proc/vmstat pswpin"))
        if pressure.oom_kills_per_s:
            found.append(Evidence("processes killed for want of memory",
                                  pressure.oom_kills_per_s, "/s", "/proc/vmstat oom_kill", 0.0))
    return found
