"""Sums over scopes that share nothing are the host's: files, TCP and block, on this kernel."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ktop import hist
from ktop.collect.cgroups import find_hierarchy
from ktop.collect.main import Collector, Options
from ktop.model import Frame, Hist
from ktop.narrow import block, files, tcp
from ktop.scope import Members
from tests.blockkit import UNSEEN
from tests.fileskit import number

pytestmark = pytest.mark.live

WORK = """
import mmap, os, socket, sys, threading
group, path, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
with open(group + "/cgroup.procs", "w") as f:
    f.write(str(os.getpid()))
server = socket.create_server(("127.0.0.1", 0))
port = server.getsockname()[1]
def one(c):
    while c.recv(1 << 16):
        pass
    c.close()
def serve():
    while True:
        threading.Thread(target=one, args=(server.accept()[0],), daemon=True).start()
threading.Thread(target=serve, daemon=True).start()
kept = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
shared = os.open(path, os.O_RDWR | os.O_CREAT)
own = os.open(path + "." + os.path.basename(group), os.O_RDWR | os.O_CREAT)
def read_bytes():
    with open("/proc/self/io") as f:
        return int(dict(line.split(":") for line in f)["read_bytes"])
before = read_bytes()
print("ready", flush=True)
input()
for i in range(rounds):
    os.pwrite(shared, b"x" * 1000, 0)
    os.pread(shared, 500, 0)
    os.pwrite(own, b"y" * 4096, 4096 * i)
    os.fsync(own)
    with socket.create_connection(("127.0.0.1", port)) as c:
        c.sendall(bytes(777))
    kept[0].sendall(bytes(100))
    try:
        os.open("/nonexistent/ktop", os.O_RDONLY)
    except OSError:
        pass
direct = os.open(path + "." + os.path.basename(group), os.O_RDONLY | os.O_DIRECT)
page = mmap.mmap(-1, 4096)
for i in range(rounds):
    os.preadv(direct, [page], 4096 * i)
print(read_bytes() - before, flush=True)
input()
"""
ROUNDS = (40, 25)

Taken = tuple[Frame, list[int], list[int], list[int]]


@contextlib.contextmanager
def groups() -> Iterator[list[Path]]:
    """Two control groups where tasks are shown by."""
    found = find_hierarchy()
    if found is None:
        pytest.skip("no control groups")
    made: list[Path] = []
    try:
        for letter in "ab":
            path = Path(found.root) / f"ktop-owners-{os.getpid()}-{letter}"
            path.mkdir()
            made.append(path)
        yield made
    finally:
        for path in made:
            for _ in range(50):
                with contextlib.suppress(OSError):
                    path.rmdir()
                    break
                time.sleep(0.05)


def _hear(worker: subprocess.Popen[str]) -> str:
    assert worker.stdout is not None
    return worker.stdout.readline().strip()


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Taken]:
    """(a frame of known work in two groups, the groups' ids, the processes that did it, and what
    the kernel says that each has read from a disk: bytes)."""
    where = tmp_path_factory.mktemp("owners") / "shared"
    collector = Collector(Options(watch=("files", "tcp", "block")))
    workers: list[subprocess.Popen[str]] = []
    try:
        with groups() as made:
            collector.start()
            collector.settle()
            for group, rounds in zip(made, ROUNDS, strict=True):
                workers.append(subprocess.Popen(
                    [sys.executable, "-I", "-c", WORK, group, where, str(rounds)], text=True,
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            for w in workers:
                assert _hear(w) == "ready"
            time.sleep(0.3)
            collector.tick()
            collector.tick()
            for w in workers:
                assert w.stdin is not None
                w.stdin.write("\n")
                w.stdin.flush()
            read = [int(_hear(w)) for w in workers]
            time.sleep(0.2)
            frame = collector.tick()
            ids = [os.stat(path).st_ino for path in made]
            yield frame, ids, [w.pid for w in workers], read
            for w in workers:
                w.kill()
                w.communicate()
    finally:
        for w in workers:
            w.kill()
            w.communicate()
        collector.close()


def scopes(frame: Frame) -> list[Members]:
    """Every control group of the frame alone: disjoint, together the host."""
    assert frame.files and frame.tcp and frame.block
    ids = {g.id for g in frame.cgroups} | {p.cgroup for p in frame.processes.rows}
    ids |= {s.cgroup for s in frame.files.shares} | {o.cgroup for o in frame.tcp.owners}
    ids |= {u.cgroup for u in frame.block.by_device}
    return [Members(frozenset(p.pid for p in frame.processes.rows if p.cgroup == g),
                    frozenset({g})) for g in ids if g is not None]


def ways(pid: int, group: int) -> tuple[Members, Members]:
    """A group of one process, and that process alone."""
    return Members(frozenset({pid}), frozenset({group})), Members(frozenset({pid}), None)


def samples(h: Hist | None) -> int:
    return hist.count(h) if h else 0




def test_files_of_all_groups_are_the_hosts(taken: Taken) -> None:
    frame, ids, pids, _ = taken
    layer = frame.files
    assert layer is not None and layer.host is not None and layer.owned
    parts = [files.narrow(layer, m, frame) for m in scopes(frame)]
    assert number(frame, layer.unowned_per_s) == pytest.approx(0, abs=0.5)
    for name in ("reads_per_s", "writes_per_s", "fsyncs_per_s", "opens_per_s", "errors_per_s",
                 "read_bytes_per_s", "write_bytes_per_s", "inside"):
        told = sum(getattr(p.host, name) for p in parts)
        assert told == pytest.approx(getattr(layer.host, name), rel=1e-6), name
    for name in ("read", "write", "fsync"):
        assert sum(samples(getattr(p.host, name)) for p in parts) == samples(
            getattr(layer.host, name))
    assert sum(p.opens_failed_per_s or 0 for p in parts) == pytest.approx(layer.opens_failed_per_s)
    for system in layer.filesystems:
        mine = [f.ops for p in parts for f in p.filesystems if f.dev == system.dev]
        assert sum(o.write_bytes_per_s or 0 for o in mine) == pytest.approx(
            system.ops.write_bytes_per_s)
    # the shared file: each has its own writes of it, to the last byte
    (row,) = [r for r in layer.rows if r.path and r.path.endswith("/shared")]
    assert number(frame, row.ops.write_bytes_per_s) == pytest.approx(1000 * sum(ROUNDS))
    for group, pid, rounds in zip(ids, pids, ROUNDS, strict=True):
        for members in ways(pid, group):
            part = files.narrow(layer, members, frame)
            assert part.host is not None
            assert number(frame, part.host.write_bytes_per_s) == pytest.approx(5096 * rounds)
            assert number(frame, part.host.fsyncs_per_s) == pytest.approx(rounds)
            (mine,) = [r for r in part.rows if r.path == row.path]
            assert number(frame, mine.ops.write_bytes_per_s) == pytest.approx(1000 * rounds)
            assert number(frame, mine.ops.read_bytes_per_s) == pytest.approx(500 * rounds)
            assert samples(mine.ops.write) == rounds
            (fold,) = [f for f in part.folds if f.path == "/nonexistent/ktop"]
            assert (fold.count, fold.cgroup, fold.shared) == (rounds, group, False)
            assert number(frame, part.opens_failed_per_s) >= rounds
            assert {p.pid for p in part.processes} == {pid}


def test_tcp_of_all_owners_is_the_hosts(taken: Taken) -> None:
    frame, ids, pids, _ = taken
    layer = frame.tcp
    assert layer is not None and layer.owned
    parts = [tcp.narrow(layer, m, frame) for m in scopes(frame)]
    unowned = [o for o in layer.owners if o.cgroup is None]

    def left(name: str) -> float:
        return sum(getattr(o, name) or 0 for o in unowned)

    for name in ("tx_bytes_per_s", "rx_bytes_per_s"):
        assert sum(getattr(p, name) for p in parts) + left(name) == pytest.approx(
            getattr(layer, name), rel=1e-9)
    for name, field in (("connects_per_s", "connects_per_s"), ("accepts_per_s", "accepts_per_s"),
                        ("closes_per_s", "closes_per_s"),
                        ("connects_failed_per_s", "failed_per_s")):
        told = sum(getattr(p, name) for p in parts) + left(field)
        assert number(frame, told) == pytest.approx(number(frame, getattr(layer, name)), abs=2)
    assert sum(p.connections_total or 0 for p in parts) + left("connections") == (
        layer.connections_total)
    assert sum(samples(p.rtt) for p in parts) + sum(samples(o.rtt) for o in unowned) == (
        samples(layer.rtt))
    assert sum(samples(p.connect_latency) for p in parts) == samples(layer.connect_latency)
    for group, pid, rounds in zip(ids, pids, ROUNDS, strict=True):
        for members in ways(pid, group):
            part = tcp.narrow(layer, members, frame)
            assert number(frame, part.connects_per_s) == pytest.approx(rounds)
            assert number(frame, part.accepts_per_s) == pytest.approx(rounds)
            assert number(frame, part.tx_bytes_per_s) == pytest.approx(877 * rounds)
            assert number(frame, part.rx_bytes_per_s) == pytest.approx(877 * rounds)
            assert part.connections_total == 6 and len(part.listeners) == 1
            assert samples(part.connect_latency) == rounds
            assert {p.direction for p in part.peers} == {"in", "out"}
            assert all(p.pids == [pid] and p.cgroup == group for p in part.peers)
            assert [p.opened for p in part.peers] == [rounds + 3, rounds + 3]
            assert len(part.namespaces) == 1 and part.drops_per_s is None


def test_a_sockets_inode_is_that_of_its_descriptor(taken: Taken) -> None:
    frame, _, pids, _ = taken
    assert frame.tcp is not None
    for pid in pids:
        mine = {c.ino for c in frame.tcp.connections if c.pid == pid and c.state == "ESTAB"}
        held = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
        assert len(mine) == 6 and {f"socket:[{ino}]" for ino in mine} <= held


def test_block_of_all_groups_is_what_was_seen(taken: Taken) -> None:
    frame, ids, pids, read = taken
    layer = frame.block
    assert layer is not None and layer.owned
    parts = [block.narrow(layer, m, frame) for m in scopes(frame)]
    for name in ("reads_per_s", "writes_per_s", "others_per_s", "read_bytes_per_s",
                 "write_bytes_per_s", "syncs_per_s"):
        host = sum(getattr(g, name) for g in layer.groups)
        assert sum(getattr(u, name) for p in parts for u in p.users) == pytest.approx(host)
        assert sum(getattr(u, name) for u in layer.by_device) == pytest.approx(host)
    # by device, against what the programs saw of it: all but the requests of nobody
    interval = (frame.clock.interval_ns or 0) / 1e9
    for device in layer.devices:
        told = {op.op: op for op in device.ops}
        for op in ("read", "write"):
            if op in told and told[op].per_s:
                mine = [o for p in parts for d in p.devices if d.name == device.name
                        for o in d.ops if o.op == op]
                slack = (layer.unowned_per_s or 0) * interval + 1
                assert sum(o.per_s for o in mine) * interval == pytest.approx(
                    told[op].per_s * interval, abs=slack)
                assert sum(samples(o.total) for o in mine) == pytest.approx(
                    samples(told[op].total), abs=slack)
    for pid, group, rounds, from_disk in zip(pids, ids, ROUNDS, read, strict=True):
        part = block.narrow(layer, Members(frozenset({pid}), frozenset({group})), frame)
        disks = [d for d in part.devices if d.counted]
        if not disks:
            pytest.skip("the test's files are on no counted disk")
        # its own reads, and pages of Python that were not in memory
        reads = sum(d.reads_per_s or 0 for d in disks) * interval
        paged = (from_disk - 4096 * rounds) / 4096
        assert rounds - UNSEEN <= reads <= rounds + paged + 0.5
        assert part.reads_per_s == pytest.approx(sum(d.reads_per_s or 0 for d in disks))
        assert part.read_bytes_per_s is not None
        assert part.read_bytes_per_s * interval == pytest.approx(from_disk, abs=4096 * UNSEEN)
        assert part.concurrency is not None and part.concurrency > 0
