"""The lines around the pane: who and where we are, tabs, banner, messages, keys of the moment."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from textual import events
from textual.message import Message
from textual.strip import Strip

from ktop import format as fmt
from ktop.model import Frame
from ktop.scope import Scope
from ktop.text import clean
from ktop.widgets.strips import Line, Piece, StripWidget, cells, strip

GAP = "  "
COST_FITS = 110  # columns from which the header has room for own cost; else the status line
STATE_STYLES = {"LIVE": "good", "PAUSED": "warn", "STARTING": "dim", "DEAD": "bad", "SILENT": "bad",
                "PAST": "warn", "REPLAY": "accent", "REC": "bad"}


@dataclass(frozen=True)
class Cost:
    """What ktop itself takes. Percent of one CPU; None is unknown."""

    cpu_pct: float | None = None
    probes_pct: float | None = None
    estimated: bool = False
    lost: int = 0


def interval_text(interval_ns: int) -> str:
    """0.25s, 1s, 60s."""
    return f"{interval_ns / 1e9:g}s"


def small_pct(value: float | None) -> str:
    """A share that is small when all is well: two decimals below one."""
    if value is None:
        return "-"
    if 0 < value < 0.005:
        return "<0.01%"
    return f"{value:.2f}%" if value < 0.995 else f"{value:.1f}%"


def cost_pieces(cost: Cost) -> list[Piece]:
    """`ktop 1.2%  probes ~0.05%  lost 0`."""
    about = "~" if cost.estimated and cost.probes_pct is not None else ""
    return [
        ("ktop ", "dim"), (small_pct(cost.cpu_pct), "normal"),
        (GAP + "probes ", "dim"), (about + small_pct(cost.probes_pct), "normal"),
        (GAP + "lost ", "dim"), (fmt.count(cost.lost), "bad" if cost.lost else "normal")]


def state_pieces(state: str) -> list[Piece]:
    """`REC 12M  PAST 23:47:10 1x PAUSED`: each part in the style of its first word."""
    pieces: list[Piece] = []
    for part in state.split(GAP):
        pieces += [(GAP if pieces else "", "normal"), (part, STATE_STYLES[part.partition(" ")[0]])]
    return pieces


def width_of(pieces: Iterable[Piece]) -> int:
    """Cells that the pieces take."""
    return sum(cells(text) for text, _ in pieces)


def host_pieces(frame: Frame | None) -> list[tuple[int, list[Piece]]]:
    """What is said about the host, by rank: the highest goes first when room is short."""
    if frame is None:
        return []
    host = frame.host
    loads = [load for load in (host.load1, host.load5, host.load15) if load is not None]
    parts: list[tuple[int, list[Piece]]] = [
        (0, [(host.hostname, "strong")]),
        (4, [(host.kernel, "normal")]),
        (1, [(str(host.cpus), "normal"), (" CPU" if host.cpus == 1 else " CPUs", "dim")]),
        (3, [("up ", "dim"), (fmt.age(host.uptime_ns), "normal")])]
    if loads:
        parts.append((2, [("load ", "dim"), (" ".join(f"{load:.2f}" for load in loads), "normal")]))
    return parts


class Header(StripWidget):
    """One line: host at the left, own cost, interval and state at the right."""

    DEFAULT_CSS = "Header { height: 1; }"

    def __init__(self) -> None:
        super().__init__(id="header")
        self.frame: Frame | None = None
        self.cost = Cost()
        self.state = "STARTING"
        self.interval_ns = 0

    def set(self, frame: Frame | None, cost: Cost, state: str, interval_ns: int) -> None:
        """Everything at once."""
        self.frame, self.cost, self.state, self.interval_ns = frame, cost, state, interval_ns
        self.repaint()

    def lines(self, width: int, height: int) -> list[Strip]:
        """The one line."""
        right: list[Piece] = [("every ", "dim"), (interval_text(self.interval_ns), "normal"),
                              (GAP, "normal"), *state_pieces(self.state),
                              (" ", "normal")]
        if width >= COST_FITS:
            right = [*cost_pieces(self.cost), (GAP, "normal"), *right]
        parts = host_pieces(self.frame)
        room = width - width_of(right) - 2
        while parts and 6 + sum(2 + width_of(part) for _, part in parts) > room:
            rank = max(rank for rank, _ in parts)
            if rank == 0:
                break
            parts = [(r, part) for r, part in parts if r != rank]
        left: list[Piece] = [(" ktop", "title")]
        for _, part in parts:
            left += [(GAP, "normal"), *part]
        blank = max(1, width - width_of(left) - width_of(right))
        return [strip([*left, (" " * blank, "normal"), *right], width)]


class TabBar(StripWidget):
    """The panes by number; the one on screen is marked by more than colour."""

    DEFAULT_CSS = "TabBar { height: 1; }"

    class Chosen(Message):
        """A click on a tab, by number from 1."""

        def __init__(self, number: int) -> None:
            super().__init__()
            self.number = number

    def __init__(self, titles: Sequence[str]) -> None:
        super().__init__(id="tabs")
        self.titles = list(titles)
        self.active = 1

    def set(self, active: int) -> None:
        """Another tab."""
        self.active = active
        self.repaint()

    def _labels(self, width: int) -> list[str]:
        labels = [f" {n} {title} " for n, title in enumerate(self.titles, 1)]
        if sum(map(len, labels)) + len(labels) > width:
            labels = [f" {n} {title} " if n == self.active else f" {n} {title[:3]} "
                      for n, title in enumerate(self.titles, 1)]
        return labels

    def lines(self, width: int, height: int) -> list[Strip]:
        """The one line."""
        pieces: list[Piece] = []
        for number, label in enumerate(self._labels(width), 1):
            pieces += [(label, "cursor" if number == self.active else "dim"), (" ", "normal")]
        return [strip(pieces, width)]

    def on_click(self, event: events.Click) -> None:
        """Which tab was it?"""
        right = 0
        for number, label in enumerate(self._labels(self.size.width), 1):
            right += len(label) + 1
            if event.x < right:
                self.post_message(self.Chosen(number))
                return


class Crumbs(Line):
    """One line that says what everything on the screen is about; none while that is the host."""

    DEFAULT_CSS = "Crumbs { height: 1; }"

    def __init__(self) -> None:
        super().__init__(id="crumbs")
        self.display = False

    def set_scope(self, scope: Scope, frame: Frame | None) -> None:
        """The path from the host down, and who is in it now."""
        self.display = bool(scope)
        if not scope:
            return
        *above, last = scope.crumbs()
        pieces: list[Piece] = [(" ", "normal")]
        for crumb in above:
            pieces += [(clean(crumb, 60), "dim"), (" > ", "dim")]
        pieces.append((clean(last, 80), "title"))
        if frame is not None:
            rows = frame.processes.rows
            threads = sum(p.threads for p in rows)
            pieces.append((f"   {_many(len(rows), 'process', 'es')}, {_many(threads, 'thread')}",
                           "normal" if rows else "warn"))
            if not rows:
                pieces.append((": ended, or not there yet", "warn"))
        self.set([*pieces, ("   Backspace wider", "dim")])


def _many(n: int, word: str, plural: str = "s") -> str:
    return f"{fmt.grouped(n)} {word}{plural if n != 1 else ''}"


class Banner(Line):
    """One line above the pane while something is missing; takes no room otherwise."""

    def __init__(self) -> None:
        super().__init__(id="banner")
        self.display = False
        self.text = ""

    def say(self, text: str, mark: str = "warn", style: str = "warn") -> None:
        """Show this behind a mark; nothing when empty."""
        self.text = text
        self.display = bool(text)
        self.set([(" ", "normal"), ("!", mark), (" ", "normal"), (text, style)])


class Status(StripWidget):
    """One line for messages; at its right own cost where the header has no room for it."""

    DEFAULT_CSS = "Status { height: 1; }"

    def __init__(self) -> None:
        super().__init__(id="status")
        self.text = ""
        self.style_name = "normal"
        self.cost: Cost | None = None

    def say(self, text: str, style: str = "normal") -> None:
        """A message, until there is another."""
        self.text, self.style_name = text, style
        self.repaint()

    def show_cost(self, cost: Cost | None) -> None:
        """The cost, at the right where the header has no room for it."""
        self.cost = cost
        self.repaint()

    def lines(self, width: int, height: int) -> list[Strip]:
        """The one line."""
        right: list[Piece] = []
        if self.cost is not None and width < COST_FITS:  # a message that needs the room has it
            right = [*cost_pieces(self.cost), (" ", "normal")]
        if right and width_of(right) + cells(self.text) + 2 > width:
            right = []
        room = width - width_of(right)
        left = strip([(" " + self.text, self.style_name)], max(0, room - 1 if right else room))
        gap = strip([(" ", "normal")]) if right and room > 0 else strip([])
        return [Strip.join([left, gap, strip(right)]).adjust_cell_length(width)]


@dataclass(frozen=True)
class Hint:
    """A key and what it does. `rank`: the lower, the longer it stays when there is little room."""

    key: str
    label: str
    rank: int


class Keys(StripWidget):
    """The footer: the keys of the moment, as many as fit, the most needed kept longest."""

    DEFAULT_CSS = "Keys { height: 1; }"

    def __init__(self) -> None:
        super().__init__(id="keys")
        self.hints: list[Hint] = []

    def set(self, hints: Sequence[Hint]) -> None:
        """What may be pressed now."""
        self.hints = list(hints)
        self.repaint()

    def lines(self, width: int, height: int) -> list[Strip]:
        """The one line."""
        hints = list(self.hints)
        while hints and 1 + sum(cells(h.key) + cells(h.label) + 3 for h in hints) > width:
            hints.remove(max(hints, key=lambda hint: hint.rank))
        pieces: list[Piece] = [(" ", "normal")]
        for hint in hints:
            pieces += [(hint.key, "accent"), (f" {hint.label}{GAP}", "normal")]
        return [strip(pieces, width)]
