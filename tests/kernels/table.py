"""What was found on each kernel, as the README's table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

BEGIN, END = "<!-- begin: kernels -->", "<!-- end: kernels -->"
Result = dict[str, Any]
LAYERS = ("processes", "sched", "block", "tcp", "files", "stacks")


def cell(result: Result, name: str) -> str:
    """live: attached, and it counted a known workload exactly. attached: that was not tried."""
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


def reasons(results: list[Result]) -> list[str]:
    """Why a probe is not live, and what stands in for it."""
    found = []
    for result in results:
        for name, probe in result["probes"].items():
            if probe["status"] in ("fallback", "absent"):
                found.append(f"- `{name}` on {result['kernel']}: {probe['reason']}; "
                             f"in its place: {probe['fallback']}")
    return found


def text(results: list[Result]) -> str:
    """The table in Markdown."""
    lines = ["| probe | at | " + " | ".join(r["kernel"] for r in results) + " |",
             "|---|---|" + "---|" * len(results)]
    lines += [f"| `{name}` | {at} | " + " | ".join(c or "-" for c in cells) + " |"
              for name, at, cells in rows(results)]
    return "\n".join([*lines, "", *reasons(results)]).rstrip() + "\n"


def write(readme: Path, results: list[Result]) -> None:
    """Between the README's markers."""
    whole = readme.read_text()
    head, _, rest = whole.partition(BEGIN)
    inside, _, tail = rest.partition(END)
    if not rest or not tail:
        raise SystemExit(f"kernels: {readme} has no {BEGIN} ... {END}")
    kept = inside.partition("| probe |")[0]
    intro = kept if kept.strip() else INTRO
    readme.write_text(f"{head}{BEGIN}{intro}{text(results)}{END}{tail}")


INTRO = """
`make kernels` boots stock Debian kernels in a throw-away VM, with Debian's own python3-bpfcc and
without kernel headers, and writes this table. `live`: the probe is attached, and counted a workload
of known size exactly; `attached`: its program compiled, passed the verifier and is attached, and
its count was not part of that run (`--checks boot`); `fallback`, `absent`: why is said below.
`-`: this kernel has another probe in its place (before 6.5, 5a80bd075f3b, there is no
`block_io_start`; `block_queued` and `block_issued` stand in).

"""
