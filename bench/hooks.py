"""What each BPF program costs per event (run_time_ns / run_cnt), beside the libbpf-tools and
bpftrace tools (*.bt) that show the same.

All are attached at the same time and so see the very same events; who is attached first (and pays
for the cold cache) changes from round to round.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator

from bench.common import (
    Missing,
    Program,
    Row,
    bpf_stats,
    collector,
    end,
    program,
    programs_of,
    require_root,
    tool,
)
from bench.load import executions, pingpong

STACKS = "offcputime (walks stacks too)"
# How each is called; the others are called by their name, which may have arguments in it.
ARGUMENTS = {STACKS: ["offcputime"]}
# What shows what ktop's always-on programs show.
TOGETHER = ["runqlat", "cpudist -O", "execsnoop -x", "exitsnoop", "biolatency -D", "biolatency -Q",
            "tcplife", "tcpstates"]
_ALWAYS = ("process_fork", "process_exec", "process_exit", "exec_failed", "execat_failed")

Owners = dict[str, set[int]]           # whose -> ids of programs
Costs = dict[str, dict[str, Program]]  # whose -> program -> cost


@contextlib.contextmanager
def peer(name: str) -> Iterator[set[int]]:
    """A libbpf-tool that is attached: the ids of its programs."""
    command, *arguments = ARGUMENTS.get(name, name.split())
    process = subprocess.Popen([tool(command), *arguments], stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        ids: set[int] = set()
        for _ in range(60):
            time.sleep(0.05)
            found = programs_of([process.pid])
            if process.poll() is not None or (found and found == ids):
                break
            ids = found
        if process.poll() is not None or not ids:
            if process.poll() is None:
                end(process)  # or its words would never end
            assert process.stderr
            words = process.stderr.read().decode("utf-8", "replace").strip().splitlines()
            why = (words or ["no message"])[-1 if name.endswith(".bt") else 0]  # warnings before
            raise Missing(f"{name} does not start here: {why[:80]}")
        yield ids
    finally:
        if process.poll() is None:
            end(process)
        assert process.stderr
        process.stderr.close()


def read(owners: Owners) -> Costs:
    costs: Costs = {}
    for owner, ids in owners.items():
        for one in ids:
            found = program(one)
            same = costs.setdefault(owner, {}).setdefault(found.name, Program(found.name, 0, 0))
            same.run_ns += found.run_ns
            same.runs += found.runs
    return costs


def difference(after: Costs, before: Costs) -> Costs:
    return {owner: {name: Program(name, now.run_ns - before[owner][name].run_ns,
                                  now.runs - before[owner][name].runs)
                    for name, now in programs.items()}
            for owner, programs in after.items()}


def _load(kind: str, quick: bool) -> None:
    cpus = sorted(os.sched_getaffinity(0))
    seconds = 0.5 if quick else 1.0
    if kind == "executions":
        executions(100 if quick else 300)
    else:
        with pingpong(cpus[:1] if kind == "one" else cpus[:2]):
            time.sleep(seconds)


def attach(stack: contextlib.ExitStack, names: list[str], absent: dict[str, str]) -> Owners:
    """Peers that run until the stack ends; what does not start is noted in `absent`."""
    owners: Owners = {}
    for name in names:
        if name not in absent:
            try:
                owners[name] = stack.enter_context(peer(name))
            except (Missing, OSError) as err:
                absent[name] = str(err)
    return owners


def rounds(load: Callable[[], object], names: list[str], count: int, absent: dict[str, str],
           watch: tuple[str, ...] = (), needs: str = "sched_switch") -> list[Costs]:
    """So many times the load and a tick with ktop and these attached; first is who was last."""
    found: list[Costs] = []
    with bpf_stats():
        for i in range(count):
            with contextlib.ExitStack() as stack:
                owners = attach(stack, names, absent) if i % 2 else {}
                one, owners["ktop"] = stack.enter_context(collector(watch, needs))
                owners |= {} if i % 2 else attach(stack, names, absent)
                before = read(owners)
                load()
                one.tick()
                found.append(difference(read(owners), before))
    return found


def _per_event(costs: Costs, owner: str, wanted: tuple[str, ...] | None, events: int) -> float:
    return sum(p.run_ns for n, p in costs[owner].items() if not wanted or n in wanted) / events


def compare(what: str, rounds: list[Costs], wanted: tuple[str, ...], event: str,
             names: list[str], absent: dict[str, str]) -> Row:
    """Cost of our `wanted` programs and of all programs of each peer, per run of our `event`."""
    if "ktop" in absent:
        return Row(what, "ns", absent["ktop"], {n: absent.get(n, "-") for n in names})
    events = [max(costs["ktop"][event].runs, 1) for costs in rounds]
    ours = [_per_event(c, "ktop", wanted, n) for c, n in zip(rounds, events, strict=True)]
    peers: dict[str, list[float] | str] = {}
    for name in names:
        values = [_per_event(c, name, None, n) for c, n in zip(rounds, events, strict=True)
                  ] if name not in absent else []
        # one that never ran costs nothing, and shows nothing
        peers[name] = values if any(values) else absent.get(name, f"{name} saw none of it")
    # Together they show what ours shows; the one that walks stacks shows more, bpftrace's the same.
    both = [n for n in names if n != STACKS and not n.endswith(".bt")
            and isinstance(peers[n], list)]
    if len(both) > 1:
        peers[" + ".join(both)] = [sum(values) for values in zip(*(peers[n] for n in both),
                                                                 strict=True)]
    return Row(what, "ns", ours, peers)


def alone(rounds: list[Costs], name: str, what: str) -> list[Row]:
    values = [c["ktop"][name].run_ns / c["ktop"][name].runs for c in rounds
              if "ktop" in c and name in c["ktop"] and c["ktop"][name].runs]
    return [Row(what, "ns", values)] if values else []


def _switches(cpus: list[int], quick: bool) -> Callable[[], None]:
    def load() -> None:
        with pingpong(cpus):
            time.sleep(0.5 if quick else 1.0)
    return load


def _together(quick: bool, count: int, absent: dict[str, str]) -> Row:
    """Everything that is always on beside everything that shows the same, under all loads."""
    from bench.block import reads
    from bench.tcp import connections

    def load() -> None:
        with pingpong(sorted(os.sched_getaffinity(0))[:2]):
            executions(100 if quick else 300)
            connections(300 if quick else 1_000)
            reads(1)

    found = rounds(load, TOGETHER, count, absent)
    names = [name for name in TOGETHER if name not in absent]
    sums = {owner: [sum(p.run_ns for p in costs[owner].values()) / 1e6 for costs in found]
            for owner in ("ktop", *names)}
    peers: dict[str, list[float] | str] = {
        " + ".join(names): [sum(values) for values in zip(*(sums[n] for n in names), strict=True)]}
    return Row("all always-on programs, switches, executions, connections and reads together", "ms",
               sums["ktop"], peers | {name: absent[name] for name in TOGETHER if name in absent})


def run(quick: bool) -> list[Row]:
    """Scheduler and processes, and all layers together."""
    require_root()
    rows: list[Row] = []
    absent: dict[str, str] = {}
    count = 1 if quick else 4
    cpus = sorted(os.sched_getaffinity(0))
    names = ["runqlat", "cpudist -O", STACKS, "runqlat.bt"]
    for used, label in ((cpus[:1], "on one CPU"), (cpus[:2], "over two CPUs"))[:len(cpus)]:
        rows.append(compare(f"context switch, ping-pong {label}", rounds(
            _switches(used, quick), names, count, absent), ("sched_switch",), "sched_switch",
            names, absent))
    rows.append(compare("sample of the run queue's length", rounds(
        _switches(cpus[:1], quick), ["runqlen", "runqlen.bt"], count, absent), ("runqlen",),
        "runqlen", ["runqlen", "runqlen.bt"], absent))
    names = ["execsnoop -x", "exitsnoop", "execsnoop.bt"]
    found = rounds(lambda: executions(100 if quick else 300), names, count, absent)
    rows.append(compare("fork, exec and exit of a process", found, _ALWAYS, "process_exec",
                        names, absent))
    for name in _ALWAYS:
        rows += alone(found, name, f"`{name}`, one run")
    rows += alone(found, "tasks", "`tasks`, one thread read at a tick")
    return [*rows, _together(quick, count, absent)]
