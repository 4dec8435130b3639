"""Every reader of /proc and /sys in the collector, with each lie: unknown or absent, never a crash.

tests/fuzz/lies.py has the lies.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import psutil
import pytest

from ktop.bpf import attach, symbols, syscall
from ktop.collect import (
    block_disks,
    cgroups,
    detail,
    files_cache,
    files_fds,
    files_mounts,
    host,
    pressure,
    processes,
    stacks_table,
    tcp_drops,
    tcp_netns,
)
from ktop.collect.main import Collector, Options
from ktop.collect.memory import memory
from ktop.model import Cgroup, Frame, Process
from ktop.scope import MOST_ENDED, Roster, Scope
from ktop.wire import decode_body, encode_body
from tests.frames import make_frame
from tests.fuzz.lies import HOWS, Liar
from tests.ptyshell import until

ME = os.getpid()
NAMES = os.listdir("/sys/class/block")[:8]
SECOND = 1_000_000_000


def _frame() -> Frame:
    """One whose first process is this one, waiting for disk and memory."""
    frame = make_frame(2)
    row = frame.processes.rows[0]
    row.pid, row.kernel_thread = ME, False
    row.waits_pct = {"memory": 50.0, "disk": 50.0, "reclaim": 10.0, "fsync": 10.0}
    row.major_faults_per_s = 3.0
    return frame


def twice(step: Callable[[int], object]) -> None:
    """Two ticks: rates are made of both."""
    for tick in (1, 2):
        step(tick * SECOND)


def _host() -> None:
    clocks = host.Clocks()
    clocks.tick()
    assert host.host(clocks, memory().info, 0).uptime_ns > 0
    cpus, stat = host.CpuTimes(), host.StatRates()
    twice(lambda now: (cpus.rows(), stat.read(SECOND)))


def _pressure() -> None:
    layer = pressure.PressureLayer()
    rows = _frame().processes.rows
    twice(lambda now: layer.update(rows, now, SECOND, memory()))
    roots = dict.fromkeys(("memory", "blkio", "unified"), "/sys/fs/cgroup")
    for kinds in (("memory", "blkio"), ("unified",)):
        layer = pressure.PressureLayer()
        layer._roots = {kind: roots[kind] for kind in kinds}
        twice(lambda now, layer=layer: layer.update(rows, now, SECOND, memory()))  # type: ignore[misc]
        layer._group(pressure.MemoryGroup("/"), SECOND)
        pressure.io_limits("/sys/fs/cgroup", "blkio" in kinds)


def _disks() -> None:
    disks = block_disks.Disks()
    twice(lambda now: disks.rows(now, SECOND))
    for name in NAMES:
        block_disks.look(name)


def _cgroups() -> None:
    found = cgroups.find_hierarchy()
    for hierarchy in (found, cgroups.Hierarchy("/sys/fs/cgroup", True),
                      cgroups.Hierarchy("/sys/fs/cgroup", False)):
        if hierarchy is None or not os.path.isdir(hierarchy.root):
            continue
        groups = cgroups.Cgroups(None)
        groups.hierarchy = hierarchy
        groups._fd = os.open("/", os.O_PATH | os.O_CLOEXEC)
        known = cgroups._Known("/sys/fs/cgroup")  # `/` leads there, whatever is mounted where
        for name in ("cpu.max", "cpu.stat", "cpu.cfs_quota_us", "cpu.cfs_period_us"):
            groups._read(known, name)
        groups._quota(known), groups._stat(known)
        groups.path(10**9, 10**15)  # nobody's: the whole hierarchy is looked through
        groups._ancestors(1, 10**15)
        groups.close()


def _detail() -> None:
    reader = detail.DetailReader({})
    try:
        reader.ask(ME)
        twice(lambda now: reader.update(_frame()))
    finally:
        reader.close()


def _files() -> None:
    files_cache.page_cache(memory().vmstat)
    files_fds.host_descriptors()
    files_fds.count_in_proc(ME)
    files_fds.from_proc([Process(ME, 1, 0, "me", None, None, "R", 1, 0, False)], SECOND)
    mounts = files_mounts.Mountinfo()
    mounts.changes(SECOND)
    mounts.by_device()
    mounts.close()


def _networks() -> None:
    rates = tcp_netns.Rates()
    found = tcp_netns.Namespaces()
    rows = _frame().processes.rows
    for _ in range(2):
        found.discover(rows, SECOND)
        row = found.row(found.own, lambda pid: None)
        rates.namespace(row, tcp_netns.read_counters(), SECOND)
        for name, totals in tcp_netns.read_interfaces().items():
            rates.interface(found.own, name, totals, SECOND)
        rates.turn()
    found.close()
    tcp_netns.conntrack_stat((tcp_netns.read_text("/proc/stat") + "\n") * 2)
    tcp_netns.named_pairs(tcp_netns.read_text("/proc/net/snmp"), "Ip", ("InReceives",))


def _names() -> None:
    drops = tcp_drops.Symbols()
    drops._read()
    drops.name(1 << 63)
    symbols.Kernel().name(1 << 63)
    symbols.Maps(ME).name(1 << 40)


def _threads() -> None:
    processes.read_cmdline(ME)
    stacks_table._run_delay(ME)


def _attaching() -> None:
    """What cannot be read cannot be attached: an OSError, which is the probe's reason."""
    for event in ("sched/sched_switch", "syscalls/sys_exit_execve"):
        try:
            with open(f"{attach.TRACEFS}/events/{event}/id", encoding="ascii") as f:
                int(f.read())
        except (OSError, ValueError):
            with pytest.raises(OSError):
                syscall.attach_tracepoint(-1, attach.TRACEFS, event)
    for step in (syscall.online_cpus, syscall.possible_cpus.__wrapped__):
        try:
            assert step()
        except OSError as err:
            assert str(err)


def _whole() -> None:
    """A collector without BPF from start to end."""
    collector = Collector(Options(bpf=False))
    collector.start()
    try:
        collector.look_at(ME)
        for _ in range(2):
            decode_body(encode_body(collector.tick()))
    finally:
        collector.close()


READERS: dict[str, Callable[[], None]] = {
    "host": _host, "pressure": _pressure, "disks": _disks, "cgroups": _cgroups, "detail": _detail,
    "files": _files, "networks": _networks, "names": _names, "threads": _threads,
    "attaching": _attaching, "whole": _whole}


@pytest.fixture
def liar(how: str) -> Iterator[Liar]:
    found = Liar(how)
    yield found
    found.close()


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("reader", READERS)
def test_what_vanishes_or_lies_is_unknown(liar: Liar, reader: str,
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(psutil, "pids", lambda: [1, 2, ME])  # however crowded the host is
        liar.put(patch)
        READERS[reader]()
    assert liar.told




def test_names_of_users_that_come_and_go_for_days_are_forgotten() -> None:
    asked: list[int] = []
    lookups = host.Lookups(lambda uid: (asked.append(uid), f"user {uid}")[1])
    try:
        for day in range(5):
            mine = range(day * 3_000, (day + 1) * 3_000)
            lookups.names(mine)
            until(lambda mine=mine: len(lookups.names(mine)) == 3_000, "all names")  # type: ignore[misc]
        assert lookups.names([14_999]) == {14_999: "user 14999"}
        assert len(lookups._names) <= 2 * host.MOST_NAMES
        assert len(lookups._asked) <= 2 * host.MOST_NAMES
    finally:
        lookups.close()


def test_control_groups_that_come_and_go_for_days_are_forgotten() -> None:
    roster = Roster(Scope(cgroup="/pods"))
    for day in range(4):
        frame = make_frame(day + 1)
        frame.cgroups = [Cgroup(1, "/pods", "pods"), *(
            Cgroup(n, f"/pods/p{n}", f"p{n}")
            for n in range(2 + day * MOST_ENDED // 2, 2 + (day + 1) * MOST_ENDED // 2))]
        groups = roster.members(frame).cgroups
        assert groups is not None and {group.id for group in frame.cgroups} <= groups
    assert len(roster._groups) <= MOST_ENDED
