"""What came out of all runs: the confusion matrix, as text and for the README."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ktop.diagnosis.model import PIPES
from tests.faults.cases import Case
from tests.faults.run import Result

README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- begin: faults -->", "<!-- end: faults -->"


@dataclass
class Outcome:
    """One run: whether it was right, what each eye saw, the dearest diagnosis of a tick."""

    case: Case
    seed: int
    good: bool
    own: Result
    host: Result
    cost_ms: float

    @property
    def _right(self) -> tuple[str, ...]:
        return tuple(filter(None, (*self.case.expect, self.case.finding)))

    @property
    def expected(self) -> str:
        """In words: the pipes and the finding any of which is right, or none."""
        return (" and " if self.case.both else " or ").join(self._right) or "none"

    @property
    def said(self) -> str:
        """What was named, by the number of ticks: the right answer first where it was given."""
        if self.good:
            return self.expected if self.case.both or not self._right else next(
                p for p in sorted(self._right, key=lambda p: -self.own.named.get(p, 0)))
        others = [p for p in sorted(self.own.named, key=lambda p: -self.own.named[p])
                  if p != "none"]
        return others[0] if others else "none"


def median(values: Iterable[float | None]) -> str:
    """Of what is known, `-` when nothing is."""
    known = [v for v in values if v is not None]
    return f"{statistics.median(known):.1f}" if known else "-"


def line(outcome: Outcome) -> str:
    """One run as it is printed when it ends."""
    own = outcome.own
    culprit = {None: "-", True: "yes", False: "NO"}[own.culprit]
    ticks = [" ".join(f"{pipe}:{n}" for pipe, n in sorted(r.named.items(), key=lambda p: -p[1]))
             for r in (own, outcome.host)]
    return (f"{outcome.case.name:<17}{'yes' if outcome.good else 'NO':<7}{culprit:<9}"
            f"{median([own.at_s]):>8}{median([own.gone_s]):>8}  {ticks[0]:<30} {ticks[1]}")


def summary(outcomes: list[Outcome]) -> str:
    """Counts and medians in one line."""
    right = sum(o.good for o in outcomes)
    faults = [o for o in outcomes if o.expected != "none"]
    late = sum(o.own.at_s is not None and o.own.at_s > 5.5 for o in faults)
    costs = max((o.cost_ms for o in outcomes), default=0.0)
    return (f"{right} of {len(outcomes)} right ({sum(o.good for o in faults)} of {len(faults)} "
            f"faults); named after {median(o.own.at_s for o in faults)} s, dropped after "
            f"{median(o.own.gone_s for o in faults)} s (medians); {late} named later than 5 s; "
            f"dearest tick {costs:.1f} ms")


def confusion(outcomes: list[Outcome]) -> list[str]:
    """Rows: what was to be named. Columns: what was. Figures: runs."""
    counts: dict[tuple[str, str], int] = {}
    for o in outcomes:
        counts[o.expected, o.said] = counts.get((o.expected, o.said), 0) + 1
    order = [*PIPES, *sorted({name for pair in counts for name in pair} - {*PIPES, "none"}), "none"]
    rows = [name for name in order if any(name == expected for expected, _ in counts)]
    columns = [name for name in order if any(name == said for _, said in counts)]
    width = max(map(len, rows), default=0) + 2
    found = [" " * width + " ".join(f"{name:>9}" for name in columns)]
    for row in rows:
        cells = [str(counts[row, column]) if (row, column) in counts else "."
                 for column in columns]
        found.append(f"{row:<{width}}" + " ".join(f"{cell:>{max(9, len(name))}}"
                                                  for cell, name in zip(cells, columns,
                                                                        strict=True)))
    return found


def misses(outcomes: list[Outcome]) -> list[str]:
    """Each run that was judged wrongly, with the reason."""
    return [f"{o.case.name} (seed {o.seed}): expected {o.expected}; {o.own.why or 'dropped out'}"
            for o in outcomes if not o.good]


def markdown(outcomes: list[Outcome], seed: int) -> str:
    """The table of the README."""
    rows: dict[str, list[Outcome]] = {}
    for o in outcomes:
        rows.setdefault(o.case.name, []).append(o)
    runs = max(map(len, rows.values()), default=0)
    command = f'`make faults ARGS="--runs {runs} --readme"`, seed {seed}'
    found = [f"{command}: {summary(outcomes)}.", "",
             "| case | to be named | right | culprit | named after, s | dropped after, s |",
             "|---|---|---|---|---|---|"]
    for name, all_ in rows.items():
        right = f"{sum(o.good for o in all_)}/{len(all_)}"
        known = [o.own.culprit for o in all_ if o.own.culprit is not None]
        culprit = f"{sum(known)}/{len(known)}" if known else "-"
        times = [median(o.own.at_s for o in all_), median(o.own.gone_s for o in all_)]
        found.append(f"| {' | '.join([name, all_[0].expected, right, culprit, *times])} |")
    wrong = misses(outcomes)
    found += ["", "`steal` is not among them: only a hypervisor can take CPUs away. Its rule is "
              "tested on built frames (`tests/test_diagnosis.py`)."]
    return "\n".join([*found, *(["", "Misses:", "", *(f"- {miss}" for miss in wrong)]
                                if wrong else [])])


def write_readme(text: str, file: Path = README) -> None:
    """Between the markers; the rest stays."""
    whole = file.read_text(encoding="utf-8")
    before, begin, rest = whole.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{file.name}: there is no place for it ({BEGIN} ... {END})")
    file.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")
