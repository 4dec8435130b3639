"""Stacks on this kernel against programs whose functions and times are known."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ktop.bpf.stacks_layer import HZ
from ktop.bpf.symbols import Kernel, Maps
from ktop.collect.main import Collector, Options
from ktop.collect.stacks_symbols import KERNEL, Symbols, settle
from ktop.model import Frame, Stacks
from ktop.wire import Profile
from tests.livekit import left_of, programs_of

pytestmark = pytest.mark.live
SECOND = 1_000_000_000
SOURCE = r"""
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#define NI __attribute__((noinline))
/* libc keeps no frame pointers: its caller would be skipped */
static inline __attribute__((always_inline)) long raw(long n, long a, long b, long c, long d)
{
    long r;
    register long r10 asm("r10") = d;
    asm volatile("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10)
                 : "rcx", "r11", "memory");
    return r;
}
volatile unsigned long x;
NI void hot_loop(void) { for (unsigned long i = 0; i < 9000000; i++) x += i; }
NI void cold_loop(void) { for (unsigned long i = 0; i < 200000; i++) x += i; }
NI void burn(void) { hot_loop(); cold_loop(); }
NI void known_sleep(long ms)
{
    struct timespec t = {ms / 1000, ms % 1000 * 1000000};
    raw(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, (long)&t, 0);
}
NI void known_read(int fd) { char c; raw(SYS_read, fd, (long)&c, 1, 0); }
static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}
/* a JIT: code in anonymous memory, named in /tmp/perf-PID.map alone */
NI void jit(void)
{
    unsigned char code[] = {0x55, 0x48, 0x89, 0xe5, 0xb9, 0, 0, 0, 4,  /* push rbp; mov; mov ecx */
                            0xff, 0xc9, 0x75, 0xfc, 0x5d, 0xc3};       /* dec; jnz; pop; ret */
    char path[64];
    void *p = mmap(0, 4096, 7, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(p, code, sizeof code);
    snprintf(path, sizeof path, "/tmp/perf-%d.map", getpid());
    FILE *f = fopen(path, "w");
    fprintf(f, "%lx %x jitted;evil\033[31m\n", (unsigned long)p, 4096);
    fclose(f);
    for (;;) ((void (*)(void))p)();
}
int main(int argc, char **argv)
{
    int pipes[2], n = 0;
    double total = 0;
    if (!strcmp(argv[1], "jit")) jit();
    if (!strcmp(argv[1], "burn")) for (;;) burn();
    if (!strcmp(argv[1], "fork"))
        for (;;) {
            pid_t child = fork();
            if (!child) { for (int i = 0; i < 12; i++) burn(); _exit(0); }
            waitpid(child, 0, 0);
        }
    if (!strcmp(argv[1], "read")) { n = pipe(pipes); for (;;) known_read(pipes[0]); }
    if (!strcmp(argv[1], "sleep"))  /* until told to stop: how often, and how long it took */
        for (fcntl(0, F_SETFL, O_NONBLOCK); ; n++) {
            char c;
            if (read(0, &c, 1) != -1) break;
            double before = now();
            known_sleep(20);
            total += now() - before;
        }
    printf("%d %.6f\n", n, total);
    return 0;
}
"""


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("no gcc to build the program with known functions")
    directory = tmp_path_factory.mktemp("stacks")
    (directory / "known.c").write_text(SOURCE)
    subprocess.run(["gcc", "-O0", "-fno-omit-frame-pointer", "-o", "known", "known.c"],
                   cwd=directory, check=True)
    return directory / "known"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    one = Collector(Options())
    one.start()
    one.tick()
    one.settle()
    try:
        yield one
    finally:
        one.close()


@contextlib.contextmanager
def running(binary: Path, *args: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([str(binary), *args], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def begin(collector: Collector, **wish: object) -> None:
    """Ask, and wait until the programs are attached."""
    collector.profile(Profile(**wish))  # type: ignore[arg-type]
    for _ in range(400):
        stacks = collector.tick().stacks
        assert stacks is not None and stacks.state in ("loading", "running"), stacks
        if stacks.state == "running":
            return
        time.sleep(0.05)
    raise TimeoutError("stacks are never loaded")


def finish(collector: Collector, at_end: Callable[[], int] = int) -> tuple[Stacks, Frame]:
    """Wait for the end and the last name; `at_end` is called when it has just ended."""
    called = False
    for _ in range(400):
        time.sleep(0.02)
        collector.drain()
        frame = collector.tick()
        stacks = frame.stacks
        assert stacks is not None and stacks.state in ("running", "ended"), stacks
        if stacks.state == "ended" and not called:
            called = True
            at_end()
        if stacks.state == "ended" and not stacks.naming:
            return stacks, frame
    raise TimeoutError("stacks never end")


def ns_of(stacks: Stacks, kind: str, name: str | None = None, state: str | None = None) -> int:
    """Time in stacks with this function in them."""
    return sum(s.ns for s in stacks.stacks if s.kind == kind and state in (None, s.state)
               and (name is None or name in [stacks.names[at] for at in s.names]))


def cpu_ns(pid: int) -> int:
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])


def maps_held() -> set[int]:
    """Ids of the BPF maps that we hold."""
    found = set()
    for entry in os.scandir("/proc/self/fdinfo"):
        with contextlib.suppress(OSError):
            found |= {int(line.split()[1]) for line in Path(entry.path).read_text().splitlines()
                      if line.startswith("map_id:")}
    return found


def expected(used_ns: int, elapsed_ns: int) -> object:
    """Samples of so much CPU time: within 15%, and where the machine is shared within the chance
    that a sample meets it."""
    share = min(1.0, used_ns / elapsed_ns)
    deviation = math.sqrt(HZ * elapsed_ns / SECOND * share * (1 - share))
    return pytest.approx(HZ * used_ns / SECOND, rel=0.15, abs=4 + 2.5 * deviation)


def runnable_ns(pid: int) -> int:
    """Time on a CPU and waiting for one."""
    return sum(map(int, Path(f"/proc/{pid}/schedstat").read_text().split()[:2]))


def test_samples_are_49_hz_of_cpu_time_and_in_the_hot_function(
        binary: Path, collector: Collector) -> None:
    with running(binary, "burn") as hot, running(binary, "burn") as other:
        begin(collector, pids=[hot.pid], kinds=["cpu"], seconds=4)
        used = [cpu_ns(hot.pid)]
        stacks, _ = finish(collector, lambda: used.append(cpu_ns(hot.pid)) or 0)
        assert other.poll() is None
    assert {s.pid for s in stacks.stacks} == {hot.pid}  # nothing of anybody else
    samples = sum(s.samples for s in stacks.stacks)
    assert samples == expected(used[1] - used[0], stacks.elapsed_ns)
    assert ns_of(stacks, "cpu", "hot_loop") >= 0.9 * ns_of(stacks, "cpu")
    for stack in stacks.stacks:
        names = [stacks.names[at] for at in stack.names]
        if "hot_loop" in names and not any(n.endswith("_[k]") for n in names):
            assert names[-3:] == ["main", "burn", "hot_loop"]
    assert stacks.lost_traces == stacks.lost_sums == stacks.lost_threads == 0
    assert stacks.cpu_pct is not None and stacks.cpu_pct < 2 and stacks.event_ns["cpu"] > 0
    assert not stacks.notes


def test_blocked_time_is_the_sleeps_and_the_accounts(binary: Path, collector: Collector) -> None:
    """Against the program's own clock and the scheduler layer's account of it."""
    with running(binary, "sleep") as sleeper:
        assert sleeper.stdin and sleeper.stdout
        time.sleep(0.2)
        begin(collector, pids=[sleeper.pid], kinds=["off"], seconds=60)
        collector.tick()
        account = 0.0
        for _ in range(12):
            time.sleep(0.25)
            frame = collector.tick()
            row = next(p for p in frame.processes.rows if p.pid == sleeper.pid)
            assert row.off_cpu_pct is not None and frame.clock.interval_ns is not None
            account += sum(row.off_cpu_pct.values()) / 100 * frame.clock.interval_ns
        assert frame.stacks is not None
        elapsed, taken = frame.stacks.elapsed_ns, ns_of(frame.stacks, "off")
        collector.profile(Profile(seconds=0))
        stacks, _ = finish(collector)
        sleeper.stdin.write(b"x")
        sleeper.stdin.close()
        count, slept = sleeper.stdout.read().split()
    mine = [s for s in stacks.stacks if s.kind == "off"]
    assert {s.pid for s in mine} == {sleeper.pid} and {s.state for s in mine} == {"S"}
    # its sleeps took slept/count each, wakeup to running included: ours is no more than that
    mean = float(slept) / int(count) * SECOND
    known = [s for s in mine if "known_sleep" in [stacks.names[at] for at in s.names]]
    samples, ns = sum(s.samples for s in known), sum(s.ns for s in known)
    assert samples > 80
    assert 20e6 * 0.95 < ns / samples < mean * 1.05
    assert ns_of(stacks, "off", "known_sleep") >= 0.95 * ns_of(stacks, "off")
    assert taken == pytest.approx(account, rel=0.05, abs=0.3 * SECOND)  # it began a moment earlier
    assert taken < elapsed
    assert ns_of(stacks, "off", "hrtimer_nanosleep_[k]") == ns_of(stacks, "off")


def test_what_was_blocked_before_and_still_is_counts(binary: Path, collector: Collector) -> None:
    with running(binary, "read") as reader:
        time.sleep(0.2)
        begin(collector, pids=[reader.pid], seconds=2)
        stacks, _ = finish(collector)
    assert ns_of(stacks, "off") == pytest.approx(stacks.elapsed_ns, rel=0.05)
    assert ns_of(stacks, "off", "[user stack not seen]") == ns_of(stacks, "off")
    assert any("pipe_read" in name for name in stacks.names)
    assert ns_of(stacks, "cpu") == 0


def test_waiting_for_a_cpu_is_not_blocked_time(binary: Path, collector: Collector) -> None:
    """Three that never sleep on one CPU: each waits two thirds of the time, and none blocks."""
    with contextlib.ExitStack() as stack:
        burners = [stack.enter_context(running(binary, "burn")) for _ in range(3)]
        for burner in burners:
            os.sched_setaffinity(burner.pid, {0})
        begin(collector, pids=[b.pid for b in burners], seconds=2)
        stacks, _ = finish(collector)
    assert ns_of(stacks, "cpu") > 0
    assert ns_of(stacks, "off") < 0.02 * SECOND


def test_children_born_later_belong_to_it(binary: Path, collector: Collector) -> None:
    with running(binary, "fork") as parent:
        begin(collector, pids=[parent.pid], children=True, seconds=3)
        stacks, _ = finish(collector)
        with_children = {s.pid for s in stacks.stacks}
        hot = ns_of(stacks, "cpu", "hot_loop")
        assert len(with_children) > 2 and parent.pid in with_children
        assert hot > 0.5 * ns_of(stacks, "cpu")  # named while they lived
        begin(collector, pids=[parent.pid], seconds=1)
        stacks, _ = finish(collector)
        assert {s.pid for s in stacks.stacks} == {parent.pid}


def test_control_group_with_those_below_it(binary: Path, collector: Collector) -> None:
    root = next((p for p in map(Path, ("/sys/fs/cgroup/cpu", "/sys/fs/cgroup"))
                 if (p / "cgroup.procs").exists()), None)
    if root is None:
        pytest.skip("no cgroup hierarchy here")
    above, below = root / "ktop-stacks", root / "ktop-stacks" / "below"
    try:
        above.mkdir()
        with running(binary, "burn") as mine, running(binary, "burn") as outside:
            (above / "cgroup.procs").write_text(str(mine.pid))
            collector.tick()
            begin(collector, cgroups=[above.stat().st_ino], kinds=["cpu"], seconds=4)
            below.mkdir()  # after the start
            with running(binary, "burn") as later:
                (below / "cgroup.procs").write_text(str(later.pid))
                stacks, _ = finish(collector)
                assert {s.pid for s in stacks.stacks} == {mine.pid, later.pid}
                assert outside.poll() is None
    finally:
        for directory in (below, above):
            for _ in range(50):
                try:
                    directory.rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.05)


def test_nothing_is_loaded_before_nor_left_after(binary: Path) -> None:
    collector = Collector(Options())
    collector.start()
    try:
        frame = collector.tick()
        collector.settle()
        before = programs_of(os.getpid())
        assert frame.stacks is None
        assert not any(p.layer == "stacks" for p in collector.tick().health.probes)
        maps = maps_held()
        with running(binary, "burn") as hot:
            begin(collector, pids=[hot.pid], seconds=30)
            ours = programs_of(os.getpid()) - before
            during = maps_held() - maps
            assert len(ours) == 4
            statuses = {p.name: p.status for p in collector.tick().health.probes
                        if p.layer == "stacks"}
            assert statuses == dict.fromkeys(
                ("stacks_profile", "stacks_switch", "stacks_fork", "stacks_blocked"), "live")
            collector.watch(["processes"])  # another pane: ours stay attached
            assert {p.status for p in collector.tick().health.probes
                    if p.layer == "stacks"} == {"live"}
            time.sleep(0.5)  # samples come every 20 ms
            collector.profile(Profile(seconds=0))
            stacks, frame = finish(collector)
        assert left_of(ours) == set()
        assert not any(p.layer == "stacks" for p in frame.health.probes)
        assert len(during) >= 8 and not during & maps_held()
        assert stacks.stacks and collector.tick().stacks is not None  # the result stays
        collector.profile(Profile(seconds=0))
        assert collector.tick().stacks is None  # until it is forgotten
    finally:
        collector.close()


def test_a_collector_that_closes_in_the_middle_leaves_nothing(binary: Path) -> None:
    collector = Collector(Options())
    collector.start()
    try:
        collector.tick()
        collector.settle()
        before = programs_of(os.getpid())
        begin(collector, seconds=30)
        ours = programs_of(os.getpid()) - before
        assert len(ours) == 4
    finally:
        collector.close()
    assert left_of(ours) == set()


def test_a_jits_map_is_read_and_its_names_are_tamed(binary: Path, collector: Collector) -> None:
    with running(binary, "jit") as jit:
        try:
            time.sleep(0.2)
            begin(collector, pids=[jit.pid], kinds=["cpu"], seconds=2)
            stacks, _ = finish(collector)
        finally:
            Path(f"/tmp/perf-{jit.pid}.map").unlink(missing_ok=True)
    assert ns_of(stacks, "cpu", "jitted;evil\\e[31m") > 0.9 * ns_of(stacks, "cpu")


def test_a_fifo_for_a_map_costs_names_and_nothing_else(
        binary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening it would hang for ever: the child is given up, others keep their names."""
    monkeypatch.setattr("ktop.collect.stacks_symbols.PATIENCE_S", 6.0)
    symbols = Symbols()
    with running(binary, "burn") as trap, running(binary, "burn") as other:
        fifo = Path(f"/tmp/perf-{trap.pid}.map")
        os.mkfifo(fifo)
        try:
            hot = {p.pid: _address(binary, p.pid, "hot_loop") for p in (trap, other)}
            symbols.ask(trap.pid, [1])  # in no module: the map is looked into
            symbols.ask(trap.pid, [hot[trap.pid]])
            symbols.ask(other.pid, [hot[other.pid]])
            settle(symbols, 60)
            assert symbols.name(other.pid, hot[other.pid]) == "hot_loop"
            assert symbols.name(trap.pid, 1) == "[unknown]"
        finally:
            fifo.unlink()
            symbols.close()


def _address(binary: Path, pid: int, name: str) -> int:
    """Of a function in a running process: nm's figure plus where the file is mapped."""
    found = next(int(line.split()[0], 16) for line in subprocess.run(
        ["nm", str(binary)], capture_output=True, text=True, check=True).stdout.splitlines()
        if line.split()[-1] == name)
    base = next(int(line.split("-")[0], 16) for line in Path(f"/proc/{pid}/maps").read_text()
                .splitlines() if line.endswith(str(binary)))
    return base + found


def test_user_symbols_are_those_of_nm(binary: Path) -> None:
    names = ["hot_loop", "cold_loop", "burn", "known_sleep", "main"]
    symbols = Symbols()
    with running(binary, "burn") as process:
        time.sleep(0.1)
        at = {name: _address(binary, process.pid, name) for name in names}
        symbols.ask(process.pid, [a + 4 for a in at.values()])
        settle(symbols)
        assert {n: symbols.name(process.pid, a + 4) for n, a in at.items()} == {
            n: n for n in names}
        assert Maps(process.pid).name(at["main"]).startswith("known+0x")  # without libbcc
    symbols.close()


def test_kernel_symbols_are_those_of_kallsyms() -> None:
    wanted = {"vfs_read", "schedule_timeout", "do_sys_openat2", "wake_up_process"}
    at = {}
    for line in Path("/proc/kallsyms").read_text().splitlines():
        address, _, name = line.split(None, 2)
        if name in wanted:
            at[name] = int(address, 16)
    if not any(at.values()):
        pytest.skip("kptr_restrict hides kernel addresses here")
    symbols = Symbols()
    symbols.ask(KERNEL, [a + 5 for a in at.values()])
    settle(symbols)
    assert {n: symbols.name(KERNEL, a + 5) for n, a in at.items()} == {
        n: f"{n}_[k]" for n in at}
    symbols.close()


def test_hidden_kernel_addresses_are_said_to_be(tmp_path: Path) -> None:
    hidden = tmp_path / "kallsyms"
    hidden.write_text("0000000000000000 T vfs_read\n0000000000000000 t ext4_x\t[ext4]\n")
    kernel = Kernel(str(hidden))
    assert kernel.name(0xffffffff81000000) == "[unknown]"
    assert "CAP_SYSLOG" in kernel.note
    hidden.write_text("0000000000000100 T a_global\n0000000000000100 t a_local\n"
                      "0000000000000200 t ext4_x\t[ext4]\n0000000000000180 D data\n")
    kernel = Kernel(str(hidden))
    assert [kernel.name(a) for a in (0x101, 0x1ff, 0x200, 0xff, 0x40000)] == [
        "a_global", "a_global", "ext4_x [ext4]", "[unknown]", "[unknown]"]


def test_tables_that_fill_up_are_emptied_on_the_way(
        binary: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if they were full after a few stacks: what rests goes on in the collector, uncounted
    twice and lost never."""
    monkeypatch.setattr("ktop.collect.stacks_table.TRACES", 4)
    monkeypatch.setattr("ktop.collect.stacks_table.SUMS", 4)
    with running(binary, "burn") as hot, running(binary, "sleep") as sleeper:
        begin(collector, pids=[hot.pid, sleeper.pid], seconds=3)
        used, runnable = [cpu_ns(hot.pid)], [runnable_ns(sleeper.pid)]

        def ended() -> int:
            used.append(cpu_ns(hot.pid))
            runnable.append(runnable_ns(sleeper.pid))
            return 0

        stacks, _ = finish(collector, ended)
    samples = sum(s.samples for s in stacks.stacks if s.kind == "cpu" and s.pid == hot.pid)
    assert samples == expected(used[1] - used[0], stacks.elapsed_ns)
    slept = sum(s.ns for s in stacks.stacks if s.kind == "off" and s.pid == sleeper.pid)
    # what it neither ran nor waited for a CPU, it slept
    assert slept == pytest.approx(stacks.elapsed_ns - runnable[1] + runnable[0], rel=0.05,
                                  abs=0.1 * SECOND)
