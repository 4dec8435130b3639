"""Record tests/data/session.wire.gz: as root, by hand, `.venv/bin/python -m tests.make_session`.

Starts the workloads of tests/session_load.py for about a minute, collects a frame a second with
every layer watched, keeps what is ours (tests/session_filter.py) and takes everything away again.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from ktop import wire
from ktop.model import Frame
from tests import session_load
from tests.session import FILE
from tests.session_filter import Filter
from tests.sessionkit import (
    HERE,
    THERE,
    Stage,
    cgroups,
    directory,
    harmless,
    limit,
    namespaces,
    record,
)

KEPT, WARM_UP = 42, 12
CHOICE = 10  # the last frame is one of so many: that in which others disturbed least
GROUPS = {"batch": ("rollup",), "db": ("reports", "journal", "archive"),
          "web": ("pinger", "api", "static", "client", "mirror", "shipper", "depot")}
INSIDE = {"depot": THERE, "shipper": HERE, "lookup": HERE}
TIMES = {"rollup": 2}
PINNED = ("rollup", "pinger")


@contextlib.contextmanager
def workloads(data: Path, groups: dict[str, Path], netns: set[int]) -> Iterator[set[int]]:
    """All of them, by their pids; ended in the end."""
    with open(data / "reports.db", "wb") as file:
        for _ in range(session_load.RESERVED >> 20):
            file.write(os.urandom(1 << 20))
        os.fsync(file.fileno())
    with Stage(data, session_load.__file__, groups, INSIDE, PINNED) as stage:
        for role in session_load.ROLES:
            if role in INSIDE and not netns:
                continue
            for _ in range(TIMES.get(role, 1)):
                stage.start(role)
        yield stage.pids


def _calm(taken: list[Frame]) -> list[Frame]:
    """The frames that are kept: their last one is seen in most pictures."""
    last = min(range(len(taken) - CHOICE, len(taken)), key=lambda i: taken[i].sched.waiting or 0.0)
    return taken[last + 1 - KEPT:last + 1]


def main() -> int:
    """Record, filter, write."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with (directory() as data, cgroups(GROUPS) as groups, namespaces(0.1) as netns,
          workloads(data, groups, netns) as pids):
        if "rollup" in groups:
            limit(groups["rollup"], 0.6)
        raw = _calm(record(WARM_UP + KEPT + CHOICE))
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
