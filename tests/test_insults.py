"""Insults to the processes of a ktop: killed, stopped, starved, cut off. Each ends as README says.

Collectors here are fake, or without BPF; those of tests/test_insults_live.py load programs.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from ktop.remote_wire import Unpacking
from ktop.wire import HEADER, Control, decode_body, encode_control
from tests.ptyshell import FAKE, ROOT, PtyShell, alive, children, environment, until

NO_BPF = [sys.executable, "-m", "ktop", "--no-bpf"]
FAST = ["--interval", "0.1"]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def pids_file(tmp_path: Path) -> Path:
    """Where fake collectors write their pids."""
    return tmp_path / "pids"


@pytest.fixture
def shell(pids_file: Path) -> Iterator[PtyShell]:
    """A ktop that shows frames of a fake collector."""
    with PtyShell([*FAKE, *FAST], columns=80, lines=24,
                  env=environment(FAKE_PIDS=str(pids_file))) as found:
        found.until("LIVE")
        yield found


def collectors(pids_file: Path) -> list[int]:
    return [int(line) for line in pids_file.read_text().split()]


def header(shell: PtyShell) -> str:
    return str(shell.screen.display[0])


def test_a_stopped_collector_is_not_shown_as_live(shell: PtyShell, pids_file: Path) -> None:
    first = collectors(pids_file)[0]
    os.kill(first, signal.SIGSTOP)
    shell.until("Silent: no sample for")
    assert "SILENT" in header(shell) and "LIVE" not in header(shell)
    assert "COMMAND" in shell.text  # the last picture stays
    os.kill(first, signal.SIGCONT)
    shell.until(lambda: "LIVE" in header(shell) and "Silent:" not in shell.text)
    shell.send("q")
    assert shell.wait() == 0


def test_a_stopped_collector_is_replaced(shell: PtyShell, pids_file: Path) -> None:
    first = collectors(pids_file)[0]
    os.kill(first, signal.SIGSTOP)
    shell.until("Silent:")
    shell.send("r")
    shell.until(lambda: "LIVE" in header(shell))
    until(lambda: not alive(first), "the stopped one is gone")
    assert len(collectors(pids_file)) == 2
    shell.send("q")
    assert shell.wait() == 0


def test_a_stopped_interface_costs_no_memory_and_shows_what_is_new() -> None:
    """Newest frame wins: the collector keeps one, whoever does not read for how long."""
    with PtyShell([*NO_BPF, *FAST], columns=120, lines=40) as shell:
        shell.until("LIVE")
        family = children(shell.pid)
        collector = next(p for p in family if os.getsid(p) == p)
        interface = next(p for p in family if p != collector)
        os.kill(interface, signal.SIGSTOP)
        shell.wait_stopped()
        process = psutil.Process(collector)
        # It sleeps once a sample: 60 are more than the socket's buffer takes, then it goes on.
        first = process.num_ctx_switches().voluntary
        until(lambda: process.num_ctx_switches().voluntary > first + 60, "it goes on")
        before = process.memory_info().rss
        until(lambda: process.num_ctx_switches().voluntary > first + 90, "it goes on and on")
        assert process.memory_info().rss < before + (4 << 20)
        shell.foreground()
        shell.until(lambda: re.search("gap of .*: no samples|samples not sent", shell.text))
        shell.until(lambda: "LIVE" in header(shell))
        shell.send("q")
        assert shell.wait() == 0


@contextlib.contextmanager
def cpu_group(name: str) -> Iterator[Path]:
    """A control group of the cpu controller, v1 or v2; skipped where there is none to be had."""
    v1, v2 = Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup")
    if (v1 / "cpu.cfs_quota_us").exists() or (v1 / "cgroup.procs").exists():
        group = v1 / name
    elif "cpu" in (v2 / "cgroup.subtree_control").read_text().split():
        group = v2 / name
    else:
        pytest.skip("no cpu controller for us")
    group.mkdir()
    try:
        yield group
    finally:
        root = group.parent / "cgroup.procs"
        for pid in (group / "cgroup.procs").read_text().split():
            with contextlib.suppress(OSError):
                root.write_text(pid)
        group.rmdir()


def throttle(group: Path, percent: int) -> None:
    """So much of one CPU; 0: no limit."""
    v1 = group / "cpu.cfs_quota_us"
    if not v1.exists() and not (group / "cpu.max").exists():
        pytest.skip("no CPU quota on this kernel")
    if v1.exists():
        v1.write_text(str(percent * 1000 or -1))
    else:
        (group / "cpu.max").write_text(f"{percent * 1000 or 'max'} 100000")


@needs_root
def test_a_starved_collector_is_late_and_says_so() -> None:
    """A few percent of a CPU: samples come late, say how late, and rates hold for the time."""
    name = f"ktop-e2-starved-{os.getpid()}"
    with cpu_group(name) as group, PtyShell([*NO_BPF, *FAST], columns=120, lines=40) as shell:
        shell.until("LIVE")
        collector = next(p for p in children(shell.pid) if os.getsid(p) == p)
        (group / "cgroup.procs").write_text(str(collector))
        throttle(group, 1)
        shell.until(lambda: "SILENT" in header(shell) or "samples come every" in shell.text)
        throttle(group, 0)
        shell.until(lambda: "LIVE" in header(shell) and "samples come every" not in shell.text)
        shell.send("q")
        assert shell.wait() == 0


@needs_root
@pytest.mark.parametrize("signalled", [False, True])
def test_a_terminal_that_is_gone_leaves_nobody(signalled: bool) -> None:
    with PtyShell([*NO_BPF, *FAST]) as shell:
        shell.until("LIVE")
        family = [shell.pid, *children(shell.pid)]
        shell.hang_up()
        if signalled:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGHUP)
        until(lambda: not any(map(alive, family)), "everybody gone")


@needs_root
def test_an_interface_out_of_memory_gives_the_terminal_back() -> None:
    """The OOM killer takes the interface of a control group that is too small for it."""
    memory = Path("/sys/fs/cgroup/memory")
    if not (memory / "memory.limit_in_bytes").exists():
        pytest.skip("no memory controller of cgroup v1 here")
    group = memory / f"ktop-e2-small-{os.getpid()}"
    group.mkdir()
    try:
        with PtyShell([*FAKE, *FAST], env=environment(FAKE_PROCESSES="400")) as shell:
            shell.until("LIVE")
            family = [shell.pid, *children(shell.pid)]
            collector = next(p for p in family[1:] if os.getsid(p) == p)
            interface = next(p for p in family[1:] if p != collector)
            # what it has so far is charged elsewhere: the limit is on what it takes from now on
            (group / "cgroup.procs").write_text(str(interface))
            (group / "memory.limit_in_bytes").write_text(str(4 << 20))
            with contextlib.suppress(OSError):
                (group / "memory.memsw.limit_in_bytes").write_text(str(4 << 20))
            shell.until(lambda: not alive(interface), timeout_s=60)
            assert shell.wait() == 128 + signal.SIGKILL
            assert "SIGKILL; the terminal is restored" in shell.text.replace("\n", " ")
            assert shell.attributes() == shell.before
            until(lambda: not any(map(alive, family)), "everybody gone")
    finally:
        until(lambda: not (group / "cgroup.procs").read_text().split(), "an empty group")
        group.rmdir()


@needs_root
def test_a_disk_that_fills_while_recording_from_the_screen(tmp_path: Path) -> None:
    """R on a small tmpfs of a mount namespace of its own: it ends, says so, and opens."""
    if subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("no mount namespaces here")
    # the mount goes with its namespace
    script = (f"mount -t tmpfs -o size=1200k ktop-e2 '{tmp_path}' && cd '{tmp_path}' && "
              f"exec '{sys.executable}' -m tests.ptyshell --interval 0.1")
    with PtyShell(["unshare", "-m", "sh", "-c", script], columns=120, lines=30,
                  env=environment(FAKE_PROCESSES="300")) as shell:
        shell.until("LIVE")
        shell.send("R")
        shell.until("REC")
        shell.until("recording ended:", timeout_s=60)
        assert "no space left" in shell.text
        shell.until(lambda: "REC" not in header(shell))
        assert "LIVE" in header(shell)  # the screen goes on
        shell.send("q")
        assert shell.wait() == 0


@needs_root
def test_two_kilobytes_a_second() -> None:
    """The collector behind a link of 2 KB/s: what comes is new, what was left out is counted."""
    relay = [sys.executable, "-c", _LINK, sys.executable, "-m", "ktop", "collect", "--no-bpf",
             "--packed", "--interval", "0.2"]
    began = time.monotonic()
    with (subprocess.Popen([sys.executable, "-c", _CHURN]) as churn,
          subprocess.Popen(relay, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                           cwd=ROOT) as link):
        assert link.stdin is not None and link.stdout is not None
        unpacking = Unpacking(b"")
        frames = []
        try:
            while len(frames) < 4 or not frames[-1].health.skipped_frames:
                data = os.read(link.stdout.fileno(), 4096)
                assert data, "the link ended"
                unpacking.feed(data)
                while (came := unpacking.next()) is not None:
                    if came.frame:
                        frames.append(decode_body(came.data[HEADER.size:]))
                        link.stdin.write(encode_control(Control(got=len(frames))))
                        link.stdin.flush()
                assert time.monotonic() - began < 120
        finally:
            churn.kill()
            link.stdin.close()
            link.stdout.close()
    ages = [f.clock.monotonic_ns for f in frames]
    assert ages == sorted(ages)
    assert re.search(r"\d", str(frames[-1].health.skipped_frames))


SLOW_BYTES_PER_S = 2048
# What the kernel keeps of a terminal's output, both ways, and what one picture and its successor
# of 80x24 take at most: so much may have to pass before a key's answer.
BEHIND_BYTES = 16384 + 2 * 12000


def read_slowly(shell: PtyShell, done: Callable[[], bool], most: int, rate: int) -> int:
    """Read that many bytes at most at that rate until it is done: how many it took."""
    taken, began = 0, time.monotonic()
    while not done():
        assert taken < most, f"{taken} bytes later:\n{shell.text}"
        if select.select([shell.master], [], [], 0.05)[0]:
            data = os.read(shell.master, 100)
            shell._stream.feed(data)
            taken += len(data)
        time.sleep(max(0.0, taken / rate - (time.monotonic() - began)))
    return taken


def test_a_screen_behind_two_kilobytes_a_second_skips_samples_and_answers_keys() -> None:
    """Ten samples a second have more to draw than that: the newest wins, nothing queues up."""
    with PtyShell([*FAKE, *FAST], columns=80, lines=24,
                  env=environment(FAKE_PROCESSES="300")) as shell:
        shell.until("LIVE")
        read_slowly(shell, lambda: "link slow" in shell.text, 1 << 16, SLOW_BYTES_PER_S)
        shell.send("5")
        read_slowly(shell, lambda: "Run queue latency" in shell.text, BEHIND_BYTES,
                    2 * SLOW_BYTES_PER_S)
        shell.send("q")
        assert shell.wait() == 0


# A host at rest says less than 2 KB/s: processes that come and go have more to tell.
_CHURN = """
import os, time
while True:
    if (pid := os.fork()) == 0:
        time.sleep(1)
        os._exit(0)
    time.sleep(0.01)
    while os.waitpid(-1, os.WNOHANG)[0]:
        pass
"""
_LINK = """
import os, subprocess, sys, threading, time
child = subprocess.Popen(sys.argv[1:], stdin=0, stdout=subprocess.PIPE, bufsize=0)
while data := os.read(child.stdout.fileno(), 512):
    time.sleep(len(data) / 2048)
    os.write(1, data)
"""
