"""A FUSE filesystem of one file that takes its time: a slow mount, or a disk with two speeds.

Run as `fuse_slow.py MOUNTPOINT DELAY_MS`: the file `slow` of 1 MiB, whose second half takes so long
a read. With PER_MILLE behind it: the file `disk` of 64 MiB, kept in memory, of which so many of a
thousand writes take that long. Ended by SIGKILL (then umount). Speaks just enough of the protocol
(include/uapi/linux/fuse.h, 7.31), without a cache.
"""

from __future__ import annotations

import ctypes as ct
import os
import random
import struct
import sys
import time

LOOKUP, GETATTR, SETATTR, OPEN, READ, WRITE, RELEASE = 1, 3, 4, 14, 15, 16, 18
FSYNC, FLUSH, INIT, OPENDIR, FALLOCATE = 20, 25, 26, 27, 43
SILENT = {2, 42, 36}  # FORGET, BATCH_FORGET, INTERRUPT


class Slow:
    """Zeros and a delay."""

    name, size = b"slow", 1 << 20

    def __init__(self, delay_s: float) -> None:
        self.delay_s = delay_s

    def read(self, offset: int, size: int) -> bytes:
        """The second half is slow."""
        if offset >= self.size // 2:
            time.sleep(self.delay_s)
        return bytes(max(0, min(size, self.size - offset)))

    def write(self, offset: int, data: bytes) -> None:
        """Not kept."""


class Disk(Slow):
    """Memory, slow at times to write."""

    name, size = b"disk", 64 << 20

    def __init__(self, delay_s: float, per_mille: float) -> None:
        super().__init__(delay_s)
        self.per_mille, self.data = per_mille, bytearray(self.size)

    def read(self, offset: int, size: int) -> bytes:
        """At once."""
        return bytes(self.data[offset:offset + size])

    def write(self, offset: int, data: bytes) -> None:
        """Slow for a few of them."""
        self.data[offset:offset + len(data)] = data
        if random.random() * 1000 < self.per_mille:
            time.sleep(self.delay_s * random.uniform(0.8, 1.3))


def attributes(file: Slow, node: int) -> bytes:
    """struct fuse_attr."""
    mode, size = (0o40755, 0) if node == 1 else (0o100644, file.size)
    return struct.pack("=6Q3I7I", node, size, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def answer(opcode: int, node: int, body: bytes, file: Slow) -> tuple[int, bytes]:
    """(error, payload) of one request."""
    if opcode == INIT:
        return 0, struct.pack("=IIIIHHIII", 7, 31, 65536, 0, 4, 3, 1 << 17, 1, 0) + bytes(28)
    if opcode == LOOKUP:
        if body.rstrip(b"\0") != file.name:
            return -2, b""
        return 0, struct.pack("=QQQQII", 2, 0, 0, 0, 0, 0) + attributes(file, 2)
    if opcode in (GETATTR, SETATTR):
        return 0, struct.pack("=QII", 0, 0, 0) + attributes(file, node)
    if opcode in (OPEN, OPENDIR):
        return 0, struct.pack("=QII", 1, 1, 0)  # FOPEN_DIRECT_IO
    if opcode in (READ, WRITE):
        _, offset, size = struct.unpack_from("=QQI", body)
        if opcode == READ:
            return 0, file.read(offset, size)
        file.write(offset, body[40:40 + size])
        return 0, struct.pack("=II", size, 0)
    if opcode in (RELEASE, FLUSH, FSYNC, FALLOCATE):
        return 0, b""
    return -38, b""


def main() -> None:
    """Mount and serve."""
    where, delay_s, *per_mille = sys.argv[1], int(sys.argv[2]) / 1000, *map(float, sys.argv[3:])
    file = Disk(delay_s, per_mille[0]) if per_mille else Slow(delay_s)
    fd = os.open("/dev/fuse", os.O_RDWR)
    libc = ct.CDLL(None, use_errno=True)
    options = f"fd={fd},rootmode=40000,user_id=0,group_id=0,subtype=ktoptest"
    if libc.mount(b"slowsource", where.encode(), b"fuse", 0, options.encode()):
        raise OSError(ct.get_errno(), os.strerror(ct.get_errno()))
    print("mounted", flush=True)
    while True:
        try:
            request = os.read(fd, 1 << 18)
        except OSError:
            return  # unmounted
        _, opcode, unique, node = struct.unpack_from("=IIQQ", request)
        if opcode in SILENT:
            continue
        error, payload = answer(opcode, node, request[40:], file)
        os.write(fd, struct.pack("=IiQ", 16 + len(payload), error, unique) + payload)


if __name__ == "__main__":
    main()
