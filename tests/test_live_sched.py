"""Scheduler figures against independent counts, on this machine's own kernel."""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ktop import hist
from ktop.bpf import btf, headers, layout
from ktop.collect.main import Collector
from tests.livekit import busy_window, child, collecting, row, spin

pytestmark = pytest.mark.live
COLLECTING = collecting  # for the fixture `collector`
CPU = min(os.sched_getaffinity(0))


@contextlib.contextmanager
def classic(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """The reference program, counting."""
    manifest = "/* @kernel\n * task_struct: pid __state|state\n */"
    header = headers.kernel_header(btf.Btf(), headers.wanted(manifest))
    headers.write_tree(str(tmp_path), header)
    flags = [f"-D{k}={v}" for k, v in layout.DEFINES.items()]
    script = Path(__file__).with_name("reference_runqlat.py")
    p = subprocess.Popen(["/usr/bin/python3", "-B", str(script), str(tmp_path), *flags], text=True,
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert p.stdout is not None
        assert p.stdout.readline() == "ready\n"
        yield p
    finally:
        p.kill()
        p.wait()


def totals(reference: subprocess.Popen[str]) -> dict[str, list[int]]:
    assert reference.stdin is not None and reference.stdout is not None
    reference.stdin.write("\n")
    reference.stdin.flush()
    return json.loads(reference.stdout.readline())


def pipe_pair(stack: contextlib.ExitStack, cpu: int | None) -> None:
    a, b = os.pipe(), os.pipe()
    os.write(a[1], b"x")
    stack.enter_context(child(lambda: os.write(b[1], os.read(a[0], 1)), cpu))
    stack.enter_context(child(lambda: os.write(a[1], os.read(b[0], 1)), cpu))
    for fd in (*a, *b):
        stack.callback(os.close, fd)


def test_histogram_equals_the_classic_one(collector: Collector, tmp_path: Path) -> None:
    """Same seconds, same load: as many waits, as much waiting, every percentile within one octave.

    Ours is the kernel's own run_delay, the classic one has the cost of its own wake-up hook inside
    each wait: below some microseconds it reads higher.
    """
    with contextlib.ExitStack() as stack:
        reference = stack.enter_context(classic(tmp_path))
        pipe_pair(stack, None)
        for _ in range(3):
            stack.enter_context(child(spin, CPU))
        stack.enter_context(child(lambda: (spin(), time.sleep(0.003)), CPU))
        time.sleep(0.3)
        collector.tick()
        before = totals(reference)
        time.sleep(3)
        frame = collector.tick()
        after = totals(reference)
    counts = [a - b for a, b in zip(after["counts"], before["counts"], strict=True)]
    theirs = hist.from_counts(counts, after["sum_ns"] - before["sum_ns"])
    ours = frame.sched.runq
    assert ours is not None
    assert hist.count(ours) == pytest.approx(hist.count(theirs), rel=0.03)
    assert ours.sum_ns == pytest.approx(theirs.sum_ns, rel=0.15)
    for pct in hist.PERCENTILES:
        a, b = hist.percentile(ours, pct), hist.percentile(theirs, pct)
        assert a is not None and b is not None
        assert abs(math.log2(a / b)) <= 1.0, (pct, a, b)
    assert ours.max_ns is not None
    assert max(low for low, _, n in hist.octaves(ours) if n) <= ours.max_ns


def test_histogram_sums_to_run_delay(collector: Collector) -> None:
    """Over one process: the histogram's count is the switches, its sum the kernel's run_delay."""
    with child(spin, CPU), child(spin, CPU) as pid:
        time.sleep(0.2)
        first = schedstat(pid)
        frame = busy_window(collector, 2.0)
        second = schedstat(pid)
    process = row(frame, pid)
    assert process.runq is not None and process.runq_wait_pct is not None
    waited = (second[1] - first[1]) / 1e9
    assert process.runq_wait_pct * frame.clock.interval_ns / 1e11 == pytest.approx(waited, rel=0.15)
    assert hist.count(process.runq) == pytest.approx(second[2] - first[2], rel=0.15)
    assert process.runq.sum_ns / 1e9 == pytest.approx(waited, rel=0.25)


def schedstat(pid: int) -> list[int]:
    """(cpu ns, run delay ns, time slices) from the kernel's own file."""
    return [int(n) for n in Path(f"/proc/{pid}/schedstat").read_text().split()]


def test_two_on_one_cpu_wait_half_the_time(collector: Collector) -> None:
    with child(spin, CPU) as a, child(spin, CPU) as b:
        time.sleep(0.2)
        frame = busy_window(collector, 2.0)
    for pid in (a, b):
        process = row(frame, pid)
        assert process.runq_wait_pct is not None and process.cpu_pct is not None
        assert process.runq_wait_pct + process.cpu_pct == pytest.approx(100, abs=3)
        assert process.runq_wait_pct == pytest.approx(50, abs=20)


def test_run_queue_length_is_the_number_of_hogs(collector: Collector) -> None:
    others = busy_window(collector, 1.0).cpus[CPU]
    assert others.runq_len is not None and others.waiting is not None
    with contextlib.ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(child(spin, CPU))
        time.sleep(0.2)
        frame = busy_window(collector, 2.0)
    cpu = frame.cpus[CPU]
    assert cpu.runq_len is not None and cpu.waiting is not None
    assert cpu.runq_len == pytest.approx(5 + others.runq_len, abs=1.5)
    assert cpu.runq_samples == pytest.approx(2 * 99, rel=0.2)
    # Little's law: who waits is the queue without the one that runs.
    assert cpu.waiting == pytest.approx(cpu.runq_len - 1, abs=1.2)


def test_host_histogram_is_the_sum_of_the_cgroups(collector: Collector) -> None:
    with child(spin, CPU), child(lambda: subprocess.run(["/bin/true"], check=False)):
        frame = busy_window(collector, 2.0)
    host = frame.sched.runq
    groups = hist.merge(g.runq for g in frame.cgroups if g.runq is not None)
    assert host is not None
    assert hist.count(groups) == pytest.approx(hist.count(host), rel=0.05)


def test_context_switches_against_proc_stat(collector: Collector) -> None:
    def switches() -> int:
        return int(next(line for line in Path("/proc/stat").read_text().splitlines()
                        if line.startswith("ctxt")).split()[1])

    with contextlib.ExitStack() as stack:
        pipe_pair(stack, CPU)
        collector.tick()
        first, since = switches(), time.monotonic()
        time.sleep(1.0)
        frame = collector.tick()
        theirs = (switches() - first) / (time.monotonic() - since)
    assert frame.sched.switches_per_s is not None
    assert frame.sched.switches_per_s == pytest.approx(theirs, rel=0.1)
    assert sum(c.switches_per_s or 0 for c in frame.cpus) == pytest.approx(
        frame.sched.switches_per_s, rel=1e-6)


@contextlib.contextmanager
def cpu_cgroup(quota_us: int) -> Iterator[Path]:
    """A v1 cgroup with a CPU quota per 100 ms."""
    root = Path("/sys/fs/cgroup/cpu")
    if not (root / "cpu.cfs_quota_us").exists():
        pytest.skip("no cgroup v1 cpu controller")
    group = root / f"ktop-test-{os.getpid()}"
    group.mkdir()
    try:
        (group / "cpu.cfs_quota_us").write_text(str(quota_us))
        yield group
    finally:
        for _ in range(50):
            with contextlib.suppress(OSError):
                group.rmdir()
                break
            time.sleep(0.05)


def test_throttling_against_cpu_stat(collector: Collector) -> None:
    def stat(group: Path) -> dict[str, int]:
        lines = (group / "cpu.stat").read_text().splitlines()
        return {k: int(v) for k, v in (line.split() for line in lines)}

    with cpu_cgroup(20_000) as group, child(spin, CPU) as pid:
        (group / "cgroup.procs").write_text(str(pid))
        time.sleep(0.3)
        collector.tick()
        collector.tick()
        first = stat(group)
        time.sleep(2.0)
        frame = collector.tick()
        second = stat(group)
    found = next(g for g in frame.cgroups if g.path == f"/{group.name}")
    assert found.quota_cpus == pytest.approx(0.2)
    assert found.name == group.name and found.processes == 1
    assert found.cpu_pct == pytest.approx(20, abs=4)
    seconds = (frame.clock.interval_ns or 0) / 1e9
    assert (found.periods_per_s or 0) * seconds == pytest.approx(
        second["nr_periods"] - first["nr_periods"], abs=2)
    assert (found.throttled_per_s or 0) * seconds == pytest.approx(
        second["nr_throttled"] - first["nr_throttled"], abs=2)
    assert (found.throttled_pct or 0) * seconds * 1e7 == pytest.approx(
        second["throttled_time"] - first["throttled_time"], rel=0.1)


def test_a_zombies_waits_are_counted_once(collector: Collector) -> None:
    """Shown while it lived and as an ended one's, all in all as often as it was switched out."""
    with cpu_cgroup(-1) as group:
        collector.tick()
        collector.tick()
        go, released = os.pipe()
        with open(go, "rb"), open(released, "wb") as release:
            pid = os.fork()
            if not pid:
                os.close(released)
                (group / "cgroup.procs").write_text("0")
                for _ in range(500):
                    time.sleep(0.0005)
                os.read(go, 1)
                os._exit(0)
            time.sleep(0.6)
            frames = [collector.tick()]
            release.close()
            time.sleep(0.1)
            frames += [collector.tick(), collector.tick()]  # a zombie meanwhile
            _, _, used = os.wait4(pid, 0)
            frames += [collector.tick(), collector.tick()]
    counted = [hist.count(g.runq) if g.runq else 0
               for f in frames for g in f.cgroups if g.path == f"/{group.name}"]
    assert sum(counted) == pytest.approx(used.ru_nvcsw + used.ru_nivcsw, abs=30), counted


def test_cpu_shares_against_the_known_load(collector: Collector) -> None:
    with child(spin, CPU):
        time.sleep(0.2)
        frame = busy_window(collector, 1.5)
    cpu = frame.cpus[CPU]
    assert cpu.user_pct is not None and cpu.idle_pct is not None
    assert cpu.user_pct > 70 and cpu.idle_pct < 20
