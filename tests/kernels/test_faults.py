"""Faults that hardened kernels cannot make, each with the pipe that diagnosis must name.

Each is made under a load that runs before and after it: then diagnosis must be silent. What is
injected are latencies and limits; the guest's clock goes by its own instructions (vm.py), so that
they are what they should be however slow the emulation is.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ktop.collect.main import Collector
from ktop.diagnosis.engine import Diagnosis
from ktop.diagnosis.model import STATES, Pipe
from ktop.scope import Roster, Scope
from tests.faults.stage import Stage

from . import verdicts
from .machinery import delayed, ram_disk, run

pytestmark = pytest.mark.kernels
ADDRESS, PORT = "10.78.0.2", 7100
QUIET, NAMED, DROPPED = 6, 18, 18  # samples: of the load alone; until named; until dropped


class V2(Stage):
    """A stage on cgroup v2, whose groups have all controllers."""

    def controlled(self, name: str) -> str:
        """A group with all controllers."""
        path = self.group(name)
        root = Path(self.root("unified"))
        (root / self.base.lstrip("/") / "cgroup.subtree_control").write_text("+cpu +io +memory")
        return path

    def limit(self, group: str, file: str, value: str) -> None:
        """Write to a file of a group."""
        Path(f"{self.root('unified')}{group}/{file}").write_text(value)


@pytest.fixture
def stage() -> Iterator[V2]:
    with V2(seed=7) as s:
        yield s


@pytest.fixture
def slow_disk(tmp_path: Path) -> Iterator[Path]:
    """A mounted ext4 whose requests take 10 ms."""
    with ram_disk(tmp_path / "disk", held_ms=10) as where:
        yield where


def nothing() -> None:
    """No more than was said."""


@dataclass
class Fault:
    """A fault and what is right. resource: a part of it; culprit: the control group of the first
    one, or his name. meanwhile: more to check while it lasts."""

    name: str
    group: str
    begin: Callable[[], object]
    end: Callable[[], object]
    pipe: str
    resource: str = ""
    culprit: str = ""
    meanwhile: Callable[[], object] = nothing

    def right(self, pipe: Pipe | None) -> bool:
        """Whether that is what had to be named."""
        if pipe is None or pipe.pipe != self.pipe or self.resource not in (pipe.resource or ""):
            return False
        first = pipe.culprits[0] if pipe.culprits else None
        return not self.culprit or (first is not None
                                    and self.culprit in (first.cgroup, first.comm))


class Trial:
    """Looks at one control group, sample by sample."""

    def __init__(self, collector: Collector, group: str) -> None:
        self._collector, self._diagnosis = collector, Diagnosis()
        self._roster = Roster(Scope(cgroup=group))
        self.pipe: Pipe | None = None

    def look(self) -> Pipe | None:
        """The next sample's narrowest pipe, kept in `pipe`."""
        end = time.monotonic() + 1
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(0.25, left))
            self._collector.drain()
        frame = self._collector.tick()
        report = self._diagnosis.update(frame, self._roster.members(frame))
        self.pipe = next((p for p in report.pipes if p.since_s is not None
                          and p.state in STATES[:4]), None)
        return self.pipe

    def count(self, samples: int, until: Callable[[Pipe | None], bool]) -> int | list[str]:
        """How many samples it takes; else what was said in each."""
        said = []
        for number in range(1, samples + 1):
            pipe = self.look()
            if until(pipe):
                return number
            said.append(told(pipe))
        return said


def told(pipe: Pipe | None) -> str:
    """A pipe in a few words."""
    if pipe is None:
        return "nothing"
    first = pipe.culprits[0] if pipe.culprits else None
    return f"{pipe.pipe} {pipe.resource} {pipe.state} {pipe.stalled or 0:.2f}" + (
        f" by {first.comm} in {first.cgroup}" if first is not None else "")


def judge(collector: Collector, fault: Fault) -> None:
    """Silent, then named, then silent; the README's row says how long each took."""
    trial = Trial(collector, fault.group)
    verdicts.note(fault.name, expected=fault.pipe, why="it was not judged to the end")
    collector.tick()
    loud = trial.count(QUIET, lambda pipe: pipe is not None)
    if isinstance(loud, int):
        verdicts.note(fault.name, why="named something before the fault")
        raise AssertionError(f"{fault.name}: {told(trial.pipe)} without it, in sample {loud}")
    fault.begin()
    after = trial.count(NAMED, fault.right)
    if not isinstance(after, int):
        fault.end()
        verdicts.note(fault.name, why=f"said {after[-1]}")
        raise AssertionError(f"{fault.name}: {fault.pipe} was not named: {after}")
    pipe = trial.pipe
    assert pipe is not None
    first = pipe.culprits[0] if pipe.culprits else None
    who = first.comm if first is not None and fault.culprit else ""
    verdicts.note(fault.name, named=pipe.pipe, after=after, quiet=QUIET, culprit=" by ".join(
        filter(None, (f"{pipe.resource}".replace(str(os.getpid()), ""), who))))
    fault.meanwhile()
    fault.end()
    dropped = trial.count(DROPPED, lambda pipe: pipe is None)
    if not isinstance(dropped, int):
        verdicts.note(fault.name, why=f"still says {dropped[-1]}")
        raise AssertionError(f"{fault.name}: was not dropped: {dropped}")
    verdicts.note(fault.name, dropped=dropped, why="")


# -- network ---------------------------------------------------------------------------------------


def netem(stage: V2, how: str) -> tuple[str, str, Callable[[], object], Callable[[], object]]:
    """Two namespaces; what is sent from the first passes netem while the fault lasts."""
    a, b = stage.namespaces()
    return (a, b, lambda: run(f"tc -n {a} qdisc add dev ktf0 root netem {how}"),
            lambda: run(f"tc -n {a} qdisc del dev ktf0 root"))


def test_netem_delay(collector: Collector, stage: V2) -> None:
    """One question at a time over a round trip of 300 ms: bound by the peer's answers."""
    a, b, begin, end = netem(stage, "delay 300ms")
    group = stage.controlled("net")
    stage.start("answer", PORT, 0, netns=b, ready=True, group=stage.controlled("server"))
    stage.start("ask", ADDRESS, PORT, 3, 40, group=group, netns=a)
    judge(collector, Fault("netem delay 300ms", group, begin, end, "upstream",
                           f"{ADDRESS}:{PORT}"))


@pytest.mark.parametrize("how", ["loss 15%", "delay 40ms reorder 60% 50%"],
                         ids=["loss", "reordering"])
def test_netem_loss_and_reordering(collector: Collector, stage: V2, how: str) -> None:
    a, b, begin, end = netem(stage, how)
    group = stage.controlled("net")
    stage.start("sink", PORT, netns=b, ready=True)
    stage.start("pour", ADDRESS, PORT, 2, 30, group=group, netns=a)
    judge(collector, Fault(f"netem {how}", group, begin, end, "tcp", ADDRESS,
                           f"the path to {ADDRESS}"))


# -- block -----------------------------------------------------------------------------------------


def test_dm_delay(collector: Collector, stage: V2, null_disk: str) -> None:
    """A mapping that holds every read for 300 ms above a disk that takes 5."""
    with delayed(f"/dev/{null_disk}", 0) as mapped:
        group = stage.controlled("slow")
        stage.start("readers", f"/dev/{mapped.name}", 8, 4096, 150, group=group, ready=True)
        try:
            judge(collector, Fault("dm-delay 300 ms", group, lambda: mapped.hold(300),
                                   lambda: mapped.hold(0), "block", culprit=group))
        finally:
            stage.stop()


def test_io_max(collector: Collector, stage: V2, null_disk: str) -> None:
    """Three readers that would make 50 reads a second may make 15."""
    dev = Path(f"/sys/block/{null_disk}/dev").read_text().strip()
    group = stage.controlled("throttled")
    stage.start("readers", f"/dev/{null_disk}", 3, 4096, 50, group=group, ready=True)

    def limit(value: object) -> None:
        stage.limit(group, "io.max", f"{dev} riops={value}")

    def shown() -> None:
        frame = collector.tick()
        assert frame.pressure is not None
        assert [(x.path, x.what, x.per_s) for x in frame.pressure.io_limits] == [
            (group, "reads", 15)]

    judge(collector, Fault("cgroup v2 io.max, riops=15", group, lambda: limit(15),
                           lambda: limit("max"), "block", null_disk, group, shown))


# -- CPU and memory --------------------------------------------------------------------------------


def test_cpu_max(collector: Collector, stage: V2) -> None:
    """Two that need a fifth of a CPU may have a twentieth."""
    group = stage.controlled("small")
    for _ in range(2):
        stage.start("pulse", 5, 45, group=group)
    judge(collector, Fault(
        "cgroup v2 cpu.max, 5%", group, lambda: stage.limit(group, "cpu.max", "5000 100000"),
        lambda: stage.limit(group, "cpu.max", "max 100000"), "quota", group, group))


def test_memory_high_and_what_psi_says(collector: Collector, stage: V2, slow_disk: Path) -> None:
    """A group above its memory.high. The kernel's own pressure counters rise, and are shown."""
    group, file = stage.controlled("tight"), slow_disk / "map"
    stage.start("thrash", file, 32 << 20, 5, group=group, ready=True)

    def end() -> None:
        stage.limit(group, "memory.high", "max")
        file.read_bytes()  # page by page, at random, it would take a minute

    def stalled_us() -> int:
        words = Path("/proc/pressure/memory").read_text().split()
        return int(words[4].removeprefix("total="))

    def compare() -> None:
        collector.tick()
        first = stalled_us()
        time.sleep(3)
        last, frame = stalled_us(), collector.tick()
        assert frame.pressure is not None and frame.pressure.memory_some_pct is not None
        assert frame.clock.interval_ns is not None and last > first
        shown_us = frame.pressure.memory_some_pct / 100 * frame.clock.interval_ns / 1e3
        assert shown_us == pytest.approx(last - first, rel=0.15, abs=50_000)
        assert [g.path for g in frame.pressure.groups] == [group]

    judge(collector, Fault(
        "cgroup v2 memory.high, a third of what is used", group,
        lambda: stage.limit(group, "memory.high", str(10 << 20)), end, "memory", group, group,
        compare))
