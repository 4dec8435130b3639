"""One process in full, while somebody looks at it: /proc/PID -> Detail.

The directory /proc/PID stays open while the process is looked at: what is read through it is of
this process and of no other, also when its number is used again. What is dear is read in turns.
"""

from __future__ import annotations

import contextlib
import copy
import grp
import os
import pwd
import time
from collections.abc import Callable, Mapping
from functools import partial

import psutil

from ktop.collect import detail_proc as proc
from ktop.collect.detail_fds import Descriptors, read_at
from ktop.collect.detail_threads import Threads
from ktop.collect.host import Lookups
from ktop.collect.proc import UNREADABLE
from ktop.collect.proctext import number
from ktop.model import Frame, ProcessEvent, Thread
from ktop.model_detail import Detail, Ended, Memory, Namespace
from ktop.text import clean

_FDS_NS, _THREADS_NS = 2_000_000, 4_000_000  # CPU time a tick for what is read in turns
_ARGS_BYTES = 1 << 15
_PSS_EVERY_NS = 10_000_000_000
_PSS_MOST_BYTES = 1 << 30    # of resident memory: reading it holds the process's memory map
_SAME_START_NS = 2_000_000_000  # clocks that a start is known by agree better than this
_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")
_PARTS = ("exe", "cwd", "root", "io", "descriptors", "stack", "namespaces", "oom_score")
_IO_CLASSES = {0: "none", 1: "realtime", 2: "best-effort", 3: "idle"}


class _Process:
    """The one that is looked at, while it lives."""

    def __init__(self, pid: int, syscalls: Mapping[int, str]) -> None:
        """Raises OSError, ValueError where there is no such process."""
        self.pid = pid
        self._fd = os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self.start_ns = proc.stat(read_at(self._fd, "stat")).start_ns
        except BaseException:
            os.close(self._fd)
            raise
        self._descriptors = Descriptors(self._fd)
        self._threads = Threads(self._fd, syscalls)
        self.threads: dict[int, Thread] = {}  # its rows of this tick
        self._pss: tuple[int, int | None] = (-_PSS_EVERY_NS, None)  # when read, and what

    def close(self) -> None:
        """Let go of it."""
        os.close(self._fd)

    def read(self, detail: Detail, now: int, last_cap: int) -> None:
        """All of it into `detail`. Raises OSError, ValueError when the process is gone."""
        main = proc.stat(read_at(self._fd, "stat"))
        detail.comm, detail.state = main.comm, main.state
        if main.state in "ZX":  # ended and not waited for: /proc has forgotten all else
            detail.ended = detail.ended or Ended()
            return
        detail.reasons = {}
        for field in ("exe", "cwd", "root"):
            self._part(detail, field, partial(self._link, detail, field))
        for field, step in (("args", self._args), ("cgroups", self._cgroups),
                            ("namespaces", self._namespaces), ("io", self._io)):
            self._part(detail, field, partial(step, detail, main))
        self._part(detail, "descriptors", lambda: self._fds(detail, now))
        self._part(detail, "threads", lambda: self._tasks(detail, now))
        self._status(detail, main, now, last_cap)
        detail.reasons.update(self._threads.reasons)

    @staticmethod
    def _part(detail: Detail, name: str, step: Callable[[], None]) -> None:
        """A part that may be refused by itself; a process that is gone is another matter."""
        try:
            step()
        except ProcessLookupError:
            raise
        except OSError as err:
            detail.reasons[name] = err.strerror or str(err)

    def _link(self, detail: Detail, name: str) -> None:
        # psutil would ask the file system about a deleted program, and that may hang
        setattr(detail, name, None)
        setattr(detail, name, clean(os.readlink(name.encode(), dir_fd=self._fd)))

    def _args(self, detail: Detail, main: proc.Stat) -> None:
        raw = read_at(self._fd, "cmdline", _ARGS_BYTES)
        detail.args = proc.arguments(raw)
        detail.args_cut = max(0, main.args_bytes - len(raw)) if len(raw) == _ARGS_BYTES else 0

    def _cgroups(self, detail: Detail, _main: proc.Stat) -> None:
        detail.cgroups = proc.cgroups(read_at(self._fd, "cgroup"))

    def _namespaces(self, detail: Detail, _main: proc.Stat) -> None:
        found = []
        for kind in _NAMESPACES:
            with contextlib.suppress(FileNotFoundError):  # younger than this kernel
                inode = _inode(os.readlink(f"ns/{kind}", dir_fd=self._fd))
                ours = _own_namespace(kind)
                found.append(Namespace(kind, inode, None if ours is None else ours == inode))
        detail.namespaces = found

    def _io(self, detail: Detail, _main: proc.Stat) -> None:
        detail.io = None
        detail.io = proc.io_counters(proc.fields(read_at(self._fd, "io")))

    def _fds(self, detail: Detail, now: int) -> None:
        detail.descriptors, detail.descriptors_total = [], None
        detail.descriptors = self._descriptors.update(now, _FDS_NS)
        detail.descriptors_total = self._descriptors.total
        detail.descriptors_cut = max(0, (self._descriptors.total or 0) - len(detail.descriptors))

    def _tasks(self, detail: Detail, now: int) -> None:
        detail.threads = self._threads.update(now, _THREADS_NS, self.threads)
        detail.threads_total = self._threads.total

    def _status(self, detail: Detail, main: proc.Stat, now: int, last_cap: int) -> None:
        """What is in /proc/PID/status, and what goes with it."""
        found = proc.fields(read_at(self._fd, "status"))
        detail.credentials = proc.credentials(found, last_cap)
        detail.scheduling = proc.scheduling(found, main)
        with contextlib.suppress(*UNREADABLE):
            io = psutil.Process(self.pid).ionice()
            detail.scheduling.io_class = _IO_CLASSES.get(int(io.ioclass), str(io.ioclass))
            detail.scheduling.io_level = int(io.value)
        detail.memory = memory = proc.memory(found)
        for field in ("oom_score", "oom_score_adj"):
            self._part(detail, field, partial(self._oom, memory, field))
        self._part(detail, "pss", lambda: self._share(detail, now))
        detail.limits = proc.limits(read_at(self._fd, "limits"))
        for limit in detail.limits:
            limit.used = proc.used(limit.name, found, main, detail.descriptors_total)

    def _oom(self, memory: Memory, name: str) -> None:
        setattr(memory, name, int(read_at(self._fd, name)))

    def _share(self, detail: Detail, now: int) -> None:
        """Proportional set size: rarely, and never of a process that it would hold up."""
        memory = detail.memory
        if memory is None or memory.rss_bytes is None:
            return
        if memory.rss_bytes > _PSS_MOST_BYTES:
            detail.reasons["pss"] = "not read over 1G resident: it would hold up the process"
            return
        if now - self._pss[0] >= _PSS_EVERY_NS:
            self._pss = now, None
            found = proc.fields(read_at(self._fd, "smaps_rollup"))
            self._pss = now, proc.size(found, "Pss")
        memory.pss_bytes, memory.pss_age_ns = self._pss[1], now - self._pss[0]


def _inode(link: str) -> int:
    return number(link.partition("[")[2].rstrip("]")) or 0


def _own_namespace(kind: str) -> int | None:
    try:
        return _inode(os.readlink(f"/proc/self/ns/{kind}"))
    except OSError:
        return None


def _last_capability() -> int:
    try:
        with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as f:
            return int(f.read())
    except (OSError, ValueError):
        return len(proc.CAPABILITIES) - 1


class DetailReader:
    """Makes `Frame.detail`. syscalls: names by number."""

    def __init__(self, syscalls: Mapping[int, str] | None = None) -> None:
        self._syscalls = syscalls or {}
        self._last_cap = _last_capability()
        self._users = Lookups(lambda uid: pwd.getpwuid(uid).pw_name)
        self._groups = Lookups(lambda gid: grp.getgrgid(gid).gr_name)
        self._pid = 0
        self._process: _Process | None = None
        self._detail: Detail | None = None

    def ask(self, pid: int) -> None:
        """Whose detail is wanted from now on, 0 for nobody's."""
        if pid != self._pid:
            self._let_go()
            self._pid, self._detail = max(0, pid), None

    def _let_go(self) -> None:
        if self._process is not None:
            self._process.close()
            self._process = None

    def close(self) -> None:
        """Let go of everything."""
        self._let_go()
        self._users.close()
        self._groups.close()

    def update(self, frame: Frame) -> Detail | None:
        """The part of this frame; None while nobody asks."""
        if not self._pid:
            return None
        began = time.thread_time_ns()
        if self._detail is None:
            self._begin()
        detail = self._detail
        assert detail is not None
        if self._process is not None:
            self._process.threads = {t.tid: t for t in frame.processes.threads
                                     if t.pid == self._pid}
            try:
                self._process.read(detail, frame.clock.monotonic_ns, self._last_cap)
            except (OSError, ValueError, IndexError):
                self._let_go()
                detail.ended = detail.ended or Ended()
        detail = self._detail = self._identify(detail, frame)
        self._last_words(detail, frame)
        self._name(detail)
        detail.cost_ns = time.thread_time_ns() - began
        return copy.copy(detail)  # this one is written to again

    def _begin(self) -> None:
        self._detail = Detail(self._pid)
        try:
            self._process = _Process(self._pid, self._syscalls)
            self._detail.start_boottime_ns = self._process.start_ns
        except (OSError, ValueError, IndexError):
            self._detail.ended = Ended()

    def _identify(self, detail: Detail, frame: Frame) -> Detail:
        """The frame knows the start to the ns; a row with another start is another process."""
        row = next((p for p in frame.processes.rows if p.pid == self._pid), None)
        if row is None or detail.start_boottime_ns is None:
            return detail
        if abs(row.start_boottime_ns - detail.start_boottime_ns) < _SAME_START_NS:
            detail.start_boottime_ns = row.start_boottime_ns
        elif self._process is None:
            detail.reused = True
        else:  # in a container, say: /proc counts processes otherwise than the kernel does
            self._let_go()
            return Detail(self._pid, row.start_boottime_ns, row.comm, row.state,
                          reasons=dict.fromkeys(_PARTS, "/proc is of another pid namespace"))
        return detail

    def _last_words(self, detail: Detail, frame: Frame) -> None:
        for event in frame.processes.events:
            if event.kind == "exit" and event.pid == self._pid and self._ours(detail, event, frame):
                detail.ended = Ended(event.time_ns, event.code, event.signal, event.core_dumped,
                                     event.lifetime_ns, event.cpu_ns)

    @staticmethod
    def _ours(detail: Detail, event: ProcessEvent, frame: Frame) -> bool:
        """Whether it is this process that ended, and not one that had or has its number."""
        if detail.start_boottime_ns is None or event.lifetime_ns is None:
            return detail.ended is None or detail.ended.at_wall_ns is None
        start = event.time_ns - event.lifetime_ns - frame.host.boot_wall_ns
        return abs(start - detail.start_boottime_ns) < _SAME_START_NS

    def _name(self, detail: Detail) -> None:
        rights = detail.credentials
        if rights is not None:
            detail.user_names = self._users.names(rights.uids)
            detail.group_names = self._groups.names([*rights.gids, *rights.groups])
