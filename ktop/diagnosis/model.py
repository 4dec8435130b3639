"""What diagnosis says. `stalled` is everywhere in task-seconds a second: by Little's law, the mean
number of threads (or connections) that waited there.
"""

from __future__ import annotations

from ktop.parts import Part

PIPES = ("cpu", "quota", "steal", "memory", "file", "block", "tcp", "lock", "upstream")
# In the order in which they count: what fails, what is full, what is fought for, what is slow.
STATES = ("errors", "saturated", "contended", "waiting", "ok", "blind")


class Evidence(Part):
    """One figure that the verdict rests on. reference: what it is compared with, None: nothing.

    source: where the figure comes from.
    """

    text: str
    value: float
    unit: str
    source: str
    reference: float | None = None


class Actor(Part):
    """A culprit or a victim. share: of what is used (culprits) or of the stall (victims), 0-1."""

    pid: int | None
    comm: str
    cgroup: str | None = None
    share: float | None = None


class Pipe(Part):
    """One pipe, over the last frame; `stalled` over the last seconds.

    resource: device, control group, peer, lock; None: the whole of it. since_s: how long it has
    been tight, None when it is not. confidence: 0-1. check: a command that shows the same.
    next: what to try. why_blind: what is missing when the state is `blind`.
    headroom_pct: what is left of a ceiling that is known or declared.
    """

    pipe: str
    resource: str | None = None
    state: str = "ok"
    stalled: float | None = None
    utilisation_pct: float | None = None
    rate_per_s: float | None = None
    throughput_bytes_per_s: float | None = None
    mean_size_bytes: float | None = None
    concurrency: float | None = None
    p50_ns: float | None = None
    p95_ns: float | None = None
    p99_ns: float | None = None
    p999_ns: float | None = None
    errors_per_s: float | None = None
    headroom_pct: float | None = None
    since_s: float | None = None
    confidence: float = 0.0
    culprits: list[Actor] = []
    victims: list[Actor] = []
    evidence: list[Evidence] = []
    check: str = ""
    next: str = ""
    why_blind: str = ""


class Finding(Part):
    """Something that is wrong and stalls nobody (yet). kind: `forks`, `missing files`,
    `descriptors`, `oom`, `quota bursts`, `ceiling` (a declared limit is near)."""

    kind: str
    text: str
    since_s: float
    culprits: list[Actor] = []
    evidence: list[Evidence] = []
    check: str = ""
    next: str = ""


class Verdict(Part):
    """The narrowest pipe; pipe `none`, state `ok` when nothing is tight, `blind` when it cannot be
    known. doubts: why the confidence is not higher, in words. text: one plain sentence.
    """

    pipe: str = "none"
    resource: str | None = None
    state: str = "ok"
    stalled: float = 0.0
    since_s: float | None = None
    confidence: float = 0.0
    culprits: list[Actor] = []
    victims: list[Actor] = []
    evidence: list[Evidence] = []
    check: str = ""
    next: str = ""
    text: str = ""
    doubts: list[str] = []


class Report(Part):
    """All that diagnosis says of one frame. pipes: the tight ones first, narrowest first."""

    verdict: Verdict
    pipes: list[Pipe] = []
    findings: list[Finding] = []
