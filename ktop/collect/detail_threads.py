"""Threads of the process that is looked at: where each of them is in the kernel.

Four small files a thread: with many threads they are read in turns, as far as the budget goes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from ktop.collect.detail_fds import read_at
from ktop.collect.detail_proc import stat
from ktop.collect.proctext import number
from ktop.model import Thread
from ktop.model_detail import THREADS_PER_FRAME, ThreadDetail
from ktop.text import clean

_SOONER_NS = 5_000_000_000
STACK = 32  # functions shown of a kernel stack


def stack_names(raw: bytes) -> list[str]:
    """`[<0>] futex_wait+0x11/0x22` lines as function names, innermost first."""
    names = []
    for line in raw.splitlines()[:STACK]:
        name = line.partition(b"] ")[2] or line
        names.append(clean(name.partition(b"+")[0], 100))
    return names


def syscall_name(raw: bytes, names: Mapping[int, str]) -> str | None:
    """/proc/PID/syscall: `running`, a number with its arguments, or -1 outside of any."""
    word = raw.split(None, 1)[0].decode("ascii", "replace") if raw.split() else ""
    if word == "running":
        return word
    called = number(word)
    if called is None:
        return None
    return "none" if called < 0 else names.get(called, f"syscall {called}")


class Threads:
    """The list, tick by tick. directory: an open /proc/PID. syscalls: names by number."""

    def __init__(self, directory: int, syscalls: Mapping[int, str]) -> None:
        self._directory, self._syscalls = directory, syscalls
        self._rows: dict[int, ThreadDetail] = {}
        self._read_at: dict[int, int] = {}
        self.total: int | None = None
        self.reasons: dict[str, str] = {}

    def update(self, now: int, budget_ns: int,
               known: Mapping[int, Thread]) -> list[ThreadDetail]:
        """All there are, by number; those read longest ago are read anew. Raises OSError.

        known: rows of the tick, which spare a file a thread.
        """
        until = time.thread_time_ns() + budget_ns
        fd = os.open("task", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._directory)
        try:
            numbers = sorted(int(name) for name in os.listdir(fd) if name.isdigit())
            self.total = len(numbers)
            alive = set(numbers[:THREADS_PER_FRAME])
            self._rows = {tid: row for tid, row in self._rows.items() if tid in alive}
            self._read_at = {tid: at for tid, at in self._read_at.items() if tid in alive}
            for tid in sorted(alive, key=lambda tid: (self._turn(known.get(tid), tid), tid)):
                if time.thread_time_ns() >= until:
                    break
                self._read(fd, tid, now, known.get(tid))
        finally:
            os.close(fd)
        for tid, row in self._rows.items():
            row.age_ns = now - self._read_at[tid]
        return [self._rows[tid] for tid in sorted(self._rows)]

    def _turn(self, row: Thread | None, tid: int) -> int:
        """Who is next: the least first. One that cannot be woken is of more interest."""
        return self._read_at.get(tid, -_SOONER_NS) - (_SOONER_NS if row and row.state == "D" else 0)

    def _read(self, directory: int, tid: int, now: int, known: Thread | None) -> None:
        if known is not None:
            row = ThreadDetail(tid, known.comm, known.state)
        else:
            raw = self._file(directory, tid, "stat")
            if raw is None:
                self._rows.pop(tid, None)
                self._read_at.pop(tid, None)
                return
            try:
                found = stat(raw)
            except (ValueError, IndexError):
                return
            row = ThreadDetail(tid, found.comm, found.state)
        syscall = self._file(directory, tid, "syscall")
        row.syscall = None if syscall is None else syscall_name(syscall, self._syscalls)
        stack = self._file(directory, tid, "stack")
        row.stack = [] if stack is None else stack_names(stack)
        wchan = self._file(directory, tid, "wchan")
        # "0": it runs, or the kernel does not tell (kptr_restrict, no CONFIG_KALLSYMS)
        row.wchan = None if wchan in (None, b"", b"0") else clean(wchan or b"", 100)
        self._rows[tid] = row
        self._read_at[tid] = now

    def _file(self, directory: int, tid: int, name: str) -> bytes | None:
        try:
            raw = read_at(directory, f"{tid}/{name}", 8192)
        except (ProcessLookupError, FileNotFoundError) as err:
            if name != "stat":  # absent from this kernel, unless the thread has just ended
                self.reasons.setdefault(name, err.strerror or "gone")
            return None
        except OSError as err:
            self.reasons[name] = err.strerror or str(err)
            return None
        self.reasons.pop(name, None)
        return raw
