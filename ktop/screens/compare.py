"""Two spans of the track side by side: what grew, what shrank, who is new and who has gone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple, cast

from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from ktop import compare_spans as spans
from ktop import format as fmt
from ktop.compare import Change, Tally, Turn, comparing, reading, same_boot, telling
from ktop.compare_text import (
    TITLES,
    difference_text,
    ratio_text,
    span_text,
    turn_lines,
    value_text,
    what_text,
)
from ktop.history import History
from ktop.lens import Track
from ktop.model import Frame
from ktop.player import MINUTE, SECOND
from ktop.scope import Scope
from ktop.screens.base import FrameScreen
from ktop.screens.help import Help, help_page
from ktop.widgets.columns import Column
from ktop.widgets.header import Hint, Keys
from ktop.widgets.strips import Line, Piece, Rule
from ktop.widgets.table import VirtualTable

SLICE_S, PAUSE_S = 0.008, 0.004  # reading, and the keys' turn
LENGTHS_NS = (10 * SECOND, 30 * SECOND, MINUTE, 2 * MINUTE, 5 * MINUTE, 10 * MINUTE, 30 * MINUTE)
_HINTS = (Hint("Esc", "Back", 0), Hint("?", "Help", 1), Hint("+ -", "Longer, shorter", 2),
          Hint("Enter", "Open process", 3), Hint("r", "Again", 4), Hint("< >", "Sort", 5),
          Hint("q", "Quit", 3))
_HELP = """\
The minute before (A) against the last minute (B), or other lengths (+ -), up to the
moment in view, in the scope in force. Each figure is its mean over its span; histograms
are merged first and then asked for percentiles. Whoever is not in a sample that lists all
of its kind did nothing then; "-" is not known.

Listed is what changed by a tenth, by more than its unit's least (1 %, 1/s, 16K/s, 1M,
100us, 0.1 threads; 100/s of switches and packets) and by more than three standard
errors; a percentile by a quarter, of enough samples. The order: doublings times decades
above that least."""


class _Row(NamedTuple):
    """A line of the table: a change, or (`change` None) who is new or has gone."""

    number: int
    change: Change | None
    layer: str
    text: str


def _columns() -> list[Column]:
    def of(row: _Row, value: float | None) -> str:
        return value_text(value, row.change.unit) if row.change else ""

    return [
        Column("layer", "LAYER", 9, lambda r: TITLES[r.layer], "left", sort=lambda r: r.layer,
               help="which layer it belongs to"),
        Column("a", "BEFORE", 8, lambda r: of(r, r.change and r.change.a),
               sort=lambda r: r.change and r.change.a, help="mean or percentile of A"),
        Column("b", "AFTER", 8, lambda r: of(r, r.change and r.change.b),
               sort=lambda r: r.change and r.change.b, help="mean or percentile of B"),
        Column("difference", "CHANGE", 9, lambda r: difference_text(r.change) if r.change else "",
               sort=lambda r: r.change and r.change.difference, style=_style, help="B - A"),
        Column("ratio", "RATIO", 7, lambda r: ratio_text(r.change) if r.change else "",
               sort=lambda r: r.change and r.change.ratio,
               help="B / A; new, gone: it is in one of them only"),
        Column("score", "SCORE", 5, lambda r: fmt.number(r.change.score) if r.change else "",
               sort=lambda r: r.change and r.change.score,
               help="how much it matters: doublings times decades"),
        Column("what", "WHAT", 20, lambda r: r.text, "left", sort=lambda r: r.text, min_width=31,
               help="whose figure, and which"),
    ]


def _style(row: _Row) -> str:
    found = row.change.difference if row.change else None
    return "normal" if not found else "strong" if found > 0 else "dim"


class CompareScreen(FrameScreen):
    """Before and after, up to a position of the track (None: its end as it is now)."""

    CSS = """
    CompareScreen { layout: vertical; background: ansi_default; }
    CompareScreen #spans { height: 3; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,backspace,D", "back", "Back", key_display="Esc"),
        Binding("plus,equals_sign", "length(1)", "Longer spans", key_display="+"),
        Binding("minus", "length(-1)", "Shorter spans", key_display="-"),
        Binding("r", "again", "Compare anew"),
        Binding("question_mark,f1,h", "help", "Help", key_display="?"),
        Binding("ctrl+l", "app.redraw", show=False),
        Binding("tab,shift+tab", "nothing", show=False),
        Binding("q,f10", "app.quit", "Quit")]

    def __init__(self, track: Track, at: int | None, scope: Scope) -> None:
        super().__init__()
        self.scope = scope
        self._track, self._at = track, at
        self._length = MINUTE
        self._job: Iterator[float] | None = None
        self._tallies: tuple[Tally, Tally] | None = None
        self._frame: Frame | None = None
        self._said = ""

    def compose(self) -> ComposeResult:
        """Both spans, what changed, the keys."""
        yield Line(id="spans")
        yield Rule("What changed", id="changed")
        yield VirtualTable(_columns(), lambda row: row.number, sort="score", id="changes",
                           empty="reading...")
        yield Keys()

    def on_mount(self) -> None:
        """Begin at once."""
        self.query_one(Keys).set(_HINTS)
        self.query_one(VirtualTable).focus()
        self.action_again()

    def show(self, frame: Frame, history: History, host: Frame) -> None:
        """This tick: only who lives now is of interest."""
        self._frame = host

    # -- the work ------------------------------------------------------------------------------

    def action_again(self) -> None:
        """Read both spans anew."""
        self._said = "reading..."
        running = self._job is not None
        self._job = self._work()
        self._show_spans()
        if not running:
            self._go_on()

    def _go_on(self) -> None:
        """A slice; keys come in between."""
        if self._job is None or not self.is_attached:
            return
        deadline = time.monotonic() + SLICE_S
        for done in self._job:
            if time.monotonic() >= deadline:
                self._said = f"reading: {done:.0%}"
                self._show_spans()
                self.set_timer(PAUSE_S, self._go_on)
                return
        self._job = None
        self._show_spans()

    def _work(self) -> Iterator[float]:
        """All of it, a frame a step: how far it is, 0 to 1."""
        track = self._track
        if track.end - track.first < 3:
            self._said = "too few samples so far"
            return
        at = max(track.first, min(track.end - 1, track.end - 1 if self._at is None else self._at))
        after = spans.recent(track, self._length, at)
        ranges = [spans.positions(track, s) for s in (spans.before(after), after)]
        ranges = [range(max(track.first, r.start), max(track.first, r.stop)) for r in ranges]
        if not all(ranges):
            self._said = "too few samples before this moment"
            return
        try:
            by_pid = same_boot(*(track.frame(r[0]) for r in ranges))
            tallies = self._tallies = Tally(by_pid), Tally(by_pid)
            total, done = sum(map(len, ranges)), 0
            for positions, tally in zip(ranges, tallies, strict=True):
                for read in reading(track, positions, tally, self.scope or None):
                    yield (done + read) / total
                done += len(positions)
        except LookupError:  # the ring has forgotten it meanwhile
            self._said = "older samples have left the memory: r reads again"
            return
        for found in comparing(*tallies):
            if found is None:
                yield 1.0
            else:
                self._show_changes(telling(found.changes), found.turns)

    # -- the picture ---------------------------------------------------------------------------

    def _show_changes(self, changes: list[Change], turns: list[Turn]) -> None:
        rows = [_Row(n, c, c.layer, what_text(c)) for n, c in enumerate(changes)]
        rows += [_Row(len(rows) + n, None, layer, text)
                 for n, (layer, text) in enumerate(turn_lines(turns))]
        table = self.query_one(VirtualTable)
        table.empty = "nothing changed by more than what is noise"
        table.set_rows(rows)
        self._said = f"{len(changes)} changes that matter"

    def _show_spans(self) -> None:
        names = ("A before ", "B after  ")
        tallies = self._tallies or (None, None)
        lines: list[list[Piece]] = [
            [(f" {name}", "title"), (span_text(tally) if tally else "-", "normal")]
            for name, tally in zip(names, tallies, strict=True)]
        where = " > ".join(self.scope.crumbs())
        lines.append([(" in       ", "dim"), (where, "normal")])
        self.query_one("#spans", Line).set(*lines)
        self.query_one("#changed", Rule).set(note=self._said)

    # -- keys ----------------------------------------------------------------------------------

    def on_virtual_table_selected(self, message: VirtualTable.Selected) -> None:
        """Enter: the process, if it lives."""
        message.stop()
        change = message.row.change if message.row is not None else None
        if change is None or change.pid is None:
            self._note("that line is about no single process")
            return
        rows = self._frame.processes.rows if self._frame else []
        row = next((p for p in rows if p.pid == change.pid
                    and change.start in (None, p.start_boottime_ns)), None)
        if row is None:
            self._note(f"process {change.pid} is not there any more")
            return
        from ktop.screens.detail import ProcessDetail

        cast(Any, self.app).open_over(ProcessDetail(row.pid, row.start_boottime_ns, row.comm))

    def _note(self, text: str) -> None:
        self.query_one("#changed", Rule).set(note=text)

    def action_length(self, step: int) -> None:
        """The next longer or shorter spans."""
        at = LENGTHS_NS.index(self._length) + step
        if 0 <= at < len(LENGTHS_NS):
            self._length = LENGTHS_NS[at]
            self.action_again()
        else:
            self._note(f"{fmt.age(self._length)} is as far as it goes")

    def action_help(self) -> None:
        """What it means, and the keys."""
        keys = [("+ -", "Longer and shorter spans: 10 s to 30 minutes."),
                ("r", "Read both spans again, up to now."),
                ("< > I", "Sort by another column; invert."),
                ("Enter", "Open the process of the line, if it lives."),
                ("Esc Backspace D", "Back.")]
        self.app.push_screen(Help(help_page("before and after", _HELP, keys, [])))

    def action_back(self) -> None:
        """To the panes."""
        self._job = None
        self.dismiss()

    def action_nothing(self) -> None:
        """Panes do not change below."""
