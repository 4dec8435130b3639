"""Run a command in a pty of its own and read its screen with pyte.

Also a ktop with a fake collector, for tests of everything around the real one:
`python tests/ptyshell.py [--die] ...` (see `fake_main`). It is a test double and only that.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_S = 30.0
# A UI that starts without the interpreter's caches on a busy machine takes its time.


def environment(**changes: str | None) -> dict[str, str]:
    """A terminal's environment, the same on every machine."""
    keep = {name: os.environ[name] for name in ("PATH", "HOME", "XDG_CONFIG_HOME")
            if name in os.environ}
    merged: dict[str, str | None] = {
        **keep, "TERM": "xterm-256color", "LANG": "C.UTF-8",
        "PYTHONPATH": str(ROOT), **changes}
    return {name: value for name, value in merged.items() if value is not None}


class PtyShell:
    """A process on a terminal that we hold the other end of. It leads a session of its own.

    With `shell` it is the child of a process that leads the session, as under an interactive
    shell, so that job control works.
    """

    def __init__(self, command: Sequence[str], columns: int = 100, lines: int = 30,
                 env: dict[str, str] | None = None, stderr: Any = None,
                 background: bool = False) -> None:
        import pyte

        self.screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self.screen)
        self.output = b""
        self.master, self.slave = pty.openpty()
        self._size(columns, lines)
        self.before = termios.tcgetattr(self.slave)
        self.status: int | None = None
        self._reaper: int | None = None
        self.pid = self._spawn(list(command), env or environment(), stderr, background)

    def _spawn(self, command: list[str], env: dict[str, str], stderr: Any,
               background: bool) -> int:
        """Two forks: a session leader that does what a shell does, and the command in the fore."""
        told_r, told_w = os.pipe()
        leader = os.fork()
        if not leader:
            try:
                os.close(told_r)
                os.close(self.master)
                os.setsid()
                fcntl.ioctl(self.slave, termios.TIOCSCTTY, 0)
                _lead(command, env, self.slave, stderr, told_w, background)
            finally:
                os._exit(99)
        os.close(told_w)
        self._told = told_r
        self._leader = leader
        return int(self._line())

    def _line(self) -> str:
        data = b""
        while not data.endswith(b"\n"):
            byte = os.read(self._told, 1)
            if not byte:
                break
            data += byte
        return data.decode()

    def _size(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def resize(self, columns: int, lines: int) -> None:
        """Another window size; the kernel sends the SIGWINCH."""
        self._size(columns, lines)
        self.screen.resize(lines, columns)

    def read(self, wait_s: float = 0.05) -> bytes:
        """What it wrote meanwhile."""
        got = b""
        while self.master >= 0:
            ready, _, _ = select.select([self.master], [], [], wait_s)
            if not ready:
                break
            try:
                data = os.read(self.master, 65536)
            except OSError:
                break
            if not data:
                break
            got += data
            wait_s = 0
        self.output += got
        self._stream.feed(got)
        return got

    def settle(self, seconds: float = 0.4) -> None:
        """Read for a while: between keys that must not run together, or for a picture to come."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.read(left)

    def send(self, keys: str | bytes) -> None:
        """Press keys."""
        os.write(self.master, keys.encode() if isinstance(keys, str) else keys)

    @property
    def text(self) -> str:
        """The screen as lines of text."""
        return "\n".join(line.rstrip() for line in self.screen.display)

    def until(self, what: str | Callable[[], bool], timeout_s: float = TIMEOUT_S) -> None:
        """Wait until the screen shows it, or until it is true."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            self.read()
            if (what in self.text) if isinstance(what, str) else what():
                return
        raise AssertionError(f"never came: {what!r}; the screen:\n{self.text}\n"
                             f"the last bytes: {self.output[-300:]!r}")

    def wait(self, timeout_s: float = TIMEOUT_S) -> int:
        """Until the command has ended (its screen is read meanwhile): its exit status."""
        return self._event("exit", timeout_s)

    def wait_stopped(self, timeout_s: float = TIMEOUT_S) -> int:
        """Until the command has stopped: the signal that did it."""
        return self._event("stop", timeout_s)

    def _event(self, kind: str, timeout_s: float) -> int:
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            self.read(0.02)
            if select.select([self._told], [], [], 0)[0]:
                found, number = self._line().split()
                if found == "exit":
                    self.status = int(number)
                if found == kind:
                    self.read(0.1)
                    return int(number)
        raise AssertionError(f"no {kind} within {timeout_s} s; the screen:\n{self.text}")

    def foreground(self) -> None:
        """`fg`: the terminal is the command's again, and it goes on."""
        os.kill(self._leader, signal.SIGUSR1)

    def attributes(self) -> list[Any]:
        """The terminal's settings now."""
        return termios.tcgetattr(self.slave)

    def hang_up(self) -> None:
        """Close the terminal, as a lost connection does."""
        os.close(self.master)
        os.close(self.slave)
        self.master = self.slave = -1

    def close(self) -> None:
        """End what is still there."""
        if self.status is None:
            for pid in (self.pid, self._leader):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._leader, signal.SIGKILL)
        os.waitpid(self._leader, 0)
        for descriptor in (self.master, self.slave, self._told):
            if descriptor >= 0:
                os.close(descriptor)

    def __enter__(self) -> PtyShell:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _lead(command: list[str], env: dict[str, str], slave: int, stderr: Any, told: int,
          background: bool) -> None:
    """The part of a shell: the command in a foreground process group; tell what becomes of it."""
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    child = os.fork()
    if not child:
        os.setpgid(0, 0)
        if not background:
            os.tcsetpgrp(slave, os.getpid())
        for number in (signal.SIGTTOU, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        for target in (0, 1, 2):
            os.dup2(slave if target < 2 or stderr is None else stderr, target)
        os.chdir(ROOT)
        os.closerange(3, 256)
        os.execvpe(command[0], command, env)

    def foreground(*_: object) -> None:
        os.tcsetpgrp(slave, child)
        os.killpg(child, signal.SIGCONT)

    signal.signal(signal.SIGUSR1, foreground)
    with contextlib.suppress(OSError):
        os.setpgid(child, child)
    os.write(told, f"{child}\n".encode())
    for descriptor in (0, 1, 2):
        os.close(descriptor)
    while True:
        _, status = os.waitpid(child, os.WUNTRACED)
        if os.WIFSTOPPED(status):
            os.tcsetpgrp(slave, os.getpgrp())
            os.write(told, f"stop {os.WSTOPSIG(status)}\n".encode())
            continue
        # The terminal goes with its session's leader, so it stays until it is told to go.
        code = os.waitstatus_to_exitcode(status)
        os.write(told, f"exit {code}\n".encode())
        while True:
            signal.pause()


def children(pid: int) -> list[int]:
    """Direct children by /proc."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError, ValueError):
                text = Path(f"/proc/{entry}/stat").read_text()
                if int(text.rpartition(")")[2].split()[1]) == pid:
                    found.append(int(entry))
    return sorted(found)


def alive(pid: int) -> bool:
    """Does it run (a zombie does not)?"""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] not in "ZX"


def until(true: Callable[[], bool], what: str, timeout_s: float = TIMEOUT_S) -> None:
    """Wait for something that has no screen."""
    end = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end, f"never came: {what}"
        time.sleep(0.05)


# -- a ktop with a fake collector ------------------------------------------------------------------


def fake_collect(sock: Any, options: Any) -> int:
    """Serve synthetic frames. FAKE_* in the environment make it misbehave."""
    from ktop.wire import Control, Reader, encode_frame
    from tests.frames import make_frame

    processes = int(os.environ.get("FAKE_PROCESSES", "40"))
    dies_after = int(os.environ.get("FAKE_DIES_AFTER", "0"))
    mark = os.environ.get("FAKE_PIDS")
    if mark:
        with open(mark, "a", encoding="ascii") as file:
            file.write(f"{os.getpid()}\n")
    interval_s = options.interval_ns / 1e9
    reader = Reader()
    seq = 0
    while True:
        seq += 1
        if dies_after and seq > dies_after:
            print("fake: out of \x1b[31mluck\x1b[0m", file=sys.stderr, flush=True)
            return 3
        try:
            sock.sendall(encode_frame(make_frame(seq, processes)))
            end = time.monotonic() + interval_s
            while (left := end - time.monotonic()) > 0:
                if select.select([sock], [], [], left)[0]:
                    data = sock.recv(4096)
                    if not data:
                        return 0
                    for message in reader.feed(data):
                        if isinstance(message, Control) and message.interval_ns:
                            interval_s = message.interval_ns / 1e9
        except OSError:
            return 0


def broken_interface(session: Any) -> int:
    """A UI with a bug."""
    raise ValueError("a bug in the interface")


def fake_main() -> int:
    """`ktop` live, with the fake collector."""
    from ktop import cli, launch

    args = cli.build_parser().parse_args()
    interface = launch.interface_live
    if os.environ.get("FAKE_BROKEN_UI"):
        interface = broken_interface
    return launch.run(launch.Options(round(args.interval * 1e9), args.bpf, args.ascii, args.mouse),
                      fake_collect, interface)


FAKE = [sys.executable, "-m", "tests.ptyshell"]

if __name__ == "__main__":
    sys.exit(fake_main())
