"""Known loads: a ping-pong between two processes, idle tasks, a loop of executions, a busy one.

They run coreutils and libc code, so that Python's own cost is not in the figures.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.common import ROOT, Missing, end

_CLONE_VM, _CLONE_THREAD = 0x100, 0x100 | 0x200 | 0x400 | 0x800 | 0x10000
_STACK = 4096
SPACE_SOCKETS = 41  # of a network namespace of `spaces`: a listener and 20 connections' both ends
_SPACE = f"""import socket, subprocess, sys
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
kept = [socket.create_server(("127.0.0.1", 7000))]
while len(kept) < {SPACE_SOCKETS}:
    kept += [socket.create_connection(("127.0.0.1", 7000)), kept[0].accept()[0]]
print(flush=True)
sys.stdin.read()"""


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class PingPong:
    """Two `cat` that hand one byte round: two context switches and more for every turn."""

    def __init__(self, cpus: list[int]) -> None:
        first, second = os.pipe(), os.pipe()
        self.cats = []
        for i, (source, sink) in enumerate(((first[0], second[1]), (second[0], first[1]))):
            cat = subprocess.Popen(["cat"], stdin=source, stdout=sink, stderr=subprocess.DEVNULL,
                                   preexec_fn=_end_with_parent)  # noqa: PLW1509 (no threads here)
            os.sched_setaffinity(cat.pid, {cpus[i % len(cpus)]})
            self.cats.append(cat)
        os.write(first[1], b"x")
        for fd in (*first, *second):
            os.close(fd)

    def switches(self) -> int:
        """Voluntary context switches of both so far: one for every byte that was handed on."""
        total = 0
        for cat in self.cats:
            for line in Path(f"/proc/{cat.pid}/status").read_text().splitlines():
                if line.startswith("voluntary_ctxt_switches"):
                    total += int(line.split()[1])
        return total

    def close(self) -> None:
        for cat in self.cats:
            end(cat, signal.SIGKILL)


@contextlib.contextmanager
def pingpong(cpus: list[int]) -> Iterator[PingPong]:
    load = PingPong(cpus)
    try:
        yield load
    finally:
        load.close()


def executions(count: int) -> None:
    """`count` times fork, exec, exit, one after the other."""
    subprocess.run(["sh", "-c", f"i=0; while [ $i -lt {count} ]; do /bin/true; i=$((i+1)); done"],
                   check=True, stdin=subprocess.DEVNULL)


def _hold(processes: int, threads: int) -> None:
    """In a process of its own: start sleepers that share its memory, and sleep."""
    libc = ctypes.CDLL(None, use_errno=True)
    arena = mmap.mmap(-1, _STACK * (processes + threads))
    base = ctypes.addressof(ctypes.c_char.from_buffer(arena))
    for i in range(processes + threads):
        flags = _CLONE_VM | signal.SIGCHLD if i < processes else _CLONE_THREAD
        stack = ctypes.c_void_p(base + _STACK * (i + 1) - 64)
        if libc.clone(libc.pause, stack, flags, None) < 0:
            print("refused", flush=True)
            os._exit(1)
    print("ready", flush=True)
    sys.stdin.read()
    # Children of a shared address space: none of them ends by itself.
    for child in Path("/proc/self/task", str(os.getpid()), "children").read_text().split():
        os.kill(int(child), signal.SIGKILL)
    os._exit(0)


@contextlib.contextmanager
def sleepers(processes: int = 0, threads: int = 0) -> Iterator[list[int]]:
    """So many idle processes, and idle threads of one process, made in a moment and cheaply; the
    pids of the processes."""
    if not processes + threads:
        yield []
        return
    code = f"from bench.load import _hold; _hold({processes}, {threads})"
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, cwd=ROOT)
    try:
        assert holder.stdout
        if holder.stdout.readline() != b"ready\n":
            raise RuntimeError(f"the kernel refused {processes + threads} tasks")
        children = Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text()
        yield [int(pid) for pid in children.split()]
    finally:
        assert holder.stdin
        holder.stdin.close()
        holder.wait()


_BUSY = """
import os, time
parent = os.getppid()
while os.getppid() == parent:
    end = time.perf_counter() + {duty} / 100
    while time.perf_counter() < end:
        pass
    time.sleep((1 - {duty}) / 100)
"""


@contextlib.contextmanager
def busy(name: str, duty: float = 0.3) -> Iterator[int]:
    """A process called `name` that uses `duty` of a CPU."""
    with tempfile.TemporaryDirectory(prefix="kt-") as place:
        script, python = Path(place, "busy"), Path(place, name)
        script.write_text(_BUSY.format(duty=duty), encoding="ascii")
        python.symlink_to(os.path.realpath(sys.executable))
        process = subprocess.Popen([python, "-S", "-E", script])
        try:
            time.sleep(0.3)
            yield process.pid
        finally:
            end(process, signal.SIGTERM)


_LOOP = "while [ -d /proc/$PPID ]; do /bin/true; sleep 0.2; done"


@contextlib.contextmanager
def mild() -> Iterator[None]:
    """A host with something to show: one process at 20% and a few short-lived ones a second."""
    loop = subprocess.Popen(["sh", "-c", _LOOP])
    try:
        with busy("kmild", 0.2):
            yield
    finally:
        end(loop, signal.SIGTERM)


@contextlib.contextmanager
def spaces(count: int) -> Iterator[None]:
    """So many network namespaces of a process each, with connections over their loopback."""
    children = [subprocess.Popen(["unshare", "--net", sys.executable, "-I", "-c", _SPACE],
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE)
                for _ in range(count)]
    try:
        for child in children:
            assert child.stdout is not None
            if not child.stdout.readline():
                raise Missing("no network namespaces can be made")
        yield
    finally:
        for child in children:
            end(child, signal.SIGKILL)
