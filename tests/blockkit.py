"""What the live block tests share: a collector, a file on a real disk, fio, loop devices."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ktop.collect.main import Collector, Options
from ktop.model import Block, Frame
from ktop.model_block import BlockOp, BlockUser, Device
from ktop.panes.block_columns import of_op

MIB = 1 << 20
# The kernel of a sandbox may run no BPF program while a task of its own agent is current: what a
# disk completes in an interrupt of that task is in /sys and ftrace, and unseen by any program.
# Measured: once a second, for some ms, so that both writes of one process in 400 are gone. For a
# test: processes of 100 that may be so, at most.
UNSEEN = 5


@contextlib.contextmanager
def collecting_block() -> Iterator[Collector]:
    c = Collector(Options(watch=("block",)))
    c.start()
    try:
        c.tick()
        c.settle()
        c.tick()
        yield c
    finally:
        c.close()


@contextlib.contextmanager
def file_on_disk(where: Path) -> Iterator[Path]:
    """A file of 32 MiB on a real disk, written out."""
    path = where / "data"
    if not os.path.exists(f"/sys/dev/block/{_number(where)}"):
        pytest.skip(f"{where} is on no block device")
    with path.open("wb") as f:
        for _ in range(32):
            f.write(os.urandom(MIB))
        f.flush()
        os.fsync(f.fileno())
    yield path
    path.unlink(missing_ok=True)


def _number(path: Path) -> str:
    dev = os.stat(path).st_dev
    return f"{os.major(dev)}:{os.minor(dev)}"


def disk_of(path: Path) -> str:
    """Name of the whole disk that a file is on."""
    found = Path(f"/sys/dev/block/{_number(path)}").resolve()
    return found.parent.name if (found / "partition").exists() else found.name


def window(collector: Collector, work: Callable[[], Any]) -> tuple[Frame, Block, float]:
    """The frame of the time that `work` takes, its block layer, and that time in s."""
    collector.tick()
    work()
    frame = collector.tick()
    assert frame.block is not None and frame.clock.interval_ns is not None
    return frame, frame.block, frame.clock.interval_ns / 1e9


def device(block: Block, name: str) -> Device:
    return next(d for d in block.devices if d.name == name)


def op(block: Block, name: str, which: str) -> BlockOp:
    found = of_op(device(block, name), which)
    assert found is not None
    return found


def user(block: Block, pid: int) -> BlockUser:
    return next(u for u in block.users if u.pid == pid)


def stat(name: str) -> list[int]:
    return [int(n) for n in Path(f"/sys/block/{name}/stat").read_text().split()]


def warm(where: Path) -> None:
    """fio's own program and libraries are read from disk the first time."""
    path = where / "data"
    path.write_bytes(bytes(32 * MIB))
    for engine in ("psync", "libaio"):
        fio(path, "--rw=randrw", "--number_ios=10", f"--ioengine={engine}")
    path.unlink()


def fio(file: Path, *options: str, first: bool = False) -> tuple[int, dict[str, Any]]:
    """(its pid, its job's results). One process: its threads do the work. first: it never waits
    for a CPU."""
    if shutil.which("fio") is None:
        pytest.fail("fio is not installed: apt-get install fio")
    p = subprocess.Popen(
        [*(["chrt", "-f", "20"] if first else []), "fio", "--name=t", f"--filename={file}",
         "--size=32m", "--direct=1", "--thread",
         "--ioengine=psync", "--bs=4k", "--output-format=json", "--allow_file_create=0", *options],
        stdout=subprocess.PIPE, cwd=file.parent)
    out, _ = p.communicate(timeout=60)
    assert p.returncode == 0
    return p.pid, json.loads(out[out.index(b"{"):])["jobs"][0]


@contextlib.contextmanager
def loop(file: Path) -> Iterator[str]:
    """A loop device on a file; always detached."""
    made = subprocess.run(["losetup", "--find", "--show", "--direct-io=on", str(file)], text=True,
                          capture_output=True, check=False)
    if made.returncode:
        pytest.skip(f"no loop devices: {made.stderr.strip()}")
    path = made.stdout.strip()
    try:
        yield os.path.basename(path)
    finally:
        for _ in range(50):
            if subprocess.run(["losetup", "--detach", path], check=False).returncode == 0:
                break
            time.sleep(0.1)


@contextlib.contextmanager
def direct(path: str, flags: int = os.O_RDONLY) -> Iterator[tuple[int, mmap.mmap]]:
    """An fd past the page cache, and a page to use it with."""
    fd = os.open(path, flags | os.O_DIRECT)
    page = mmap.mmap(-1, 4096)
    try:
        yield fd, page
    finally:
        os.close(fd)
        page.close()
