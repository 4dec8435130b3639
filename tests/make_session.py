"""Record tests/data/session.wire.gz: as root, by hand, `.venv/bin/python -m tests.make_session`.

Starts the workloads of tests/session_load.py for about a minute, collects a frame a second with
every layer watched, keeps what is ours (tests/session_filter.py) and takes everything away again.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ktop import wire
from ktop.collect.main import Collector, Options
from ktop.model import Frame
from tests import session_load
from tests.session import FILE
from tests.session_filter import FORBIDDEN, Filter, texts

KEPT, WARM_UP, DRAINS = 42, 12, 4
CHOICE = 10  # the last frame is one of so many: that in which others disturbed least
LAYERS = ("processes", "sched", "files", "tcp", "block")
HERE, THERE = "shop", "depot"  # network namespaces
CPU_GROUPS = Path("/sys/fs/cgroup/cpu")
GROUPS = {"batch": ("rollup",), "db": ("reports", "journal", "archive"),
          "web": ("pinger", "api", "static", "client", "mirror", "shipper", "depot")}
INSIDE = {"depot": THERE, "shipper": HERE, "lookup": HERE}
TIMES = {"rollup": 2}
PINNED = ("rollup", "pinger")


def run(command: str) -> None:
    """One command that must succeed."""
    subprocess.run(command.split(), check=True, capture_output=True)


LOSS = "INPUT -p tcp {} -m statistic --mode random --probability {} -j DROP"


def lose(probability: float, match: str = "", change: str = "-A") -> None:
    """Have the firewall of THERE lose packets from now on; change -D: no longer."""
    rule = LOSS.format(match, probability)
    run(f"ip netns exec {THERE} iptables {change} {rule}")


@contextlib.contextmanager
def namespaces(loss: float = 0.1) -> Iterator[set[int]]:
    """Two network namespaces, a veth pair and a firewall that loses one packet in ten.

    Yields their inode numbers; none where they cannot be made.
    """
    made = []
    try:
        try:
            for name in (HERE, THERE):
                run(f"ip netns add {name}")
                made.append(name)
                run(f"ip -n {name} link set lo up")
            run(f"ip link add veth0 netns {HERE} type veth peer name veth1 netns {THERE}")
            for name, device, end in ((HERE, "veth0", 1), (THERE, "veth1", 2)):
                run(f"ip -n {name} addr add 10.77.0.{end}/24 dev {device}")
                run(f"ip -n {name} link set {device} up")
            if loss:
                lose(loss)
        except (OSError, subprocess.CalledProcessError) as err:
            print(f"without namespaces: {err}", file=sys.stderr)
            yield set()
        else:
            yield {os.stat(f"/run/netns/{name}").st_ino for name in made}
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


@contextlib.contextmanager
def cgroups(groups: dict[str, tuple[str, ...]], quota: str = "") -> Iterator[dict[str, Path]]:
    """By role: the cgroup it is in. The one called `quota` has six tenths of a CPU."""
    parent = CPU_GROUPS / "shop"
    if not (CPU_GROUPS / "cpu.cfs_quota_us").exists():
        yield {}
        return
    places = [parent, *(parent / name for name in groups)]
    try:
        for place in places:
            place.mkdir()
        if quota:
            (parent / quota / "cpu.cfs_quota_us").write_text("60000")
        yield {role: parent / name for name, roles in groups.items() for role in roles}
    finally:
        for place in reversed(places):
            for _ in range(50):
                with contextlib.suppress(OSError):
                    place.rmdir()
                if not place.exists():
                    break
                time.sleep(0.05)


@contextlib.contextmanager
def directory() -> Iterator[Path]:
    """Where the workloads have their files: on the filesystem of the checkout."""
    place = Path(tempfile.mkdtemp(prefix=".session-", dir=Path(__file__).parent.parent))
    try:
        (place / "app").mkdir()
        with open(place / "reports.db", "wb") as file:
            for _ in range(session_load.RESERVED >> 20):
                file.write(os.urandom(1 << 20))
            os.fsync(file.fileno())
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def start(role: str, data: Path, group: Path | None, inside: str | None,
          code: str = session_load.__file__) -> subprocess.Popen[bytes]:
    """One workload, a role of the module `code`."""
    script = data / "app" / f"{role}.py"
    shutil.copyfile(code, script)
    command = ["/usr/bin/python3", "-I", str(script)]
    if inside is not None:
        command = ["ip", "netns", "exec", inside, *command]
    if role in PINNED:
        command = ["taskset", "-c", str(max(os.sched_getaffinity(0))), *command]
    process = subprocess.Popen(command, cwd=data, env={"PATH": "/usr/bin:/bin:/usr/sbin:/sbin"},
                               stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    if group is not None:
        (group / "cgroup.procs").write_text(str(process.pid))
    return process


@contextlib.contextmanager
def workloads(data: Path, groups: dict[str, Path], netns: set[int]) -> Iterator[set[int]]:
    """All of them, by their pids; ended in the end."""
    running: list[subprocess.Popen[bytes]] = []
    try:
        for role in session_load.ROLES:
            if role in INSIDE and not netns:
                continue
            for _ in range(TIMES.get(role, 1)):
                running.append(start(role, data, groups.get(role),
                                     INSIDE.get(role)))
        yield {process.pid for process in running}
    finally:
        for process in running:
            if process.poll() is not None:
                print(f"{process.args!r} ended by itself", file=sys.stderr)
            process.kill()
            process.wait()
        time.sleep(1)  # for the shell's children


def copied(frame: Frame) -> Frame:
    """One of its own: layers keep their rows."""
    return wire.decode_body(wire.encode_body(frame))


def record() -> list[Frame]:
    """A frame a second."""
    collector = Collector(Options(watch=LAYERS))
    collector.start()
    taken: list[Frame] = []
    try:
        collector.settle()
        due = time.monotonic()
        for _ in range(WARM_UP + KEPT + CHOICE):
            for quarter in range(1, DRAINS + 1):
                time.sleep(max(0.0, due + quarter / DRAINS - time.monotonic()))
                collector.drain()
            due += 1
            taken.append(copied(collector.tick()))
    finally:
        collector.close()
    last = min(range(len(taken) - CHOICE, len(taken)), key=lambda i: taken[i].sched.waiting or 0.0)
    return taken[last + 1 - KEPT:last + 1]


def harmless(kept: list[Frame]) -> bool:
    """Whether nothing of this machine is in them; what is is said."""
    bad = sorted({text for text in texts(kept) if any(word in text for word in FORBIDDEN)})
    if bad:
        print("not written:", *bad, sep="\n", file=sys.stderr)
    return not bad


def main() -> int:
    """Record, filter, write."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with (directory() as data, cgroups(GROUPS, "batch") as groups, namespaces() as netns,
          workloads(data, groups, netns) as pids):
        raw = record()
    keep = Filter(raw, pids, str(data), netns)
    kept = [keep(frame) for frame in raw]
    for frame in kept[:-1]:  # what a probe shows is said once
        for probe in frame.health.probes:
            probe.shows = probe.fallback = probe.blind = ""
    if not harmless(kept):
        return 1
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_bytes(gzip.compress(b"".join(map(wire.encode_frame, kept)), 9, mtime=0))
    print(f"{len(kept)} frames, {FILE.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
