"""Pipe `lock`: threads of one process that wait for each other at a futex.

A futex wait alone says nothing: idle pools wait at futexes too. A mutex marks itself as contended
in its value, which the accounts saw (`mutex`). Of other futexes (semaphores, condition variables,
an interpreter's lock) only the signs of a lock count: waits are short, several threads wait, and
what they wait for is busy all the time and never with two at once.
"""

from __future__ import annotations

from ktop.diagnosis.look import Look, Waiter
from ktop.diagnosis.model import Evidence, Pipe


def contended(look: Look, w: Waiter) -> tuple[float, float]:
    """(stalled, confidence) of one process's locks."""
    t, p = look.limits, w.process
    if w.mutex >= t.mutex_stalled:
        return w.mutex, 0.9
    waits = (p.voluntary_per_s or 0.0) + (p.involuntary_per_s or 0.0)
    cpu = p.cpu_pct or 0.0
    if (p.threads > 2 and w.futex >= t.futex_stalled and waits
            and w.futex * 1e9 / waits <= t.futex_wait_ns
            and t.futex_cpu_pct <= cpu <= t.futex_cpu_most_pct and w.cpu < 0.3):
        return w.futex, 0.55
    return 0.0, 0.0


def measure(look: Look) -> list[Pipe]:
    """One pipe for each process whose threads queue at a lock."""
    if not look.tracked:
        return [Pipe("lock", state="blind", why_blind="no accounts of waiting threads")]
    pipes = []
    for w in look.waiters.values():
        if w.mutex + w.futex < look.limits.mutex_stalled:
            continue
        stalled, confidence = contended(look, w)
        if stalled:
            pipes.append(_one(look, w, stalled, confidence))
    return pipes or [Pipe("lock", stalled=look.sum("mutex"))]


def _one(look: Look, w: Waiter, stalled: float, confidence: float) -> Pipe:
    p = w.process
    switches = p.voluntary_per_s or 0.0
    pipe = Pipe("lock", f"a futex of {p.comm} ({p.pid})", "contended", stalled=stalled,
                rate_per_s=switches, concurrency=stalled, utilisation_pct=p.cpu_pct,
                confidence=confidence)
    pipe.victims = pipe.culprits = [look.actor(p, 1.0)]
    pipe.evidence = [
        Evidence("threads that wait for a lock of their own process", stalled, "threads",
                 "futex waits in the accounts", look.limits.mutex_stalled),
        Evidence("of them at mutexes marked as contended", w.mutex, "threads",
                 "the futex's value"),
        Evidence("CPU of the process, all threads", p.cpu_pct or 0.0, "%", "sum_exec_runtime")]
    if switches:
        pipe.evidence.append(Evidence("mean wait", 1e3 * stalled / switches, "ms",
                                      "waits / voluntary switches"))
    pipe.check = f"perf trace -s -e futex -p {p.pid}; or stacks of its threads off CPU (S)"
    pipe.next = "hold the lock for less, split it, or use fewer threads"
    return pipe
