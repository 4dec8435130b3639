"""From two records of each thread to the rows of a process: differences, rates, reasons."""

from __future__ import annotations

import mmap
from functools import lru_cache
from operator import add, itemgetter, sub
from typing import Any

from ktop import hist
from ktop.bpf.layout import TASK_FLAG_KTHREAD, TASK_FLAG_TRACKED, WAITS
from ktop.collect.records import SLEPT_END, SLEPT_FIRST, WAITED_END, WAITED_FIRST, TaskRecord
from ktop.model import BLOCKED, OFF_CPU, Hist, Process, Thread
from ktop.text import comm

_BLOCKED_AT = [1 + OFF_CPU.index(name) for name in BLOCKED]  # index 0 is `runnable`
_DISK, _UNINTERRUPTIBLE = 1, 2

# Scheduler states, include/linux/sched.h, with the letters of fs/proc/array.c.
_LETTERS = ((0x20, "Z"), (0x10, "X"), (0x08, "t"), (0x04, "T"), (0x02, "D"), (0x01, "S"),
            (0x40, "P"), (0x80, "X"), (0x1000, "D"), (0x8000, "D"))
_RANK = {letter: i for i, letter in enumerate("RDTtSIPZX?")}

# What is counted, and where signal_struct keeps the same of threads that have ended.
_DEAD = {"cpu_ns": "dead_cpu_ns", "utime_ns": "dead_utime_ns", "stime_ns": "dead_stime_ns",
         "voluntary": "dead_voluntary", "involuntary": "dead_involuntary",
         "major_faults": "dead_major_faults"}
_COUNTED = (*_DEAD, "read_bytes", "write_bytes", "migrations", "forks")
_INDEX = TaskRecord._fields.index
_living = itemgetter(*map(_INDEX, _COUNTED))
_dead = itemgetter(*map(_INDEX, _DEAD.values()))  # of the first of those


@lru_cache(maxsize=256)
def state_letter(state: int) -> str:
    """ps(1)'s letter for task_struct.__state | exit_state."""
    if state == 0:
        return "R"
    if state & 0x402 == 0x402:  # TASK_UNINTERRUPTIBLE | TASK_NOLOAD
        return "I"
    return next((letter for bit, letter in _LETTERS if state & bit), "?")


class Interval:
    """The time between two reads, CLOCK_MONOTONIC ns. `last` None: there is no read before."""

    __slots__ = ("boot_offset", "last", "now")

    def __init__(self, last: int | None, now: int, boot_offset: int) -> None:
        self.last, self.now, self.boot_offset = last, now, boot_offset


class TaskThread:
    """One live thread. `before` is its record at the last tick, None when it was born since."""

    __slots__ = ("before", "buried", "hist", "hist_delta", "record")

    def __init__(self, record: TaskRecord, interval: Interval) -> None:
        self.record = record
        born = (interval.last is not None
                and record.start_boottime_ns >= interval.last + interval.boot_offset)
        self.before: TaskRecord | None = None if born else record
        self.hist: tuple[int, ...] | None = None
        self.hist_delta: dict[int, int] = {}
        self.buried = False  # its histogram has been told of as an ended thread's

    def take_histogram(self, counts: tuple[int, ...] | None) -> None:
        """The new cumulative histogram, None when it did not change."""
        if counts is None:
            self.hist_delta = {}
            return
        old = self.hist or (0,) * len(counts)
        self.hist_delta = {i: n for i, n in enumerate(map(sub, counts, old)) if n}
        self.hist = counts


class Sums:
    """What a thread or a process did in one interval.

    counters: `_COUNTED`. slept: by REASONS, waited: by WAITS, ns.
    """

    __slots__ = ("counters", "hist", "slept", "tracked", "waited")

    def __init__(self) -> None:
        self.counters = [0] * len(_COUNTED)
        self.slept = [0] * (len(OFF_CPU) + 1)
        self.waited = [0] * len(WAITS)
        self.hist: dict[int, int] = {}
        self.tracked = True

    def add(self, other: Sums) -> None:
        """Fold a thread into its process."""
        self.counters = list(map(add, self.counters, other.counters))
        self.slept = list(map(add, self.slept, other.slept))
        self.waited = list(map(add, self.waited, other.waited))
        self.tracked = self.tracked and other.tracked
        for i, n in other.hist.items():
            self.hist[i] = self.hist.get(i, 0) + n


def _totals(t: TaskRecord) -> list[int]:
    """A thread's counters; a leader's with those of its process's ended threads."""
    values: list[int] = list(_living(t))
    if t.pid == t.tgid:
        values[:len(_DEAD)] = map(add, values, _dead(t))
    return values


def slept_until(t: TaskRecord, now: int) -> tuple[list[int], list[int]]:
    """Time by reason up to `now`; index 0 is the run queue wait, which the others exclude. And by
    what was waited for (WAITS).

    The account holds closed absences; the one under way, or ended but not yet split into sleep
    and queue, is added here.
    """
    fields: tuple[Any, ...] = t
    slept: list[int] = list(fields[SLEPT_FIRST:SLEPT_END])
    waited: list[int] = list(fields[WAITED_FIRST:WAITED_END])
    queued = t.run_delay_ns + t.waiting_ns
    absent = now - t.off_ns if t.off_ns else t.pend_ns
    if absent:
        asleep = max(0, absent - (queued - t.seen_delay_ns))
        slept[t.reason] += asleep
        if t.wait < len(WAITS):
            waited[t.wait] += asleep
    slept[0] = queued
    return slept, waited


def thread_sums(thread: TaskThread, interval: Interval) -> Sums:
    """One thread's interval."""
    t, before = thread.record, thread.before
    assert interval.last is not None
    sums = Sums()
    sums.hist = thread.hist_delta
    sums.counters = _totals(t)
    sums.slept, sums.waited = slept_until(t, interval.now)
    sums.tracked = bool(t.flags & TASK_FLAG_TRACKED)
    if before is not None:
        sums.counters = list(map(sub, sums.counters, _totals(before)))
        slept, waited = slept_until(before, interval.last)
        sums.slept = [ns if ns > 0 else 0 for ns in map(sub, sums.slept, slept)]
        sums.waited = [ns if ns > 0 else 0 for ns in map(sub, sums.waited, waited)]
        # An account opened in this interval does not know what went before.
        sums.tracked = sums.tracked and bool(before.flags & TASK_FLAG_TRACKED)
    _fit(sums, t, before, interval)
    return sums


def _fit(sums: Sums, t: TaskRecord, before: TaskRecord | None, interval: Interval) -> None:
    """States are exclusive: run queue wait and time off CPU are no more than CPU time leaves.

    CPU time begins with the run queue's clock, which a wakeup on an idle CPU leaves at the moment
    of the wakeup (rq_clock_skip_update); the account ends an absence with the switch itself. So
    some us of each wakeup would be counted twice: 6% of wall time at 19,000 a second. And a wait
    under way at the read before may have been read short by that clock, and count here.
    """
    assert interval.last is not None
    begun = max(interval.last, t.start_boottime_ns - interval.boot_offset)
    cpu = t.cpu_ns - (before.cpu_ns if before is not None else 0)
    left = max(0, interval.now - begun - cpu)
    sums.slept[0] = min(sums.slept[0], left)
    left, off = left - sums.slept[0], sum(sums.slept[1:])
    if off > left:
        share = left / off
        sums.slept[1:] = [round(ns * share) for ns in sums.slept[1:]]
        sums.waited = [ns if name == "reclaim" else round(ns * share)  # that is time on a CPU
                       for name, ns in zip(WAITS, sums.waited, strict=True)]


class RowMaker:
    """Makes rows; knows the machine's syscall names. tracked False: nobody keeps the accounts."""

    def __init__(self, syscalls: dict[int, str], tracked: bool) -> None:
        self._syscalls, self._tracked = syscalls, tracked

    def make(self, threads: list[TaskThread], ended: list[TaskRecord], old: Process | None,
             interval: Interval, mourned: list[int] | None = None,
             ) -> tuple[Process, list[Thread]]:
        """The row of a process and, when it has more than one thread, of each.

        mourned: of the process that is looked at, what ended threads did (Mourned.settle).
        """
        leader = next((t.record for t in threads if t.record.pid == t.record.tgid),
                      threads[0].record)
        letters = [state_letter(t.record.state) for t in threads]
        name = comm(leader.comm)
        row = Process(
            pid=leader.tgid, ppid=leader.ppid, uid=leader.uid, comm=name,
            args=old.args if old and old.comm == name else None, cgroup=leader.cgroup,
            state=min(letters, key=lambda s: _RANK[s]), threads=len(threads),
            start_boottime_ns=leader.start_boottime_ns,
            kernel_thread=bool(leader.flags & TASK_FLAG_KTHREAD),
            rss_bytes=leader.rss_pages * mmap.PAGESIZE)
        total: Sums | None = None
        thread_rows: list[Thread] = []
        if interval.last is not None:
            total = Sums()
            for thread in threads:
                sums = thread_sums(thread, interval)
                sums.tracked = sums.tracked and self._tracked
                if len(threads) == 1:
                    total = sums
                else:
                    total.add(sums)
                    thread_rows.append(self._thread_row(thread.record, sums, interval))
                    if mourned is not None and sums.tracked:
                        thread_rows[-1].off_cpu_pct = _off_cpu(sums, interval)
            for record in ended:  # the leader's record has them now: take out what was known
                total.counters = list(map(sub, total.counters, _totals(record)))
            if mourned is not None:
                total.slept = list(map(add, total.slept, mourned))
            self._rate(row, threads, total, interval)
        elif len(threads) > 1:
            thread_rows = [self._thread_row(t.record, None, interval) for t in threads]
        return row, thread_rows

    def _reason(self, t: TaskRecord, slept: list[int]) -> str | None:
        """Why it is blocked: its syscall's name, `iowait`, or the kind of wait."""
        worst = max(_BLOCKED_AT, key=slept.__getitem__)
        if not slept[worst]:
            return None
        if worst == _DISK:
            return "iowait"
        kind = OFF_CPU[worst - 1]
        if t.reason != worst:
            return kind
        if t.syscall < 0:
            return "page fault" if worst == _UNINTERRUPTIBLE else kind
        return self._syscalls.get(t.syscall, f"syscall {t.syscall}")

    def _thread_row(self, t: TaskRecord, d: Sums | None, interval: Interval) -> Thread:
        row = Thread(tid=t.pid, pid=t.tgid, comm=comm(t.comm), state=state_letter(t.state),
                     cpu=t.cpu if t.cpu >= 0 else None)
        if d is None or interval.last is None:
            return row
        per, pct = _scales(interval)
        row.cpu_pct = max(0, d.counters[0]) * pct
        row.voluntary_per_s, row.involuntary_per_s = (max(0, n) * per for n in d.counters[3:5])
        row.runq_wait_pct = d.slept[0] * pct
        if d.tracked:
            row.blocked_pct = sum(d.slept[i] for i in _BLOCKED_AT) * pct
            row.blocked_reason = self._reason(t, d.slept)
        return row

    def _rate(self, row: Process, threads: list[TaskThread], d: Sums, interval: Interval) -> None:
        per, pct = _scales(interval)
        cpu, user, system, *rest = (n if n > 0 else 0 for n in d.counters)
        row.cpu_pct = cpu * pct
        # utime and stime are sampled by the tick; the exact runtime is split in their proportion.
        if user + system or not cpu:
            row.system_pct = row.cpu_pct * system / max(1, user + system)
            row.user_pct = row.cpu_pct - row.system_pct
        row.voluntary_per_s, row.involuntary_per_s, row.major_faults_per_s = (
            n * per for n in rest[:3])
        row.read_bytes_per_s, row.write_bytes_per_s, row.migrations_per_s = (
            n * per for n in rest[3:6])
        row.runq_wait_pct = d.slept[0] * pct
        if not d.tracked:
            return
        row.forks_per_s = rest[6] * per
        row.off_cpu_pct = _off_cpu(d, interval)
        row.waits_pct = {name: ns * pct for name, ns in zip(WAITS, d.waited, strict=True) if ns}
        row.blocked_pct = sum(d.slept[i] for i in _BLOCKED_AT) * pct
        if row.blocked_pct:
            worst = max(_BLOCKED_AT, key=d.slept.__getitem__)
            witness = next((t.record for t in threads if t.record.reason == worst),
                           threads[0].record)
            row.blocked_reason = self._reason(witness, d.slept)
        if d.hist:
            row.runq = Hist(d.hist, hist.midpoint_sum(d.hist))


def _off_cpu(d: Sums, interval: Interval) -> dict[str, float]:
    """Time off CPU by reason, % of the interval."""
    _, pct = _scales(interval)
    return {name: d.slept[i] * pct for i, name in enumerate(OFF_CPU, 1) if d.slept[i]}


def _scales(interval: Interval) -> tuple[float, float]:
    """Factors from a count to a rate per second, and from ns to % of the interval."""
    assert interval.last is not None
    length = max(1, interval.now - interval.last)
    return 1e9 / length, 100.0 / length
