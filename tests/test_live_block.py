"""Block figures against fio, /sys/block/*/stat and known requests, on this machine's own kernel."""

from __future__ import annotations

import contextlib
import json
import math
import mmap
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ktop
from ktop import hist
from ktop.collect.main import Collector, Options
from ktop.model import Block, Frame
from ktop.model_block import BlockOp, BlockUser, Device
from ktop.panes.block_columns import of_op

pytestmark = pytest.mark.live
MIB = 1 << 20


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    c = Collector(Options(watch=("block",)))
    c.start()
    try:
        c.tick()
        c.settle()
        c.tick()
        yield c
    finally:
        c.close()


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    """A file of 32 MiB on a real disk, written out."""
    path = tmp_path / "data"
    if not os.path.exists(f"/sys/dev/block/{_number(tmp_path)}"):
        pytest.skip(f"{tmp_path} is on no block device")
    with path.open("wb") as f:
        for _ in range(32):
            f.write(os.urandom(MIB))
        f.flush()
        os.fsync(f.fileno())
    yield path
    path.unlink(missing_ok=True)


def _number(path: Path) -> str:
    dev = os.stat(path).st_dev
    return f"{os.major(dev)}:{os.minor(dev)}"


def disk_of(path: Path) -> str:
    """Name of the whole disk that a file is on."""
    found = Path(f"/sys/dev/block/{_number(path)}").resolve()
    return found.parent.name if (found / "partition").exists() else found.name


def window(collector: Collector, work: Callable[[], Any]) -> tuple[Frame, Block, float]:
    """The frame of the time that `work` takes, its block layer, and that time in s."""
    collector.tick()
    work()
    frame = collector.tick()
    assert frame.block is not None and frame.clock.interval_ns is not None
    return frame, frame.block, frame.clock.interval_ns / 1e9


def device(block: Block, name: str) -> Device:
    return next(d for d in block.devices if d.name == name)


def op(block: Block, name: str, which: str) -> BlockOp:
    found = of_op(device(block, name), which)
    assert found is not None
    return found


def user(block: Block, pid: int) -> BlockUser:
    return next(u for u in block.users if u.pid == pid)


def stat(name: str) -> list[int]:
    return [int(n) for n in Path(f"/sys/block/{name}/stat").read_text().split()]


@pytest.fixture(scope="module", autouse=True)
def _warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """fio's own program and libraries are read from disk the first time."""
    path = tmp_path_factory.mktemp("warm") / "data"
    path.write_bytes(bytes(32 * MIB))
    for engine in ("psync", "libaio"):
        fio(path, "--rw=randrw", "--number_ios=10", f"--ioengine={engine}")
    path.unlink()


def fio(file: Path, *options: str, first: bool = False) -> tuple[int, dict[str, Any]]:
    """(its pid, its job's results). One process: its threads do the work. first: it never waits
    for a CPU."""
    if shutil.which("fio") is None:
        pytest.fail("fio is not installed: apt-get install fio")
    p = subprocess.Popen(
        [*(["chrt", "-f", "20"] if first else []), "fio", "--name=t", f"--filename={file}",
         "--size=32m", "--direct=1", "--thread",
         "--ioengine=psync", "--bs=4k", "--output-format=json", "--allow_file_create=0", *options],
        stdout=subprocess.PIPE, cwd=file.parent)
    out, _ = p.communicate(timeout=60)
    assert p.returncode == 0
    return p.pid, json.loads(out[out.index(b"{"):])["jobs"][0]


@contextlib.contextmanager
def loop(file: Path) -> Iterator[str]:
    """A loop device on a file; always detached."""
    made = subprocess.run(["losetup", "--find", "--show", "--direct-io=on", str(file)], text=True,
                          capture_output=True, check=False)
    if made.returncode:
        pytest.skip(f"no loop devices: {made.stderr.strip()}")
    path = made.stdout.strip()
    try:
        yield os.path.basename(path)
    finally:
        for _ in range(50):
            if subprocess.run(["losetup", "--detach", path], check=False).returncode == 0:
                break
            time.sleep(0.1)


@contextlib.contextmanager
def direct(path: str, flags: int = os.O_RDONLY) -> Iterator[tuple[int, mmap.mmap]]:
    """An fd past the page cache, and a page to use it with."""
    fd = os.open(path, flags | os.O_DIRECT)
    page = mmap.mmap(-1, 4096)
    try:
        yield fd, page
    finally:
        os.close(fd)
        page.close()


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
    # last one: this kernel now and then runs no program at all for a completion that ftrace has,
    # and pages of fio itself may have to be read
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
