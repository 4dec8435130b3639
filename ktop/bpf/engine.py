"""The collector's side of BPF: starts the compile child, takes over its fds, reads the kernel.

No bcc and no LLVM here: maps are read by bpf(2), iterators by read(2), the ring buffer by mmap.
Everything is held by file descriptors only (nothing is pinned), so that when this process ends,
however it ends, the kernel detaches and frees it all.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from ktop.bpf import syscall
from ktop.bpf.attach import attach
from ktop.bpf.layers import GROUPS, probes_of
from ktop.bpf.probes import PERF_KINDS, Probe
from ktop.bpf.table import Table
from ktop.text import clean

COMPILE_TIMEOUT_S = 180.0  # a bound, no expectation: an emulated CPU with kernel headers takes 90
_CHILD = os.path.join(os.path.dirname(os.path.abspath(__file__)), "compile.py")
_MAX_MESSAGE = 1 << 20
_MAX_FDS = 250
TEND_TURNS = 4  # ticks until every link was asked whether it is still attached
_PIECE = 1 << 15  # what one read of an iterator returns at most (bpf_seq_read: 8 pages of 4 KB)
_BATCH = 512  # entries a batch: a hash bucket must fit, a big buffer costs its zeroing
# Of a descriptor that is none: read(2) and, for what is known of a link, bpf(2).
_CLOSED = (errno.EBADF, errno.EBADFD)


@dataclass(frozen=True)
class Map:
    """A map's fd and shape; value_size is of one CPU's value, as declared."""

    name: str
    fd: int
    key_size: int
    value_size: int
    max_entries: int


@dataclass
class Loaded:
    """What the compile child handed over. fds: program first, then what holds it attached."""

    maps: dict[str, Map] = field(default_factory=dict)
    probes: dict[str, list[int]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    syscalls: dict[int, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    fatal: str | None = None


def system_python() -> str | None:
    """The interpreter that the distribution's bcc belongs to."""
    for path in ("/usr/bin/python3", shutil.which("python3") or ""):
        if path and os.path.exists(path):
            return path
    return None


class Engine:
    """Loads one group's programs through a child and owns every fd until `close`.

    `table`: the group's probes. options: `cgroup_v1`, `skip` (probe names), `ring_pages`.
    """

    def __init__(self, options: dict[str, Any] | None = None, group: int = 0) -> None:
        self.group = group
        self._options = {**(options or {}), "group": group}
        self.table = probes_of(GROUPS[group])
        self._child: subprocess.Popen[bytes] | None = None
        self._sock: socket.socket | None = None
        self._room = bytearray(8 * _PIECE)  # what iterators wrote last: no memory is mapped anew
        self._batched = True  # until this kernel says that it has no batches of per-CPU arrays
        self._tree = ""  # the child's include tree; whoever of the two is left removes it
        self.loaded = Loaded()
        self._turn = 0  # whose links are asked next
        self._seen: dict[str, tuple[int, ...]] = {}  # by probe: its link's program, or time enabled

    def start(self) -> None:
        """Start the child; `wait` collects. Never raises: what fails is in `loaded.fatal`."""
        python = system_python()
        if python is None:
            self.loaded.fatal = "no /usr/bin/python3 to run bcc with"
            return
        self._tree = tempfile.mkdtemp(prefix="ktop-headers-")
        options = json.dumps({**self._options, "tree": self._tree})
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        try:
            # -I: neither our environment nor the current directory can lend it modules.
            self._child = subprocess.Popen(
                [python, "-I", "-B", _CHILD, str(theirs.fileno()), options],
                pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                cwd="/", env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"})
        except OSError as err:
            self.loaded.fatal = f"{python}: {err.strerror}"
            ours.close()
            self._end_child()
            return
        finally:
            theirs.close()
        self._sock = ours

    def wait(self, timeout_s: float = COMPILE_TIMEOUT_S) -> Loaded:
        """Everything the child sends, until it has left."""
        if self._sock is not None:
            self._sock.settimeout(timeout_s)
            try:
                while self._receive():
                    pass
            except OSError as err:
                self.loaded.fatal = f"the compile child did not finish: {err}"
            finally:
                self._end_child()
        if not self.loaded.maps and self.loaded.fatal is None:
            self.loaded.fatal = "the compile child ended without a word"
        return self.loaded

    def poll(self) -> bool:
        """Take what the child has sent by now; True once it has left. Never waits."""
        if self._sock is None:
            return True
        self._sock.settimeout(0)
        try:
            while self._receive():
                pass
        except BlockingIOError:
            return False
        except OSError as err:
            self.loaded.fatal = f"the compile child broke off: {err}"
        self._end_child()
        if not self.loaded.maps and self.loaded.fatal is None:
            self.loaded.fatal = "the compile child ended without a word"
        return True

    def _receive(self) -> bool:
        assert self._sock is not None
        data, fds, _, _ = socket.recv_fds(self._sock, _MAX_MESSAGE, _MAX_FDS)
        if not data:
            return False
        message = json.loads(data)
        kind = message.pop("kind")
        if kind == "map":
            self.loaded.maps[message["name"]] = Map(fd=fds[0], **message)
        elif kind == "probe":
            if message["live"]:
                self.loaded.probes[message["name"]] = fds
            else:
                self.loaded.reasons[message["name"]] = clean(message["reason"], 300)
        elif kind == "facts":
            self.loaded.syscalls = {int(k): v for k, v in message.pop("syscalls").items()}
            self.loaded.facts = message
        elif kind == "fatal":
            self.loaded.fatal = clean(message["reason"], 300)
        return True

    def _end_child(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None
        if self._child is not None:
            try:
                self._child.wait(5)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()
            self._child = None
        if self._tree:
            shutil.rmtree(self._tree, ignore_errors=True)
            self._tree = ""

    def live(self, probe: str) -> bool:
        """Whether a probe is attached."""
        return len(self.loaded.probes.get(probe, ())) > 1

    def _map_fd(self, name: str) -> int:
        return self.loaded.maps[name].fd

    def watch(self, layers: Collection[str]) -> None:
        """Attach the on-demand probes of these layers, detach those of all others."""
        self.attach_only({p.name for p in self.table if p.layer in layers})

    def attach_only(self, names: Collection[str]) -> None:
        """Attach these of the on-demand probes, detach all others of them."""
        typed = "KTOP_TYPED" in self.loaded.facts.get("flavour", ())
        for p in self.table:
            fds = self.loaded.probes.get(p.name)
            if not p.on_demand or not fds:
                continue
            if p.name in names and len(fds) == 1:
                try:
                    fds += attach(p, fds[0], typed, self._map_fd)
                    self.loaded.reasons.pop(p.name, None)  # of an attempt before
                except OSError as err:
                    self.loaded.reasons[p.name] = f"{p.attach_point}: {err.strerror}"
            elif p.name not in names:
                for fd in fds[1:]:
                    os.close(fd)
                del fds[1:]
                self._seen.pop(p.name, None)

    def tend(self) -> dict[str, str]:
        """Attach again what somebody else has detached: why that failed, by probe; empty: it did
        not. Another root can close, disable or replace what we hold.
        To ask costs a system call each, and of a clock one on its CPU: what we read ourselves
        (iterators) is asked every time, of the others every TEND_TURNS-th.
        """
        found = {}
        typed = "KTOP_TYPED" in self.loaded.facts.get("flavour", ())
        self._turn += 1
        for number, p in enumerate(self.table, self._turn):
            fds = self.loaded.probes.get(p.name, [])
            due = (p.kind == "iter" or p.name not in self._seen
                   or number % TEND_TURNS == 0)
            if len(fds) < 2 or not due or self._attached(p, fds):
                continue
            if p.kind in PERF_KINDS:  # a link that is gone has left a number, maybe another's
                for fd in fds[1:]:
                    with contextlib.suppress(OSError):
                        os.close(fd)
            self._seen.pop(p.name, None)
            del fds[1:]
            try:
                fds += attach(p, fds[0], typed, self._map_fd)
                found[p.name] = ""
            except OSError as err:
                found[p.name] = err.strerror or str(err)
                self.loaded.reasons[p.name] = f"detached by somebody else, then: {found[p.name]}"
        return found

    def _attached(self, p: Probe, fds: list[int]) -> bool:
        """Whether it still is: as long as the kernel does not say that it is closed, or that the
        number is something else's now (EINVAL; of a link before 5.8 that says no more).
        """
        before = self._seen.get(p.name)
        try:
            if p.kind not in PERF_KINDS:
                self._seen[p.name] = (syscall.link_program(fds[1]),)
                return before is None or before == self._seen[p.name]
            now = tuple(syscall.perf_enabled_ns(fd) for fd in fds[1:])
        except OSError as err:
            if before is None:
                return err.errno not in _CLOSED
            return p.kind not in PERF_KINDS and err.errno not in (*_CLOSED, errno.EINVAL)
        self._seen[p.name] = now
        return before is None or len(before) != len(now) or all(
            new > old for new, old in zip(now, before, strict=True))

    def read_iter(self, probe: str) -> bytes:
        """One run of an iterator program: all that it wrote."""
        fd = syscall.iter_create(self.loaded.probes[probe][1])
        room, end = self._room, 0
        try:
            while got := os.readv(fd, [memoryview(room)[end:]]):
                end += got
                if len(room) - end < _PIECE:
                    room += bytes(len(room))
        finally:
            os.close(fd)
        return bytes(memoryview(room)[:end])

    def read_percpu(self, name: str, index: int = 0) -> list[memoryview]:
        """One element of a per-CPU array: each possible CPU's value."""
        m = self.loaded.maps[name]
        stride = (m.value_size + 7) & ~7
        cpus = syscall.possible_cpus()
        raw = memoryview(syscall.map_lookup(
            m.fd, index.to_bytes(4, sys.byteorder), stride * cpus))
        return [raw[cpu * stride:cpu * stride + m.value_size] for cpu in range(cpus)]

    def clear_percpu(self, name: str, index: int) -> None:
        """Zero one element of a per-CPU array on every CPU."""
        m = self.loaded.maps[name]
        size = ((m.value_size + 7) & ~7) * syscall.possible_cpus()
        syscall.map_update(m.fd, index.to_bytes(4, sys.byteorder), bytes(size))

    def read_hash(self, name: str) -> list[tuple[bytes, memoryview]]:
        """Every (key, value) of a hash map, in batches."""
        table = self.read_table(name)
        view, size = memoryview(table.values), table.value_size
        return [(table.key(i), view[i * size:(i + 1) * size]) for i in range(table.entries)]

    def read_table(self, name: str) -> Table:
        """The same for big maps: nothing is cut up yet."""
        m = self.loaded.maps[name]
        keys, values, count = syscall.map_lookup_batch(
            m.fd, m.key_size, m.value_size, min(m.max_entries, _BATCH))
        return Table(keys, values, count, m.key_size, m.value_size)

    def read_counters(self, name: str, names: Collection[str]) -> dict[str, int]:
        """A per-CPU array of u64 counters, summed over the CPUs, by the names of its elements."""
        m, cpus = self.loaded.maps[name], syscall.possible_cpus()
        words = (m.value_size + 7) >> 3
        if self._batched:
            try:
                _, values, entries = syscall.map_lookup_batch(
                    m.fd, m.key_size, 8 * words * cpus, min(m.max_entries, _BATCH))
            except OSError:
                self._batched, entries = False, 0
            if entries >= len(names):
                found = struct.unpack(f"@{len(values) >> 3}Q", values)
                each = words * cpus
                return {what: sum(found[i * each:(i + 1) * each:words])
                        for i, what in enumerate(names)}
        return {what: sum(int.from_bytes(cpu[:8], sys.byteorder)
                          for cpu in self.read_percpu(name, i)) for i, what in enumerate(names)}

    def write_u32(self, name: str, value: int) -> None:
        """Set element 0 of an array of u32."""
        syscall.map_update(self.loaded.maps[name].fd, bytes(4), value.to_bytes(4, sys.byteorder))

    def run_times(self) -> dict[str, tuple[int, int]]:
        """(run_time_ns, run_cnt) of every live program; they only count while statistics are on."""
        found = {}
        for name, fds in self.loaded.probes.items():
            info = syscall.prog_info(fds[0])
            found[name] = (info["run_time_ns"], info["run_cnt"])
        return found

    def map_bytes(self) -> int | None:
        """Kernel memory of our maps, from /proc/self/fdinfo (memlock); None where it is untold."""
        total = 0
        for m in self.loaded.maps.values():
            try:
                with open(f"/proc/self/fdinfo/{m.fd}", encoding="ascii") as f:
                    fields = dict(line.split(":", 1) for line in f if ":" in line)
                total += int(fields["memlock"])
            except (OSError, KeyError, ValueError):
                return None
        return total

    def close(self) -> None:
        """Detach and free everything."""
        if self._child is not None:
            self._child.kill()
        self._end_child()
        for fds in self.loaded.probes.values():
            for fd in reversed(fds):
                os.close(fd)
        for m in self.loaded.maps.values():
            os.close(m.fd)
        self.loaded = Loaded(fatal="closed")


def probe_table(engine: Engine) -> list[dict[str, str]]:
    """Every probe with its fate: live, off (on demand), fallback or absent, and why."""
    rows = []
    loaded = engine.loaded
    for p in engine.table:
        held = loaded.probes.get(p.name, ())
        reason = loaded.reasons.get(p.name, "")
        if len(held) > 1:
            status, reason = "live", ""
        elif held and not reason:
            status, reason = "off", f"attached while {p.layer} is looked at: {p.on_demand}"
        else:
            status = "absent" if p.fallback.startswith("none") else "fallback"
            reason = reason or loaded.fatal or "not loaded"
        rows.append({"name": p.name, "layer": p.layer, "attach": p.attach_point, "status": status,
                     "reason": reason, "shows": p.shows, "fallback": p.fallback, "blind": p.blind})
    return rows
