"""What the stream of `ktop collect --packed` has beside the wire's own messages: packed frames.

A packed frame is a PACKED message: one byte that says whether it is a keyframe, then the blob
(ktop.packing). On a real session that is a third of the plain stream and, unlike `ssh -C`, costs
the far end a fifth of a millisecond a frame.
"""

from __future__ import annotations

from typing import NamedTuple

from ktop.packing import MAX_BODY, Packer, PackError, Unpacker
from ktop.wire import ERROR, FRAME, HEADER, HELLO, WireError, check_hello, message

PACKED = b"P"
_KEY = b"\x01"


class Packing:
    """Packs frames' bodies for a stream that loses nothing and keeps the order."""

    def __init__(self) -> None:
        self._packer = Packer()

    def message(self, body: bytes) -> bytes:
        """The message for a frame's body. Raises PackError when it is too large."""
        packed = self._packer.pack(body)
        return message(PACKED, (_KEY if packed.key else b"\x00") + packed.data)


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
        self._key: bytes | None = None

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
        try:
            if body[:1] == _KEY:
                self._key = found = Unpacker().unpack(body[1:])
            elif self._key is None:
                raise WireError("a packed frame without its keyframe")
            else:
                found = Unpacker(self._key).unpack(body[1:])
        except PackError as err:
            raise WireError(f"a packed frame: {err}") from None
        return Came(message(FRAME, found), True)
