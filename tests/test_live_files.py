"""File figures against what the test itself did, on this machine's own kernel."""

from __future__ import annotations

import contextlib
import math
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ktop import hist
from ktop.collect.main import Collector
from ktop.model import Frame
from ktop.model_files import FileRow
from tests.fileskit import ME, collecting_files, files, mount, number, umount
from tests.work import counted

pytestmark = pytest.mark.live
COLLECTING = collecting_files  # for the fixture `collector`


def file_row(frame: Frame, path: Path) -> FileRow:
    found = [row for row in files(frame).rows if row.path == str(path)]
    assert len(found) == 1, [row.path for row in files(frame).rows]
    return found[0]


def counted_tick(collector: Collector) -> tuple[Frame, int]:
    """A tick, and the lines of Python it took."""
    with counted() as work:
        frame = collector.tick()
    return frame, work.lines


def octaves_apart(a: float | None, b: float | None) -> float:
    assert a and b
    return abs(math.log2(a / b))


# -- reads, writes, fsyncs -------------------------------------------------------------------------


def test_every_call_and_byte_is_counted(collector: Collector, tmp_path: Path) -> None:
    path = tmp_path / "data"
    collector.tick()
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    for i in range(50):
        os.write(fd, b"a" * 100)
        os.pwrite(fd, b"b" * 10, i)
        os.writev(fd, [b"c" * 3, b"d" * 4])
        os.pwritev(fd, [b"e"], 0)
    os.lseek(fd, 0, os.SEEK_SET)
    got = 0
    for _ in range(20):
        got += len(os.read(fd, 64)) + len(os.pread(fd, 32, 0))
        got += os.readv(fd, [bytearray(16)]) + os.preadv(fd, [bytearray(8)], 0)
    os.fsync(fd)
    os.fdatasync(fd)
    readonly = os.open(path, os.O_RDONLY)
    for _ in range(3):
        with pytest.raises(OSError, match="Bad file"):
            os.write(readonly, b"x")
    frame = collector.tick()
    os.close(fd)
    os.close(readonly)
    row = file_row(frame, path)
    assert number(frame, row.ops.writes_per_s) == 203
    assert number(frame, row.ops.write_bytes_per_s) == 50 * (100 + 10 + 7 + 1)
    assert number(frame, row.ops.reads_per_s) == 80
    assert number(frame, row.ops.read_bytes_per_s) == got
    assert number(frame, row.ops.fsyncs_per_s) == 2
    assert number(frame, row.ops.opens_per_s) == 2
    assert number(frame, row.ops.errors_per_s) == 3
    assert row.ops.write and hist.count(row.ops.write) == 203
    assert row.ops.read and hist.count(row.ops.read) == 80
    assert row.ops.fsync and hist.count(row.ops.fsync) == 2
    assert row.ino == path.stat().st_ino
    dev = path.stat().st_dev
    assert row.dev == f"{os.major(dev)}:{os.minor(dev)}"
    mine = next(p for p in files(frame).processes if p.pid == ME)
    assert number(frame, mine.ops.write_bytes_per_s) >= 50 * 118
    there = next(f for f in files(frame).filesystems if f.dev == row.dev)
    mounted = subprocess.run(["stat", "-c", "%m", path], capture_output=True, text=True, check=True)
    assert there.mount == mounted.stdout.strip() and there.fstype == row.fstype
    type_name = subprocess.run(["stat", "-f", "-c", "%T", path], capture_output=True, text=True,
                               check=True).stdout.strip()
    assert row.fstype is not None and row.fstype[:3] == type_name[:3]


def test_pipes_and_sockets_are_no_files(collector: Collector) -> None:
    collector.tick()
    pid = os.fork()
    if not pid:
        with contextlib.suppress(BaseException):
            a, b = os.pipe()
            left, right = socket.socketpair()
            for _ in range(100):
                os.write(b, b"x")
                os.read(a, 1)
                os.write(left.fileno(), b"x")
                os.read(right.fileno(), 1)
        os._exit(0)
    os.waitpid(pid, 0)
    frame = collector.tick()
    assert [p for p in files(frame).processes if p.pid == pid] == []


def test_fsync_latency_against_the_tests_own_clock(collector: Collector, tmp_path: Path) -> None:
    path = tmp_path / "log"
    took = []
    collector.tick()
    with path.open("wb", buffering=0) as f:
        for _ in range(40):
            f.write(b"x" * 4096)
            begin = time.perf_counter_ns()
            os.fsync(f.fileno())
            took.append(time.perf_counter_ns() - begin)
    row = file_row(frame := collector.tick(), path)
    assert number(frame, row.ops.fsyncs_per_s) == 40
    assert row.ops.fsync is not None
    took.sort()
    assert octaves_apart(hist.percentile(row.ops.fsync, 50), took[20]) <= 1
    assert octaves_apart(row.ops.fsync.max_ns, took[-1]) <= 1
    assert row.ops.fsync.sum_ns == pytest.approx(sum(took), rel=0.2)


def test_a_deleted_file_is_shown_as_such(collector: Collector, tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_TMPFILE | os.O_RDWR)
    collector.tick()
    os.write(fd, b"x" * 777)
    frame = collector.tick()
    ino = os.fstat(fd).st_ino
    os.close(fd)
    row = next(r for r in files(frame).rows if r.ino == ino)
    assert row.deleted and row.path is not None and row.path.startswith(str(tmp_path))
    assert number(frame, row.ops.write_bytes_per_s) == 777


def test_hostile_names(collector: Collector, tmp_path: Path) -> None:
    path = os.path.join(os.fsencode(tmp_path), b"\x1b[31mred\n\xff[b]")
    collector.tick()
    with open(path, "wb") as f:
        f.write(b"x")
    frame = collector.tick()
    names = [r.path for r in files(frame).rows if r.path and r.path.startswith(str(tmp_path))]
    assert names == [f"{tmp_path}/\\e[31mred\\n\\xff[b]"]


# -- slow operations -------------------------------------------------------------------------------


@contextlib.contextmanager
def slow_mount(where: Path, delay_ms: int) -> Iterator[None]:
    """A FUSE filesystem with a file whose second half takes `delay_ms` a read."""
    if not os.path.exists("/dev/fuse"):
        pytest.skip("no /dev/fuse")
    where.mkdir()
    script = Path(__file__).with_name("fuse_slow.py")
    server = subprocess.Popen([sys.executable, script, where, str(delay_ms)], text=True,
                              stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == "mounted\n"
        yield
    finally:
        subprocess.run(["umount", "-l", where], check=False)
        server.kill()
        server.wait()


def test_one_slow_network_like_mount(collector: Collector, tmp_path: Path) -> None:
    where = tmp_path / "fuse"
    with slow_mount(where, 60):
        collector.tick()
        fd = os.open(where / "slow", os.O_RDONLY)
        for i in range(20):
            os.pread(fd, 4096, i * 4096)
        begin = time.perf_counter_ns()
        os.pread(fd, 5000, 600 << 10)
        took = time.perf_counter_ns() - begin
        os.close(fd)
        frame = collector.tick()
    slow = [op for op in files(frame).slow if op.pid == ME]
    assert len(slow) == 1
    assert slow[0].op == "pread64" and slow[0].bytes == 5000 and slow[0].error is None
    assert slow[0].path == str(where / "slow") and slow[0].fstype == "fuse.ktoptest"
    assert slow[0].latency_ns >= 60e6
    assert octaves_apart(slow[0].latency_ns, took) < 0.2
    assert abs(slow[0].time_ns - time.time_ns()) < 5e9
    row = file_row(frame, where / "slow")
    assert number(frame, row.ops.reads_per_s) == 21
    assert octaves_apart(row.ops.read.max_ns if row.ops.read else None, took) < 0.2
    mount = next(f for f in files(frame).filesystems if f.mount == str(where))
    assert mount.source == "slowsource" and mount.ops.inside is not None
    interval = frame.clock.interval_ns or 1
    assert mount.ops.inside * interval >= 60e6


def test_the_threshold_can_be_changed(collector: Collector, tmp_path: Path) -> None:
    where = tmp_path / "fuse"
    with slow_mount(where, 20):
        fd = os.open(where / "slow", os.O_RDONLY)
        for threshold_ms, expected in ((400, 0), (5, 1)):
            collector.set_thresholds({"files": threshold_ms * 1_000_000})
            collector.tick()
            os.pread(fd, 1, 600 << 10)
            frame = collector.tick()
            assert files(frame).threshold_ns == threshold_ms * 1_000_000
            assert len([op for op in files(frame).slow if op.pid == ME]) == expected
        os.close(fd)
    collector.set_thresholds({"files": 10_000_000})


# -- opens -----------------------------------------------------------------------------------------


def test_opens_with_path_result_and_flags(collector: Collector, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    # by another command: what is new is always in the feed, the rest as far as its budget goes
    subprocess.run(["touch", tmp_path / "d" / "f"], check=True)
    (tmp_path / "link").symlink_to("d/f")
    wanted: list[tuple[str, str | None, str]] = []

    def attempt(path: str | bytes, shown: str, flags: int, names: str, error: str | None = None,
                dir_fd: int | None = None) -> None:
        try:
            os.close(os.open(path, flags, dir_fd=dir_fd))
        except OSError:
            assert error
        wanted.append((shown, error, names))

    before = os.getcwd()
    directory = os.open(tmp_path / "d", os.O_RDONLY)
    os.chdir(tmp_path)
    try:
        collector.tick()
        attempt(f"{tmp_path}/d/f", f"{tmp_path}/d/f", os.O_RDONLY, "O_RDONLY|O_CLOEXEC")
        attempt("d/f", f"{tmp_path}/d/f", os.O_RDWR | os.O_APPEND, "O_RDWR|O_APPEND|O_CLOEXEC")
        attempt("./d/f", f"{tmp_path}/d/f", os.O_WRONLY, "O_WRONLY|O_CLOEXEC")
        attempt("f", f"{tmp_path}/d/f", os.O_RDONLY, "O_RDONLY|O_CLOEXEC", dir_fd=directory)
        attempt("gone", f"{tmp_path}/gone", os.O_RDONLY, "O_RDONLY|O_CLOEXEC", "ENOENT")
        attempt("../gone", f"{tmp_path}/d/../gone", os.O_RDONLY, "O_RDONLY|O_CLOEXEC", "ENOENT",
                directory)
        attempt("d/f/x", f"{tmp_path}/d/f/x", os.O_RDONLY, "O_RDONLY|O_CLOEXEC", "ENOTDIR")
        attempt("link", f"{tmp_path}/link", os.O_NOFOLLOW, "O_RDONLY|O_NOFOLLOW|O_CLOEXEC", "ELOOP")
        attempt("d", f"{tmp_path}/d", os.O_WRONLY, "O_WRONLY|O_CLOEXEC", "EISDIR")
        attempt("d/f", f"{tmp_path}/d/f", os.O_CREAT | os.O_EXCL | os.O_SYNC,
                "O_RDONLY|O_CREAT|O_EXCL|O_CLOEXEC|O_SYNC", "EEXIST")
        attempt(b"\x1b[2J\n\xff", f"{tmp_path}/\\e[2J\\n\\xff", os.O_RDONLY, "O_RDONLY|O_CLOEXEC",
                "ENOENT")
        attempt("x" * 300, f"{tmp_path}/" + "x" * 300, os.O_RDONLY, "O_RDONLY|O_CLOEXEC",
                "ENAMETOOLONG")
        frame = collector.tick()
    finally:
        os.chdir(before)
        os.close(directory)
    mine = [(e.path, e.error, e.flags) for e in files(frame).opens
            if e.pid == ME and e.path.startswith(str(tmp_path))]
    assert mine == wanted
    assert all((e.fd is None) == (e.error is not None) for e in files(frame).opens)


def test_a_storm_on_one_path_is_one_line_on_top(collector: Collector, tmp_path: Path) -> None:
    collector.tick()
    begin = time.monotonic()
    for _ in range(20_000):
        with contextlib.suppress(FileNotFoundError):
            os.open("/etc/ktop-test-missing.conf", os.O_RDONLY)
    took = time.monotonic() - begin
    frame = collector.tick()
    top = files(frame).folds[0]
    assert (top.path, top.error, top.count, top.pid) == (
        "/etc/ktop-test-missing.conf", "ENOENT", 20_000, ME)
    shown = [e for e in files(frame).opens if e.path == top.path]
    assert len(shown) <= 1000 * (took + 1)
    assert files(frame).opens_cut >= 20_000 - len(shown)
    mine = next(p for p in files(frame).processes if p.pid == ME)
    assert number(frame, mine.ops.opens_per_s) >= 20_000
    assert number(frame, mine.ops.errors_per_s) >= 20_000


def test_more_files_than_there_is_room_for(collector: Collector, tmp_path: Path) -> None:
    """The least recently used go, counted; host totals stay exact; the tick stays cheap."""
    names = [os.fsencode(tmp_path / str(i)) for i in range(14_000)]
    collector.tick()
    for name in names:
        fd = os.open(name, os.O_WRONLY | os.O_CREAT)
        os.write(fd, b"x")
        os.close(fd)
        if name.endswith(b"00"):
            collector.drain()
    frame, used = counted_tick(collector)
    idle = min(counted_tick(collector)[1] for _ in range(3))
    found = files(frame)
    assert found.files_dropped > 1_000
    assert len(found.rows) == 500 and found.rows_cut > 5_000
    assert found.host is not None and number(frame, found.host.writes_per_s) >= 14_000
    mine = next(p for p in found.processes if p.pid == ME)
    assert number(frame, mine.ops.writes_per_s) == 14_000
    assert used < 1_000_000 and idle < used / 2  # what is full of old counts costs little when idle


# -- nobody looks ----------------------------------------------------------------------------------


def test_nothing_is_attached_while_nobody_looks(collector: Collector, tmp_path: Path) -> None:
    collector.watch(["processes"])
    try:
        where = tmp_path / "m"
        where.mkdir()
        collector.tick()
        (tmp_path / "unseen").write_bytes(b"x")
        assert mount("ktop-source", where, "tmpfs") == 0
        frame = collector.tick()
        assert umount(where) == 0
        status = {p.name: p.status for p in frame.health.probes if p.layer == "files"}
        assert status == {"fs_enter": "off", "fs_exit": "off", "fs_throttle": "live",
                          "fs_fds": "live"}
        found = files(frame)
        assert not found.watched and found.host is None
        assert found.rows == found.processes == found.opens == found.slow == []
        assert [d for d in found.descriptors if d.pid == ME]
        assert [(e.op, e.source, e.target, e.fstype, e.pid) for e in found.mounts] == [
            ("mounted", "ktop-source", str(where), "tmpfs", None)]
    finally:
        collector.watch(["files"])
    collector.tick()
    frame = collector.tick()
    assert files(frame).watched and files(frame).host is not None
