"""Files layer: ring buffer records -> paths, slow operations, opens and mounts."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import NamedTuple

from ktop.bpf.files_layer import (
    EVENT_MOUNT,
    EVENT_NAME,
    EVENT_OPEN,
    EVENT_SLOW,
    EVENT_STRUCT,
    FOLDS,
    NAMED,
    OPEN_KEY_STRUCT,
    TEXT,
)
from ktop.collect.events import errno_name
from ktop.collect.files_mounts import mount_flags
from ktop.model_files import MountEvent, OpenEvent, SlowOp
from ktop.text import clean, comm

PENDING = 20_000  # records of one kind kept between two ticks
_ACCESS = ("O_RDONLY", "O_WRONLY", "O_RDWR", "O_ACCMODE")
# asm-generic/fcntl.h, as x86 has it; others move some of them
_OPEN_FLAGS = ((0o100, "O_CREAT"), (0o200, "O_EXCL"), (0o400, "O_NOCTTY"), (0o1000, "O_TRUNC"),
               (0o2000, "O_APPEND"), (0o4000, "O_NONBLOCK"), (0o20000, "FASYNC"),
               (0o40000, "O_DIRECT"), (0o200000, "O_DIRECTORY"), (0o400000, "O_NOFOLLOW"),
               (0o1000000, "O_NOATIME"), (0o2000000, "O_CLOEXEC"), (0o10000000, "O_PATH"))
_SYNC, _DSYNC, _TMPFILE = 0o4010000, 0o10000, 0o20000000


class Record(NamedTuple):
    """struct fs_event; field order is files_layer.EVENT's. time_ns: CLOCK_MONOTONIC."""

    kind: int
    tgid: int
    time_ns: int
    cgroup: int
    latency_ns: int
    ret: int
    file: bytes
    fold: int
    flags: int
    nr: int
    base_whole: int
    text_len: int
    comm: bytes
    fstype: bytes


class Name(NamedTuple):
    """Where a file is. whole: up to the root of the mount namespace."""

    path: str
    fstype: str
    deleted: bool
    whole: bool


def text_of(raw: bytes) -> bytes:
    """A NUL-terminated string."""
    return raw.split(b"\0", 1)[0]


def joined(names: bytes, whole: bool) -> bytes:
    """Names from a file up to the root, each NUL-terminated, as a path."""
    parts = names.split(b"\0")[-2::-1]
    return (b"/" if whole else b".../") + b"/".join(parts)


def open_flags(flags: int) -> str:
    """O_* names joined by `|`, the access mode first. O_LARGEFILE says nothing on 64 bits."""
    found = [_ACCESS[flags & 3]]
    found += [name for bit, name in _OPEN_FLAGS if flags & bit]
    if flags & _SYNC == _SYNC:
        found.append("O_SYNC")
    elif flags & _DSYNC:
        found.append("O_DSYNC")
    if flags & _TMPFILE:
        found.append("O_TMPFILE")
    return "|".join(found)


def asked_path(record: Record, raw: bytes) -> str:
    """The path that an open asked for, a relative one behind the directory it starts from."""
    text = raw[EVENT_STRUCT.size:EVENT_STRUCT.size + TEXT]
    path = text_of(text)
    base = raw[EVENT_STRUCT.size + TEXT:]
    if not record.text_len:
        return "(unreadable)"
    while path.startswith(b"./"):
        path = path[2:].lstrip(b"/")
    if not path.startswith(b"/"):
        if base or record.base_whole:
            directory = joined(base, bool(record.base_whole))
            path = directory if path in (b"", b".") else directory.rstrip(b"/") + b"/" + path
        else:
            path = b"./" + path
    return clean(path) + ("…" if record.text_len >= TEXT else "")


class FileEvents:
    """Takes records as they come; a tick takes what was found."""

    def __init__(self, syscalls: dict[int, str]) -> None:
        self._syscalls = syscalls
        self.names: OrderedDict[bytes, Name] = OrderedDict()
        self._slow: deque[tuple[Record, Name | None]] = deque(maxlen=PENDING)
        self._opens: deque[tuple[Record, str]] = deque(maxlen=PENDING)
        self._mounts: deque[tuple[Record, bytes]] = deque(maxlen=PENDING)
        self.paths: OrderedDict[bytes, str] = OrderedDict()  # of folds

    def take(self, records: Iterable[bytes]) -> None:
        """Sort records; paths are known from here on."""
        for raw in records:
            r = Record._make(EVENT_STRUCT.unpack_from(raw))
            if r.kind == EVENT_NAME:
                self._name(r, raw[EVENT_STRUCT.size + TEXT:])
            elif r.kind == EVENT_SLOW:
                self._slow.append((r, self.names.get(r.file)))
            elif r.kind == EVENT_OPEN:
                path = asked_path(r, raw)
                key = OPEN_KEY_STRUCT.pack(r.fold, r.comm, min(r.ret, 0), 0)
                self.paths[key] = path
                self.paths.move_to_end(key)
                if len(self.paths) > 2 * FOLDS:
                    self.paths.popitem(last=False)
                self._opens.append((r, path))
            elif r.kind == EVENT_MOUNT:
                self._mounts.append((r, raw[EVENT_STRUCT.size:EVENT_STRUCT.size + TEXT]))

    def _name(self, r: Record, names: bytes) -> None:
        fstype, subtype = text_of(r.fstype[:16]), text_of(r.fstype[16:])
        kind = fstype + b"." + subtype if subtype else fstype
        self.names[r.file] = Name(clean(joined(names, bool(r.base_whole))), clean(kind, 64),
                                  bool(r.flags & 1), bool(r.base_whole))
        self.names.move_to_end(r.file)
        if len(self.names) > 2 * NAMED:
            self.names.popitem(last=False)

    def slow(self, wall_offset: int, most: int) -> tuple[list[SlowOp], int]:
        """Slow operations since last time, newest last, and how many were left out."""
        cut = max(0, len(self._slow) - most)
        found = [self._slow_op(r, name or self.names.get(r.file), wall_offset)
                 for r, name in list(self._slow)[cut:]]
        self._slow.clear()
        return found, cut

    def _slow_op(self, r: Record, name: Name | None, wall_offset: int) -> SlowOp:
        op = self._syscalls.get(r.nr, str(r.nr))
        moved = r.ret >= 0 and "sync" not in op
        return SlowOp(
            time_ns=r.time_ns + wall_offset, pid=r.tgid, comm=comm(r.comm), cgroup=r.cgroup,
            op=op, latency_ns=r.latency_ns, path=name.path if name else None,
            fstype=name.fstype if name else None, bytes=r.ret if moved else None,
            error=errno_name(r.ret) if r.ret < 0 else None)

    def opens(self, wall_offset: int, most: int) -> list[OpenEvent]:
        """The newest opens since last time, newest last."""
        found = [OpenEvent(
            time_ns=r.time_ns + wall_offset, pid=r.tgid, comm=comm(r.comm), cgroup=r.cgroup,
            path=path, flags=open_flags(r.flags), fd=r.ret if r.ret >= 0 else None,
            error=errno_name(r.ret) if r.ret < 0 else None)
            for r, path in list(self._opens)[-most:]]
        self._opens.clear()
        return found

    def mounts(self, wall_offset: int) -> list[MountEvent]:
        """Mount syscalls since last time, newest last."""
        found = []
        for r, text in self._mounts:
            source, target, kind = (clean(text_of(text[i:i + TEXT // 3]), 512) or None
                                    for i in range(0, TEXT, TEXT // 3))
            op = self._syscalls.get(r.nr, str(r.nr))
            found.append(MountEvent(
                time_ns=r.time_ns + wall_offset, op=op, pid=r.tgid, comm=comm(r.comm),
                cgroup=r.cgroup, source=source, target=target, fstype=kind,
                flags=mount_flags(op, r.flags),
                error=errno_name(r.ret) if r.ret < 0 else None))
        self._mounts.clear()
        return found
