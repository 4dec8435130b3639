"""Thread states as stacked bars: over time, one column each, and now, with figures.

The states are exclusive and sum to wall time x threads: a column's height is the mean number of
threads, each state a part of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from textual.strip import Strip

from ktop import format as fmt
from ktop import theme
from ktop.history import History
from ktop.model import OFF_CPU
from ktop.widgets.heatmap import LABEL, axis
from ktop.widgets.strips import Piece, StripWidget, strip

STATES = ("cpu", "runq", *OFF_CPU)  # as History's ticks name them, from the bottom of a bar
NAMES = {"cpu": "on CPU", "runq": "waits for CPU"}
ABOUT = {
    "cpu": "running (sum_exec_runtime)",
    "runq": "runnable, waiting for a CPU (sched_info.run_delay)",
    "disk": "uninterruptible, waiting for a block device (iowait)",
    "uninterruptible": "state D for another reason",
    "io": "blocked in a file system call: files, pipes, terminals",
    "network": "blocked in a socket call",
    "lock": "waiting for a lock (futex, flock); idle workers wait so too",
    "sleep": "by choice: timers, polling, waiting for children or work",
    "stopped": "by a signal or a debugger",
    "other": "off CPU in another system call, or reason unknown",
}
# What a picture leaves out, so that the rest can be seen: sleepers and idle pools dwarf it.
FOCUS: dict[str, frozenset[str]] = {
    "all": frozenset(), "without sleep": frozenset({"sleep", "stopped"}),
    "without sleep and lock": frozenset({"sleep", "stopped", "lock"})}
LEAST = 0.01  # share of a bar from which a state has at least one cell

States = Mapping[str, float]


def name(state: str) -> str:
    """What people call it."""
    return NAMES.get(state, state)


def without(states: States, hidden: frozenset[str]) -> dict[str, float]:
    """The states that are shown, in the order of a bar."""
    return {state: states[state] for state in STATES
            if state not in hidden and states.get(state, 0.0) > 0.0}


def cells_of(states: States, whole: float, cells: int) -> list[str]:
    """A bar's cells, state by state; `whole` (threads) is `cells` long.

    It is as long as the sum says, by largest remainders; a state of LEAST or more has a cell.
    """
    total = sum(states.values())
    length = min(cells, round(total * cells / whole)) if whole > 0 else 0
    if total > 0 and cells:
        length = max(length, 1)
    exact = {state: value * length / total for state, value in states.items()} if total else {}
    given = {state: int(value) for state, value in exact.items()}
    for state in sorted(exact, key=lambda s: given[s] - exact[s])[:length - sum(given.values())]:
        given[state] += 1
    for state, value in states.items():
        largest = max(given, key=lambda s: given[s])
        if not given[state] and value >= LEAST * total and given[largest] > 1:
            given[state], given[largest] = 1, given[largest] - 1
    return [state for state in states for _ in range(given[state])]


def state_columns(history: History, columns: int, span_ns: int) -> list[States | None]:
    """Mean number of threads by state over the last `span_ns`, oldest first, by overlap in time.

    None where nothing is known. Parts begin at multiples of their own length, so that a tick
    changes the newest one only.
    """
    length = max(1, span_ns // max(1, columns))
    sums: list[dict[str, float]] = [{} for _ in range(columns)]
    covered = [0] * columns
    if not history.ticks or columns <= 0:
        return [None] * max(0, columns)
    oldest = (history.ticks[-1].at_ns - 1) // length - columns + 1
    for tick in reversed(history.ticks):
        begin = tick.at_ns - (tick.interval_ns or 0)
        if tick.at_ns <= oldest * length:
            break
        if tick.states is None or not tick.interval_ns:
            continue
        for part in range(max(oldest, begin // length), (tick.at_ns - 1) // length + 1):
            overlap = min(tick.at_ns, (part + 1) * length) - max(begin, part * length)
            if overlap > 0:
                covered[part - oldest] += overlap
                into = sums[part - oldest]
                for state, value in tick.states.items():
                    into[state] = into.get(state, 0.0) + value * overlap
    return [{state: value / length_known for state, value in found.items()}
            if length_known else None
            for found, length_known in zip(sums, covered, strict=True)]


def timeline_lines(columns: Sequence[States | None], span_ns: int, width: int, height: int,
                   hidden: frozenset[str], empty: str) -> list[Strip]:
    """The picture: bars upward, threads at the left, times below."""
    shown = [None if c is None else without(c, hidden) for c in columns]
    if all(c is None for c in shown):
        return [strip([(" " + empty, "dim")], width)]
    rows = max(1, height - 2)
    most = max((sum(c.values()) for c in shown if c), default=0.0)
    bars = [cells_of(c, most, rows) if c and most else [] for c in shown]
    g = theme.glyphs()
    drawn = []
    for row in range(rows - 1, -1, -1):
        mark = fmt.number(most) if row == rows - 1 else "0" if row == 0 else (
            fmt.number(most / 2) if row == rows // 2 and rows >= 5 else "")
        pieces: list[Piece] = [(f"{mark:>{LABEL - 1}}", "dim"), (g.pipe, "rule")]
        pieces += [(g.states[bar[row]], f"state.{bar[row]}") if row < len(bar) else (" ", "normal")
                   for bar in bars]
        drawn.append(strip(pieces, width))
    return drawn + axis(columns, span_ns, width)


def figure_lines(states: States | None, threads: int | None, width: int, height: int,
                 empty: str) -> list[Strip]:
    """This interval: a bar, each state in % and in threads, and both sums."""
    if states is None:
        return [strip([(" " + empty, "dim")], width)]
    g = theme.glyphs()
    found = without(states, frozenset())
    total = sum(found.values())
    bar = cells_of(found, total, max(4, width - 2))
    lines = [strip([(" ", "normal"), *((g.states[state], f"state.{state}") for state in bar)],
                   width)] if total else []
    rows: list[list[Piece]] = []
    for state in STATES:
        value = states.get(state, 0.0)
        style = "normal" if value > 0 else "dim"
        share = fmt.pct(100 * value / total) if total else "-"
        rows.append([(" ", "normal"), (g.states[state], f"state.{state}"),
                     (f" {name(state):<15}", style), (f"{share:>5}%", style),
                     (f"{fmt.number(value):>7}", style)])
    room = height - len(lines) - 1
    if len(rows) > room:  # what is nothing gives way
        rows = [row for row, state in zip(rows, STATES, strict=True) if states.get(state)][:room]
    now = "" if threads is None else f"  {fmt.count(threads)} now"
    share = "100.0" if total else "-"
    return [*lines, *(strip(row, width) for row in rows),
            strip([(f" {'sum: threads':<17}", "dim"), (f"{share:>5}%", "dim"),
                   (f"{fmt.number(total):>7}", "strong"), (now, "dim")], width)]


class StateTimeline(StripWidget):
    """Thread states over time. It is asked how many columns it can show: `columns`."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._columns: Sequence[States | None] = []
        self._span_ns = 1
        self._hidden: frozenset[str] = frozenset()
        self._empty = "nothing yet"

    @property
    def columns(self) -> int:
        """How many columns there is room for."""
        return max(0, self.size.width - LABEL)

    def show(self, columns: Sequence[States | None], span_ns: int, hidden: frozenset[str],
             empty: str = "nothing yet") -> None:
        """Another picture."""
        self._columns, self._span_ns = columns, span_ns
        self._hidden, self._empty = hidden, empty
        self.repaint()

    def lines(self, width: int, height: int) -> list[Strip]:
        """The picture."""
        columns = self._columns[-max(1, width - LABEL):]
        return timeline_lines(columns, self._span_ns, width, height, self._hidden, self._empty)


class StateFigures(StripWidget):
    """Thread states of one interval, in figures."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._states: States | None = None
        self._threads: int | None = None
        self._empty = "unknown"

    def show(self, states: States | None, threads: int | None, empty: str = "unknown") -> None:
        """Another interval. threads: how many there are at its end."""
        self._states, self._threads, self._empty = states, threads, empty
        self.repaint()

    def lines(self, width: int, height: int) -> list[Strip]:
        """The picture."""
        return figure_lines(self._states, self._threads, width, height, self._empty)
