"""What BPF cannot say about the host: /proc's clocks, memory, load, CPU times, user names."""

from __future__ import annotations

import os
import pwd
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import psutil

from ktop.collect.proctext import figures, read_text
from ktop.model import Clock, Cpu, Host, Processes
from ktop.text import clean

MOST_NAMES = 4_096  # of users or groups; those that are not seen now are forgotten beyond it
_SHARES = ("user", "system", "nice", "irq", "softirq", "iowait", "steal", "idle")


class Clocks:
    """The tick's time base: CLOCK_MONOTONIC, with what the other clocks are ahead of it, in ns."""

    def __init__(self) -> None:
        self._last: tuple[int, int] | None = None
        self.interval_ns: int | None = None
        self.now = self.wall_offset = self.boot_offset = 0

    def tick(self) -> Clock:
        """Read all clocks; `interval_ns` is the time since the last call."""
        self.now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        wall = time.clock_gettime_ns(time.CLOCK_REALTIME)
        boot = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        self.wall_offset, self.boot_offset = wall - self.now, boot - self.now
        gap = 0
        if self._last is None:
            self.interval_ns = None
        else:
            self.interval_ns = self.now - self._last[0]
            gap = wall - self._last[1] - self.interval_ns
            gap = gap if abs(gap) > 50_000_000 else 0  # slewing is no gap
        self._last = (self.now, wall)
        return Clock(wall_ns=wall, monotonic_ns=self.now, interval_ns=self.interval_ns, gap_ns=gap)


def host(clocks: Clocks, info: Mapping[str, int], cpus: int) -> Host:
    """The machine now. info: /proc/meminfo, bytes. cpus: online, 0 where that is not known yet."""
    name = os.uname()
    try:
        load = os.getloadavg()
    except OSError:  # it is from /proc
        load = None
    uptime = clocks.now + clocks.boot_offset
    return Host(
        hostname=clean(name.nodename, 64), kernel=clean(name.release, 64), machine=name.machine,
        cpus=cpus or os.cpu_count() or 1, boot_wall_ns=clocks.now + clocks.wall_offset - uptime,
        uptime_ns=uptime, memory_total_bytes=info.get("MemTotal"),
        memory_available_bytes=info.get("MemAvailable"),
        load1=load and load[0], load5=load and load[1], load15=load and load[2])


class CpuTimes:
    """Per-CPU shares of time between two readings of /proc/stat."""

    def __init__(self) -> None:
        self._last: list[Any] | None = None

    def rows(self) -> list[Cpu]:
        """One row per online CPU; shares are None in the first call."""
        try:
            times = psutil.cpu_times(percpu=True)
        except (OSError, RuntimeError, TypeError, ValueError, IndexError):  # it breaks off
            times = []
        before, self._last = self._last, times
        rows = [Cpu(cpu=i) for i in range(len(times))]
        if before is None or len(before) != len(times):  # a CPU came or went: no sample
            return rows
        for row, new, old in zip(rows, times, before, strict=True):
            # guest time is contained in user, guest_nice in nice (kernel/sched/cputime.c).
            grown = {name: max(0.0, getattr(new, name) - getattr(old, name)) for name in _SHARES}
            total = sum(grown.values())
            if total > 0:
                for name in _SHARES:
                    setattr(row, f"{name}_pct", grown[name] * 100.0 / total)
        return rows


class StatRates:
    """Context switches/s and forks/s (threads included) of the host, where no probe counts them."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}

    def read(self, interval_ns: int | None) -> tuple[float | None, float | None]:
        """`ctxt` and `processes` of /proc/stat as rates; None in the first call."""
        found = figures(read_text("/proc/stat"))
        before, self._last = self._last, found
        switches, forks = (
            max(0, found[name] - before[name]) * 1e9 / interval_ns
            if interval_ns and name in found and name in before else None
            for name in ("ctxt", "processes"))
        return switches, forks


class Lookups:
    """number -> name. May ask a directory server, so it happens in a thread of its own."""

    def __init__(self, find: Callable[[int], str]) -> None:
        """find: raises KeyError for a number without a name."""
        self._find = find
        self._names: dict[int, str] = {}
        self._asked: set[int] = set()
        self._queue: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._look_up, daemon=True, name="ktop-names")
        self._thread.start()

    def _look_up(self) -> None:
        while (number := self._queue.get()) is not None:
            try:
                self._names[number] = clean(self._find(number), 32)
            except (KeyError, OSError, OverflowError):
                self._names[number] = str(number)

    def names(self, numbers: Iterable[int]) -> dict[int, str]:
        """Names known by now; a new number is asked for and known at a later tick."""
        seen = set(numbers)
        if len(self._asked) > MOST_NAMES:
            self._asked &= seen
            for number in list(self._names.keys() - seen):
                del self._names[number]
        for number in seen - self._asked:
            self._asked.add(number)
            self._queue.put(number)
        return {number: self._names[number] for number in seen if number in self._names}

    def close(self) -> None:
        """End the thread, unless a look-up hangs."""
        self._queue.put(None)


class Users:
    """uid -> name, of a frame's processes and events."""

    def __init__(self) -> None:
        self._lookups = Lookups(lambda uid: pwd.getpwuid(uid).pw_name)

    def names(self, processes: Processes) -> dict[int, str]:
        """Those known by now."""
        seen = {p.uid for p in processes.rows} | {e.uid for e in processes.events}
        return self._lookups.names(uid for uid in seen if uid is not None)

    def close(self) -> None:
        """End the thread, unless a look-up hangs."""
        self._lookups.close()
