"""Until ktop.rewind is there: the last frames as they are."""

from __future__ import annotations

from ktop.lens import Moment
from ktop.model import Frame


class Ring:
    """The last 600 frames."""

    def __init__(self) -> None:
        self._frames: list[Frame] = []
        self.first = 0

    @property
    def end(self) -> int:
        """One past the newest."""
        return self.first + len(self._frames)

    def add(self, frame: Frame) -> int:
        """Take a frame; its position."""
        self._frames.append(frame)
        if len(self._frames) > 600:
            del self._frames[0]
            self.first += 1
        return self.end - 1

    def frame(self, at: int) -> Frame:
        """The frame at a position."""
        if not self.first <= at < self.end:
            raise LookupError(at)
        return self._frames[at - self.first]

    def moment(self, at: int) -> Moment:
        """When that was."""
        clock = self.frame(at).clock
        return Moment(clock.wall_ns, clock.monotonic_ns, clock.interval_ns, clock.gap_ns)

    def find(self, wall_ns: int) -> int:
        """The last position at or before."""
        at = self.first
        for n in range(self.first, self.end):
            if self.moment(n).wall_ns <= wall_ns:
                at = n
        return at
