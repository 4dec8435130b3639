"""What threads wait for, on the running kernel, against programs that wait for one known thing."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from ktop.collect.main import Collector
from ktop.model import Process
from tests.livekit import busy_window, collecting, python

pytestmark = pytest.mark.live
COLLECTING = collecting  # for the fixture `collector`


def waits(collector: Collector, code: str, *args: str, children: int = 0) -> list[Process]:
    """Rows of the program (and what it forks) over a second."""
    child = python(code, *args)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(0.2)
        collector.tick()
        frame = busy_window(collector, 1.0)
        found = [p for p in frame.processes.rows if child.pid in (p.pid, p.ppid)]
    finally:
        child.kill()
        child.wait()
    assert len(found) == 1 + children
    return found


def pct(rows: list[Process], what: str) -> float:
    return sum((row.waits_pct or {}).get(what, 0.0) for row in rows)


MUTEX = """
import ctypes, threading
libc, lock = ctypes.CDLL(None), ctypes.create_string_buffer(64)
def fight():
    while True:
        libc.pthread_mutex_lock(lock); libc.usleep(2000); libc.pthread_mutex_unlock(lock)
for _ in range(4): threading.Thread(target=fight, daemon=True).start()
print(flush=True)
threading.Event().wait()
"""


def test_one_holds_a_mutex_and_three_wait(collector: Collector) -> None:
    """Four threads, one of which sleeps with the lock: three wait; the main thread is idle."""
    rows = waits(collector, MUTEX)
    assert 250 < pct(rows, "mutex") <= 305
    assert (rows[0].off_cpu_pct or {})["lock"] == pytest.approx(pct(rows, "mutex") + 100, abs=25)


def test_an_idle_pool_waits_at_no_mutex(collector: Collector) -> None:
    rows = waits(collector, "import threading; e = threading.Event()\n"
                            "for _ in range(4): threading.Thread(target=e.wait).start()\n"
                            "print(flush=True); e.wait()")
    assert pct(rows, "mutex") == 0 and (rows[0].off_cpu_pct or {})["lock"] > 400


def test_file_locks(collector: Collector, tmp_path: Path) -> None:
    """Three processes take turns at one lock: at each moment two of them wait."""
    code = """
import ctypes, fcntl, os, sys, time
for _ in range(2):
    if not os.fork():
        ctypes.CDLL(None).prctl(1, 9); break
f = open(sys.argv[1], "w")
print(flush=True)
while True:
    fcntl.flock(f, 2); time.sleep(0.01); fcntl.flock(f, 8)
"""
    rows = waits(collector, code, str(tmp_path / "lock"), children=2)
    assert 140 < pct(rows, "file_lock") <= 205


@pytest.mark.parametrize(("code", "what"), [
    ("import os, socket; a, b = socket.socketpair(); print(flush=True); os.read(a.fileno(), 1)",
     "socket"),
    ("import socket; a, b = socket.socketpair(); print(flush=True); a.recv(1)", "socket"),
])
def test_a_read_of_a_socket_is_told_from_a_read_of_a_pipe(
        collector: Collector, code: str, what: str) -> None:
    assert pct(waits(collector, code), what) > 90
    pipe = waits(collector, "import os; r, w = os.pipe(); print(flush=True); os.read(r, 1)")
    assert not pipe[0].waits_pct


def test_fsyncs_are_told_from_reads(collector: Collector, tmp_path: Path) -> None:
    """Both wait in iowait for the same disk."""
    if os.stat("/var/tmp").st_dev != os.stat("/").st_dev:
        pytest.skip("/var/tmp is not on the disk")
    code = """
import os, sys
f = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
print(flush=True)
while True:
    os.pwrite(f, os.urandom(6000), 0); os.fsync(f)
"""
    path = f"/var/tmp/ktop-waits-{os.getpid()}"
    try:
        rows = waits(collector, code, path)
    finally:
        os.unlink(path)
    assert pct(rows, "fsync") > 5 and pct(rows, "disk") < 1


def test_waits_for_a_disk_are_told_where_all_is_read_by_helper(tmp_path: Path) -> None:
    """As on kernels before 5.11: of bit fields the word is read, and of that the bits."""
    if os.stat("/var/tmp").st_dev != os.stat("/").st_dev:
        pytest.skip("/var/tmp is not on the disk")
    code = """
import mmap, os, sys
f = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | os.O_DIRECT)
m = mmap.mmap(-1, 1 << 16)
os.pwrite(f, m, 0)
print(flush=True)
while True: os.preadv(f, [m], 0)
"""
    path = f"/var/tmp/ktop-waits-{os.getpid()}"
    try:
        found = []
        for typed in (True, False):
            with collecting(typed=typed) as c:
                flavour = c._late.engines[0].loaded.facts["flavour"]  # type: ignore[union-attr]
                assert ("KTOP_TYPED" in flavour) is typed
                (row,) = waits(c, code, path)
                found.append(row)
    finally:
        os.unlink(path)
    for row in found:
        assert pct([row], "disk") > 5 and pct([row], "file") < 1
        off = row.off_cpu_pct or {}
        assert off["disk"] == pytest.approx(pct([row], "disk"), abs=1)
        assert off.get("uninterruptible", 0) < 1


def test_reclaim_under_a_memory_limit(collector: Collector) -> None:
    """A group of v1 that may use 30 MB and reads 90 MB again and again: reclaim is seen, and the
    refaults are those that the kernel counts."""
    group = Path(f"/sys/fs/cgroup/memory/ktopwaits{os.getpid()}")
    if not group.parent.joinpath("memory.limit_in_bytes").exists():
        pytest.skip("no memory controller of cgroup v1")
    group.mkdir()
    path = f"/var/tmp/ktop-waits-{os.getpid()}"
    code = """
import mmap, os, random, sys
open(sys.argv[1] + "/cgroup.procs", "w").write("0")
f = os.open(sys.argv[2], os.O_RDWR | os.O_CREAT)
for i in range(90): os.pwrite(f, os.urandom(1 << 20), i << 20)
os.fsync(f)
m, n = mmap.mmap(f, 90 << 20, prot=mmap.PROT_READ), 0
print(flush=True)
while True: n += m[random.randrange(90 << 20)]
"""
    try:
        (group / "memory.limit_in_bytes").write_text(str(30 << 20))
        rows = waits(collector, code, str(group), path)
        assert pct(rows, "reclaim") + pct(rows, "memory") > 1
    finally:
        os.unlink(path)
        for _ in range(50):
            try:
                group.rmdir()
                break
            except OSError:
                time.sleep(0.05)
