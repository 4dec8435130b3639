"""What is wrong and stalls nobody yet: fork loops, opens of what is not there, leaks, OOM kills,
quotas used up in bursts, declared ceilings that are near."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from ktop.diagnosis.ceilings import ceilings
from ktop.diagnosis.look import Look
from ktop.diagnosis.model import Evidence, Finding
from ktop.diagnosis.quota import QuotaBursts, quota_bursts
from ktop.model import Process
from ktop.model_files import Descriptors, FileProcess

_WINDOW_NS = 3_000_000_000
# Kinds that need no more time to be believed: the figure itself is of many seconds, or an event.
SETTLED = ("descriptors", "oom", "quota bursts")


@dataclass
class _Children:
    """Exits below one process: (when, lifetime ns, CPU ns, short)."""

    exits: deque[tuple[int, int, int, bool]] = field(default_factory=deque)


class Findings:
    """Findings of one frame as seen; engine.py decides how long they must last."""

    def __init__(self) -> None:
        self._children: dict[int, _Children] = {}
        self._bursts: dict[int, QuotaBursts] = {}

    def measure(self, look: Look) -> list[tuple[str, Finding]]:
        """(key, finding) of what holds in this frame."""
        return [*self._fork_loops(look), *_missing(look), *_leaks(look), *_oom(look),
                *self._quota_bursts(look), *ceilings(look)]

    def _exits(self, look: Look) -> None:
        """Who ended, below whom. What a short-lived process had started counts to its parent: a
        health check is a shell that starts three."""
        now, t = look.frame.clock.monotonic_ns, look.limits
        for e in look.frame.processes.events:
            if e.kind != "exit" or e.lifetime_ns is None:
                continue
            work_ns = e.cpu_ns or 0
            short = e.lifetime_ns <= t.fork_lifetime_ns and work_ns <= t.fork_cpu_ns
            below = self._children.setdefault(e.ppid, _Children()).exits
            below.append((now, e.lifetime_ns, work_ns, short))
            own = self._children.pop(e.pid, None)
            if own is not None and e.lifetime_ns <= _WINDOW_NS:
                below.extend(own.exits)
        for pid, children in list(self._children.items()):
            while children.exits and now - children.exits[0][0] >= _WINDOW_NS:
                children.exits.popleft()
            if not children.exits:
                del self._children[pid]

    def _fork_loops(self, look: Look) -> list[tuple[str, Finding]]:
        self._exits(look)
        t, found = look.limits, []
        for pid, children in self._children.items():
            lives = [ns for _, ns, _, short in children.exits if short]
            per_s = len(lives) * 1e9 / _WINDOW_NS
            p = look.by_pid.get(pid)
            if per_s < t.forks_per_s or p is None or not look.inside(pid, p.cgroup):
                continue
            work_ns = sum(ns for _, _, ns, short in children.exits if short)
            # what only waits, as the sleep of the loop, is no work for them to be a part of
            other_ns = sum(ns for _, _, ns, _ in children.exits if ns > t.fork_cpu_ns)
            if work_ns < t.fork_share * (work_ns + other_ns):
                continue
            found.append((f"forks {pid}", _forks(look, p, per_s, sum(lives) / len(lives))))
        return found

    def _quota_bursts(self, look: Look) -> list[tuple[str, Finding]]:
        """Quotas that are used up for a moment, again and again."""
        return quota_bursts(look, self._bursts)


def _forks(look: Look, p: Process, rate: float, lifetime: float) -> Finding:
    return Finding(
        "forks", f"{p.comm} starts {rate:.0f} short processes a second", 0.0,
        [look.actor(p, 1.0)],
        [Evidence("short processes", rate, "/s", "sched_process_exit", look.limits.forks_per_s),
         Evidence("their mean life", lifetime / 1e6, "ms", "sched_process_exit",
                  look.limits.fork_lifetime_ns / 1e6)],
        f"execsnoop -P {p.pid}; pane Processes, executions",
        "do it in one process, or less often")


def _missing(look: Look) -> list[tuple[str, Finding]]:
    """Opens of what is not there, by command and control group: its workers do the same."""
    t, files = look.limits, look.frame.files
    commands: dict[tuple[str, int | None], list[FileProcess]] = {}
    for row in files.processes if files is not None else ():
        if row.ops.errors_per_s and look.inside(row.pid, row.cgroup):
            commands.setdefault((row.comm, row.cgroup), []).append(row)
    found = []
    for (comm, group), rows in commands.items():
        failed = sum(row.ops.errors_per_s or 0.0 for row in rows)
        opens = sum(row.ops.opens_per_s or 0.0 for row in rows)
        if failed < t.missing_per_s or failed < t.missing_share * opens:
            continue
        folds = [f for f in files.folds if f.comm == comm and f.error] if files else []
        if not folds:
            continue
        fold = max(folds, key=lambda f: (f.count or 0, f.path or ""))
        worst = max(rows, key=lambda row: (row.ops.errors_per_s or 0.0, -row.pid))
        found.append((f"missing {comm} {group}", _opens(
            look, worst, failed, fold.error or "", fold.path)))
    return found


def _opens(look: Look, row: FileProcess, failed: float, error: str, path: str | None) -> Finding:
    what = path or "a path that was not seen"
    return Finding(
        "missing files", f"{row.comm} fails to open files {failed:.0f} times a second: {error}",
        0.0, [look.actor_of(row.pid, row.comm, row.cgroup, 1.0)],
        [Evidence(f"opens that fail, most often {what}", failed, "/s", "openat(2) and its like",
                  look.limits.missing_per_s)],
        f"opensnoop -x -p {row.pid}; pane Files, opens",
        "remember what is not there, or put it where it is looked for")


def _leaks(look: Look) -> list[tuple[str, Finding]]:
    """Descriptors that only grow."""
    t, files = look.limits, look.frame.files
    found = []
    for row in files.descriptors if files is not None else ():
        growth = row.growth_per_min or 0.0
        near = row.left_ns is not None and row.left_ns <= t.fd_left_s * 1e9
        if row.steady and (growth >= t.fd_growth_per_min or near) and look.inside(
                row.pid, row.cgroup):
            found.append((f"descriptors {row.pid}", _leak(look, row, growth)))
    return found


def _leak(look: Look, row: Descriptors, growth: float) -> Finding:
    finding = Finding(
        "descriptors", f"{row.comm} opens more than it closes: {growth:.0f} a minute", 0.0,
        [look.actor_of(row.pid, row.comm, row.cgroup, 1.0)],
        [Evidence("open descriptors, of the limit", float(row.open), "descriptors",
                  "iter/task, fdtable", float(row.limit) if row.limit else None),
         Evidence("growth", growth, "/min", "each tick", look.limits.fd_growth_per_min)],
        f"ls -l /proc/{row.pid}/fd; pane Files, descriptors",
        "close what is opened; until then restart it before the limit")
    if row.left_ns is not None:
        finding.evidence.append(Evidence("time until the limit", row.left_ns / 6e10, "min",
                                         "limit, growth"))
    return finding


def _oom(look: Look) -> list[tuple[str, Finding]]:
    pressure = look.frame.pressure
    if look.members is not None or pressure is None or not pressure.oom_kills_per_s:
        return []
    return [("oom", Finding(
        "oom", "the kernel kills processes for want of memory", 0.0, [],
        [Evidence("processes killed", pressure.oom_kills_per_s, "/s", "/proc/vmstat oom_kill",
                  0.0)],
        "dmesg | grep -i 'killed process'", "more memory, or a limit for who takes it all"))]
