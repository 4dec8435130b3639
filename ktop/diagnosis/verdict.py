"""From pipes to one verdict: the ranking, the doubts, the sentence."""

from __future__ import annotations

from ktop.diagnosis.model import Pipe, Verdict
from ktop.diagnosis.thresholds import Thresholds
from ktop.model import Frame

_NEEDED = {"cpu": ("sched_switch", "tasks"), "quota": ("tasks",), "memory": ("sched_switch",),
           "file": ("sched_switch",), "block": ("block_done", "sched_switch"),
           "tcp": ("tcp_socks", "tcp_state"), "lock": ("sched_switch",),
           "upstream": ("tcp_socks",)}


def score(pipe: Pipe, t: Thresholds) -> float:
    """By what tight pipes are ranked: how much they stall, weighted by how they are tight."""
    stalled = pipe.stalled or 0.0
    if pipe.state == "errors":
        return t.weight_errors * (stalled + t.error_floor)
    weights = {"saturated": t.weight_saturated, "contended": t.weight_contended,
               "waiting": t.weight_waiting}
    return weights[pipe.state] * stalled


def doubts(frame: Frame, pipe: str, seen_s: float) -> tuple[list[str], float]:
    """Why a verdict is less sure than it could be, and the factor on its confidence."""
    found, factor = [], 1.0
    health = frame.health
    if health.source != "bpf":
        found.append("no BPF: only what /proc says")
        factor *= 0.5
    if health.lost_events:
        found.append(f"{health.lost_events} events were lost in the last interval")
        factor *= 0.9
    if seen_s < 5.0:
        found.append(f"seen for {seen_s:.0f} s only")
        factor *= 0.85
    absent = {p.name for p in health.probes if p.status in ("absent", "fallback")}
    for name in _NEEDED.get(pipe, ()):
        if name in absent:
            found.append(f"the probe {name} is missing")
            factor *= 0.7
    if frame.block is not None and pipe == "block" and (frame.block.unseen_pct or 0.0) > 10:
        found.append(f"{frame.block.unseen_pct:.0f}% of the requests were not seen")
        factor *= 0.85
    return found, factor


def _who(pipe: Pipe) -> str:
    """The first culprit, and how many more."""
    if not pipe.culprits:
        return ""
    first = pipe.culprits[0]
    name = f"{first.comm} ({first.pid})" if first.pid is not None else first.comm
    return name + (f" and {len(pipe.culprits) - 1} more" if len(pipe.culprits) > 1 else "")


_SAID = {
    "cpu": "threads wait for a CPU", "quota": "threads are held back by the CPU quota of {}",
    "steal": "the hypervisor takes CPU time away", "memory": "threads wait for memory in {}",
    "file": "threads wait in {}", "block": "threads wait for the disk {}",
    "tcp": "connections are held up at {}", "lock": "threads queue at {}",
    "upstream": "requests wait for {}",
}


def sentence(pipe: Pipe) -> str:
    """The verdict in one plain sentence."""
    said = _SAID[pipe.pipe].format(pipe.resource or "?")
    stalled = pipe.stalled or 0.0
    text = f"{stalled:.1f} {said}" if stalled >= 0.05 else said[0].upper() + said[1:]
    who = _who(pipe)
    if not who or pipe.pipe == "upstream":
        return text + "."
    own = pipe.victims and pipe.culprits and pipe.victims[0].pid == pipe.culprits[0].pid
    return f"{text}; {'most of all' if own else 'used most by'} {who}."


def verdict(frame: Frame, ranked: list[Pipe], pipes: list[Pipe], seen_s: float) -> Verdict:
    """The narrowest of the tight pipes; `none` when there is none, `blind` when little is seen."""
    if not ranked:
        blind = [p.pipe for p in pipes if p.state == "blind"]
        found, factor = doubts(frame, "", seen_s)
        if blind:
            found.append("not seen: " + ", ".join(blind))
        sure = max(0.0, 0.9 - 0.12 * len(blind)) * factor
        if "cpu" in blind or len(blind) >= 5:
            return Verdict(state="blind", confidence=0.0, doubts=found,
                           text="Too little can be seen for a verdict.")
        return Verdict(confidence=round(sure, 2), doubts=found, text="No pipe is tight.")
    pipe = ranked[0]
    found, factor = doubts(frame, pipe.pipe, seen_s)
    if len(ranked) > 1 and ranked[1].pipe != pipe.pipe:
        other = f"{ranked[1].pipe} {ranked[1].resource or ''}".strip()
        found.append(f"{other} is tight too")
        factor *= 0.95
    return Verdict(
        pipe.pipe, pipe.resource, pipe.state, round(pipe.stalled or 0.0, 3), pipe.since_s,
        round(pipe.confidence * factor, 2), pipe.culprits, pipe.victims, pipe.evidence,
        pipe.check, pipe.next, sentence(pipe), found)
