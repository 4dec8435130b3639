"""Insults to a ktop with its programs in the kernel: by another root, by its kind, by the host."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ktop.bpf import syscall
from ktop.bpf.engine import TEND_TURNS
from ktop.collect import host as host_mod
from ktop.collect.main import Collector
from ktop.model import Frame
from tests.livekit import child, collecting, left_of, programs_of, row, spin
from tests.ptyshell import PtyShell, alive, children, until
from tests.work import counted

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    """One for all tests here: each leaves it whole."""
    with collecting() as found:
        yield found


_LINK_DETACH = 34
_DISABLE = 0x2401  # PERF_EVENT_IOC_DISABLE
_PIDFD_GETFD = 438


def quiet(collector: Collector) -> Frame:
    """The news of the test before is over."""
    collector._health._tick += 10
    return after(collector)


def probe_fds(collector: Collector, name: str) -> list[int]:
    """The program of a probe, and what holds it attached."""
    assert collector._late is not None
    return next(e.loaded.probes[name] for e in collector._late.engines if name in e.loaded.probes)


def another_root(target: int, fd: int, code: str) -> subprocess.CompletedProcess[str]:
    """Another process takes a descriptor of ours (pidfd_getfd) as `fd` and does that with it."""
    script = ("import ctypes, fcntl, os\n"
              f"pidfd = os.pidfd_open({target})\n"
              f"fd = ctypes.CDLL(None).syscall({_PIDFD_GETFD}, pidfd, {fd}, 0)\n"
              f"assert fd > 0\n{code}")
    return subprocess.run(["/usr/bin/python3", "-c", script], capture_output=True, text=True,
                          check=False)


def switches(frame: Frame) -> float:
    assert frame.sched.switches_per_s is not None
    return frame.sched.switches_per_s


def after(collector: Collector, seconds: float = 0.3) -> Frame:
    time.sleep(seconds)
    return collector.tick()


def told(collector: Collector, name: str) -> Frame:
    """The frame whose banner first has that name: every link is asked within TEND_TURNS ticks, of
    a clock it takes two times."""
    for _ in range(2 * TEND_TURNS + 1):
        frame = after(collector, 0.1)
        if name in (frame.health.banner or ""):
            return frame
    raise AssertionError(f"nobody missed {name}: {frame.health.banner}")


def test_detached_by_another_root_is_attached_again_and_said(collector: Collector) -> None:
    """As a debugger does it: the descriptor of the link is replaced under the collector's feet."""
    assert quiet(collector).health.banner is None
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, probe_fds(collector, "sched_switch")[1])
    os.close(null)
    said = told(collector, "sched_switch")
    assert "attached again" in (said.health.banner or "")
    assert next(p for p in said.health.probes if p.name == "sched_switch").status == "live"
    with child(spin):
        assert switches(after(collector)) > 0  # it counts again
    collector._health._tick += 10
    assert after(collector).health.banner is None


@pytest.mark.parametrize("probe", ["tasks", "tcp_noted"])
def test_a_closed_link_is_noticed_before_it_is_read(collector: Collector, probe: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        quiet(collector)
        os.close(probe_fds(collector, probe)[1])
        frame = after(collector)
        assert probe in (frame.health.banner or "")
        assert any(p.pid == os.getpid() for p in frame.processes.rows)
        assert frame.tcp is not None and not frame.tcp.notes
        assert server.getsockname()[1] in [row.local_port for row in frame.tcp.listeners]


def test_a_sampling_clock_disabled_by_another_root(collector: Collector) -> None:
    quiet(collector)
    clock = probe_fds(collector, "runqlen")[1]
    done = another_root(os.getpid(), clock, f"fcntl.ioctl(fd, {_DISABLE}, 0)")
    if done.returncode:
        pytest.skip(f"this kernel does not lend descriptors: {done.stderr.splitlines()[-1]}")
    told(collector, "runqlen")
    ticks = collector.tick().cpus
    assert after(collector).cpus[0].runq_samples, ticks


def test_links_that_the_kernel_guards_cannot_be_detached_from_outside(collector: Collector) -> None:
    """`bpftool link detach`: refused for what we use; if a kernel allows it, it is noticed."""
    quiet(collector)
    for name in ("sched_switch", "tasks"):
        link = probe_fds(collector, name)[1]
        try:
            syscall.bpf(_LINK_DETACH, struct.pack("@I", link))
        except OSError:
            continue
        told(collector, name)
    assert after(collector).sched.switches_per_s


def test_nothing_is_taken_for_detached_on_a_quiet_or_a_busy_host(collector: Collector) -> None:
    quiet(collector)
    for wait in (0.0, 0.0, 0.3, 0.0, 0.0, 0.0, 0.0, 0.1, 0.0):
        assert after(collector, wait).health.banner is None
    with child(spin), child(spin):
        for _ in range(2 * TEND_TURNS + 1):
            assert after(collector, 0.05).health.banner is None


def test_tracefs_gone_is_said_and_back_is_used(collector: Collector) -> None:
    """An on-demand probe finds no tracefs: absent with its reason, live when it is there again."""
    quiet(collector)
    assert collector._late is not None
    engine = next(e for e in collector._late.engines if "exec_failed" in e.loaded.probes)
    collector.watch([])
    from ktop.bpf import attach as where

    real, where.TRACEFS = where.TRACEFS, "/nowhere"
    try:
        collector.watch(["processes"])
        frame = after(collector)
    finally:
        where.TRACEFS = real
    probe = next(p for p in frame.health.probes if p.name == "exec_failed")
    assert probe.status != "live" and "No such file" in (probe.reason or "")
    assert "exec_failed" in (frame.health.banner or "")
    collector.watch([])
    collector.watch(["processes"])
    frame = after(collector)
    assert engine.live("exec_failed") and frame.health.banner is None


class ShiftedClocks:
    """`time` with clocks that somebody has set: what CLOCK_REALTIME and CLOCK_BOOTTIME gained."""

    def __init__(self) -> None:
        self.wall_ns = self.boot_ns = 0

    def __getattr__(self, name: str) -> object:
        return getattr(time, name)

    def clock_gettime_ns(self, clock: int) -> int:
        shift = {time.CLOCK_REALTIME: self.wall_ns, time.CLOCK_BOOTTIME: self.boot_ns}
        return time.clock_gettime_ns(clock) + shift.get(clock, 0)


HOUR = 3_600_000_000_000


@pytest.mark.parametrize(("wall", "boot"), [(HOUR, 0), (-HOUR, 0), (HOUR, HOUR)],
                         ids=["forwards", "backwards", "suspend"])
def test_a_clock_that_steps_changes_no_rate(
        collector: Collector, monkeypatch: pytest.MonkeyPatch, wall: int, boot: int) -> None:
    """The tick's time is monotonic; the step is told as a gap, once."""
    clocks = ShiftedClocks()
    monkeypatch.setattr(host_mod, "time", clocks)
    with child(spin) as pid:
        after(collector)
        before = after(collector)
        clocks.wall_ns, clocks.boot_ns = wall, boot
        stepped, later = after(collector), after(collector)
        clocks.wall_ns = clocks.boot_ns = 0
        after(collector)
    assert stepped.clock.gap_ns == pytest.approx(wall, abs=60e9)
    assert later.clock.gap_ns == 0
    for frame in (stepped, later):
        interval = frame.clock.interval_ns
        assert interval is not None and 0 < interval < 60e9
        mine = row(frame, pid)
        assert mine.cpu_pct is not None and 0 <= mine.cpu_pct < 110
        assert mine.start_boottime_ns == row(before, pid).start_boottime_ns
        assert all(p.cpu_pct is None or p.cpu_pct < 150 * p.threads for p in frame.processes.rows)
    grown = stepped.host.uptime_ns - before.host.uptime_ns
    assert grown == pytest.approx(boot, abs=60e9)


def test_two_at_once_both_count_and_neither_takes_the_other_along(
        collector: Collector) -> None:
    def done(one: Frame, other: Frame) -> int:
        return (other.processes.execs_total or 0) - (one.processes.execs_total or 0)

    def execute(times: int) -> None:
        for _ in range(times):
            subprocess.run(["/bin/true"], check=True)

    quiet(collector)
    with collecting() as second:
        assert second._late is not None
        theirs = {syscall.prog_info(fds[0])["id"] for engine in second._late.engines
                  for fds in engine.loaded.probes.values()}
        outer, inner = collector.tick(), second.tick()
        execute(40)
        inside = done(inner, second.tick())
        assert 40 <= inside <= done(outer, collector.tick())
    assert left_of(theirs) == set()
    one = collector.tick()
    execute(20)
    other = collector.tick()
    assert done(one, other) >= 20 and other.health.banner is None


# As many as somebody wants to see side by side; ten of them take a minute.
TOGETHER = int(os.environ.get("KTOP_TOGETHER", "2"))


def test_many_whole_ktops_at_once_fight_for_nothing() -> None:
    """Each with its own programs, live and whole; nobody's are left behind."""
    command = [sys.executable, "-m", "ktop", "--interval", "2"]
    with contextlib.ExitStack() as stack:
        shells = [stack.enter_context(PtyShell(command, columns=120, lines=30))
                  for _ in range(TOGETHER)]
        held: list[set[int]] = []
        for shell in shells:
            shell.until("LIVE", timeout_s=60 + 30 * TOGETHER)
        for shell in shells:
            shell.until(lambda shell=shell: len(programs_of(shell.pid)) > 10,  # type: ignore[misc]
                        timeout_s=60 + 30 * TOGETHER)
            held.append(programs_of(shell.pid))
        for shell in shells:
            shell.settle(2.5 / TOGETHER)
            shell.until(lambda shell=shell: "LIVE" in shell.text)  # type: ignore[misc]
            assert "detached" not in shell.text and "missing" not in shell.text, shell.text
        everybody = set().union(*held)
        assert sum(map(len, held)) == len(everybody)  # nobody has another's
        for shell in shells:
            family = [shell.pid, *children(shell.pid)]
            shell.send("q")
            assert shell.wait() == 0
            until(lambda family=family: not any(map(alive, family)),  # type: ignore[misc]
                  "everybody gone")
    assert left_of(everybody) == set()


_STORM = """
import os, sys
for _ in range(int(sys.argv[1])):
    os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)
"""


def test_executions_as_fast_as_the_machine_can_add_up(collector: Collector) -> None:
    """Seen, left out of the frame and lost: together all that was done."""
    storm = 3_000
    quiet(collector)
    before = collector.tick()
    seen = cut = 0
    with subprocess.Popen([sys.executable, "-I", "-c", _STORM, str(storm)]) as p:
        over = False
        while not over:
            over = p.poll() is not None
            time.sleep(0.1)
            collector.drain()
            frame = collector.tick()
            seen += sum(e.kind == "exec" and e.ppid == p.pid for e in frame.processes.events)
            cut += frame.processes.events_cut
    lost = frame.health.lost_total - before.health.lost_total
    assert seen <= storm <= seen + cut + lost
    assert (frame.processes.execs_total or 0) - (before.processes.execs_total or 0) >= storm


_CROWD = """
import os, resource, socket, sys, threading
threads, pairs = int(sys.argv[1]), int(sys.argv[2])
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
each = max(1000, min(pairs, (hard - 200) // 2) // 1000 * 1000)  # of one process
made, tell = os.pipe()
for first in range(0, pairs, each):
    if os.fork():
        continue
    kept = []
    for n in range(first, min(pairs, first + each), 1000):
        server = socket.create_server((f"127.0.1.{n // 1000 + 1}", 0), backlog=1000)
        for _ in range(min(1000, pairs - n)):
            kept.append(socket.create_connection(server.getsockname()))
            kept.append(server.accept()[0])
    os.write(tell, b"%d\\n" % len(kept))
    sys.stdin.read()
    os._exit(0)
threading.stack_size(64 << 10)
stop = threading.Event()
for _ in range(threads):
    threading.Thread(target=stop.wait, daemon=True).start()
os.close(tell)
said = os.fdopen(made)
print(sum(int(said.readline()) for _ in range(0, pairs, each)), flush=True)
sys.stdin.read()
"""
CROWD = int(os.environ.get("KTOP_CROWD", "1000"))  # of 10,000: the whole insult


def test_a_crowd_of_threads_groups_and_connections_is_counted(collector: Collector) -> None:
    """KTOP_CROWD=10000 makes 10,000 threads, 5,000 control groups and 50,000 sockets."""
    cpu = Path("/sys/fs/cgroup/cpu")
    root = (cpu if (cpu / "cgroup.procs").exists() else Path("/sys/fs/cgroup")) / (
        f"ktop-e2-crowd-{os.getpid()}")
    quiet(collector)
    with subprocess.Popen([sys.executable, "-I", "-c", _CROWD, str(CROWD), str(CROWD * 5 // 2)],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as p:
        assert p.stdin is not None and p.stdout is not None
        groups = [root, *(root / f"g{n}" for n in range(CROWD // 2))]
        try:
            for group in groups:
                group.mkdir()
            sockets = int(p.stdout.readline())
            collector.tick()
            with counted() as work:
                frame = after(collector)
            assert row(frame, p.pid).threads == CROWD + 1
            assert frame.tcp is not None and (frame.tcp.connections_total or 0) >= sockets
            assert len(frame.tcp.connections) <= 1000
            assert (frame.health.collector_rss_bytes or 0) < 600 << 20
            assert work.lines < 500_000 + 1_000 * CROWD  # a thread, half a group, 5 sockets
        finally:
            p.stdin.close()
            for group in reversed(groups):
                if group.exists():
                    group.rmdir()
