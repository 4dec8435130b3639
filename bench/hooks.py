"""What each BPF program costs per event (run_time_ns / run_cnt), beside the libbpf-tools that show
the same.

All are attached at the same time and so see the very same events; who is attached first (and pays
for the cold cache) changes from round to round.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import time
from collections.abc import Iterator

from bench.common import (
    Missing,
    Program,
    Row,
    bpf_stats,
    end,
    program,
    programs_of,
    require_root,
    tool,
)
from bench.load import executions, pingpong

STACKS = "offcputime (walks stacks too)"
# How each is called; the others are called by their name alone.
ARGUMENTS = {"cpudist -O": ["cpudist", "-O"], "execsnoop -x": ["execsnoop", "-x"],
             STACKS: ["offcputime"]}
_ALWAYS = ("process_fork", "process_exec", "process_exit", "exec_failed", "execat_failed")

Costs = dict[str, dict[str, Program]]  # whose -> program -> cost


@contextlib.contextmanager
def peer(name: str) -> Iterator[set[int]]:
    """A libbpf-tool that is attached: the ids of its programs."""
    command, *arguments = ARGUMENTS.get(name, [name])
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
            assert process.stderr
            words = process.stderr.read().decode("utf-8", "replace").strip().splitlines()
            raise Missing(f"{name} does not start here: {(words or ['no message'])[0][:80]}")
        yield ids
    finally:
        if process.poll() is None:
            end(process)
        assert process.stderr
        process.stderr.close()


@contextlib.contextmanager
def collector() -> Iterator[object]:
    """ktop's collector in this process, the processes pane looked at, its first tick behind it."""
    try:
        from ktop.collect.main import Collector, Options
    except ImportError as err:
        raise Missing(f"no collector: {err}") from None
    one = Collector(Options(watch=("processes",)))
    one.start()
    try:
        one.settle()
        frame = one.tick()
        if frame.health.source != "bpf":
            raise Missing(f"no BPF here: {frame.health.banner}")
        yield one
    finally:
        one.close()


def _read(owners: dict[str, set[int]]) -> Costs:
    costs: Costs = {}
    for owner, ids in owners.items():
        for one in ids:
            found = program(one)
            same = costs.setdefault(owner, {}).setdefault(found.name, Program(found.name, 0, 0))
            same.run_ns += found.run_ns
            same.runs += found.runs
    return costs


def _difference(after: Costs, before: Costs) -> Costs:
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


def _round(kind: str, names: list[str], ours_first: bool, quick: bool,
           absent: dict[str, str]) -> Costs:
    """One load, with everything attached."""
    owners: dict[str, set[int]] = {}
    with contextlib.ExitStack() as stack:
        for name in ["ktop", *names] if ours_first else [*names, "ktop"]:
            if name in absent:
                continue
            try:
                if name == "ktop":
                    before = programs_of([os.getpid()])
                    one = stack.enter_context(collector())
                    owners[name] = programs_of([os.getpid()]) - before
                else:
                    owners[name] = stack.enter_context(peer(name))
            except (Missing, OSError) as err:
                absent[name] = str(err)
        before_load = _read(owners)
        _load(kind, quick)
        if "ktop" in owners:
            one.tick()
        return _difference(_read(owners), before_load)


def _rounds(kind: str, names: list[str], quick: bool, absent: dict[str, str]) -> list[Costs]:
    with bpf_stats():
        return [_round(kind, names, i % 2 == 0, quick, absent) for i in range(2 if quick else 4)]


def _per_event(costs: Costs, owner: str, wanted: tuple[str, ...] | None, events: int) -> float:
    return sum(p.run_ns for n, p in costs[owner].items() if not wanted or n in wanted) / events


def _compare(what: str, rounds: list[Costs], wanted: tuple[str, ...], event: str,
             names: list[str], absent: dict[str, str]) -> Row:
    """Cost of our `wanted` programs and of all programs of each peer, per run of our `event`."""
    if "ktop" in absent:
        return Row(what, "ns", absent["ktop"], {n: absent.get(n, "-") for n in names})
    events = [max(costs["ktop"][event].runs, 1) for costs in rounds]
    ours = [_per_event(c, "ktop", wanted, n) for c, n in zip(rounds, events, strict=True)]
    peers: dict[str, list[float] | str] = {}
    for name in names:
        peers[name] = absent.get(name) or [
            _per_event(c, name, None, n) for c, n in zip(rounds, events, strict=True)]
    # Together they show what ours shows; the one that walks stacks shows more.
    both = [n for n in names if n != STACKS and isinstance(peers[n], list)]
    if len(both) > 1:
        peers[" + ".join(both)] = [sum(values) for values in zip(*(peers[n] for n in both),
                                                                 strict=True)]
    return Row(what, "ns", ours, peers)


def _alone(rounds: list[Costs], name: str, what: str) -> list[Row]:
    values = [c["ktop"][name].run_ns / c["ktop"][name].runs for c in rounds
              if "ktop" in c and name in c["ktop"] and c["ktop"][name].runs]
    return [Row(what, "ns", values)] if values else []


def run(quick: bool) -> list[Row]:
    require_root()
    rows: list[Row] = []
    absent: dict[str, str] = {}
    names = ["runqlat", "cpudist -O", STACKS]
    for kind, label in (("one", "ping-pong on one CPU"), ("two", "ping-pong over two CPUs")):
        if kind == "two" and len(os.sched_getaffinity(0)) < 2:
            continue
        rounds = _rounds(kind, names, quick, absent)
        rows.append(_compare(f"context switch, {label}", rounds, ("sched_switch",), "sched_switch",
                             names, absent))
    sampled = _rounds("one", ["runqlen"], quick, absent)
    rows.append(_compare("sample of the run queue's length", sampled, ("runqlen",), "runqlen",
                         ["runqlen"], absent))
    names = ["execsnoop -x", "exitsnoop"]
    rounds = _rounds("executions", names, quick, absent)
    rows.append(_compare("fork, exec and exit of a process", rounds, _ALWAYS, "process_exec",
                         names, absent))
    for name in _ALWAYS:
        rows += _alone(rounds, name, f"`{name}`, one run")
    rows += _alone(rounds, "tasks", "`tasks`, one thread read at a tick")
    if len(rounds) > 1 and rows:
        assert all(statistics.median(r.ktop) >= 0 for r in rows if isinstance(r.ktop, list))
    return rows
