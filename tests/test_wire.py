"""The stream: what goes in comes out, in whatever pieces; what is no stream is refused."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktop import wire
from ktop.model import Frame
from tests.frames import make_frame


def test_frames_survive_any_cutting() -> None:
    frames = [make_frame(seq=i, processes=20) for i in range(1, 4)]
    data = b"".join(wire.encode_frame(f) for f in frames) + wire.encode_error("last words")
    for size in (1, 7, 1000, len(data)):
        reader, found = wire.Reader(), []
        for i in range(0, len(data), size):
            found += reader.feed(data[i:i + size])
        assert found == [*frames, "last words"]


def test_controls_survive() -> None:
    control = wire.Control(interval_ns=5, watch=["processes"])
    assert wire.Reader().feed(wire.encode_control(control)) == [control]


@given(st.binary(max_size=300))
def test_garbage_is_refused_or_waited_for_but_never_breaks(data: bytes) -> None:
    try:
        for message in wire.Reader().feed(data):
            assert isinstance(message, (Frame, wire.Control, str))
    except wire.WireError as err:
        assert "\n" not in str(err)


@given(st.integers(0, 400), st.integers(0, 255))
def test_a_flipped_byte_is_refused_or_harmless(at: int, value: int) -> None:
    data = bytearray(wire.encode_frame(make_frame(seq=1, processes=1)))
    data[at % len(data)] = value
    with contextlib.suppress(wire.WireError):
        wire.Reader().feed(bytes(data))


def test_a_huge_length_is_refused_before_anything_is_kept() -> None:
    with pytest.raises(wire.WireError, match="not a ktop stream"):
        wire.Reader().feed(wire.HEADER.pack(wire.FRAME, wire.MAX_BYTES + 1))


def test_another_schema_is_named() -> None:
    frame = make_frame(seq=1, processes=1)
    frame.schema = 99
    with pytest.raises(wire.WireError, match="schema 99"):
        wire.Reader().feed(wire.encode_frame(frame))
