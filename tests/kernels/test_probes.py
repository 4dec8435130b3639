"""Processes, scheduler and block probes, each against a workload whose count is known."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ktop import hist
from ktop.bpf import syscall
from ktop.collect.main import Collector
from ktop.model import Frame
from tests.livekit import child, python, row, spin

from .conftest import Proved, count

pytestmark = pytest.mark.kernels

BLOCKED = {
    "lock": """import ctypes, threading
l = ctypes.create_string_buffer(64); p = ctypes.CDLL(None); p.pthread_mutex_lock(l)
threading.Thread(target=p.pthread_mutex_lock, args=(l,), daemon=True).start()
print(flush=True); import time; time.sleep(60)""",
    "io": "import os; print(flush=True); r, w = os.pipe(); os.read(r, 1)",
    "sleep": "import time; print(flush=True); time.sleep(60)",
}


@contextlib.contextmanager
def started(code: str, *args: str) -> Iterator[subprocess.Popen[bytes]]:
    """A python child that has said its first line."""
    p = python(code, *args)
    try:
        assert p.stdout is not None
        p.stdout.readline()
        yield p
    finally:
        p.kill()
        p.communicate()


def status(pid: int, name: str) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith(name + ":"))


def ran_ns(pid: int) -> int:
    """CPU time of a task."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])


def runs(collector: Collector, *names: str) -> dict[str, int]:
    """How often programs have run; they count only while statistics are on."""
    found: dict[str, int] = {}
    assert collector._late is not None
    for engine in collector._late.engines:
        for name in names:
            if fds := engine.loaded.probes.get(name):
                found[name] = syscall.prog_info(fds[0])["run_cnt"]
    return found


@contextlib.contextmanager
def statistics() -> Iterator[None]:
    fd = syscall.enable_run_stats()
    try:
        yield
    finally:
        os.close(fd)


@contextlib.contextmanager
def traced(*events: str) -> Iterator[Callable[[], list[int]]]:
    """Asks the kernel's own trace how often each of these events (group/name) has come by now."""
    trace = Path("/sys/kernel/tracing/instances/ktopkernels")
    trace.mkdir()
    try:
        for event in events:
            (trace / "events" / event / "enable").write_text("1")
        yield lambda: [(trace / "trace").read_text().count(f" {event.rpartition('/')[2]}:")
                       for event in events]
    finally:
        trace.rmdir()


# -- processes -------------------------------------------------------------------------------------


def test_every_process_with_its_threads(collector: Collector, proved: Proved) -> None:
    code = """import threading, time
for _ in range(4): threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
print(flush=True); time.sleep(60)"""
    with started(code) as p:
        before = set(filter(str.isdigit, os.listdir("/proc")))
        frame = collector.tick()
        # what begins or ends meanwhile, or is another before long (kernel workers), does not count
        there = {int(n) for n in before & set(os.listdir("/proc"))}
        mine = row(frame, p.pid)
        assert (mine.ppid, mine.comm, mine.uid) == (os.getpid(), Path(
            f"/proc/{p.pid}/comm").read_text().strip(), 0)
        assert mine.threads == 5
        assert mine.start_boottime_ns // 10**7 == pytest.approx(int(
            Path(f"/proc/{p.pid}/stat").read_text().rpartition(")")[2].split()[19]), abs=1)
        seen = {r.pid for r in frame.processes.rows}
    assert not there - seen, [Path(f"/proc/{n}/comm").read_text() for n in there - seen]
    proved("tasks", len(seen & there), len(there))


@pytest.mark.parametrize("reason", sorted(BLOCKED))
def test_why_threads_are_off_the_cpu(collector: Collector, reason: str) -> None:
    with started(BLOCKED[reason]) as p:
        collector.tick()
        time.sleep(1.5)
        mine = row(collector.tick(), p.pid)
    assert mine.off_cpu_pct is not None
    assert mine.off_cpu_pct.get(reason, 0.0) == pytest.approx(100, abs=15), mine.off_cpu_pct


def test_forks(collector: Collector, proved: Proved) -> None:
    code = """import os, sys
print(flush=True)
sys.stdin.buffer.read(1)
for _ in range(20):
    if os.fork() == 0: os._exit(0)
    os.wait()
print(flush=True); sys.stdin.read()"""
    with started(code) as p:
        assert p.stdin is not None and p.stdout is not None
        collector.tick()
        p.stdin.write(b"x")
        p.stdin.flush()
        p.stdout.readline()
        frame = collector.tick()
        proved("process_fork", count(frame, row(frame, p.pid).forks_per_s), 20)


def test_switches_and_waits(collector: Collector, proved: Proved) -> None:
    """As many waits in the histogram as the kernel counted switches, and as long as run_delay."""
    code = """import sys, time
print(flush=True)
for line in sys.stdin:
    for _ in range(100): time.sleep(0.002)
    print(flush=True)"""

    def truth(pid: int) -> tuple[int, int]:
        switches = (status(pid, "voluntary_ctxt_switches")
                    + status(pid, "nonvoluntary_ctxt_switches"))
        return switches, int(Path(f"/proc/{pid}/schedstat").read_text().split()[1])

    with started(code) as p, child(spin, min(os.sched_getaffinity(0))):
        assert p.stdin is not None and p.stdout is not None
        time.sleep(0.3)  # until it is blocked in its read
        first = truth(p.pid)
        collector.tick()
        p.stdin.write(b"\n")
        p.stdin.flush()
        p.stdout.readline()
        time.sleep(0.3)
        frame = collector.tick()
        mine, last = row(frame, p.pid), truth(p.pid)
        assert mine.runq is not None
        waited = last[1] - first[1]
        assert mine.runq.sum_ns == pytest.approx(waited, rel=0.02, abs=2e6)
        proved("sched_switch", hist.count(mine.runq), last[0] - first[0])


def test_the_queue_is_as_long_as_there_are_hogs(collector: Collector, proved: Proved) -> None:
    cpu = min(os.sched_getaffinity(0))
    with contextlib.ExitStack() as stack:
        hogs = [stack.enter_context(child(spin, cpu)) for _ in range(4)]
        while min(ran_ns(p) for p in hogs) < 50_000_000:  # of its own work, not of its start
            time.sleep(0.1)
        collector.tick()
        time.sleep(2)
        found = next(c for c in collector.tick().cpus if c.cpu == cpu)
    assert found.runq_len is not None and found.runq_samples > 50
    proved("runqlen", round(min(found.runq_len, 4)), 4)  # 4, and whatever else runs here


THRASH = """
import mmap, os, random, sys
f = os.open(sys.argv[2], os.O_RDWR | os.O_CREAT)
for i in range(60): os.pwrite(f, bytes(1 << 20), i << 20)
os.fsync(f)
os.posix_fadvise(f, 0, 0, os.POSIX_FADV_DONTNEED)  # what is read is charged to the group
open(sys.argv[1] + "/cgroup.procs", "w").write("0")
m, n = mmap.mmap(f, 60 << 20, prot=mmap.PROT_READ), 0
print(flush=True)
while True: n += m[random.randrange(60 << 20)]
"""
GROUP_RECLAIM = ("vmscan/mm_vmscan_memcg_reclaim_begin", "vmscan/mm_vmscan_memcg_reclaim_end")


def test_reclaim_for_a_control_groups_limit(collector: Collector, proved: Proved,
                                            disk: Path) -> None:
    """As often as the kernel's own trace of the same events."""
    group = Path("/sys/fs/cgroup/ktopkernels")
    group.mkdir()
    (group / "memory.max").write_text(str(24 << 20))
    names, path = ("reclaim_group_enter", "reclaim_group_leave"), disk / "thrash"
    before = runs(collector, *names)
    try:
        with statistics(), traced(*GROUP_RECLAIM) as told, started(
                THRASH, str(group), str(path)) as p:
            collector.tick()
            for _ in range(30):
                time.sleep(1)
                waits = row(collector.tick(), p.pid).waits_pct or {}
                if stalled := waits.get("reclaim", 0) + waits.get("memory", 0) > 1:
                    break
            os.kill(p.pid, signal.SIGSTOP)  # it stops between two reclaims, not in one
            while Path(f"/proc/{p.pid}/stat").read_text().rpartition(") ")[2][0] != "T":
                time.sleep(0.05)
            after, truth = runs(collector, *names), told()
    finally:
        while (group / "cgroup.procs").read_text():
            time.sleep(0.05)
        group.rmdir()
        path.unlink(missing_ok=True)
    assert stalled, waits
    assert truth[0] > 10
    for name, there_were in zip(names, truth, strict=True):
        proved(name, after[name] - before[name], there_were)


RECLAIM = ("vmscan/mm_vmscan_direct_reclaim_begin", "vmscan/mm_vmscan_direct_reclaim_end")


def test_direct_reclaim_of_the_host(collector: Collector, proved: Proved, disk: Path) -> None:
    """As often as the kernel's own trace of the same events. /proc/vmstat counts its attempts.

    A file of 60 MB is read when 30 MB are free above the reserve. What is cached goes before that:
    else kswapd frees enough of it, and nobody has to.
    """
    reserve, drop = (Path(f"/proc/sys/vm/{n}") for n in ("min_free_kbytes", "drop_caches"))
    names, kept = ("reclaim_enter", "reclaim_leave"), reserve.read_text()
    before, big = runs(collector, *names), disk / "big"
    try:
        with statistics(), traced(*RECLAIM) as told:
            with big.open("wb") as f:
                for _ in range(60):
                    f.write(bytes(1 << 20))
            os.sync()
            for _ in range(20):
                drop.write_text("3")
                reserve.write_text(str(os.sysconf("SC_AVPHYS_PAGES") * 4 - 30_000))
                with big.open("rb") as f:
                    while f.read(1 << 20):
                        pass
                reserve.write_text(kept)
                if told()[0] >= 5:
                    break
            while len(set(told())) > 1:  # until who is in it has left it
                time.sleep(0.05)
            after, truth = runs(collector, *names), told()
    finally:
        reserve.write_text(kept)
        big.unlink(missing_ok=True)
    assert truth[0] >= 5
    for name, there_were in zip(names, truth, strict=True):
        proved(name, after[name] - before[name], there_were)


# -- executions ------------------------------------------------------------------------------------


def test_executions_and_exits(collector: Collector, proved: Proved) -> None:
    me = os.getpid()
    collector.tick()
    codes = [0, 1, 3, 127, 255]
    for code in codes:
        subprocess.run(["/bin/sh", "-c", f"exit {code}", f"mark {code}"], check=False)
    found = [e for e in collector.tick().processes.events if e.ppid == me]
    execs = [e for e in found if e.kind == "exec"]
    assert {e.filename for e in execs} == {"/bin/sh"}
    proved("process_exec", [e.args for e in execs],
           [f'/bin/sh -c "exit {c}" "mark {c}"' for c in codes])
    proved("process_exit", [e.code for e in found if e.kind == "exit"], codes)


def test_executions_that_fail(collector: Collector, proved: Proved) -> None:
    frame = collector.tick()
    before = frame.processes.execs_failed_total or 0
    libc = ctypes.CDLL(None, use_errno=True)
    argv = (ctypes.c_char_p * 3)(b"missing", b"an argument", None)
    for _ in range(7):
        libc.execve(b"/no/such/program", argv, None)
    for _ in range(4):
        libc.syscall(322, -100, b"/no/such/other", argv, None, 0)
    frame = collector.tick()
    mine = [e for e in frame.processes.events if e.kind == "exec_failed" and e.pid == os.getpid()]
    assert (frame.processes.execs_failed_total or 0) - before >= 11
    assert {e.error for e in mine} == {"ENOENT"}
    assert {e.args for e in mine} == {'missing "an argument"'}
    proved("exec_failed", sum(e.filename == "/no/such/program" for e in mine), 7)
    proved("execat_failed", sum(e.filename == "/no/such/other" for e in mine), 4)


# -- block -----------------------------------------------------------------------------------------


def reads(path: str, number: int) -> None:
    """Requests of 4 KiB past the page cache, one after the other, each of another place."""
    fd, page = os.open(path, os.O_RDONLY | os.O_DIRECT), mmap.mmap(-1, 4096)
    try:
        for i in range(number):
            os.preadv(fd, [page], i * 65536)
    finally:
        os.close(fd)
        page.close()


def user_reads(frame: Frame) -> int:
    assert frame.block is not None
    (mine,) = [u for u in frame.block.users if u.pid == os.getpid() and u.device is None]
    return count(frame, mine.reads_per_s)


@pytest.mark.parametrize("scheduler", ["none", "mq-deadline"])
def test_requests_with_their_owner_and_times(collector: Collector, proved: Proved, null_disk: str,
                                             scheduler: str) -> None:
    """A device that takes 5 ms for each; with a scheduler requests are queued, without issued."""
    Path(f"/sys/block/{null_disk}/queue/scheduler").write_text(scheduler)
    collector.tick()
    reads(f"/dev/{null_disk}", 40)
    frame = collector.tick()
    assert frame.block is not None
    (found,) = [d for d in frame.block.devices if d.name == null_disk]
    (op,) = [o for o in found.ops if o.op == "read"]
    assert count(frame, op.bytes_per_s) == 40 * 4096
    assert op.device is not None and op.total is not None and op.queue is not None
    assert op.device.sum_ns >= 40 * 5_000_000
    assert op.queue.sum_ns + op.device.sum_ns == pytest.approx(op.total.sum_ns, rel=0.001)
    proved("block_done", count(frame, op.per_s), 40)
    table = {p.name for p in frame.health.probes}
    owned, divided = user_reads(frame), hist.count(op.device)
    if "block_start" in table:      # 6.5 and later
        proved("block_start", owned, 40)
        proved("block_stamp", divided, 40)
    elif scheduler == "none":
        proved("block_issued", (owned, divided), (40, 40))
    else:
        proved("block_queued", (owned, divided), (40, 40))
