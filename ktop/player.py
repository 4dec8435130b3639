"""Where we are on a Track, and how time goes on there. Pure: the caller says how much time passed.

A live session follows its newest frame until somebody steps back; a recording is played, at a
speed, by the frames' own intervals. Time of which there are no frames is not waited for.
"""

from __future__ import annotations

from bisect import bisect_right

from ktop import format as fmt
from ktop import when
from ktop.lens import Moment, Track

SECOND = 1_000_000_000
MINUTE = 60 * SECOND
SPEEDS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
GAP_NS = 3 * SECOND  # a pause between frames that is longer is one to tell of...
GAP_INTERVALS = 3  # ... when it is also as many of their intervals
NOTHING = "no samples so far"
STEP_NS = SECOND // 2  # wall clock against monotonic clock: less is the clock being trimmed


def hole_ns(before: Moment, now: Moment) -> int:
    """Time between two frames that follow each other for which neither speaks; 0 without a hole.

    A suspend is one; so is a step of the clock forward, which cannot be told from it.
    """
    passed = now.monotonic_ns - before.monotonic_ns
    if passed <= 0:  # another boot
        passed = max(0, now.wall_ns - before.wall_ns)
    else:
        passed += max(0, clock_step_ns(before, now))
    missing = passed - (now.interval_ns or 0)
    usual = now.interval_ns or before.interval_ns or 0
    return missing if missing > max(GAP_NS, GAP_INTERVALS * usual) else 0


def clock_step_ns(before: Moment, now: Moment) -> int:
    """How much further the wall clock went than the monotonic one; 0 when they went together."""
    passed = now.monotonic_ns - before.monotonic_ns
    if passed <= 0:
        return 0
    step = now.wall_ns - before.wall_ns - passed
    return step if abs(step) >= STEP_NS else 0


def happened(before: Moment, now: Moment) -> str:
    """One line on what lies between two frames that follow each other; empty when nothing does."""
    if now.monotonic_ns <= before.monotonic_ns:
        return "the machine was started anew, or it is another one"
    step = clock_step_ns(before, now)
    if step < 0:
        return f"the clock was set back by {fmt.duration(-step)}"
    if step and step >= now.monotonic_ns - before.monotonic_ns:
        return f"gap of {fmt.duration(step)}: a suspend, or the clock was set forward"
    hole = hole_ns(before, now)
    if hole:
        return f"gap of {fmt.duration(hole)}: no samples"
    return f"the clock was set forward by {fmt.duration(step)}" if step else ""


def speed_text(speed: float) -> str:
    """1/4x, 1x, 64x."""
    return f"{speed:g}x" if speed >= 1 else f"1/{round(1 / speed)}x"


class Player:
    """A position on a Track. `live`: the track grows, and its end is now.

    Methods that move return one line for the user, empty when there is nothing to say.
    """

    def __init__(self, track: Track, live: bool = False) -> None:
        self.track = track
        self.live = live
        self.playing = False
        self.speed = 1.0
        self._at: int | None = None if live else track.first
        self._credit_ns = 0.0  # time played that no frame has used up

    # -- where ---------------------------------------------------------------------------------

    @property
    def following(self) -> bool:
        """Live, at the newest frame, and staying there."""
        return self._at is None

    @property
    def last(self) -> int:
        """Position of the newest frame; -1 while there is none at all."""
        return self.track.end - 1

    @property
    def at(self) -> int:
        """The position of the frame to show, always one that is (still) there if any is."""
        if self._at is None:
            return self.last
        return max(self.track.first, min(self._at, self.last))

    @property
    def empty(self) -> bool:
        """No frame to show."""
        return self.track.end <= self.track.first

    @property
    def behind_ns(self) -> int:
        """How long before the newest frame this is, as clocks on the wall have it; never less
        than 0."""
        if self.empty:
            return 0
        return max(0, self.track.moment(self.last).wall_ns - self.track.moment(self.at).wall_ns)

    @property
    def end_name(self) -> str:
        """What the newest frame is called."""
        return "now" if self.live else "the end"

    def forgotten(self) -> str:
        """A ring moves on: where we were may be gone. Says so, once."""
        if self._at is not None and self._at < self.track.first:
            self._at = self.track.first
            return "older samples have left the memory: this is the oldest"
        return ""

    # -- moving --------------------------------------------------------------------------------

    def seek(self, at: int) -> None:
        """To a position, or to the nearest that is there. The end of a live track is now."""
        self._credit_ns = 0.0
        if self.empty:
            return
        self._at = max(self.track.first, min(at, self.last))
        if self.live and at >= self.last:
            self.to_end()

    def to_end(self) -> str:
        """To the newest frame: a live session follows again, a recording stands at its end."""
        self._credit_ns = 0.0
        self._at = None if self.live else max(self.track.first, self.last)
        self.playing = False
        return ""

    def hold(self) -> None:
        """Stay at the newest frame while others come: the picture stands still."""
        if self._at is None and not self.empty:
            self._at = self.last
        self.playing = False

    def step(self, frames: int) -> str:
        """So many frames on, or back. Playing ends: somebody looks closely."""
        self.playing = False
        if self.empty:
            return NOTHING
        before = self.at
        if frames < 0 and before == self.track.first:
            self.hold()
            return self._oldest()
        if frames > 0 and before == self.last:
            self.to_end()
            return "this is " + self.end_name
        self.seek(before + frames)
        return "this is now" if self.following else self._between(before)

    def minutes(self, minutes: float) -> str:
        """So many minutes on, or back, in the time that frames speak for."""
        if self.empty:
            return NOTHING
        before = self.at
        if minutes < 0 and before == self.track.first:
            self.hold()
            return self._oldest()
        if minutes > 0 and before == self.last:
            self.to_end()
            return "this is " + self.end_name
        wanted = self.track.moment(before).wall_ns + round(minutes * MINUTE)
        to = self.position(wanted)
        if to == before:  # in a hole, or before a clock that was set back
            to += 1 if minutes > 0 else -1
        # a clock that was set back must not send us the other way
        self.seek(max(to, before + 1) if minutes > 0 else min(to, before - 1))
        return ""

    def to_time(self, wall_ns: int) -> str:
        """To the frame that was newest at a time of day."""
        if self.empty:
            return NOTHING
        first, last = self.track.moment(self.track.first), self.track.moment(self.last)
        day = not when.same_day(first.wall_ns, last.wall_ns) or not when.same_day(
            wall_ns, last.wall_ns)
        if wall_ns < first.wall_ns:
            self.seek(self.track.first)
            if self.live and self._at is None:
                self._at = self.track.first
            return f"nothing before {when.clock(first.wall_ns, day)}: this is the oldest"
        if wall_ns > last.wall_ns + (last.interval_ns or SECOND):
            self.to_end()
            return f"nothing after {when.clock(last.wall_ns, day)}: this is {self.end_name}"
        self.seek(self.position(wall_ns))
        here = self.track.moment(self.at)
        off = wall_ns - here.wall_ns
        if off > max(GAP_NS, GAP_INTERVALS * (here.interval_ns or 0)):
            return (f"no samples at {when.clock(wall_ns, day)}: "
                    f"the last before it is of {when.clock(here.wall_ns, day)}")
        return ""

    def position(self, wall_ns: int) -> int:
        """The frame that was newest at a time of day."""
        return max(self.track.first, min(self.track.find(wall_ns), self.last))

    def _oldest(self) -> str:
        return "this is the oldest in memory" if self.live else "this is the beginning"

    def _between(self, before: int) -> str:
        """What lies between here and a neighbour that we came from."""
        low, high = sorted((before, self.at))
        if high - low != 1:
            return ""
        return happened(self.track.moment(low), self.track.moment(high))

    # -- playing -------------------------------------------------------------------------------

    def play(self) -> str:
        """On from here; from the end of a recording, from its beginning."""
        if not self.live and self.at >= self.last:
            self.seek(self.track.first)
        self._credit_ns = 0.0
        self.playing = not self.following and not self.empty
        return ""

    def toggle(self) -> str:
        """Play or pause."""
        if not self.playing:
            return self.play()
        self.playing = False
        return ""

    def faster(self, step: int) -> str:
        """The next speed up or down."""
        number = max(0, min(bisect_right(SPEEDS, self.speed) - 1 + step, len(SPEEDS) - 1))
        if SPEEDS[number] == self.speed:
            return f"{speed_text(self.speed)} is as far as it goes"
        self.speed = SPEEDS[number]
        return f"plays at {speed_text(self.speed)}"

    def advance(self, passed_ns: int) -> str:
        """Time passed while playing: on to the frame that is due. Holes are stepped over."""
        if not self.playing or self.following:
            return ""
        self._credit_ns += passed_ns * self.speed
        said, at = "", self.at
        while at < self.last:
            before, now = self.track.moment(at), self.track.moment(at + 1)
            need = self._due_ns(before, now)
            if self._credit_ns < need:
                break
            self._credit_ns -= need
            at += 1
            said = happened(before, now) or said
        self._at = at
        if at >= self.last:
            if self.live:
                self.to_end()
                return said or "this is now"
            self.playing, self._credit_ns = False, 0.0
            return said or "the end of the recording"
        return said

    @staticmethod
    def _due_ns(before: Moment, now: Moment) -> int:
        """How long a frame is looked at before the next one."""
        if hole_ns(before, now) or now.monotonic_ns <= before.monotonic_ns:
            return now.interval_ns or before.interval_ns or SECOND
        return now.monotonic_ns - before.monotonic_ns
