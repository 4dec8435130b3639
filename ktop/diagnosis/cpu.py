"""Pipes `cpu` (run queue) and `steal` (the hypervisor's other guests)."""

from __future__ import annotations

from ktop import hist
from ktop.diagnosis.look import MOST, Look, set_percentiles
from ktop.diagnosis.model import Actor, Evidence, Pipe
from ktop.model import Hist, Process


def busy_pct(look: Look) -> float | None:
    """Mean of all CPUs' time that is not idle or waiting for I/O, %."""
    known = [100.0 - c.idle_pct - (c.iowait_pct or 0.0) for c in look.frame.cpus
             if c.idle_pct is not None]
    return sum(known) / len(known) if known else None


def _users(look: Look) -> list[Actor]:
    """Who uses the CPUs: first of the control group that asks for most, then by its own use."""
    demand: dict[int | None, float] = {}
    found: list[Process] = []
    total = 0.0
    for p in look.by_pid.values():
        cpu = p.cpu_pct or 0.0
        wanted = cpu + (p.runq_wait_pct or 0.0)
        if wanted < 1.0:
            continue
        demand[p.cgroup] = demand.get(p.cgroup, 0.0) + wanted
        total += cpu
        found.append(p)
    found.sort(key=lambda p: (-demand[p.cgroup], -(p.cpu_pct or 0.0), p.pid))
    return [look.actor(p, (p.cpu_pct or 0.0) / total if total else None) for p in found[:MOST]]


def measure_cpu(look: Look) -> list[Pipe]:
    """Threads that could run and do not: their number, how long they wait."""
    frame, t = look.frame, look.limits
    cpus = frame.host.cpus
    waits = [p.runq_wait_pct for p in frame.processes.rows if p.runq_wait_pct is not None]
    if not waits and frame.sched.waiting is None:
        return [Pipe("cpu", state="blind", why_blind="no run queue figures")]
    stalled = look.sum("cpu")
    pipe = Pipe("cpu", stalled=stalled, utilisation_pct=busy_pct(look),
                rate_per_s=frame.sched.switches_per_s, concurrency=frame.sched.waiting)
    runq = _histogram(look)
    set_percentiles(pipe, runq)
    if pipe.utilisation_pct is not None:
        pipe.headroom_pct = max(0.0, 100.0 - pipe.utilisation_pct)
    waiting = sum(waits) / 100 if waits else frame.sched.waiting or 0.0
    crowded = max((c.waiting or 0.0 for c in frame.cpus), default=0.0)
    p99 = pipe.p99_ns or 0.0
    busy = pipe.utilisation_pct or 0.0
    queued = stalled >= t.cpu_stalled and (
        waiting / cpus >= t.cpu_waiting_per_cpu or crowded >= t.cpu_waiting_one_cpu)
    late = (stalled >= t.cpu_tail_stalled and p99 >= t.cpu_tail_ns and busy >= t.cpu_busy_pct)
    if not (queued or late):
        return [pipe]
    pipe.state = "saturated" if queued and busy >= t.cpu_busy_pct else "contended"
    pipe.confidence = 0.9 if queued else 0.7
    pipe.victims, pipe.culprits = look.victims("cpu"), _users(look)
    pipe.evidence = [
        Evidence("threads waiting for a CPU, for each CPU", waiting / cpus, "threads",
                 "sched_info.run_delay of every thread", t.runq_reference),
        Evidence("CPUs busy", busy, "%", "/proc/stat")]
    if pipe.p99_ns is not None:
        pipe.evidence.append(Evidence("run queue latency, P99", p99 / 1e6, "ms",
                                      "run_delay at sched_switch", t.cpu_tail_ns / 1e6))
    _switches(look, pipe)
    pipe.check = "vmstat 1  (column r, against the number of CPUs); perf sched timehist"
    pipe.next = ("fewer runnable threads than CPUs: limit or move the culprit (cpu.max, nice, "
                 "another host), or add CPUs")
    return [pipe]


def _histogram(look: Look) -> Hist | None:
    """Run queue latency of the scope."""
    if look.members is None:
        return look.frame.sched.runq
    found = [w.process.runq for w in look.waiters.values() if w.process.runq is not None]
    return hist.merge(found) if found else None


def _switches(look: Look, pipe: Pipe) -> None:
    per_cpu = [c.switches_per_s for c in look.frame.cpus if c.switches_per_s is not None]
    most = max(per_cpu, default=0.0)
    if most >= look.limits.switches_per_cpu:
        pipe.evidence.append(Evidence("context switches of the busiest CPU", most, "/s",
                                      "sched_switch", look.limits.switches_per_cpu))


def measure_steal(look: Look) -> list[Pipe]:
    """CPU time that the hypervisor gave to others: of the host, whatever the scope."""
    known = [c.steal_pct for c in look.frame.cpus if c.steal_pct is not None]
    if not known:
        return [Pipe("steal", state="blind", why_blind="no CPU times yet")]
    mean = sum(known) / len(known)
    pipe = Pipe("steal", stalled=sum(known) / 100, utilisation_pct=mean)
    if mean < look.limits.steal_pct:
        return [pipe]
    pipe.state, pipe.confidence = "contended", 0.8
    pipe.evidence = [Evidence("CPU time stolen by the hypervisor", mean, "%", "/proc/stat, steal",
                              look.limits.steal_pct)]
    pipe.culprits = [Actor(None, "another guest of this machine's host")]
    pipe.victims = _users(look)
    pipe.check = "mpstat -P ALL 1  (column %steal)"
    pipe.next = "ask for a host with less neighbours, or an instance whose CPUs are its own"
    return [pipe]
