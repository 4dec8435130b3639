"""What the live tests share: one collector, child processes that are always ended, small loads."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import psutil

from ktop.bpf import syscall
from ktop.collect.main import Collector, Options
from ktop.model import Frame, Process

EVERY_LAYER = ("processes", "sched")


@contextlib.contextmanager
def collecting(**options: object) -> Iterator[Collector]:
    """A started collector whose first two ticks (without rates, without accounts) are behind it."""
    collector = Collector(Options(watch=EVERY_LAYER, **options))  # type: ignore[arg-type]
    collector.start()
    try:
        collector.tick()
        collector.settle()
        time.sleep(0.1)
        collector.tick()
        yield collector
    finally:
        collector.close()


@contextlib.contextmanager
def child(work: Callable[[], object], cpu: int | None = None) -> Iterator[int]:
    """Run `work` over and over in a forked child until the block ends; yields its pid."""
    pid = os.fork()
    if pid == 0:
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            if cpu is not None:
                os.sched_setaffinity(0, {cpu})
            while True:
                work()
        finally:
            os._exit(70)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def spin() -> None:
    """Burn CPU for a moment."""
    for _ in range(10_000):
        pass


def python(code: str, *args: str) -> subprocess.Popen[bytes]:
    """A python child with a pipe to and from it."""
    return subprocess.Popen([sys.executable, "-I", "-c", code, *args],
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def row(frame: Frame, pid: int) -> Process:
    """The row of a process that must be there."""
    return next(p for p in frame.processes.rows if p.pid == pid)


def busy_window(collector: Collector, seconds: float) -> Frame:
    """The frame of an interval of that length, the ring drained meanwhile."""
    collector.tick()
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(0.1, left))
        collector.drain()
    return collector.tick()


def programs_of(pid: int) -> set[int]:
    """Ids of the BPF programs that a process or one of its descendants holds (/proc/PID/fdinfo)."""
    found: set[int] = set()
    for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
        with contextlib.suppress(OSError):
            for entry in os.scandir(f"/proc/{process.pid}/fdinfo"):
                with contextlib.suppress(OSError), open(entry.path, encoding="ascii") as f:
                    found |= {int(line.split()[1]) for line in f if line.startswith("prog_id:")}
    return found


def left_of(programs: set[int]) -> set[int]:
    """Which of them are still loaded; they go a moment after the last fd is closed."""
    left = programs
    for _ in range(100):
        left = programs & set(syscall.program_ids())
        if not left:
            break
        time.sleep(0.1)
    return left
