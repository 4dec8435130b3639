"""Record tests/data/*.ktop: as root, by hand, on a quiet machine:
`.venv/bin/python -m tests.make_incidents [NAME ...]`; without names all of them. What another load
of the machine has disturbed is not written. `--judge` writes those that are there anew with the
verdicts of the diagnosis as it is now, and records nothing.

Each is a healthy time, an incident, and the quiet after it, at a frame a second, filtered to our
own workload (tests/session_filter.py).
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ktop.collect.main import Collector
from ktop.diagnosis.engine import Diagnosis
from ktop.model import Frame
from ktop.recording import Recording
from ktop.recording_writer import Writer
from ktop.wire import Profile
from tests import incident_load
from tests.session_filter import Filter
from tests.sessionkit import (
    HERE,
    THERE,
    Stage,
    cgroups,
    directory,
    harmless,
    limit,
    lose,
    namespaces,
    record,
)

WHERE = Path(__file__).parent / "data"
MARK = "it begins"
LOSSY = f"--dport {incident_load.LEDGER}"
QUOTA = 0.06  # CPUs
LATE, LATE_NS = 2, 1_300_000_000  # samples, and what makes them so
NAMED_S = 6        # until a verdict must name it
DISTURBED = 0.3    # part of the time in which other loads may have the word


@dataclass(frozen=True)
class Incident:
    """What is played, and the pipe that must be named. groups: roles by control group. inside:
    namespaces of roles. later: roles that are not there from the beginning. begin, end: second of
    the fault; of `seconds` in all.
    look: process that is looked at, and whose stacks are taken in the middle; none for short ones.
    """

    pipe: str
    groups: dict[str, tuple[str, ...]]
    begins: Callable[[Stage], None]
    ends: Callable[[Stage], None]
    inside: dict[str, str]
    later: tuple[str, ...] = ()
    seconds: int = 62
    begin: int = 20
    end: int = 48
    look: str = ""


def _quota(share: float | None) -> Callable[[Stage], None]:
    return lambda stage: limit(stage.groups["pages"], share)


def _lose(change: str) -> Callable[[Stage], None]:
    return lambda _: lose(0.15, LOSSY, change)


INCIDENTS = {
    "disk": Incident(
        "block", {"db": ("orders",), "web": ("checkout",), "backup": ("dump",)},
        lambda stage: stage.start("dump"), lambda stage: stage.stop("dump"), {}, ("dump",),
        170, 50, 120, "orders"),
    "network": Incident(
        "tcp", {"edge": ("gateway",), "books": ("ledger", "rates")}, _lose("-A"), _lose("-D"),
        {"gateway": HERE, "ledger": THERE, "rates": THERE}, (), 170, 50, 120, "gateway"),
    "quota": Incident(
        "quota", {"site": ("pages",), "public": ("visitors",)}, _quota(QUOTA), _quota(None), {}),
    "upstream": Incident(
        "upstream", {"edge": ("basket",), "books": ("prices",)},
        lambda stage: stage.tell("prices", signal.SIGUSR1),
        lambda stage: stage.tell("prices", signal.SIGUSR2), {"basket": HERE, "prices": THERE},
        (), 70, 20, 55)}


def play(incident: Incident) -> list[Frame]:
    """Stage it, record it, keep what is ours."""
    with (directory() as data, cgroups(incident.groups) as groups, namespaces() as netns,
          Stage(data, incident_load.__file__, groups, incident.inside) as stage):
        for role in (role for roles in incident.groups.values() for role in roles):
            if role not in incident.later:
                stage.start(role)
                time.sleep(0.5)

        def at(second: int, collector: Collector) -> None:
            if second == incident.begin:
                incident.begins(stage)
            elif second == incident.end:
                incident.ends(stage)
            if incident.look:
                _look(collector, second - incident.begin, stage.pid(incident.look))

        raw = record(incident.seconds, at)
        keep = Filter(raw, stage.pids, str(data), netns, incident_load.ROLES, incident_load.PORTS)
        return [keep(frame) for frame in raw]


def _look(collector: Collector, passed: int, pid: int) -> None:
    """Somebody opens a process for half a minute, and takes its stacks."""
    if passed in (10, 40):
        collector.look_at(pid if passed == 10 else 0)
    if passed == 25:
        collector.profile(Profile(pids=[pid], seconds=15.0))


def named(kept: list[Frame]) -> list[str]:
    """Of each frame the pipe of its verdict."""
    diagnosis = Diagnosis()
    return [diagnosis.update(frame).verdict.pipe for frame in kept]


def disturbed(kept: list[Frame], incident: Incident) -> str:
    """Why a recording is not what it should be; nothing when it is."""
    late = sum((frame.clock.interval_ns or 0) > LATE_NS for frame in kept)
    if late > LATE:
        return f"{late} samples came late"
    said = named(kept)
    before = sum(pipe != "none" for pipe in said[:incident.begin])
    during = said[incident.begin + NAMED_S:incident.end]
    if before > incident.begin * DISTURBED:
        return f"something was tight for {before} s before it began"
    if during.count(incident.pipe) < len(during) * (1 - DISTURBED):
        return f"{incident.pipe} was named for {during.count(incident.pipe)} of {len(during)} s"
    return ""


def write(file: Path, kept: list[Frame], begin_ns: int) -> None:
    """As ktop record does, with the verdicts; a mark where the incident begins."""
    new = file.with_suffix(".new")
    new.unlink(missing_ok=True)
    diagnosis = Diagnosis()
    with Writer(new) as writer:
        writer.describe(kept[0])
        for frame in kept:
            writer.add(frame, None, diagnosis.update(frame))
        writer.mark(begin_ns, MARK)
    new.chmod(0o644)
    os.replace(new, file)
    print(f"{file.name}: {len(kept)} frames, {file.stat().st_size:,} bytes")


def judge(file: Path) -> None:
    """The same frames with the verdicts of now."""
    with Recording(file) as recording:
        kept = [recording.frame(at) for at in range(recording.first, recording.end)]
        begin_ns = next(mark.wall_ns for mark in recording.marks() if mark.note == MARK)
    write(file, kept, begin_ns)


def main() -> int:
    """Record those that are named, or all; or judge them again."""
    parser = argparse.ArgumentParser(description="recorded incidents")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(INCIDENTS))
    parser.add_argument("--judge", action="store_true", help="only new verdicts")
    args = parser.parse_args()
    if unknown := set(args.names) - set(INCIDENTS):
        parser.error(f"no incident is called {', '.join(sorted(unknown))}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    for name in args.names or INCIDENTS:
        file = WHERE / f"{name}.ktop"
        if args.judge:
            judge(file)
            continue
        kept = play(INCIDENTS[name])
        if not harmless(kept):
            return 1
        if problem := disturbed(kept, INCIDENTS[name]):
            print(f"{name}: not written: {problem}", file=sys.stderr)
            return 1
        write(file, kept, kept[INCIDENTS[name].begin].clock.wall_ns)
    return 0


if __name__ == "__main__":
    sys.exit(main())
