"""What a scheduler pipe, fio (4 KiB random reads), a loopback HTTP server and PostgreSQL's pgbench
lose to ktop: its always-on programs, each pane that has probes on demand looked at, every probe,
`ktop record`; and to the tools that show the same.

What switches between processes runs on one CPU (over two, the time to wake an idle one hides the
rest), and its rate is for a second of that CPU: what others on the host take is not in it. Each
round measures all, every second round in the opposite order; a figure is what was lost against
none of them, at the beginning and at the end of the same round.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench import block, hooks, traffic
from bench.common import KTOP, ROOT, Missing, Row, end, programs_of, require_root
from bench.load import pingpong
from bench.postgres import cluster
from ktop.bpf.layers import GROUPS, probes_of

# With which peers ktop's always-on programs are compared, and what is added to them beside those
# that are attached while a layer is looked at. What does not start is left out, and named.
ALWAYS = ["runqlat", "cpudist -O", "execsnoop -x", "exitsnoop", "biolatency -D", "biolatency -Q",
          "biosnoop", "tcplife", "tcpconnect"]
LOOKED_AT = ["opensnoop", "filelife", "filetop", "tcptop"]
LAYERS = ("processes", "sched", "files", "tcp", "block")
ON, EVERY, RECORD, PEERS, MORE = ("on", "every probe", "recording", "peers", "more peers")
SLOWER = "slower by"
Load = Callable[[], float]
Rates = dict[str, dict[str, float]]  # under what -> load -> rate


def on_demand() -> list[str]:
    """Layers with probes that are attached only while somebody looks."""
    return sorted({p.layer for group in GROUPS if not group.on_request
                   for p in probes_of(group) if p.on_demand})


def collect() -> None:
    """In a child: a collector that ticks each second; watches what its standard input says."""
    import select

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
    child = subprocess.Popen([sys.executable, "-c", "from bench.slowdown import collect; "
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


@contextlib.contextmanager
def recording(place: Path) -> Iterator[None]:
    """`ktop record`, which attaches every probe, once its programs have all come."""
    file = place / "bench.ktop"
    process = subprocess.Popen([KTOP, "record", "-o", str(file)], stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        seen, same = 0, 0
        for _ in range(300):
            time.sleep(0.2)
            if process.poll() is not None:
                raise Missing("ktop record ended by itself")
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
            now = len(programs_of([process.pid, *map(int, children.split())]))
            seen, same = now, same + 1 if now and now == seen else 0
            if same >= 15:
                break
        yield
    finally:
        end(process, signal.SIGTERM, 10.0)
        for left in place.glob("bench.ktop*"):
            left.unlink()


def _pipe(cpu: int, loops: int) -> float:
    """Round trips for a CPU second of perf's own pipe benchmark."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(["taskset", "-c", str(cpu), "perf", "bench", "-f", "simple", "sched", "pipe",
                    "-l", str(loops)], capture_output=True, check=True, stdin=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return loops / (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def _pingpong(cpu: int, seconds: float) -> float:
    """The same where there is no perf: bytes handed on in a second."""
    with pingpong([cpu]) as load:
        time.sleep(0.2)
        before, begun = load.switches(), time.perf_counter()
        time.sleep(seconds)
        return (load.switches() - before) / (time.perf_counter() - begun)


def _fio(file: Path, depth: int, seconds: float) -> float:
    """Reads a second."""
    said = block.fio(file, "--size=64m", f"--iodepth={depth}", "--time_based", "--norandommap",
                     f"--runtime={seconds * 1000:.0f}ms")
    return float(json.loads(said)["jobs"][0]["read"]["iops"])


def _loads(stack: contextlib.ExitStack, quick: bool, absent: dict[str, str]) -> dict[str, Load]:
    """What is slowed: a run of each is its rate."""
    cpu = min(os.sched_getaffinity(0))
    seconds = 0.4 if quick else 0.8
    loads: dict[str, Load] = {}
    if shutil.which("perf") and shutil.which("taskset"):
        loads["`perf bench sched pipe`"] = lambda: _pipe(cpu, 20_000 if quick else 100_000)
    else:
        loads["ping-pong of two `cat`"] = lambda: _pingpong(cpu, seconds)
    try:
        file = stack.enter_context(block.data(64))
        for depth in (1, 16):
            loads[f"fio, 4k random reads, depth {depth}"] = (
                lambda depth=depth: _fio(file, depth, seconds * 1.5))  # type: ignore[misc]
    except Missing as err:
        absent["fio, 4k random reads"] = str(err)
    server = stack.enter_context(traffic.server(cpu))
    for kept, how in ((True, f"{traffic.KEPT} connections kept"), (False, "a connection each")):
        loads[f"HTTP over loopback, {how}"] = (
            lambda kept=kept: traffic.requests(  # type: ignore[misc]
                server, cpu, kept, seconds))
    try:
        postgres = stack.enter_context(cluster())
        loads["pgbench, read only"] = lambda: postgres.rate(cpu, round(4_000 * seconds), "-S")
        loads["pgbench, TPC-B"] = lambda: postgres.rate(cpu, round(1_500 * seconds))
    except (Missing, OSError, subprocess.SubprocessError) as err:
        absent["pgbench"] = str(err)
    return loads


def _round(loads: dict[str, Load], forth: bool, missing: dict[str, str],
           place: Path | None) -> Rates:
    """Every load under everything, once. place: for a recording; None: neither that nor panes."""
    panes = on_demand() if place is not None else []
    rates: Rates = {}

    def measure(under: str) -> None:
        rates[under] = {name: load() for name, load in loads.items()}

    def under_ktop() -> None:
        wanted = {ON: (), **{layer: (layer,) for layer in panes}, EVERY: LAYERS}
        with ktop() as watch:
            for name, layers in wanted.items() if forth else reversed(wanted.items()):
                watch(layers)
                measure(name)

    def under_recording() -> None:
        if place is not None:
            with recording(place):
                measure(RECORD)

    def under_peers() -> None:
        with contextlib.ExitStack() as stack:
            hooks.attach(stack, ALWAYS, missing)
            measure(PEERS)
            hooks.attach(stack, LOOKED_AT, missing)
            measure(MORE)

    measure("off")
    before = rates.pop("off")
    steps = [under_ktop, under_recording, under_peers]
    for step in steps if forth else reversed(steps):
        step()
    measure("off")
    rates["off"] = {name: (before[name] + rate) / 2 for name, rate in rates["off"].items()}
    return rates


def _rows(rounds: list[Rates], missing: dict[str, str]) -> list[Row]:
    def lost(under: str, load: str) -> list[float]:
        return [(1 - r[under][load] / r["off"][load]) * 100 for r in rounds]

    always = " + ".join(n for n in ALWAYS if n not in missing)
    more = " + ".join(["all these", *(n for n in LOOKED_AT if n not in missing)])
    rows = []
    for under in (name for name in (ON, *on_demand(), EVERY, RECORD) if name in rounds[0]):
        for load in rounds[0]["off"]:
            peers: dict[str, list[float] | str] = {}
            if under == ON:
                peers[always] = lost(PEERS, load)
            elif under == EVERY:
                peers[more] = lost(MORE, load)
            rows.append(Row(f"{load}, {under}: {SLOWER}", "%", lost(under, load), peers))
    rows[-1].peers.update(missing)
    return rows


def matrix(rows: list[Row]) -> list[str]:
    """The medians, a line for each load; Markdown."""
    states: dict[str, dict[str, str]] = {}
    for row in rows:
        if isinstance(row.ktop, str) or not row.what.endswith(SLOWER):
            continue
        load, _, under = row.what.removesuffix(f": {SLOWER}").rpartition(", ")
        line = states.setdefault(load, {})
        line[under] = f"{statistics.median(row.ktop):.1f}"
        peer = next((v for v in row.peers.values() if isinstance(v, list)), None)
        if peer is not None:
            line[MORE if under == EVERY else PEERS] = f"{statistics.median(peer):.1f}"
    if not states:
        return []
    names = [ON, *on_demand(), EVERY, RECORD, PEERS, MORE]
    titles = [{ON: "ktop on", EVERY: "every probe", RECORD: "`ktop record`", PEERS: "peers",
               MORE: "peers and opensnoop"}.get(n, f"pane {n}") for n in names]
    return ["| slower by, % | " + " | ".join(titles) + " |", "|---" * (len(names) + 1) + "|",
            *(f"| {load} | " + " | ".join(line.get(n, "-") for n in names) + " |"
              for load, line in states.items())]


def run(quick: bool) -> list[Row]:
    """All rows."""
    require_root()
    absent: dict[str, str] = {}
    missing: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ktop-bench-")))
        loads = _loads(stack, quick, absent)
        for name, load in [*loads.items()]:
            try:
                load()
            except (Missing, OSError, ValueError, subprocess.CalledProcessError) as err:
                absent[name] = f"{name} does not run here: {err}"[:120]
                del loads[name]
        rounds = [_round(loads, i % 2 == 0, missing, None if quick else place)
                  for i in range(1 if quick else 3)]
    return _rows(rounds, missing) + [Row(name, "", why) for name, why in absent.items()]
