"""A comparison in words: figures with their units, who is new, what the spans lack."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from ktop import format as fmt
from ktop import when
from ktop.compare import Change, Tally, Turn

TITLES = {"processes": "Processes", "sched": "Scheduler", "memory": "Memory", "files": "Files",
          "tcp": "TCP", "block": "Block"}
_PLURALS = {"process": "processes"}
_FORMATS: dict[str, Callable[[float | None], str]] = {
    "pct": fmt.pct, "per_s": fmt.rate, "bytes_per_s": fmt.size_rate, "bytes": fmt.size,
    "ns": fmt.duration, "number": fmt.number,
    "count": lambda value: fmt.count(None if value is None else round(value))}
_ENDINGS = (("_bytes_per_s", " bytes/s"), ("bytes_per_s", "bytes/s"), ("_per_s", "/s"),
            ("per_s", "per second"), ("_pct", " %"), ("_ns", ""))
MANY = 999.5


def figure_text(figure: str) -> str:
    """`read_bytes_per_s` as `read bytes/s`, `runq.p99` as `runq P99`."""
    name, dot, percentile = figure.partition(".p")
    for ending, shown in _ENDINGS:
        if name.endswith(ending):
            name = name.removesuffix(ending) + shown
            break
    return name.replace("_", " ") + (f" P{percentile}" if dot else "")


def value_text(value: float | None, unit: str) -> str:
    """With its unit, short."""
    return _FORMATS[unit](None if value is None else max(0.0, value))


def difference_text(change: Change) -> str:
    """`+3.4ms`, `-12`."""
    found = change.difference
    if found is None:
        return fmt.UNKNOWN
    sign = "-" if found < 0 else "+" if found else ""
    return sign + _FORMATS[change.unit](abs(found))


def ratio_text(change: Change) -> str:
    """`4.2x`, `0.31x`; `new` and `gone` for what is in one span only."""
    if change.state:
        return change.state
    found = change.ratio
    if found is None:
        return "from 0" if change.a == 0 and change.b else fmt.UNKNOWN
    if found < 0.005:
        return "<0.01x"
    return f">{MANY:.0f}x" if found > MANY else f"{found:.0f}x" if found >= 99.5 else (
        f"{found:.1f}x" if found >= 0.95 else f"{found:.2f}x")


def what_text(change: Change) -> str:
    """Whose figure it is."""
    if not change.kind:
        return figure_text(change.figure)
    return f"{change.kind} {change.name}".rstrip() + f": {figure_text(change.figure)}"


def span_text(tally: Tally) -> str:
    """`23:46:10..23:47:10, 60 samples`, with what they lack."""
    if not tally.frames:
        return "no samples"
    begin = tally.begin_ns or 0
    day = not when.same_day(begin, tally.end_ns)
    words = [f"{when.clock(begin, True)}..{when.clock(tally.end_ns, day)}",
             f"{tally.frames} sample{'s' * (tally.frames != 1)}"]
    return ", ".join([*words, *lacks(tally)])


def lacks(tally: Tally) -> list[str]:
    """What is not in a span, in words."""
    found = []
    if tally.skipped:
        share = (tally.frames + tally.skipped + tally.unreadable) / max(1, tally.frames)
        found.append(f"one in {share:.0f} looked at")
    if tally.gaps:
        found.append(f"{tally.gaps} gap{'s' * (tally.gaps != 1)} of {fmt.duration(tally.gap_ns)}")
    if tally.unreadable:
        found.append(f"{tally.unreadable} unreadable")
    for layer, frames in tally.missing.items():
        part = "" if frames == tally.frames else f" in {frames} of them"
        found.append(f"no {layer}{part}")
    unseen = tally.unwatched
    if unseen and "files" not in tally.missing:
        found.append("no file operations" + ("" if unseen == tally.frames
                                             else f" in {unseen} of them"))
    if tally.lost_events:
        found.append(f"{fmt.grouped(tally.lost_events)} events lost")
    return found


def turn_lines(turns: Iterable[Turn], most: int = 8) -> list[tuple[str, str]]:
    """(layer, `new processes: 12 cron, sleep (40 of them), and 3 more`) by layer, kind, state."""
    by: dict[tuple[str, str, str], list[Turn]] = {}
    for turn in turns:
        by.setdefault((turn.layer, turn.kind, turn.state), []).append(turn)
    lines = []
    for (layer, kind, state), found in by.items():
        names = Counter(_name(turn) for turn in found)
        single = {_name(turn): turn.name for turn in found}
        shown = [single[name] if n == 1 else f"{name} ({n} of them)"
                 for name, n in names.items()]
        rest = f", and {len(shown) - most} more" if len(shown) > most else ""
        plural = kind if len(found) == 1 else _PLURALS.get(kind, kind + "s")
        lines.append((layer, f"{state} {plural}: {', '.join(shown[:most])}{rest}"))
    return lines


def _name(turn: Turn) -> str:
    """Processes of one name are told together."""
    return turn.name.partition(" ")[2] if turn.pid is not None else turn.name
