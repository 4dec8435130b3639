"""Recordings: bytes an hour beside `atop -w` over the same minutes, with 300 processes under real
load, a sample a second; CPU time of packing and reading; opening and seeking in a day.

atop records what processes, CPUs, memory and disks did. The second row is what ktop takes for that;
the first is everything: files, connections, opens, histograms of each, too. atop reads /proc of
every process, which is work on files that ktop then records: hence the row without it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.common import Missing, Row, end, require_root, tool
from ktop.kept import Entry, Keeper, levelled
from ktop.lens import Moment
from ktop.model import Frame
from ktop.packing import FILE_LEVEL, GROUP
from ktop.recording import Recording, Writer
from ktop.rewind import Ring
from ktop.wire import decode_body, encode_body

PROCESSES = 300
DAY = 86_400
LAYERS = ("processes", "sched", "files", "tcp", "block")
SECOND = 1_000_000_000
SAMPLES = 45  # of each row; with a day's file the whole takes three minutes


def _daemon(number: int) -> None:
    """Sleep and work a moment, as daemons do: some twenty times a second, some every 20 s."""
    libc = ctypes.CDLL(None)
    libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    libc.prctl(15, f"daemon-{number}".encode(), 0, 0, 0)  # PR_SET_NAME
    rng = random.Random(number)
    pause = 0.05 * 400 ** rng.random()
    while True:
        time.sleep(rng.expovariate(1 / pause))
        sum(range(rng.randrange(4000)))
        with contextlib.suppress(OSError):
            os.stat("/etc")


@contextlib.contextmanager
def daemons(count: int) -> Iterator[None]:
    """So many of them."""
    pids = []
    try:
        for number in range(count):
            pid = os.fork()
            if not pid:
                try:
                    _daemon(number)
                finally:
                    os._exit(1)
            pids.append(pid)
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


@contextlib.contextmanager
def load() -> Iterator[None]:
    """The workloads of the recorded session (disk, files, TCP, executions), and daemons up to 300
    processes."""
    from tests.make_session import workloads
    from tests.sessionkit import directory

    with directory() as data, workloads(data, {}, set()) as pids:
        time.sleep(1)
        running = sum(name.isdigit() for name in os.listdir("/proc"))
        with daemons(max(0, PROCESSES - running)):
            yield
        if any(os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) for pid in pids):
            raise Missing("the load broke off: does another one hold its ports?")


def frames(seconds: int, beside: Callable[[], None]) -> list[Frame]:
    """A frame a second from our own collector; `beside` is called when its layers are loaded.

    On a host that is too busy for that they are fewer, never closer together.
    """
    from ktop.collect.main import Collector, Options

    collector = Collector(Options(watch=LAYERS))
    collector.start()
    found: list[Frame] = []
    try:
        collector.settle()
        beside()
        collector.tick()  # the first interval that is ours begins here
        due = time.monotonic()
        until = due + seconds + 1
        while len(found) < seconds and due < until:
            for _ in range(4):
                due = max(due + 0.25, time.monotonic())
                time.sleep(max(0.0, due - time.monotonic()))
                collector.drain()
            found.append(decode_body(encode_body(collector.tick())))
    finally:
        collector.close()
    return found


def _without(frame: Frame) -> Frame:
    """What atop has too."""
    copy = decode_body(encode_body(frame))
    copy.files = copy.tcp = None
    for row in copy.processes.rows:
        row.runq = row.off_cpu_pct = row.waits_pct = None
    for group in copy.cgroups:
        group.runq = None
    copy.processes.events, copy.processes.folds = [], []
    copy.health.probes = []
    if copy.block is not None:
        copy.block.users, copy.block.groups, copy.block.slow = [], [], []
        for device in copy.block.devices:
            device.ops = []
    return copy


def _size(found: list[Frame], place: Path) -> float:
    """MB an hour of a recording of these frames."""
    path = place / "size.ktop"
    with Writer(path) as writer:
        for frame in found:
            writer.add(frame)
    size = path.stat().st_size / len(found) * 3600 / 1e6
    path.unlink()
    return size


@contextlib.contextmanager
def first_served() -> Iterator[None]:
    """What we measure is not what waits, on a busy host: atop gives itself -20 too."""
    before = os.getpriority(os.PRIO_PROCESS, 0)
    os.setpriority(os.PRIO_PROCESS, 0, -20)
    try:
        yield
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, before)


@contextlib.contextmanager
def atop(raw: Path, seconds: int) -> Iterator[Callable[[], None]]:
    """A function that starts it; it ends by itself, or with the block."""
    try:
        path = tool("atop")
    except Missing:
        yield lambda: None
        return
    running: list[subprocess.Popen[bytes]] = []
    try:
        yield lambda: running.append(subprocess.Popen(
            [path, "-w", str(raw), "1", str(seconds)], stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL))
    finally:
        for process in running:
            end(process)


def _sizes(seconds: int, place: Path) -> tuple[list[Row], list[Frame]]:
    raw = place / "atop.raw"
    with load(), first_served():
        with atop(raw, seconds) as start:
            both = frames(seconds, start)
        alone = frames(seconds, lambda: None)
    theirs: dict[str, list[float] | str] = {
        "atop -w": [raw.stat().st_size / seconds * 3600 / 1e6] if raw.exists()
        else "atop is not installed"}
    label = f"an hour at 1 s, {len(both[-1].processes.rows)} processes under load"
    rows = [Row(label, "MB", [_size(both, place)], dict(theirs)),
            Row(f"{label}: what atop has too", "MB", [_size(list(map(_without, both)), place)],
                dict(theirs)),
            Row(f"{label}, without atop beside it", "MB", [_size(alone, place)])]
    return rows, alone


def _cpu(work: Callable[[], object], times: int) -> float:
    begun = time.process_time_ns()
    for _ in range(times):
        work()
    return (time.process_time_ns() - begun) / times / 1e6


def _costs(found: list[Frame], place: Path) -> list[Row]:
    """CPU time of each step, of frames that are all different."""
    bodies = [encode_body(frame) for frame in found]
    pairs = list(zip(found, bodies, strict=True))
    packing, adding, reading = [], [], []
    for _ in range(3):
        ring, keeper = Ring(), Keeper(FILE_LEVEL)
        packing.append(_cpu(lambda ring=ring: [ring.add(f, b) for f, b in pairs], 1) / len(pairs))
        adding.append(_cpu(lambda k=keeper: [k.keep(f, b) for f, b in pairs], 1) / len(pairs))
    path = place / "costs.ktop"
    writing = []
    with Writer(path) as writer:
        for frame, body in pairs:
            writing.append(_cpu(lambda f=frame, b=body: writer.add(f, b), 1))
    with Recording(path) as recording:
        order = [at for at in range(recording.end) if at % GROUP]
        random.Random(1).shuffle(order)
        reading = [_cpu(lambda at=at: recording.frame(at), 1) for at in order]
    size = sum(map(len, bodies)) / len(bodies)
    minutes = ring.bytes / (ring.end - ring.first)
    return [
        Row("a frame into memory (the UI's part of rewind)", "ms CPU", packing),
        Row("a frame packed for a file", "ms CPU", adding),
        Row("a frame packed and into the file", "ms CPU", [statistics.mean(writing)]),
        Row("a frame at random out of a file", "ms CPU", reading),
        Row("a frame unpacked", "KB", [size / 1e3]),
        Row("what 64 MB of memory hold", "minutes", [(64 << 20) / minutes / 60]),
    ]


def day(path: Path) -> None:
    """A recording of 86,400 samples, from the packed frames of the recorded session."""
    from tests import session

    keeper = Keeper(FILE_LEVEL)
    kept = [levelled(keeper.keep(frame), frame, None) for frame in session.frames()[:2 * GROUP]]
    begin = kept[0].moment

    def entry(at: int) -> Entry:
        one = kept[at % len(kept)]
        moment = Moment(begin.wall_ns + at * SECOND, begin.monotonic_ns + at * SECOND, SECOND, 0)
        return one._replace(at=at, key=at // GROUP * GROUP, moment=moment, probes=())

    with Writer(path) as writer:
        writer.put(map(entry, range(DAY)))


def _forget(path: Path) -> None:
    """Out of the page cache."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def _times(place: Path, rounds: int) -> list[Row]:
    path = place / "day.ktop"
    day(path)
    opening: dict[bool, list[float]] = {True: [], False: []}
    seeking: dict[bool, list[float]] = {True: [], False: []}
    rng = random.Random(1)
    for _ in range(rounds):
        for cold in (True, False):
            if cold:
                _forget(path)
            begun = time.perf_counter()
            with Recording(path) as recording:
                opening[cold].append((time.perf_counter() - begun) * 1e3)
                walls = [recording.moment(rng.randrange(DAY)).wall_ns for _ in range(20)]
                for wall in walls:
                    begun = time.perf_counter()
                    recording.frame(recording.find(wall))
                    seeking[cold].append((time.perf_counter() - begun) * 1e3)
    with Recording(path) as recording:
        begun = time.perf_counter()
        recording.levels(0, DAY)
        whole = (time.perf_counter() - begun) * 1e3
    size = path.stat().st_size / 1e9
    return [Row(f"open a day, {DAY:,} samples ({size:.1f} GB), not cached", "ms", opening[True]),
            Row("open a day, cached", "ms", opening[False]),
            Row("seek to any of them, not cached", "ms", seeking[True]),
            Row("seek to any of them, cached", "ms", seeking[False]),
            Row("levels of all of them, for a timeline", "ms", [whole])]


def run(quick: bool) -> list[Row]:
    require_root()
    with tempfile.TemporaryDirectory(prefix="ktop-bench-", dir=".") as name:
        place = Path(name)
        rows, found = _sizes(8 if quick else SAMPLES, place)
        with first_served():
            return [*rows, *_costs(found, place), *([] if quick else _times(place, 3))]
