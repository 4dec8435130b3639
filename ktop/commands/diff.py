"""`ktop diff A [B]`: two spans of recordings side by side; what grew, what is new."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ktop.compare import Change, Comparison, Tally
    from ktop.compare_spans import Stretch
    from ktop.recording import Recording
    from ktop.scope import Scope

USAGE_ERROR = 2
WIDTH = 80
_ROW = "  {what:<42} {a:>8} {b:>8} {difference:>9} {ratio:>7}"


def add(commands: Any) -> None:
    """The options."""
    from ktop.cli import scoped

    parser = commands.add_parser(
        "diff", help="two spans of recordings side by side: what grew, what is new",
        allow_abbrev=False,
        description="Compares the last minute of A with the one before, or the spans given; with "
                    "B all of A with all of B. Means, rates and percentiles; what changed most "
                    "comes first. Left out: less than a tenth, less than a unit's least (1 %, "
                    "1/s, 16K/s, 1M, 100us; of switches and packets 100/s), less than three "
                    "standard errors; of percentiles less than a quarter.")
    parser.add_argument("a", metavar="A", help="a recording")
    parser.add_argument("b", metavar="B", nargs="?", help="another one (default: the same)")
    parser.add_argument("--span", action="append", default=[], metavar="SPAN",
                        help="23:47-23:50, 23:47:10+30s, -10m..-5m or start..end; twice: before "
                             "and after. Once, of one recording: after; before is as long")
    parser.add_argument("--all", action="store_true",
                        help="every change that matters, not the first of each layer")
    parser.add_argument("--json", action="store_true", help="as JSON, with all figures")
    scoped(parser)


def run(args: argparse.Namespace) -> int:
    """Compare and print; the exit status."""
    from ktop.cli import scope_of
    from ktop.privileges import drop_privileges
    from ktop.recording import Recording, RecordingError
    from ktop.when import WhenError

    scope = scope_of(args)
    drop_privileges()
    if len(args.span) > 2:
        return _refuse("--span: two of them at most, before and after")
    opened: list[Recording] = []
    try:
        opened = [Recording(path) for path in ([args.a] if args.b is None else [args.a, args.b])]
        one, other = opened[0], opened[-1]
        a, b, found = _compared(one, other, _spans(one, other, args.span), scope)
    except WhenError as err:
        return _refuse(f"--span: {err} (character {err.at + 1})")
    except (RecordingError, ValueError) as err:
        return _refuse(str(err))
    finally:
        for recording in opened:
            recording.close()
    if args.json:
        json.dump(as_json(a, b, found), sys.stdout, ensure_ascii=False, indent=1)
        print()
    else:
        print("\n".join(as_text(a, b, found, 10_000 if args.all else 12)))
    return 0


def _refuse(problem: str) -> int:
    print(f"ktop diff: {problem}", file=sys.stderr)
    return USAGE_ERROR


def _spans(one: Recording, other: Recording, texts: Sequence[str]) -> tuple[Stretch, Stretch]:
    """Before and after."""
    from ktop import compare_spans as spans

    if len(texts) == 2:
        return (spans.parse(texts[0], spans.span_of(one)),
                spans.parse(texts[1], spans.span_of(other)))
    if one is not other:
        if texts:
            return (spans.parse(texts[0], spans.span_of(one)),
                    spans.parse(texts[0], spans.span_of(other)))
        return spans.whole(one), spans.whole(other)
    after = spans.parse(texts[0], spans.span_of(one)) if texts else spans.recent(one)
    return spans.before(after), after


def _compared(one: Recording, other: Recording, stretches: tuple[Stretch, Stretch],
              scope: Scope | None) -> tuple[Tally, Tally, Comparison]:
    from ktop.compare import Tally, compare, reading, same_boot
    from ktop.compare_spans import positions

    wanted = [positions(track, s) for track, s in zip((one, other), stretches, strict=True)]
    for name, found in zip(("before", "after"), wanted, strict=True):
        if not found:
            raise ValueError(f"the span {name} has no samples")
    by_pid = one is other or same_boot(one.frame(wanted[0][0]), other.frame(wanted[1][0]))
    tallies = Tally(by_pid), Tally(by_pid)
    total, done, said = sum(map(len, wanted)), 0, 0.0
    live = sys.stderr.isatty()
    for track, found, tally in zip((one, other), wanted, tallies, strict=True):
        for at in reading(track, found, tally, scope):
            if live and time.monotonic() - said > 0.2:
                said = time.monotonic()
                print(f"\rreading {done + at} of {total} samples\x1b[K", end="", file=sys.stderr,
                      flush=True)
        done += len(found)
    if live and said:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    return *tallies, compare(*tallies)


def as_text(a: Tally, b: Tally, found: Comparison, most: int = 12) -> list[str]:
    """Lines of at most 80 characters: both spans, then the layers, the most changed first."""
    from ktop.compare import telling
    from ktop.compare_text import TITLES, span_text, turn_lines

    lines: list[str] = []
    for name, tally in (("before", a), ("after ", b)):
        lines += textwrap.wrap(f"{name}  {tally.hostname}  {span_text(tally)}", WIDTH - 1,
                               subsequent_indent="        ")
    by: dict[str, list[Change]] = {}
    for change in telling(found.changes):
        by.setdefault(change.layer, []).append(change)
    turns = turn_lines(found.turns)
    for layer in dict.fromkeys([*by, *(layer for layer, _ in turns)]):
        changes = by.get(layer, [])
        lines += ["", _ROW.format(what=TITLES[layer].upper(), a="BEFORE", b="AFTER",
                                  difference="CHANGE", ratio="RATIO")[2:]]
        lines += [_line(change) for change in changes[:most]]
        if len(changes) > most:
            lines.append(f"  and {len(changes) - most} more: --all")
        for at, text in turns:
            if at == layer:
                lines += textwrap.wrap(text, WIDTH - 1, initial_indent="  ",
                                       subsequent_indent="    ")
    if not by and not turns:
        lines += ["", "Nothing changed by more than what is noise."]
    return lines


def _line(change: Change) -> str:
    from ktop.compare_text import difference_text, ratio_text, value_text, what_text

    what = what_text(change)
    if len(what) > 42:  # both ends tell: who it is, and which figure
        tail = what[what.rindex(": "):] if ": " in what else what[-12:]
        what = what[:max(1, 41 - len(tail))] + "~" + tail
    return _ROW.format(what=what[:42], a=value_text(change.a, change.unit),
                       b=value_text(change.b, change.unit), difference=difference_text(change),
                       ratio=ratio_text(change))


def as_json(a: Tally, b: Tally, found: Comparison) -> dict[str, Any]:
    """All of it as plain objects; figures in the units of their names (percentiles: ns)."""
    from ktop.compare import BUCKET, ERRORS, FLOORS, LEAST, RELATIVE

    def span(tally: Tally) -> dict[str, Any]:
        return {"hostname": tally.hostname, "begin_wall_ns": tally.begin_ns,
                "end_wall_ns": tally.end_ns, "samples": tally.frames,
                "covered_ns": tally.covered_ns, "left_out": tally.skipped,
                "unreadable": tally.unreadable, "gaps": tally.gaps, "gap_ns": tally.gap_ns,
                "samples_without": {**tally.missing, "file_operations": tally.unwatched},
                "lost_events": tally.lost_events}

    return {
        "before": span(a), "after": span(b),
        "rule": {"floors": FLOORS, "floors_by_figure": LEAST, "relative": RELATIVE,
                 "standard_errors": ERRORS, "percentile_ratio": BUCKET},
        "changes": [{
            "layer": c.layer, "kind": c.kind or "host", "name": c.name, "figure": c.figure,
            "unit": c.unit, "before": c.a, "after": c.b, "difference": c.difference,
            "ratio": c.ratio, "score": c.score, "matters": c.matters, "state": c.state or None,
            "pid": c.pid} for c in found.changes],
        "turns": [{**turn._asdict()} for turn in found.turns]}
