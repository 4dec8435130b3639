"""What was found on each kernel: kept in results/, shown as the README's tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- begin: kernels -->", "<!-- end: kernels -->"
RESULTS = Path(__file__).with_name("results")
PASSED, FAILED = 0, 1  # pytest's exit statuses: it came to its end
Result = dict[str, Any]
LAYERS = ("processes", "sched", "block", "tcp", "files", "stacks")
OF_PROBES = "test_probes"  # the other files' tests have a table of their own


def merge(old: Result, new: Result) -> Result:
    """A kernel's result with what earlier runs of other tests found on the same release."""
    if old.get("kernel") != new["kernel"]:
        return new
    merged = {**old, **new, "bcc": new.get("bcc") or old.get("bcc", "")}
    for what in ("runs", "outcomes", "verdicts", "probes"):
        merged[what] = {**old.get(what, {}), **new.get(what, {})}
    if not new.get("only"):  # a file that was run whole: its tests are those that there are now
        files = {name.partition("::")[0] for name in new["outcomes"]}
        merged["outcomes"] = {name: outcome for name, outcome in merged["outcomes"].items()
                              if name in new["outcomes"] or name.partition("::")[0] not in files}
    kept = {name: shown for name, shown in old.get("proved", {}).items()
            if name not in new.get("tried", ())}
    return {**merged, "proved": {**kept, **new.get("proved", {})}}


def keep(folder: Path, result: Result) -> None:
    """Store a result. A run that did not come to its end tells nothing."""
    if result["exit"] not in (PASSED, FAILED):
        return
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result['spec']}.json"
    old = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(merge(old, result), indent=1) + "\n")


def load(folder: Path) -> list[Result]:
    """What is stored, the oldest kernel first."""
    found = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    return sorted(found, key=lambda r: [int(n) for n in r["kernel"].split("-")[0].split("+")[0]
                                        .split(".")])


def cell(result: Result, name: str) -> str:
    """live: attached, and it counted a known workload exactly. attached: that was not shown."""
    probe = result["probes"].get(name)
    if probe is None:
        return ""  # this kernel has another in its place
    if probe["status"] in ("live", "off"):
        return "live" if name in result["proved"] else "attached"
    return str(probe["status"])


def rows(results: list[Result]) -> list[tuple[str, str, list[str]]]:
    """(probe, attach point, a cell for each kernel), by layer."""
    known: dict[str, dict[str, str]] = {}
    for result in results:
        for name, probe in result["probes"].items():
            known.setdefault(name, probe)
    order = sorted(known, key=lambda n: LAYERS.index(known[n]["layer"])
                   if known[n]["layer"] in LAYERS else len(LAYERS))
    return [(name, known[name]["attach"], [cell(r, name) for r in results]) for name in order]


def others(results: list[Result]) -> list[tuple[str, list[str]]]:
    """(a test of the commands, its outcome on each kernel)."""
    names = dict.fromkeys(name for r in results for name in r.get("outcomes", {})
                          if not name.startswith((OF_PROBES, "test_boot", "test_faults")))
    return [(said(name), [r.get("outcomes", {}).get(name, "") for r in results])
            for name in sorted(names)]


def said(test: str) -> str:
    """A test's name in words."""
    _, _, name = test.partition("::")
    name, _, case = name.removeprefix("test_").replace("_", " ").rstrip("]").partition("[")
    return f"{name}: {case}" if case else name


def reasons(results: list[Result]) -> list[str]:
    """Why a probe is not live, and what stands in for it; what failed; what was run when."""
    found = []
    for result in results:
        for name, probe in result["probes"].items():
            if probe["status"] in ("fallback", "absent"):
                found.append(f"- `{name}` on {result['kernel']}: {probe['reason']}; "
                             f"in its place: {probe['fallback']}")
    for result in results:
        failed = [said(name) for name, outcome in result.get("outcomes", {}).items()
                  if outcome == "failed" and name.startswith(OF_PROBES)]
        if failed:
            found.append(f"- failed on {result['kernel']}: {', '.join(sorted(failed))}")
    for result in results:
        runs = ", ".join(f"{check} {day}" for check, day in sorted(result.get("runs", {}).items()))
        if runs:
            bcc = f"; the last run's bcc was {result['bcc']}" if result.get("bcc") else ""
            found.append(f"- {result['kernel']}: {runs}{bcc}")
    return found


def grid(heads: list[str], lines: list[list[str]]) -> list[str]:
    """A table in Markdown; an empty cell is a dash."""
    return ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads),
            *("| " + " | ".join(c or "-" for c in line) + " |" for line in lines)]


def text(results: list[Result]) -> str:
    """The tables in Markdown."""
    kernels = [r["kernel"] for r in results]
    lines = grid(["probe", "at", *kernels],
                 [[f"`{name}`", at, *cells] for name, at, cells in rows(results)])
    if rest := others(results):
        lines += ["", *grid(["test", *kernels], [[name, *cells] for name, cells in rest])]
    return "\n".join([*lines, "", *reasons(results)]).rstrip() + "\n"


def write(readme: Path, results: list[Result]) -> None:
    """Between the README's markers."""
    whole = readme.read_text()
    head, _, rest = whole.partition(BEGIN)
    _, _, tail = rest.partition(END)
    if not rest or not tail:
        raise SystemExit(f"kernels: {readme} has no {BEGIN} ... {END}")
    readme.write_text(f"{head}{BEGIN}{INTRO}{text(results)}{END}{tail}")


INTRO = """
`make kernels` boots stock Debian kernels in a throw-away VM, without kernel headers, runs the tests
of `tests/kernels` in each, keeps the results beside them and writes this table. `live`: the probe
is attached, and counted a workload of known size exactly; `attached`: its program compiled, passed
the verifier and is attached, its count was not shown; `fallback`, `absent`: why is said below.
`-`: this kernel has another probe in its place (before 6.5, 5a80bd075f3b, there is no
`block_io_start`; `block_queued` and `block_issued` stand in), or the test was not run there.
ktop and its Python are the host's, Debian 12, and so is bcc 0.26; 0.31 is Debian 13's own
(`--own-bcc`, for 6.12 and newer).

"""
