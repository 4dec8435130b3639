"""Pipe `lock`: threads of one process that wait for each other at a futex.

A futex wait alone says nothing: idle pools wait at futexes too. A mutex marks itself as contended
in its value, which the accounts saw (`mutex`). Of other futexes (semaphores, condition variables,
an interpreter's lock) only the signs of a lock count: several threads wait again and again, at each
moment exactly one of them does not, and there is no other thread that could feed them with work.
"""

from __future__ import annotations

from ktop.diagnosis.look import Look, Waiter
from ktop.diagnosis.model import Evidence, Pipe


def contended(look: Look, w: Waiter) -> tuple[float, float]:
    """(stalled, confidence) of one process's locks."""
    t = look.limits
    if w.mutex >= t.mutex_stalled:
        return w.mutex, 0.9
    if w.process.threads < 3 or w.futex < t.futex_stalled:
        return 0.0, 0.0
    queue = []
    for thread in look.frame.processes.threads:
        if thread.pid != w.process.pid:
            continue
        turns = thread.voluntary_per_s or 0.0
        if turns >= t.futex_turns_per_s:
            queue.append(thread)
        elif turns > t.futex_idle_per_s or (thread.cpu_pct or 0.0) > 1.0:
            return 0.0, 0.0
    if len(queue) < 3 or not all(
            (q.blocked_pct or 0.0) >= t.futex_waiting_pct and q.blocked_reason in ("futex", "lock")
            for q in queue):
        return 0.0, 0.0
    waiting = sum(q.blocked_pct or 0.0 for q in queue) / 100
    queued = sum(q.runq_wait_pct or 0.0 for q in queue) / 100  # for a CPU, before they try again
    one = len(queue) - waiting
    return (waiting, 0.6) if 1 - t.futex_one <= one <= 1 + t.futex_one + queued else (0.0, 0.0)


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
