"""Descriptors, mounts and the page cache against what the test did, on this machine's kernel."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ktop.collect.main import Collector
from tests.fileskit import ME, collecting_files, files, mount, nap, number, umount

pytestmark = pytest.mark.live
COLLECTING = collecting_files  # for the fixture `collector`


# -- descriptors -----------------------------------------------------------------------------------


def test_descriptors_of_a_leaking_child(collector: Collector) -> None:
    code = ("import os,time\nkept=[]\nwhile True:\n"
            " kept.append(os.open('/dev/null', os.O_RDONLY)); time.sleep(0.05)")
    leaker = subprocess.Popen([sys.executable, "-I", "-c", code])
    try:
        resource.prlimit(leaker.pid, resource.RLIMIT_NOFILE, (5_000, 5_000))
        for _ in range(19):
            nap(collector, 1.05)
            frame = collector.tick()
        leaker.send_signal(signal.SIGSTOP)
        nap(collector, 2.2)
        frame = collector.tick()
        truth = len(os.listdir(f"/proc/{leaker.pid}/fd"))
    finally:
        leaker.kill()
        leaker.wait()
    row = next(d for d in files(frame).descriptors if d.pid == leaker.pid)
    assert row.open == truth
    assert row.limit == 5_000
    assert row.growth_per_min == pytest.approx(60 / 0.0502, rel=0.25)
    assert row.steady
    assert row.left_ns == pytest.approx((5_000 - truth) / 20 * 1e9, rel=0.3)
    ours = next(d for d in files(frame).descriptors if d.pid == ME)
    assert not ours.steady


# -- mounts ----------------------------------------------------------------------------------------


def test_mounts_with_who_and_result(collector: Collector, tmp_path: Path) -> None:
    where = tmp_path / "m"
    where.mkdir()
    collector.tick()
    assert mount("ktop-source", where, "tmpfs", 1 | 2 | 4) == 0
    assert umount(where) == 0
    assert mount("x", tmp_path / "gone", "tmpfs") != 0
    assert mount("x", where, "nosuchfs") != 0
    assert umount(where) != 0
    frame = collector.tick()
    mine = [(e.op, e.source, e.target, e.fstype, e.flags, e.error)
            for e in files(frame).mounts if e.pid == ME]
    assert mine == [
        ("mount", "ktop-source", str(where), "tmpfs", "MS_RDONLY|MS_NOSUID|MS_NODEV", None),
        ("umount2", None, str(where), None, "", None),
        ("mount", "x", f"{tmp_path}/gone", "tmpfs", "", "ENOENT"),
        ("mount", "x", str(where), "nosuchfs", "", "ENODEV"),
        ("umount2", None, str(where), None, "", "EINVAL")]


# -- the page cache --------------------------------------------------------------------------------


def test_page_cache_against_meminfo(collector: Collector, tmp_path: Path) -> None:
    def meminfo() -> dict[str, int]:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return {line.split(":")[0]: int(line.split()[1]) << 10 for line in lines}

    (tmp_path / "dirty").write_bytes(b"x" * (20 << 20))
    before = meminfo()["Dirty"]
    cache = files(collector.tick()).cache
    after = meminfo()["Dirty"]
    assert cache is not None and cache.dirty_bytes is not None
    slack = 16 << 20  # others write too, and writeback comes in large pieces
    assert min(before, after) - slack <= cache.dirty_bytes <= max(before, after) + slack
    assert cache.threshold_bytes and cache.background_bytes
    assert cache.threshold_bytes > cache.background_bytes > 0


@contextlib.contextmanager
def little_room_for_dirty_pages() -> Iterator[None]:
    """Writers are held back from a few MB on; the host's own setting comes back."""
    vm = Path("/proc/sys/vm")
    ratios = {n: (vm / n).read_text() for n in ("dirty_ratio", "dirty_background_ratio")}
    if "0" in (ratio.strip() for ratio in ratios.values()):
        pytest.skip("dirty_bytes is in use here")
    try:
        (vm / "dirty_background_bytes").write_text(str(2 << 20))
        (vm / "dirty_bytes").write_text(str(4 << 20))
        yield
    finally:
        for name, ratio in ratios.items():
            (vm / name).write_text(ratio)


@contextlib.contextmanager
def traced_pauses() -> Iterator[Path]:
    """A trace of our own of balance_dirty_pages."""
    instance = Path(f"/sys/kernel/tracing/instances/ktop-test-{ME}")
    instance.mkdir()
    event = instance / "events" / "writeback" / "balance_dirty_pages" / "enable"
    try:
        event.write_text("1")
        yield instance / "trace"
    finally:
        event.write_text("0")
        instance.rmdir()


def pauses_ms(trace: str) -> list[int]:
    """The pauses of this process, as the trace event prints them."""
    found = [int(line.split(" pause=")[1].split()[0]) for line in trace.splitlines()
             if f"-{ME} " in line]
    return [ms for ms in found if ms > 0]


def test_who_is_held_back_against_a_trace(collector: Collector, tmp_path: Path) -> None:
    collector.tick()
    nap(collector, 2.1)  # HZ is known from the second sample of descriptors on
    collector.tick()
    with traced_pauses() as trace, little_room_for_dirty_pages():
        collector.tick()
        for _ in range(40):
            (tmp_path / "dirty").write_bytes(b"x" * (8 << 20))
            if pauses_ms(trace.read_text()):
                break
        frame = collector.tick()
        pauses = pauses_ms(trace.read_text())
    if not pauses:
        pytest.skip("the disk was faster than the writer")
    cache = files(frame).cache
    assert cache is not None and frame.clock.interval_ns is not None
    mine = next(t for t in cache.throttled if t.pid == ME)
    assert number(frame, mine.pauses_per_s) == len(pauses)
    assert mine.pause_pct is not None
    paused_ms = mine.pause_pct * frame.clock.interval_ns / 1e8
    assert paused_ms == pytest.approx(sum(pauses), rel=0.1, abs=10 * len(pauses))
