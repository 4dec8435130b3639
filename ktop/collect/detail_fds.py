"""Descriptors of the process that is looked at: what each is, where in it, and how it was opened.

Links of new numbers are read at once, and of up to _LINKS known ones a tick; fdinfo and the socket
tables are dearer and are read in turns, as much as a tick's budget allows. No file is asked about
itself (stat): a file server that does not answer would stop the collector.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import sys
import time
from collections.abc import Iterator
from operator import attrgetter

from ktop.collect import proctext
from ktop.collect.files_events import open_flags
from ktop.model_detail import DESCRIPTORS_PER_FRAME, Descriptor
from ktop.text import clean

_CHUNK = 1 << 16
_LINKS = 300
_SOCKETS_AGAIN_NS = 5_000_000_000  # how soon the tables are read again for sockets not in them
_ANON = re.compile(r"anon_inode:\[?([^\]]*)\]?$")
_NOTES = ("eventfd-count", "clockid", "it_value", "tfd", "inotify wd", "Pid", "map_type",
          "prog_type", "link_type", "sigmask")
_O_DIRECTORY = 0o200000
# include/net/tcp_states.h, as ss(8) abbreviates them
_STATES = ("", "ESTAB", "SYN-SENT", "SYN-RECV", "FIN-WAIT-1", "FIN-WAIT-2", "TIME-WAIT", "UNCONN",
           "CLOSE-WAIT", "LAST-ACK", "LISTEN", "CLOSING", "NEW-SYN-RECV")
_UNIX_TYPES = {1: "stream", 2: "dgram", 5: "seqpacket"}
_PER_INET = ("tcp", "tcp6", "udp", "udp6", "raw", "raw6")


def read_at(directory: int, name: str, limit: int = _CHUNK) -> bytes:
    """The first `limit` bytes of a file below a /proc directory. Raises OSError."""
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        parts = []
        while limit > 0 and (data := os.read(fd, limit)):
            parts.append(data)
            limit -= len(data)
        return b"".join(parts)
    finally:
        os.close(fd)


def kind_of(target: bytes) -> tuple[str, str, int | None]:
    """(kind, what, inode) of a descriptor by where its link points."""
    text = clean(target)
    for kind in ("socket", "pipe"):
        if text.startswith(f"{kind}:["):
            inode = text[len(kind) + 2:-1]
            return kind, f"{kind} {inode}", proctext.number(inode)
    if found := _ANON.match(text):
        return found.group(1) or "anonymous", "", None
    if text.startswith("/memfd:"):
        return "memfd", text.removeprefix("/memfd:"), None
    if text.startswith(("/dev/pts/", "/dev/tty")):
        return "terminal", text, None
    if text.startswith("/dev/") and not text.startswith("/dev/shm/"):
        return "device", text, None
    return "file", text, None


def _address(text: str) -> str:
    """`0100007F:1F90` of /proc/net: 32-bit words in the machine's byte order, port in hex."""
    host, _, port = text.partition(":")
    words = [bytes.fromhex(host[at:at + 8]) for at in range(0, len(host), 8)]
    raw = b"".join(word[::-1] if sys.byteorder == "little" else word for word in words)
    if len(raw) == 16 and raw[:12] == b"\0" * 10 + b"\xff\xff":
        raw = raw[12:]
    ip = ipaddress.ip_address(raw)
    shown = "*" if not int(ip) else f"[{ip}]" if ip.version == 6 else str(ip)
    return f"{shown}:{int(port, 16) or '*'}"


def inet_line(kind: str, words: list[str]) -> tuple[int, str]:
    """(inode, address and peer) of a line of /proc/net/tcp and its likes. Raises ValueError."""
    local, remote, state = _address(words[1]), _address(words[2]), int(words[3], 16)
    text = f"{kind} {local}"
    if remote != "*:*":
        text += f" -> {remote}"
    if kind.startswith("tcp"):
        text += f" {_STATES[state] if state < len(_STATES) else state}"
    return int(words[9]), text


def unix_line(words: list[str]) -> tuple[int, str]:
    """The same of a line of /proc/net/unix. Raises ValueError."""
    kind = _UNIX_TYPES.get(int(words[4], 16), words[4])
    path = clean(words[7], 200) if len(words) > 7 else ""
    listening = " LISTEN" if int(words[3], 16) & 0x10000 else ""
    return int(words[6]), f"unix {kind}{' ' + path if path else ''}{listening}"


class Sockets:
    """Addresses by inode, from /proc/PID/net, read a piece at a time."""

    def __init__(self, directory: int) -> None:
        self._directory = directory
        self._wanted: set[int] = set()
        self._reading: Iterator[None] | None = None
        self._again_ns = 0
        self.known: dict[int, str] = {}

    def work(self, inodes: set[int], now: int, until_ns: int) -> None:
        """Go on reading until the thread's CPU clock says `until_ns`."""
        self.known = {inode: text for inode, text in self.known.items() if inode in inodes}
        self._wanted = inodes
        if not inodes:
            return
        if self._reading is None:
            if inodes <= self.known.keys() and now < self._again_ns:
                return
            if now < self._again_ns - _SOCKETS_AGAIN_NS + 1_000_000_000:
                return
            self._again_ns = now + _SOCKETS_AGAIN_NS
            self._reading = self._read()
        for _ in self._reading:
            if time.thread_time_ns() >= until_ns:
                return
        self._reading = None

    def _read(self) -> Iterator[None]:
        for name in (*_PER_INET, "unix"):
            with contextlib.suppress(OSError):
                yield from self._table(name)

    def _table(self, name: str) -> Iterator[None]:
        fd = os.open(f"net/{name}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._directory)
        try:
            rest = b""
            while data := os.read(fd, _CHUNK):
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._line(name, line)
                yield
        finally:
            os.close(fd)

    def _line(self, name: str, line: bytes) -> None:
        words = line.decode("utf-8", "backslashreplace").split(None, 7 if name == "unix" else -1)
        at = 6 if name == "unix" else 9
        if len(words) <= at or proctext.number(words[at]) not in self._wanted:
            return
        with contextlib.suppress(ValueError, IndexError):
            inode, text = unix_line(words) if name == "unix" else inet_line(name, words)
            self.known[inode] = text


class Descriptors:
    """The list, tick by tick. directory: an open /proc/PID."""

    def __init__(self, directory: int) -> None:
        self._directory = directory
        self._links: dict[int, bytes] = {}
        self._rows: dict[int, Descriptor] = {}
        self._read_at: dict[int, int] = {}  # when its fdinfo was read
        self._turn = 0  # whose link is read next, of those that are known
        self._sockets = Sockets(directory)
        self.total: int | None = None

    def update(self, now: int, budget_ns: int) -> list[Descriptor]:
        """All there are, by number, at most DESCRIPTORS_PER_FRAME. Raises OSError."""
        self._link(sorted(self._list())[:DESCRIPTORS_PER_FRAME])
        began = time.thread_time_ns()
        middle = began + budget_ns // 2
        due = sorted(self._rows, key=lambda fd: self._read_at.get(fd, 0))
        for fd in due:
            if time.thread_time_ns() >= middle:
                break
            self._info(fd)
            self._read_at[fd] = now
        self._name_sockets(now, began + budget_ns)
        return sorted(self._rows.values(), key=attrgetter("fd"))

    def _list(self) -> list[int]:
        fd = os.open("fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._directory)
        try:
            numbers = [int(name) for name in os.listdir(fd) if name.isdigit()]
        finally:
            os.close(fd)
        self.total = len(numbers)
        return numbers

    def _link(self, numbers: list[int]) -> None:
        """What they are: a number that is something else now is a new row."""
        there = set(numbers)
        for number in self._rows.keys() - there:
            self._forget(number)
        known = [number for number in numbers if number in self._rows]
        turn = self._turn % max(1, len(known))
        self._turn = turn + _LINKS
        again = (known[turn:] + known[:turn])[:_LINKS]
        fd = os.open("fd", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._directory)
        try:
            for number in (*again, *sorted(there - self._rows.keys())):
                try:
                    target = os.readlink(b"%d" % number, dir_fd=fd)
                except OSError:  # closed meanwhile
                    self._forget(number)
                    continue
                if target != self._links.get(number):
                    self._enter(number, target)
        finally:
            os.close(fd)

    def _forget(self, number: int) -> None:
        for table in (self._rows, self._links, self._read_at):
            table.pop(number, None)

    def _enter(self, number: int, target: bytes) -> None:
        self._forget(number)
        self._links[number] = target
        kind, what, inode = kind_of(target.removesuffix(b" (deleted)"))
        self._rows[number] = Descriptor(number, kind, what, inode=inode,
                                        deleted=target.endswith(b" (deleted)"))

    def _info(self, number: int) -> None:
        row = self._rows[number]
        try:
            raw = read_at(self._directory, f"fdinfo/{number}", 4096)
        except OSError:
            return
        notes: list[str] = []
        for line in raw.decode("ascii", "replace").splitlines():
            name, _, value = line.partition(":")
            if name == "pos" and row.kind in ("file", "directory", "device", "memfd"):
                row.position_bytes = int(value)
            elif name == "flags":
                flags = int(value, 8)
                row.flags = open_flags(flags)
                if flags & _O_DIRECTORY and row.kind == "file":
                    row.kind = "directory"
            elif name in _NOTES:
                notes.append(clean(" ".join(value.split()), 60))
        if row.kind == "eventpoll":
            row.note = f"{len(notes)} descriptors: " + " ".join(
                note.split()[0] for note in notes[:20])
        elif row.kind == "inotify":
            row.note = f"{len(notes)} watches"
        else:
            row.note = " ".join(notes)
        if not row.what and row.note:
            row.what = row.note

    def _name_sockets(self, now: int, until_ns: int) -> None:
        sockets = [row for row in self._rows.values() if row.kind == "socket"]
        self._sockets.work({row.inode for row in sockets if row.inode is not None}, now, until_ns)
        for row in sockets:
            if row.inode is not None:
                row.what = self._sockets.known.get(row.inode, f"socket {row.inode}")
