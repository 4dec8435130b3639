"""What a block request costs in BPF programs, beside the libbpf-tools that show the same, and what
fio (4 KiB random reads, a queue of 32) loses by them.

Per request of the same fio run, all attached at the same time. The tools that show what ktop's two
programs show are three: biolatency -D for the device's time, biolatency -Q for the whole, biosnoop
or biotop for whose it is; where those do not start the comparison is with the first two alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench import hooks
from bench.common import Missing, Row, bpf_stats, programs_of, require_root
from ktop.collect.main import Collector, Options

NAMES = ("biolatency -D", "biolatency -Q", "biosnoop", "biotop")
hooks.ARGUMENTS.update({name: name.split() for name in NAMES})
_OURS = ("block_done", "block_start")


def _fio(file: Path, loops: int) -> float:
    """Reads a second."""
    if shutil.which("fio") is None:
        raise Missing("fio is not installed")
    done = subprocess.run(
        ["fio", "--name=b", f"--filename={file}", "--size=32m", "--direct=1", "--bs=4k",
         "--rw=randread", "--ioengine=libaio", "--iodepth=32", f"--loops={loops}",
         "--output-format=json"], capture_output=True, check=True, cwd=file.parent)
    found: float = json.loads(done.stdout[done.stdout.index(b"{"):])["jobs"][0]["read"]["iops"]
    return found


@contextlib.contextmanager
def _ktop(watched: bool) -> Iterator[set[int]]:
    """ktop with every layer loaded: the ids of its programs."""
    before = programs_of([os.getpid()])
    one = Collector(Options(watch=("block",) if watched else ()))
    one.start()
    try:
        one.tick()
        one.settle()
        one.tick()
        yield programs_of([os.getpid()]) - before
    finally:
        one.close()


def _costs(file: Path, quick: bool, absent: dict[str, str]) -> hooks.Costs:
    """One round: everything attached, one fio."""
    owners: dict[str, set[int]] = {}
    with contextlib.ExitStack() as stack:
        owners["ktop"] = stack.enter_context(_ktop(True))
        for name in NAMES:
            if name not in absent:
                try:
                    owners[name] = stack.enter_context(hooks.peer(name))
                except (Missing, OSError) as err:
                    absent[name] = str(err)
        before = hooks._read(owners)
        _fio(file, 1 if quick else 3)
        return hooks._difference(hooks._read(owners), before)


def _slowdown(file: Path, quick: bool) -> list[float]:
    """fio's reads a second lost to ktop's always-on programs, %, in pairs of runs."""
    lost = []
    for _ in range(2 if quick else 5):
        off = _fio(file, 2)
        with _ktop(False):
            lost.append(100.0 * (1.0 - _fio(file, 2) / off))
    return lost


def run(quick: bool) -> list[Row]:
    """Cost per request, and the slowdown."""
    require_root()
    absent: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="ktop-bench-") as place:
        file = Path(place, "data")
        file.write_bytes(os.urandom(32 << 20))
        os.sync()
        _fio(file, 1)
        with bpf_stats():
            rounds = [_costs(file, quick, absent) for _ in range(2 if quick else 4)]
        rows = [hooks._compare("block request, 4k random reads", rounds, _OURS, "block_done",
                               list(NAMES), absent)]
        for name in (*_OURS, "block_stamp"):
            rows += hooks._alone(rounds, name, f"`{name}`, one run")
        rows.append(Row("fio, 4k random reads: slower by", "%", _slowdown(file, quick)))
    return rows
