"""Diagnosis on built frames: findings, which stall nobody."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ktop.diagnosis.engine import Diagnosis
from ktop.diagnosis.model import Finding
from ktop.model import Frame, ProcessEvent
from ktop.model_block import Limit
from ktop.model_files import Descriptors, FileOps, FileProcess, OpenFold
from tests.diagkit import SECOND, add, disk, frame, process, watch

# -- findings --------------------------------------


def test_findings_have_culprits_and_stall_nobody() -> None:
    def trouble(f: Frame) -> None:
        assert f.files is not None
        add(f, process(100, "sh", forks_per_s=8.0), process(101, "app"))
        f.processes.events = [ProcessEvent("exit", 0, 900 + i, 100, 0, "true", "sh", 2,
                                           lifetime_ns=2_000_000) for i in range(8)]
        f.files.processes = [FileProcess(101, "app", FileOps(opens_per_s=90.0, errors_per_s=90.0))]
        f.files.folds = [OpenFold("app", "/etc/no", "ENOENT", 900, 5400.0, 101)]
        f.files.descriptors = [Descriptors(101, "app", 2, 500, 1024, 30.0, 60 * SECOND, True)]

    report = watch(trouble)
    assert report.verdict.pipe == "none"
    assert [(f.kind, f.culprits[0].pid) for f in report.findings] == [
        ("descriptors", 101), ("forks", 100), ("missing files", 101)]


def through(seconds: int, trouble: Callable[[int, Frame], None]) -> list[list[Finding]]:
    """Findings second by second. Seconds count from 1; the first frame has no rates."""
    diagnosis, found = Diagnosis(), []
    for second in range(seconds + 1):
        f = frame(second + 1)
        if second:
            trouble(second, f)
        found.append(diagnosis.update(f).findings)
    return found[1:]


def ends(pid: int, ppid: int, life_ms: float, cpu_ms: float = 1.0) -> ProcessEvent:
    return ProcessEvent("exit", 0, pid, ppid, 0, "x", "sh", 2, lifetime_ns=int(life_ms * 1e6),
                        cpu_ns=int(cpu_ms * 1e6))


def test_a_slow_loop_of_short_processes_is_known_within_five_seconds() -> None:
    """200 a minute, with a sleep that is longer than they are."""
    def loop(second: int, f: Frame) -> None:
        add(f, process(100, "sh"))
        f.processes.events = [*(ends(900 + i, 100, 2) for i in range(3)), ends(990, 100, 600)]

    found = through(8, loop)
    first = next(i for i, findings in enumerate(found, 1) if findings)
    assert first <= 5 and found[-1][0].culprits[0].pid == 100
    assert found[-1][0].evidence[0].value == 3.0


def test_what_short_shells_start_counts_to_who_started_them() -> None:
    def check(second: int, f: Frame) -> None:
        add(f, process(100, "supervisor"))
        shell = 1000 + second
        f.processes.events = [*(ends(5000 + i, shell, 3) for i in range(3)), ends(shell, 100, 12)]

    assert [f.culprits[0].pid for f in through(8, check)[-1]] == [100]


def test_a_compile_is_no_fork_loop() -> None:
    def build(second: int, f: Frame) -> None:
        add(f, process(100, "make"))
        f.processes.events = [e for i in range(4) for e in (
            ends(200 + i, 300 + i, 400, 380), ends(400 + i, 300 + i, 30, 25),
            ends(300 + i, 100, 450, 5))]

    assert through(10, build)[-1] == []


def test_workers_that_look_for_the_same_file_are_one_finding() -> None:
    def storm(second: int, f: Frame) -> None:
        assert f.files is not None
        add(f, *(process(100 + i, "worker") for i in range(4)))
        f.files.processes = [FileProcess(100 + i, "worker", FileOps(
            opens_per_s=8.0 + i, errors_per_s=8.0 + i), 2) for i in range(4)]
        f.files.folds = [OpenFold("worker", "/etc/no", "ENOENT", 900, 5400.0, 101)]

    found = through(6, storm)
    first = next(i for i, findings in enumerate(found, 1) if findings)
    assert first <= 4 and len(found[-1]) == 1
    assert found[-1][0].culprits[0].pid == 103 and found[-1][0].evidence[0].value == 38.0


def throttled(f: Frame, pct: float) -> None:
    group = f.cgroups[1]
    group.quota_cpus, group.throttled_pct, group.periods_per_s = 0.3, pct, 10.0
    group.throttled_per_s, group.cpu_pct, group.runq_wait_pct = pct / 10, 30.0, pct


def test_bursts_that_use_up_a_quota_are_found_at_the_second_one() -> None:
    """A script every 15 s that is held back for a quarter of a second each time (SCENARIOS.md)."""
    def bursts(second: int, f: Frame) -> None:
        throttled(f, 25.0 if second % 15 == 5 else 0.0)
        if second % 15 == 5:
            add(f, process(100, "cleanup.sh", cpu_pct=5.0))
            f.processes.events = [ends(900 + i, 100, 90, 20) for i in range(2)]

    found = through(40, bursts)
    assert found[10] == [] and [f.kind for f in found[20]] == ["quota bursts"]
    last = found[-1][0]
    assert last.culprits[0].comm == "cleanup.sh"
    assert last.evidence[0].value == pytest.approx(250, rel=0.01)
    assert last.evidence[1].value == pytest.approx(15)


def test_one_burst_and_a_group_that_is_held_back_all_the_time_are_none() -> None:
    assert through(30, lambda second, f: throttled(f, 25.0 * (second == 5)))[-1] == []
    assert through(30, lambda second, f: throttled(f, 25.0))[-1] == []


def test_a_declared_volume_that_is_nearly_used_up() -> None:
    def busy(second: int, f: Frame) -> None:
        assert f.block is not None
        f.block.devices = [disk(reads_per_s=2400.0, read_bytes_per_s=10e6,
                                limit=Limit("vda", 3000.0, 125e6))]

    found = through(5, busy)[-1]
    assert [f.kind for f in found] == ["ceiling"] and "80% of the operations" in found[0].text
