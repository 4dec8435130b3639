"""Diagnosis: which pipe is the narrowest, who squeezes and who is squeezed, on what evidence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Container
from textual.strip import Strip

from ktop import format as fmt
from ktop.diagnosis.model import PIPES, STATES, Actor, Evidence, Finding, Pipe, Report, Verdict
from ktop.model import Frame
from ktop.panes.base import column_help, paragraph
from ktop.panes.pipes import SPARK, about, beyond, in_words, named, of_pipe, sections, where
from ktop.panes.views import ViewPane, view_keys
from ktop.widgets.columns import Column
from ktop.widgets.pipes import PipePicture, spark
from ktop.widgets.strips import Line, Piece, Rule, strip
from ktop.widgets.table import VirtualTable

VIEWS = {"overview": ("picture", "verdict"), "evidence": ("evidence", "actors"),
         "pipes": ("pipes", "verdict"), "findings": ("findings", "verdict")}
_NS = {"p50": "p50_ns", "p95": "p95_ns", "p99": "p99_ns", "p999": "p999_ns"}


@dataclass(frozen=True)
class ActorRow:
    """A culprit or a victim as a row. group: path of its control group."""

    role: str
    place: int
    pid: int | None
    comm: str
    group: str | None
    share: float | None


@dataclass(frozen=True)
class EvidenceRow:
    """A figure with its past."""

    place: int
    evidence: Evidence
    past: tuple[float | None, ...]


@dataclass(frozen=True)
class FindingRow:
    """A finding; pid: of its first culprit."""

    place: int
    finding: Finding
    pid: int | None
    comm: str


def _actor_rows(verdict: Verdict) -> list[ActorRow]:
    both = (("culprit", verdict.culprits), ("victim", verdict.victims))
    return [ActorRow(role, n, a.pid, a.comm, a.cgroup, a.share)
            for role, actors in both for n, a in enumerate(actors)]


def _who(actors: list[Actor]) -> str:
    if not actors:
        return "-"
    first = actors[0]
    name = first.comm if first.pid is None else f"{first.comm} {first.pid}"
    return name + (f" and {len(actors) - 1} more" if len(actors) > 1 else "")


def _evidence(row: Pipe | FindingRow | None, report: Report | None) -> list[Evidence]:
    """The evidence of a pipe or finding in another report."""
    if report is None or row is None:
        return []
    if isinstance(row, Pipe):
        pipe = next((p for p in report.pipes if (p.pipe, p.resource) == (row.pipe, row.resource)),
                    None)
        return pipe.evidence if pipe is not None else []
    mine = (row.finding.kind, row.finding.culprits)
    return next((f.evidence for f in report.findings if (f.kind, f.culprits) == mine), [])


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f}%"


def actor_columns() -> list[Column]:
    """Culprits and victims."""
    return [
        Column("role", "ROLE", 8, lambda r: r.role, "left", sort=lambda r: (r.role, r.place),
               style=lambda r: "bad" if r.role == "culprit" else "normal",
               help="culprit: uses the pipe; victim: waits in it. One may be both"),
        Column("pid", "PID", 7, lambda r: "-" if r.pid is None else str(r.pid),
               sort=lambda r: r.pid, help="process id; Enter opens it"),
        Column("share", "SHARE", 5, lambda r: _share(r.share), sort=lambda r: r.share,
               help="of what is used (culprits), of the time waited (victims)"),
        Column("comm", "COMMAND", 39, lambda r: r.comm, "left", sort=lambda r: r.comm.casefold(),
               style=lambda _: "strong", help="command; or a rule, a limit, a peer"),
        Column("cgroup", "CONTROL GROUP", 16, lambda r: r.group or "-", "left",
               sort=lambda r: r.group, min_width=14, help="path; c goes into it"),
    ]


def evidence_columns(wide: int = 31) -> list[Column]:
    """What the verdict rests on. wide: cells of its words."""
    return [
        Column("text", "WHAT", wide, lambda r: r.evidence.text, "left", help="the figure"),
        Column("value", "VALUE", 13, lambda r: f"{fmt.figure(r.evidence.value)} {r.evidence.unit}",
               style=lambda r: "bad" if beyond(r.evidence) else "strong",
               help="now; stands out when it is beyond the reference"),
        Column("reference", "REF", 7, lambda r: "" if r.evidence.reference is None
               else fmt.figure(r.evidence.reference), style=lambda _: "dim",
               help="what it is compared with: published rules of thumb, no truth"),
        Column("past", "LAST SAMPLES", SPARK, lambda r: spark(r.past, SPARK), "left",
               style=lambda _: "accent", help="its values before, from zero to the largest"),
        Column("source", "FROM", 16, lambda r: r.evidence.source, "left",
               style=lambda _: "dim", min_width=8, help="where in the kernel it comes from"),
    ]


def _figure(key: str, title: str, width: int, field: str, write: Any, text: str) -> Column:
    return Column(key, title, width, lambda p: write(getattr(p, field)),
                  sort=lambda p: getattr(p, field), help=text)


Series = tuple[float | None, ...]


def pipe_columns(past: Callable[[Pipe], Series] = lambda _: ()) -> list[Column]:
    """Every pipe with its arithmetic. past: how much of it was stalled."""
    return [
        Column("pipe", "PIPE", 8, lambda p: p.pipe, "left", sort=lambda p: PIPES.index(p.pipe),
               style=lambda _: "strong", help="which pipe"),
        Column("resource", "RESOURCE", 14, lambda p: p.resource or p.why_blind, "left",
               sort=lambda p: p.resource or "",
               help="device, control group, peer, lock; what is missing where it is blind"),
        Column("state", "STATE", 9, lambda p: p.state, "left",
               sort=lambda p: (STATES.index(p.state), -(p.stalled or 0.0)),
               style=lambda p: {"ok": "dim", "blind": "warn"}.get(p.state, "bad"),
               help="errors, saturated, contended, waiting, ok; blind: it cannot be seen"),
        _figure("stalled", "STALL", 5, "stalled", fmt.number,
                "stalled task-seconds a second: the mean number that wait here"),
        _figure("use", "USE%", 5, "utilisation_pct", fmt.pct, "utilisation"),
        _figure("rate", "RATE/s", 6, "rate_per_s", fmt.rate, "operations a second"),
        _figure("bytes", "BYTES/s", 7, "throughput_bytes_per_s", fmt.size,
                "throughput = rate x mean size"),
        *(_figure(key, key.upper() if key != "p999" else "P99.9", 6, field, fmt.duration,
                  "percentile of its latency") for key, field in _NS.items()),
        _figure("size", "SIZE", 5, "mean_size_bytes", fmt.size, "mean size of an operation"),
        _figure("conc", "CONC", 5, "concurrency", fmt.number,
                "concurrency = rate x mean latency (Little)"),
        _figure("errors", "ERR/s", 5, "errors_per_s", fmt.rate, "errors a second"),
        _figure("headroom", "ROOM%", 5, "headroom_pct", fmt.pct,
                "what is left of a known or declared ceiling"),
        Column("since", "SINCE", 6, lambda p: "" if p.since_s is None
               else fmt.age(p.since_s * 1e9), sort=lambda p: p.since_s, help="tight for so long"),
        Column("past", "STALLED BEFORE", SPARK, lambda p: spark(past(p), SPARK), "left",
               style=lambda _: "accent", help="its stall in the last samples, from zero"),
    ]


def finding_columns() -> list[Column]:
    """What is wrong and stalls nobody (yet)."""
    return [
        Column("kind", "FINDING", 14, lambda r: r.finding.kind, "left",
               sort=lambda r: r.finding.kind, style=lambda _: "warn", help="what kind"),
        Column("since", "SINCE", 6, lambda r: fmt.age(r.finding.since_s * 1e9),
               sort=lambda r: r.finding.since_s, help="seen for so long"),
        Column("who", "WHO", 20, lambda r: _who(r.finding.culprits), "left",
               help="by whom; Enter opens it"),
        Column("text", "WHAT", 40, lambda r: r.finding.text, "left", min_width=30,
               help="in words"),
    ]


class Words(Line):
    """Lines that depend on the room there is: what they say is made when it is known."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._make: Callable[[int, int], list[list[Piece]]] = lambda _width, _room: []

    def write(self, make: Callable[[int, int], list[list[Piece]]]) -> None:
        """Show what this makes of so many columns and lines."""
        self._make = make
        self.repaint()

    def lines(self, width: int, height: int) -> list[Strip]:
        """What fits."""
        return [strip(pieces, width) for pieces in self._make(width, height)[:height]]


class DiagnosisPane(ViewPane):
    """The pipes as one picture, the verdict, its evidence, culprits and victims."""

    title = "Diagnosis"
    key = "6"
    layer = "diagnosis"
    also = ("processes", "sched", "files", "tcp", "block")  # a verdict on what nobody sees is none
    BINDINGS: ClassVar[list[BindingType]] = [
        *view_keys("diagnosis", "Overview, evidence, all pipes, findings")]
    BIG = (100, 30)
    views = VIEWS
    big_views: ClassVar = {"overview": ("picture", "verdict", "evidence", "actors"),
                           "pipes": ("pipes", "verdict", "evidence", "actors"),
                           "findings": ("findings", "verdict", "evidence", "actors")}
    subjects = ("pipes", "findings")  # what is said below is said of the row under the cursor
    followers = ("verdict", "evidence", "actors")
    titles: ClassVar = {
        "picture": "Pipes: wide is free, narrow is tight", "verdict": "Verdict",
        "evidence": "Evidence", "actors": "Who squeezes, who is squeezed", "pipes": "All pipes",
        "findings": "Findings"}
    DEFAULT_CSS = """
    DiagnosisPane #body { layout: vertical; }
    DiagnosisPane #picture { height: 10; }
    DiagnosisPane #verdict { height: 1fr; }
    DiagnosisPane.-big #picture { height: 14; }
    DiagnosisPane #verdict-lines { height: 1fr; }
    """

    def compose(self) -> ComposeResult:
        """One line, and the sections of all views."""
        yield Line(id="summary")
        with Container(id="body"):
            yield self._section("picture", PipePicture(id="pipes-picture"))
            yield self._section("pipes", VirtualTable(
                pipe_columns(self._stalled), lambda p: (p.pipe, p.resource or ""),
                sort="state", frozen=2, id="pipes-table"))
            yield self._section("findings", VirtualTable(
                finding_columns(), lambda r: r.place, sort="since", frozen=1,
                id="findings-table"))
            yield self._section("verdict", Words(id="verdict-lines"))
            yield self._section("evidence", VirtualTable(
                evidence_columns(), lambda r: r.place, frozen=1, feed=True, id="evidence-table"))
            yield self._section("actors", VirtualTable(
                actor_columns(), lambda r: (r.role, r.place), sort="role", frozen=2,
                id="actors-table"))
    def _arrange(self) -> None:
        super()._arrange()
        self.set_class(self.big, "-big")
        table = self.query_one("#evidence-table", VirtualTable)
        table.declared = evidence_columns(42 if self.big else 31)
        table.choose_columns(table.layout_chosen)

    # -- each tick -------------------------------------------------------------------------------

    def _about(self, frame: Frame) -> tuple[Frame, Report | None]:
        newest = self._history.newest
        return frame, newest.report if newest is not None else None

    def _summary(self, frame: Frame, report: Report | None) -> list[list[Piece]]:
        return [[(" ", "normal"), *about(report)]]

    def _show_picture(self, frame: Frame, report: Report | None) -> None:
        self.query_one(PipePicture).set(sections(report))

    def _asked(self, report: Report | None) -> tuple[Report | None, str]:
        """What is to be said in this view, as if it were the verdict, and of what."""
        row = self._row_asked(report)
        if report is None or row is None or row is self._verdict_pipe(report):
            return report, ""
        if isinstance(row, Pipe):
            return Report(of_pipe(row), report.pipes), f"of {where(row)}"
        f = row.finding
        return Report(Verdict(since_s=f.since_s, culprits=f.culprits, evidence=f.evidence,
                              check=f.check, next=f.next, text=f.text)), f"of {f.kind}"

    def _row_asked(self, report: Report | None) -> Pipe | FindingRow | None:
        """The pipe or finding that the view speaks of: under the cursor, else the first."""
        if report is None or self.view not in self.subjects:
            return None
        table = self.query_one(f"#{self.view}-table", VirtualTable)
        found: Pipe | FindingRow | None = table.selected_row or next(iter(table.rows), None)
        return found

    @staticmethod
    def _verdict_pipe(report: Report) -> Pipe | None:
        """The pipe that the verdict is about."""
        chosen = named(report)
        return next((p for p in report.pipes if (p.pipe, p.resource) == chosen), None)

    def _show_verdict(self, frame: Frame, report: Report | None) -> None:
        asked, of = self._asked(report)
        alone = "evidence" not in self.shown
        past = self._past(asked) if alone and asked is not None else {}

        def words(width: int, room: int) -> list[list[Piece]]:
            return in_words(asked, width, room if alone else 0, past)

        needed = len(words(self.size.width or 80, 0))
        self._fix_height("verdict", "1fr" if alone else 1 + min(8, max(4, needed)))
        self.query_one("#verdict-rule", Rule).set("In words" if of else "Verdict", of)
        self.query_one(Words).write(words)

    def _show_evidence(self, frame: Frame, report: Report | None) -> None:
        rows = []
        report, of = self._asked(report)
        if report is not None:
            past = self._past(report)
            rows = [EvidenceRow(n, e, past.get(e.text, ()))
                    for n, e in enumerate(report.verdict.evidence)]
        self._fill("evidence", rows, "no figures" if of else
                   "nothing is tight: no evidence is needed", of)

    def _past(self, report: Report) -> dict[str, tuple[float | None, ...]]:
        """The last figures of what is spoken of, by their text."""
        row = self._row_asked(report) or self._verdict_pipe(report)
        ticks = list(self._history.ticks)[-SPARK:]
        found: dict[str, list[float | None]] = {e.text: [] for e in report.verdict.evidence}
        for tick in ticks:
            values = {e.text: e.value for e in _evidence(row, tick.report)}
            for text, series in found.items():
                series.append(values.get(text))
        return {text: tuple(series) for text, series in found.items()}

    def _show_actors(self, frame: Frame, report: Report | None) -> None:
        report, of = self._asked(report)
        rows = _actor_rows(report.verdict) if report is not None else []
        self._fill("actors", rows, "nobody is known" if of else "nobody: nothing is tight",
                   "Enter opens, p and c go into it")

    def _stalled(self, pipe: Pipe) -> Series:
        """How much was stalled in a pipe in the last samples."""
        return tuple(next((p.stalled for p in tick.report.pipes
                           if (p.pipe, p.resource) == (pipe.pipe, pipe.resource)), None)
                     if tick.report is not None else None
                     for tick in list(self._history.ticks)[-SPARK:])

    def _show_pipes(self, frame: Frame, report: Report | None) -> None:
        rows: list[Pipe] = report.pipes if report is not None else []
        self._fix_height("pipes", min(14, len(rows) + 2) if self.big and rows else "1fr")
        self._fill("pipes", rows, "it takes one full interval",
                   "stalled: mean number of threads or connections that wait")

    def _show_findings(self, frame: Frame, report: Report | None) -> None:
        found = report.findings if report is not None else []
        rows = [FindingRow(n, f, f.culprits[0].pid if f.culprits else None,
                           f.culprits[0].comm if f.culprits else "") for n, f in enumerate(found)]
        self._fix_height("findings", min(14, len(rows) + 2) if self.big and rows else "1fr")
        self._fill("findings", rows, "nothing that is wrong without stalling anybody")

    # -- help ------------------------------------------------------------------------------------

    def help_text(self) -> str:
        """What every figure of this pane means."""
        return "\n".join([
            paragraph("""Every thread's wall time is split over pipes that exclude each other, so
                that one wait is charged once: a thread in fsync behind a full disk is the disk's,
                the same fsync behind a journal lock is the file layer's. One unit ranks them:
                stalled task-seconds a second, which is the mean number of waiters (Little).
                Sleeping by choice (poll, nanosleep, accept, wait) is no stall. Errors that stall
                come first, then what is full, then what is slow; a busy percentage alone is never
                called saturated. A pipe must stand out for some seconds before it is named, and
                go before it is dropped."""),
            "", paragraph("""Confidence is lowered, in words, by lost events, missing probes, a
                short history and a second pipe that is tight too. References are published rules
                of thumb, shown beside the figures, not truths. `none tight` is an answer: then
                the cause is not on this host, or in the program itself (S samples its stacks)."""),
            "", "Evidence", column_help(evidence_columns()),
            "", "Who squeezes, who is squeezed", column_help(actor_columns()),
            "", "All pipes", column_help(pipe_columns()),
            "", "Findings", column_help(finding_columns()),
        ])
