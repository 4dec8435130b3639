"""`make soak`: hours of a live ktop in minutes, under changing load and keys, and what it held.

It runs in a pty at four samples a second, so that an hour's samples pass in 15 minutes, with 4 MB
of memory for the past instead of 64, so that it is full early. Meanwhile keys walk through panes,
scopes, detail, stacks, filters, the past and recordings, and loads of a few seconds come and go.
Sampled: memory, descriptors and threads of each process, BPF programs and maps, events lost.

    python -m bench.soak --minutes 60       writes bench/soak.json and bench/soak.svg
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import platform
import re
import signal
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyte

from bench.common import ROOT, memory_bytes, require_root
from bench.soak_ktop import INTERVAL_S, PAST_BYTES
from bench.soak_plot import draw
from bench.terminal import COLUMNS, LINES, Screen, Terminal, home
from ktop.bpf import syscall

JSON, SVG = ROOT / "bench/soak.json", ROOT / "bench/soak.svg"
SAMPLE_S = 5.0
KEY_S = 1.5
LOAD_S = 20.0
WARM_S = 630.0  # charts hold ten minutes: until then memory grows by design
_MAP_GET_FD_BY_ID = 14
_HASHES, _PER_CPU = (1, 5, 9, 10), (5, 10)
_LOST = re.compile(r"lost ([\d,.]+[kM]?)")
# Each is a step of a user's: the last key of a step leaves things as they were.
STEPS = (
    "1", "\r", "\t", "\t", "\x1b", "p", "2", "3", "4", "5", "6", "\x7f", "1", "g", "j", "g",
    "c", "5", "6", "3", "\x7f", "2", ">", "<", "I", "I", "3", "\r", "\x1b", "4", "\r", "\x1b",
    "1", "/", "soak\r", "n", "\x1b", "t", "T", "T", "[", "]", "0", "z", "z", "z", "z", " ", " ",
    "S", "\x1b", "6", "\r", "\x1b", "?", "\x1b", "C", "\x1b", ":", "\x1b", "D", "\x1b", "R",
    "1", "5", "R", "w", "\x0c")
# What must not grow: (key of a sample, what it is called, unit, growth an hour that is none).
HELD = (
    ("ui_rss", "memory of the interface", "MB", 6.0),
    ("collector_rss", "memory of the collector", "MB", 3.0),
    ("supervisor_rss", "memory of the supervisor", "MB", 1.0),
    ("ui_fds", "descriptors of the interface", "", 4.0),
    ("collector_fds", "descriptors of the collector", "", 4.0),
    ("ui_threads", "threads of the interface", "", 2.0),
    ("collector_threads", "threads of the collector", "", 2.0),
    ("programs", "BPF programs", "", 2.0),
    ("maps", "BPF maps", "", 2.0),
    ("map_mb", "kernel memory of the maps", "MB", 1.0))

_BUSY = ("import time\nend=time.time()+{s}\nwhile time.time()<end:\n sum(range(20000));"
         " time.sleep(.01)")
_FILES = ("import os,tempfile,time\nend=time.time()+{s}\n"
          "with tempfile.TemporaryDirectory() as d:\n n=0\n"
          " while time.time()<end:\n  n+=1; p=f'{{d}}/{{n%500}}'\n  with open(p,'wb') as f:\n"
          "   f.write(b'x'*8192); f.flush(); os.fsync(f.fileno())\n"
          "  open(p,'rb').read(); time.sleep(.01)")
_NET = ("import socket,time\nend=time.time()+{s}\ns=socket.socket(); s.bind(('127.0.0.1',0));"
        " s.listen(50)\nwhile time.time()<end:\n c=socket.create_connection(s.getsockname());"
        " a,_=s.accept(); c.sendall(b'x'*20000); a.recv(65536); a.close(); c.close();"
        " time.sleep(.01)")
_THREADS = ("import threading,time\nend=time.time()+{s}\nwhile time.time()<end:\n"
            " t=[threading.Thread(target=time.sleep,args=(.5,)) for _ in range(60)]\n"
            " [x.start() for x in t]; [x.join() for x in t]")
_EXECS = ("import subprocess,time\nend=time.time()+{s}\nwhile time.time()<end:\n"
          " subprocess.run(['/bin/true']); time.sleep(.02)")
LOADS = (None, _EXECS, _NET, _BUSY, _FILES, None, _THREADS)


class Soaked(Terminal):
    """A terminal that knows what it shows."""

    def __init__(self, argv: list[str], where: str) -> None:
        self.screen = Screen(COLUMNS, LINES)
        self._stream = pyte.ByteStream(self.screen)
        super().__init__(argv, where, record=True)

    def run(self, seconds: float) -> bool:
        """Read for so long, into the screen."""
        alive = super().run(seconds)
        for _, data in self.recorded:
            self._stream.feed(data)
        self.recorded.clear()
        return alive

    def press(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    def lost(self) -> str | None:
        """What the header says of events lost."""
        found = next(filter(None, map(_LOST.search, self.screen.display)), None)
        return found.group(1) if found else None


def roles(top: int) -> dict[str, int]:
    """The three processes: the first supervises, the collector holds programs."""
    text = Path(f"/proc/{top}/task/{top}/children").read_text(encoding="ascii")
    found = {"supervisor": top}
    for child in map(int, text.split()):
        found["collector" if _held(child)[0] else "ui"] = child
    return found


def _held(pid: int) -> tuple[set[int], dict[int, dict[str, int]]]:
    """Ids of the BPF programs that a process holds, and its maps by id (/proc/PID/fdinfo)."""
    programs: set[int] = set()
    maps: dict[int, dict[str, int]] = {}
    with contextlib.suppress(OSError):
        for fd in os.listdir(f"/proc/{pid}/fdinfo"):
            with contextlib.suppress(OSError):
                text = Path(f"/proc/{pid}/fdinfo/{fd}").read_text(encoding="ascii")
                pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line)
                fields = {name: value.strip() for name, value in pairs}
                if "map_id" in fields:
                    maps[int(fields["map_id"])] = {
                        name: int(fields[name], 0) for name in
                        ("map_type", "key_size", "value_size", "memlock")}
                elif "prog_id" in fields and "prog_tag" in fields:
                    programs.add(int(fields["prog_id"]))
    return programs, maps


def entries(number: int, shape: dict[str, int]) -> int:
    """How many entries a hash map has now."""
    size = shape["value_size"]
    if shape["map_type"] in _PER_CPU:
        size = ((size + 7) & ~7) * syscall.possible_cpus()
    fd = syscall.bpf(_MAP_GET_FD_BY_ID, struct.pack("@III", number, 0, 0))
    try:
        return syscall.map_lookup_batch(fd, shape["key_size"], size, 512)[2]
    finally:
        os.close(fd)


def measure(terminal: Soaked, since: float) -> dict[str, Any]:
    """One sample of everything. Bytes are MB."""
    row: dict[str, Any] = {"minute": round((time.perf_counter() - since) / 60, 3)}
    who = roles(terminal.pid)
    for role, pid in who.items():
        row[f"{role}_rss"] = memory_bytes(pid)["Rss"] / 1e6
        row[f"{role}_fds"] = len(os.listdir(f"/proc/{pid}/fd"))
        row[f"{role}_threads"] = len(os.listdir(f"/proc/{pid}/task"))
    programs, maps = _held(who["collector"])
    row["programs"], row["maps"] = len(programs), len(maps)
    row["map_mb"] = sum(shape["memlock"] for shape in maps.values()) / 1e6
    row["entries"] = 0
    for number, shape in maps.items():
        if shape["map_type"] in _HASHES:
            with contextlib.suppress(OSError):
                row["entries"] += entries(number, shape)
    row["lost"] = terminal.lost()
    return row


def slope(points: list[tuple[float, float]]) -> float:
    """Theil-Sen: the median of the slopes of all pairs, an hour. points: (minutes, value)."""
    pairs = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in itertools.combinations(points, 2)
             if b[0] > a[0]]
    return 60 * statistics.median(pairs) if pairs else 0.0


def judge(samples: list[dict[str, Any]], warm_min: float) -> dict[str, dict[str, Any]]:
    """Of what must not grow: its growth an hour after warming up, and whether that is none.

    A slope alone says little of a short run: what grows also ends higher than it began.
    """
    kept = [row for row in samples if row["minute"] >= warm_min]
    found: dict[str, dict[str, Any]] = {}
    for key, name, unit, allowed in HELD:
        points = [(row["minute"], row[key]) for row in kept if key in row]
        if len(points) < 8:
            found[key] = {"name": name, "unit": unit, "per_hour": None, "flat": None}
            continue
        quarter = len(points) // 4
        first, last = (statistics.median(v for _, v in part)
                       for part in (points[:quarter], points[-quarter:]))
        per_hour = slope(points)
        found[key] = {"name": name, "unit": unit, "first": first, "last": last,
                      "highest": max(v for _, v in points), "per_hour": round(per_hour, 3),
                      "flat": per_hour <= allowed or last <= first + allowed / 20}
    return found


@contextlib.contextmanager
def load(code: str | None) -> Iterator[None]:
    """One of LOADS, ended by itself or with the block."""
    if code is None:
        yield
        return
    child = subprocess.Popen([sys.executable, "-I", "-c", code.format(s=LOAD_S)],
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        child.kill()
        child.wait()


def soak(minutes: float, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """The samples. What ends before its time is an error."""
    samples: list[dict[str, Any]] = []
    keys, loads = itertools.cycle(STEPS), itertools.cycle(LOADS)
    command = ["env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "bench.soak_ktop"]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with home() as where, contextlib.chdir(where), Soaked(command, where) as terminal:
        if not terminal.run(12):
            raise SystemExit("soak: ktop ended at once:\n" + "\n".join(terminal.screen.display))
        since = time.perf_counter()
        with contextlib.suppress(KeyboardInterrupt):  # told to end: what there is counts
            while time.perf_counter() - since < minutes * 60:
                with load(next(loads)):
                    _turn(terminal, keys, since, samples)
                _forget_files(Path(where))
                row = samples[-1]
                say(f"{row['minute']:.1f} min  interface {row.get('ui_rss', 0):.1f} MB  collector "
                    f"{row.get('collector_rss', 0):.1f} MB  entries {row['entries']}  "
                    f"lost {row['lost']}")
    return samples


def report(result: dict[str, Any]) -> list[str]:
    """The table of the README."""
    lines = ["| | at first | at the end | highest | growth an hour | |",
             "|---|---|---|---|---|---|"]
    for row in result["held"].values():
        if row["per_hour"] is None:
            lines.append(f"| {row['name']} | - | - | - | - | too short to say |")
            continue
        unit = f" {row['unit']}" if row["unit"] else ""
        figures = " | ".join(f"{row[k]:.4g}{unit}" for k in ("first", "last", "highest"))
        lines.append(f"| {row['name']} | {figures} | {row['per_hour']:+.2g}{unit} | "
                     f"{'flat' if row['flat'] else 'GROWS'} |")
    return lines


def _turn(terminal: Soaked, keys: Iterator[str], since: float,
          samples: list[dict[str, Any]]) -> None:
    """Keys and samples for as long as a load goes on."""
    end = time.perf_counter() + LOAD_S
    due = 0.0
    while time.perf_counter() < end:
        terminal.press(next(keys))
        if not terminal.run(KEY_S):
            raise SystemExit("soak: ktop ended:\n" + "\n".join(terminal.screen.display))
        if time.perf_counter() >= due:
            due = time.perf_counter() + SAMPLE_S
            samples.append(measure(terminal, since))


def _forget_files(folder: Path) -> None:
    """What R and w wrote, when it is old."""
    for file in folder.glob("*.ktop*"):
        if time.time() - file.stat().st_mtime > 60:
            file.unlink()


def store(samples: list[dict[str, Any]], minutes: float, keep: bool) -> int:
    """Judge, print, write; the exit status: 1 when something grows."""
    warm = min(WARM_S / 60, minutes / 3)
    result = {"kernel": platform.release(), "cpus": os.cpu_count(), "minutes": minutes,
              "interval_s": INTERVAL_S, "past_bytes": PAST_BYTES, "warm_minutes": round(warm, 2),
              "held": judge(samples, warm), "samples": samples}
    print("\n".join(report(result)))
    if keep:
        JSON.write_text(json.dumps(result, indent=None, separators=(",", ":")).replace(
            "},{", "},\n{") + "\n", encoding="ascii")
        SVG.write_text(draw(samples, warm), encoding="utf-8")
        print(f"written: {JSON.relative_to(ROOT)}, {SVG.relative_to(ROOT)}")
    return 1 if any(row["flat"] is False for row in result["held"].values()) else 0


def main() -> int:
    """Exit status 1: something grows."""
    parser = argparse.ArgumentParser(prog="bench.soak", description="Does anything grow?")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--keep", action=argparse.BooleanOptionalAction, default=True,
                        help="write soak.json and soak.svg")
    args = parser.parse_args()
    require_root()
    samples = soak(args.minutes, lambda line: print(line, file=sys.stderr, flush=True))
    return store(samples, args.minutes, args.keep)


if __name__ == "__main__":
    sys.exit(main())
