"""One process in full against the kernel itself: its states against a clock, /proc against us."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from operator import itemgetter
from pathlib import Path

import pytest

from ktop.collect.main import Collector
from ktop.model import Frame
from ktop.model_detail import UNLIMITED, Detail
from tests.livekit import busy_window, collecting, python, row
from tests.work import counted

pytestmark = pytest.mark.live
COLLECTING = collecting  # for the fixture `collector`
CPU = min(os.sched_getaffinity(0))

SPIN = "print(flush=True)\nwhile True: pass"
SLEEP = "import time\nprint(flush=True)\nwhile True: time.sleep(0.05)"
WRITE = """import os, sys
fd = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY, 0o600)
print(flush=True)
while True:
    os.pwrite(fd, b"x" * 4096, 0)
    os.fsync(fd)"""
LOCK = """import threading
held = threading.Lock()
held.acquire()
threads = [threading.Thread(target=held.acquire, daemon=True) for _ in range(3)]
for t in threads: t.start()
print(flush=True)
held.acquire()"""
CHURN = """import threading, time
def work():
    time.sleep(0.02)
    for _ in range(20000): pass
def shop():
    while True:
        t = threading.Thread(target=work)
        t.start()
        t.join()
shops = [threading.Thread(target=shop, daemon=True) for _ in range(3)]
for t in shops: t.start()
print(flush=True)
time.sleep(60)"""


def run(code: str, *args: str) -> subprocess.Popen[bytes]:
    """A child that has said that it is up."""
    p = python(code, *args)
    assert p.stdout is not None
    p.stdout.readline()
    return p


def end(p: subprocess.Popen[bytes]) -> None:
    p.kill()
    p.wait()
    for pipe in (p.stdin, p.stdout):
        if pipe is not None:
            pipe.close()


def states(frame: Frame, pid: int) -> dict[str, float]:
    """Mean number of threads by state."""
    process = row(frame, pid)
    assert process.off_cpu_pct is not None
    return {"cpu": (process.cpu_pct or 0) / 100, "runq": (process.runq_wait_pct or 0) / 100,
            **{name: pct / 100 for name, pct in process.off_cpu_pct.items()}}


def detail(frame: Frame) -> Detail:
    assert frame.detail is not None
    return frame.detail


@pytest.mark.parametrize(("code", "threads", "most"), [
    (SPIN, 1, ("cpu", "runq")), (SLEEP, 1, ("sleep", "runq")),
    (WRITE, 1, ("disk", "io", "cpu", "runq")), (LOCK, 4, ("lock",))],
    ids=["spins", "sleeps", "writes", "locks"])
def test_states_sum_to_wall_time(collector: Collector, tmp_path: Path, code: str, threads: int,
                                 most: tuple[str, ...]) -> None:
    p = run(code, str(tmp_path / "file"))
    try:
        collector.look_at(p.pid)
        collector.tick()
        time.sleep(0.2)
        # on a machine that is overloaded the collector itself may be held up between two reads
        frames = [busy_window(collector, 1.0)]
        for _ in range(2):
            if abs(sum(states(frames[-1], p.pid).values()) - threads) > 0.02 * threads:
                frames.append(busy_window(collector, 1.0))
        frame = frames[-1]
        found = states(frame, p.pid)
        sums = [sum(states(f, p.pid).values()) for f in frames]
        assert sums[-1] == pytest.approx(threads, rel=0.02), sums
        assert sums[0] == pytest.approx(threads, rel=0.1), sums
        assert sum(found.get(name, 0) for name in most) > 0.8 * threads, found
        rows = [t for t in frame.processes.threads if t.pid == p.pid]
        for thread in rows:  # and each thread by itself
            assert thread.off_cpu_pct is not None
            assert (thread.cpu_pct or 0) + (thread.runq_wait_pct or 0) + sum(
                thread.off_cpu_pct.values()) == pytest.approx(100, abs=2)
    finally:
        end(p)


def test_states_while_threads_come_and_go(collector: Collector) -> None:
    """Three shops, each with one short-lived thread at nearly any moment, and the main thread."""
    p = run(CHURN)
    try:
        collector.look_at(p.pid)
        collector.tick()
        time.sleep(0.2)
        before = created(p.pid)
        frame = busy_window(collector, 1.5)
        assert created(p.pid) - before > 40  # they did come and go
        # main + 3 shops + 3 workers, less the moments between one worker and the next
        total = sum(states(frame, p.pid).values())
        assert 6.7 < total < 7.1
    finally:
        end(p)


def created(pid: int) -> int:
    """A number that grows with every thread of any process: the newest of this one's."""
    return max(int(name) for name in os.listdir(f"/proc/{pid}/task"))


def test_limits_against_prlimit(collector: Collector) -> None:
    p = run(SLEEP)
    try:
        resource.prlimit(p.pid, resource.RLIMIT_NOFILE, (123, 456))
        collector.look_at(p.pid)
        found = {limit.name: limit for limit in detail(collector.tick()).limits}
        for name, which in (("open files", resource.RLIMIT_NOFILE),
                            ("stack size", resource.RLIMIT_STACK),
                            ("core file size", resource.RLIMIT_CORE),
                            ("processes", resource.RLIMIT_NPROC),
                            ("locked memory", resource.RLIMIT_MEMLOCK),
                            ("cpu time", resource.RLIMIT_CPU)):
            truth = tuple(UNLIMITED if n == resource.RLIM_INFINITY else n
                          for n in resource.prlimit(p.pid, which))
            assert (found[name].soft, found[name].hard) == truth
        assert found["open files"].used == len(os.listdir(f"/proc/{p.pid}/fd"))
        assert len(found) == resource.RLIM_NLIMITS if hasattr(resource, "RLIM_NLIMITS") else 16
    finally:
        end(p)


def test_descriptors_against_our_own(collector: Collector, tmp_path: Path) -> None:
    """Ourselves: what each descriptor is we know, as we opened it."""
    path = tmp_path / "a b\x1b[31m.txt"
    path.write_text("hello world")
    opened: list[int] = []
    with socket.socket() as server, socket.socket() as client:
        server.bind(("127.0.0.1", 0))
        server.listen()
        client.connect(server.getsockname())
        try:
            fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
            os.lseek(fd, 5, os.SEEK_SET)
            again, (reader, writer) = os.dup2(fd, 900), os.pipe()
            event, root = os.eventfd(7), os.open("/", os.O_RDONLY | os.O_DIRECTORY)
            opened = [fd, again, reader, writer, event, root]
            collector.look_at(os.getpid())
            for _ in range(40):  # in turns, as the budget allows
                found = detail(collector.tick())
                if all(d.flags for d in found.descriptors if d.fd in opened):
                    break
            by_fd = {d.fd: d for d in found.descriptors}
            for number in (fd, again):
                assert by_fd[number].kind == "file"
                assert by_fd[number].what.endswith("a b\\e[31m.txt")
                assert by_fd[number].position_bytes == 5
                assert "O_RDWR" in by_fd[number].flags and "O_APPEND" in by_fd[number].flags
            assert by_fd[reader].kind == "pipe" and by_fd[reader].inode == by_fd[writer].inode
            assert by_fd[reader].inode == os.fstat(reader).st_ino
            assert by_fd[event].kind == "eventfd" and by_fd[event].note == "7"
            assert by_fd[root].kind == "directory" and by_fd[root].what == "/"
            port, peer = server.getsockname()[1], client.getsockname()[1]
            assert by_fd[server.fileno()].what == f"tcp 127.0.0.1:{port} LISTEN"
            assert by_fd[client.fileno()].what == (
                f"tcp 127.0.0.1:{peer} -> 127.0.0.1:{port} ESTAB")
            os.close(again)
            opened.remove(again)
            os.unlink(path)
            found = detail(collector.tick())
            by_fd = {d.fd: d for d in found.descriptors}
            assert again not in by_fd and by_fd[fd].deleted
            # the look itself, and this one, take one or two
            assert abs((found.descriptors_total or 0) - len(os.listdir("/proc/self/fd"))) <= 2
        finally:
            for number in opened:
                os.close(number)


def test_identity_against_the_process_itself(collector: Collector, tmp_path: Path) -> None:
    evil = "x\x1b[31m\n[red]"
    p = subprocess.Popen([sys.executable, "-I", "-c", SLEEP, evil, ""], cwd=tmp_path,
                         stdout=subprocess.PIPE)
    os.setpriority(os.PRIO_PROCESS, p.pid, 3)
    try:
        assert p.stdout is not None
        p.stdout.readline()
        collector.look_at(p.pid)
        collector.tick()
        time.sleep(0.1)
        frame = collector.tick()
        found = detail(frame)
        assert found.start_boottime_ns == row(frame, p.pid).start_boottime_ns
        assert found.args[-2:] == ["x\\e[31m\\n[red]", ""] and found.args_cut == 0
        assert found.exe == os.readlink(f"/proc/{p.pid}/exe")
        assert (found.cwd, found.root) == (str(tmp_path), "/")
        assert found.credentials is not None and found.credentials.uids == [os.getuid()] * 4
        assert found.user_names.get(0) == "root"
        assert found.scheduling is not None
        assert (found.scheduling.policy, found.scheduling.nice) == ("SCHED_OTHER", 3)
        assert {n.kind: n.inode for n in found.namespaces}["net"] == os.stat(
            f"/proc/{p.pid}/ns/net").st_ino
        assert all(n.shared for n in found.namespaces)
        assert found.memory is not None and found.memory.rss_bytes
        rss = int(Path(f"/proc/{p.pid}/statm").read_text().split()[1]) * resource.getpagesize()
        assert found.memory.rss_bytes == pytest.approx(rss, rel=0.05)
        assert found.memory.pss_bytes and found.memory.pss_bytes <= found.memory.rss_bytes
        lines = Path(f"/proc/{p.pid}/cgroup").read_text().splitlines()
        assert [path for _, path in found.cgroups] == [x.split(":", 2)[2] for x in lines]
    finally:
        end(p)


def test_kernel_stacks_of_threads(collector: Collector) -> None:
    p = run(LOCK)
    try:
        collector.look_at(p.pid)
        found = detail(collector.tick())
        assert found.threads_total == len(found.threads) == 4
        if "stack" in found.reasons:  # no CONFIG_STACKTRACE, or forbidden: it says so
            return
        assert all(any("futex" in name for name in t.stack) for t in found.threads)
        if "syscall" not in found.reasons:
            assert {t.syscall for t in found.threads} == {"futex"}
        if "wchan" not in found.reasons and any(t.wchan for t in found.threads):
            assert all("futex" in (t.wchan or "") for t in found.threads)
    finally:
        end(p)


def test_how_it_ended(collector: Collector) -> None:
    for code, how in (("raise SystemExit(3)", (3, None)), (SLEEP, (None, "SIGKILL"))):
        p = python("import sys; print(flush=True); sys.stdin.read(1)\n" + code)
        assert p.stdout is not None and p.stdin is not None
        p.stdout.readline()
        collector.look_at(p.pid)
        assert detail(collector.tick()).ended is None
        p.stdin.close()
        time.sleep(0.1)
        if how[1]:
            p.send_signal(signal.SIGKILL)
        p.wait()
        found = detail(collector.tick())
        found = found if found.ended and found.ended.at_wall_ns else detail(collector.tick())
        assert found.ended is not None and (found.ended.code, found.ended.signal) == how
        assert found.ended.at_wall_ns and abs(found.ended.at_wall_ns - time.time_ns()) < 30e9
        assert found.args and found.exe  # what was known stays
        p.stdout.close()
    collector.look_at(0)
    assert collector.tick().detail is None


def test_a_zombie_keeps_what_it_was(collector: Collector) -> None:
    p = run(SLEEP)
    try:
        collector.look_at(p.pid)
        before = detail(collector.tick())
        p.kill()
        time.sleep(0.2)  # and nobody waits for it
        found = detail(collector.tick())
        assert found.state == "Z" and found.ended is not None
        assert (found.exe, found.args) == (before.exe, before.args) and found.exe
        assert found.limits and found.memory == before.memory and found.descriptors
    finally:
        end(p)


def test_nobody_of_that_number(collector: Collector) -> None:
    collector.look_at(4_194_303)
    found = detail(collector.tick())
    assert found.ended is not None and found.start_boottime_ns is None


def ticked(collector: Collector) -> tuple[Frame, int]:
    """A tick, and the lines of Python that it ran."""
    with counted() as work:
        frame = collector.tick()
    return frame, work.lines


def test_cost_of_a_big_one(collector: Collector) -> None:
    """1,000 descriptors and 500 threads: what the look adds to a tick, the first aside."""
    more = 1000 - len(os.listdir("/proc/self/fd"))
    held = [os.open("/dev/null", os.O_RDONLY) for _ in range(more)]
    stop = threading.Event()
    threads = [threading.Thread(target=stop.wait, daemon=True) for _ in range(500)]
    try:
        for t in threads:
            t.start()
        without = min(ticked(collector)[1] for _ in range(5))
        collector.look_at(os.getpid())
        collector.tick()
        frame, lines = min((ticked(collector) for _ in range(5)), key=itemgetter(1))
        found = detail(frame)
        assert found.threads_total and found.threads_total > 500
        assert found.descriptors_total and found.descriptors_total >= 990
        assert lines - without < 50_000
    finally:
        stop.set()
        for fd in held:
            os.close(fd)
        collector.look_at(0)
