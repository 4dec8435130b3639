"""A disk that is quick but for a few writes: a FUSE file for a loop device to lie on.

Run as `bimodal.py MOUNTPOINT PER_MILLE DELAY_MS`: of a thousand writes so many take that long. The
file `disk` of 64 MiB is kept in memory. Ended by SIGKILL (then umount). Speaks just enough of the
protocol (include/uapi/linux/fuse.h, 7.31).
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
SIZE = 64 << 20
DISK = bytearray(SIZE)


def attributes(node: int) -> bytes:
    """struct fuse_attr."""
    mode, size = (0o40755, 0) if node == 1 else (0o100644, SIZE)
    return struct.pack("=6Q3I7I", node, size, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def answer(opcode: int, node: int, body: bytes, per_mille: float, delay_s: float,
           ) -> tuple[int, bytes]:
    """(error, payload) of one request."""
    if opcode == INIT:
        return 0, struct.pack("=IIIIHHIII", 7, 31, 65536, 0, 4, 3, 1 << 17, 1, 0) + bytes(28)
    if opcode == LOOKUP:
        if body.rstrip(b"\0") != b"disk":
            return -2, b""
        return 0, struct.pack("=QQQQII", 2, 0, 0, 0, 0, 0) + attributes(2)
    if opcode in (GETATTR, SETATTR):
        return 0, struct.pack("=QII", 0, 0, 0) + attributes(node)
    if opcode in (OPEN, OPENDIR):
        return 0, struct.pack("=QII", 1, 1, 0)  # FOPEN_DIRECT_IO
    if opcode == READ:
        _, offset, size = struct.unpack_from("=QQI", body)
        return 0, bytes(DISK[offset:offset + size])
    if opcode == WRITE:
        _, offset, size = struct.unpack_from("=QQI", body)
        DISK[offset:offset + size] = body[40:40 + size]
        if random.random() * 1000 < per_mille:
            time.sleep(delay_s * random.uniform(0.8, 1.3))
        return 0, struct.pack("=II", size, 0)
    if opcode in (RELEASE, FLUSH, FSYNC, FALLOCATE):
        return 0, b""
    return -38, b""


def main() -> None:
    """Mount and serve."""
    where, per_mille, delay_s = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]) / 1000
    fd = os.open("/dev/fuse", os.O_RDWR)
    libc = ct.CDLL(None, use_errno=True)
    options = f"fd={fd},rootmode=40000,user_id=0,group_id=0"
    if libc.mount(b"bimodal", where.encode(), b"fuse", 0, options.encode()):
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
        error, payload = answer(opcode, node, request[40:], per_mille, delay_s)
        os.write(fd, struct.pack("=IiQ", 16 + len(payload), error, unique) + payload)


if __name__ == "__main__":
    main()
