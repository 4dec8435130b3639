"""From "something is slow" to the culprit by keys alone, on this kernel, in a pty.

Each test plants a culprit, starts ktop, presses a script of keys, and reads the name of the culprit
on the screen of the one process that the keys have reached.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import pytest

from tests.ptyshell import PtyShell
from tests.tcpkit import SERVE, namespaces, run

pytestmark = pytest.mark.live
KTOP = [sys.executable, "-m", "ktop"]
NAME = "import ctypes; ctypes.CDLL(None).prctl(15, {!r}, 0, 0, 0)\n"
STORM = """
import subprocess
while True:
    subprocess.run(["/bin/true"])
"""
WRITER = """
import os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)
while True:
    os.pwrite(fd, bytes(4096), 0)
    os.fdatasync(fd)
"""
CLIENT = """
import socket, time
c = socket.create_connection(("10.77.0.2", 7000))
while True:
    c.sendall(bytes(20000))
    time.sleep(0.01)
"""


@contextlib.contextmanager
def planted(code: str, name: str, *args: str, netns: str = "") -> Iterator[int]:
    """A process of this name that does this; its pid. It is ended by pid."""
    command = [sys.executable, "-I", "-c", NAME.format(name.encode()) + code, *args]
    if netns:
        command = ["ip", "netns", "exec", netns, *command]  # execs: the pid is the program's
    p = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                         start_new_session=True)
    try:
        yield p.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(p.pid, signal.SIGKILL)
        p.wait()


@contextlib.contextmanager
def ktop(columns: int = 120, lines: int = 40) -> Iterator[PtyShell]:
    with PtyShell([*KTOP], columns=columns, lines=lines) as shell:
        shell.until("LIVE")
        yield shell
        shell.send("\x1b")  # what is open above the panes
        shell.settle(1)
        shell.send("q")
        assert shell.wait() == 0


def press(shell: PtyShell, *keys: str) -> None:
    names = {"Enter": "\r", "Down": "\x1b[B", "Escape": "\x1b"}
    for key in keys:
        shell.send(names.get(key, key))
        shell.settle(0.5)


def listed(shell: PtyShell, name: str) -> bool:
    """A row of a table names it: the line of pipes may have done so before."""
    return any(name in line and line[1:9].strip()[:1].isdigit()
               for line in shell.text.splitlines()[4:])


def reached(shell: PtyShell, name: str, pid: int) -> bool:
    """The screen of one process is open, and it is this one."""
    first = shell.text.splitlines()[0].split()
    return first[:2] == [name, str(pid)]


@pytest.mark.parametrize("size", [(120, 40), (80, 24)])
def test_a_fork_storm(size: tuple[int, int]) -> None:
    with planted(STORM, "kt-storm") as pid, ktop(*size) as shell:
        press(shell, "e", "o")
        shell.until(lambda: any(line.strip().startswith("kt-storm")  # a fold of it
                                for line in shell.text.splitlines()[4:]))
        press(shell, "Down", "Enter")
        shell.until(lambda: reached(shell, "kt-storm", pid))


def test_a_fork_storm_by_filter() -> None:
    with planted(STORM, "kt-storm") as pid, ktop() as shell:
        shell.until(lambda: listed(shell, "kt-storm"))
        press(shell, "/", "fork > 20\r", "Down", "Enter")
        shell.until(lambda: reached(shell, "kt-storm", pid))


def test_a_writer_that_syncs_all_the_time() -> None:
    with tempfile.TemporaryDirectory(dir=".") as directory, \
            planted(WRITER, "kt-sync", f"{directory}/log") as pid, ktop() as shell:
        press(shell, "2", "v")
        shell.until(lambda: listed(shell, "kt-sync"))
        press(shell, "/", "fsync > 20\r", "Down", "Enter")
        shell.until(lambda: reached(shell, "kt-sync", pid))


def test_a_connection_that_retransmits() -> None:
    with namespaces("ktdrill") as (a, b):
        run(f"ip netns exec {b} iptables -A INPUT -p tcp --dport 7000 "
            "-m statistic --mode random --probability 0.2 -j DROP")
        with planted(SERVE, "kt-sink", netns=b), ktop() as shell:
            shell.settle(1)
            with planted(CLIENT, "kt-lossy", netns=a) as pid:
                press(shell, "3")
                shell.until(lambda: listed(shell, "kt-lossy"))
                press(shell, "/", "retrans_per_s > 0.5\r", "Down", "Enter")
                shell.until(lambda: reached(shell, "kt-lossy", pid))


def test_the_scope_of_a_culprit_and_the_way_back() -> None:
    with planted(STORM, "kt-storm") as pid, ktop() as shell:
        shell.until("kt-storm")
        press(shell, "/", "kt-storm\r", "Down", "p")
        shell.until(f"host > {pid} kt-storm")
        for key in "2345":
            press(shell, key)
            assert f"host > {pid} kt-storm" in shell.text
        press(shell, "\x7f")
        shell.until(lambda: "host >" not in shell.text)
