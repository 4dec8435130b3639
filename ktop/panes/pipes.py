"""From a diagnosis to what is drawn of it: sections of the pipes, words of the verdict."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence

from ktop import format as fmt
from ktop.diagnosis.model import PIPES, Actor, Evidence, Pipe, Report, Verdict
from ktop.diagnosis.verdict import sentence
from ktop.widgets.pipes import Section, spark
from ktop.widgets.strips import Piece

SHORT = {"cpu": "cpu", "quota": "quo", "steal": "stl", "memory": "mem", "file": "fil",
         "block": "blk", "tcp": "tcp", "lock": "lck", "upstream": "ups"}
# the path of the work: what it needs to run, then what it waits for on this host, then others
ORDER = ("cpu", "quota", "steal", "memory", "lock", "file", "block", "tcp", "upstream")
_GROUP = {**dict.fromkeys(("cpu", "quota", "steal", "memory", "lock"), "process"),
          "file": "disk", "block": "disk", "tcp": "network", "upstream": "network"}
_SURE = ((0.85, "sure"), (0.6, "fairly sure"), (0.35, "unsure"), (0.0, "a guess"))
SPARK = 16
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


_BRIEF = {"saturated": "full", "contended": "contend", "waiting": "waits"}


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


def of_pipe(pipe: Pipe) -> Verdict:
    """A pipe that is not the narrowest, as if it were."""
    if pipe.state == "blind":
        text = f"It cannot be seen: {pipe.why_blind}."
    elif pipe.state == "ok":
        text = f"Not tight: {fmt.number(pipe.stalled)} stalled."
    else:
        text = sentence(pipe)
    return Verdict(pipe.pipe, pipe.resource, pipe.state, pipe.stalled or 0.0, pipe.since_s,
                   pipe.confidence, pipe.culprits, pipe.victims, pipe.evidence, pipe.check,
                   pipe.next, text)


def where(verdict: Verdict | Pipe) -> str:
    """Pipe and resource."""
    return f"{verdict.pipe} {verdict.resource}" if verdict.resource else verdict.pipe


def _name(actor: Actor) -> str:
    return actor.comm if actor.pid is None else f"{actor.comm} {actor.pid}"


def headline(report: Report | None, brief: bool = False) -> list[Piece]:
    """The verdict in a few words, for a line. brief: what it is about is left out, not by whom."""
    if report is None:
        return [("no diagnosis yet", "dim")]
    verdict = report.verdict
    if verdict.pipe not in PIPES:
        if verdict.state == "blind":
            return [("blind", "warn"), (f" {verdict.text}", "dim")]
        pieces: list[Piece] = [("none tight", "good")]
        if report.findings:
            first, more = report.findings[0], len(report.findings) - 1
            by = f" by {_name(first.culprits[0])}" if first.culprits else ""
            pieces.append((f"  {first.kind}{by}{f' and {more} more' if more else ''}", "warn"))
        return pieces
    pieces = [(f"{verdict.pipe if brief else where(verdict)} {verdict.state}", "bad")]
    who = next((a for a in verdict.culprits), None)
    if who is not None:  # before the figures: at 80 columns they are what is cut off
        pieces.append((f"  by {_name(who)}", "strong"))
    pieces.append((f"  {fmt.number(verdict.stalled)} stalled", "normal"))
    if verdict.since_s is not None:
        pieces.append((f"  {fmt.age(verdict.since_s * 1e9)}", "normal"))
    return pieces


def sure(confidence: float) -> str:
    """How sure a verdict is, in a word and as a figure."""
    word = next(word for least, word in _SURE if confidence >= least)
    return f"{word} ({100 * confidence:.0f}%)"


def beyond(evidence: Evidence) -> bool:
    """Whether a figure is beyond what it is compared with."""
    return evidence.reference is not None and evidence.value > evidence.reference


def _actor(actors: Sequence[Actor]) -> str:
    first = actors[0]
    name = _name(first)
    share = f" {100 * first.share:.0f}%" if first.share is not None else ""
    return name + share + (f" and {len(actors) - 1} more" if len(actors) > 1 else "")


def squeeze(verdict: Verdict) -> list[Piece]:
    """Who squeezes whom."""
    culprits = verdict.culprits
    by = {(a.pid, a.comm) for a in culprits}
    victims = [a for a in verdict.victims if (a.pid, a.comm) not in by] or [
        a for a in verdict.victims if not culprits or a.comm != culprits[0].comm]
    if culprits and victims:
        verb = " squeezes " if len(culprits) == 1 else " squeeze "
        return [(_actor(culprits), "bad"), (verb, "dim"), (_actor(victims), "strong")]
    if culprits:
        own = " squeezes itself" if len(culprits) == 1 else " squeeze themselves"
        return [(_actor(culprits), "bad"), (own if verdict.victims else "", "dim")]
    return [(_actor(victims), "strong"), (" waits", "dim")] if victims else []


def about(report: Report | None) -> list[Piece]:
    """What the headline leaves out: since when, who squeezes whom, how sure that is."""
    if report is None:
        return [("no diagnosis yet: it takes one full interval", "dim")]
    verdict = report.verdict
    gap: Piece = ("   ", "normal")
    pieces: list[Piece] = []
    if verdict.since_s is not None:
        pieces += [(f"for {fmt.age(verdict.since_s * 1e9)}", "strong"), gap]
    if verdict.state != "blind":
        pieces += [(sure(verdict.confidence), "normal"), gap]
    pieces += squeeze(verdict)
    if report.findings:
        n = len(report.findings)
        pieces += [gap, (f"{n} finding{'s' if n > 1 else ''}", "warn"), (": v", "dim")]
    return pieces or [(verdict.text, "dim")]


def _wrapped(lead: str, text: str, style: str, width: int) -> list[list[Piece]]:
    """A text behind its lead, its other lines below its first."""
    parts = textwrap.wrap(text, max(10, width - len(lead) - 2)) or [""]
    return [[(f" {lead if not n else ' ' * len(lead)}", "dim"), (part, style)]
            for n, part in enumerate(parts)]


Past = Mapping[str, Sequence[float | None]]


def evidence_lines(verdict: Verdict, past: Past, most: int) -> list[list[Piece]]:
    """Its figures in so many lines, what is beyond a reference first."""
    lines: list[list[Piece]] = []
    for e in sorted(verdict.evidence, key=lambda e: not beyond(e))[:max(0, most)]:
        figure = f"{fmt.figure(e.value)} {e.unit}"
        lines.append([(" " + spark(past.get(e.text, ()), SPARK).rjust(SPARK), "accent"),
                      (f" {figure:>14}", "bad" if beyond(e) else "strong"),
                      (f"  {e.text}", "normal"),
                      (f"  over {fmt.figure(e.reference or 0.0)}" if beyond(e) else "", "dim")])
    return lines


def in_words(report: Report | None, width: int, room: int, past: Past) -> list[list[Piece]]:
    """The verdict in plain sentences, with as much of its evidence as `room` lines leave."""
    if report is None:
        return [[(" it takes one full interval", "dim")]]
    v, tight = report.verdict, named(report) is not None
    said = _wrapped("", v.text, "strong" if tight else "normal", width)
    advice: list[list[Piece]] = []
    for lead, text, style in (("but    ", "; ".join(v.doubts), "warn"),
                              ("check  ", v.check, "accent"), ("next   ", v.next, "normal")):
        if text:
            advice += _wrapped(lead, text, style, width)
    for finding in report.findings[:1] if not tight else []:
        advice += _wrapped("found  ", finding.text, "warn", width)
    if room and len(said) + 1 + len(advice) > room:  # who it is stands in the line above as well
        said = _wrapped("", v.text.split("; ")[0].rstrip(".") + ".", "strong", width)
    most = max(1, room - len(said) - len(advice)) if room else 0  # one figure is always there
    return [*said, *evidence_lines(v, past, most), *advice]
