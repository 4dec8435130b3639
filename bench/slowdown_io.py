"""How much fio (4 KiB random reads), `perf bench sched pipe` and a loopback HTTP server lose: to
ktop's always-on programs, to every program it has (each layer looked at), and to the libbpf-tools
that show the same. ktop is its collector in a child, ticking each second. What switches between two
processes runs on one CPU (over two, the time to wake an idle one hides the rest), its rate is for a
second of that CPU: what others on the host take is not in it.

Each round measures all of them, every second round in the opposite order; a figure is the median
of what was lost against the same round without any.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from bench import hooks, traffic
from bench.common import ROOT, Missing, Row, require_root

# With which peers ktop's always-on programs are compared, and what is added to them beside those
# that are attached while a layer is looked at. What does not start is left out, and named.
ALWAYS = ["runqlat", "cpudist -O", "execsnoop -x", "exitsnoop", "biolatency -D", "biolatency -Q",
          "biosnoop", "tcplife", "tcpconnect"]
LOOKED_AT = ["opensnoop", "filelife", "filetop", "tcptop"]
hooks.ARGUMENTS.update({name: name.split() for name in ("biolatency -D", "biolatency -Q")})
LAYERS = ("processes", "sched", "files", "tcp", "block")
Load = Callable[[], float]


def collect() -> None:
    """In a child: a collector that ticks each second; watches what its standard input says."""
    import select
    import time

    from ktop.collect.main import Collector, Options

    one = Collector(Options())
    one.start()
    try:
        one.tick()
        one.settle()
        due = time.monotonic()
        while True:
            if time.monotonic() >= due:
                one.tick()
                due += 1
            if select.select([0], [], [], 0.25)[0]:
                if not (said := os.read(0, 4096)):
                    return
                one.watch(said.decode("ascii").split())
                live = {p.name for p in one.tick().health.probes if p.status == "live"}
                print("ready" if "sched_switch" in live else "no BPF here", flush=True)
            one.drain()
    finally:
        one.close()


@contextlib.contextmanager
def ktop() -> Iterator[Callable[[tuple[str, ...]], None]]:
    """The collector in its child: a function that says which layers are looked at."""
    child = subprocess.Popen([sys.executable, "-c", "from bench.slowdown_io import collect; "
                              "collect()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
    assert child.stdin and child.stdout

    def watch(layers: tuple[str, ...]) -> None:
        assert child.stdin and child.stdout
        child.stdin.write(" ".join(layers or ("none",)).encode("ascii"))
        child.stdin.flush()
        if (said := child.stdout.readline().strip()) != b"ready":
            raise Missing(said.decode("ascii") or "the collector ended")

    try:
        yield watch
    finally:
        traffic.finish(child)


def _fio(file: Path, depth: int, seconds: float) -> float:
    done = subprocess.run(
        ["fio", "--name=b", f"--filename={file}", "--size=64m", "--direct=1", "--bs=4k",
         "--rw=randread", "--ioengine=libaio", f"--iodepth={depth}", "--time_based",
         "--norandommap", f"--runtime={seconds * 1000:.0f}ms", "--output-format=json"],
        capture_output=True, check=True, stdin=subprocess.DEVNULL, cwd=file.parent)
    found: float = json.loads(done.stdout[done.stdout.index(b"{"):])["jobs"][0]["read"]["iops"]
    return found


def _pipe(cpu: int, loops: int) -> float:
    def used() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = used()
    subprocess.run(["taskset", "-c", str(cpu), "perf", "bench", "-f", "simple", "sched", "pipe",
                    "-l", str(loops)], capture_output=True, check=True, stdin=subprocess.DEVNULL)
    return loops / (used() - before)


def _loads(stack: contextlib.ExitStack, quick: bool, absent: dict[str, str]) -> dict[str, Load]:
    """What is slowed: a run of each is its rate, a second."""
    cpus = sorted(os.sched_getaffinity(0))
    seconds = 0.5 if quick else 0.8
    loads: dict[str, Load] = {}
    if shutil.which("fio"):
        place = stack.enter_context(tempfile.TemporaryDirectory(prefix=".bench-", dir=ROOT))
        file = Path(place, "data")
        file.write_bytes(os.urandom(64 << 20))
        os.sync()
        for depth in (1, 16):
            loads[f"fio, 4k random reads, depth {depth}"] = (
                lambda depth=depth: _fio(file, depth, seconds * 1.5))  # type: ignore[misc]
    else:
        absent["fio, 4k random reads"] = "fio is not installed"
    if shutil.which("perf") and shutil.which("taskset"):
        loads["`perf bench sched pipe` on one CPU"] = (
            lambda: _pipe(cpus[0], 20_000 if quick else 100_000))
    else:
        absent["`perf bench sched pipe`"] = "perf is not installed: the ping-pong stands for it"
    server = stack.enter_context(traffic.server(cpus[0]))
    for kept, how in ((True, f"{traffic.KEPT} connections kept"), (False, "a connection each")):
        loads[f"HTTP over loopback on one CPU, {how}"] = (
            lambda kept=kept: traffic.requests(  # type: ignore[misc]
                server, cpus[0], kept, seconds))
    return loads


Rates = dict[str, dict[str, float]]  # under what -> load -> rate


def _peers(stack: contextlib.ExitStack, names: list[str], missing: dict[str, str]) -> None:
    for name in names:
        if name not in missing:
            try:
                stack.enter_context(hooks.peer(name))
            except (Missing, OSError) as err:
                missing[name] = str(err)


def _round(loads: dict[str, Load], forth: bool, missing: dict[str, str]) -> Rates:
    """Every load under everything, once."""
    rates: Rates = {}

    def measure(under: str) -> None:
        rates[under] = {name: load() for name, load in loads.items()}

    def under_ktop() -> None:
        with ktop() as watch:
            for layers in ((), LAYERS) if forth else (LAYERS, ()):
                watch(layers)
                measure("ktop, looked at" if layers else "ktop")

    def under_peers() -> None:
        with contextlib.ExitStack() as stack:
            _peers(stack, ALWAYS, missing)
            measure("peers")
            _peers(stack, LOOKED_AT, missing)
            measure("peers, looked at")

    steps = [lambda: measure("off"), under_ktop, under_peers]
    for step in steps if forth else reversed(steps):
        step()
    return rates


def _rows(rounds: list[Rates], missing: dict[str, str]) -> list[Row]:
    def lost(under: str, load: str) -> list[float]:
        return [(1 - r[under][load] / r["off"][load]) * 100 for r in rounds]

    always = " + ".join(n for n in ALWAYS if n not in missing)
    more = " + ".join(["all these", *(n for n in LOOKED_AT if n not in missing)])
    rows = [Row(f"{load}: slowed by", "%", lost("ktop", load),
                {"all these" if i else always: lost("peers", load)})
            for i, load in enumerate(rounds[0]["off"])]
    rows += [Row(f"{load}, every layer looked at: slowed by", "%", lost("ktop, looked at", load),
                 {more: lost("peers, looked at", load)}) for load in rounds[0]["off"]]
    if missing and rows:
        rows[-1].peers.update(missing)
    return rows


def run(quick: bool) -> list[Row]:
    """All rows."""
    require_root()
    absent: dict[str, str] = {}
    missing: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        loads = _loads(stack, quick, absent)
        for name, load in [*loads.items()]:
            try:
                load()
            except (Missing, OSError, ValueError, subprocess.CalledProcessError) as err:
                absent[name] = f"{name} does not run here: {err}"[:120]
                del loads[name]
        rounds = [_round(loads, i % 2 == 0, missing) for i in range(1 if quick else 4)]
    return _rows(rounds, missing) + [Row(name, "", why) for name, why in absent.items()]
