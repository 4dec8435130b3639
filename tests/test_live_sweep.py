"""What has not moved for a while leaves the kernel's maps, and is counted once all the same."""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path

import pytest

from ktop.bpf import syscall
from ktop.collect.block import BlockLayer
from ktop.collect.main import Collector
from ktop.collect.sweep import AGE
from tests.blockkit import UNSEEN, direct, file_on_disk
from tests.livekit import collecting

pytestmark = pytest.mark.live
COLLECTING = collecting  # for the fixture `collector`


def _write(path: Path, times: int) -> None:
    with direct(str(path), os.O_RDWR) as (fd, page):
        for at in range(times):
            os.pwrite(fd, page, 4096 * at)


def _entries(collector: Collector) -> set[int]:
    """Processes in block_procs."""
    layer = collector._late.layers["block"]
    assert isinstance(layer, BlockLayer) and layer._engine is not None
    return {int.from_bytes(key[8:12], "little")
            for key, _ in layer._engine.read_hash("block_procs")}


def _follow(collector: Collector, ticks: int) -> Counter[int]:
    """Writes by process over so many ticks."""
    found: Counter[int] = Counter()
    for _ in range(ticks):
        time.sleep(0.005)
        frame = collector.tick()
        assert frame.block is not None and frame.clock.interval_ns
        for user in frame.block.users:
            found[user.pid or 0] += round(user.writes_per_s * frame.clock.interval_ns / 1e9)
    return found


def test_processes_that_wrote_once(collector: Collector, tmp_path: Path) -> None:
    with file_on_disk(tmp_path) as path:
        collector.tick()  # the making of the file
        _write(path, 3)
        pids = []
        for _ in range(100):
            pids.append(os.fork())
            if not pids[-1]:
                _write(path, 2)
                os._exit(0)
            os.waitpid(pids[-1], 0)
        counted = _follow(collector, AGE)
        there = _entries(collector)
        assert os.getpid() in there and len(there.intersection(pids)) >= 100 - UNSEEN
        counted += _follow(collector, 2 * AGE)
        assert not _entries(collector) & {os.getpid(), *pids}
        assert counted[os.getpid()] <= 3 and max(counted[pid] for pid in pids) == 2  # never twice
        assert sum(counted[pid] for pid in pids) >= 200 - 2 * UNSEEN
        _write(path, 50)  # comes back
        assert 50 - 2 * UNSEEN <= _follow(collector, 2)[os.getpid()] <= 50


def test_a_kernel_that_cannot_take_keeps_its_own_bound(
        collector: Collector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> bytes:
        raise OSError(524, "ENOTSUPP")

    monkeypatch.setattr(syscall, "map_take", refuse)
    with file_on_disk(tmp_path) as path:
        collector.tick()  # the making of the file
        _write(path, 50)
        assert 50 - 2 * UNSEEN <= _follow(collector, 3 * AGE)[os.getpid()] <= 50
        assert os.getpid() in _entries(collector)
