"""The faults of the README's table. Each builds itself on a stage (tests/faults/stage.py)."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.faults.stage import Stage, run

ADDRESS = "10.78.0.2"
RELAYED, RELAY = "10.79.0.2", Path(__file__).parent.parent / "relay.py"
SLOW_MOUNT = Path(__file__).parent.parent / "fuse_slow.py"


@dataclass
class Scene:
    """A case under way. scope: the control group to judge. culprit: the control group that must
    hold the first culprit. resource: what the verdict's resource must contain."""

    scope: str
    culprit: str = ""
    resource: str = ""


@dataclass(frozen=True)
class Case:
    """expect: pipes any of which is right; finding: a kind that is right as well; neither: healthy.

    light: needs little CPU, so it may have its share of it first: other work on the machine shall
    not be what it waits for. both: all of `expect` are to be named, at the same time.
    """

    name: str
    build: Callable[[Stage], Scene]
    expect: tuple[str, ...] = ()
    finding: str = ""
    within_s: float = 12.0
    light: bool = True
    both: bool = False


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


def pair(s: Stage) -> tuple[str, str, str, int]:
    """Two network namespaces, a control group, a port."""
    a, b = s.namespaces()
    return a, b, s.group("net"), s.random.randint(2000, 60000)


def loss(s: Stage) -> Scene:
    a, b, group, port = pair(s)
    s.start("sink", port, netns=b, ready=True)
    probability = s.random.uniform(0.05, 0.2)
    run(f"ip netns exec {b} iptables -A INPUT -p tcp -m statistic --mode random "
        f"--probability {probability:.3f} -j DROP")
    s.start("pour", ADDRESS, port, s.random.randint(1, 4), s.random.uniform(1, 20), group=group,
            netns=a)
    return Scene(group, resource=ADDRESS)


def reordering(s: Stage) -> Scene:
    a, b, group, port = pair(s)
    s.command([sys.executable, "-I", str(RELAY), a, b, f"{s.random.uniform(0.05, 0.2):.3f}",
               str(s.random.randint(15, 40)), "5"])
    s.start("sink", port, netns=b, ready=True)
    s.start("pour", RELAYED, port, s.random.randint(1, 4), s.random.uniform(1, 10), group=group,
            netns=a)
    return Scene(group, resource=RELAYED)


def narrow_link(s: Stage) -> Scene:
    a, b, group, port = pair(s)
    s.start("sink", port, netns=b, ready=True)
    run(f"ip netns exec {a} tc qdisc add dev ktf0 root tbf rate {s.random.randint(5, 30)}mbit "
        "burst 32kbit latency 400ms")
    s.start("pour", ADDRESS, port, s.random.randint(1, 3), 0, group=group, netns=a)
    return Scene(group, resource=ADDRESS)


def zero_window(s: Stage) -> Scene:
    a, b, group, port = pair(s)
    server = s.group("deaf")
    s.start("deaf", port, netns=b, ready=True, group=server)
    s.start("pour", ADDRESS, port, s.random.randint(1, 4), 1, group=group, netns=a)
    return Scene(group, culprit=server, resource=ADDRESS)


def full_backlog(s: Stage) -> Scene:
    a, b, group, port = pair(s)
    s.start("absent_minded", port, s.random.randint(1, 8), netns=b, ready=True, group=group)
    s.start("connect", ADDRESS, port, s.random.randint(4, 15), 3, 1, netns=a)
    return Scene(group, culprit=group, resource=str(port))


def refused(s: Stage) -> Scene:
    a, _, group, port = pair(s)
    s.start("connect", ADDRESS, port, s.random.randint(2, 20), 2, group=group, netns=a)
    return Scene(group, resource=f"{ADDRESS}:{port}")


def timing_out(s: Stage) -> Scene:
    a, _, group, port = pair(s)
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
    a, b, group, port = pair(s)
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
    a, b, group, port = pair(s)
    s.start("answer", port, s.random.choice((100, 200, 500)), netns=b, ready=True,
            group=s.group("server"))
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
    s.command([sys.executable, "-I", str(SLOW_MOUNT), str(where), str(s.random.randint(30, 300))])
    s.start("slow_reads", where / "slow", group=group)
    s.start("slow_reads", where / "slow", group=group)
    return Scene(group)


def lock_convoy(s: Stage) -> Scene:
    group = s.group("jobs")
    s.start("convoy", "lock", s.random.randint(3, 12), s.random.choice((1, 20, 200)), group=group)
    return Scene(group, culprit=group)


def health_check(s: Stage) -> Scene:
    group = s.group("health")
    s.start("health_check", f"{s.random.uniform(0.1, 0.8):.2f}", group=group)
    return Scene(group, culprit=group)


def quota_bursts(s: Stage) -> Scene:
    """What a sidecar does every 15 s is done every few here: two bursts must be seen."""
    group = s.group("sidecar", cpu_cfs_quota_us="30000")
    s.start("bursts", s.random.uniform(4, 6), s.random.randint(4, 12), s.random.uniform(15, 25),
            group=group)
    return Scene(group, culprit=group)


def short_answers(s: Stage) -> Scene:
    a, b, group, port = pair(s)
    s.start("answer", port, f"{s.random.uniform(0.6, 3):.2f}", netns=b, ready=True,
            group=s.group("server"))
    s.start("queries", ADDRESS, port, s.random.randint(1, 3), s.random.randint(10, 30),
            s.random.uniform(0.5, 4), group=group, netns=a)
    return Scene(group, resource=f"{ADDRESS}:{port}")


def dirty_pages(s: Stage) -> Scene:
    group = s.group("dump")
    for name, size in (("dirty_background_bytes", 1 << 20), ("dirty_bytes", 4 << 20)):
        before = {kind: Path(f"/proc/sys/vm/{name.replace('bytes', kind)}").read_text().strip()
                  for kind in ("bytes", "ratio")}
        kind = "bytes" if before["bytes"] != "0" else "ratio"  # setting one makes the other 0
        s.undo(f"echo {before[kind]} > /proc/sys/vm/{name.replace('bytes', kind)}")
        Path(f"/proc/sys/vm/{name}").write_text(str(size * s.random.randint(1, 3)))
    for i in range(s.random.randint(1, 3)):
        s.start("dump", f"dump{i}", 256 << 20, group=group)
    return Scene(group, culprit=group)


def swap_in(s: Stage) -> Scene:
    number = Path("/sys/class/zram-control/hot_add").read_text().strip()
    s.undo(f"echo 1 > /sys/block/zram{number}/reset; "
           f"echo {number} > /sys/class/zram-control/hot_remove")
    Path(f"/sys/block/zram{number}/disksize").write_text(str(1 << 30))
    run(f"mkswap /dev/zram{number}")
    run(f"swapon /dev/zram{number}")
    s.undo(f"swapoff /dev/zram{number}")
    # below 80 MiB the kernel's reclaim now and then gives up, and kills the load instead
    limit = s.random.randint(80, 120) << 20
    group = s.group("tight", memory_limit_in_bytes=str(limit), memory_swappiness="100")
    for _ in range(s.random.randint(1, 2)):
        s.start("anonymous", int(limit * s.random.uniform(1.5, 2.5)), group=group)
    return Scene(group, culprit=group)


def failing_disk(s: Stage) -> Scene:
    """A loop device on a file for whose blocks there is no room: writes to them fail."""
    group, where = s.group("app"), s.directory / "small"
    where.mkdir()
    run(f"mount -t tmpfs -o size=4m small {where}")
    s.undo(f"umount {where}")
    run(f"truncate -s 64m {where}/disk")
    device = s.loop(where / "disk")
    s.start("sync_writer", device, 64 << 20, group=group)
    return Scene(group, resource=Path(device).name)


def bimodal_disk(s: Stage) -> Scene:
    """A loop device on a file whose writes are quick, but for a few in a hundred."""
    group, where = s.group("db"), s.directory / "mount"
    where.mkdir()
    s.undo(f"umount -l {where}")
    per_mille, delay_ms = s.random.randint(15, 40), s.random.randint(50, 90)
    s.command([sys.executable, "-I", str(SLOW_MOUNT), str(where), str(delay_ms), str(per_mille)])
    device = s.loop(where / "disk")
    s.start("sync_writer", device, 64 << 20, group=group)
    return Scene(group, culprit=group, resource=Path(device).name)


def packet_ceiling(s: Stage) -> Scene:
    a, b = s.namespaces()
    group, rate = s.group("gateway"), s.random.randint(200, 500)
    s.declare(f"ktf0={rate}pps,1Gbit/s")
    s.start("swallow", 5300, netns=b, ready=True)
    s.start("packets", ADDRESS, 5300, rate * s.random.uniform(0.85, 0.95), group=group, netns=a)
    return Scene(group)


def two_at_once(s: Stage) -> Scene:
    """A quota that is too small, and a lock that its neighbour's threads fight for."""
    small, threads = s.group("small", cpu_cfs_quota_us="25000"), s.group("threads")
    s.start("pulse", s.random.uniform(30, 90), s.random.uniform(5, 20), group=small)
    s.start("mutex", s.random.randint(3, 8), s.random.choice((300, 2000)), group=threads)
    return Scene(s.base)


FAULTS = (
    Case("cpu neighbour", cpu_neighbour, ("cpu",), light=False), Case("quota", quota, ("quota",)),
    Case("fork loop", fork_loop, finding="forks"), Case("busy disk", busy_disk, ("block",)),
    Case("iops limit", iops_limit, ("block",)), Case("bytes limit", bytes_limit, ("block",)),
    Case("fsync bound", fsync_bound, ("file", "block")), Case("loss", loss, ("tcp",)),
    Case("reordering", reordering, ("tcp",)),
    Case("narrow link", narrow_link, ("tcp",)), Case("zero window", zero_window, ("tcp",)),
    Case("full backlog", full_backlog, ("tcp",)), Case("refused", refused, ("tcp",)),
    Case("timing out", timing_out, ("tcp",)), Case("conntrack", conntrack, ("tcp",)),
    Case("firewall", firewall, ("tcp",)), Case("futex", futex, ("lock",)),
    Case("semaphore", semaphore, ("lock",)),
    Case("slow upstream", slow_upstream, ("upstream",)),
    Case("memory limit", memory_limit, ("memory",)),
    Case("missing files", missing_files, finding="missing files"),
    Case("descriptors", descriptors, finding="descriptors"),
    Case("health check", health_check, finding="forks"),
    # short ones are a finding; long ones hold it back for so long that the pipe is tight
    Case("quota bursts", quota_bursts, ("quota",), finding="quota bursts", within_s=25.0),
    Case("short answers", short_answers, ("upstream",)),
    Case("dirty pages", dirty_pages, ("file",)), Case("swap-in", swap_in, ("memory",)),
    Case("failing disk", failing_disk, ("block",)), Case("bimodal disk", bimodal_disk, ("block",)),
    Case("packet ceiling", packet_ceiling, finding="ceiling"),
    Case("two at once", two_at_once, ("quota", "lock"), both=True),
    Case("slow mount", slow_mount, ("file",)), Case("lock convoy", lock_convoy, ("file",)),
)
