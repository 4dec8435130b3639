"""The diagnosis of a recording: what was tight in a span, from when to when, and at its worst."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from ktop import format as fmt
from ktop.diagnosis.engine import Diagnosis
from ktop.diagnosis.model import PIPES, Report
from ktop.diagnosis.thresholds import DEFAULT, Thresholds
from ktop.lens import Track
from ktop.model import Frame
from ktop.scope import HOST, Roster, Scope

WARM_UP_NS = 60_000_000_000  # what the diagnosis is shown before the span begins


@dataclass
class Episode:
    """One pipe that was tight without a break. worst: the report when it stalled most."""

    begin_ns: int
    end_ns: int
    worst: Report
    frames: int = 1


def _frames(track: Track, begin: int, end_ns: int) -> Iterator[Frame]:
    """From a position to a time; what is damaged is left out."""
    for at in range(begin, track.end):
        if track.moment(at).wall_ns > end_ns:
            return
        try:
            yield track.frame(at)
        except LookupError:
            continue


def judge(track: Track, begin_ns: int, end_ns: int, scope: Scope,
          limits: Thresholds = DEFAULT) -> tuple[list[Episode], Frame | None, Report | None]:
    """(what was tight, in order; the last frame of the span; the report on it)."""
    diagnosis, roster = Diagnosis(limits), Roster(scope) if scope else None
    episodes: list[Episode] = []
    last: Frame | None = None
    report: Report | None = None
    for frame in _frames(track, max(track.first, track.find(begin_ns - WARM_UP_NS)), end_ns):
        report = diagnosis.update(frame, roster.members(frame) if roster is not None else None)
        wall = frame.clock.wall_ns
        if wall < begin_ns:
            continue
        last = frame
        _note(episodes, report, wall, frame.clock.interval_ns or 0)
    return episodes, last, report if last is not None else None


def _note(episodes: list[Episode], report: Report, wall_ns: int, interval_ns: int) -> None:
    verdict = report.verdict
    if verdict.pipe not in PIPES:
        return
    before = episodes[-1] if episodes else None
    if before is not None and wall_ns - before.end_ns <= 2 * interval_ns and (
            before.worst.verdict.pipe, before.worst.verdict.resource) == (
            verdict.pipe, verdict.resource):
        before.end_ns = wall_ns
        before.frames += 1
        if verdict.stalled > before.worst.verdict.stalled:
            before.worst = report
    else:
        episodes.append(Episode(wall_ns - interval_ns, wall_ns, report))


def worst(episodes: list[Episode]) -> Episode | None:
    """The one that cost most: threads stalled, times how long."""
    return max(episodes, default=None, key=lambda e: (
        e.worst.verdict.stalled * (e.end_ns - e.begin_ns), -e.begin_ns))


def as_text(episodes: list[Episode]) -> list[str]:
    """For a person: one paragraph each, the costliest marked."""
    from ktop.commands.diagnose import actors

    lines: list[str] = []
    most = worst(episodes)
    for e in episodes:
        v = e.worst.verdict
        where = f"{v.pipe} {v.resource}" if v.resource else v.pipe
        lines.append(f"{fmt.clock_time(e.begin_ns)} to {fmt.clock_time(e.end_ns)} "
                     f"({fmt.duration(e.end_ns - e.begin_ns)})  {where} {v.state}, "
                     f"{v.stalled:.2f} stalled at most, confidence {100 * v.confidence:.0f}%"
                     + ("  <- worst" if e is most else ""))
        lines.append(f"  {v.text}")
        lines += actors("culprits", v.culprits) + actors("victims", v.victims)
    return lines or ["nothing was tight"]


def main(args: argparse.Namespace) -> int:
    """`ktop replay FILE --diagnose`. Exit status 0, or 2 when it could not."""
    from ktop import config, when
    from ktop.cli import USAGE_ERROR, scope_of
    from ktop.compare_spans import parse, span_of
    from ktop.diagnosis.thresholds import chosen
    from ktop.privileges import drop_privileges
    from ktop.recording import Recording, RecordingError

    scope = scope_of(args) or HOST
    limits = chosen(config.go_by().thresholds)
    drop_privileges()
    try:
        recording = Recording(args.file)
        whole = span_of(recording)
        begin, end = whole.first_ns, whole.last_ns
        if args.span is not None:
            begin, end = parse(args.span, whole)
        episodes, last, report = judge(recording, begin, end, scope, limits)
        recording.close()
    except when.WhenError as err:
        print(f"ktop replay: --span {args.span!r}: {err} (character {err.at + 1})",
              file=sys.stderr)
        return USAGE_ERROR
    except (RecordingError, OSError) as err:
        print(f"ktop replay: {err}", file=sys.stderr)
        return USAGE_ERROR
    if last is None or report is None:
        print("ktop replay: no samples in that span", file=sys.stderr)
        return USAGE_ERROR
    if args.json:
        from ktop.answer import episodes_of, report_of

        most = worst(episodes)
        shown = report_of(most.worst if most is not None else report, last.health)
        json.dump({**shown, "episodes": episodes_of(episodes)}, sys.stdout, ensure_ascii=False,
                  indent=1)
        sys.stdout.write("\n")
    else:
        print("\n".join(as_text(episodes)))
    return 0
