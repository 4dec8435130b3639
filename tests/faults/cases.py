"""The faults of the README's table, and what is busy but healthy. Each builds itself on a stage."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.faults.stage import Stage, run

ADDRESS = "10.78.0.2"


@dataclass
class Scene:
    """A case under way. scope: the control group to judge. culprit: the control group that must
    hold the first culprit. resource: what the verdict's resource must contain."""

    scope: str
    culprit: str = ""
    resource: str = ""


@dataclass(frozen=True)
class Case:
    """expect: pipes of which any is right, a finding's kind, or nothing for a healthy case.

    light: needs little CPU, so it may have its share of it first: other work on the machine shall
    not be what it waits for.
    """

    name: str
    build: Callable[[Stage], Scene]
    expect: tuple[str, ...] = ()
    finding: str = ""
    within_s: float = 12.0
    light: bool = True


def cpu_neighbour(s: Stage) -> Scene:
    quiet, loud = s.group("quiet"), s.group("loud")
    s.start("pulse", s.random.uniform(5, 20), s.random.uniform(2, 10), group=quiet)
    s.start("spin", 1, group=quiet)
    s.start("spin", (os.cpu_count() or 1) * s.random.randint(2, 4), group=loud)
    return Scene(s.base, culprit=loud)


def quota(s: Stage) -> Scene:
    group = s.group("small", cpu_cfs_quota_us=str(s.random.randint(15, 50) * 1000))
    s.start("pulse", s.random.uniform(30, 90), s.random.uniform(5, 20), group=group)
    s.start("pulse", s.random.uniform(30, 90), s.random.uniform(5, 20), group=group)
    return Scene(group, culprit=group, resource=group)


def fork_loop(s: Stage) -> Scene:
    group = s.group("forks")
    s.start("forks", s.random.uniform(5, 40), group=group)
    return Scene(group, culprit=group)


def busy_disk(s: Stage) -> Scene:
    loud, quiet = s.group("loud"), s.group("quiet")
    s.start("writers", "big", s.random.randint(8, 24), s.random.choice((65536, 262144)),
            group=loud, ready=True)
    s.start("committer", "log", s.random.choice((0, 50)), group=quiet)
    return Scene(s.base, culprit=loud)


def _throttled(s: Stage, what: str, limit: int) -> str:
    group = s.group("throttled")
    Path(f"{s.root('blkio')}{group}/blkio.throttle.{what}").write_text(f"{s.device()} {limit}")
    return group


def iops_limit(s: Stage) -> Scene:
    group = s.group("throttled")
    s.start("readers", "data", s.random.randint(1, 4), 4096, group=group, ready=True)
    _throttled(s, "read_iops_device", s.random.randint(40, 300))
    return Scene(group, culprit=group)


def bytes_limit(s: Stage) -> Scene:
    group = s.group("throttled")
    s.start("readers", "data", s.random.randint(1, 3), 1 << 20, group=group, ready=True)
    _throttled(s, "read_bps_device", s.random.randint(5, 30) << 20)
    return Scene(group, culprit=group)


def fsync_bound(s: Stage) -> Scene:
    group = s.group("db")
    s.start("committer", "log", 0, group=group)
    return Scene(group, culprit=group)


def _pair(s: Stage) -> tuple[str, str, str, int]:
    a, b = s.namespaces()
    return a, b, s.group("net"), s.random.randint(2000, 60000)


def loss(s: Stage) -> Scene:
    a, b, group, port = _pair(s)
    s.start("sink", port, netns=b, ready=True)
    probability = s.random.uniform(0.05, 0.2)
    run(f"ip netns exec {b} iptables -A INPUT -p tcp -m statistic --mode random "
        f"--probability {probability:.3f} -j DROP")
    s.start("pour", ADDRESS, port, s.random.randint(1, 4), s.random.uniform(1, 20), group=group,
            netns=a)
    return Scene(group, resource=ADDRESS)


def narrow_link(s: Stage) -> Scene:
    a, b, group, port = _pair(s)
    s.start("sink", port, netns=b, ready=True)
    run(f"ip netns exec {a} tc qdisc add dev ktf0 root tbf rate {s.random.randint(5, 30)}mbit "
        "burst 32kbit latency 400ms")
    s.start("pour", ADDRESS, port, s.random.randint(1, 3), 0, group=group, netns=a)
    return Scene(group, resource=ADDRESS)


def zero_window(s: Stage) -> Scene:
    a, b, group, port = _pair(s)
    server = s.group("deaf")
    s.start("deaf", port, netns=b, ready=True, group=server)
    s.start("pour", ADDRESS, port, s.random.randint(1, 4), 1, group=group, netns=a)
    return Scene(group, culprit=server, resource=ADDRESS)


def full_backlog(s: Stage) -> Scene:
    a, b, group, port = _pair(s)
    s.start("absent_minded", port, s.random.randint(1, 8), netns=b, ready=True, group=group)
    s.start("connect", ADDRESS, port, s.random.randint(4, 15), 3, 1, netns=a)
    return Scene(group, culprit=group, resource=str(port))


def refused(s: Stage) -> Scene:
    a, _, group, port = _pair(s)
    s.start("connect", ADDRESS, port, s.random.randint(2, 20), 2, group=group, netns=a)
    return Scene(group, resource=f"{ADDRESS}:{port}")


def timing_out(s: Stage) -> Scene:
    a, _, group, port = _pair(s)
    s.start("connect", "10.78.0.77", port, s.random.randint(1, 5), s.random.choice((2, 30)),
            group=group, netns=a)
    return Scene(group, resource="10.78.0.77")


def conntrack(s: Stage) -> Scene:
    a, _ = s.namespaces()
    group = s.group("net")
    limit = "/proc/sys/net/netfilter/nf_conntrack_max"
    before = Path(limit).read_text().strip()
    s.undo(f"sysctl -qw net.netfilter.nf_conntrack_max={before}")
    run(f"ip netns exec {a} iptables -A OUTPUT -m conntrack --ctstate NEW -j ACCEPT")
    Path(limit).write_text(str(s.random.randint(32, 200)))
    s.start("datagrams", ADDRESS, s.random.randint(50, 300), group=group, netns=a)
    return Scene(group, resource="conntrack")


def firewall(s: Stage) -> Scene:
    a, b, group, port = _pair(s)
    s.start("sink", port, netns=b, ready=True)
    run(f"ip netns exec {b} iptables -A INPUT -p tcp --dport {port} -j DROP")
    s.start("connect", ADDRESS, port, s.random.randint(1, 8), s.random.choice((1, 30)),
            group=group, netns=a)
    return Scene(group)


def futex(s: Stage) -> Scene:
    group = s.group("threads")
    s.start("mutex", s.random.randint(3, 12), s.random.choice((50, 300, 2000)), group=group)
    return Scene(group, culprit=group)


def semaphore(s: Stage) -> Scene:
    group = s.group("threads")
    s.start("semaphore", s.random.randint(4, 10), s.random.choice((1, 5)), group=group)
    return Scene(group, culprit=group)


def slow_upstream(s: Stage) -> Scene:
    a, b, group, port = _pair(s)
    s.start("answer", port, s.random.choice((100, 200, 500)), netns=b, ready=True)
    s.start("ask", ADDRESS, port, s.random.randint(2, 8), s.random.choice((0, 20)), 50,
            group=group, netns=a)
    return Scene(group, resource=f"{ADDRESS}:{port}")


def memory_limit(s: Stage) -> Scene:
    limit = s.random.randint(40, 80) << 20
    group = s.group("tight", memory_limit_in_bytes=str(limit))
    s.start("thrash", "map", int(limit * s.random.uniform(2, 4)) >> 20 << 20, group=group,
            ready=True)
    return Scene(group, culprit=group, resource=group)


def missing_files(s: Stage) -> Scene:
    group = s.group("app")
    s.start("missing", s.random.randint(50, 800), group=group)
    return Scene(group, culprit=group)


def descriptors(s: Stage) -> Scene:
    group = s.group("app")
    s.start("leak", s.random.uniform(1, 8), group=group)
    return Scene(group, culprit=group)


def slow_mount(s: Stage) -> Scene:
    group = s.group("app")
    where = s.directory / "mount"
    where.mkdir()
    s.undo(f"umount -l {where}")
    server = Path(__file__).parent.parent / "fuse_slow.py"
    s.command([sys.executable, "-I", str(server), str(where), str(s.random.randint(30, 300))])
    s.start("slow_reads", where / "slow", group=group)
    s.start("slow_reads", where / "slow", group=group)
    return Scene(group)


def lock_convoy(s: Stage) -> Scene:
    group = s.group("jobs")
    s.start("convoy", "lock", s.random.randint(3, 12), s.random.choice((1, 20, 200)), group=group)
    return Scene(group, culprit=group)


# -- busy but healthy ------------------------------------------------------------------------------


def idle(s: Stage) -> Scene:
    return Scene(s.group("idle"))


def one_per_cpu(s: Stage) -> Scene:
    group = s.group("work")
    s.start("spin", os.cpu_count(), group=group)
    return Scene(group)


def web_server(s: Stage) -> Scene:
    group, port = s.group("web"), s.random.randint(2000, 60000)
    s.start("answer", port, 0, 2, group=group, ready=True)
    s.start("ask", "127.0.0.1", port, 6, 18, 50, group=group)  # 6 of 20 ms: a third of one CPU
    return Scene(group)


def database(s: Stage) -> Scene:
    group = s.group("db")
    s.start("committer", "log", s.random.randint(15, 30), group=group)
    s.start("readers", "data", 4, 8192, 25, group=group, ready=True)
    return Scene(group)


def copy(s: Stage) -> Scene:
    group = s.group("copy")
    s.start("copier", "big", 512 << 20, group=group, ready=True)
    return Scene(group)


def compile_(s: Stage) -> Scene:
    group = s.group("build")
    s.start("build", os.cpu_count(), group=group)
    return Scene(group)


def keep_alives(s: Stage) -> Scene:
    group, port = s.group("web"), s.random.randint(2000, 60000)
    s.start("answer", port, 0, group=group, ready=True)
    s.start("ask", "127.0.0.1", port, 1, 200, 900, group=group)
    return Scene(group)


def page_cache(s: Stage) -> Scene:
    group = s.group("read")
    s.start("cached", "file", group=group, ready=True)
    return Scene(group)


CASES = (
    Case("cpu neighbour", cpu_neighbour, ("cpu",), light=False), Case("quota", quota, ("quota",)),
    Case("fork loop", fork_loop, finding="forks"), Case("busy disk", busy_disk, ("block",)),
    Case("iops limit", iops_limit, ("block",)), Case("bytes limit", bytes_limit, ("block",)),
    Case("fsync bound", fsync_bound, ("file", "block")), Case("loss", loss, ("tcp",)),
    Case("narrow link", narrow_link, ("tcp",)), Case("zero window", zero_window, ("tcp",)),
    Case("full backlog", full_backlog, ("tcp",)), Case("refused", refused, ("tcp",)),
    Case("timing out", timing_out, ("tcp",)), Case("conntrack", conntrack, ("tcp",)),
    Case("firewall", firewall, ("tcp",)), Case("futex", futex, ("lock",)),
    Case("semaphore", semaphore, ("lock",)),
    Case("slow upstream", slow_upstream, ("upstream",)),
    Case("memory limit", memory_limit, ("memory",)),
    Case("missing files", missing_files, finding="missing files"),
    Case("descriptors", descriptors, finding="descriptors", within_s=45.0),
    Case("slow mount", slow_mount, ("file",)), Case("lock convoy", lock_convoy, ("file",)),
    Case("idle", idle), Case("one per cpu", one_per_cpu, light=False),
    Case("web server", web_server), Case("database", database), Case("copy", copy),
    Case("compile", compile_, light=False), Case("keep-alives", keep_alives),
    Case("page cache", page_cache),
)
