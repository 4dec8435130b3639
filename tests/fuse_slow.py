"""A FUSE filesystem of one file whose reads take as long as asked: the test's slow mount.

Run as `fuse_slow.py MOUNTPOINT DELAY_MS`, ended by SIGKILL (then umount). Speaks just enough of
the protocol (include/uapi/linux/fuse.h, 7.31): the file "slow" of 1 MiB, read without a cache.
"""

from __future__ import annotations

import ctypes as ct
import os
import struct
import sys
import time

LOOKUP, GETATTR, OPEN, READ, RELEASE, FLUSH, INIT, OPENDIR = 1, 3, 14, 15, 18, 25, 26, 27
FORGET, BATCH_FORGET, INTERRUPT = 2, 42, 36
SIZE = 1 << 20
SILENT = {FORGET, BATCH_FORGET, INTERRUPT}


def attributes(node: int) -> bytes:
    mode, size = (0o40755, 0) if node == 1 else (0o100644, SIZE)
    return struct.pack("=6Q3I7I", node, size, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def answer(opcode: int, node: int, body: bytes, delay_s: float) -> tuple[int, bytes]:
    """(error, payload) of one request."""
    if opcode == INIT:
        return 0, struct.pack("=IIIIHHIII", 7, 31, 65536, 0, 4, 3, 1 << 17, 1, 0) + bytes(28)
    if opcode == LOOKUP:
        if body.rstrip(b"\0") != b"slow":
            return -2, b""
        return 0, struct.pack("=QQQQII", 2, 0, 0, 0, 0, 0) + attributes(2)
    if opcode == GETATTR:
        return 0, struct.pack("=QII", 0, 0, 0) + attributes(node)
    if opcode in (OPEN, OPENDIR):
        return 0, struct.pack("=QII", 1, 1, 0)  # FOPEN_DIRECT_IO
    if opcode == READ:
        _, offset, size = struct.unpack_from("=QQI", body)
        if offset >= SIZE // 2:  # the second half is slow
            time.sleep(delay_s)
        return 0, b"x" * min(size, SIZE - offset)
    if opcode in (RELEASE, FLUSH):
        return 0, b""
    return -38, b""


def main() -> None:
    where, delay_s = sys.argv[1], int(sys.argv[2]) / 1000
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
        error, payload = answer(opcode, node, request[40:], delay_s)
        os.write(fd, struct.pack("=IiQ", 16 + len(payload), error, unique) + payload)


if __name__ == "__main__":
    main()
