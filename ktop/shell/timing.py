"""Time: rewind while live, replay, and the timeline that shows both."""

from __future__ import annotations

import time
from collections.abc import Sequence

from textual.timer import Timer
from textual.widgets import Input

from ktop import format as fmt
from ktop import levels, when
from ktop.model import Frame
from ktop.overview import Overview, span_text
from ktop.panes.base import Pane
from ktop.player import SECOND, Player, happened, speed_text
from ktop.shell.base import PAUSE_S
from ktop.shell.keeping import Keeping
from ktop.sources_replay import ReplaySource
from ktop.widgets.header import Hint, interval_text
from ktop.widgets.table import VirtualTable
from ktop.widgets.timeline import MARGIN, SHORT, Picture, Timeline
from ktop.wire import Control

INTERVALS_NS = tuple(round(s * 1e9) for s in (0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60))
PLAY_S = 0.1  # how often playing goes on; samples that are due in between are passed
TRIES = 50  # damaged samples passed in a row
ZOOMS_NS = (3600 * SECOND, 600 * SECOND, 60 * SECOND)
TWO_LINES = 22  # lines of terminal from which the timeline has two


class Timing(Keeping):
    """t T [ ] b 0 End z, and Space and + - where they are about time."""

    timeline: Timeline

    def __init__(self, interval_ns: int, ascii_only: bool, panes: Sequence[type[Pane]]) -> None:
        super().__init__(interval_ns, ascii_only, panes)
        self.player = Player(self.track, live=True)
        self.overview = Overview()
        self.held = False  # paused where it was: nobody went anywhere
        self._wanted = False  # the timeline, also while live
        self._zoom = 0  # 0: all there is, else 1 + index of ZOOMS_NS
        self._window = (0, 0)  # begin and end on the axis of what the timeline shows
        self._play_timer: Timer | None = None
        self._read_timer: Timer | None = None
        self._played_s = 0.0  # when playing went on last

    # -- which track ---------------------------------------------------------------------------

    def open_recording(self, source: ReplaySource) -> None:
        """Look at a recording: at the time that was asked for, or playing from its beginning."""
        self.track = source.track
        self.look_anew()
        self.player = Player(self.track)
        self.player.speed = source.speed
        self.following = False
        self.overview.clear()
        self.learn_marks()
        said = (self.player.play() if source.start_ns is None
                else self.player.to_time(source.start_ns))
        self._arrive(1, said)
        if source.notes:
            self.say("; ".join(source.notes), "warn")

    def arrived(self, frames: list[Frame]) -> None:
        """From the source. What is looked at may just have left the memory."""
        super().arrived(frames)
        if said := self.player.forgotten():
            self._arrive(1, said)
        for at in range(max(self.ring.first + 1, self.ring.end - len(frames)), self.ring.end):
            if said := happened(self.ring.moment(at - 1), self.ring.moment(at)):
                self.say(said, "warn")

    # -- moving --------------------------------------------------------------------------------

    def _arrive(self, direction: int, said: str) -> None:
        """Show where the player is. What cannot be read is passed, in the direction of moving."""
        self._clockwork()
        if self.player.empty:
            self.say(said)
            return
        for _ in range(TRIES):
            if self.go(None if self.player.following else self.player.at):
                break
            at = self.player.at
            self.player.seek(at + (1 if direction > 0 else -1))
            if self.player.at == at:
                break
        if self.replaying:
            self._as_recorded()
        if said:
            self.say(said)
        self.keys_changed()

    def _as_recorded(self) -> None:
        """What the lines say of the newest frame they say of the one in view."""
        self.newest = self.host.whole
        interval = self.track.moment(self.player.at).interval_ns
        if interval is not None:
            self.interval_ns = min(INTERVALS_NS, key=lambda usual: abs(usual - interval))

    def _clockwork(self) -> None:
        """A timer runs while it plays, and at no other time."""
        if self.player.playing and self._play_timer is None:
            self._played_s = time.monotonic()
            self._play_timer = self.set_interval(PLAY_S, self._play_on)
        elif not self.player.playing and self._play_timer is not None:
            self._play_timer.stop()
            self._play_timer = None

    def _play_on(self) -> None:
        """Time has passed. A terminal that is busy misses samples, not time."""
        if self.return_code is not None or self.terminal_busy:
            return
        now = time.monotonic()
        passed, self._played_s = now - self._played_s, now
        before = self.player.at
        said = self.player.advance(round(passed * SECOND))
        if self.player.at != before or not self.player.playing:
            self._arrive(1, said)

    def action_time_step(self, frames: int) -> None:
        """The next sample, or the one before."""
        self.held = False
        self._arrive(frames, self.player.step(frames))

    def action_time_minutes(self, minutes: int) -> None:
        """A minute on or back."""
        self.held = False
        self._arrive(minutes, self.player.minutes(minutes))

    def action_time_now(self) -> None:
        """The newest sample: live again, or the end of a recording."""
        self.held = False
        self._arrive(-1, self.player.to_end())

    def action_time_end(self) -> None:
        """The same, by End."""
        self.action_time_now()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """End is the table's while its cursor can go further down, and the field's while typing."""
        if action == "time_end":
            return (len(self.screen_stack) == 1 and not self.at_now
                    and not isinstance(self.focused, Input) and self._at_end_of_table())
        return super().check_action(action, parameters)

    @property
    def in_past(self) -> bool:
        """Somewhere that is not now, nor a picture of it that was paused: time is ours to move."""
        return self.replaying or not (self.following or self.held)

    @property
    def at_now(self) -> bool:
        """Nothing is newer than what is shown."""
        return self.player.following or (self.replaying and self.player.at >= self.player.last)

    def _at_end_of_table(self) -> bool:
        table = self.focused
        return not isinstance(table, VirtualTable) or table.cursor_at_end

    def action_pause(self) -> None:
        """Live: hold the picture, and let it go. In the past and in a replay: play and pause."""
        if self.player.empty:
            self.say("nothing to hold so far")
            return
        if self.in_past:
            self._arrive(1, self.player.toggle())
        elif self.following:
            self.held = True
            self.player.hold()
            self.following = False
            self.show_again()
        else:
            self.action_time_now()
        self._message_over()
        self.keys_changed()

    def action_interval(self, step: int) -> None:
        """The next longer or shorter interval; in the past and in a replay the speed of playing."""
        if self.in_past:
            self.say(self.player.faster(step))
            self._show_lines()
            return
        later = [i for i in INTERVALS_NS if (i - self.interval_ns) * step > 0]
        if not later:
            self.say(f"every {interval_text(self.interval_ns)} is as far as it goes")
            return
        self.interval_ns = min(later, key=lambda i: abs(i - self.interval_ns))
        self.source.ask(Control(interval_ns=self.interval_ns))
        self._show_lines()
        self.say(f"a sample every {interval_text(self.interval_ns)}")

    def on_pane_ask(self, _message: Pane.Ask) -> None:
        """The past is as it was taken."""
        if self.in_past:
            self.pane.refused()
            self.say("what was taken then cannot be changed" +
                     ("" if self.replaying else ": it holds from now on"))

    def action_time_jump(self) -> None:
        """To a time of day, or by an offset."""
        from ktop.screens.jump import Jump

        span = self._span()
        if span is None:
            self.say("no samples so far")
            return

        def answered(text: str | None) -> None:
            if text is not None:
                self.held = False
                self._arrive(1, self.player.to_time(when.parse(text, span)))

        self.push_screen(Jump(span), answered)

    def _span(self) -> when.Span | None:
        if self.player.empty:
            return None
        moments = [self.track.moment(at) for at in
                   (self.track.first, self.player.last, self.player.at)]
        return when.Span(*(moment.wall_ns for moment in moments))

    # -- what the lines say --------------------------------------------------------------------

    @property
    def state_word(self) -> str:
        """LIVE, PAUSED, STARTING, DEAD; PAST or REPLAY with the time of day and how it plays."""
        word = super().state_word
        if self.in_past:
            name = "REPLAY" if self.replaying else "PAST"
            how = "PLAYING" if self.player.playing else "PAUSED"
            if self.replaying and self.at_now and not self.player.playing:
                how = "END"
            at = "-" if self.host.whole is None else when.clock(self.host.whole.clock.wall_ns)
            word = f"{name} {at} {speed_text(self.player.speed)} {how}"
        if self.recording is not None:
            word = f"REC {fmt.size(self.recording.bytes)}  {word}"
        return word

    def standing_text(self) -> str:
        """What the status line says while there is nothing to report."""
        if self.player.empty or self.player.following or self.held:
            return super().standing_text()
        at = self.player.at
        if at in self.marked:
            return "mark: " + "; ".join(self.marked[at])
        if at > self.track.first and (
                said := happened(self.track.moment(at - 1), self.track.moment(at))):
            return "before this: " + said
        where = f"sample {at - self.track.first + 1} of {self.track.end - self.track.first}"
        behind = self.player.behind_ns
        return f"{where}, {fmt.age(behind)} before {self.player.end_name}" if behind else where

    def time_hints(self) -> list[Hint]:
        """Keys of the moment in the past and in a replay; none while live."""
        if not self.in_past:
            return []
        play = "Pause" if self.player.playing else "Play"
        hints = [Hint("Space", play, 1), Hint("t T", "Step", 2), Hint("[ ]", "Minute", 3),
                 Hint("b", "Go to", 4), Hint("+ -", "Speed", 6)]
        return hints if self.replaying else [*hints, Hint("0", "Now", 1)]

    def _show_lines(self) -> None:
        """Also the timeline."""
        super()._show_lines()
        self._show_timeline()

    # -- the timeline --------------------------------------------------------------------------

    def action_timeline(self) -> None:
        """Show it, look closer, and put it away again; in the past it stays."""
        if not self.in_past and not self._wanted:
            self._wanted, self._zoom = True, 0
        else:
            begin, end = self.overview.span
            closer = [n for n, size in enumerate(ZOOMS_NS, 1)
                      if n > self._zoom and size < end - begin]
            self._zoom = closer[0] if closer else 0
            self._wanted = self._wanted and bool(closer)
        self._show_lines()

    def _show_timeline(self) -> None:
        shown = not self.player.empty and (self._wanted or self.in_past)
        self.timeline.display = shown
        if not shown:
            return
        columns, rows = self.size
        self.timeline.styles.height = 2 if rows >= TWO_LINES else 1
        if not self.overview.take(self.track) and self._read_timer is None:
            self._read_timer = self.set_timer(PAUSE_S, self._read_on)
        self.timeline.show(self._picture(max(1, columns - 2 * MARGIN)))

    def _read_on(self) -> None:
        """Another slice of a long recording."""
        self._read_timer = None
        if self.return_code is None:
            self._show_timeline()

    def _picture(self, width: int) -> Picture:
        overview = self.overview
        here = overview.axis(self.player.at)
        begin, end = self._window = self._looked_at(here)
        marks = [overview.axis(at) for at in self.marked if at >= self.track.first]
        edges = [overview.position(begin), overview.position(end)]
        day = not when.same_day(*(self.track.moment(at).wall_ns for at in (
            self.track.first, self.player.last)))
        left, right = (when.label(self.track.moment(at).wall_ns, day) for at in edges)
        whole = self.host.whole
        worst = levels.worst(levels.levels(whole, self.host.report)) if whole else None
        whose = "host " if self.lens.scope else ""  # it is the whole host's, whatever the scope
        return Picture(
            overview.columns(width, begin, end), _column(here, begin, end, width),
            tuple(column for mark in marks
                  if (column := _column(mark, begin, end, width)) is not None),
            left, right, whose + span_text(end - begin),
            "" if worst is None else f"{SHORT.get(worst[0], worst[0])} {fmt.number(worst[1])}")

    def _looked_at(self, here: int) -> tuple[int, int]:
        """Begin and end of what is shown: all, or as much as the zoom says, around where we are."""
        begin, end = self.overview.span
        size = ZOOMS_NS[self._zoom - 1] if self._zoom else end - begin
        if size >= end - begin:
            return begin, max(end, begin + 1)
        low = max(begin, min(here - size // 2, end - size))
        return low, low + size

    def on_timeline_picked(self, message: Timeline.Picked) -> None:
        """A click on a column: the moment that it ends with."""
        begin, end = self._window
        self.held = False
        self.player.seek(self.overview.position(begin + (end - begin) * (message.column + 1)
                                                // message.columns))
        self._arrive(1, "")


def _column(at: int, begin: int, end: int, width: int) -> int | None:
    """The column of a point of the axis; None outside. A column holds what ended in it."""
    if not begin <= at <= end:
        return None
    return min(width - 1, max(0, -(-(at - begin) * width // (end - begin)) - 1))
