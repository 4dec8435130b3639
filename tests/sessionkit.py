"""A stage for recorded sessions: places for the workloads, the processes, and the recording."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ktop import wire
from ktop.collect.main import Collector, Options
from ktop.model import Frame
from tests import rolekit
from tests.session_filter import FORBIDDEN, texts

LAYERS = ("processes", "sched", "files", "tcp", "block")
HERE, THERE = "shop", "depot"  # network namespaces
CPU_GROUPS = Path("/sys/fs/cgroup/cpu")
PARENT = "shop"
SHARES = "262144"  # of the CPU: what else the machine does leaves them in peace
DRAINS = 4  # times that events are taken in a frame
LOSS = "INPUT -p tcp {} -m statistic --mode random --probability {} -j DROP"


def run(command: str) -> None:
    """One command that must succeed."""
    subprocess.run(command.split(), check=True, capture_output=True)


def lose(probability: float, match: str = "", change: str = "-A") -> None:
    """Have the firewall of THERE lose packets from now on; change -D: no longer."""
    rule = LOSS.format(match, probability)
    run(f"ip netns exec {THERE} iptables {change} {rule}")


@contextlib.contextmanager
def namespaces(loss: float = 0.0) -> Iterator[set[int]]:
    """Two network namespaces, a veth pair and a firewall that loses this part of the packets.

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


def limit(group: Path, share: float | None) -> None:
    """What a control group may use, in CPUs; None: all there are."""
    quota = -1 if share is None else round(share * 100_000)
    (group / "cpu.cfs_quota_us").write_text(str(quota))


@contextlib.contextmanager
def cgroups(groups: dict[str, tuple[str, ...]]) -> Iterator[dict[str, Path]]:
    """By role: the control group it is in; none where they cannot be made."""
    parent = CPU_GROUPS / PARENT
    if not (CPU_GROUPS / "cpu.cfs_quota_us").exists():
        yield {}
        return
    places = [parent, *(parent / name for name in groups)]
    try:
        for place in places:
            place.mkdir()
        (parent / "cpu.shares").write_text(SHARES)
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
        shared = place / "app" / "tests"
        shared.mkdir(parents=True)
        (shared / "__init__.py").touch()
        shutil.copy(rolekit.__file__, shared)
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


class Stage:
    """The processes of one session, roles of the module `code`.

    groups: of each role; inside: its network namespace; pinned: roles on the last CPU.
    """

    def __init__(self, data: Path, code: str, groups: dict[str, Path], inside: dict[str, str],
                 pinned: tuple[str, ...] = ()) -> None:
        self.data, self.code = data, code
        self.groups, self.inside, self.pinned = groups, inside, pinned
        self.running: dict[str, list[subprocess.Popen[bytes]]] = {}
        self.pids: set[int] = set()

    def start(self, role: str) -> None:
        """One process more."""
        script = self.data / "app" / f"{role}.py"
        shutil.copyfile(self.code, script)
        command = ["/usr/bin/python3", "-Es", str(script)]
        if role in self.inside:
            command = ["ip", "netns", "exec", self.inside[role], *command]
        if role in self.pinned:
            command = ["taskset", "-c", str(max(os.sched_getaffinity(0))), *command]
        process = subprocess.Popen(
            command, cwd=self.data, env={"PATH": "/usr/bin:/bin:/usr/sbin:/sbin"},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.running.setdefault(role, []).append(process)
        self.pids.add(process.pid)
        if role in self.groups:
            (self.groups[role] / "cgroup.procs").write_text(str(process.pid))

    def pid(self, role: str) -> int:
        """Of the first one."""
        return self.running[role][0].pid

    def tell(self, role: str, number: int) -> None:
        """A signal to a role's processes."""
        for process in self.running[role]:
            process.send_signal(number)

    def stop(self, role: str) -> None:
        """End a role's processes; what has ended by itself is said."""
        for process in self.running.pop(role):
            if process.poll() is not None:
                print(f"{process.args!r} ended by itself", file=sys.stderr)
            process.kill()
            process.wait()

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        for role in list(self.running):
            self.stop(role)
        time.sleep(1)  # for their children


def record(seconds: int, at: Callable[[int, Collector], None] = lambda *_: None) -> list[Frame]:
    """A frame a second; `at` is told of each second before it."""
    collector = Collector(Options(watch=LAYERS))
    collector.start()
    taken: list[Frame] = []
    try:
        collector.settle()
        due = time.monotonic()
        for second in range(seconds):
            at(second, collector)
            for part in range(1, DRAINS + 1):
                time.sleep(max(0.0, due + part / DRAINS - time.monotonic()))
                collector.drain()
            due += 1
            # layers keep their rows: a copy of its own
            taken.append(wire.decode_body(wire.encode_body(collector.tick())))
    finally:
        collector.close()
    return taken


def harmless(kept: list[Frame]) -> bool:
    """Whether nothing of this machine is in them; what is is said."""
    bad = sorted({text for text in texts(kept) if any(word in text for word in FORBIDDEN)})
    if bad:
        print("not written:", *bad, sep="\n", file=sys.stderr)
    return not bad
