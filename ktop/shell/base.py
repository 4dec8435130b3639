"""What every topic of the application uses: frames as they come, where we look, lines, messages."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from textual.timer import Timer

from ktop import theme
from ktop.diagnosis.engine import Diagnosis
from ktop.diagnosis.model import Report
from ktop.diagnosis.thresholds import DEFAULT
from ktop.driver import TerminalApp
from ktop.history import History
from ktop.lens import Lens
from ktop.model import Frame
from ktop.packing import PackError
from ktop.panes.base import Pane
from ktop.panes.pipes import headline, sections
from ktop.rewind import Ring
from ktop.scope import HOST
from ktop.screens.base import FrameScreen
from ktop.sources import ENDED, LIVE, SILENT, STARTING, Silence, Source
from ktop.widgets.header import Banner, Cost, Crumbs, Header, Keys, Status, TabBar
from ktop.widgets.pipes import PipeBar
from ktop.wire import Control

if TYPE_CHECKING:
    from ktop.lens import Track

MESSAGE_S = 5.0
RETRY_S = 0.1
SLICE_S, PAUSE_S = 0.008, 0.004  # making up for the past: work, and the keys' turn
MIN_SIZE = (80, 24)
LATE_NS = 1_500_000_000  # beyond two intervals: then samples that are late are worth a line


class Shell(TerminalApp):
    """The part of the application that the topics (ktop/shell) share.

    track: the past by position, of this session or of a recording. following: the newest frame is
    shown as it comes; otherwise the picture stands still at a position. host: the lens without a
    scope; lens: the one of the scope (the same one, without). newest: the last frame that came.
    """

    header: Header
    tabs: TabBar
    host: Lens
    lens: Lens
    crumbs: Crumbs
    pipes: PipeBar
    banner: Banner
    status: Status
    keys: Keys

    def __init__(self, interval_ns: int, ascii_only: bool, panes: Sequence[type[Pane]]) -> None:
        theme.use_ascii(ascii_only)
        super().__init__(ascii_only)
        self.theme = theme.THEME
        self.source: Source = Silence()
        self.interval_ns = interval_ns
        self.ring = Ring()
        self.track: Track = self.ring
        self.following = True
        self.newest: Frame | None = None
        self.limits = DEFAULT  # what diagnosis judges by
        self.look_anew()
        self.panes = [make() for make in panes]
        self.number = 1
        self._overlays: dict[FrameScreen, Lens] = {}
        self._aside: Diagnosis | None = None  # goes on while nobody follows
        self._built = False
        self._tick_due = False
        self._skipped = 0
        self._held_up = False  # a tick had to wait for the terminal
        self._own_cpu: float | None = None
        self._cpu_mark = (time.monotonic(), time.process_time())
        self._message_timer: Timer | None = None
        self._said = 0
        self._work_timer: Timer | None = None

    def look_anew(self) -> None:
        """At the whole host, with nothing known of its past: another track or other limits."""
        self.host = self.lens = Lens(self.track, HOST, limits=self.limits)

    @property
    def pane(self) -> Pane:
        """The one in view."""
        return self.panes[self.number - 1]

    @property
    def frame(self) -> Frame | None:
        """The frame on screen, as the scope sees it."""
        return self.lens.frame

    @property
    def history(self) -> History:
        """The past that leads up to it, as the scope sees it."""
        return self.lens.history

    # -- frames --------------------------------------------------------------------------------

    def arrived(self, frames: list[Frame]) -> None:
        """From the source: all of them into the past, the newest to the screen, soon."""
        for frame, body in zip(frames, self.bodies(frames), strict=True):
            try:
                at = self.ring.add(frame, body)
            except PackError as err:
                self.say(f"a sample is left out: {err}", "warn")
                continue
            if self.following:
                for lens in self.lenses():
                    lens.take(frame, at)
            report = self._judged(frame)
            if report is not None:
                self.ring.judge(report)
            self.kept(frame, body, report)
        self._skipped += len(frames) - (not self._tick_due)
        before, self.newest = self.newest, frames[-1]
        unsent = self.newest.health.skipped_frames
        if before is not None and (more := unsent - before.health.skipped_frames) > 0:
            self.say(f"link slow: {more} of the collector's samples not sent", "warn")
        self.make_up()
        if not self._tick_due:
            self._tick_due = True
            self.call_next(self._tick)

    def _judged(self, frame: Frame) -> Report | None:
        """What the diagnosis makes of a frame that has just come, also while the picture stands
        still or has not caught up: the memory and a recording are to know."""
        if self.following and (found := self.host.report) is not None:
            self._aside = None
            return found
        if self._aside is None:
            self._aside = self.host.aside()
        return self._aside.update(frame) if self._aside is not None else None

    def kept(self, frame: Frame, body: bytes | None, report: Report | None) -> None:
        """A frame has gone into the memory, with its diagnosis."""

    def bodies(self, frames: list[Frame]) -> list[bytes | None]:
        """The frames that are being handed out as they came over the wire, where that is known."""
        found: list[bytes | None] = list(self.source.bodies)
        return found if len(found) == len(frames) else [None] * len(frames)

    def lenses(self) -> list[Lens]:
        """All that look at the same position."""
        mine = [self.host] if self.lens is self.host else [self.host, self.lens]
        return [*mine, *self._overlays.values()]

    def go(self, at: int | None) -> bool:
        """Look at another position; None: follow what is newest. False: there is no such frame."""
        self.following = at is None
        if at is None:
            at = self.track.end - 1
        try:
            for lens in self.lenses():
                if at != lens.at:
                    lens.seek(at)
        except LookupError as err:
            self.say(str(err) if err.args and isinstance(err.args[0], str)
                     else "that sample is no longer remembered", "warn")
            return False
        self.make_up()
        self.show_again()
        return True

    def make_up(self) -> None:
        """Have lenses learn the past they lack, a slice at a time: keys come in between."""
        if self._work_timer is None and any(lens.behind for lens in self.lenses()):
            self._work_timer = self.set_timer(PAUSE_S, self._work)

    def _work(self) -> None:
        self._work_timer = None
        lens = next((lens for lens in self.lenses() if lens.behind), None)
        if lens is None:
            return
        if not lens.work(SLICE_S) and (lens is not self.host or lens is self.lens):
            self.show_again()
        self.make_up()

    def _tick(self) -> None:
        """Show what is newest, unless the terminal still has the last picture to swallow."""
        if self.return_code is not None:  # on the way out: the panes are being taken apart
            return
        if self.terminal_busy:
            self._held_up = True
            self.set_timer(RETRY_S, self._tick)
            return
        self._tick_due = False
        self._measure()
        with self.batch_update():
            self._show_lines()
            if self.following:
                self._show_frame()

    def _measure(self) -> None:
        """Our own share of a CPU since the last tick."""
        now, used = time.monotonic(), time.process_time()
        before, used_before = self._cpu_mark
        if now - before >= 0.05:
            self._own_cpu = 100 * (used - used_before) / (now - before)
            self._cpu_mark = (now, used)

    def show_again(self) -> None:
        """Everything as it is now: another position, scope or pane."""
        if self._built and self.return_code is None:
            with self.batch_update():
                self._show_lines()
                self._show_frame()

    def _show_frame(self) -> None:
        """The frame to what is in view and what it says about itself to the lines around it."""
        self._show_view()
        if self._skipped and self._held_up and self.source.state == LIVE:
            lost = "1 sample" if self._skipped == 1 else f"{self._skipped} samples"
            self.say(f"link slow: {lost} not drawn", "warn")
        self._skipped, self._held_up = 0, False

    def _show_view(self) -> None:
        """The topmost of the screens that follow the frames, else the pane."""
        over = next((s for s in reversed(self.screen_stack) if isinstance(s, FrameScreen)), None)
        if over is not None and over in self._overlays:
            lens = self._overlays[over]
            if lens.frame is not None and lens.whole is not None and over.is_mounted:
                over.show(lens.frame, lens.history, lens.whole)
        elif self.lens.frame is not None and self.pane.is_attached:
            self.show_pane(self.pane)

    def show_pane(self, pane: Pane) -> None:
        """The frame in view to a pane."""
        frame = self.lens.frame
        if frame is not None:
            if pane.grouped:
                pane.fold_tables(frame)
            pane.show(frame, self.lens.history)

    # -- screens that follow the frames --------------------------------------------------------

    def open_over(self, screen: FrameScreen) -> None:
        """Put a screen above the panes; it gets every tick, seen through its own scope."""
        lens = self._overlays[screen] = Lens(self.track, screen.scope, self.host.history)
        if self.host.whole is not None:
            lens.take(self.host.whole, self.host.at)

        def closed(_result: object = None) -> None:
            self._overlays.pop(screen, None)
            self.want_probes()
            self.show_again()

        self.push_screen(screen, closed)
        self.want_probes()
        self.make_up()
        self.call_after_refresh(self.show_again)

    def want_probes(self) -> None:
        """Tell the collector which layers' on-demand probes are wanted now."""
        wanted = {self.pane.layer, *self.pane.also, *self.also_watched()}
        for screen in self._overlays:
            wanted.update(screen.wanted_layers)
        self.source.ask(Control(watch=sorted(wanted - {""})))

    def also_watched(self) -> set[str]:
        """Layers that are wanted whatever is in view."""
        return set()

    # -- lines ---------------------------------------------------------------------------------

    @property
    def state_word(self) -> str:
        """LIVE, PAUSED, STARTING, SILENT or DEAD."""
        if not self.following and self.source.state != ENDED:
            return "PAUSED"
        return self.source.state

    def cost(self) -> Cost:
        """What ktop takes, from the newest sample and our own clock."""
        if self.newest is None:
            return Cost(self._own_cpu)
        health = self.newest.health
        parts = [p for p in (self._own_cpu, health.collector_cpu_pct) if p is not None]
        return Cost(sum(parts) if parts else None, health.probes_cpu_pct,
                    health.probes_estimated, health.lost_total)

    def _show_lines(self) -> None:
        """Everything around the pane but the keys."""
        self._say_standing()
        cost = self.cost()
        self.header.set(self.host.whole or self.newest, cost, self.state_word, self.interval_ns)
        self.status.show_cost(cost)
        self.crumbs.set_scope(self.lens.scope, self.lens.frame)
        newest = self.lens.history.newest
        report = newest.report if newest is not None else None
        self.pipes.set(sections(report), headline(report), headline(report, brief=True))
        if self.source.state == ENDED:
            more = "; r starts a new one" if self.renewable else ""
            self.banner.say(f"The collector has ended ({self.source.reason}). "
                            f"The last picture stays{more}.", "bad", "strong")
        elif self.source.state == SILENT:
            more = "; r starts a new collector" if self.renewable else ""
            self.banner.say(f"Silent: {self.source.reason}. The last picture stays{more}.",
                            "bad", "strong")
        else:
            self.banner.say((self.newest.health.banner if self.newest else None) or "")

    @property
    def renewable(self) -> bool:
        """Somebody can start another collector when this one has ended."""
        return bool(getattr(self.source, "renewable", True))

    def source_changed(self) -> None:
        """The source's state is another."""
        if self._built:
            if self.source.state not in (ENDED, SILENT):
                self._message_over()  # about the source that was
            self._show_lines()
            self.keys_changed()

    def keys_changed(self, _screen: Any = None) -> None:
        """The footer: keys of what has the focus, then ours."""
        raise NotImplementedError

    def keep(self, where: tuple[str, ...], value: Any) -> None:
        """A choice for next time: into the config file (ktop/shell/choices.py)."""

    # -- messages ------------------------------------------------------------------------------

    def say(self, text: str, style: str = "normal") -> None:
        """A line for the user; after a while it gives way to what always holds."""
        if self._message_timer is not None:
            self._message_timer.stop()
        self._said += 1
        self._message_timer = self.set_timer(MESSAGE_S, partial(self._message_over, self._said))
        self.status.say(text, style)

    def _message_over(self, number: int | None = None) -> None:
        if number not in (None, self._said):
            return  # its timer was due when the next was said, as all are after a stop
        if self._message_timer is not None:
            self._message_timer.stop()
            self._message_timer = None
        self._say_standing()

    def standing_text(self) -> str:
        """What the status line says while there is nothing to report."""
        columns, lines = self.size
        if self.source.state == STARTING:
            return "starting: waiting for the first sample"
        if not self.following:
            return "paused (samples go on), Space resumes"
        if columns < MIN_SIZE[0] or lines < MIN_SIZE[1]:
            return f"{columns}x{lines}: ktop needs 80x24 to show everything"
        if self.frame is not None and self.frame.clock.interval_ns is None:
            return "first sample, no rates yet"
        took = self.frame.clock.interval_ns if self.frame is not None else None
        if took is not None and took > 2 * self.interval_ns + LATE_NS:
            return f"samples come every {took / 1e9:.1f}s: the collector gets too little CPU"
        return ""

    def _say_standing(self) -> None:
        if self._message_timer is None:
            self.status.say(self.standing_text(), "dim")

    def on_resize(self) -> None:
        """Other room for the lines around the pane."""
        if self._built:
            self.call_after_refresh(self._show_lines)
