"""`ktop diagnose`: the verdict without a screen, for scripts, alerts and tickets.

The JSON is stable: fields are only ever added. It is

    {"verdict": {...}, "pipes": [...], "findings": [...], "health": {...}}

with the fields of ktop/diagnosis/model.py, as a schema in docs/diagnose.schema.json; `stalled` is
task-seconds a second, a `share` 0 to 1. When nothing is tight the verdict has pipe "none" and state
"ok"; when too little can be seen, state "blind".
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ktop import format as fmt
from ktop.cli import MIN_INTERVAL, USAGE_ERROR, sampling, scope_of, scoped

if TYPE_CHECKING:
    from ktop.diagnosis.model import Actor, Evidence, Pipe, Report
    from ktop.model import Frame, Health
    from ktop.scope import Scope

TIGHT = 10  # exit status with --exit-code
_MAX_S = 3600.0
_LAYERS = ("processes", "sched", "files", "tcp", "block")


def _duration(text: str) -> float:
    try:
        value = float(text.removesuffix("s"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds") from None
    if not 1.0 <= value <= _MAX_S:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 and {_MAX_S:g} seconds")
    return value


def add(commands: Any) -> None:
    """The subcommand's options."""
    parser = commands.add_parser(
        "diagnose", help="which pipe is the narrowest, who squeezes, on what evidence",
        allow_abbrev=False)
    parser.add_argument("--duration", type=_duration, default=10.0, metavar="S",
                        help="seconds to look, 1 to 3600 (default 10)")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument("--exit-code", action="store_true",
                        help=f"exit status {TIGHT} when a pipe is tight")
    sampling(parser, again=True)
    scoped(parser)


def run(args: argparse.Namespace) -> int:
    """Look, then print. Exit status 0 whatever the verdict, 2 when it could not look. With
    --exit-code TIGHT when a pipe is tight, and 2 when too little was seen to say so."""
    from ktop import config

    scope = scope_of(args)
    settings = config.go_by()
    looks = Looks(args.duration, args.bpf, (*settings.limits, *args.limits), scope,
                  settings.thresholds)
    interval = max(MIN_INTERVAL, min(args.interval, args.duration / 3))
    report = health = None
    for frame, found, known in looks.reports(interval):
        report, health = found, frame.health
        if not known:
            print(f"ktop: nothing is in {_name(scope)}", file=sys.stderr)
            return USAGE_ERROR
    if report is None or health is None:
        print("ktop: no verdict: no sample came", file=sys.stderr)
        return USAGE_ERROR
    if args.json:
        json.dump(as_json(report, health), sys.stdout, ensure_ascii=False, indent=1)
        sys.stdout.write("\n")
    else:
        print("\n".join(as_text(report, health)))
    return status(report) if args.exit_code else 0


def status(report: Report) -> int:
    """For --exit-code: blind is not the same as nothing tight."""
    if report.verdict.state == "blind":
        return USAGE_ERROR
    return TIGHT if report.verdict.pipe != "none" else 0


def _name(scope: Scope | None) -> str:
    if scope is None:
        return "the host"
    if scope.pid is not None:
        return f"the scope of process {scope.pid}"
    return f"the scope {scope.cgroup or scope.comm}"


@dataclass(frozen=True)
class Looks:
    """What is looked at, and by which thresholds (as in the config file)."""

    duration: float
    bpf: bool
    limits: tuple[str, ...]
    scope: Scope | None
    thresholds: Mapping[str, float]

    def reports(self, interval: float) -> Iterator[tuple[Frame, Report, bool]]:
        """(frame, report, whether anything is in the scope), tick by tick."""
        from ktop.collect.main import Collector, Options
        from ktop.diagnosis.engine import Diagnosis
        from ktop.diagnosis.thresholds import chosen
        from ktop.scope import Roster

        collector = Collector(Options(bpf=self.bpf, watch=_LAYERS, limits=self.limits))
        diagnosis = Diagnosis(chosen(self.thresholds))
        roster = Roster(self.scope) if self.scope else None
        collector.start()
        try:
            collector.settle()
            collector.tick()
            begun = time.monotonic()
            for tick in range(1, max(2, round(self.duration / interval)) + 1):
                while (left := begun + tick * interval - time.monotonic()) > 0:
                    time.sleep(min(left, 0.2))
                    collector.drain()
                frame = collector.tick()
                members = roster.members(frame) if roster is not None else None
                known = members is None or tick > 1 or any(
                    members.has(p.pid, p.cgroup) for p in frame.processes.rows)
                yield frame, diagnosis.update(frame, members), known
        finally:
            collector.close()


def as_json(report: Report, health: Health) -> dict[str, Any]:
    """The report as plain objects."""
    from ktop.answer import report_of

    return report_of(report, health)


def _evidence(e: Evidence) -> str:
    against = f"  (reference {fmt.figure(e.reference)})" if e.reference is not None else ""
    return f"    {e.text}: {fmt.figure(e.value)} {e.unit}{against}  [{e.source}]"


def actors(title: str, found: list[Actor]) -> list[str]:
    """Culprits or victims below their title; nothing when there are none."""
    lines = []
    for a in found:
        who = a.comm if a.pid is None else f"{a.comm} {a.pid}"
        share = f"  {100 * a.share:.0f}%" if a.share is not None else ""
        lines.append(f"    {who}{share}{'  in ' + a.cgroup if a.cgroup else ''}")
    return [f"  {title}", *lines] if lines else []


def _pipe(p: Pipe) -> str:
    known = [f"{p.stalled:5.2f} stalled" if p.stalled is not None else "    - stalled"]
    known += [f"{name} {fmt.figure(value)}{unit}" for name, value, unit in (
        ("use", p.utilisation_pct, "%"), ("rate", p.rate_per_s, "/s"),
        ("P99", p.p99_ns / 1e6 if p.p99_ns is not None else None, " ms")) if value is not None]
    return f"  {p.pipe:<8} {p.state:<9} {p.resource or '':<24} {'  '.join(known)}"


def as_text(report: Report, health: Health) -> list[str]:
    """For a person: the verdict, what it rests on, all pipes, findings."""
    v = report.verdict
    since = f", for {v.since_s:.0f} s" if v.since_s is not None else ""
    lines = [f"{v.pipe}: {v.state}{since}, confidence {100 * v.confidence:.0f}%", f"  {v.text}"]
    lines += [f"  but: {doubt}" for doubt in v.doubts]
    lines += ["  evidence", *map(_evidence, v.evidence)] if v.evidence else []
    lines += actors("culprits", v.culprits) + actors("victims", v.victims)
    lines += [f"  check: {v.check}"] if v.check else []
    lines += [f"  next:  {v.next}"] if v.next else []
    for f in report.findings:
        lines += [f"finding, {f.kind}: {f.text}", *map(_evidence, f.evidence)]
    lines += ["pipes", *map(_pipe, report.pipes)]
    return lines + ([f"  {health.banner}"] if health.banner else [])
