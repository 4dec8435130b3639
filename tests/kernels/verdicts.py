"""What diagnosis said of the faults made on each kernel, as the README's second table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.kernels.table import grid

BEGIN, END = "<!-- begin: kernel faults -->", "<!-- end: kernel faults -->"
Verdict = dict[str, Any]
ROWS: dict[str, Verdict] = {}  # by fault, of the kernel that this runs on


def note(fault: str, **found: object) -> None:
    """Add to what is known of a fault.

    expected: the pipe. named, culprit: what diagnosis said; after, dropped: samples until it said
    so, and until it no longer did once the fault was gone; quiet: samples of the same load before.
    why: what went wrong; a fault that has none was judged rightly.
    """
    ROWS.setdefault(fault, {}).update(found)


def cell(row: Verdict | None) -> str:
    """One fault on one kernel."""
    if row is None:
        return ""
    if row.get("why"):
        return f"**wrong**: {row['why']}"
    return (f"`{row['named']}`, {row['culprit']}; after {row['after']}, "
            f"dropped after {row['dropped']}")


def text(results: list[dict[str, Any]]) -> str:
    """The table in Markdown; empty when no faults were made."""
    tried = [r for r in results if r.get("verdicts")]
    faults = sorted({name for r in tried for name in r["verdicts"]})
    if not faults:
        return ""
    lines = []
    for name in faults:
        rows = [r["verdicts"].get(name) for r in tried]
        expected = next(row["expected"] for row in rows if row)
        lines.append([name, expected, *map(cell, rows)])
    return "\n".join(grid(["fault", "pipe", *(r["kernel"] for r in tried)], lines)) + "\n"


def write(readme: Path, results: list[dict[str, Any]]) -> None:
    """Between the README's markers; nothing when no faults were made."""
    table, whole = text(results), readme.read_text(encoding="utf-8")
    head, begin, rest = whole.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not table:
        return
    if not begin or not end:
        raise SystemExit(f"kernels: {readme} has no {BEGIN} ... {END}")
    readme.write_text(f"{head}{BEGIN}\n{INTRO}\n{table}{END}{tail}", encoding="utf-8")


INTRO = """\
Faults that hardened kernels cannot make (`python -m tests.kernels 6.12 --checks faults --write`). A
load runs in a control group of its own and diagnosis must be silent for 6 samples; then the fault
is made under it, and its pipe must become the narrowest, with this resource and culprit; then it is
taken away, and must be dropped. Figures are samples, one a second of the guest's clock, which goes
by the instructions of its one emulated CPU. Pipe `cpu` is not among them: run queues of such a CPU
mean nothing. A quota that is set on a group at run time is seen within 10 s, hence its figure. A
network's faults have no control group to blame.
"""
