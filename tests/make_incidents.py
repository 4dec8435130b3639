"""Record tests/data/disk.ktop and network.ktop: as root, by hand, on a quiet machine:
`.venv/bin/python -m tests.make_incidents [disk] [network]`.

Each is a healthy minute, an incident, and the quiet after it: three minutes at a frame a second,
filtered to our own workload (tests/session_filter.py).
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ktop.collect.main import Collector, Options
from ktop.diagnosis.engine import Diagnosis
from ktop.model import Frame
from ktop.recording_writer import Writer
from ktop.wire import Profile
from tests import incident_load
from tests.make_session import (
    HERE,
    LAYERS,
    THERE,
    cgroups,
    copied,
    directory,
    harmless,
    lose,
    namespaces,
    start,
)
from tests.session_filter import Filter

WHERE = Path(__file__).parent / "data"
SECONDS, BEGIN, END = 170, 50, 120  # of all of it; of the incident
LOOK, SAMPLE = (60, 90), 75         # someone looks at the victim; its stacks are taken from here
GROUPS = {"disk": {"db": ("orders",), "web": ("checkout",), "backup": ("dump",)},
          "network": {"edge": ("gateway",), "books": ("ledger", "rates")}}
INSIDE = {"gateway": HERE, "ledger": THERE, "rates": THERE}
VICTIM = {"disk": "orders", "network": "gateway"}
LOSSY = f"--dport {incident_load.LEDGER}"


class Stage:
    """The processes of one incident."""

    def __init__(self, data: Path, groups: dict[str, Path]) -> None:
        self.data, self.groups = data, groups
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.pids: set[int] = set()

    def start(self, role: str) -> int:
        process = start(role, self.data, self.groups.get(role), INSIDE.get(role),
                        incident_load.__file__)
        self.running[role] = process
        self.pids.add(process.pid)
        return process.pid

    def stop(self, role: str) -> None:
        process = self.running.pop(role)
        process.kill()
        process.wait()


@contextlib.contextmanager
def staged(data: Path, groups: dict[str, Path]) -> Iterator[Stage]:
    stage = Stage(data, groups)
    try:
        yield stage
    finally:
        for role in list(stage.running):
            stage.stop(role)


def record(at: Callable[[int], None], victim: int) -> list[Frame]:
    """A frame a second; `at` is told of each second before it."""
    collector = Collector(Options(watch=LAYERS))
    collector.start()
    taken: list[Frame] = []
    try:
        collector.settle()
        due = time.monotonic()
        for second in range(SECONDS):
            at(second)
            if second in LOOK:
                collector.look_at(victim if second == LOOK[0] else 0)
            if second == SAMPLE:
                collector.profile(Profile(pids=[victim], seconds=15.0))
            for quarter in range(1, 5):
                time.sleep(max(0.0, due + quarter / 4 - time.monotonic()))
                collector.drain()
            due += 1
            taken.append(copied(collector.tick()))
    finally:
        collector.close()
    return taken


def incident(name: str) -> list[Frame]:
    """Stage it, record it, keep what is ours."""
    roles = [role for group in GROUPS[name].values() for role in group]
    with (directory() as data, cgroups(GROUPS[name]) as groups, namespaces(0) as netns,
          staged(data, groups) as stage):
        for role in roles:
            if role != "dump":
                stage.start(role)
                time.sleep(0.5)

        def at(second: int) -> None:
            if name == "disk" and second == BEGIN:
                stage.start("dump")
            elif name == "disk" and second == END:
                stage.stop("dump")
            elif second in (BEGIN, END):
                lose(0.15, LOSSY, "-A" if second == BEGIN else "-D")

        raw = record(at, stage.running[VICTIM[name]].pid)
        keep = Filter(raw, stage.pids, str(data), netns, incident_load.ROLES, incident_load.PORTS)
        return [keep(frame) for frame in raw]


def main(names: list[str]) -> int:
    """Record those that are named, or both."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    for name in names or list(GROUPS):
        kept = incident(name)
        if not harmless(kept):
            return 1
        write(WHERE / f"{name}.ktop", kept)
    return 0


def write(file: Path, kept: list[Frame]) -> None:
    """As ktop record does, with the verdicts; a mark where the incident begins."""
    file.unlink(missing_ok=True)
    diagnosis = Diagnosis()
    with Writer(file) as writer:
        writer.describe(kept[0])
        for frame in kept:
            writer.add(frame, None, diagnosis.update(frame))
        writer.mark(kept[BEGIN].clock.wall_ns, "it begins")
    file.chmod(0o644)
    print(f"{file.name}: {len(kept)} frames, {file.stat().st_size:,} bytes")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
