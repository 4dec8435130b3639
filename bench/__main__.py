"""`make bench`: run the benches, print the table, write results.json and the README's table."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path

from bench import (
    block,
    drill,
    files,
    hooks,
    memory,
    recording,
    screen,
    slowdown,
    slowdown_io,
    stacks,
    start,
    tcp,
    tick,
)
from bench.common import ROOT, Missing, Row, ratio

BENCHES = {"start": start, "hooks": hooks, "tick": tick, "screen": screen, "memory": memory,
           "files": files, "tcp": tcp, "block": block, "slowdown": slowdown,
           "slowdown_io": slowdown_io, "stacks": stacks, "drill": drill, "recording": recording}
BEGIN, END = "<!-- bench -->", "<!-- /bench -->"
RESULTS = Path(__file__).with_name("results.json")


def figure(values: list[float] | str, unit: str) -> str:
    """Median, lowest and highest; or `-` for what could not be measured."""
    if isinstance(values, str) or not values:
        return "-"

    def short(value: float) -> str:
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"

    middle, low, high = statistics.median(values), min(values), max(values)
    spread = f" ({short(low)} to {short(high)})" if len(values) > 1 else ""
    return f"{short(middle)}{spread}"


def times(row: Row, peer: list[float] | str) -> str:
    """The peer's figure over ours."""
    if isinstance(row.ktop, str) or isinstance(peer, str) or not row.ktop or not peer:
        return "-"
    found = ratio(row.ktop, peer)
    return "-" if found is None or row.unit == "%" else f"{found:.2g}x"


def table(rows: list[Row]) -> list[str]:
    """Markdown; a line for each peer of each row, and why where there is a `-`."""
    lines = ["| | unit | ktop | peer | its figure | peer / ktop |", "|---|---|---|---|---|---|"]
    reasons: dict[str, None] = {}
    for row in rows:
        ours = figure(row.ktop, row.unit)
        if isinstance(row.ktop, str):
            reasons[f"ktop: {row.ktop}"] = None
        for i, (name, values) in enumerate((row.peers or {"": ""}).items()):
            if isinstance(values, str) and values:
                reasons[f"{name}: {values}"] = None
            first = (row.what, row.unit, ours) if not i else ("", "", "")
            cells = (*first, name, figure(values, row.unit) if name else "", times(row, values)
                     if name else "")
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return lines + [""] + [f"`-`: {reason}  " for reason in reasons]


def write_readme(lines: list[str]) -> None:
    """Replace what is between the markers, if they are there."""
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if begin and end:
        body = "\n".join(line.rstrip() for line in lines).strip()
        readme.write_text(f"{head}{BEGIN}\n{body}\n{END}{tail}", encoding="utf-8")


def measure(name: str, quick: bool) -> list[Row]:
    """The rows of one bench; one that cannot run says so."""
    begun = time.perf_counter()
    try:
        rows = BENCHES[name].run(quick)
    except Missing as err:
        rows = [Row(name, "", str(err))]
    print(f"{name}: {time.perf_counter() - begun:.0f} s", file=sys.stderr)
    return rows


def keep(machine: str, name: str, rows: list[Row]) -> None:
    """Put one bench's rows into results.json; those of other machines do not stay beside them."""
    known: dict[str, list[dict[str, object]]] = {}
    if RESULTS.exists():
        stored = json.loads(RESULTS.read_text(encoding="ascii"))
        known = stored.get("benches", {}) if stored["machine"] == machine else {}
    known[name] = [vars(row) for row in rows]
    ordered = {name: known[name] for name in BENCHES if name in known}
    RESULTS.write_text(json.dumps({"machine": machine, "benches": ordered}, indent=1) + "\n",
                       encoding="ascii")
    every = [Row(**row) for stored_rows in ordered.values() for row in stored_rows]
    write_readme([head(machine), "", *table(every)])


def head(machine: str) -> str:
    """The line above the table."""
    return f"{machine}. Median (lowest to highest); more than 1x: ktop is the cheaper one."


def main() -> None:
    """Parse, measure, print; what was measured in full goes into the README, bench by bench."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join(BENCHES))
    parser.add_argument("--quick", action="store_true",
                        help="fewer rounds: a look, no proof, and not for the README")
    chosen = parser.parse_args()
    if unknown := [name for name in chosen.names if name not in BENCHES]:
        parser.error(f"no bench called {unknown[0]}: {', '.join(BENCHES)}")
    kernel = platform.release().partition("-")[0]
    machine = f"{os.cpu_count()} CPUs, Linux {kernel}, Python {platform.python_version()}"
    rows: list[Row] = []
    for name in chosen.names or list(BENCHES):
        found = measure(name, chosen.quick)
        rows += found
        if not chosen.quick:
            keep(machine, name, found)
    print("\n".join([head(machine), "", *table(rows)]))


if __name__ == "__main__":
    main()
