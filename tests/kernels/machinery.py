"""Devices of known behaviour for the guest. Modules of the stock kernel, nothing else."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path


def run(command: str, check: bool = True, table: str | None = None) -> str:
    """A command's output. table: a last word with spaces in it."""
    words = [*command.split(), *([table] if table is not None else [])]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
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


class Delayed:
    """A mapping above a device, by dm-delay: it holds each request for a while. `name`: dm-0."""

    def __init__(self, device: str, ms: int) -> None:
        self._device = device
        self._of = f"ktop-{Path(device).name}"
        run("modprobe dm-delay")
        before = set(Path("/sys/block").glob("dm-*"))
        run(f"dmsetup create {self._of} --noudevsync --table", table=self._table(ms))
        (made,) = set(Path("/sys/block").glob("dm-*")) - before
        self.name = made.name

    def _table(self, ms: int) -> str:
        sectors = int(Path(f"/sys/class/block/{Path(self._device).name}/size").read_text())
        return f"0 {sectors} delay {self._device} 0 {ms}"

    def hold(self, ms: int) -> None:
        """From now on for so long."""
        run(f"dmsetup load {self._of} --table", table=self._table(ms))
        run(f"dmsetup suspend --noudevsync {self._of}")
        run(f"dmsetup resume --noudevsync {self._of}")

    def remove(self) -> None:
        """Undo it."""
        run(f"dmsetup remove --retry --noudevsync {self._of}", check=False)


@contextlib.contextmanager
def delayed(device: str, ms: int) -> Iterator[Delayed]:
    """A device that is slower by so many ms, for the block."""
    mapped = Delayed(device, ms)
    try:
        yield mapped
    finally:
        mapped.remove()


@contextlib.contextmanager
def ram_disk(where: Path, megabytes: int = 192, held_ms: int = 0) -> Iterator[Path]:
    """ext4 on a loop device in memory, mounted. held_ms: what each request takes.

    Its memory is taken here, and mkfs must not give it back: else it would be charged to who
    writes, in whose control group it could not be reclaimed, which ends in its OOM killer.
    """
    where.mkdir(parents=True, exist_ok=True)
    image = Path("/dev/shm/ktop-kernels.img")
    with image.open("wb") as f:
        os.posix_fallocate(f.fileno(), 0, megabytes << 20)
    run("modprobe loop")
    run("modprobe ext4")
    run(f"mkfs.ext4 -q -E nodiscard -O ^has_journal {image}")
    loop = run(f"losetup --find --show {image}").strip()
    mapped = Delayed(loop, held_ms) if held_ms else None
    run(f"mount {f'/dev/{mapped.name}' if mapped is not None else loop} {where}")
    try:
        yield where
    finally:
        run(f"umount -l {where}", check=False)
        if mapped is not None:
            mapped.remove()
        run(f"losetup -d {loop}", check=False)
        image.unlink()
