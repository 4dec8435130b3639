"""Reading a ring buffer: a memfd laid out as the kernel lays out the map (kernel/bpf/ringbuf.c)."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator

import pytest

from ktop.bpf.ringbuf import RingBuffer

SIZE = mmap.PAGESIZE
BUSY, DISCARD = 1 << 31, 1 << 30


class Kernel:
    """The producer: writes records and moves its position."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("ring")
        os.ftruncate(self.fd, 2 * mmap.PAGESIZE + SIZE)
        self.produced = 0

    def put(self, data: bytes, flags: int = 0) -> None:
        record = struct.pack("=II", len(data) | flags, 0) + data
        record += bytes(-len(record) % 8)
        for i, byte in enumerate(record):
            where = 2 * mmap.PAGESIZE + (self.produced + i) % SIZE
            os.pwrite(self.fd, bytes([byte]), where)
        self.produced += len(record)
        os.pwrite(self.fd, struct.pack("=Q", self.produced), mmap.PAGESIZE)

    def consumed(self) -> int:
        return int(struct.unpack("=Q", os.pread(self.fd, 8, 0))[0])


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    one = Kernel()
    yield one
    os.close(one.fd)


@pytest.fixture
def ring(kernel: Kernel) -> Iterator[RingBuffer]:
    one = RingBuffer(kernel.fd, SIZE)
    yield one
    one.close()


def test_records_come_in_order_and_are_given_back(kernel: Kernel, ring: RingBuffer) -> None:
    for data in (b"one", b"", b"three" * 9):
        kernel.put(data)
    assert ring.drain() == [b"one", b"", b"three" * 9]
    assert kernel.consumed() == kernel.produced
    assert ring.drain() == []


def test_a_discarded_record_is_skipped_and_a_busy_one_waited_for(
        kernel: Kernel, ring: RingBuffer) -> None:
    kernel.put(b"kept")
    kernel.put(b"thrown away", DISCARD)
    at = kernel.produced
    kernel.put(b"not yet", BUSY)
    kernel.put(b"after it")
    assert ring.drain() == [b"kept"]
    assert kernel.consumed() == at
    os.pwrite(kernel.fd, struct.pack("=I", 7), 2 * mmap.PAGESIZE + at)
    assert ring.drain() == [b"not yet", b"after it"]


@pytest.mark.parametrize("short", range(8, 80, 8))
def test_a_record_that_wraps_is_whole(kernel: Kernel, ring: RingBuffer, short: int) -> None:
    """Its header ends `short` bytes before the end of the data, at 0 exactly at the end."""
    kernel.put(bytes(SIZE - 8 - short))
    assert len(ring.drain()[0]) == SIZE - 8 - short
    data = bytes(range(60))
    kernel.put(data)
    kernel.put(b"next")
    assert ring.drain() == [data, b"next"]
    assert kernel.consumed() == kernel.produced
