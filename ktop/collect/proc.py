"""Without BPF: the same Frame from psutil and /proc, with `None` for what they cannot tell."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import psutil

from ktop.collect.host import Clocks
from ktop.model import Process, Processes
from ktop.text import clean

_ATTRS = ["pid", "ppid", "name", "cmdline", "uids", "status", "num_threads", "create_time",
          "cpu_times", "memory_info", "num_ctx_switches", "io_counters"]
_LETTERS = {psutil.STATUS_RUNNING: "R", psutil.STATUS_SLEEPING: "S", psutil.STATUS_DISK_SLEEP: "D",
            psutil.STATUS_STOPPED: "T", psutil.STATUS_TRACING_STOP: "t", psutil.STATUS_ZOMBIE: "Z",
            psutil.STATUS_DEAD: "X", psutil.STATUS_IDLE: "I", psutil.STATUS_PARKED: "P"}
_KTHREADD = 2


def _run_delay_ns(pid: int) -> int | None:
    """Run queue wait of the main thread, /proc/PID/schedstat's second field."""
    try:
        with open(f"/proc/{pid}/schedstat", encoding="ascii") as f:
            return int(f.read().split()[1])
    except (OSError, ValueError, IndexError):
        return None


# What psutil raises where /proc breaks off or is not what it expects.
UNREADABLE = (psutil.Error, OSError, RuntimeError, TypeError, ValueError, IndexError)


def _processes() -> Iterator[dict[str, Any]]:
    """What psutil knows of each process; those that it cannot read are left out."""
    try:
        for process in psutil.process_iter():
            with contextlib.suppress(*UNREADABLE):
                yield process.as_dict(_ATTRS)
    except UNREADABLE:
        return


class ProcfsLayer:
    """Processes by psutil, tick by tick."""

    def __init__(self, clocks: Clocks) -> None:
        self._clocks = clocks
        self._last: dict[tuple[int, float], dict[str, float | None]] = {}
        self._rated = False
        self._rows: dict[int, Process] = {}
        self.changes: list[tuple[Process | None, Process | None]] = []

    def rows(self) -> list[Process]:
        """Every process's row."""
        return list(self._rows.values())

    def row(self, pid: int) -> Process | None:
        """A process's row, None when there is no such process."""
        return self._rows.get(pid)

    def update(self) -> Processes:
        """One scan of /proc. changes: as TaskTable has them; here every row is new each time."""
        interval = self._clocks.interval_ns
        rows, seen = [], {}
        for info in _processes():
            key = (info["pid"], info["create_time"] or 0.0)
            counts = self._counts(info)
            seen[key] = counts
            row = self._row(info)
            # A process born since the last scan did all it did in this interval.
            unborn = dict.fromkeys(counts, 0.0) if self._rated else None
            before: dict[str, Any] | None = self._last.get(key, unborn)
            if before is not None and interval:
                self._rate(row, counts, before, interval)
            rows.append(row)
        self._last, self._rated = seen, True
        old, self._rows = self._rows, {row.pid: row for row in rows}
        self.changes = [(row, None) for row in old.values()] + [(None, row) for row in rows]
        return Processes(rows=rows)

    def _counts(self, info: dict[str, Any]) -> dict[str, float | None]:
        times, switches, io = info["cpu_times"], info["num_ctx_switches"], info["io_counters"]
        return {
            "user_pct": times.user * 1e9 if times else None,
            "system_pct": times.system * 1e9 if times else None,
            "runq_wait_pct": _run_delay_ns(info["pid"]) if info["num_threads"] == 1 else None,
            "voluntary_per_s": switches.voluntary if switches else None,
            "involuntary_per_s": switches.involuntary if switches else None,
            "read_bytes_per_s": io.read_bytes if io else None,
            "write_bytes_per_s": io.write_bytes if io else None,
        }

    def _row(self, info: dict[str, Any]) -> Process:
        args = " ".join(info["cmdline"]) if info["cmdline"] else None
        boot_ns = self._clocks.now + self._clocks.boot_offset
        created = (info["create_time"] or 0.0) * 1e9
        wall = self._clocks.now + self._clocks.wall_offset
        return Process(
            pid=info["pid"], ppid=info["ppid"] or 0,
            uid=info["uids"].effective if info["uids"] else None,
            comm=clean(info["name"] or "?", 64),
            args=clean(args) if args else None, cgroup=None,
            state=_LETTERS.get(info["status"], "?"), threads=info["num_threads"] or 1,
            start_boottime_ns=int(created - wall + boot_ns),
            kernel_thread=info["pid"] == _KTHREADD or info["ppid"] == _KTHREADD,
            rss_bytes=info["memory_info"].rss if info["memory_info"] else None)

    @staticmethod
    def _rate(row: Process, new: dict[str, float | None], old: dict[str, float | None],
              interval: int) -> None:
        for name, value in new.items():
            before = old.get(name)
            if value is None or before is None:
                continue
            scale = 100.0 if name.endswith("_pct") else 1e9
            setattr(row, name, max(0.0, value - before) * scale / interval)
        if row.user_pct is not None and row.system_pct is not None:
            row.cpu_pct = row.user_pct + row.system_pct
