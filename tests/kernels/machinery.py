"""Devices of known behaviour for the guest. Modules of the stock kernel, nothing else."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path


def run(command: str, check: bool = True) -> str:
    """A command's output."""
    done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise RuntimeError(f"{command}: {done.stderr.strip() or done.returncode}")
    return done.stdout


def _made(module: str, device: str) -> None:
    run(f"modprobe {module}")
    for _ in range(100):
        if Path(f"/dev/{device}").exists():
            return
        time.sleep(0.05)
    raise RuntimeError(f"{module} made no /dev/{device}")


@contextlib.contextmanager
def null_disk(delay_ns: int = 5_000_000) -> Iterator[str]:
    """null_blk: a disk of 1 GB that answers each request after so long; its data are zeros."""
    _made(f"null_blk nr_devices=1 gb=1 irqmode=2 completion_nsec={delay_ns}", "nullb0")
    try:
        yield "nullb0"
    finally:
        run("modprobe -r null_blk", check=False)


@contextlib.contextmanager
def ram_disk(where: Path, megabytes: int = 192) -> Iterator[Path]:
    """ext4 on a loop device in memory, mounted.

    Its memory is taken here: else it would be charged to who writes, in whose control group it
    could not be reclaimed.
    """
    where.mkdir(parents=True, exist_ok=True)
    image = Path("/dev/shm/ktop-kernels.img")
    with image.open("wb") as f:
        os.posix_fallocate(f.fileno(), 0, megabytes << 20)
    run("modprobe loop")
    run("modprobe ext4")
    run(f"mkfs.ext4 -q -O ^has_journal {image}")
    loop = run(f"losetup --find --show {image}").strip()
    run(f"mount {loop} {where}")
    try:
        yield where
    finally:
        run(f"umount -l {where}", check=False)
        run(f"losetup -d {loop}", check=False)
        image.unlink()
