"""What is wrong and stalls nobody yet: fork loops, opens of what is not there, leaks, OOM kills."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from ktop.diagnosis.look import Look
from ktop.diagnosis.model import Evidence, Finding
from ktop.model import Process
from ktop.model_files import Descriptors, FileProcess

_WINDOW_NS = 4_000_000_000


@dataclass
class _Children:
    """Exits of one parent's children: (when, lifetime ns)."""

    exits: deque[tuple[int, int]] = field(default_factory=deque)


class Findings:
    """Findings of one frame as seen; engine.py decides how long they must last."""

    def __init__(self) -> None:
        self._children: dict[int, _Children] = {}
        self._forks: dict[int, float] = {}  # pid -> forks a second, smoothed

    def measure(self, look: Look) -> list[tuple[str, Finding]]:
        """(key, finding) of what holds in this frame."""
        return [*self._fork_loops(look), *_missing(look), *_leaks(look), *_oom(look)]

    def _fork_loops(self, look: Look) -> list[tuple[str, Finding]]:
        now, t = look.frame.clock.monotonic_ns, look.limits
        for e in look.frame.processes.events:
            if e.kind == "exit" and e.lifetime_ns is not None:
                self._children.setdefault(e.ppid, _Children()).exits.append((now, e.lifetime_ns))
        for pid, children in list(self._children.items()):
            while children.exits and now - children.exits[0][0] > _WINDOW_NS:
                children.exits.popleft()
            if not children.exits:
                del self._children[pid]
        step = min(1.0, look.seconds / t.smooth_s)
        forks: dict[int, float] = {}
        for p in look.by_pid.values():
            if p.forks_per_s or p.pid in self._forks:
                rate = self._forks.get(p.pid, 0.0)
                rate += ((p.forks_per_s or 0.0) - rate) * step
                if rate > 0.05:
                    forks[p.pid] = rate
        self._forks = forks
        found = []
        for pid, rate in forks.items():
            p, ended = look.by_pid[pid], self._children.get(pid)
            if rate < t.forks_per_s or ended is None or not look.inside(pid, p.cgroup):
                continue
            lifetime = sum(ns for _, ns in ended.exits) / len(ended.exits)
            per_s = len(ended.exits) * 1e9 / _WINDOW_NS
            if per_s >= t.forks_per_s / 2 and lifetime <= t.fork_lifetime_ns:
                found.append((f"forks {pid}", _forks(look, p, rate, lifetime)))
        return found


def _forks(look: Look, p: Process, rate: float, lifetime: float) -> Finding:
    return Finding(
        "forks", f"{p.comm} starts {rate:.0f} short processes a second", 0.0,
        [look.actor(p, 1.0)],
        [Evidence("processes started", rate, "/s", "sched_process_fork", look.limits.forks_per_s),
         Evidence("their mean life", lifetime / 1e6, "ms", "sched_process_exit",
                  look.limits.fork_lifetime_ns / 1e6)],
        f"execsnoop -P {p.pid}; pane Processes, executions",
        "do it in one process, or less often")


def _missing(look: Look) -> list[tuple[str, Finding]]:
    """Opens of what is not there, by process."""
    t, files = look.limits, look.frame.files
    found = []
    for row in files.processes if files is not None else ():
        failed, opens = row.ops.errors_per_s or 0.0, row.ops.opens_per_s or 0.0
        if (failed < t.missing_per_s or failed < t.missing_share * opens
                or not look.inside(row.pid, row.cgroup)):
            continue
        folds = [f for f in files.folds if f.comm == row.comm and f.error] if files else []
        if not folds:
            continue
        worst = max(folds, key=lambda f: (f.count, f.path or ""))
        found.append((f"missing {row.pid}", _opens(look, row, failed, worst.error or "",
                                                   worst.path)))
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
