"""What the stream of `ktop collect --packed` has beside the wire's own messages: packed frames.

All packed frames of a connection are one zstandard stream, flushed after each: a frame costs what
is new in it. On a busy host that is half of what `ssh -C` makes of the plain stream (zlib forgets
after 32 KB) for half its CPU time.
"""

from __future__ import annotations

from typing import NamedTuple

import zstandard

from ktop.packing import MAX_BODY
from ktop.wire import ERROR, FRAME, HEADER, HELLO, WireError, check_hello, message

PACKED = b"P"
LEVEL = 3
WINDOW = 8 << 20  # what the stream remembers, at most
STEP = 256  # bytes unpacked at a time: what they can become is bounded (64 blocks of 128 KB)


class Packing:
    """Packs frames' bodies for a stream that loses nothing and keeps the order."""

    def __init__(self) -> None:
        self._stream = zstandard.ZstdCompressor(level=LEVEL).compressobj()

    def message(self, body: bytes) -> bytes:
        """The message for a frame's body. Raises WireError when it is too large."""
        if len(body) > MAX_BODY:
            raise WireError(f"a frame of {len(body) >> 20} MB: at most {MAX_BODY >> 20}")
        return message(PACKED, self._stream.compress(body)
                       + self._stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK))


class Came(NamedTuple):
    """A message that arrived, as the plain wire has it. frame: it holds a frame."""

    data: bytes
    frame: bool


class Unpacking:
    """Turns the bytes of a packed stream into messages of the plain one, one at a time.

    Nothing is decoded but the packing; what is too large to be a frame is not waited for.
    """

    def __init__(self, begin: bytes = b"") -> None:
        self._buffer = bytearray(begin)
        self._stream = zstandard.ZstdDecompressor(max_window_size=WINDOW).decompressobj()

    def feed(self, data: bytes) -> None:
        """More of it came."""
        self._buffer += data

    def next(self) -> Came | None:
        """The next whole message, None until more has come. Raises WireError on a broken stream."""
        while len(self._buffer) >= HEADER.size:
            kind, length = HEADER.unpack_from(self._buffer)
            if kind not in (PACKED, FRAME, ERROR, HELLO) or length > MAX_BODY + 1:
                raise WireError("not a ktop stream")
            end = HEADER.size + length
            if len(self._buffer) < end:
                return None
            body = bytes(memoryview(self._buffer)[HEADER.size:end])
            del self._buffer[:end]
            if kind != HELLO:
                return self._plain(kind, body)
            check_hello(body)
        return None

    def _plain(self, kind: bytes, body: bytes) -> Came:
        if kind != PACKED:
            return Came(message(kind, body), kind == FRAME)
        found = bytearray()
        try:
            for at in range(0, len(body), STEP):
                found += self._stream.decompress(body[at:at + STEP])
                if len(found) > MAX_BODY:
                    raise WireError("a packed frame that is larger than a frame can be")
        except (zstandard.ZstdError, MemoryError):
            raise WireError("a packed frame is damaged") from None
        return Came(message(FRAME, bytes(found)), True)
