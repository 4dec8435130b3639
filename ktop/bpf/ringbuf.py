"""Reader of a BPF ring buffer by mmap: copies what is there, never waits, never wakes anyone.

Layout (kernel/bpf/ringbuf.c): page 0 is the consumer position, page 1 the producer position, then
the data. A record is a 32-bit length with a busy and a discard bit, 32 bits the kernel uses, and
the data padded to 8. The kernel offers the data twice in a row so that no record wraps; all that is
mapped is resident at once, so we map it once and put a record that wraps together.
"""

from __future__ import annotations

import mmap
import struct

_BUSY, _DISCARD = 1 << 31, 1 << 30
_HEADER = 8


class RingBuffer:
    """One reader of one ring buffer map of `size` bytes (its max_entries)."""

    def __init__(self, fd: int, size: int) -> None:
        page = mmap.PAGESIZE
        self._size = size
        self._consumer = mmap.mmap(fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._rest = mmap.mmap(fd, page + size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        # One aligned 64-bit load or store each: a torn position would be a wrong one.
        self._consumed = memoryview(self._consumer)[:8].cast("Q")
        self._produced = memoryview(self._rest)[:8].cast("Q")
        self._data = memoryview(self._rest)[page:]

    def drain(self, limit: int = 1 << 20) -> list[bytes]:
        """Every complete record up to now, oldest first, at most `limit`."""
        position, end = self._consumed[0], self._produced[0]
        found: list[bytes] = []
        while position < end and len(found) < limit:
            start = position & (self._size - 1)
            (length,) = struct.unpack_from("=I", self._data, start)
            if length & _BUSY:
                break
            size = length & ~_DISCARD
            if not length & _DISCARD:
                found.append(self._bytes(start + _HEADER, size))
            position += (size + _HEADER + 7) & ~7
        self._consumed[0] = position
        return found

    def _bytes(self, start: int, size: int) -> bytes:
        """Records are aligned to 8, so a header never wraps; what follows it may."""
        found = bytes(self._data[start:start + size])
        return found + bytes(self._data[:size - len(found)]) if len(found) < size else found

    def close(self) -> None:
        """Unmap."""
        for view in (self._consumed, self._produced, self._data):
            view.release()
        self._consumer.close()
        self._rest.close()
