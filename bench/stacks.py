"""What stacks cost while they are taken: per context switch beside offcputime, and per sample.

All are attached at the same time and see the same ping-pong. offcputime is run for the whole host
and, as ktop, for one process that sleeps (what a target costs everybody else).
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator

from bench import hooks
from bench.common import Missing, Row, bpf_stats, programs_of, require_root
from bench.load import pingpong
from ktop.collect.main import Collector, Options
from ktop.wire import Profile

_OURS = ("stacks_switch",)


@contextlib.contextmanager
def _taking(pids: list[int]) -> Iterator[set[int]]:
    """ktop that takes stacks: the ids of the programs that this adds."""
    one = Collector(Options())
    one.start()
    try:
        one.tick()
        one.settle()
        before = programs_of([os.getpid()])
        one.profile(Profile(pids=pids, seconds=600))
        for _ in range(300):
            stacks = one.tick().stacks
            if stacks is not None and stacks.state == "running":
                break
            if stacks is not None and stacks.state == "failed":
                raise Missing(f"no stacks here: {stacks.reason}")
            time.sleep(0.05)
        yield programs_of([os.getpid()]) - before
    finally:
        one.close()


def _round(pids: list[int], peer: str, ours_first: bool, quick: bool,
           absent: dict[str, str]) -> hooks.Costs:
    owners: dict[str, set[int]] = {}
    with contextlib.ExitStack() as stack:
        for name in ("ktop", peer) if ours_first else (peer, "ktop"):
            try:
                if name == "ktop":
                    owners[name] = stack.enter_context(_taking(pids))
                elif name not in absent:
                    owners[name] = stack.enter_context(hooks.peer(name))
            except (Missing, OSError) as err:
                absent[name] = str(err)
        before = hooks.read(owners)
        with pingpong(sorted(os.sched_getaffinity(0))[:1]):
            time.sleep(0.5 if quick else 2.0)
        return hooks.difference(hooks.read(owners), before)


def run(quick: bool) -> list[Row]:
    """Cost per context switch with and without a target, and of a sample."""
    require_root()
    absent: dict[str, str] = {}
    rows: list[Row] = []
    sleeper = subprocess.Popen(["sleep", "600"])
    try:
        target = f"offcputime -p {sleeper.pid}"
        hooks.ARGUMENTS[target] = target.split()
        for what, peer, pids in (
                ("context switch, stacks of the whole host", "offcputime", []),
                ("context switch, stacks of another process", target, [sleeper.pid])):
            with bpf_stats():
                rounds = [_round(pids, peer, i % 2 == 0, quick, absent)
                          for i in range(1 if quick else 6)]
            row = hooks.compare(what, rounds, _OURS, "stacks_switch", [peer], absent)
            row.peers = {name.partition(" -p")[0]: v for name, v in row.peers.items()}
            rows.append(row)
            if not pids:
                rows += hooks.alone(rounds, "stacks_profile", "sample of a stack")
    finally:
        sleeper.kill()
        sleeper.wait()
    return rows
