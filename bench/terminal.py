"""A program in a pty of 120x40, as a terminal would run it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import tempfile
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pyte

from bench.common import KTOP, tool, tree

COLUMNS, LINES = 120, 40
_BTOP = "update_ms=1000\nshow_battery=False\ncheck_temp=False\n"


class Screen(pyte.Screen):
    """pyte, forgiving of the private sequences that newer programs send."""

    def report_device_status(self, mode: int, **_: object) -> None: ...

    def report_device_attributes(self, mode: int = 0, **_: object) -> None: ...

    def select_graphic_rendition(self, *attrs: int, **_: object) -> None: ...


class Terminal:
    """Runs `argv` and reads what it draws. `written` counts the bytes, `recorded` keeps them."""

    def __init__(self, argv: list[str], home: str, record: bool = False) -> None:
        self.argv, self.written = argv, 0
        self.recorded: list[tuple[float, bytes]] = []
        self.display: list[str] = []
        self._record = record
        environ = {key: os.environ[key] for key in ("PATH", "LANG") if key in os.environ}
        environ |= {"TERM": "xterm-256color", "HOME": home, "XDG_CONFIG_HOME": home,
                    "LC_ALL": "C.UTF-8"}
        self.started = time.perf_counter()
        self.pid, self._fd = pty.fork()
        if not self.pid:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
            try:
                os.execvpe(argv[0], argv, environ)
            finally:
                os._exit(127)

    def read(self, timeout: float) -> bool:
        """Take what there is. False at the end of the program's output."""
        if not select.select([self._fd], [], [], timeout)[0]:
            return True
        try:
            data = os.read(self._fd, 1 << 16)
        except OSError:
            return False
        self.written += len(data)
        if self._record:
            self.recorded.append((time.perf_counter(), data))
        return bool(data)

    def run(self, seconds: float) -> bool:
        """Read for so long. False if the program ended."""
        until = time.perf_counter() + seconds
        while (left := until - time.perf_counter()) > 0:
            if not self.read(left):
                return False
        return True

    def seen(self, *wanted: Callable[[list[str]], bool]) -> list[float | None]:
        """Seconds from the start until the screen was first as wanted, each.

        From the recorded bytes, so that the emulator's own time is in no figure.
        """
        screen = Screen(COLUMNS, LINES)
        stream = pyte.ByteStream(screen)
        found: list[float | None] = [None] * len(wanted)
        for when, data in self.recorded:
            stream.feed(data)
            for i, test in enumerate(wanted):
                if found[i] is None and test(screen.display):
                    found[i] = when - self.started
        self.display = screen.display
        return found

    def pids(self) -> list[int]:
        """The program's processes."""
        return tree(self.pid)

    def close(self) -> None:
        """SIGTERM, and SIGKILL for what is still there after three seconds."""
        pids = self.pids()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)
        until = time.perf_counter() + 3
        while time.perf_counter() < until:
            self.read(0.02)
            if os.waitpid(self.pid, os.WNOHANG)[0]:
                break
        else:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._fd)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextlib.contextmanager
def home():
    """A home directory with nothing but btop's interval in it."""
    with tempfile.TemporaryDirectory(prefix="ktop-bench-") as name:
        Path(name, "btop").mkdir()
        Path(name, "btop/btop.conf").write_text(_BTOP, encoding="ascii")
        yield name


def command(name: str) -> list[str]:
    """ktop, htop and btop so that each refreshes once a second."""
    if name == "ktop":
        return [KTOP]
    if name == "htop":
        return [tool("htop"), "-d", "10"]
    return [tool("btop")]
