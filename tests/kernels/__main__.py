"""`make kernels`: boot each kernel, run the checks in it, say per probe how it fares.

    python -m tests.kernels [KERNEL...] [--checks boot,probes,commands,faults] [--own-bcc] [--write]

KERNEL: 5.10, 6.1, 6.12, newest (the default: all four), or a release of the archive. Exit status:
0 all passed, 1 something failed, 3 nothing could be fetched or booted here (one line says why;
with --if-possible that is 0, as is a guest that gave no result, unless KTOP_REQUIRE_KERNELS=1).
"""

from __future__ import annotations

import argparse
import compileall
import datetime
import json
import os
import shlex
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.kernels import archive, table, verdicts, vm

KERNELS = ("5.10", "6.1", "6.12", archive.NEWEST)
HERE = Path(__file__).parent.relative_to(Path.cwd())
CHECKS = {
    "boot": ("test_boot.py",),
    "probes": ("test_probes.py", "test_probes_files.py", "test_probes_net.py"),
    "commands": ("test_commands.py",),
    "faults": ("test_faults.py",),
}
# The suite whose python3-bpfcc goes with a kernel, where this machine has another. None for 5.10:
# Debian 11's Python and libbpf are older than what ktop is written for.
OWN_BCC = {"6.12": "trixie", archive.NEWEST: "trixie"}
STEADY = {"commands", "faults"}  # judged by latencies: there a busy machine must not be seen
ATTEMPTS = 3  # software emulation crashes a guest now and then where a kernel patches itself
CANNOT = 3


def say(text: str) -> None:
    """Progress."""
    print(f"kernels: {text}", flush=True)


def required() -> bool:
    """Whether a kernel that cannot be fetched or booted is a failure."""
    return os.environ.get("KTOP_REQUIRE_KERNELS") == "1"


def lend_bcc(tree: Path) -> str:
    """Commands for the guest: its system's python3 is from here on that of another release.

    It is what ktop compiles with, and all that ktop uses it for.
    """
    libraries = f"{tree}/usr/lib/x86_64-linux-gnu"
    script = (f"#!/bin/sh\nexec {libraries}/ld-linux-x86-64.so.2 --library-path {libraries} "
              f"{tree}/usr/bin/python3 \"$@\"\n")
    return (f"rm /usr/bin/python3; printf %s {shlex.quote(script)} >/usr/bin/python3; "
            "chmod 755 /usr/bin/python3; ")


def command(checks: list[str], only: str) -> str:
    """What the guest runs."""
    files = [str(HERE / name) for check in checks for name in CHECKS[check]]
    words = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--tb=short", "-v",
             "--durations=5", *(["--assert=plain"] if STEADY & set(checks) else ()),
             *(["-k", only] if only else ()), *files]
    # its plugins' imports alone take half a minute there
    return ("PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 PYTHONDONTWRITEBYTECODE=1 "
            f"KTOP_KERNELS=/run/share/result.json exec {shlex.join(words)}")


def one(spec: str, release: str, checks: list[str], run: str,
        timeout_s: float) -> dict[str, Any]:
    """One kernel's result; a guest that crashed is booted again."""
    for attempt in range(1, ATTEMPTS + 1):
        begun = time.monotonic()
        say(f"{release}: booting, {', '.join(checks)}")
        with tempfile.TemporaryDirectory(prefix="ktop-kernels-") as folder:
            share = Path(folder)
            status = vm.boot(release, run, share, timeout_s=timeout_s,
                             prefix=f"{spec}: ", steady=bool(STEADY & set(checks)))
            found = share / "result.json"
            result: dict[str, Any] = json.loads(found.read_text()) if found.exists() else {}
        say(f"{release}: exit status {status} after {time.monotonic() - begun:.0f} s")
        if status != vm.NO_RESULT:
            break
        if attempt < ATTEMPTS:
            say(f"{release}: the guest crashed, again ({attempt} of {ATTEMPTS})")
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {"probes": {}, "proved": {}, "outcomes": {}, **result, "kernel": release, "spec": spec,
            "runs": dict.fromkeys(checks, today), "exit": status}


def main() -> int:
    """All kernels, or those named."""
    parser = argparse.ArgumentParser(prog="python -m tests.kernels", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kernels", nargs="*", metavar="KERNEL")
    parser.add_argument("--checks", default="probes,commands,faults")
    parser.add_argument("--timeout", type=float, default=1500.0, help="seconds a kernel may take")
    parser.add_argument("--if-possible", action="store_true",
                        help="where no kernel can be fetched, say so and be content")
    parser.add_argument("--only", default="", metavar="EXPRESSION",
                        help="of the checks' tests, as pytest -k; what others found before stays")
    parser.add_argument("--own-bcc", action="store_true",
                        help="6.12 and newest with their distribution's bcc, not this machine's")
    parser.add_argument("--write", action="store_true",
                        help="the table into README.md, of these results and those kept before")
    parser.add_argument("--results", type=Path, metavar="DIR",
                        help=f"keep what was found there (with --write: {table.RESULTS.name}/)")
    args = parser.parse_args()
    checks = [c for c in args.checks.split(",") if c]
    if unknown := set(checks) - set(CHECKS):
        parser.error(f"no such checks: {', '.join(sorted(unknown))}")
    results: list[table.Result] = []
    kept = args.results or (table.RESULTS if args.write else None)
    for number in (signal.SIGTERM, signal.SIGINT):  # so that the machine ends with us
        signal.signal(number, lambda n, _: sys.exit(128 + n))
    for folder in ("ktop", HERE):
        compileall.compile_dir(folder, quiet=2)  # here it takes a second, there half a minute
    try:
        archive.check_tools()
        say("reading the archive's lists")
        archive.update()
        for spec in args.kernels or KERNELS:
            release = archive.resolve(spec)
            archive.kernel(release)
            lent = OWN_BCC.get(spec) if args.own_bcc else None
            before = lend_bcc(archive.userland(lent)) if lent else ""
            run = before + command(checks, args.only)
            results.append({**one(spec, release, checks, run, args.timeout), "only": args.only})
            if kept:
                table.keep(kept, results[-1])
    except archive.Unavailable as err:
        print(f"kernels: cannot boot other kernels here: {err}", file=sys.stderr)
        return CANNOT if required() or not args.if_possible else 0
    print(table.text(results))
    if args.write:
        table.write(Path("README.md"), table.load(kept))
        verdicts.write(Path("README.md"), table.load(kept))
    if args.if_possible and not required():
        for result in results:
            if result["exit"] in (vm.NO_RESULT, vm.TIMED_OUT):
                say(f"{result['kernel']}: the emulator gave no result: nothing was tested")
                result["exit"] = 0
    bad = [r["kernel"] for r in results if r["exit"]]
    say(f"failed on {', '.join(bad)}" if bad else f"all passed on {len(results)} kernels")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
