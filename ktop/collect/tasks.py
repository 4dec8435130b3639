"""Threads and processes out of one iter/task read.

What makes a tick cheap: a thread that did nothing since the last tick writes the same bytes again.
So the read is cut into records, compared as a set with the last one at C speed, and only what
changed is decoded. A process none of whose threads changed keeps its row object.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from ktop.bpf.layout import HIST_STRUCT, RECORD_SIZE, TAG_HIST, TASK_STRUCT
from ktop.collect.mourned import Mourned
from ktop.collect.records import TaskRecord
from ktop.collect.taskrows import Interval, RowMaker, TaskThread, slept_until
from ktop.model import Process, Thread

_CUT = struct.Struct(f"{RECORD_SIZE}s")
_HIST_TAG = struct.pack("@I", TAG_HIST)
_EXITED = 0x30  # EXIT_DEAD, EXIT_ZOMBIE


class _Process:
    __slots__ = ("ended", "row", "thread_rows", "threads")

    def __init__(self) -> None:
        self.threads: dict[int, TaskThread] = {}
        self.ended: list[TaskRecord] = []  # threads that ended since the last tick
        self.row: Process | None = None
        self.thread_rows: list[Thread] = []


class TaskTable:
    """Keeps the last read and turns the next one into rows.

    changes: (row before, row now) of every process that came, went or changed in the last
    `update`; None where there is none.
    """

    def __init__(self, syscalls: dict[int, str], tracked: bool = True) -> None:
        self._rows = RowMaker(syscalls, tracked)
        self._seen: set[bytes] = set()
        self._processes: dict[int, _Process] = {}
        self._live: dict[int, Process] = {}           # rows, by pid
        self._threaded: dict[int, list[Thread]] = {}  # of those with more than one thread
        self._unsettled: set[int] = set()  # changed in the last tick: their rates are still moving
        self._last_ns: int | None = None
        self.mourned: Mourned | None = None  # of the process that is looked at
        self.changes: list[tuple[Process | None, Process | None]] = []
        self.buried: list[tuple[int, tuple[int, ...]]] = []

    def update(self, data: bytes, now: int, boot_offset_ns: int) -> None:
        """Take in one read made at `now` (CLOCK_MONOTONIC ns).

        boot_offset_ns: CLOCK_BOOTTIME - CLOCK_MONOTONIC.
        """
        current = {chunk for (chunk,) in _CUT.iter_unpack(data)}
        changed, gone = current - self._seen, self._seen - current
        self.changes, self.buried = [], []
        interval = Interval(self._last_ns, now, boot_offset_ns)
        histograms = {chunk for chunk in changed if chunk[:4] == _HIST_TAG}
        records = [TaskRecord._make(TASK_STRUCT.unpack(chunk)) for chunk in changed - histograms]
        touched = {record.tgid for record in records}
        for record in records:
            self._enter(record, interval)
        touched |= self._leave(gone, {record.pid for record in records})
        by_tid = {tid: tuple(counts) for _, tid, *counts in map(HIST_STRUCT.unpack, histograms)}
        always = {self.mourned.pid} if self.mourned else set()
        for pid in touched | self._unsettled | always:
            process = self._processes.get(pid)
            if process is not None:
                self._refresh(process, by_tid, interval)
        self._seen = current - histograms
        self._unsettled = touched
        self._last_ns = now

    def _enter(self, record: TaskRecord, interval: Interval) -> None:
        process = self._processes.get(record.tgid)
        if process is None:
            process = self._processes[record.tgid] = _Process()
        thread = process.threads.get(record.pid)
        if thread is None or thread.record.start_boottime_ns != record.start_boottime_ns:
            if thread is not None:  # the number was used again
                self._bury(thread)
                if record.pid == record.tgid:
                    self.changes.append((process.row, None))
                    process.row = None
            process.threads[record.pid] = TaskThread(record, interval)
        else:
            thread.record = record

    def _leave(self, gone: Iterable[bytes], alive: set[int]) -> set[int]:
        """Drop the threads of records that have no successor; the pids of their processes."""
        touched = set()
        for chunk in gone:
            _, tid, tgid = struct.unpack_from("@III", chunk)
            process = self._processes.get(tgid)
            if tid in alive or process is None or tid not in process.threads:
                continue
            thread = process.threads.pop(tid)
            process.ended.append(thread.record)
            self._bury(thread)
            touched.add(tgid)
            if not process.threads:
                del self._processes[tgid]
                self._live.pop(tgid, None)
                self._threaded.pop(tgid, None)
                self.changes.append((process.row, None))
        return touched

    def _bury(self, thread: TaskThread) -> None:
        """It has ended, or is a zombie: sched.bpf.c has made its histogram its cgroup's."""
        if thread.hist is not None and not thread.buried:
            thread.buried = True
            self.buried.append((thread.record.cgroup, thread.hist))

    def _refresh(self, process: _Process, histograms: dict[int, tuple[int, ...]],
                 interval: Interval) -> None:
        for tid, thread in process.threads.items():
            thread.take_histogram(histograms.get(tid))
            if thread.record.state & _EXITED:
                self._bury(thread)
        before = process.row
        process.row, process.thread_rows = self._rows.make(
            list(process.threads.values()), process.ended, before, interval,
            self._of_ended(process, interval))
        self.changes.append((before, process.row))
        self._live[process.row.pid] = process.row
        if process.thread_rows:
            self._threaded[process.row.pid] = process.thread_rows
        else:
            self._threaded.pop(process.row.pid, None)
        process.ended = []
        for thread in process.threads.values():
            thread.before = thread.record

    def _of_ended(self, process: _Process, interval: Interval) -> list[int] | None:
        """What ended threads of the process that is looked at did; None for all others."""
        if self.mourned is None or not self.mourned.pid or interval.last is None:
            return None
        if next(iter(process.threads.values())).record.tgid != self.mourned.pid:
            return None
        last = interval.last
        return self.mourned.settle(
            {(t.record.pid, t.record.start_boottime_ns) for t in process.threads.values()},
            [(record, slept_until(record, last)[0]) for record in process.ended])

    def row(self, pid: int) -> Process | None:
        """A process's row, None when there is no such process."""
        process = self._processes.get(pid)
        return process.row if process else None

    def rows(self) -> list[Process]:
        """Every process's row, in no order."""
        return list(self._live.values())

    def threads(self) -> list[Thread]:
        """Rows of the threads of every process that has more than one."""
        return [row for rows in self._threaded.values() for row in rows]
