"""What looking at files costs: every syscall, a cached read, a failing open, beside opensnoop; and
open descriptors of every process by iterator and by /proc.

The same loop without and with the probes attached, in turns; figures are ns a call more.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable

from bench.common import Missing, Row, collector, require_root
from bench.hooks import peer

LOOPS = 20_000


def _syscall() -> None:
    os.getppid()


def _open() -> None:
    with contextlib.suppress(FileNotFoundError):
        os.open("/nonexistent/ktop-bench", os.O_RDONLY)


def _per_call(work: Callable[[], None], loops: int) -> float:
    """ns of one call: the best of five."""
    best = float("inf")
    for _ in range(5):
        begin = time.perf_counter_ns()
        for _ in range(loops):
            work()
        best = min(best, (time.perf_counter_ns() - begin) / loops)
    return best


def _more(work: Callable[[], None], loops: int, rounds: int,
          attach: Callable[[], contextlib.AbstractContextManager[object]]) -> list[float] | str:
    found = []
    try:
        for _ in range(rounds):
            without = _per_call(work, loops)
            with attach():
                found.append(_per_call(work, loops) - without)
    except (Missing, OSError) as err:
        return str(err)
    return found


def _descriptors(processes: int, rounds: int) -> list[Row]:
    """CPU of one reading of every process's descriptors, with that many more processes."""
    from ktop.collect import files_fds

    children = []
    try:
        for _ in range(processes):
            pid = os.fork()
            if not pid:
                signal.pause()
                os._exit(0)
            children.append(pid)
        ours: list[float] = []
        theirs: list[float] = []
        with collector() as (one, _):
            engine = next(e for e in one._late.engines  # type: ignore[union-attr]
                          if e.live("fs_fds"))
            for _ in range(rounds):
                begin = time.process_time_ns()
                records = files_fds.decode(engine.read_iter("fs_fds"))
                ours.append((time.process_time_ns() - begin) / 1e6)
                begin = time.process_time_ns()
                for r in records:
                    files_fds.count_in_proc(r.tgid)
                theirs.append((time.process_time_ns() - begin) / 1e6)
        return [Row(f"open descriptors of {len(records):,} processes", "ms of CPU", ours,
                    {"stat of /proc/PID/fd": theirs})]
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def run(quick: bool) -> list[Row]:
    """All rows."""
    require_root()
    loops, rounds = (LOOPS // 4, 1) if quick else (LOOPS, 4)
    source = os.open("/etc/services", os.O_RDONLY)

    def read() -> None:
        os.pread(source, 4096, 0)

    rows = []
    try:
        for what, work, names in (
                ("any syscall (getppid) while the Files pane is looked at, more", _syscall, ()),
                ("a cached read of 4 KB, more", read, ()),
                ("an open that fails, more", _open, ("opensnoop", "opensnoop.bt"))):
            peers: dict[str, list[float] | str] = {
                name: _more(work, loops, rounds, lambda name=name: peer(name))  # type: ignore[misc]
                for name in names}
            ours = _more(work, loops, rounds, lambda: collector(("files",), "fs_exit"))
            rows.append(Row(what, "ns", ours, peers))
    finally:
        os.close(source)
    rows += _descriptors(1_000 if quick else 5_000, rounds)
    return rows

