"""The packed stream of a remote ktop with pieces lost, doubled, out of order, put in or broken."""

from __future__ import annotations

import functools

from hypothesis import example, given
from hypothesis import strategies as st

from ktop.border import harmless
from ktop.model import Frame
from ktop.remote_wire import Packing, Unpacking
from ktop.wire import (
    ERROR,
    FRAME,
    Reader,
    WireError,
    decode_body,
    encode_body,
    encode_error,
    encode_frame,
    encode_hello,
    message,
)
from tests.frames import make_frame
from tests.fuzz import bounded

COUNT = 6


@functools.cache
def stream() -> tuple[bytes, ...]:
    """Messages as a far ktop writes them: its hello, then frames, each packed against the rest."""
    packing = Packing()
    return (encode_hello(), *(packing.message(encode_body(make_frame(n, 30)))
                              for n in range(1, COUNT + 1)))


@functools.cache
def strangers() -> tuple[bytes, ...]:
    """What else may come in between."""
    other = Packing()
    return (encode_hello(), encode_error("last words\x1b[2J"), encode_frame(make_frame(9, 3)),
            other.message(encode_body(make_frame(9, 3))), other.message(b""), message(b"P", b""),
            message(FRAME, b""), message(ERROR, b"\xff"), b"Last login: today\r\n", b"\0" * 64)


Change = tuple[str, int, int]
CHANGES = st.lists(st.tuples(
    st.sampled_from(["lose", "double", "swap", "put in", "flip", "cut", "graft"]),
    st.integers(0, 1 << 16), st.integers(0, 1 << 16)), min_size=1, max_size=3)


def spoilt(changes: list[Change]) -> tuple[list[bytes], int]:
    """The pieces, and how many of the first are as they were."""
    pieces, whole = list(stream()), COUNT + 1
    for kind, where, how in changes:
        if not pieces:
            break
        at, other = where % len(pieces), how % len(pieces)
        piece = pieces[at]
        if kind == "lose":
            del pieces[at]
        elif kind == "double":
            pieces.insert(at, piece)
        elif kind == "swap":
            pieces[at], pieces[other] = pieces[other], piece
        elif kind == "put in":
            pieces.insert(at, strangers()[how % len(strangers())])
        elif kind == "flip" and piece:
            spot = how % len(piece)
            pieces[at] = piece[:spot] + bytes([piece[spot] ^ 1 << how % 8]) + piece[spot + 1:]
        elif kind == "cut":
            pieces[at] = piece[:how % (len(piece) + 1)]
        elif kind == "graft":  # the head of one, the rest of another
            spot = how % (len(piece) + 1)
            pieces[at] = piece[:spot] + pieces[other][spot:]
        whole = min(whole, at, other if kind == "swap" else at)
    return pieces, whole


def read(data: bytes, step: int) -> tuple[list[Frame | str], str]:
    """What a local ktop makes of it, bytes coming in that step; and why it stopped."""
    unpacking, reader = Unpacking(), Reader()
    found: list[Frame | str] = []
    try:
        for at in range(0, len(data), step):
            unpacking.feed(data[at:at + step])
            while (came := unpacking.next()) is not None:
                for said in reader.feed(came.data):
                    assert isinstance(said, Frame | str)
                    found.append(harmless(said) if isinstance(said, Frame) else said)
    except WireError as err:
        assert "\n" not in str(err)
        return found, str(err)
    return found, ""


def test_as_it_is_all_of_it_comes() -> None:
    for step in (1 << 20, 4096, 7):
        found, why = read(b"".join(stream()), step)
        assert why == "" and found == [make_frame(n, 30) for n in range(1, COUNT + 1)]


@bounded(120)
@given(changes=CHANGES, step=st.sampled_from([1 << 20, 4096, 61]))
@example(changes=[("lose", 2, 0)], step=4096)
@example(changes=[("double", 2, 0)], step=4096)
@example(changes=[("swap", 2, 3)], step=4096)
def test_what_is_spoilt_is_refused_in_one_line_or_harmless(changes: list[Change],
                                                           step: int) -> None:
    """What came before the damage has come whole; what comes after it is a frame, or nothing."""
    pieces, whole = spoilt(changes)
    found, _ = read(b"".join(pieces), step)
    frames = [make_frame(n, 30) for n in range(1, max(1, whole))]
    assert found[:len(frames)] == frames
    for said in found[len(frames):]:
        if isinstance(said, Frame):
            decode_body(encode_body(said))
