"""From a diagnosis to what is drawn of it: sections of the pipes, words of the verdict."""

from __future__ import annotations

import math

from ktop import format as fmt
from ktop.diagnosis.model import PIPES, Pipe, Report, Verdict
from ktop.widgets.pipes import Section
from ktop.widgets.strips import Piece

SHORT = {"cpu": "cpu", "quota": "quo", "steal": "stl", "memory": "mem", "file": "fil",
         "block": "blk", "tcp": "tcp", "lock": "lck", "upstream": "ups"}
# the path of the work: what it needs to run, then what it waits for on this host, then others
ORDER = ("cpu", "quota", "steal", "memory", "lock", "file", "block", "tcp", "upstream")
_GROUP = {"cpu": "to run", "quota": "to run", "steal": "to run", "memory": "to run",
          "lock": "locks", "file": "to the disk", "block": "to the disk",
          "tcp": "to the network", "upstream": "to the network"}
FULL = 8.0  # threads stalled from which a pipe is drawn as narrow as can be
assert set(ORDER) == set(PIPES) == set(SHORT)


def named(report: Report | None) -> tuple[str, str | None] | None:
    """(pipe, resource) of the verdict; None when nothing is tight."""
    if report is None or report.verdict.pipe not in PIPES:
        return None
    return report.verdict.pipe, report.verdict.resource


def _tight(pipe: Pipe, narrowest: bool) -> float | None:
    """0 to 1, by the logarithm of how many wait; what is called tight is seen to be."""
    if pipe.state == "blind":
        return None
    stalled = max(0.0, pipe.stalled or 0.0)
    part = min(1.0, math.log1p(stalled * 4) / math.log1p(FULL * 4))
    if pipe.state == "ok":
        return min(part, 0.4)
    return max(part, 0.85 if narrowest else 0.6)


_BRIEF = {"saturated": "full", "contended": "fought", "waiting": "waits"}


def _words(pipe: Pipe) -> tuple[tuple[str, ...], ...]:
    """State, how much is stalled, and the figure that says most."""
    if pipe.state == "blind":
        return ("blind",), ("-",)
    figure: tuple[str, ...] = ("",)
    if pipe.p99_ns is not None and pipe.state != "ok":
        figure = (f"P99 {fmt.duration(pipe.p99_ns)}", fmt.duration(pipe.p99_ns))
    elif pipe.utilisation_pct is not None:
        figure = (f"{fmt.pct(pipe.utilisation_pct)}% used", f"{fmt.pct(pipe.utilisation_pct)}%")
    stalled = fmt.number(pipe.stalled)
    return ((pipe.state, _BRIEF.get(pipe.state, pipe.state)), (f"{stalled} stalled", stalled),
            figure)


def sections(report: Report | None) -> list[Section]:
    """One for each kind of pipe, the tightest of a kind speaking for it."""
    chosen = named(report)
    found = []
    for name in ORDER:
        mine = [p for p in report.pipes if p.pipe == name] if report is not None else []
        if not mine:
            found.append(Section(name, SHORT[name], None, words=(("unknown", "-"), ("-",)),
                                 group=_GROUP[name]))
            continue
        pipe = next((p for p in mine if chosen == (p.pipe, p.resource)), mine[0])
        narrowest = chosen == (pipe.pipe, pipe.resource)
        tight = _tight(pipe, narrowest)
        style = ("pipe.worst" if narrowest else "pipe.tight" if pipe.state not in ("ok", "blind")
                 else "pipe.some" if tight and tight > 0.1 else "pipe.free")
        label = f"{name} {pipe.resource}" if pipe.resource and name == "block" else name
        found.append(Section(label if narrowest else name, SHORT[name], tight, narrowest, style,
                             _words(pipe), _GROUP[name]))
    return found


def where(verdict: Verdict) -> str:
    """Pipe and resource."""
    return f"{verdict.pipe} {verdict.resource}" if verdict.resource else verdict.pipe


def headline(report: Report | None) -> list[Piece]:
    """The verdict in a few words, for a line."""
    if report is None:
        return [("no diagnosis yet", "dim")]
    verdict = report.verdict
    if verdict.pipe not in PIPES:
        if verdict.state == "blind":
            return [("blind", "warn"), (f" {verdict.text}", "dim")]
        pieces: list[Piece] = [("none tight", "good")]
        if report.findings:
            pieces.append((f"  {report.findings[0].text}", "warn"))
        return pieces
    pieces = [(f"{where(verdict)} {verdict.state}", "bad"),
              (f"  {fmt.number(verdict.stalled)} stalled", "strong")]
    if verdict.since_s is not None:
        pieces.append((f"  {fmt.age(verdict.since_s * 1e9)}", "normal"))
    who = next((a for a in verdict.culprits), None)
    if who is not None:
        pieces.append((f"  by {who.comm}{f' {who.pid}' if who.pid else ''}", "normal"))
    return pieces
