"""The past by position, and the lens that looks at it through a scope.

A lens holds the frame in view, narrowed to its scope, and the History that leads up to it. Moving
to another position, or looking through another scope, shows the frame at once; what of its past is
not known yet is made up for in slices (`work`), so that no key ever waits for it.
"""

from __future__ import annotations

import copy
import time
from typing import NamedTuple, Protocol

from ktop.diagnosis.engine import Diagnosis
from ktop.diagnosis.model import Report
from ktop.diagnosis.thresholds import Thresholds
from ktop.folds import WINDOW_NS, Folds
from ktop.history import SECOND, History
from ktop.model import Frame
from ktop.narrow import narrow
from ktop.scope import Roster, Scope

BACK_NS = 300 * SECOND  # how much of the past is made up for: what the charts show


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


class NoTrack:
    """A track without frames."""

    first = end = 0

    def frame(self, at: int) -> Frame:
        """There is none."""
        raise LookupError(at)

    def moment(self, at: int) -> Moment:
        """There is none."""
        raise LookupError(at)

    def find(self, wall_ns: int) -> int:
        """Nothing to find."""
        return 0


class _Past:
    """A History and the position up to which it is filled, in order; and the diagnosis of it."""

    def __init__(self, scope: Scope, filled: int, limits: Thresholds | None) -> None:
        self.history = History()
        self.filled = filled
        self.begin = filled + 1  # the first position in it
        self.roster = Roster(scope)
        self.scope = scope
        self.diagnosis = Diagnosis(limits) if limits is not None else None

    def seen(self, whole: Frame) -> Frame:
        """A frame as the scope sees it."""
        return narrow(whole, self.roster.members(whole)) if self.scope else whole

    def add(self, whole: Frame) -> Frame:
        """The next frame."""
        members = self.roster.members(whole) if self.scope else None
        frame = narrow(whole, members) if members is not None else whole
        report = self.diagnosis.update(whole, members) if self.diagnosis is not None else None
        self.history.add(frame, report)
        self.filled += 1
        return frame

    def covers(self, begin: int, moment: Moment) -> bool:
        """Whether everything from a position on is there, or can be had by going on."""
        ticks = self.history.ticks
        return (self.begin <= begin <= self.filled + 1 and bool(ticks)
                and ticks[0].monotonic_ns <= moment.monotonic_ns)


class Lens:
    """What is in view: `whole` as it was taken, `frame` as the scope sees it, and its past.

    before: the host's past, for the events that the scope's own begins with. limits: what diagnosis
    judges by, for a report on each tick of the past; None: no reports.
    """

    def __init__(self, track: Track, scope: Scope, before: History | None = None,
                 limits: Thresholds | None = None) -> None:
        self.track = track
        self.scope = scope
        self.whole: Frame | None = None
        self.frame: Frame | None = None
        self.at = -1  # position of `whole`
        self._before = before
        self._limits = limits
        self._past = _Past(scope, -1, limits)
        self._next: _Past | None = None  # a fuller past, being made
        self._view: tuple[_Past, int, History] | None = None  # of `_past`, up to a position

    def take(self, whole: Frame, at: int) -> None:
        """The first frame, or the next one."""
        if self.at < 0:
            self._begin(whole, at)
        self.whole, self.at = whole, at
        if self._past.filled == at - 1:
            self.frame = self._fold(self._past.add(whole))
        else:
            self._aim(at)
            self.frame = self._fold(self._past.seen(whole))

    def seek(self, at: int) -> None:
        """The frame at another position. Raises what the track raises."""
        whole = self.track.frame(at)
        self.whole, self.at = whole, at
        self._aim(at)
        straight = self._next is None and self._past.filled == at - 1
        self.frame = self._fold(self._past.add(whole) if straight else self._past.seen(whole))

    def _begin(self, whole: Frame, at: int) -> None:
        """A scope's events are there at once, its ticks in slices."""
        self._past.filled, self._past.begin = at - 1, at
        if self.scope and self._before is not None:
            before = self._before.until(whole.clock.monotonic_ns - 1)  # `whole` is added apart
            self._past.history = before.narrowed(self._past.roster.members(whole))
        if self.track.first < at < self.track.end:
            self._next = _Past(self.scope, self._begin_of(at) - 1, self._limits)

    def _aim(self, at: int) -> None:
        """The past is to lead up to this position."""
        begin = self._begin_of(at)
        moment = self.track.moment(begin)
        if self._past.covers(begin, moment):
            self._next = None
        elif self._next is None or not self._next.covers(begin, moment):
            self._next = _Past(self.scope, begin - 1, self._limits)

    def _begin_of(self, at: int) -> int:
        """Where the past of a position begins that its charts show."""
        return max(self.track.first, self.track.find(self.track.moment(at).wall_ns - BACK_NS))

    def _fold(self, frame: Frame) -> Frame:
        """Folds are kept by control group: those of processes are counted from their events."""
        if self.scope and (self.scope.pid is not None or self.scope.comm is not None):
            history = self.history
            now = frame.clock.wall_ns
            start = history.ticks[0].wall_ns if history.ticks else now
            folds = Folds(start)
            for fed in reversed(history.events()):
                if fed.event.time_ns > now - WINDOW_NS:
                    folds.add(fed.event, fed.event.time_ns)
            frame.processes.folds = folds.rows(now)
        return frame

    @property
    def behind(self) -> bool:
        """Whether some of the past is still to be made up for."""
        return self._next is not None or self._past.filled < self.at

    def work(self, budget_s: float) -> bool:
        """Make up for some of the past. True while there is more to do."""
        into = self._next or self._past
        deadline = time.monotonic() + budget_s
        while into.filled < self.at:
            try:
                into.add(self.track.frame(into.filled + 1))
            except LookupError:
                into.filled += 1  # forgotten or damaged: a gap
            if time.monotonic() >= deadline:
                return into.filled < self.at or self._done()
        return self._done()

    def _done(self) -> bool:
        if self._next is not None:
            self._past, self._next = self._next, None
        return False

    @property
    def report(self) -> Report | None:
        """What the diagnosis made of the frame in view; None where it has not come so far."""
        newest = self.history.newest
        if newest is None or self.whole is None:
            return None
        return newest.report if newest.monotonic_ns == self.whole.clock.monotonic_ns else None

    def aside(self) -> Diagnosis | None:
        """The diagnosis as it stands, to go on apart from what is in view."""
        return copy.deepcopy(self._past.diagnosis)

    @property
    def history(self) -> History:
        """The past that leads up to the frame in view."""
        past = self._past
        if self.whole is None or self.at >= past.filled:
            return past.history
        if self._view is None or self._view[0] is not past or self._view[1] != self.at:
            self._view = past, self.at, past.history.until(self.whole.clock.monotonic_ns)
        return self._view[2]
