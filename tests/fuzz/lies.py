"""A /proc and a /sys that vanish, break off or lie, for whatever this process opens below them."""

from __future__ import annotations

import builtins
import os
import re
import signal
from collections.abc import Callable
from typing import Any

import pytest

LYING = ("/proc/", "/sys/")
# What opens files of its own to know itself, and is no reader of ours.
SPARED = ("/proc/self/fd", "/proc/self/maps")
_MOST = 1 << 18

Lie = Callable[[bytes], bytes]


def _words(text: bytes, word: bytes) -> bytes:
    """Every number is that word."""
    return re.sub(rb"\d+", word, text)


LIES: dict[str, Lie] = {
    "empty": lambda text: b"",
    "cut off": lambda text: text[:len(text) * 2 // 3].rstrip(),
    "one byte": lambda text: text[:1],
    "blank lines": lambda text: b"\n \n" + text.replace(b"\n", b"\n\n\t\n"),
    "first words": lambda text: b"\n".join((line.split() or [b""])[0]
                                           for line in text.split(b"\n")),
    "last words": lambda text: b"\n".join((line.split() or [b""])[-1]
                                          for line in text.split(b"\n")),
    "no UTF-8": lambda text: b"\xff\xfe" + _words(text, b"\xff"),
    "no numbers": lambda text: _words(text, b"many"),
    "odd digits": lambda text: _words(text, "²".encode()),
    "negative": lambda text: _words(text, b"-1"),
    "endless": lambda text: (text * (_MOST // max(1, len(text)) + 1))[:_MOST],
    "NUL": lambda text: bytes(len(text))}
ERRORS = ("vanished", "forbidden", "dead", "broken")
HOWS = (*LIES, *ERRORS)


def _dead() -> int:
    """A file of a process that has ended meanwhile: reading it says ESRCH."""
    pid = os.fork()
    if pid == 0:
        signal.pause()
    fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return fd


class Liar:
    """open, os.open, readlink, listdir and stat with a kernel behind them that lies."""

    def __init__(self, how: str) -> None:
        self.how = how
        self.told = 0  # how many times
        self._open, self._os_open, self._readlink = builtins.open, os.open, os.readlink
        self._listdir, self._stat = os.listdir, os.stat
        self._dead = _dead() if how == "dead" else -1

    def close(self) -> None:
        if self._dead >= 0:
            os.close(self._dead)

    def put(self, patch: pytest.MonkeyPatch) -> None:
        """From now on, until the patch is undone."""
        patch.setattr(builtins, "open", self.open)
        patch.setattr(os, "open", self.os_open)
        patch.setattr(os, "readlink", self.readlink)
        patch.setattr(os, "listdir", self.listdir)
        patch.setattr(os, "stat", self.stat)

    def _where(self, path: Any, dir_fd: int | None = None) -> str | None:
        """The full path, if it is one to lie about."""
        if isinstance(path, int):
            return None
        name = os.fsdecode(path)
        if dir_fd is not None and not name.startswith("/"):
            name = self._readlink(f"/proc/self/fd/{dir_fd}") + "/" + name
        return name if name.startswith(LYING) and not name.startswith(SPARED) else None

    def _refuse(self, name: str) -> None:
        self.told += 1
        if self.how == "vanished":
            raise FileNotFoundError(2, "No such file or directory", name)
        if self.how == "forbidden":
            raise PermissionError(13, "Permission denied", name)

    def _lie(self, name: str) -> int:
        """A descriptor to read the lie from. Raises what opening the file raises."""
        self._refuse(name)
        if self.how == "dead":
            return os.dup(self._dead)
        if self.how == "broken":
            return self._os_open("/proc/self/mem", os.O_RDONLY | os.O_CLOEXEC)  # EIO at 0
        with self._open(name, "rb") as f:
            text = f.read(_MOST)
        fd = os.memfd_create("lie", os.MFD_CLOEXEC)
        os.write(fd, LIES[self.how](text))
        os.lseek(fd, 0, os.SEEK_SET)
        return fd

    def open(self, file: Any, mode: str = "r", *args: Any, **more: Any) -> Any:
        name = self._where(file)
        return self._open(file if name is None else self._lie(name), mode, *args, **more)

    def os_open(self, path: Any, flags: int, mode: int = 0o777, *,
                dir_fd: int | None = None) -> int:
        name = self._where(path, dir_fd)
        if name is None:
            return self._os_open(path, flags, mode, dir_fd=dir_fd)
        if flags & os.O_DIRECTORY:
            self._refuse(name)
            return self._os_open(path, flags, mode, dir_fd=dir_fd)
        return self._lie(name)

    def readlink(self, path: Any, *, dir_fd: int | None = None) -> Any:
        name = self._where(path, dir_fd)
        if name is not None:
            self._refuse(name)
            if self.how in LIES:
                said = LIES[self.how](os.fsencode(self._readlink(path, dir_fd=dir_fd)))[:4095]
                return said if isinstance(path, bytes) else os.fsdecode(said)
        return self._readlink(path, dir_fd=dir_fd)

    def listdir(self, path: Any = ".") -> Any:
        name = self._where(path)
        if name is not None:
            self._refuse(name)
            if self.how == "empty":
                return []
        found = self._listdir(path)
        if name is not None and self.how == "endless":  # of processes that are not there (any more)
            found = [*found, *(str(4_000_000 + n) for n in range(500))]
        return found

    def stat(self, path: Any, *args: Any, dir_fd: int | None = None, **more: Any) -> Any:
        name = self._where(path, dir_fd)
        if name is not None:
            self._refuse(name)
        return self._stat(path, *args, dir_fd=dir_fd, **more)
