"""Processes against known children: arguments, exit codes, CPU, blocked time, a fork storm."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time

import psutil
import pytest

from ktop.collect.main import Collector
from ktop.model import BLOCKED, ProcessEvent
from tests.livekit import busy_window, child, collecting, python, row, spin

pytestmark = pytest.mark.live
COLLECTING = collecting  # for the fixture `collector`
CPU = min(os.sched_getaffinity(0))


def events_of(collector: Collector, ppid: int) -> list[ProcessEvent]:
    return [e for e in collector.tick().processes.events if ppid in (e.ppid, e.pid)]


def test_children_with_known_arguments_and_exit_codes(collector: Collector) -> None:
    collector.tick()
    me = os.getpid()
    codes = [0, 1, 3, 127, 255]
    for code in codes:
        subprocess.run(["/bin/sh", "-c", f"exit {code}", f"mark {code}"], check=False)
    killed = subprocess.Popen(["/bin/sleep", "60"])
    killed.kill()
    killed.wait()
    with contextlib.suppress(FileNotFoundError):
        subprocess.run(["/no/such/program", "an argument"], check=False)
    found = events_of(collector, me)
    execs = [e for e in found if e.kind == "exec" and e.comm == "sh"]
    assert [e.args for e in execs] == [f'/bin/sh -c "exit {c}" "mark {c}"' for c in codes]
    assert all(e.filename == "/bin/sh" and e.ppid == me for e in execs)
    exits = [e for e in found if e.kind == "exit" and e.comm == "sh"]
    assert [e.code for e in exits] == codes
    assert all(e.lifetime_ns and 0 < e.lifetime_ns < 5e9 and e.cpu_ns != 0 for e in exits)
    assert [e.pid for e in execs] == [e.pid for e in exits]
    sleep = next(e for e in found if e.kind == "exit" and e.pid == killed.pid)
    assert sleep.signal == "SIGKILL" and sleep.code is None
    failed = [e for e in found if e.kind == "exec_failed" and e.comm == "program"]
    assert [(e.error, e.filename, e.args) for e in failed] == [
        ("ENOENT", "/no/such/program", '/no/such/program "an argument"')]
    assert abs(failed[0].time_ns - time.time_ns()) < 30e9


def test_long_command_lines_are_cut_and_say_so(collector: Collector) -> None:
    collector.tick()
    subprocess.run(["/bin/true", "x" * 10_000], check=False)
    event = next(e for e in events_of(collector, os.getpid()) if e.kind == "exec")
    assert event.args is not None and event.args.startswith("/bin/true xxx")
    assert event.args_cut == len("/bin/true") + 1 + 10_001 - 4096


def test_cpu_time_against_psutil(collector: Collector) -> None:
    with child(spin, CPU) as busy, child(lambda: time.sleep(0.05)) as lazy:
        time.sleep(0.2)
        collector.tick()
        before = {p: psutil.Process(p).cpu_times() for p in (busy, lazy)}
        time.sleep(2.0)
        frame = collector.tick()
        after = {p: psutil.Process(p).cpu_times() for p in (busy, lazy)}
        states = {row(frame, lazy).state, *(row(collector.tick(), lazy).state for _ in range(5))}
    seconds = (frame.clock.interval_ns or 0) / 1e9
    for pid in (busy, lazy):
        theirs = (after[pid].user + after[pid].system - before[pid].user - before[pid].system)
        ours = (row(frame, pid).cpu_pct or 0) * seconds / 100
        assert ours == pytest.approx(theirs, abs=0.06)  # psutil counts in 10 ms ticks
    assert row(frame, busy).state == "R" and "S" in states  # it works a moment, 20 times a second


def test_threads_fold_into_their_process(collector: Collector) -> None:
    code = ("import threading, time, sys\n"
            "def spin():\n"
            "    while True: pass\n"
            "for _ in range(3): threading.Thread(target=spin, daemon=True).start()\n"
            "print('up', flush=True); time.sleep(60)")
    p = python(code)
    try:
        assert p.stdout is not None
        p.stdout.readline()
        time.sleep(0.2)
        frame = busy_window(collector, 1.0)
        process = row(frame, p.pid)
        threads = [t for t in frame.processes.threads if t.pid == p.pid]
        assert process.threads == len(threads) == 4 == psutil.Process(p.pid).num_threads()
        assert sum(t.cpu_pct or 0 for t in threads) == pytest.approx(process.cpu_pct, abs=0.01)
        assert process.cpu_pct == pytest.approx(100, abs=25)  # one at a time: the GIL
    finally:
        p.kill()
        p.wait()


def test_states_of_a_process_sum_to_wall_time(collector: Collector) -> None:
    """On CPU, waiting and every kind of sleep: exclusive, and together the whole interval."""
    code = ("import os, time\n"
            "r, w = os.pipe()\n"
            "while True:\n"
            "    for _ in range(100000): pass\n"
            "    time.sleep(0.01)\n")
    p = python(code)
    try:
        with child(spin, CPU):
            os.sched_setaffinity(p.pid, {CPU})
            time.sleep(0.3)
            frame = busy_window(collector, 2.0)
        process = row(frame, p.pid)
        assert process.off_cpu_pct is not None
        total = (process.cpu_pct or 0) + (process.runq_wait_pct or 0) + sum(
            process.off_cpu_pct.values())
        assert total == pytest.approx(100, abs=2)
        assert process.off_cpu_pct.get("sleep", 0) > 5
    finally:
        p.kill()
        p.wait()


@pytest.mark.parametrize(("code", "reason", "kind"), [
    ("import os; r, w = os.pipe(); print(flush=True); os.read(r, 1)", "read", "io"),
    ("import threading; l = threading.Lock(); l.acquire(); print(flush=True); l.acquire()",
     "futex", "lock"),
    ("import socket; a, b = socket.socketpair(); print(flush=True); a.recv(1)",
     "recvfrom", "network"),
    ("import time; print(flush=True); time.sleep(60)", None, "sleep"),
])
def test_why_a_process_is_blocked(collector: Collector, code: str, reason: str | None,
                                  kind: str) -> None:
    p = python(code)
    try:
        assert p.stdout is not None
        p.stdout.readline()
        time.sleep(0.2)
        collector.tick()  # settles what it did at its start
        time.sleep(0.5)
        process = row(collector.tick(), p.pid)
        assert process.off_cpu_pct == {kind: pytest.approx(100, abs=1)}
        assert process.blocked_reason == reason
        assert process.blocked_pct == pytest.approx(100 if kind in BLOCKED else 0, abs=1)
    finally:
        p.kill()
        p.wait()


def test_disk_waits_and_bytes(collector: Collector) -> None:
    """Direct writes: blocked in iowait, bytes as /proc/PID/io counts them."""
    code = ("import mmap, os, sys\n"
            "fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_DIRECT)\n"
            "page = mmap.mmap(-1, 65536)\n"
            "print(flush=True)\n"
            "while True: os.pwrite(fd, page, 0)\n")
    with tempfile.TemporaryDirectory(dir=os.getcwd()) as directory:
        p = python(code, f"{directory}/file")
        try:
            assert p.stdout is not None
            p.stdout.readline()
            collector.tick()
            before = psutil.Process(p.pid).io_counters()
            time.sleep(1.5)
            frame = collector.tick()
            after = psutil.Process(p.pid).io_counters()
        finally:
            p.kill()
            p.wait()
    process = row(frame, p.pid)
    written = (process.write_bytes_per_s or 0) * (frame.clock.interval_ns or 0) / 1e9
    assert written == pytest.approx(after.write_bytes - before.write_bytes, rel=0.1)
    assert process.blocked_reason == "iowait"
    assert process.off_cpu_pct is not None and process.off_cpu_pct["disk"] > 20


def test_memory_faults_and_identity_against_psutil(collector: Collector) -> None:
    code = "b = bytearray(64 << 20); print(flush=True); import time; time.sleep(60)"
    p = python(code)
    try:
        assert p.stdout is not None
        p.stdout.readline()
        frame = busy_window(collector, 0.3)
        process, truth = row(frame, p.pid), psutil.Process(p.pid)
        assert process.rss_bytes == pytest.approx(truth.memory_info().rss, rel=0.05)
        assert process.rss_bytes is not None and process.rss_bytes > 64 << 20
        assert (process.ppid, process.uid) == (os.getpid(), os.geteuid())
        assert process.comm == truth.name()[:15]
        assert process.args is not None and process.args.startswith(sys.executable)
        age = frame.host.uptime_ns - process.start_boottime_ns
        assert age / 1e9 == pytest.approx(time.time() - truth.create_time(), abs=1.0)
    finally:
        p.kill()
        p.wait()


def test_context_switches_against_proc(collector: Collector) -> None:
    with child(lambda: time.sleep(0.002)) as pid:
        time.sleep(0.1)
        collector.tick()
        before = psutil.Process(pid).num_ctx_switches()
        time.sleep(1.0)
        frame = collector.tick()
        after = psutil.Process(pid).num_ctx_switches()
    seconds = (frame.clock.interval_ns or 0) / 1e9
    ours = (row(frame, pid).voluntary_per_s or 0) * seconds
    assert ours == pytest.approx(after.voluntary - before.voluntary, rel=0.1)


def test_every_process_is_in_the_table(collector: Collector) -> None:
    ours = {p.pid for p in collector.tick().processes.rows}
    theirs = set(psutil.pids())
    assert len(ours ^ theirs) <= 6  # what came and went between the two reads


def test_forks_per_process(collector: Collector) -> None:
    before = collector.tick()
    for _ in range(50):
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
    frame = collector.tick()
    seconds = (frame.clock.interval_ns or 0) / 1e9
    assert (row(frame, os.getpid()).forks_per_s or 0) * seconds == pytest.approx(50, rel=0.02)
    assert (frame.processes.forks_total or 0) - (before.processes.forks_total or 0) >= 50
    assert (frame.processes.forks_per_s or 0) * seconds >= 50 * 0.98


def test_fork_storm_is_counted_to_the_last(collector: Collector) -> None:
    """10,000 processes in seconds: folded counts and the loss counter add up to all of them."""
    storm = 10_000
    before = collector.tick()
    lost_before = before.health.lost_total
    code = (f"import os\nfor _ in range({storm}):\n    pid = os.fork()\n"
            "    if pid == 0: os._exit(7)\n    os.waitpid(pid, 0)\n")
    # Renamed, so that its fold is its own.
    p = python("import ctypes; ctypes.CDLL(None).prctl(15, b'ktop-storm', 0, 0, 0)\n" + code)
    exits = 0
    while p.poll() is None:
        time.sleep(0.2)
        collector.drain()
    last = collector.tick()
    for fold in last.processes.folds:
        if fold.parent_comm == "ktop-storm":
            exits += fold.exits
            assert fold.exits_bad == fold.exits and fold.last_error == "exit 7"
    lost = last.health.lost_total - lost_before
    assert exits + lost >= storm
    assert exits <= storm
    assert (last.processes.exits_total or 0) - (before.processes.exits_total or 0) >= storm
    assert (last.processes.forks_total or 0) - (before.processes.forks_total or 0) >= storm


def test_without_bpf_the_unknown_is_none() -> None:
    with collecting(bpf=False) as collector, child(spin, CPU) as pid:
        time.sleep(0.2)
        frame = busy_window(collector, 1.0)
    assert frame.health.source == "procfs" and frame.health.banner
    process = row(frame, pid)
    assert process.cpu_pct == pytest.approx(100, abs=30)
    assert process.blocked_pct is None and process.forks_per_s is None and process.runq is None
    assert frame.sched.runq is None and frame.sched.off_cpu is None
    assert frame.processes.execs_total is None
