"""What the benches share: rows, processes, BPF programs and maps, and what each costs.

CPU time is read from schedstat in ns; what a program costs from the kernel's own run_time_ns.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import statistics
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ktop.bpf import syscall

if TYPE_CHECKING:
    from ktop.collect.main import Collector

ROOT = Path(__file__).parent.parent
KTOP = str(Path(sys.executable).with_name("ktop"))
_PROG_GET_FD_BY_ID = 13


class Missing(Exception):
    """What is to be measured is not there; the message says why."""


@dataclass
class Row:
    """One line of the table for each peer. Values of one round stand at the same index."""

    what: str
    unit: str
    ktop: list[float] | str
    peers: dict[str, list[float] | str] = field(default_factory=dict)


def ratio(ours: list[float], theirs: list[float]) -> float | None:
    """How many times the peer's figure is ours: median over the rounds where there are pairs."""
    if len(ours) == len(theirs) and len(ours) > 1:
        pairs = [t / o for o, t in zip(ours, theirs, strict=True) if o]
        return statistics.median(pairs) if pairs else None
    ours_median = statistics.median(ours)
    return statistics.median(theirs) / ours_median if ours_median else None


def tool(name: str) -> str:
    """Path of a peer. libbpf-tools are in sbin, under their name or a prefix."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    for candidate in (name, f"bpf-{name}", f"libbpf-{name}"):
        found = shutil.which(candidate, path=path)
        if found:
            return found
    raise Missing(f"{name} is not installed")


def require_root() -> None:
    """Most rows are about BPF."""
    if os.geteuid() != 0:
        raise Missing("needs root")


def tree(pid: int) -> list[int]:
    """A process and its descendants, parents first."""
    found, todo = [], [pid]
    while todo:
        one = todo.pop()
        try:
            tasks = os.listdir(f"/proc/{one}/task")
        except OSError:
            continue
        found.append(one)
        for task in tasks:
            with contextlib.suppress(OSError):
                text = Path(f"/proc/{one}/task/{task}/children").read_text(encoding="ascii")
                todo += [int(child) for child in text.split()]
    return found


def cpu_ns(pids: list[int]) -> int:
    """CPU time used by all threads of these processes (to be used for differences)."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{pid}/task"):
                text = Path(f"/proc/{pid}/task/{task}/schedstat").read_text(encoding="ascii")
                total += int(text.split()[0])
    return total


def memory_bytes(pid: int) -> dict[str, int]:
    """Rss and Pss of a process."""
    found = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
        name, _, rest = line.partition(":")
        if name in ("Rss", "Pss"):
            found[name] = int(rest.split()[0]) * 1024
    return found


def end(process: subprocess.Popen[bytes], how: int = signal.SIGINT, grace: float = 3.0) -> None:
    """End a process of ours and reap it."""
    process.send_signal(how)
    try:
        process.wait(grace)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@dataclass
class Program:
    """A loaded BPF program: how often it ran, and for how long, while statistics were on."""

    name: str
    run_ns: int
    runs: int


def program(prog_id: int) -> Program:
    """By id, whoever loaded it."""
    fd = syscall.bpf(_PROG_GET_FD_BY_ID, struct.pack("@III", prog_id, 0, 0))
    try:
        raw = ctypes.create_string_buffer(256)
        syscall.bpf(syscall.OBJ_GET_INFO_BY_FD,
                    struct.pack("@IIQ", fd, len(raw), ctypes.addressof(raw)))
        name = raw.raw[64:80].partition(b"\0")[0].decode("ascii", "replace")
        info = syscall.prog_info(fd)
    finally:
        os.close(fd)
    return Program(name, info["run_time_ns"], info["run_cnt"])


def fdinfos(pids: list[int]) -> Iterator[dict[str, str]]:
    """What the kernel says about every descriptor of these processes."""
    for pid in pids:
        with contextlib.suppress(OSError):
            for fd in os.listdir(f"/proc/{pid}/fdinfo"):
                with contextlib.suppress(OSError):
                    text = Path(f"/proc/{pid}/fdinfo/{fd}").read_text(encoding="ascii")
                    yield {k: v.strip() for k, _, v in (line.partition(":")
                                                        for line in text.splitlines())}


def programs_of(pids: list[int]) -> set[int]:
    """Ids of the programs that these processes hold (others on this host do not count)."""
    return {int(info["prog_id"]) for info in fdinfos(pids) if "prog_id" in info}


def map_bytes(pids: list[int]) -> int:
    """Kernel memory of the BPF maps that these processes hold, each map once."""
    return sum({int(info["map_id"]): int(info.get("memlock", 0)) for info in fdinfos(pids)
                if "map_type" in info}.values())


@contextlib.contextmanager
def collector(watch: tuple[str, ...] = (), needs: str = "sched_switch") -> Iterator[
        tuple[Collector, set[int]]]:
    """ktop's collector in this process with every layer loaded, these looked at, its first ticks
    behind it; the ids of its programs. needs: the probe without which there is nothing to measure.
    """
    from ktop.collect.main import Collector, Options

    before = programs_of([os.getpid()])
    one = Collector(Options(watch=watch))
    one.start()
    try:
        one.tick()
        one.settle()
        frame = one.tick()
        fates = {p.name: p.status for p in frame.health.probes}
        if fates.get(needs) != "live":
            raise Missing(f"{needs} is {fates.get(needs, frame.health.banner)}")
        yield one, programs_of([os.getpid()]) - before
    finally:
        one.close()


@contextlib.contextmanager
def bpf_stats() -> Iterator[None]:
    """The kernel counts run_time_ns meanwhile."""
    fd = syscall.enable_run_stats()
    try:
        yield
    finally:
        os.close(fd)
