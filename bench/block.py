"""What a block request costs in BPF programs, beside the tools that show the same.

Per request of the same fio run (4 KiB random reads, a queue of 32), all attached at the same time.
The tools that show what ktop's two programs show are three: biolatency -D for the device's time,
biolatency -Q for the whole, biosnoop or biotop for whose it is; where those do not start the
comparison is with the first two alone.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench import hooks
from bench.common import ROOT, Missing, Row, require_root

NAMES = ["biolatency -D", "biolatency -Q", "biosnoop", "biotop", "biolatency.bt", "biosnoop.bt"]
_OURS = ("block_done", "block_start")


@contextlib.contextmanager
def data(megabytes: int) -> Iterator[Path]:
    """A file of random bytes on the disk that this tree is on."""
    if shutil.which("fio") is None:
        raise Missing("fio is not installed")
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=ROOT) as place:
        file = Path(place, "data")
        file.write_bytes(os.urandom(megabytes << 20))
        os.sync()
        yield file


def fio(file: Path, *options: str) -> bytes:
    """Random reads of 4 KiB past the page cache; what fio says, as JSON."""
    done = subprocess.run(
        ["fio", "--name=b", f"--filename={file}", "--direct=1", "--bs=4k", "--rw=randread",
         "--ioengine=libaio", "--output-format=json", *options],
        capture_output=True, check=True, stdin=subprocess.DEVNULL, cwd=file.parent)
    return done.stdout[done.stdout.index(b"{"):]


def reads(loops: int) -> None:
    """Every block of 32 MB, so many times."""
    with data(32) as file:
        fio(file, "--size=32m", "--iodepth=32", f"--loops={loops}")


def run(quick: bool) -> list[Row]:
    """Cost per request."""
    require_root()
    absent: dict[str, str] = {}
    with data(32):  # so that what is missing is said at once
        pass
    rounds = hooks.rounds(lambda: reads(1 if quick else 3), NAMES, 1 if quick else 4, absent,
                          ("block",), "block_done")
    rows = [hooks.compare("block request, 4k random reads", rounds, _OURS, "block_done", NAMES,
                          absent)]
    for name in (*_OURS, "block_stamp"):
        rows += hooks.alone(rounds, name, f"`{name}`, one run")
    return rows
