"""Block figures against fio, /sys/block/*/stat and known requests, on this machine's own kernel."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ktop import hist
from ktop.collect.main import Collector
from ktop.panes.block_columns import of_op
from tests.blockkit import (
    MIB,
    collecting_block,
    device,
    direct,
    disk_of,
    file_on_disk,
    fio,
    loop,
    op,
    stat,
    user,
    warm,
    window,
)

pytestmark = pytest.mark.live
COLLECTING = collecting_block  # for the fixture `collector`


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    with file_on_disk(tmp_path) as path:
        yield path


@pytest.fixture(scope="module", autouse=True)
def _warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    warm(tmp_path_factory.mktemp("warm"))


# -- against fio and the kernel's own counters -------------------------------------------------


def test_counts_and_bytes_against_fio_and_sysfs(collector: Collector, file: Path) -> None:
    name = disk_of(file)
    ran: list[Any] = []
    fio(file, "--rw=randrw", "--number_ios=30", "--fsync=10")  # its own pages are read now
    before = stat(name)
    collector.tick()
    ran += fio(file, "--rw=randrw", "--number_ios=3000", "--fsync=100")
    frame = collector.tick()
    after = stat(name)
    assert frame.block is not None
    block, seconds = frame.block, (frame.clock.interval_ns or 0) / 1e9
    pid, job = ran
    mine = user(block, pid)
    # by process: what fio says (its fsyncs add a flush each and some of the journal's). Not to the
    # last one: some are UNSEEN (blockkit), and pages of fio itself may have to be read
    assert mine.comm == "fio"
    assert mine.reads_per_s * seconds == pytest.approx(job["read"]["total_ios"], rel=0.04)
    assert mine.read_bytes_per_s * seconds == pytest.approx(job["read"]["io_bytes"], rel=0.1)
    assert mine.writes_per_s * seconds == pytest.approx(
        job["write"]["total_ios"], rel=0.04, abs=3 * 3000 / 100)
    # by device: what the kernel counted in the same seconds
    row = device(block, name)
    reads, writes = op(block, name, "read"), op(block, name, "write")
    sync = of_op(row, "sync")
    written = writes.per_s + (sync.per_s if sync else 0.0)  # the kernel takes both for writes
    for ours, at in ((reads.per_s, 0), (written, 4), (row.reads_per_s, 0), (row.writes_per_s, 4)):
        assert ours is not None
        assert ours * seconds == pytest.approx(after[at] - before[at], rel=0.04, abs=10)
    for rate, at in ((reads.bytes_per_s, 2), (writes.bytes_per_s, 6)):
        assert rate * seconds == pytest.approx((after[at] - before[at]) * 512, rel=0.04, abs=99_999)
    flush = of_op(row, "flush")
    if after[15] > before[15] + 5:
        assert flush is not None and sync is not None and sync.per_s >= flush.per_s
        assert flush.per_s * seconds == pytest.approx(after[15] - before[15], rel=0.05, abs=3)
    assert block.unseen_pct is not None and block.unseen_pct < 4
    assert block.reads_per_s is not None and block.reads_per_s >= (row.reads_per_s or 0)


def test_latency_against_fio(collector: Collector, file: Path) -> None:
    ran: list[Any] = []
    _, block, _ = window(collector, lambda: ran.extend(fio(
        file, "--rw=randread", "--bs=16k", "--loops=2", first=True)))
    pid, job = ran
    latency = user(block, pid).latency
    assert latency is not None
    theirs = job["read"]["clat_ns"]
    assert 0.97 * theirs["N"] <= hist.count(latency) <= 1.03 * theirs["N"]
    for name, pct in (("50.000000", 50), ("90.000000", 90), ("95.000000", 95), ("99.000000", 99)):
        ours = hist.percentile(latency, pct)
        assert ours is not None
        assert abs(math.log2(ours / theirs["percentile"][name])) <= 1.0, (pct, ours, theirs)
    assert latency.sum_ns == pytest.approx(theirs["mean"] * theirs["N"], rel=0.5)
    mean = user(block, pid).read_ns
    assert mean is not None and mean == pytest.approx(latency.sum_ns / hist.count(latency))


def test_the_identities_hold(collector: Collector, file: Path) -> None:
    name = disk_of(file)
    _, block, _ = window(collector, lambda: fio(
        file, "--rw=randread", "--ioengine=libaio", "--iodepth=16", "--number_ios=8000"))
    row = device(block, name)
    reads = op(block, name, "read")
    assert row.queue is not None and row.concurrency is not None and reads.total is not None
    assert row.concurrency == pytest.approx(row.queue, rel=0.1, abs=0.05)
    mean = reads.total.sum_ns / hist.count(reads.total)
    assert reads.per_s * mean / 1e9 == pytest.approx(row.concurrency, rel=0.1, abs=0.05)
    assert row.read_bytes_per_s == pytest.approx(reads.bytes_per_s, rel=0.04)
    assert reads.queue is not None and reads.device is not None
    assert reads.queue.sum_ns + reads.device.sum_ns == pytest.approx(reads.total.sum_ns, rel=1e-3)
    for h in (reads.queue, reads.device, reads.total):
        assert hist.count(h) == hist.count(reads.total)
    assert reads.total.max_ns is not None
    top = max(reads.total.counts)
    assert hist.bounds(top)[0] <= reads.total.max_ns < hist.bounds(top)[1]


# -- who ---------------------------------------------------------------------------------------


def test_buffered_writes_are_of_who_syncs_them(collector: Collector, file: Path) -> None:
    """fsync(2) writes back in its caller's name; sync(2) leaves it to the flusher threads."""
    def write() -> None:
        fd = os.open(file, os.O_WRONLY)
        os.pwrite(fd, os.urandom(8 * MIB), 0)
        os.fsync(fd)
        os.close(fd)

    _, block, seconds = window(collector, write)
    mine = user(block, os.getpid())
    assert mine.write_bytes_per_s * seconds == pytest.approx(8 * MIB, rel=0.05)

    def dirty() -> None:
        fd = os.open(file, os.O_WRONLY)
        os.pwrite(fd, os.urandom(8 * MIB), 8 * MIB)
        os.close(fd)
        os.sync()

    _, block, seconds = window(collector, dirty)
    flushers = [u for u in block.users if u.comm.startswith("kworker")]
    assert sum(u.write_bytes_per_s for u in flushers) * seconds >= 0.9 * 8 * MIB
    v2 = not any(line.split()[2] == "cgroup" and "blkio" in line
                 for line in Path("/proc/mounts").read_text().splitlines())
    assert block.writeback_owner is v2


def test_cgroups_are_the_sum_of_their_processes(collector: Collector, file: Path) -> None:
    _, block, _ = window(collector, lambda: fio(file, "--rw=randread", "--number_ios=500"))
    assert block.unowned_per_s == pytest.approx(0, abs=1)
    for group in block.groups:
        mine = [u for u in block.users if u.cgroup == group.cgroup]
        assert group.reads_per_s == pytest.approx(sum(u.reads_per_s for u in mine))
        assert group.write_bytes_per_s == pytest.approx(sum(u.write_bytes_per_s for u in mine))
        if group.latency:
            assert hist.count(group.latency) == sum(
                hist.count(u.latency) for u in mine if u.latency)


# -- each request ------------------------------------------------------------------------------


def test_a_known_request_in_the_feed(collector: Collector, file: Path) -> None:
    offset = 5 * MIB + 8192
    with loop(file) as name:
        collector.set_thresholds({"block": 0})

        def read() -> None:
            with direct(f"/dev/{name}") as (fd, page):
                assert os.preadv(fd, [page], offset) == 4096

        try:
            _, block, _ = window(collector, read)
        finally:
            collector.set_thresholds({"block": 10_000_000})
        found = [e for e in block.slow if e.device == name and e.pid == os.getpid()
                 and e.sector == offset // 512]
        assert len(found) == 1
        event = found[0]
        assert (event.op, event.bytes, event.error) == ("read", 4096, None)
        assert event.queue_ns is not None and event.device_ns is not None
        assert event.queue_ns + event.device_ns == event.total_ns
        assert abs(event.time_ns - time.time_ns()) < 30e9
        # the loop's own thread asked the disk for it, after and for less time
        below = [e for e in block.slow if e.device == disk_of(file) and e.op == "read"
                 and e.bytes == 4096 and 0 <= event.time_ns - e.time_ns < event.total_ns]
        assert below and min(e.total_ns for e in below) <= event.total_ns

        _, block, _ = window(collector, read)
        assert not [e for e in block.slow if e.device == name and e.total_ns < 10_000_000]


def test_every_request_is_shown_or_counted(collector: Collector, file: Path) -> None:
    """More events than the ring holds: shown + left out + lost are all there were."""
    collector.set_thresholds({"block": 0})
    try:
        frame, block, seconds = window(collector, lambda: fio(
            file, "--rw=randread", "--ioengine=libaio", "--iodepth=16", "--loops=3"))
    finally:
        collector.set_thresholds({"block": 10_000_000})
    happened = sum(o.per_s for d in block.devices for o in d.ops) * seconds
    assert frame.health.lost_events > 1000 and len(block.slow) == 500
    told = len(block.slow) + block.slow_cut + frame.health.lost_events
    assert told == pytest.approx(happened, abs=20)


def test_an_error_has_its_name(collector: Collector, file: Path) -> None:
    with loop(file) as name:
        os.truncate(file, 4 * MIB)  # the device still thinks it has 32

        def read() -> None:
            with direct(f"/dev/{name}") as (fd, page), pytest.raises(OSError, match="Errno 5"):
                os.preadv(fd, [page], 20 * MIB)

        _, block, seconds = window(collector, read)
        assert op(block, name, "read").errors_per_s * seconds == pytest.approx(1)
        assert [e.error for e in block.slow if e.device == name] == ["EIO"]
