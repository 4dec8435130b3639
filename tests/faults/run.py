"""One case, once: how it is judged."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field

from ktop.collect.main import Collector
from ktop.diagnosis.engine import Diagnosis
from ktop.diagnosis.model import STATES, Pipe, Report, Verdict
from ktop.model import Frame
from ktop.scope import Roster, Scope
from tests.faults.cases import Case, Scene
from tests.faults.stage import Stage

QUIET_S, HOLD_S, AFTER_S = 2, 2, 12
HEALTHY_S = 12


@dataclass
class Result:
    """One run of one case, for one of the two eyes. named: verdict's pipe, or a finding's kind ->
    ticks. at_s, gone_s: until it was named, and dropped. why: what was wrong, in words."""

    named: dict[str, int] = field(default_factory=dict)
    at_s: float | None = None
    gone_s: float | None = None
    culprit: bool | None = None
    why: str = ""


class Eye:
    """A diagnosis of one scope."""

    def __init__(self, scope: str | None) -> None:
        self._roster = Roster(Scope(cgroup=scope)) if scope is not None else None
        self._diagnosis = Diagnosis()
        self.report = Report(Verdict())
        self.cost_ms: list[float] = []

    def look_at(self, scope: str) -> None:
        """Another scope from now on."""
        self._roster = Roster(Scope(cgroup=scope))

    def see(self, frame: Frame) -> None:
        """The next frame."""
        members = self._roster.members(frame) if self._roster is not None else None
        began = time.process_time_ns()
        self.report = self._diagnosis.update(frame, members)
        self.cost_ms.append((time.process_time_ns() - began) / 1e6)


def tight(case: Case, base: str, report: Report) -> list[Pipe]:
    """Tight pipes, the narrowest first, without what other work on this machine does."""
    found = []
    for pipe in report.pipes:
        first = pipe.culprits[0].cgroup if pipe.culprits else None
        others = pipe.pipe in {"cpu", "steal"} - set(case.expect) and not (
            first or "").startswith(base)
        if pipe.since_s is not None and pipe.state in STATES[:4] and not others:
            found.append(pipe)
    return found


def right(case: Case, base: str, report: Report) -> bool:
    """Whether the report names the case."""
    if any(f.kind == case.finding for f in report.findings):
        return True
    pipes = [pipe.pipe for pipe in tight(case, base, report)]
    if case.both:
        return set(case.expect) <= set(pipes)
    return bool(pipes) and pipes[0] in case.expect


def knows_culprit(case: Case, scene: Scene, base: str, report: Report) -> bool:
    """Whether the first culprit is the case's, and the resource among what is tight of its pipe:
    packets that a firewall rule loses are the firewall's as well as the path's."""
    found = [f for f in report.findings if f.kind == case.finding]
    if found:
        return not scene.culprit or any(
            f.culprits and (f.culprits[0].cgroup or "") == scene.culprit for f in found)
    pipes = [p for p in tight(case, base, report) if p.pipe in case.expect]
    first = pipes[0].culprits[0].cgroup if pipes and pipes[0].culprits else None
    return (not scene.culprit or (first or "").startswith(scene.culprit)) and any(
        scene.resource in (p.resource or "") for p in pipes)


def explain(case: Case, base: str, report: Report) -> str:
    """What was said instead, and how near the expected pipes were."""
    said = [f"{p.pipe} {p.resource or ''} {p.state} {p.stalled or 0:.2f}"
            + (f" by {p.culprits[0].comm} in {p.culprits[0].cgroup}" if p.culprits else "")
            + (f" ({p.evidence[-1].text}: {p.evidence[-1].value:.3g})" if p.evidence else "")
            for p in tight(case, base, report)] + [f"finding {f.text}" for f in report.findings]
    near = [f"{p.pipe} {p.state} {'-' if p.stalled is None else format(p.stalled, '.2f')}"
            f"{' (' + p.why_blind + ')' if p.why_blind else ''}"
            for p in report.pipes if p.pipe in case.expect]
    return f"said: {'; '.join(said) or 'nothing'}" + (f"; was: {', '.join(near)}" if near else "")


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
        with Stage(self.seed, self.case.light, limits=self.collector.limits) as stage:
            scope = stage.group(**({"cpu_shares": "20000"} if self.case.light else {}))
            self.eyes = [Eye(scope), Eye(None)]
            for _ in range(QUIET_S):
                self.tick()
            scene = self.case.build(stage)
            self.eyes[0].look_at(scene.scope)
            begun = time.monotonic()
            held = 0
            for _ in range(round(self.case.within_s) + HOLD_S):
                self.tick()
                if broken := stage.broken():
                    self.own.why = broken
                    return self.own, self.host, 0.0
                self._note(scene, stage.base, time.monotonic() - begun)
                held += self.own.at_s is not None
                if held > HOLD_S or (not self.faulty and time.monotonic() - begun > HEALTHY_S):
                    break
            if self.faulty and (self.own.at_s is None or not self.own.culprit):
                self.own.why = explain(self.case, stage.base, self.eyes[0].report)
            stage.stop()
            if self.faulty and self.own.at_s is not None:
                self._end(stage.base)
        return self.own, self.host, max(self.eyes[0].cost_ms)

    @property
    def faulty(self) -> bool:
        """Whether something is to be named."""
        return bool(self.case.expect or self.case.finding)

    @property
    def good(self) -> bool:
        """Whether the run was right, for the fault's own control group."""
        if self.faulty:
            return self.own.at_s is not None and self.own.culprit is not False
        return not self.own.why

    def _note(self, scene: Scene, base: str, since_s: float) -> None:
        for result, eye in zip((self.own, self.host), self.eyes, strict=True):
            pipes = tight(self.case, base, eye.report)
            kinds = [f.kind for f in eye.report.findings]
            name = pipes[0].pipe if pipes else "none"
            if name == "none" and (self.case.finding in kinds or (kinds and not self.faulty)):
                name = self.case.finding or kinds[0]
            result.named[name] = result.named.get(name, 0) + 1
            if self.faulty and right(self.case, base, eye.report):
                if result.at_s is None:
                    result.at_s = since_s
                result.culprit = bool(result.culprit) or knows_culprit(
                    self.case, scene, base, eye.report)
            if not self.faulty and name != "none" and not result.why:
                result.why = explain(self.case, base, eye.report)
            if self.verbose:
                shown = ", ".join(f"{p.pipe} {p.state} {p.stalled or 0:.2f} {p.resource or ''}"
                                  for p in eye.report.pipes if p.since_s is not None)
                print(f"    {since_s:5.1f} {name:<9}| {shown} | {', '.join(kinds)}",
                      file=sys.stderr)

    def _end(self, base: str) -> None:
        begun = time.monotonic()
        for _ in range(AFTER_S):
            self.tick()
            for result, eye in zip((self.own, self.host), self.eyes, strict=True):
                if result.gone_s is None and not right(self.case, base, eye.report):
                    result.gone_s = time.monotonic() - begun
            if self.own.gone_s is not None:
                break
