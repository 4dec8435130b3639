"""`ktop doctor`: what this machine lets ktop see, probe by probe, and why not the rest.

Loads and attaches everything for a moment, so that what it says is what will happen.
Exit status: 0 ktop can run live, 1 only without BPF, 2 not at all.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from dataclasses import asdict, dataclass
from typing import Any

from ktop import __version__, capabilities
from ktop.bpf.btf import VMLINUX
from ktop.bpf.engine import Engine, Loaded, probe_table
from ktop.bpf.layers import GROUPS, probes_of
from ktop.bpf.probes import TRACEFS
from ktop.collect.cgroups import find_hierarchy
from ktop.text import clean

_PERF_PARANOID = "/proc/sys/kernel/perf_event_paranoid"


@dataclass
class Check:
    """One line: ok is None where it decides nothing."""

    name: str
    value: str
    ok: bool | None
    advice: str = ""


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="backslashreplace") as f:
            return clean(f.read().strip(), 200)
    except OSError:
        return None


def _capabilities() -> Check:
    """Of those that the collector keeps, which there are, and what is not seen for lack of one."""
    held = capabilities.held()
    wanted = [need.cap for need in capabilities.NEEDS]
    have = " ".join(str(cap) for cap in wanted if cap in held) or "none"
    lack = " ".join(str(cap) for cap in wanted if cap not in held)
    value = f"has {have}" + (f"; lacks {lack}" if lack else "")
    if capabilities.why_no_bpf() is not None:
        return Check("capabilities", value, False, "run it as root: sudo ktop")
    unseen = "".join(f"; without {cap} it does not see {what}"
                     for cap, what in capabilities.blind())
    return Check("capabilities", value + unseen, True)


def _lockdown() -> Check:
    text = _read("/sys/kernel/security/lockdown")
    if text is None:
        return Check("lockdown", "unknown: securityfs is not mounted, or no lockdown LSM", None)
    mode = text[text.find("[") + 1:text.find("]")] if "[" in text else text
    open_ = mode != "confidentiality"
    return Check("lockdown", mode, open_, "" if open_ else "it forbids BPF to read the kernel")


def _tracefs() -> Check:
    if os.path.exists(os.path.join(TRACEFS, "events")):
        return Check("tracefs", f"mounted at {TRACEFS}", True)
    return Check("tracefs", "not mounted", None,
                 f"ktop mounts it at {TRACEFS} when a probe needs it")


def _cgroups() -> Check:
    try:
        hierarchy = find_hierarchy()
    except OSError as err:
        return Check("cgroups", f"/proc/mounts: {err.strerror}", False)
    if hierarchy is None:
        return Check("cgroups", "none mounted", None, "processes cannot be shown by cgroup")
    version = "v1, the cpu controller's hierarchy" if hierarchy.v1 else "v2"
    return Check("cgroups", f"{version}, at {clean(hierarchy.root, 200)}", True)


def _bcc(loaded: Loaded) -> Check:
    facts = loaded.facts
    if facts:
        return Check("bcc", f"{facts['bcc']}, of {facts['python']}", True)
    reason = loaded.fatal or "not tried"
    advice = ("" if "python3-bpfcc" not in reason else
              "apt-get install python3-bpfcc" if shutil.which("apt-get") else
              "dnf install python3-bcc")
    return Check("bcc", reason, False, advice)


def checks(loaded: Loaded) -> list[Check]:
    """Everything about the machine that decides what ktop can do here."""
    name = os.uname()
    btf = os.path.exists(VMLINUX)
    return [
        Check("ktop", f"{__version__}, Python {platform.python_version()}",
              sys.version_info >= (3, 11)),
        Check("kernel", f"{clean(name.sysname, 20)} {clean(name.release, 80)} {name.machine}",
              name.sysname == "Linux"),
        Check("BTF", f"{VMLINUX}, {os.path.getsize(VMLINUX):,} bytes"
              if btf else "none: CONFIG_DEBUG_INFO_BTF is off", btf or None,
              "" if btf else "kernel headers are used instead, if they are installed"),
        _tracefs(), _capabilities(), _lockdown(), _bcc(loaded), _cgroups(),
        Check("perf_event_paranoid", _read(_PERF_PARANOID) or "unknown", None),
        Check("unprivileged BPF", {"0": "allowed", "1": "off for good", "2": "off"}.get(
            _read("/proc/sys/kernel/unprivileged_bpf_disabled") or "", "unknown"), None),
    ]


def examine() -> dict[str, Any]:
    """All of doctor's findings, as its --json prints them."""
    hierarchy = find_hierarchy()
    options = {"cgroup_v1": bool(hierarchy and hierarchy.v1)}
    engines = [Engine(options, number) for number, group in enumerate(GROUPS) if probes_of(group)]
    refused = capabilities.why_no_bpf()
    try:
        for engine in engines:
            if refused is None:
                engine.start()
                engine.wait()
                engine.watch({p.layer for p in engine.table})
            else:
                engine.loaded.fatal = refused
        found = checks(engines[0].loaded)
        why = {p.name: p.on_demand for engine in engines for p in engine.table}
        probes = [{**row, "on_demand": why[row["name"]]}
                  for engine in engines for row in probe_table(engine)]
        notes = [note for engine in engines for note in engine.loaded.facts.get("notes", [])]
        live = engines[0].live("tasks")
    finally:
        for engine in engines:
            engine.close()
    status = 2 if platform.system() != "Linux" or sys.version_info < (3, 11) else 0 if live else 1
    return {"status": status, "verdict": _VERDICTS[status], "checks": [asdict(c) for c in found],
            "probes": probes, "notes": notes}


_VERDICTS = ("ktop can run live", "ktop can run, but without BPF: from /proc only",
             "ktop cannot run here")


def _print(findings: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=False)
    machine = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for check in findings["checks"]:
        mark = {True: "ok", False: "NO", None: "-"}[check["ok"]]
        told = " ".join((check["value"], check["advice"])).strip()
        machine.add_row(mark, check["name"], Text(told))
    console.print(machine)
    console.print()
    for p in findings["probes"]:
        console.print(Text.assemble((f"{p['name']:<15} ", "bold"),
                                    f"{p['status']:<9} {p['attach']}"))
        if p["status"] == "live":
            lines = [f"shows {p['shows']}", f"cannot see: {p['blind']}"]
        else:
            lines = [f"would show {p['shows']}", f"why not: {p['reason']}",
                     f"in its place: {p['fallback']}"]
        if p["on_demand"]:
            lines.append(f"on demand: {p['on_demand']}")
        console.print(Padding(Text("\n".join(lines)), (0, 0, 0, 4)))
    for note in findings["notes"]:
        console.print(Text(f"note: {note}"))
    console.print(Text(f"\n{findings['verdict']}"))


def main(as_json: bool = False) -> int:
    """Examine, print, and return the exit status."""
    findings = examine()
    if as_json:
        print(json.dumps(findings, indent=2, ensure_ascii=False))
    else:
        _print(findings)
    return int(findings["status"])
