"""What the tests of scoped layers share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec

from ktop.model import Block, Files, Frame, Tcp
from ktop.scope import Members
from tests.frames import make_frame

L = TypeVar("L", Block, Files, Tcp)


def frame_with(layer: Block | Files | Tcp) -> Frame:
    frame = make_frame(2)
    setattr(frame, type(layer).__name__.lower(), layer)
    return frame


def untouched(narrow: Callable[[L, Members, Frame], L], layer: L, members: Members) -> L:
    """The layer as those members see it; it stays as it is itself, for others look too."""
    before = msgspec.msgpack.encode(layer)
    found = narrow(layer, members, frame_with(layer))
    assert msgspec.msgpack.encode(layer) == before
    return found
