"""Tracks for tests: moments and frames that were built, not recorded."""

from __future__ import annotations

from collections.abc import Sequence

from ktop.lens import Moment
from ktop.levels import Levels
from ktop.model import Frame
from tests.frames import SECOND, UPTIME0, WALL0, make_frame


class FakeTrack:
    """Frames one after the other; `first` can move on like a ring's."""

    def __init__(self, moments: Sequence[Moment], first: int = 0) -> None:
        self.moments = list(moments)
        self.base = self.first = first
        self.decoded: list[int] = []
        self.known: dict[int, Levels] = {}

    @property
    def end(self) -> int:
        return self.base + len(self.moments)

    def moment(self, at: int) -> Moment:
        if not self.first <= at < self.end:
            raise LookupError(at)
        return self.moments[at - self.base]

    def frame(self, at: int) -> Frame:
        moment = self.moment(at)
        self.decoded.append(at)
        made = make_frame(at + 1, processes=8)
        made.clock.wall_ns, made.clock.monotonic_ns = moment.wall_ns, moment.monotonic_ns
        made.clock.interval_ns, made.clock.gap_ns = moment.interval_ns, moment.gap_ns
        return made

    def find(self, wall_ns: int) -> int:
        found = [n for n in range(self.first, self.end) if self.moment(n).wall_ns <= wall_ns]
        return found[-1] if found else self.first

    def levels(self, begin: int, end: int) -> list[Levels | None]:
        return [self.known.get(n) for n in range(begin, end)]


def moments(number: int, start_s: float = 0, every_s: float = 1.0,
            first: bool = True) -> list[Moment]:
    """A quiet clock: one frame each `every_s`. first: the first of them is a first sample."""
    return [Moment(WALL0 + round((start_s + n * every_s) * SECOND),
                   UPTIME0 + round((start_s + n * every_s) * SECOND),
                   None if first and not n else round(every_s * SECOND), 0)
            for n in range(number)]
