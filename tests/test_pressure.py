"""Pressure: what the kernel's files say, v1 and v2, and files that say nonsense."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ktop.collect import pressure
from ktop.collect.memory import memory
from ktop.collect.pressure import PressureLayer
from ktop.collect.proctext import figures
from ktop.model import Process


def test_psi_totals() -> None:
    text = ("some avg10=0.12 avg60=0.00 avg300=0.00 total=12345\n"
            "full avg10=0.00 avg60=0.00 avg300=0.00 total=99\n")
    assert pressure.psi_totals(text) == {"some": 12345, "full": 99}
    assert pressure.psi_totals("") == {} and pressure.psi_totals("some total=x\n\n") == {}


def test_vmstat_sums_over_zones_and_kinds() -> None:
    found = pressure.vmstat_totals(figures(
        "allocstall_dma 1\nallocstall_normal 2\npgscan_direct 10\npgscan_direct_throttle 7\n"
        "workingset_refault_anon 3\nworkingset_refault_file 4\nworkingset_activate_file 100\n"
        "pswpin 5\noom_kill 6\n"))
    assert found["direct_reclaims_per_s"] == 3 and found["scanned_direct_per_s"] == 10
    assert found["refaults_per_s"] == 7 and found["swap_in_per_s"] == 5
    assert found["oom_kills_per_s"] == 6
    assert "swap_out_per_s" not in found  # not told: unknown, not zero


def test_controllers_and_groups(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text("cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n"
                      "cgroup /sys/fs/cgroup/blkio cgroup rw,blkio 0 0\n"
                      "cgroup2 /sys/fs/cgroup/uni\\040fied cgroup2 rw 0 0\nbroken\n")
    assert pressure.controllers(str(mounts)) == {
        "memory": "/sys/fs/cgroup/memory", "blkio": "/sys/fs/cgroup/blkio",
        "unified": "/sys/fs/cgroup/uni fied"}
    assert pressure.groups_of("4:memory:/a:b\n1:cpu,cpuacct:/c\n0::/d\n") == {
        "memory": "/a:b", "cpu": "/c", "cpuacct": "/c", "unified": "/d"}


def test_io_limits_of_both_versions(tmp_path: Path) -> None:
    (tmp_path / "blkio.throttle.read_iops_device").write_text("254:0 50\n8:16 7\n")
    (tmp_path / "io.max").write_text("254:0 rbps=1048576 wbps=max riops=max wiops=9\n")
    dev = 254 << 20
    assert pressure.io_limits(str(tmp_path), True) == [
        (dev, "reads", 50.0), (8 << 20 | 16, "reads", 7.0)]
    assert pressure.io_limits(str(tmp_path), False) == [
        (dev, "read bytes", 1048576.0), (dev, "writes", 9.0)]


def own_row(**waits: float) -> Process:
    return Process(pid=os.getpid(), ppid=1, uid=0, comm="me", args="me", cgroup=1, state="S",
                   threads=1, start_boottime_ns=5, waits_pct=waits)


def layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **roots: str) -> PressureLayer:
    monkeypatch.setattr(pressure, "controllers", lambda: roots)
    monkeypatch.setattr(pressure, "groups_of", lambda text: {
        "memory": "/top/leaf", "blkio": "/top/leaf", "unified": "/top/leaf"})
    return PressureLayer()


def test_the_nearest_group_with_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """v1: the leaf has none, the group above it has one; hits and refaults are rates."""
    top = tmp_path / "top"
    (top / "leaf").mkdir(parents=True)
    (top / "leaf/memory.limit_in_bytes").write_text("9223372036854771712\n")
    for name, value in (("limit_in_bytes", "1000"), ("usage_in_bytes", "990"), ("failcnt", "10"),
                        ("stat", "workingset_refault_file 5\n"),
                        ("oom_control", "oom_kill_disable 0\noom_kill 2\n")):
        (top / f"memory.{name}").write_text(value)
    found = layer(tmp_path, monkeypatch, memory=str(tmp_path), blkio=str(tmp_path))
    first = found.update([own_row(memory=50.0)], 10**9, None, memory()).groups[0]
    assert (first.path, first.limit_bytes, first.usage_bytes) == ("/top", 1000, 990)
    assert first.limit_hits_per_s is None and first.pids == [os.getpid()]
    (top / "memory.failcnt").write_text("30")
    (top / "memory.stat").write_text("workingset_refault_file 9\n")
    second = found.update([own_row(reclaim=50.0)], 2 * 10**9, 2 * 10**9, memory()).groups[0]
    assert (second.limit_hits_per_s, second.refaults_per_s) == (10.0, 2.0)
    assert second.oom_kills_total == 2
    assert found.update([own_row(memory=1.0)], 3 * 10**9, 10**9, memory()).groups == []


def test_v2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leaf = tmp_path / "top/leaf"
    leaf.mkdir(parents=True)
    for name, value in (("memory.max", "max"), ("memory.high", "500"), ("memory.current", "480"),
                        ("memory.events", "high 20\nmax 4\noom_kill 0\n"), ("memory.stat", ""),
                        ("memory.pressure", "some avg10=0 total=100\n"),
                        ("io.max", "254:0 riops=20\n")):
        (leaf / name).write_text(value)
    found = layer(tmp_path, monkeypatch, unified=str(tmp_path))
    found.update([own_row(memory=50.0, disk=50.0)], 10**9, None, memory())
    (leaf / "memory.pressure").write_text("some avg10=0 total=250100\n")
    (leaf / "memory.events").write_text("low 0\nhigh 70\nmax 5\noom_kill 0\n")
    second = found.update([own_row(memory=50.0, disk=50.0)], 2 * 10**9, 10**9, memory())
    assert second.groups[0].limit_bytes == 500 and second.groups[0].some_pct == 25.0
    assert second.groups[0].limit_hits_per_s == 51.0  # memory.high is a limit as memory.max is
    assert (second.io_limits[0].what, second.io_limits[0].per_s) == ("reads", 20.0)
    assert second.io_limits[0].pids == [os.getpid()]


def test_this_host() -> None:
    """The first update has no rates; the second has those that the kernel has files for."""
    found = PressureLayer()
    assert found.update([], 10**9, None, memory()).refaults_per_s is None
    second = found.update([], 2 * 10**9, 10**9, memory())
    assert second.refaults_per_s is not None and second.refaults_per_s >= 0
    if os.path.exists("/proc/pressure/memory"):
        assert second.memory_some_pct is not None and 0 <= second.memory_some_pct <= 100
