"""Two spans of frames side by side: what grew, what shrank, who is new and who has gone. Pure.

Each figure's value is its mean over the time that is known of it, for rates and shares weighted by
the frames' intervals; histograms are merged first and then asked for percentiles. Who is not in a
frame that lists all of its kind did nothing in it; in a frame that left rows out it is not known.

The rule of what matters: a change must be of at least its floor (LEAST, else FLOORS by unit), of a
tenth of the larger value, and beyond three standard errors of the difference of the means; a
percentile must change by a quarter (that is what a bucket holds) and rest on enough samples. What
passes is ordered by |log2((b + floor) / (a + floor))| x log10(1 + |b - a| / floor): doublings times
decades.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ktop import hist
from ktop.compare_rows import KINDS, Kind, view
from ktop.lens import Track
from ktop.model import Frame, Hist
from ktop.narrow import narrow
from ktop.player import hole_ns
from ktop.scope import Roster, Scope

# by unit: less than this is no change worth a line
FLOORS = {"pct": 1.0, "per_s": 1.0, "bytes_per_s": 16384.0, "bytes": 1 << 20, "ns": 100_000.0,
          "number": 0.1, "count": 2.0}
# figures of which there are always many
LEAST = dict.fromkeys((
    "voluntary_per_s", "involuntary_per_s", "switches_per_s", "migrations_per_s", "time_wait",
    "rx_packets_per_s", "tx_packets_per_s", "segments_out_per_s", "refaults_per_s",
    "scanned_direct_per_s", "scanned_kswapd_per_s"), 100.0)
RELATIVE = 0.1
ERRORS = 3.0
BUCKET = 1.25
PERCENTILES = (50.0, 95.0, 99.0)
MOST_FRAMES = 1200  # of a longer span that many are looked at, evenly
SAME_BOOT_NS = 5_000_000_000

_COUNTS = frozenset((
    "processes", "threads", "connections", "connections_total", "time_wait", "sockets", "open",
    "conntrack_count", "backlog", "descriptors_host"))


def unit_of(figure: str) -> str:
    """The unit that a field's name carries; a key of FLOORS."""
    for unit in ("bytes_per_s", "per_s", "pct", "bytes", "ns"):
        if figure.endswith("_" + unit) or figure == unit:
            return unit
    return "count" if figure in _COUNTS else "number"


@dataclass(slots=True)
class _Mean:
    """total: values times ns. known: ns. plain, squares, n: for the variance from frame to frame.
    """

    total: float = 0.0
    known: int = 0
    plain: float = 0.0
    squares: float = 0.0
    n: int = 0


@dataclass(slots=True)
class _Thing:
    """One row's figures over a span. present: ns in frames that list all of its kind."""

    name: str
    means: dict[str, _Mean] = field(default_factory=dict)
    hists: dict[str, list[Any]] = field(default_factory=dict)  # bucket counts, max
    frame: int = -1
    present: int = 0
    frames: int = 0
    seen: int = 0  # ns in any frame

    def add(self, figure: str, value: Any, ns: int, fresh: bool) -> None:
        if isinstance(value, Hist):
            held = self.hists.setdefault(figure, [{}, None])
            counts = held[0]
            for bucket, n in value.counts.items():
                counts[bucket] = counts.get(bucket, 0) + n
            if value.max_ns is not None:
                held[1] = max(held[1] or 0, value.max_ns)
            return
        mean = self.means.get(figure)
        if mean is None:
            mean = self.means[figure] = _Mean()
        mean.total += value * ns
        mean.plain += value
        mean.squares += value * value
        if fresh:
            mean.known += ns
            mean.n += 1


@dataclass(slots=True)
class _Group:
    """A kind over a span. whole_ns, whole: time and frames that listed all of it."""

    things: dict[Hashable, _Thing] = field(default_factory=dict)
    whole_ns: int = 0
    whole: int = 0
    known_ns: int = 0


class Value(NamedTuple):
    """A figure of one span. variance: of the mean. None: not known."""

    value: float | None
    variance: float = 0.0
    samples: int | None = None  # of a percentile


class Tally:
    """A span, frame by frame. `add` all of it, then give two of them to `compare`.

    frames: looked at. covered_ns: time they speak for. gaps, gap_ns: holes between them.
    missing: layers, with how many frames had nothing of them; unwatched: frames without operations
    on files, whose probes are attached while somebody looks. unreadable, skipped: samples that
    could not be read, that were left out on purpose (every so many is looked at).
    """

    def __init__(self, by_pid: bool = True) -> None:
        self.by_pid = by_pid
        self.groups: dict[Kind, _Group] = {kind: _Group() for kind in KINDS}
        self.frames = self.covered_ns = self.gaps = self.gap_ns = 0
        self.unreadable = self.skipped = self.lost_events = 0
        self.begin_ns: int | None = None
        self.end_ns = 0
        self.missing: dict[str, int] = {}
        self.unwatched = 0
        self.hostname = ""

    def add(self, frame: Frame) -> None:
        """One more. A first sample has no interval and counts for nothing but being there."""
        for _ in self.adding(frame):
            pass

    def adding(self, frame: Frame) -> Iterator[None]:
        """The same a kind at a time."""
        clock = frame.clock
        ns = clock.interval_ns or 0
        self.frames += 1
        self.hostname = frame.host.hostname
        if self.begin_ns is None:
            self.begin_ns = clock.wall_ns - ns
        self.end_ns = clock.wall_ns
        self.lost_events += frame.health.lost_events
        for layer in ("files", "tcp", "block"):
            if getattr(frame, layer) is None:
                self.missing[layer] = self.missing.get(layer, 0) + 1
        self.unwatched += frame.files is not None and not frame.files.watched
        if not ns:
            return
        self.covered_ns += ns
        at = view(frame, self.by_pid)
        for kind, group in self.groups.items():
            rows = kind.rows(at)
            if rows is not None:
                group.known_ns += ns
                whole = not kind.cut(frame)
                group.whole += whole
                group.whole_ns += ns * whole
                self._rows(kind, group, rows, ns, whole)
            yield

    def _rows(self, kind: Kind, group: _Group, rows: Iterable[Any], ns: int,
              whole: bool) -> None:
        for key, name, values in rows:
            thing = group.things.get(key)
            if thing is None:
                thing = group.things[key] = _Thing(name)
            fresh = thing.frame != self.frames
            if fresh:
                thing.frame = self.frames
                thing.seen += ns
                thing.present += ns * whole
                thing.frames += whole
            for figure, value in zip(kind.figures, values, strict=True):
                if value is not None:
                    thing.add(figure, value, ns, fresh)

    def value(self, kind: Kind, key: Hashable, figure: str) -> Value:
        """A figure of a row. Absent from frames that list everything: it did nothing then."""
        group = self.groups[kind]
        thing = group.things.get(key)
        unit = unit_of(figure)
        level = unit in ("bytes", "ns") or figure == "retrans_pct" or kind.kind == ""
        if thing is None:
            return Value(None if level or not group.whole_ns else 0.0)
        mean = thing.means.get(figure)
        if mean is None or not mean.known:
            return Value(None)
        away_ns = 0 if level else group.whole_ns - thing.present
        away = 0 if level else group.whole - thing.frames
        n = mean.n + away
        center = mean.plain / n
        spread = max(0.0, mean.squares / n - center * center)
        return Value(mean.total / (mean.known + away_ns), spread / n)

    def percentile(self, kind: Kind, key: Hashable, figure: str, pct: float) -> Value:
        """A percentile of a row's histogram; None where there are too few samples for it."""
        thing = self.groups[kind].things.get(key)
        held = thing.hists.get(figure) if thing else None
        if held is None:
            return Value(None, samples=0)
        merged = Hist(held[0], 0, held[1])
        samples = hist.count(merged)
        if samples < 2 * 100 / (100 - pct):
            return Value(None, samples=samples)
        return Value(hist.percentile(merged, pct), samples=samples)


class Change(NamedTuple):
    """One figure in both spans. name: whose it is, empty for the whole layer. unit: a key of
    FLOORS. a, b: before and after; None: not known. matters: it passes the rule. state: `new` and
    `gone`: it is in one span only.
    """

    layer: str
    kind: str
    name: str
    figure: str
    unit: str
    a: float | None
    b: float | None
    score: float
    matters: bool
    state: str = ""
    pid: int | None = None
    start: int | None = None

    @property
    def difference(self) -> float | None:
        """b - a."""
        return None if self.a is None or self.b is None else self.b - self.a

    @property
    def ratio(self) -> float | None:
        """b / a; None where there is none."""
        return None if self.a is None or self.b is None or not self.a else self.b / self.a


def telling(changes: Iterable[Change]) -> list[Change]:
    """Those that matter; of each histogram the percentile that changed most."""
    found: list[Change] = []
    seen: set[tuple[str, ...]] = set()
    for change in changes:
        name, dot, _ = change.figure.partition(".p")
        key = (change.layer, change.kind, change.name, name)
        if change.matters and not (dot and key in seen):
            seen.add(key)
            found.append(change)
    return found


class Turn(NamedTuple):
    """Something that is in one span only. state: `new` or `gone`. seconds: how long it was there.
    """

    layer: str
    kind: str
    name: str
    state: str
    seconds: float
    pid: int | None = None
    start: int | None = None


class Comparison(NamedTuple):
    """changes: those that matter first, by score. turns: the longest there first."""

    changes: list[Change]
    turns: list[Turn]


def score(a: float, b: float, floor: float) -> float:
    """Doublings times decades; see above."""
    return abs(math.log2((b + floor) / (a + floor))) * math.log10(1 + abs(b - a) / floor)


def _judged(a: Value, b: Value, floor: float) -> tuple[float, bool]:
    """Score, and whether it matters."""
    if a.value is None or b.value is None:
        return 0.0, False
    one, other = max(0.0, a.value), max(0.0, b.value)
    change, larger = abs(other - one), max(one, other)
    found = score(one, other, floor)
    if change < floor or change < RELATIVE * larger:
        return found, False
    if a.samples is not None:
        return found, larger >= BUCKET * min(one, other)
    return found, change > ERRORS * math.sqrt(a.variance + b.variance)


def compare(a: Tally, b: Tally) -> Comparison:
    """What changed from one span to the other. In slices: `comparing`."""
    *_, found = comparing(a, b)
    assert found is not None
    return found


def comparing(a: Tally, b: Tally) -> Iterator[Comparison | None]:
    """The same a kind at a time: None, None, ..., the comparison."""
    changes: list[Change] = []
    turns: list[Turn] = []
    for kind in KINDS:
        keys = {**a.groups[kind].things, **b.groups[kind].things}
        for number, key in enumerate(keys):
            changes += _of(kind, key, a, b)
            if number % 100 == 99:
                yield None
        if kind.told:
            turns += _turns(kind, a, b)
        yield None
    changes.sort(key=lambda c: (not c.matters, -c.score, c.layer, c.kind, c.name, c.figure))
    turns.sort(key=lambda t: (t.layer, t.kind, t.state, -t.seconds, t.name))
    yield Comparison(changes, turns)


def _pid(kind: Kind, key: Any, by_pid: bool) -> tuple[int | None, int | None]:
    """The process that a row is about, with its start where that is known."""
    if not by_pid or kind.kind not in ("process", "descriptors"):
        return None, None
    return key[0], key[1] if kind.layer == "processes" else None


def _state(kind: Kind, key: Hashable, a: Tally, b: Tally) -> str:
    """Whether it is in one span only, and surely not in the other."""
    one, other = (tally.groups[kind] for tally in (a, b))
    if key not in one.things and one.whole_ns and one.whole_ns == one.known_ns:
        return "new"
    if key not in other.things and other.whole_ns and other.whole_ns == other.known_ns:
        return "gone"
    return ""


def _of(kind: Kind, key: Hashable, a: Tally, b: Tally) -> list[Change]:
    """All figures of one row."""
    things = [t for tally in (a, b) if (t := tally.groups[kind].things.get(key)) is not None]
    name, state = things[-1].name, _state(kind, key, a, b) if kind.kind else ""
    pid, start = _pid(kind, key, a.by_pid and b.by_pid)
    found = []
    for figure in kind.figures:
        if any(figure in thing.hists for thing in things):
            for pct in PERCENTILES:
                one, other = (t.percentile(kind, key, figure, pct) for t in (a, b))
                if one.value is not None or other.value is not None:
                    found.append(Change(kind.layer, kind.kind, name, f"{figure}.p{pct:g}", "ns",
                                        one.value, other.value, *_judged(one, other, FLOORS["ns"]),
                                        state, pid, start))
        elif any(figure in thing.means for thing in things):
            unit = unit_of(figure)
            one, other = a.value(kind, key, figure), b.value(kind, key, figure)
            found.append(Change(kind.layer, kind.kind, name, figure, unit, one.value, other.value,
                                *_judged(one, other, LEAST.get(figure, FLOORS[unit])), state, pid,
                                start))
    return found


def _turns(kind: Kind, a: Tally, b: Tally) -> list[Turn]:
    found = []
    for state, there, other in (("gone", a, b), ("new", b, a)):
        for key, thing in there.groups[kind].things.items():
            if key not in other.groups[kind].things and _state(kind, key, a, b) == state:
                found.append(Turn(kind.layer, kind.kind, thing.name, state, thing.seen / 1e9,
                                  *_pid(kind, key, a.by_pid and b.by_pid)))
    return found


# -- reading ---------------------------------------------------------------------------------------


def same_boot(a: Frame, b: Frame) -> bool:
    """Whether a process number means the same in both."""
    return (a.host.hostname == b.host.hostname
            and abs(a.host.boot_wall_ns - b.host.boot_wall_ns) < SAME_BOOT_NS)


def reading(track: Track, positions: range, tally: Tally, scope: Scope | None = None,
            most: int = MOST_FRAMES) -> Iterator[int]:
    """Add the frames at these positions, a part of one a step; how many have been read so far."""
    step = max(1, -(-len(positions) // most))
    roster = Roster(scope) if scope else None
    before = None
    for number, at in enumerate(positions):
        moment = track.moment(at)
        if before is not None and (hole := hole_ns(before, moment)):
            tally.gaps += 1
            tally.gap_ns += hole
        before = moment
        if number % step:
            tally.skipped += 1
            continue
        try:
            frame = track.frame(at)
        except LookupError:
            tally.unreadable += 1
            continue
        yield number
        for _ in tally.adding(narrow(frame, roster.members(frame)) if roster else frame):
            yield number + 1
