"""The symbols child: turns addresses into names of functions.

Run by the system's python3: `symbols.py FD`. FD is a SOCK_SEQPACKET socket; each request is
`{"id", "pid", "addrs": [...]}` (pid 0: the kernel's), each answer `{"id", "names": [...], "note"}`.

User symbols are libbcc's work, by ctypes alone: ELF symbol tables, separate debug files by build-id
and debug link, /tmp/perf-PID.map of JITs and the vdso, all seen through /proc/PID/root. It reads
what the watched processes wrote, so it is a process of its own, with bounded memory, that may
crash, hang and be killed without harm. What it takes dies with it.
"""

from __future__ import annotations

import bisect
import contextlib
import ctypes as ct
import json
import os
import resource
import socket
import sys
from array import array
from collections import OrderedDict
from typing import Any

MAX_MEMORY = 2 << 30
CACHES = 24            # processes whose symbol tables are kept
NAME_BYTES = 400
UNKNOWN = "[unknown]"
LONGEST = 1 << 17      # bytes of a kernel function: beyond, an address is of code without a name
_TEXT_TYPES = frozenset((b"t", b"T", b"w", b"W"))


class _Symbol(ct.Structure):
    """struct bcc_symbol."""

    _fields_ = (("name", ct.c_char_p), ("demangle_name", ct.c_char_p), ("module", ct.c_char_p),
                ("offset", ct.c_uint64))


class _Option(ct.Structure):
    """struct bcc_symbol_option."""

    _fields_ = (("use_debug_file", ct.c_int), ("check_debug_file_crc", ct.c_int),
                ("lazy_symbolize", ct.c_int), ("use_symbol_type", ct.c_uint32))


# ELF symbol types: functions, and GNU's indirect ones.
_OPTION = _Option(1, 1, 1, (1 << 2) | (1 << 10))


def text(raw: bytes | None) -> str:
    """A name as it may cross the border: bounded, and always decodable (cleaned over there)."""
    return (raw or b"")[:NAME_BYTES].decode("utf-8", "backslashreplace")


def module_of(path: str) -> str:
    """`[libc.so.6]` of a mapping's path; JITs and anonymous memory have no module."""
    name = path.rpartition("/")[2].removesuffix(" (deleted)")
    if not name or name.startswith(("[anon", "anon_inode:", "perf-", "[heap]", "[stack")):
        return UNKNOWN
    return name if name.startswith("[") else f"[{name}]"


class Kernel:
    """/proc/kallsyms, read when first needed, and kept small: 200,000 names in 10 MB."""

    def __init__(self, path: str = "/proc/kallsyms") -> None:
        self._path = path
        self._starts: array[int] | None = None
        self._lines = array("L")    # where a symbol's line begins in the text
        self._text = bytearray()    # `T vfs_read`, `t ext4_bread [ext4]`
        self.note = ""

    def _read(self) -> array[int]:
        starts, hidden = array("Q"), True
        try:
            with open(self._path, "rb") as f:
                for line in f:
                    at, _, rest = line.rstrip().partition(b" ")
                    if rest[:1] in _TEXT_TYPES:
                        starts.append(int(at, 16))
                        hidden = hidden and not starts[-1]
                        self._lines.append(len(self._text))
                        self._text += rest.replace(b"\t", b" ") + b"\n"
        except (OSError, ValueError) as err:
            self.note = f"no kernel names: {self._path}: {err}"
            return array("Q")
        if starts and hidden:
            self.note = ("no kernel names: /proc/sys/kernel/kptr_restrict hides the addresses in "
                         f"{self._path}")
            return array("Q")
        order = sorted(range(len(starts)), key=starts.__getitem__)  # modules come last, as loaded
        self._lines = array("L", [self._lines[i] for i in order])
        return array("Q", [starts[i] for i in order])

    def _line(self, at: int) -> bytes:
        begin = self._lines[at]
        return bytes(self._text[begin:self._text.index(b"\n", begin)])

    def name(self, address: int) -> str:
        """Of the function that an address lies in; a module's has the module behind it."""
        if self._starts is None:
            self._starts = self._read()
        starts = self._starts
        last = bisect.bisect_right(starts, address) - 1
        if last < 0 or address - starts[last] > LONGEST:
            return UNKNOWN
        first = bisect.bisect_left(starts, starts[last])
        lines = [self._line(at) for at in range(first, last + 1)]
        line = next((found for found in lines if found[:1] == b"T"), lines[0])
        name = text(line[2:])
        return name.removesuffix(" [bpf]")


class Maps:
    """Without libbcc: module+offset, from /proc/PID/maps."""

    def __init__(self, pid: int) -> None:
        self._spans: list[tuple[int, int, int, str]] = []
        with contextlib.suppress(OSError, ValueError), \
                open(f"/proc/{pid}/maps", encoding="utf-8", errors="backslashreplace") as f:
            for line in f:
                fields = line.split(None, 5)
                low, _, high = fields[0].partition("-")
                path = fields[5].strip() if len(fields) > 5 else ""
                self._spans.append((int(low, 16), int(high, 16), int(fields[2], 16), path))

    def name(self, address: int) -> str:
        """`libc.so.6+0x2a1f0`."""
        for low, high, offset, path in self._spans:
            if low <= address < high:
                module = module_of(path)
                if module == UNKNOWN:
                    return UNKNOWN
                return f"{module.strip('[]')}+{address - low + offset:#x}"
        return UNKNOWN


class User:
    """libbcc's symbol tables of one process."""

    def __init__(self, lib: ct.CDLL, pid: int) -> None:
        self._lib, self._pid = lib, pid
        self._cache = ct.c_void_p(lib.bcc_symcache_new(pid, ct.byref(_OPTION)))
        self._refreshed = False

    def begin(self) -> None:
        """A new request: what was loaded since the last may be looked for once."""
        self._refreshed = False

    def name(self, address: int) -> str:
        """Demangled function, `[module]` where it has no symbol, or `[unknown]`."""
        if not self._cache:
            return UNKNOWN
        found, module = self._resolve(address)
        if not found and not self._refreshed:
            self._refreshed = True
            self._lib.bcc_symcache_refresh(self._cache)  # a library or a JIT's map since then
            found, module = self._resolve(address)
        return found or module_of(module)

    def _resolve(self, address: int) -> tuple[str, str]:
        symbol = _Symbol()
        status = self._lib.bcc_symcache_resolve(self._cache, ct.c_uint64(address),
                                                ct.byref(symbol))
        module = text(symbol.module)
        if status:
            return "", module
        name = text(symbol.demangle_name or symbol.name)
        self._lib.bcc_symbol_free_demangle_name(ct.byref(symbol))
        return name, module

    def free(self) -> None:
        """Give its memory back."""
        if self._cache:
            self._lib.bcc_free_symcache(self._cache, self._pid)
            self._cache = ct.c_void_p()


def load_libbcc() -> ct.CDLL | None:
    """The library that comes with python3-bpfcc."""
    try:
        lib = ct.CDLL("libbcc.so.0")
        lib.bcc_symcache_new.restype = ct.c_void_p
        lib.bcc_symcache_new.argtypes = [ct.c_int, ct.c_void_p]
        lib.bcc_free_symcache.argtypes = [ct.c_void_p, ct.c_int]
        lib.bcc_symcache_resolve.argtypes = [ct.c_void_p, ct.c_uint64, ct.c_void_p]
        lib.bcc_symcache_refresh.argtypes = [ct.c_void_p]
        lib.bcc_symbol_free_demangle_name.argtypes = [ct.c_void_p]
    except (OSError, AttributeError):
        return None
    return lib


class Names:
    """Everybody's symbols; those of the least recently asked processes are forgotten."""

    def __init__(self, lib: ct.CDLL | None) -> None:
        self._lib = lib
        self._kernel = Kernel()
        self._users: OrderedDict[int, User] = OrderedDict()

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Names for the addresses of one request, in their order."""
        pid, note = request["pid"], ""
        source: Kernel | Maps | User
        if pid == 0:
            source = self._kernel
        elif self._lib is None:
            source, note = Maps(pid), "libbcc.so.0 is not there: modules and offsets, no functions"
        else:
            source = self._user(pid)
        names = [source.name(address) for address in request["addrs"]]
        return {"id": request["id"], "names": names, "note": self._kernel.note if not pid else note}

    def _user(self, pid: int) -> User:
        assert self._lib is not None
        user = self._users.pop(pid, None)
        if user is None:
            while len(self._users) >= CACHES:
                self._users.popitem(last=False)[1].free()
            user = User(self._lib, pid)
        user.begin()
        self._users[pid] = user
        return user


def main() -> None:
    """Answer requests until the other end has gone."""
    sock = socket.socket(fileno=int(sys.argv[1]))
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    names = Names(load_libbcc())
    while data := sock.recv(1 << 20):
        sock.send(json.dumps(names.answer(json.loads(data))).encode())


if __name__ == "__main__":
    try:
        main()
    except OSError:  # the collector is gone
        os._exit(1)
    os._exit(0)
