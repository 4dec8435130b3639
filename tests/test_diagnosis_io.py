"""Diagnosis on built frames: disks and files."""

from __future__ import annotations

import pytest

from ktop import hist
from ktop.diagnosis.model import Report
from ktop.model import Frame, Hist
from ktop.model_block import BlockOp, BlockUser, Limit
from ktop.model_files import FileOps, FileSystem, PageCache, Throttled
from ktop.model_pressure import IoLimit
from tests.diagkit import SECOND, add, disk, latency, process, verdict, watch

# -- block --------------------------------------


def user(pid: int, reads: float = 0.0, writes: float = 0.0, busy: float = 0.0) -> BlockUser:
    """busy: mean number of its requests under way."""
    return BlockUser(2, pid, "x", reads_per_s=reads, writes_per_s=writes, device="vda",
                     read=latency(busy * SECOND / max(1, reads), int(reads)) if reads else None,
                     write=latency(busy * SECOND / max(1, writes), int(writes)) if writes else None)


def test_one_reader_alone_does_not_fill_a_disk() -> None:
    def copy(f: Frame) -> None:
        assert f.block is not None
        f.block.devices = [disk(util_pct=99.0, queue=1.5, reads_per_s=900.0)]
        f.block.by_device = [user(100, reads=900.0, busy=0.95)]
        add(f, process(100, "cp", waits_pct={"disk": 95.0}, write_bytes_per_s=1e8))

    assert watch(copy).verdict.pipe == "none"


def test_many_that_wait_and_a_queue_do() -> None:
    def full(f: Frame) -> None:
        assert f.block is not None
        f.block.devices = [disk(util_pct=100.0, queue=8.0, writes_per_s=500.0)]
        f.block.by_device = [user(100, writes=500.0, busy=8.0)]
        add(f, process(100, "writer", waits_pct={"disk": 790.0}),
            process(101, "db", waits_pct={"fsync": 90.0}))

    report = watch(full)
    assert verdict(report) == ("block", "saturated") and report.verdict.resource == "vda"
    assert report.verdict.culprits[0].pid == 100
    assert report.verdict.stalled == pytest.approx(8.8, rel=0.05)  # the fsync is the disk's
    assert next(p for p in report.pipes if p.pipe == "file").state == "ok"


def behind(f: Frame) -> None:
    """A fsync behind the asynchronous writes of another, by a kernel thread."""
    assert f.block is not None
    f.block.devices = [disk(util_pct=100.0, queue=30.0, writes_per_s=500.0)]
    f.block.by_device = [user(20, writes=500.0, busy=29.0), user(101, writes=50.0, busy=0.5)]
    add(f, process(20, "kworker/u4:1", kernel_thread=True),
        process(100, "dump", write_bytes_per_s=5e8),
        process(101, "db", waits_pct={"fsync": 90.0}, write_bytes_per_s=1e5))


def test_waiting_behind_another_and_who_that_is() -> None:
    report = watch(behind)
    assert verdict(report) == ("block", "saturated")
    assert report.verdict.culprits[0].comm == "dump"
    assert [a.comm for a in report.verdict.victims] == ["db"]


def test_held_above_the_device() -> None:
    def held(f: Frame) -> None:
        assert f.block is not None
        f.block.devices = [disk(util_pct=4.0, queue=0.02, reads_per_s=50.0)]
        f.block.by_device = [user(100, reads=50.0, busy=0.02)]
        add(f, process(100, waits_pct={"disk": 99.0}))

    def limited(f: Frame) -> None:
        held(f)
        assert f.pressure is not None
        f.pressure.io_limits = [IoLimit("/app", 254 << 20, "reads", 50.0, [100])]

    for trouble, sure in ((held, 0.7), (limited, 0.95)):
        report = watch(trouble)
        assert verdict(report) == ("block", "saturated") and report.verdict.culprits[0].pid == 100
        assert report.verdict.confidence == pytest.approx(sure)


def test_a_mapping_that_keeps_requests_is_named_not_what_is_below_it() -> None:
    """Below it they are a kernel thread's: none of them is of who waits. Seen with dm-delay."""
    def mapped(f: Frame, under_way: float, waits_pct: float) -> None:
        assert f.block is not None
        f.block.devices = [
            disk(queue=0.1, reads_per_s=18.0),
            disk(name="dm-0", dev=253 << 20, kind="dm", what="data", slaves=["vda"], counted=False,
                 queue=under_way, reads_per_s=18.0)]
        f.block.by_device = [user(20, reads=18.0, busy=0.1)]
        add(f, process(20, "kworker/0:1", kernel_thread=True),
            process(100, "db", waits_pct={"disk": waits_pct}))

    report = watch(lambda f: mapped(f, 5.4, 540.0))
    assert verdict(report) == ("block", "saturated") and report.verdict.resource == "dm-0"
    assert report.verdict.culprits[0].pid == 100
    figures = [e.value for e in report.verdict.evidence[:3]]
    assert figures == pytest.approx([5.4, 5.3, 294.4], rel=0.01)
    assert watch(lambda f: mapped(f, 0.11, 11.0)).verdict.pipe == "none"  # it adds next to nothing


def test_a_declared_limit_and_failed_requests() -> None:
    def sold(f: Frame) -> None:
        assert f.block is not None
        f.block.devices = [disk(queue=1.0, reads_per_s=2950.0, limit=Limit("vda", 3000.0))]
        f.block.by_device = [user(100, reads=2950.0, busy=0.9)]
        add(f, process(100, waits_pct={"disk": 90.0}))

    report = watch(sold)
    assert verdict(report) == ("block", "saturated")
    assert report.pipes[0].headroom_pct == pytest.approx(100 / 60)

    def failing(f: Frame) -> None:
        assert f.block is not None
        f.block.devices = [disk(queue=0.1, ops=[BlockOp("read", 10.0, 4e4, errors_per_s=2.0)])]

    assert verdict(watch(failing)) == ("block", "errors")


# -- file --------------------------------------


def test_fsync_bound_and_a_moderate_database() -> None:
    bound = watch(lambda f: add(f, process(100, cpu_pct=10.0, waits_pct={"fsync": 85.0},
                                           off_cpu_pct={"disk": 85.0})))
    assert (bound.verdict.pipe, bound.verdict.resource) == ("file", "fsync")
    moderate = watch(lambda f: add(f, process(
        100, cpu_pct=10.0, waits_pct={"fsync": 15.0}, off_cpu_pct={"disk": 15.0, "sleep": 75.0})))
    assert moderate.verdict.pipe == "none"


def test_slow_fsyncs_are_named_sooner() -> None:
    def slow(f: Frame) -> None:
        assert f.files is not None
        f.files.host = FileOps(fsyncs_per_s=6.0, fsync=latency(40e6, 6))
        add(f, process(100, waits_pct={"fsync": 25.0}, off_cpu_pct={"disk": 25.0, "sleep": 75.0}))

    assert watch(slow).verdict.resource == "fsync"


def test_dirty_pages_are_not_the_disks_waits() -> None:
    def paused(f: Frame) -> None:
        assert f.files is not None
        f.files.cache = PageCache(1 << 30, 0, 1 << 30, 1 << 29, [Throttled(100, "dd", 2, 9, 80.0)])
        add(f, process(100, "dd", waits_pct={"disk": 82.0}))

    report = watch(paused)
    assert (report.verdict.pipe, report.verdict.resource) == ("file", "dirty pages")
    assert report.verdict.stalled == pytest.approx(0.8, rel=0.05)


def test_a_convoy_is_one_and_a_stand_by_is_not() -> None:
    def convoy(turns: float) -> Report:
        return watch(lambda f: add(f, *(process(
            100 + i, voluntary_per_s=turns, waits_pct={"file_lock": 75.0}) for i in range(4))), 20)

    assert convoy(9.0).verdict.resource == "file locks"
    assert convoy(0.0).verdict.pipe == "none"


def test_a_slow_mount() -> None:
    def slow(f: Frame) -> None:
        assert f.files is not None
        f.files.filesystems = [FileSystem("0:50", FileOps(read=latency(200e6, 5), inside=1.0),
                                          "fuse.x", "/mnt/far")]
        add(f, process(100, waits_pct={"file": 99.0}))

    report = watch(slow)
    assert (report.verdict.pipe, report.verdict.resource) == ("file", "/mnt/far")


# -- tails --------------------------------------


def latencies(**ms: tuple[float, int]) -> Hist:
    """So many requests of about so many ms, by whatever name."""
    return hist.merge([latency(at * 1e6, n) for at, n in ms.values()])


def bimodal(own: Hist, stalled_pct: float = 90.0, background: float = 0.0) -> Report:
    def trouble(f: Frame) -> None:
        assert f.block is not None
        f.block.devices = [disk(util_pct=90.0, queue=0.9 + background, writes_per_s=400.0)]
        f.block.by_device = [
            BlockUser(2, 100, "db", writes_per_s=400.0, device="vda", write=own),
            BlockUser(1, 20, "kworker/u4:1", writes_per_s=50.0, device="vda",
                      write=latency(background * SECOND / 50, 50))]
        add(f, process(20, "kworker/u4:1", kernel_thread=True),
            process(100, "db", waits_pct={"disk": stalled_pct}))

    return watch(trouble)


def test_a_few_long_writes_that_are_most_of_the_wait() -> None:
    two_in_a_hundred = latencies(quick=(0.4, 392), slow=(60, 8))
    report = bimodal(two_in_a_hundred)
    assert verdict(report) == ("block", "contended") and report.verdict.resource == "vda"
    assert report.verdict.victims[0].pid == 100
    p99 = next(e for e in report.verdict.evidence if e.text == "requests of theirs, P99")
    assert 50 < p99.value < 75
    for innocent in (
            bimodal(two_in_a_hundred, stalled_pct=10.0),            # hardly anybody waits
            bimodal(two_in_a_hundred, background=3.0),              # behind its own write-back
            bimodal(latencies(quick=(6, 160), slow=(18, 10))),      # a slow disk, evenly so
            bimodal(latencies(quick=(2, 397), slow=(30, 3))),       # a tail, but little of the time
            bimodal(latencies(quick=(0.4, 20), slow=(60, 1)), 30.0)):  # too few for a tail
        assert innocent.verdict.pipe == "none"
