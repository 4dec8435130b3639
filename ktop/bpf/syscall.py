"""bpf(2) and perf_event_open(2), the few commands that ktop needs, without any library.

Numbers from include/uapi/linux/bpf.h and perf_event.h. Every function raises OSError.
"""

from __future__ import annotations

import ctypes as ct
import errno
import fcntl
import functools
import mmap
import os
import platform
import re
import struct
import threading

_libc = ct.CDLL(None, use_errno=True)
_NR = {"x86_64": (321, 298), "aarch64": (280, 241), "riscv64": (280, 241), "s390x": (351, 331),
       "ppc64le": (361, 319)}

(MAP_LOOKUP_ELEM, MAP_UPDATE_ELEM, MAP_DELETE_ELEM, PROG_LOAD) = (1, 2, 3, 5)
(PROG_GET_NEXT_ID, MAP_LOOKUP_AND_DELETE_ELEM) = (11, 21)
(OBJ_GET_INFO_BY_FD, RAW_TRACEPOINT_OPEN, MAP_LOOKUP_BATCH, LINK_CREATE) = (15, 17, 24, 28)
(ENABLE_STATS, ITER_CREATE) = (32, 33)

PROG_TRACEPOINT, PROG_PERF_EVENT, PROG_RAW_TRACEPOINT, PROG_TRACING = 5, 7, 17, 26
ATTACH_TRACE_RAW_TP, ATTACH_TRACE_ITER = 23, 28

_IOC_ENABLE, _IOC_SET_BPF = 0x2400, 0x40042408
_SPAN = re.compile(rb"(\d{1,9})(?:-(\d{1,9}))?")
_MOST_CPUS = 8192  # CONFIG_NR_CPUS at most
_TIME_ENABLED = 1  # PERF_FORMAT_TOTAL_TIME_ENABLED


@functools.cache
def _numbers() -> tuple[ct.c_long, ...]:
    """Of bpf(2) and perf_event_open(2), on this machine."""
    try:
        return tuple(map(ct.c_long, _NR[platform.machine()]))
    except KeyError:
        raise OSError(errno.ENOSYS, f"unknown machine {platform.machine()}") from None


def _syscall(which: int, *args: object) -> int:
    result: int = _libc.syscall(_numbers()[which], *args)
    if result < 0:
        code = ct.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def bpf(command: int, attr: bytes | ct.Array[ct.c_char]) -> int:
    """bpf(2) with the attribute union as bytes."""
    buffer = ct.create_string_buffer(attr, max(len(attr), 128)) if isinstance(attr, bytes) else attr
    return _syscall(0, ct.c_int(command), buffer, ct.c_uint(len(buffer)))


class LoadError(OSError):
    """The kernel refused a program; `log` is the verifier's, possibly empty."""

    def __init__(self, code: int, log: str) -> None:
        super().__init__(code, os.strerror(code))
        self.log = log


def prog_load(insns: bytes, name: str, prog_type: int, attach_type: int = 0,
              attach_btf_id: int = 0, log_size: int = 1 << 20) -> int:
    """Load a program and return its fd. Refused, it is tried again for the verifier's log."""
    code = ct.create_string_buffer(insns, len(insns))
    licence = ct.create_string_buffer(b"Dual BSD/GPL")

    def attempt(log: ct.Array[ct.c_char] | None) -> int:
        attr = struct.pack(
            "@IIQQIIQII16sIIIIQIIQII", prog_type, len(insns) // 8, ct.addressof(code),
            ct.addressof(licence), 1 if log else 0, len(log) if log else 0,
            ct.addressof(log) if log else 0, 0, 0, name.encode()[:15], 0, attach_type,
            0, 0, 0, 0, 0, 0, 0, attach_btf_id)
        return bpf(PROG_LOAD, attr)

    try:
        return attempt(None)
    except OSError:
        log = ct.create_string_buffer(log_size)
        try:
            return attempt(log)
        except OSError as err:
            text = log.value.decode("ascii", "replace")
            raise LoadError(err.errno or errno.EINVAL, text) from None


def raw_tracepoint_open(prog_fd: int, name: str | None) -> int:
    """Attach to a raw tracepoint; a typed program (tp_btf) knows its own, so `name` is None."""
    text = ct.create_string_buffer(name.encode()) if name else None
    return bpf(RAW_TRACEPOINT_OPEN,
               struct.pack("@QII", ct.addressof(text) if text else 0, prog_fd, 0))


def iter_link(prog_fd: int, map_fd: int | None = None) -> int:
    """A link for an iterator program; `iter_create` makes a readable fd from it.

    map_fd: of the map whose elements it runs over (union bpf_iter_link_info).
    """
    info = ct.create_string_buffer(struct.pack("@IIQ", map_fd or 0, 0, 0), 16)
    return bpf(LINK_CREATE, struct.pack(
        "@IIIIQI", prog_fd, 0, ATTACH_TRACE_ITER, 0,
        *((ct.addressof(info), len(info)) if map_fd is not None else (0, 0))))


def iter_create(link_fd: int) -> int:
    """A fresh fd whose read(2) runs the iterator from its start."""
    return bpf(ITER_CREATE, struct.pack("@II", link_fd, 0))


def enable_run_stats() -> int:
    """Have the kernel count run_time_ns and run_cnt of programs while the returned fd is open."""
    return bpf(ENABLE_STATS, struct.pack("@I", 0))


def prog_info(prog_fd: int) -> dict[str, int]:
    """id, run_time_ns and run_cnt of a program (struct bpf_prog_info)."""
    info = ct.create_string_buffer(256)
    bpf(OBJ_GET_INFO_BY_FD, struct.pack("@IIQ", prog_fd, len(info), ct.addressof(info)))
    run_time, run_count, recursion = struct.unpack_from("@QQQ", info, 192)
    return {"id": struct.unpack_from("@I", info, 4)[0], "run_time_ns": run_time,
            "run_cnt": run_count, "recursion_misses": recursion}


def link_program(link_fd: int) -> int:
    """Id of the program that a link holds attached (struct bpf_link_info; 5.8, f2e10bff16a0)."""
    info = ct.create_string_buffer(64)
    bpf(OBJ_GET_INFO_BY_FD, struct.pack("@IIQ", link_fd, len(info), ct.addressof(info)))
    return int(struct.unpack_from("@I", info, 8)[0])


def perf_enabled_ns(event_fd: int) -> int:
    """For how long a perf event was enabled: stands still while somebody has disabled it."""
    return int(struct.unpack("@QQ", os.read(event_fd, 16))[1])


def program_ids() -> list[int]:
    """Ids of every program loaded on this host (to prove that we leave none behind)."""
    found: list[int] = []
    last = 0
    while True:
        attr = ct.create_string_buffer(struct.pack("@III", last, 0, 0), 128)
        try:
            bpf(PROG_GET_NEXT_ID, attr)
        except FileNotFoundError:
            return found
        last = struct.unpack_from("@I", attr, 4)[0]
        found.append(last)


def map_lookup(fd: int, key: bytes, value_size: int) -> bytes:
    """One value. For a per-CPU map value_size covers all possible CPUs, 8-byte aligned each."""
    k, v = ct.create_string_buffer(key, len(key)), ct.create_string_buffer(value_size)
    bpf(MAP_LOOKUP_ELEM, struct.pack("@IIQQQ", fd, 0, ct.addressof(k), ct.addressof(v), 0))
    return v.raw


def map_update(fd: int, key: bytes, value: bytes) -> None:
    """Write one value (all CPUs' values, for a per-CPU map)."""
    k, v = ct.create_string_buffer(key, len(key)), ct.create_string_buffer(value, len(value))
    bpf(MAP_UPDATE_ELEM, struct.pack("@IIQQQ", fd, 0, ct.addressof(k), ct.addressof(v), 0))


def map_delete(fd: int, key: bytes) -> None:
    """Delete one entry of a hash map."""
    k = ct.create_string_buffer(key, len(key))
    bpf(MAP_DELETE_ELEM, struct.pack("@IIQQQ", fd, 0, ct.addressof(k), 0, 0))


def map_take(fd: int, key: bytes, value_size: int) -> bytes:
    """One value of a hash map, its entry deleted in the same moment (5.14, 3e87f192b405)."""
    k, v = ct.create_string_buffer(key, len(key)), ct.create_string_buffer(value_size)
    bpf(MAP_LOOKUP_AND_DELETE_ELEM,
        struct.pack("@IIQQQ", fd, 0, ct.addressof(k), ct.addressof(v), 0))
    return v.raw


class _Rooms(threading.local):
    """Where the kernel writes: mapped once for each thread, so that no tick pays for the zeroing of
    what stays empty. Only pages that were written to are resident."""

    def __init__(self) -> None:
        self._rooms: dict[str, mmap.mmap] = {}

    def get(self, name: str, size: int) -> mmap.mmap:
        """At least so many bytes, whatever was in them before."""
        room = self._rooms.get(name)
        if room is None or len(room) < size:
            room = self._rooms[name] = mmap.mmap(-1, max(size, mmap.PAGESIZE))
        return room


_rooms = _Rooms()


def map_lookup_batch(fd: int, key_size: int, value_size: int,
                     entries: int) -> tuple[bytes, bytes, int]:
    """All keys and values of a map at once: (keys, values, how many).

    Hash maps 5.6 (057996380a42), per-CPU arrays 5.13 (f008d732ab18): OSError where not.
    """
    cursor = ct.create_string_buffer(max(key_size, 8))
    keys, values = bytearray(), bytearray()
    total, first = 0, True
    k = _rooms.get("keys", key_size * entries)
    v = _rooms.get("values", value_size * entries)
    at_k, at_v = (ct.addressof(ct.c_char.from_buffer(room)) for room in (k, v))
    while True:
        attr = ct.create_string_buffer(struct.pack(
            "@QQQQIIQQ", 0 if first else ct.addressof(cursor), ct.addressof(cursor),
            at_k, at_v, entries, fd, 0, 0), 128)
        done = False
        try:
            bpf(MAP_LOOKUP_BATCH, attr)
        except FileNotFoundError:
            done = True
        count = struct.unpack_from("@I", attr, 32)[0]
        keys += memoryview(k)[:count * key_size]
        values += memoryview(v)[:count * value_size]
        total += count
        first = False
        if done or not count:
            return bytes(keys), bytes(values), total


@functools.cache
def possible_cpus() -> int:
    """How many CPUs a per-CPU map has values for (/sys/devices/system/cpu/possible)."""
    return 1 + max(_cpus("possible"))


def online_cpus() -> list[int]:
    """The CPUs that are online now. Raises OSError."""
    return _cpus("online")


def _cpus(which: str) -> list[int]:
    """`0-3,8`. Raises OSError, also when the list is none."""
    path = f"/sys/devices/system/cpu/{which}"
    with open(path, "rb") as f:
        text = f.read(1 << 16).strip()
    found: list[int] = []
    for part in text.split(b","):
        span = _SPAN.fullmatch(part)
        if span is None:
            raise OSError(errno.ENODATA, "no list of CPUs", path)
        low, high = int(span[1]), int(span[2] or span[1])
        found += range(low, min(high, _MOST_CPUS) + 1)
    return found


def _perf_event_open(perf_type: int, config: int, cpu: int, freq: int) -> int:
    # size 112 (PERF_ATTR_SIZE_VER5); bit 10 of the flags is `freq`; wake up never.
    flags = (1 << 10) if freq else 0
    attr = struct.pack("@IIQQQQQ", perf_type, 112, config, freq or 1, 0, _TIME_ENABLED, flags)
    buffer = ct.create_string_buffer(attr, 112)
    return _syscall(1, buffer, ct.c_int(-1), ct.c_int(cpu), ct.c_int(-1), ct.c_ulong(8))


def _attach_perf(event_fd: int, prog_fd: int) -> int:
    try:
        fcntl.ioctl(event_fd, _IOC_SET_BPF, prog_fd)
        fcntl.ioctl(event_fd, _IOC_ENABLE, 0)
    except OSError:
        os.close(event_fd)
        raise
    return event_fd


def attach_cpu_clock(prog_fd: int, hz: int) -> list[int]:
    """Run a program `hz` times a second on each online CPU; one fd per CPU."""
    fds: list[int] = []
    try:
        for cpu in online_cpus():
            fds.append(_attach_perf(_perf_event_open(1, 0, cpu, hz), prog_fd))
    except OSError:
        for fd in fds:
            os.close(fd)
        raise
    return fds


def attach_tracepoint(prog_fd: int, tracefs: str, event: str) -> int:
    """Attach to a tracefs event ("syscalls/sys_exit_execve")."""
    path = os.path.join(tracefs, "events", event, "id")
    with open(path, "rb") as f:
        number = f.read(16).strip()
    if not number.isdigit():
        raise OSError(errno.ENODATA, "no number of an event", path)
    return _attach_perf(_perf_event_open(2, int(number), online_cpus()[0], 0), prog_fd)
