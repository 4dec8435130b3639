"""What the live files tests share: a collector, rates back to numbers, mounts."""

from __future__ import annotations

import contextlib
import ctypes as ct
import os
import time
from collections.abc import Iterator
from pathlib import Path

from ktop.collect.main import Collector, Options
from ktop.model import Files, Frame

ME = os.getpid()


@contextlib.contextmanager
def collecting_files() -> Iterator[Collector]:
    """A collector with the Files pane looked at; no event may be lost."""
    c = Collector(Options(watch=("files",)))
    c.start()
    try:
        c.tick()
        c.settle()
        c.tick()
        time.sleep(0.1)
        c.tick()
        assert c._late is not None
        layer = c._late.layers["files"]
        before = layer.lost_total  # while all was being loaded nobody took what others opened
        yield c
        assert layer.lost_total == before
    finally:
        c.close()


def nap(collector: Collector, seconds: float) -> None:
    """Wait, the ring drained meanwhile: others open files too."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(0.1, left))
        collector.drain()


def files(frame: Frame) -> Files:
    assert frame.files is not None, frame.health.banner
    return frame.files


def number(frame: Frame, per_s: float | None) -> float:
    """A rate back to how many there were."""
    assert per_s is not None and frame.clock.interval_ns is not None
    return round(per_s * frame.clock.interval_ns / 1e9, 3)


def mount(source: str, target: Path, kind: str, flags: int = 0) -> int:
    libc = ct.CDLL(None, use_errno=True)
    failed = libc.mount(source.encode(), str(target).encode(), kind.encode(), flags, None)
    return ct.get_errno() if failed else 0


def umount(target: Path) -> int:
    libc = ct.CDLL(None, use_errno=True)
    return ct.get_errno() if libc.umount2(str(target).encode(), 0) else 0
