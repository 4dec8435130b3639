"""The past by position, and the eye that looks at it through a scope."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from ktop.model import Frame


class Moment(NamedTuple):
    """When a frame was taken; as in ktop.model.Clock."""

    wall_ns: int
    monotonic_ns: int
    interval_ns: int | None
    gap_ns: int


class Track(Protocol):
    """Frames by position, oldest first: the memory of a live session, or a recording.

    A position belongs to one frame for good: a ring that forgets its oldest frame moves `first` on.
    """

    @property
    def first(self) -> int:
        """Position of the oldest frame."""

    @property
    def end(self) -> int:
        """One past the position of the newest; equal to `first` when there is none."""

    def frame(self, at: int) -> Frame:
        """The frame at a position. Raises LookupError where there is none (any more)."""

    def moment(self, at: int) -> Moment:
        """When that was, without decoding it."""

    def find(self, wall_ns: int) -> int:
        """The last position at or before a time of day; `first` when all are later."""
