"""What block devices are, on this machine's own kernel: loops, zram, throttled, uncounted."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import ktop
from ktop import hist
from ktop.collect.main import Collector, Options
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


# -- what devices are --------------------------------------------------------------------------


def test_a_loop_device_is_counted_once(collector: Collector, file: Path) -> None:
    disk = disk_of(file)
    with loop(file) as name:
        before = stat(name)
        _, block, seconds = window(collector, lambda: fio(
            Path(f"/dev/{name}"), "--rw=randread", "--number_ios=1000", "--readonly"))
        after = stat(name)
    row, below = device(block, name), device(block, disk)
    assert (row.kind, row.what, row.counted) == ("loop", str(file), False)
    assert below.counted and below.kind == "disk"
    assert op(block, name, "read").per_s * seconds == pytest.approx(
        after[0] - before[0], rel=0.04, abs=5)
    assert block.reads_per_s is not None and row.reads_per_s is not None
    assert block.reads_per_s == pytest.approx(
        sum(d.reads_per_s or 0.0 for d in block.devices if d.counted))
    # every read of the loop was one of the disk: the total has it once
    assert below.reads_per_s is not None and below.reads_per_s >= 0.9 * row.reads_per_s
    assert block.reads_per_s < below.reads_per_s + row.reads_per_s


def test_an_idle_device_has_no_percentiles(collector: Collector, file: Path) -> None:
    with loop(file) as name:
        collector.tick()
        time.sleep(0.5)  # udev and their like have looked at it
        _, block, _ = window(collector, lambda: time.sleep(0.3))
        row = device(block, name)
    assert row.reads_per_s == 0 and row.util_pct == 0
    assert row.read_ns is None and row.write_ns is None
    assert all(o.total is None and o.queue is None and o.device is None for o in row.ops)


@pytest.fixture
def blind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A collector whose programs do not look at the stamps that most queues make."""
    package = Path(ktop.__file__).parent
    shutil.copytree(package, tmp_path / "ktop", ignore=shutil.ignore_patterns("__pycache__"))
    source = tmp_path / "ktop/bpf/block.bpf.c"
    text = source.read_text()
    assert text.count("issued = F(rq, io_start_time_ns)") == 1
    source.write_text(text.replace("issued = F(rq, io_start_time_ns)", "issued = 0"))
    monkeypatch.setattr("ktop.bpf.engine._CHILD", str(tmp_path / "ktop/bpf/compile.py"))
    c = Collector(Options(watch=("block",)))
    c.start()
    try:
        c.tick()
        c.settle()
        c.tick()
        yield c
    finally:
        c.close()


def test_a_queue_that_stamps_nothing_is_stamped_while_looked_at(
        collector: Collector, blind: Collector, file: Path) -> None:
    """Our stamps make the same queue and device time as the kernel's; without any, the total."""
    name = disk_of(file)

    def work() -> None:
        fio(file, "--rw=randread", "--number_ios=2000", "--ioengine=libaio", "--iodepth=4")

    blind.tick()
    _, block, _ = window(collector, work)
    frame = blind.tick()
    assert frame.block is not None
    kernels, ours = op(block, name, "read"), op(frame.block, name, "read")
    assert ours.undivided_per_s <= 0.01 * ours.per_s  # one may have been under way before
    for kind in ("queue", "device", "total"):
        a, b = getattr(kernels, kind), getattr(ours, kind)
        assert a is not None and b is not None
        assert hist.count(b) == pytest.approx(hist.count(a), rel=0.05)
        if kind != "queue":  # mostly under a microsecond: the hook's own time shows
            assert b.sum_ns == pytest.approx(a.sum_ns, rel=0.15)
            assert hist.percentile(b, 50) == pytest.approx(hist.percentile(a, 50), rel=0.25)
    blind.watch([])
    _, block, _ = window(blind, work)
    unwatched = op(block, name, "read")
    assert unwatched.total is not None and hist.count(unwatched.total) >= 1900
    assert unwatched.undivided_per_s == pytest.approx(unwatched.per_s)
    assert unwatched.device is None and unwatched.queue is None


def test_counters_switched_off_are_unknown_not_zero(collector: Collector, file: Path) -> None:
    with loop(file) as name:
        knob = Path(f"/sys/block/{name}/queue/iostats")
        knob.write_text("0")

        def read() -> None:
            with direct(f"/dev/{name}") as (fd, page):
                os.preadv(fd, [page], 0)

        try:
            _, block, _ = window(collector, read)
        finally:
            knob.write_text("1")
        row = device(block, name)
        assert row.reads_per_s is None and row.util_pct is None and row.in_flight is None
        found = of_op(row, "read")
        assert found is not None and found.per_s > 0  # the completion is seen all the same


# -- throttling --------------------------------------------------------------------------------


@contextlib.contextmanager
def throttled(number: str, iops: int) -> Iterator[Path]:
    """A v1 blkio cgroup that may do so many reads a second on a device."""
    root = Path("/sys/fs/cgroup/blkio")
    if not (root / "blkio.throttle.read_iops_device").exists():
        pytest.skip("no cgroup v1 blkio controller")
    group = root / f"ktop-test-{os.getpid()}"
    group.mkdir()
    try:
        (group / "blkio.throttle.read_iops_device").write_text(f"{number} {iops}")
        yield group
    finally:
        for _ in range(50):
            with contextlib.suppress(OSError):
                group.rmdir()
                break
            time.sleep(0.05)


def test_a_throttled_cgroup_waits_before_its_requests_exist(
        collector: Collector, file: Path) -> None:
    """blk-throttle holds bios, not requests: the rate shows it, queue time does not."""
    with loop(file) as name:
        number = Path(f"/sys/block/{name}/dev").read_text().strip()
        code = ("import mmap,os,sys\nsys.stdin.read(1)\n"
                f"fd=os.open('/dev/{name}',os.O_RDONLY|os.O_DIRECT)\n"
                "m=mmap.mmap(-1,4096)\nfor i in range(40): os.preadv(fd,[m],i*4096)")
        with throttled(number, 20) as group:
            p = subprocess.Popen(["/usr/bin/python3", "-I", "-c", code], stdin=subprocess.PIPE)
            (group / "cgroup.procs").write_text(str(p.pid))
            _, block, seconds = window(collector, lambda: p.communicate(b"x", timeout=30))
        reads = op(block, name, "read")
        assert reads.queue is not None
        assert reads.per_s == pytest.approx(20, rel=0.35)
        # what was held back is submitted by the kernel's own thread: who knows only on v2
        who = [u for u in block.users if u.pid == p.pid or u.comm.startswith("kworker")]
        assert sum(u.reads_per_s for u in who) * seconds >= 37
        waited = hist.percentile(reads.queue, 50)
        assert waited is not None and waited < 10e6


# -- devices without requests ------------------------------------------------------------------


def test_zram_has_rates_and_no_requests(collector: Collector) -> None:
    """It serves bios at once: the kernel's counters have them, there is nothing to time."""
    base = Path("/sys/block/zram0")
    if not base.exists() or (base / "size").read_text().strip() != "0":
        pytest.skip("no free zram device")
    iostats = (base / "queue/iostats").read_text().strip()
    try:
        (base / "disksize").write_text(str(16 * MIB))
        (base / "queue/iostats").write_text("1")

        def write() -> None:
            with direct("/dev/zram0", os.O_RDWR) as (fd, page):
                for i in range(100):
                    os.pwritev(fd, [page], i * 4096)

        collector.tick()
        before = stat("zram0")
        _, block, seconds = window(collector, write)
        after = stat("zram0")
        row = device(block, "zram0")
        assert (row.kind, row.counted, row.ops) == ("zram", False, [])
        assert row.writes_per_s is not None and row.write_bytes_per_s is not None
        assert row.writes_per_s * seconds == pytest.approx(after[4] - before[4], abs=2)
        assert row.write_bytes_per_s * seconds == pytest.approx(100 * 4096, abs=3 * 4096)
    finally:
        (base / "queue/iostats").write_text(iostats)
        (base / "reset").write_text("1")
