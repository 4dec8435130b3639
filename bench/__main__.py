"""`make bench`: run the benches, print the table, write results.json, plots and README's costs."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import (
    block,
    budgets,
    drill,
    files,
    growth,
    hooks,
    memory,
    recording,
    screen,
    slowdown,
    stacks,
    start,
    tcp,
    tick,
)
from bench.common import ROOT, Missing, Row, ratio

BENCHES = {"start": start, "hooks": hooks, "tcp": tcp, "block": block, "files": files,
           "stacks": stacks, "slowdown": slowdown, "tick": tick, "growth": growth,
           "screen": screen, "memory": memory, "drill": drill, "recording": recording}
BEGIN, END = "<!-- begin: cost -->", "<!-- end: cost -->"
RESULTS = Path(__file__).with_name("results.json")
LIMIT_S = 480  # a bench that takes longer is broken off, and says so
Results = dict[str, dict[str, Any]]  # bench -> when, commit, load, rows


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
    # below zero it is noise: a difference between runs with and without
    return "-" if found is None or found <= 0 or row.unit == "%" else f"{found:.2g}x"


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


def git_commit() -> str:
    """Of this tree; `-` outside a repository."""
    done = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, check=False,
                          capture_output=True, text=True)
    return done.stdout.strip() or "-"


def _late(_number: int, _frame: object) -> None:
    raise Missing(f"broken off after {LIMIT_S} s")


def measure(name: str, quick: bool) -> dict[str, Any]:
    """One bench, and under which circumstances; one that cannot run, breaks, or does not come to an
    end says so, and the next one has its turn."""
    begun, load = time.perf_counter(), os.getloadavg()[0]
    signal.signal(signal.SIGALRM, _late)
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S, 30)  # again, if it was caught on its way
    try:
        rows = BENCHES[name].run(quick)
    except (Missing, OSError, subprocess.SubprocessError) as err:
        rows = [Row(name, "", f"{name}: {err}"[:200])]
    except Exception as err:
        traceback.print_exc()
        rows = [Row(name, "", f"{name} broke: {type(err).__name__}: {err}"[:200])]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    took = time.perf_counter() - begun
    print(f"{name}: {took:.0f} s", file=sys.stderr, flush=True)
    return {"date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), "commit": git_commit(),
            "load_before": round(load, 2), "took_s": round(took), "rows": [vars(r) for r in rows]}


def rows_of(results: Results, *names: str) -> list[Row]:
    """Of these benches, or of all."""
    return [Row(**row) for name in (names or BENCHES) for row in results.get(name, {}).get(
        "rows", [])]


def known(machine: str) -> Results:
    """What is in results.json; figures of other machines do not stay beside these."""
    if not RESULTS.exists():
        return {}
    stored = json.loads(RESULTS.read_text(encoding="ascii"))
    if stored.get("machine") != machine:
        return {}
    return {name: stored["benches"][name] for name in BENCHES
            if "rows" in stored["benches"].get(name, ())}


def head(machine: str, results: Results) -> str:
    """Where and when."""
    dates = [one["date"][:10] for one in results.values()] or ["-"]
    commits = sorted({one["commit"] for one in results.values()}) or ["-"]
    loads = [one["load_before"] for one in results.values() if "load_before" in one]
    when = dates[0] if min(dates) == max(dates) else f"{min(dates)} to {max(dates)}"
    busy = (f"; load of the host before each bench {min(loads):.1f} to {max(loads):.1f}"
            if loads else "")
    return f"{machine}; {when}, commit {', '.join(commits)}{busy}."


def readme(machine: str, results: Results, plots: list[Path]) -> list[str]:
    """README's section."""
    lines = ["`make bench` writes this section (and `bench/results.json`): twenty minutes, as",
             "root, on a host that does little else. `make bench ARGS=\"hooks tick\"` measures two",
             "of it, `--quick` is a look that is kept nowhere. Peers run on the same host in the",
             "same minutes, so the ratios travel better than the figures. PostgreSQL and atop,",
             "whose packages start services, take part where they are installed.", "",
             head(machine, results), "", *budgets.table(rows_of(results))]
    matrix = slowdown.matrix(rows_of(results, "slowdown"))
    if matrix:
        lines += ["", "What others on the host lose (median of rounds; negative is noise); peers: "
                  "the libbpf-tools that show the same and start here.", "", *matrix]
    if plots:
        lines += ["", *(f"![CPU time of a sample](screenshots/{path.name})" for path in plots)]
    return [*lines, "", "<details><summary>Every figure</summary>", "",
            "Median (lowest to highest); more than 1x: ktop is the cheaper one. Per event: the "
            "kernel's own run_time_ns of every program, all attached at the same time; a refresh "
            "and a drill-down: CPU time; `start`: from exec until the row of a process that uses "
            "30% of a CPU shows it.", "", *table(rows_of(results)), "", "</details>"]


def write_readme(lines: list[str]) -> None:
    """Replace what is between the markers, if they are there."""
    path = ROOT / "README.md"
    text = path.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if begin and end:
        body = "\n".join(line.rstrip() for line in lines).strip()
        path.write_text(f"{before}{BEGIN}\n{body}\n{END}{after}", encoding="utf-8")


def keep(machine: str, results: Results) -> None:
    """results.json, plots, README; after each bench, so that what is broken off is not lost."""
    ordered = {name: results[name] for name in BENCHES if name in results}
    RESULTS.write_text(json.dumps({"machine": machine, "benches": ordered}, indent=1) + "\n",
                       encoding="ascii")
    plots = growth.plots(rows_of(results, "growth"), rows_of(results, "tick"))
    write_readme(readme(machine, ordered, plots))


def main() -> None:
    """Parse, measure, print; what was measured in full is kept, bench by bench."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join(BENCHES))
    parser.add_argument("--quick", action="store_true",
                        help="fewer rounds: a look, no proof, and not for the README")
    parser.add_argument("--write", action="store_true",
                        help="measure nothing: the README's section from results.json")
    chosen = parser.parse_args()
    if unknown := [name for name in chosen.names if name not in BENCHES]:
        parser.error(f"no bench called {unknown[0]}: {', '.join(BENCHES)}")
    kernel = platform.release().partition("-")[0]
    machine = f"{os.cpu_count()} CPUs, Linux {kernel}, Python {platform.python_version()}"
    if chosen.write:
        keep(machine, known(machine))
        return
    for number in (signal.SIGTERM, signal.SIGHUP):  # so that all that was opened is closed
        signal.signal(number, lambda number, _frame: sys.exit(128 + number))
    found: Results = {}
    for name in chosen.names or list(BENCHES):
        found[name] = measure(name, chosen.quick)
        if not chosen.quick:
            keep(machine, known(machine) | {name: found[name]})
    rows = rows_of(found)
    lines = [head(machine, found), "", *table(rows), ""]
    print("\n".join([*lines, *slowdown.matrix(rows), "", *budgets.table(rows)]))


if __name__ == "__main__":
    main()
