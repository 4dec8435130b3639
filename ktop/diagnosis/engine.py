"""The diagnosis of a stream of frames.

    diagnosis = Diagnosis()
    for frame in frames:                       # in their order; reset() after a jump
        report = diagnosis.update(frame, members)

Deterministic: the same frames give the same reports; the only clock is the frames'.
"""

from __future__ import annotations

from dataclasses import dataclass

from msgspec.structs import replace

from ktop.diagnosis import cpu, lock, memory, quota, upstream
from ktop.diagnosis.block import BlockPipes
from ktop.diagnosis.files import FilePipes
from ktop.diagnosis.findings import SETTLED, Findings
from ktop.diagnosis.look import Look, look_at
from ktop.diagnosis.model import PIPES, Finding, Pipe, Report, Verdict
from ktop.diagnosis.tcp import TcpPipes
from ktop.diagnosis.thresholds import DEFAULT, Thresholds
from ktop.diagnosis.verdict import score, verdict
from ktop.model import Frame
from ktop.scope import Members

_Key = tuple[str, str | None]
_GAP_S = 10.0  # frames further apart than this do not belong together


@dataclass
class _Held:
    """A pipe or a finding through time. held_s: how long it has stood out, less what it faded."""

    held_s: float = 0.0
    mean: float = 0.0
    since_ns: int = 0
    named: bool = False
    last: Pipe | None = None


class Diagnosis:
    """Follows one scope through its frames."""

    def __init__(self, limits: Thresholds = DEFAULT) -> None:
        self.limits = limits
        self.reset()

    def reset(self) -> None:
        """Forget what came before: after a jump in time or another scope."""
        self._block, self._files, self._tcp = BlockPipes(), FilePipes(), TcpPipes()
        self._findings = Findings()
        self._held: dict[_Key, _Held] = {}
        self._found: dict[str, tuple[_Held, Finding]] = {}
        self._began_ns: int | None = None
        self._last_ns: int | None = None

    def update(self, frame: Frame, members: Members | None = None) -> Report:
        """The next frame. members: the scope, None for the host; its victims are in it, culprits
        may be outside."""
        now = frame.clock.monotonic_ns
        if self._last_ns is not None and not 0 <= now - self._last_ns <= max(
                _GAP_S * 1e9, 3 * (frame.clock.interval_ns or 0)):
            self.reset()
        if self._began_ns is None:
            self._began_ns = now
        self._last_ns = now
        if frame.clock.interval_ns is None:  # a first sample is no sample
            return Report(Verdict(state="blind", text="The first sample has no rates."))
        look = look_at(frame, members, self.limits)
        pipes = self._measure(look)
        tight = self._hold(pipes, look.seconds, now)
        tight.sort(key=lambda p: (-score(p, self.limits), p.pipe, p.resource or ""))
        cause_first(tight)
        for pipe in tight:
            apart(pipe, self.limits)
        named = {(p.pipe, p.resource) for p in tight}
        order = {name: i for i, name in enumerate(PIPES)}
        rest = [_quiet(p) for p in pipes if (p.pipe, p.resource) not in named]
        rest.sort(key=lambda p: (order[p.pipe], -(p.stalled or 0.0), p.resource or ""))
        seen_s = (now - self._began_ns) / 1e9
        return Report(verdict(frame, tight, pipes, seen_s), tight + rest,
                      self._hold_findings(look, now))

    def _measure(self, look: Look) -> list[Pipe]:
        """All pipes of one frame. Block comes before files: a fsync behind a full disk is its."""
        block = self._block.measure(look)
        return [*cpu.measure_cpu(look), *quota.measure(look), *cpu.measure_steal(look),
                *memory.measure(look), *self._files.measure(look), *block,
                *self._tcp.measure(look), *lock.measure(look), *upstream.measure(look)]

    def _hold(self, pipes: list[Pipe], seconds: float, now: int) -> list[Pipe]:
        """Hysteresis: which pipes have stood out for long enough, and have not gone yet."""
        t = self.limits
        step = min(1.0, seconds / t.smooth_s)
        present: dict[_Key, Pipe] = {}
        for p in pipes:  # one resource may be tight in two ways: the worse one speaks
            other = present.get((p.pipe, p.resource))
            if other is None or (p.stalled or 0.0) > (other.stalled or 0.0):
                present[p.pipe, p.resource] = p
        tight = []
        for key in present.keys() | self._held.keys():
            pipe, held = present.get(key), self._held.setdefault(key, _Held())
            held.mean += ((pipe.stalled or 0.0 if pipe else 0.0) - held.mean) * step
            out = pipe is not None and pipe.state not in ("ok", "blind")
            if out and key[0] == "upstream":  # a sample each tick says little by itself
                out = held.mean >= t.upstream_stalled
            if out and pipe is not None:
                if not held.held_s:
                    held.since_ns = now - round(seconds * 1e9)
                held.held_s = min(t.hold_s, held.held_s + seconds)
                held.last = pipe
            else:
                held.held_s = max(0.0, held.held_s - t.fade * seconds)
            held.named = held.held_s >= t.name_s or (held.named and held.held_s > 0)
            if held.named and held.last is not None:
                # its own: earlier reports have the same pipe, and are kept
                tight.append(replace(held.last, stalled=max(held.mean, 0.0),
                                     since_s=(now - held.since_ns) / 1e9))
        self._held = {key: held for key, held in self._held.items()
                      if held.held_s > 0 or held.mean > 0.01}
        return tight

    def _hold_findings(self, look: Look, now: int) -> list[Finding]:
        t, seconds = self.limits, look.seconds
        present = dict(self._findings.measure(look))
        for key, finding in present.items():
            held = self._found[key][0] if key in self._found else _Held(
                since_ns=now - round(seconds * 1e9))
            self._found[key] = (held, finding)
        for key, (held, finding) in list(self._found.items()):
            if key in present:
                held.held_s = min(t.finding_s + t.finding_keep_s, held.held_s + seconds)
            else:
                held.held_s -= seconds
            if held.held_s <= 0:
                del self._found[key]
                continue
            held.named = held.named or held.held_s >= t.finding_s or finding.kind in SETTLED
        found = []
        for held, finding in self._found.values():
            if held.named:
                found.append(replace(finding, since_s=(now - held.since_ns) / 1e9))
        return sorted(found, key=lambda f: (f.kind, -f.since_s, f.text))


def cause_first(tight: list[Pipe]) -> None:
    """A disk that is full of what too little memory makes somebody read again is the memory's."""
    memory = next((p for p in tight if p.pipe == "memory"), None)
    if memory is None:
        return
    waiting = {a.pid for a in memory.victims}
    above = next((i for i, p in enumerate(tight) if p.pipe == "block" and p.culprits
                  and p.culprits[0].pid in waiting), None)
    at = tight.index(memory)
    if above is not None and above < at:
        tight.insert(above, tight.pop(at))


def apart(pipe: Pipe, t: Thresholds) -> None:
    """Who squeezes and who is squeezed, where they can be told apart.

    Who uses next to nothing of it is no culprit. Who uses most of it waits for itself: a victim
    only where nobody else is.
    """
    pipe.culprits = [a for a in pipe.culprits if a.share is None or a.share >= t.culprit_share
                     ] or pipe.culprits[:1]
    users = {a.pid for a in pipe.culprits if (a.share or 0.0) >= t.culprit_most} - {None}
    pipe.victims = [a for a in pipe.victims if a.pid not in users] or pipe.victims


def _quiet(pipe: Pipe) -> Pipe:
    """A pipe that stands out for the first time is not called tight yet."""
    if pipe.state != "blind":
        pipe.state = "ok"
    return pipe
