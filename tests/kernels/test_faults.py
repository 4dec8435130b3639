"""Faults that hardened kernels cannot make, each with the pipe that diagnosis must name.

The latencies are injected ones, of tens of milliseconds: on an emulated CPU that is 15 times slower
only such count. Waits for that CPU are left out of account: everything here waits for it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ktop.collect.main import Collector
from ktop.diagnosis.engine import Diagnosis
from ktop.diagnosis.model import STATES, Pipe
from ktop.model import Frame
from ktop.scope import Roster, Scope
from tests.faults.stage import Stage

from .machinery import run

pytestmark = pytest.mark.kernels
ADDRESS, PORT = "10.78.0.2", 7100
TICKS = 25
OF_THE_CPU = ("cpu", "steal")


class V2(Stage):
    """A stage on cgroup v2, whose groups have all controllers."""

    def limited(self, name: str, **limits: str) -> str:
        """A group with limits: `cpu_max="20000 100000"`."""
        path = self.group(name)
        root = Path(self.root("unified"))
        (root / self.base.lstrip("/") / "cgroup.subtree_control").write_text("+cpu +io +memory")
        for limit, value in limits.items():
            (root / path.lstrip("/") / limit.replace("_", ".")).write_text(value)
        return path


@pytest.fixture
def stage() -> Iterator[V2]:
    with V2(seed=7) as s:
        yield s


@dataclass
class Seen:
    """What diagnosis said of a scope, tick by tick."""

    named: list[str] = field(default_factory=list)
    pipe: Pipe | None = None
    frame: Frame | None = None


def judge(collector: Collector, scope: str, expect: tuple[str, ...]) -> Seen:
    """Look at a control group until one of the expected pipes is its narrowest."""
    roster, diagnosis, found = Roster(Scope(cgroup=scope)), Diagnosis(), Seen()
    for _ in range(TICKS):
        end = time.monotonic() + 1
        while time.monotonic() < end:
            time.sleep(0.25)
            collector.drain()
        found.frame = collector.tick()
        report = diagnosis.update(found.frame, roster.members(found.frame))
        tight = [p for p in report.pipes if p.since_s is not None and p.state in STATES[:4]
                 and p.pipe not in OF_THE_CPU]
        found.named.append(tight[0].pipe if tight else "none")
        if tight and tight[0].pipe in expect:
            found.pipe = tight[0]
            return found
    raise AssertionError(f"{' or '.join(expect)} was not named: {found.named}")


# -- network ---------------------------------------------------------------------------------------


def network(stage: V2, netem: str) -> tuple[str, str, str]:
    """Two namespaces and a group; what is sent from the first passes netem."""
    a, b = stage.namespaces()
    run(f"tc -n {a} qdisc add dev ktf0 root netem {netem}")
    return a, b, stage.limited("net")


def test_netem_delay(collector: Collector, stage: V2) -> None:
    """One question at a time over a round trip of 300 ms: bound by the peer's answers."""
    a, b, group = network(stage, "delay 300ms")
    stage.start("answer", PORT, 0, netns=b, ready=True)
    stage.start("ask", ADDRESS, PORT, 3, 0, group=group, netns=a)
    seen = judge(collector, group, ("upstream",))
    assert seen.pipe is not None and (seen.pipe.resource or "").startswith(f"{ADDRESS}:{PORT}")


@pytest.mark.parametrize("netem", ["loss 15%", "delay 40ms reorder 60% 50%"],
                         ids=["loss", "reordering"])
def test_netem_loss_and_reordering(collector: Collector, stage: V2, netem: str) -> None:
    a, b, group = network(stage, netem)
    stage.start("sink", PORT, netns=b, ready=True)
    stage.start("pour", ADDRESS, PORT, 2, 20, group=group, netns=a)
    seen = judge(collector, group, ("tcp",))
    assert seen.pipe is not None and ADDRESS in (seen.pipe.resource or "")


# -- block -----------------------------------------------------------------------------------------


def test_dm_delay(collector: Collector, stage: V2, null_disk: str) -> None:
    """A mapping that holds every read for 60 ms above a disk that takes 5."""
    run("modprobe dm-delay")
    done = os.popen(f"echo '0 262144 delay /dev/{null_disk} 0 60' | dmsetup create ktopkernels "
                    "--noudevsync 2>&1")
    text = done.read()
    assert done.close() is None, text
    try:
        group = stage.limited("slow")
        (device,) = Path("/sys/block").glob("dm-*")
        node = stage.directory / "slow"
        major, minor = map(int, (device / "dev").read_text().split(":"))
        os.mknod(node, 0o60600, os.makedev(major, minor))
        stage.start("readers", node, 4, 4096, group=group, ready=True)
        seen = judge(collector, group, ("block",))
        assert seen.pipe is not None
        assert (seen.pipe.resource or "").startswith((device.name, null_disk, "ktopkernels"))
    finally:
        stage.stop()
        run("dmsetup remove --retry --noudevsync ktopkernels", check=False)


def test_io_max(collector: Collector, stage: V2, null_disk: str) -> None:
    dev = Path(f"/sys/block/{null_disk}/dev").read_text().strip()
    group = stage.limited("throttled")
    stage.start("readers", f"/dev/{null_disk}", 3, 4096, group=group, ready=True)
    Path(f"/sys/fs/cgroup{group}/io.max").write_text(f"{dev} riops=30")
    seen = judge(collector, group, ("block",))
    assert seen.frame is not None and seen.frame.pressure is not None
    assert [(x.path, x.what, x.per_s) for x in seen.frame.pressure.io_limits] == [
        (group, "reads", 30)]


# -- CPU and memory --------------------------------------------------------------------------------


def test_cpu_max(collector: Collector, stage: V2) -> None:
    group = stage.limited("small", cpu_max="20000 100000")
    for _ in range(2):
        stage.start("pulse", 60, 10, group=group)
    seen = judge(collector, group, ("quota",))
    assert seen.pipe is not None and seen.pipe.resource == group
    assert seen.pipe.culprits[0].cgroup == group


def test_memory_high_and_what_psi_says(collector: Collector, stage: V2, disk: Path) -> None:
    """A group above its memory.high. The kernel's own pressure counters rise, and are shown."""
    def stalled_us() -> int:
        words = Path("/proc/pressure/memory").read_text().split()
        return int(words[4].removeprefix("total="))

    group = stage.limited("tight", memory_high=str(24 << 20))
    before = stalled_us()
    stage.start("thrash", disk / "map", 80 << 20, group=group, ready=True)
    seen = judge(collector, group, ("memory",))
    assert seen.pipe is not None and seen.pipe.resource == group
    first = stalled_us()
    collector.tick()
    time.sleep(3)
    last, frame = stalled_us(), collector.tick()
    assert frame.pressure is not None and frame.pressure.memory_some_pct is not None
    assert frame.clock.interval_ns is not None and last > first >= before
    shown_us = frame.pressure.memory_some_pct / 100 * frame.clock.interval_ns / 1e3
    assert shown_us == pytest.approx(last - first, rel=0.15, abs=50_000)
