"""Files and stacks probes against what the test itself did."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from ktop import hist
from ktop.collect.main import Collector
from ktop.wire import Profile
from tests.fileskit import nap
from tests.livekit import child, spin

from .conftest import Proved, count, seen
from .test_probes import runs, started, statistics, traced

pytestmark = pytest.mark.kernels


def test_operations_on_a_file(collector: Collector, proved: Proved, tmp_path: Path) -> None:
    path = tmp_path / "data"
    collector.tick()
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    for i in range(30):
        os.pwrite(fd, b"a" * 100, i)
    for _ in range(20):
        os.pread(fd, 64, 0)
    for _ in range(3):
        os.fsync(fd)
    frame = collector.tick()
    os.close(fd)
    assert frame.files is not None and frame.files.watched
    (mine,) = [r for r in frame.files.rows if r.ino == path.stat().st_ino and r.path]
    assert mine.path is not None and mine.path.endswith(str(path.relative_to("/")))
    ops = mine.ops
    assert ops.write is not None and ops.read is not None
    assert count(frame, ops.write_bytes_per_s) == 3000
    assert count(frame, ops.read_bytes_per_s) == 20 * 64
    counted = [count(frame, n) for n in (ops.writes_per_s, ops.reads_per_s, ops.fsyncs_per_s,
                                         ops.opens_per_s)]
    proved("fs_enter", counted, [30, 20, 3, 1])
    proved("fs_exit", (hist.count(ops.write), hist.count(ops.read)), (30, 20))


def test_opens_that_fail(collector: Collector, tmp_path: Path) -> None:
    collector.tick()
    for _ in range(9):
        with pytest.raises(FileNotFoundError):
            os.open(tmp_path / "missing.conf", os.O_RDONLY)
    for _ in range(10):
        frame = collector.tick()
        assert frame.files is not None
        found = [f for f in frame.files.folds if f.path and f.path.endswith("/missing.conf")]
        if found:
            break
        nap(collector, 0.3)
    assert [(f.count, f.error) for f in found] == [(9, "ENOENT")]


def test_descriptors(collector: Collector, proved: Proved) -> None:
    code = """import os, time
kept = [os.open("/dev/null", os.O_RDONLY) for _ in range(77)]
print(flush=True); time.sleep(120)"""
    with started(code) as p:
        truth = len(os.listdir(f"/proc/{p.pid}/fd"))
        for _ in range(20):  # descriptors are read every other second
            nap(collector, 0.5)
            frame = collector.tick()
            assert frame.files is not None
            found = [d.open for d in frame.files.descriptors if d.pid == p.pid]
            if found:
                break
        assert truth >= 80
        proved("fs_fds", found, [truth])


def test_writers_that_are_held_back(collector: Collector, proved: Proved, disk: Path) -> None:
    """As often as the kernel's own trace of the same event."""
    kept = {name: Path(f"/proc/sys/vm/{name}").read_text()
            for name in ("dirty_bytes", "dirty_background_bytes", "dirty_ratio",
                         "dirty_background_ratio")}
    try:
        Path("/proc/sys/vm/dirty_background_bytes").write_text(str(1 << 17))
        Path("/proc/sys/vm/dirty_bytes").write_text(str(1 << 18))
        with statistics():
            before = runs(collector, "fs_throttle")
            with traced("writeback/balance_dirty_pages") as count_of:
                for _ in range(20):
                    (disk / "dirty").write_bytes(b"x" * (16 << 20))
                    if count_of() != [0]:
                        break
                after, told = runs(collector, "fs_throttle"), count_of()[0]
    finally:
        for name, value in kept.items():
            if value.strip() != "0":
                Path(f"/proc/sys/vm/{name}").write_text(value)
    assert told > 0
    proved("fs_throttle", after["fs_throttle"] - before["fs_throttle"], told)


# -- stacks ----------------------------------------------------------------------------------------

ASLEEP = "import os; print(flush=True); r, w = os.pipe(); os.read(r, 1)"
PARENT = """import os, time
print(flush=True)
while True:
    if os.fork() == 0: time.sleep(0.05); os._exit(0)
    os.wait()"""


def test_stacks(collector: Collector, proved: Proved) -> None:
    """One that burns, one that was asleep before, one that waits for its children, and these."""
    with child(spin) as hot, started(ASLEEP) as asleep, started(PARENT) as parent:
        time.sleep(0.3)
        pids = [hot, asleep.pid, parent.pid]
        collector.profile(Profile(pids=pids, children=True, kinds=["cpu", "off"], seconds=6))
        stacks = None
        end = time.monotonic() + 900
        while time.monotonic() < end:
            time.sleep(0.5)
            collector.drain()
            frame = collector.tick()
            stacks = frame.stacks
            if stacks is not None and stacks.state == "running":
                seen(frame)
            if stacks is not None and (stacks.state == "failed"
                                       or (stacks.state == "ended" and not stacks.naming)):
                break  # a stack is shown when it has its names: that takes an emulated CPU long
    assert stacks is not None and stacks.state == "ended", stacks and stacks.reason
    told = [(s.kind, s.pid, s.samples, s.ns) for s in stacks.stacks]
    assert {pid for kind, pid, _, _ in told if kind == "cpu"} >= {hot}, (told, stacks.elapsed_ns)
    blocked = [s for s in stacks.stacks if s.kind == "off" and s.pid == asleep.pid]
    assert sum(s.ns for s in blocked) == pytest.approx(stacks.elapsed_ns, rel=0.1)
    assert any("pipe_read" in name for name in stacks.names)
    others = {s.pid for s in stacks.stacks} - set(pids)
    proved("stacks_profile", sum(s.samples for s in stacks.stacks if s.kind == "cpu"
                                 and s.pid == hot) > 10, True)
    proved("stacks_blocked", {s.pid for s in blocked}, {asleep.pid})
    proved("stacks_switch", any(s.kind == "off" and s.pid == parent.pid
                                for s in stacks.stacks), True)
    proved("stacks_fork", len(others) > 2, True)
