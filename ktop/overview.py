"""A whole Track in a few bytes a frame: what the timeline is drawn from, at any zoom, at once.

The axis is the time that passed: the frames' monotonic clock, plus suspends; a wall clock that was
set back does not turn it round. Reading is done in slices, so that no key waits for a long file.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right
from itertools import pairwise
from typing import NamedTuple

from ktop.lens import Moment, Track
from ktop.levels import LEAST, PIPES, Levelled, Levels, levels, tight, worst
from ktop.player import SECOND, clock_step_ns, hole_ns

STEPS = 16  # of a stored height, for each doubling
HEIGHTS = 8  # levels drawn: each stands for twice as much as the one below
UNKNOWN, IDLE = 255, 254  # instead of a pipe's number
NAMED = 32  # added to it when the verdict names the pipe
SLICE = 500  # frames whose levels are kept beside them, read at once
DECODED = 4  # frames that must be decoded for their levels


class Hole(NamedTuple):
    """Time without frames: (begin, end) on the axis, before the frame at `position`."""

    begin: int
    end: int
    position: int


class Cell(NamedTuple):
    """One column. kind: `level` (height 1 to HEIGHTS, of `pipe`), `idle`, `unknown`, `gap`, or
    `none` beyond the ends. event: it holds a `gap`, or the clock was set (`step`), or nothing.
    tight: the verdict of that moment names the pipe."""

    kind: str
    height: int = 0
    pipe: str = ""
    event: str = ""
    tight: bool = False


class Overview:
    """Heights and pipes of every frame of a Track, by position."""

    def __init__(self) -> None:
        self._begin = 0  # position of what is at index 0
        self._at: array[int] = array("q")  # on the axis, ns
        self._heights = bytearray()
        self._pipes = bytearray()
        self._holes: list[Hole] = []
        self._steps: list[tuple[int, int]] = []  # (axis, ns that the clock was set by)
        self._last: Moment | None = None
        self.changes = 0  # counts up with every change

    def clear(self) -> None:
        """Forget everything: another track."""
        self._begin = 0
        for each in (self._at, self._heights, self._pipes, self._holes, self._steps):
            del each[:]
        self._last = None
        self.changes += 1

    # -- reading -------------------------------------------------------------------------------

    def take(self, track: Track) -> bool:
        """Read a slice of what is new, let go what the track forgot. True when up to date."""
        if not self._at:
            self._begin = track.first
        self._forget(track.first)
        begin = self._begin + len(self._at)
        if begin < track.first:  # all of it is gone, and more
            self.clear()
            self._begin = begin = track.first
        kept = isinstance(track, Levelled)
        end = min(track.end, begin + (SLICE if kept else DECODED))
        if begin < end:
            found = (track.levels(begin, end) if isinstance(track, Levelled)
                     else [_decoded(track, at) for at in range(begin, end)])
            for at, each in zip(range(begin, end), found, strict=False):
                self._add(track.moment(at), each)
            self.changes += 1
        return self._begin + len(self._at) >= track.end

    def _forget(self, first: int) -> None:
        gone = min(first - self._begin, len(self._at))
        if gone <= 0:
            return
        # a ring forgets a group of frames at a time
        del self._at[:gone], self._heights[:gone], self._pipes[:gone]
        self._begin += gone
        oldest = self._at[0] if self._at else 0
        self._holes = [hole for hole in self._holes if hole.end > oldest]
        self._steps = [step for step in self._steps if step[0] > oldest]
        self.changes += 1

    def _add(self, moment: Moment, found: Levels | None) -> None:
        before, self._last = self._last, moment
        at = 0
        if before is not None and self._at:
            interval = moment.interval_ns or 0
            hole, step = hole_ns(before, moment), clock_step_ns(before, moment)
            passed = moment.monotonic_ns - before.monotonic_ns + max(0, step)
            at = self._at[-1] + max(1, passed, hole + interval)
            if hole:
                self._holes.append(Hole(at - interval - hole, at - interval,
                                        self._begin + len(self._at)))
            elif step:
                self._steps.append((at, step))
        self._at.append(at)
        height, pipe = _stored(found)
        self._heights.append(height)
        self._pipes.append(pipe)

    # -- asking --------------------------------------------------------------------------------

    @property
    def span(self) -> tuple[int, int]:
        """Where the axis begins and ends, ns; the same twice for less than two frames."""
        return (self._at[0], self._at[-1]) if self._at else (0, 0)

    def axis(self, position: int) -> int:
        """Where a position is on the axis; the nearest end when it was not read (yet)."""
        if not self._at:
            return 0
        return self._at[max(0, min(position - self._begin, len(self._at) - 1))]

    def position(self, axis: int) -> int:
        """The frame that is newest at a point of the axis."""
        return self._begin + max(0, bisect_right(self._at, axis) - 1)

    def columns(self, width: int, begin: int, end: int) -> list[Cell]:
        """The span in so many equal columns: of each the moment that was worst."""
        length = max(1, end - begin)
        edges = [begin + length * n // width for n in range(width + 1)]
        edges[-1] = max(edges[-1], end)
        found = [self._column(low, high, not n)
                 for n, (low, high) in enumerate(pairwise(edges))]
        for hole in self._holes:
            _note(found, edges, hole.begin, "gap")
        for at, _ in self._steps:
            _note(found, edges, at, "step")
        return found

    def _column(self, low: int, high: int, first: bool) -> Cell:
        """Frames that were taken in (low, high]; the first column also has one taken at low."""
        a = bisect_left(self._at, low) if first else bisect_right(self._at, low)
        b = bisect_right(self._at, high)
        if a == b:
            if b >= len(self._at) or not a:
                return Cell("none")
            if self._in_hole((low + high) // 2):
                return Cell("gap")
            b = a + 1  # no frame ended here: the next one speaks for this time
        most = max(self._heights[a:b])
        at = self._heights.index(most, a, b)
        if most:
            pipe = self._pipes[at]
            return Cell("level", min(HEIGHTS, 1 + (most - 1) // STEPS), PIPES[pipe % NAMED],
                        tight=pipe >= NAMED)
        return Cell("idle" if IDLE in self._pipes[a:b] else "unknown")

    def _in_hole(self, axis: int) -> bool:
        number = bisect_right(self._holes, axis, key=lambda hole: hole.begin) - 1
        return number >= 0 and axis < self._holes[number].end


def _note(found: list[Cell], edges: list[int], at: int, event: str) -> None:
    if edges[0] < at <= edges[-1]:
        number = min(len(found) - 1, max(0, bisect_left(edges, at) - 1))
        found[number] = found[number]._replace(event=event)


def _decoded(track: Track, at: int) -> Levels | None:
    try:
        return levels(track.frame(at))
    except LookupError:
        return None


def _stored(found: Levels | None) -> tuple[int, int]:
    """(height, pipe's number): 0 for nothing held up, or nothing known."""
    most = worst(found)
    if most is None:
        known = found is not None and (found.cpu is not None or found.state is not None)
        return 0, IDLE if known else UNKNOWN
    pipe, stalled = most
    height = 1 + int(STEPS * math.log2(max(stalled, LEAST) / LEAST))
    return min(255, height), PIPES.index(pipe) + NAMED * tight(found)


def span_text(ns: int) -> str:
    """How much time a timeline shows: 42s, 12m, 24h."""
    seconds = round(ns / SECOND)
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            value = seconds / size
            return f"{value:.0f}{unit}" if value >= 10 else f"{value:.1f}".removesuffix(".0") + unit
    return f"{seconds}s"
