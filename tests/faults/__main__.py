"""`python -m tests.faults [--runs N] [--seed S] [names]`: the confusion matrix.

Each case runs as a real load in control groups (and network namespaces) of its own. The verdict is
read twice: for the fault's own control group, and for the whole host. Waits for a CPU that other
work on the machine uses are not counted: neither as the right answer nor as a wrong one.
Exit status 1 when a case was judged wrongly.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from dataclasses import dataclass, field

from ktop.collect.main import Collector, Options
from ktop.diagnosis.engine import Diagnosis
from ktop.diagnosis.model import STATES, Pipe, Report, Verdict
from ktop.model import Frame
from ktop.scope import Roster, Scope
from tests.faults.cases import CASES, Case, Scene
from tests.faults.stage import Stage

QUIET_S, HOLD_S, AFTER_S = 3, 5, 12
HEALTHY_S = 12


@dataclass
class Result:
    """One run of one case, for one of the two eyes."""

    named: dict[str, int] = field(default_factory=dict)  # verdict's pipe: seconds
    at_s: float | None = None
    gone_s: float | None = None
    culprit: bool | None = None


class Eye:
    """A diagnosis of one scope."""

    def __init__(self, scope: str | None) -> None:
        self._roster = Roster(Scope(cgroup=scope)) if scope is not None else None
        self._diagnosis = Diagnosis()
        self.report = Report(Verdict())
        self.cost_ms: list[float] = []

    def see(self, frame: Frame) -> None:
        members = self._roster.members(frame) if self._roster is not None else None
        began = time.process_time_ns()
        self.report = self._diagnosis.update(frame, members)
        self.cost_ms.append((time.process_time_ns() - began) / 1e6)


def named(case: Case, base: str, report: Report) -> Pipe | None:
    """The narrowest pipe, without what other work on this machine does to it; None: none."""
    tight = [p for p in report.pipes if p.since_s is not None and p.state in STATES[:4]]
    for pipe in tight:
        first = pipe.culprits[0].cgroup if pipe.culprits else None
        if (pipe.pipe in {"cpu", "steal"} - set(case.expect)
                and not (first or "").startswith(base)):
            continue
        return pipe
    return None


def right(case: Case, base: str, report: Report) -> bool:
    """Whether the report names the case."""
    if case.finding:
        return any(f.kind == case.finding for f in report.findings)
    pipe = named(case, base, report)
    return pipe is not None and pipe.pipe in case.expect


def knows_culprit(case: Case, scene: Scene, base: str, report: Report) -> bool:
    """Whether the first culprit and the resource are the case's."""
    v = named(case, base, report)
    if case.finding:
        return any(f.kind == case.finding and f.culprits
                   and (f.culprits[0].cgroup or "") == scene.culprit for f in report.findings)
    first = v.culprits[0].cgroup if v is not None and v.culprits else None
    return v is not None and (not scene.culprit or (first or "").startswith(scene.culprit)) and (
        scene.resource in (v.resource or ""))


class Run:
    """One case once."""

    def __init__(self, case: Case, collector: Collector, seed: int, verbose: bool) -> None:
        self.case, self.collector, self.seed, self.verbose = case, collector, seed, verbose
        self.due = time.monotonic()
        self.own, self.host = Result(), Result()
        self.eyes: list[Eye] = []

    def tick(self) -> None:
        """The next frame, a second after the last."""
        self.due = max(self.due + 1.0, time.monotonic())
        while (left := self.due - time.monotonic()) > 0:
            time.sleep(min(0.2, left))
            self.collector.drain()
        frame = self.collector.tick()
        for eye in self.eyes:
            eye.see(frame)

    def __call__(self) -> tuple[Result, Result, float]:
        with Stage(self.seed, self.case.light) as stage:
            scene_scope = stage.group(**({"cpu_shares": "20000"} if self.case.light else {}))
            self.eyes = [Eye(scene_scope), Eye(None)]
            for _ in range(QUIET_S):
                self.tick()
            scene = self.case.build(stage)
            self.eyes[0]._roster = Roster(Scope(cgroup=scene.scope))
            begun = time.monotonic()
            held = 0
            for _ in range(round(self.case.within_s) + HOLD_S):
                self.tick()
                if stage.broken():
                    raise RuntimeError(f"{self.case.name}: a load has ended by itself")
                self._note(scene, stage.base, time.monotonic() - begun)
                held += self.own.at_s is not None
                if held > HOLD_S or (not self._faulty and time.monotonic() - begun > HEALTHY_S):
                    break
            stage.stop()
            if self._faulty:
                self._end(stage.base)
        return self.own, self.host, max(self.eyes[0].cost_ms)

    @property
    def _faulty(self) -> bool:
        return bool(self.case.expect or self.case.finding)

    def _note(self, scene: Scene, base: str, since_s: float) -> None:
        for result, eye in zip((self.own, self.host), self.eyes, strict=True):
            v = named(self.case, base, eye.report)
            name = v.pipe if v is not None else "none"
            result.named[name] = result.named.get(name, 0) + 1
            if self._faulty and right(self.case, base, eye.report):
                if result.at_s is None:
                    result.at_s = since_s
                result.culprit = bool(result.culprit) or knows_culprit(
                    self.case, scene, base, eye.report)
            if self.verbose:
                findings = ", ".join(f.kind for f in eye.report.findings)
                tight = ", ".join(
                    f"{p.pipe} {p.state} {p.stalled or 0:.2f} {p.resource or ''}"
                    for p in eye.report.pipes if p.since_s is not None)
                print(f"    {since_s:5.1f} {name:<9}| {tight} | {findings}", file=sys.stderr)

    def _end(self, base: str) -> None:
        begun = time.monotonic()
        for _ in range(AFTER_S):
            self.tick()
            for result, eye in zip((self.own, self.host), self.eyes, strict=True):
                if result.gone_s is None and not right(self.case, base, eye.report):
                    result.gone_s = time.monotonic() - begun
            if self.own.gone_s is not None:
                break


def _verdicts(named: dict[str, int]) -> str:
    return " ".join(f"{pipe}:{n}" for pipe, n in sorted(named.items(), key=lambda p: -p[1]))


def judge(case: Case, own: Result) -> bool:
    """Whether the run was right, for the fault's own control group."""
    if case.expect or case.finding:
        return own.at_s is not None and own.culprit is not False
    return set(own.named) <= {"none"}


def main() -> int:
    """All cases, or those named."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("-v", "--verbose", action="store_true")
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    wanted = [c for c in CASES if not args.names or any(n in c.name for n in args.names)]
    collector = Collector(Options(watch=("processes", "sched", "files", "tcp", "block")))
    collector.start()
    wrong, named_s, gone_s, costs = 0, [], [], []
    print(f"seed {args.seed}\n{'case':<16}{'right':<7}{'culprit':<9}{'named s':>8}{'gone s':>8}  "
          "own group                      host")
    try:
        collector.settle()
        for number in range(args.runs):
            for i, case in enumerate(wanted):
                own, host, cost = Run(case, collector, args.seed + 1000 * number + i,
                                      args.verbose)()
                good = judge(case, own)
                wrong += not good
                costs.append(cost)
                named_s += [own.at_s] if own.at_s is not None else []
                gone_s += [own.gone_s] if own.gone_s is not None else []
                shown = [f"{v:.1f}" if v is not None else "-" for v in (own.at_s, own.gone_s)]
                culprit = {None: "-", True: "yes", False: "NO"}[own.culprit]
                print(f"{case.name:<16}{'yes' if good else 'NO':<7}{culprit:<9}{shown[0]:>8}"
                      f"{shown[1]:>8}  {_verdicts(own.named):<30} {_verdicts(host.named)}",
                      flush=True)
    finally:
        collector.close()
    total = args.runs * len(wanted)
    print(f"{total - wrong} of {total} right; named after {_median(named_s)} s, dropped after "
          f"{_median(gone_s)} s (medians); dearest tick {max(costs, default=0):.1f} ms")
    return 1 if wrong else 0


def _median(values: list[float]) -> str:
    return f"{statistics.median(values):.1f}" if values else "-"


if __name__ == "__main__":
    sys.exit(main())
