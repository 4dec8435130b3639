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
import itertools
import json
import os
import queue
import resource
import socket
import sys
import threading
from array import array
from collections import OrderedDict
from typing import Any, TypeVar

T = TypeVar("T")
Place = tuple[str, str, int]  # path, device, inode (0: of no file)
MAX_MEMORY = 2 << 30
CACHES = 24            # processes whose symbol tables are kept
MAPS = 2_000           # and whose mappings
OTHERS = 50            # that are looked at for the symbols of one that has ended
IN_FILES = 300_000     # names of places in files
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
            self.note = (f"no kernel names: the addresses in {self._path} are hidden "
                         "(no CAP_SYSLOG, or kernel.kptr_restrict is 2)")
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
    """What is mapped where in one process, from /proc/PID/maps."""

    def __init__(self, pid: int) -> None:
        self._lows: list[int] = []
        self._spans: list[tuple[int, int, int, Place]] = []
        with contextlib.suppress(OSError, ValueError, IndexError), \
                open(f"/proc/{pid}/maps", encoding="utf-8", errors="backslashreplace") as f:
            for line in f:
                fields = line.split(None, 5)
                begin, _, end = fields[0].partition("-")
                path = fields[5].strip() if len(fields) > 5 else ""
                place = (path, fields[3], int(fields[4]))
                low, high, offset = int(begin, 16), int(end, 16), int(fields[2], 16)
                self._lows.append(low)
                self._spans.append((low, high, offset, place))

    def __bool__(self) -> bool:
        """False: it has ended."""
        return bool(self._spans)

    def find(self, address: int) -> tuple[Place, int] | None:
        """The file mapped there, and the offset in it."""
        at = bisect.bisect_right(self._lows, address) - 1
        if at < 0 or address >= self._spans[at][1]:
            return None
        low, _, offset, place = self._spans[at]
        return place, address - low + offset

    def address(self, place: Place, offset: int) -> int | None:
        """Where an offset of a file is mapped."""
        return next((low + offset - begin for low, high, begin, here in self._spans
                     if here == place and begin <= offset < begin + high - low), None)

    def name(self, address: int) -> str:
        """Without libbcc: `libc.so.6+0x2a1f0`."""
        found = self.find(address)
        module = module_of(found[0][0]) if found else UNKNOWN
        if found is None or module == UNKNOWN:
            return UNKNOWN
        return f"{module.strip('[]')}+{found[1]:#x}"


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
    """Everybody's symbols. What is in a file is looked for once, whoever has it mapped; symbol
    tables of the least recently asked processes are forgotten."""

    def __init__(self, lib: ct.CDLL | None) -> None:
        self._lib = lib
        self._kernel = Kernel()
        self._users: OrderedDict[int, User] = OrderedDict()
        self._maps: OrderedDict[int, Maps] = OrderedDict()
        self._in_files: dict[tuple[Place, int], str] = {}

    def answer(self, request: dict[str, Any], maps: Maps) -> dict[str, Any]:
        """Names for the addresses of one request, in their order."""
        pid, addresses, note = request["pid"], request["addrs"], ""
        if pid == 0:
            names = [self._kernel.name(address) for address in addresses]
            note = self._kernel.note
        elif self._lib is None:
            names = [maps.name(address) for address in addresses]
            note = "libbcc.so.0 is not there: modules and offsets, no functions"
        else:
            if maps or pid not in self._maps:
                _remember(self._maps, pid, maps, MAPS)
            names = [self._user_name(self._lib, pid, address) for address in addresses]
        return {"id": request["id"], "names": names, "note": note}

    def _user_name(self, lib: ct.CDLL, pid: int, address: int) -> str:
        found = self._maps[pid].find(address)
        at = found if found is not None and found[0][2] else None  # in a file
        if at is None:
            return self._user(lib, pid).name(address)
        known = self._in_files.get(at)
        if known is not None:
            return known
        name = self._user(lib, pid).name(address)
        if name == UNKNOWN:
            name = self._of_another(lib, at) or module_of(at[0][0])
        if not name.startswith("[") and len(self._in_files) < IN_FILES:
            self._in_files[at] = name
        return name

    def _of_another(self, lib: ct.CDLL, at: tuple[Place, int]) -> str:
        """It has ended: one that has the same file mapped, as its parent has, may know."""
        for pid, maps in itertools.islice(reversed(self._maps.items()), OTHERS):
            address = maps.address(*at)
            if address is not None and os.path.exists(f"/proc/{pid}"):
                return self._user(lib, pid).name(address)
        return ""

    def _user(self, lib: ct.CDLL, pid: int) -> User:
        user = self._users.get(pid)
        if user is None:
            user = User(lib, pid)
        old = _remember(self._users, pid, user, CACHES)
        if old is not None:
            old.free()
        return user

    def begin(self, pid: int) -> None:
        """A new request: what was loaded since the last may be looked for once."""
        if pid in self._users:
            self._users[pid].begin()


def _remember(known: OrderedDict[int, T], pid: int, what: T, limit: int) -> T | None:
    """Keep it as the most recent; the one that has to go for it."""
    known[pid] = what
    known.move_to_end(pid)
    return known.popitem(last=False)[1] if len(known) > limit else None


def main() -> None:
    """Answer requests until the other end has gone."""
    sock = socket.socket(fileno=int(sys.argv[1]))
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    from ktop import capabilities

    capabilities.become_helper(capabilities.SYMBOLS)
    names = Names(load_libbcc())
    requests: queue.SimpleQueue[tuple[dict[str, Any], Maps] | None] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(sock, requests), daemon=True).start()
    while (found := requests.get()) is not None:
        names.begin(found[0]["pid"])
        sock.send(json.dumps(names.answer(*found)).encode())


def _listen(sock: socket.socket,
            requests: queue.SimpleQueue[tuple[dict[str, Any], Maps] | None]) -> None:
    """Look at once at what a process has mapped: when its turn comes it may have ended."""
    with contextlib.suppress(OSError):
        while data := sock.recv(1 << 20):
            request = json.loads(data)
            requests.put((request, Maps(request["pid"])))
    requests.put(None)


if __name__ == "__main__":
    try:
        main()
    except OSError:  # the collector is gone
        os._exit(1)
    os._exit(0)
