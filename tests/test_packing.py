"""Packing: what goes in comes out, and nothing else is believed."""

from __future__ import annotations

import contextlib
import os

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from ktop.packing import GROUP, MAX_BODY, Packer, PackError, Unpacker, body_size
from ktop.wire import decode_body, encode_body
from tests import session


def test_every_frame_is_read_with_its_keyframe_and_itself():
    packer, key = Packer(), b""
    frames = session.frames()
    for number, frame in enumerate(frames):
        body = encode_body(frame)
        packed = packer.pack(body)
        assert packed.key == (number % GROUP == 0)
        if packed.key:
            key = Unpacker().unpack(packed.data)
            assert key == body
        else:
            assert Unpacker(key).unpack(packed.data) == body
            assert len(packed.data) < len(body) / 2
        assert body_size(packed.data) == len(body)
        assert decode_body(body) == frame


def test_a_body_beyond_the_limit_is_refused_on_both_sides():
    with pytest.raises(PackError, match="MB"):
        Packer().pack(bytes(MAX_BODY + 1))
    assert len(Unpacker().unpack(Packer().pack(bytes(MAX_BODY)).data)) == MAX_BODY


def bombs() -> dict[str, bytes]:
    """Blobs that would grow without end."""
    honest = zstandard.ZstdCompressor(level=19).compress(bytes(MAX_BODY * 8))
    stream = zstandard.ZstdCompressor().compressobj()
    nameless = stream.compress(bytes(1 << 26)) + stream.flush()
    # the size in the header made smaller: 4 bytes at offset 5 of a single-segment frame
    low = zstandard.ZstdCompressor(write_checksum=True).compress(bytes(1 << 20))
    at = low.index((1 << 20).to_bytes(4, "little"))
    lying = low[:at] + (1000).to_bytes(4, "little") + low[at + 4:]
    return {"honest": honest, "without a size": nameless, "lying": lying,
            "twice": Packer().pack(b"x" * 100).data * 2}


@pytest.mark.parametrize("name", ["honest", "without a size", "lying", "twice"])
def test_a_bomb_is_refused(name):
    blob = bombs()[name]
    assert len(blob) < 1 << 16
    for unpacker in (Unpacker(), Unpacker(b"a keyframe's body")):
        with pytest.raises(PackError):
            unpacker.unpack(blob)


def test_every_flipped_bit_is_noticed():
    body = encode_body(session.frames()[0])[:4000]
    blob = Packer().pack(body).data
    for position in range(len(blob)):
        bad = bytearray(blob)
        bad[position] ^= 1 << position % 8
        with contextlib.suppress(PackError):
            assert Unpacker().unpack(bytes(bad)) == body  # a bit that means nothing to zstd


def test_the_wrong_keyframe_is_noticed():
    packer = Packer()
    first = os.urandom(5000)
    packer.pack(first)
    blob = packer.pack(first[:4000] + b"tail").data
    with pytest.raises(PackError):
        Unpacker(bytes(5000)).unpack(blob)
    with pytest.raises(PackError):
        Unpacker().unpack(blob)


@given(st.binary(max_size=300))
def test_anything_else_is_refused(data):
    for unpacker in (Unpacker(), Unpacker(b"key")):
        with pytest.raises(PackError):
            unpacker.unpack(data)
