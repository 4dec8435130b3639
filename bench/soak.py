"""`make soak`: hours of a live ktop in minutes, under changing load and keys, and what it held.

It runs in a pty at four samples a second, so that an hour's samples pass in 15 minutes, with a
short memory of the past (bench/soak_ktop.py), so that it is full early. Meanwhile keys walk through
panes, scopes, detail, stacks, filters, the past and recordings, and loads of a few seconds come and
go. Sampled: memory, objects, descriptors and threads of each process, BPF programs and maps, events
lost. What it means: bench/soak_judge.py.

    python -m bench.soak --minutes 60   writes bench/soak.json, bench/soak.svg, README's table
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
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyte

from bench.common import ROOT, fdinfos, memory_bytes, require_root
from bench.soak_judge import GROWS, judge, readme, table
from bench.soak_ktop import INTERVAL_S, PAST_BYTES, PLACE
from bench.soak_plot import draw
from bench.terminal import COLUMNS, LINES, Screen, Terminal, home
from ktop.bpf import syscall

JSON, SVG = ROOT / "bench/soak.json", ROOT / "bench/soak.svg"
README = ROOT / "README.md"
SAMPLE_S = 3.0
KEY_S = 0.8
LOAD_S = 5.0
WARM_S = 300.0  # at most, and a third of the run: until then what is remembered fills by design
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
_BUSY = ("import time\nend=time.time()+{s}\nwhile time.time()<end:\n sum(range(20000));"
         " time.sleep(.01)")
_FILES = ("import os,time\nend=time.time()+{s}\nos.makedirs('files',exist_ok=True); n=0\n"
          "while time.time()<end:\n n+=1; p=f'files/{{n%100}}'\n with open(p,'wb') as f:\n"
          "  f.write(b'x'*8192); f.flush(); os.fsync(f.fileno())\n"
          " open(p,'rb').read(); time.sleep(.01)")
_NET = ("import socket,time\nend=time.time()+{s}\ns=socket.socket(); s.bind(('127.0.0.1',0));"
        " s.listen(50)\nwhile time.time()<end:\n c=socket.create_connection(s.getsockname());"
        " a,_=s.accept(); c.sendall(b'x'*20000); a.recv(65536); a.close(); c.close();"
        " time.sleep(.01)")
_THREADS = ("import threading,time\nend=time.time()+{s}\nwhile time.time()<end:\n"
            " t=[threading.Thread(target=time.sleep,args=(.5,)) for _ in range(60)]\n"
            " [x.start() for x in t]; [x.join() for x in t]")
_EXECS = ("import subprocess,time\nend=time.time()+{s}\nwhile time.time()<end:\n"
          " subprocess.run(['/bin/true']); time.sleep(.02)")
# Files and processes that are never seen again, some of which wrote to a disk: maps fill to their
# bounds, and stay full.
_FILL = ("import os,time\nend=time.time()+{s}\nos.makedirs('files',exist_ok=True); n=0\n"
         "while time.time()<end:\n n+=1; p=f'files/{{os.getpid()}}-{{n}}'\n"
         " with open(p,'wb') as f: f.write(b'x')\n os.unlink(p)\n"
         " if n%4==0:\n  c=os.fork()\n  if not c:\n   os.listdir('.')\n"
         "   with open(p,'wb') as f: f.write(b'x'); f.flush(); os.fsync(f.fileno())\n"
         "   os.unlink(p); os._exit(0)\n"
         "  os.waitpid(c,0)\n time.sleep(.0003)")
LOADS = (_FILL, None, _EXECS, _NET, _BUSY, _FILES, None, _THREADS)


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
    found = list(fdinfos([pid]))
    maps = {int(info["map_id"]): {name: int(info[name], 0) for name in
                                  ("map_type", "key_size", "value_size", "memlock")}
            for info in found if "map_type" in info}
    return {int(info["prog_id"]) for info in found if "prog_tag" in info}, maps


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


def objects(role: str, pid: int, where: Path) -> dict[str, float | None]:
    """What a process noted when it was asked last (bench/soak_ktop.py); it is asked again."""
    noted: dict[str, float | None] = {}
    with contextlib.suppress(OSError):
        found = json.loads((where / f"{pid}.held").read_text(encoding="ascii"))
        noted[f"{role}_blocks"] = found["blocks"] / 1e3
        noted[f"{role}_malloc"] = None if found["malloc"] is None else found["malloc"] / 1e6
    os.kill(pid, signal.SIGUSR1)
    return noted


def measure(terminal: Soaked, since: float, where: Path) -> dict[str, Any]:
    """One sample of everything. Bytes are MB, objects thousands of blocks."""
    row: dict[str, Any] = {"minute": round((time.perf_counter() - since) / 60, 3)}
    who = roles(terminal.pid)
    for role, pid in who.items():
        row[f"{role}_rss"] = memory_bytes(pid)["Rss"] / 1e6
        row[f"{role}_fds"] = len(os.listdir(f"/proc/{pid}/fd"))
        row[f"{role}_threads"] = len(os.listdir(f"/proc/{pid}/task"))
        if role != "supervisor":
            row |= objects(role, pid, where)
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
    command = ["env", f"PYTHONPATH={ROOT}", f"{PLACE}={{}}", sys.executable, "-m",
               "bench.soak_ktop"]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with (home() as where, contextlib.chdir(where),
          Soaked([word.format(where) for word in command], where) as terminal):
        begun = time.perf_counter()
        while time.perf_counter() < begun + 12 or "collector" not in roles(terminal.pid):
            if not terminal.run(1) or time.perf_counter() > begun + 120:
                raise SystemExit("soak: no ktop with its probes:\n"
                                 + "\n".join(terminal.screen.display))
        since = time.perf_counter()
        with contextlib.suppress(KeyboardInterrupt):  # told to end: what there is counts
            while time.perf_counter() - since < minutes * 60:
                with load(next(loads)):
                    _turn(terminal, keys, since, samples, Path(where))
                _forget_files(Path(where))
                row = samples[-1]
                say(f"{row['minute']:.1f} min  interface {row.get('ui_rss', 0):.1f} MB  collector "
                    f"{row.get('collector_rss', 0):.1f} MB  entries {row['entries']}  "
                    f"lost {row['lost']}")
    return samples


def _turn(terminal: Soaked, keys: Iterator[str], since: float,
          samples: list[dict[str, Any]], where: Path) -> None:
    """Keys and samples for as long as a load goes on."""
    end = time.perf_counter() + LOAD_S
    due = 0.0
    while time.perf_counter() < end:
        terminal.press(next(keys))
        if not terminal.run(KEY_S):
            raise SystemExit("soak: ktop ended:\n" + "\n".join(terminal.screen.display))
        if time.perf_counter() >= due:
            due = time.perf_counter() + SAMPLE_S
            samples.append(measure(terminal, since, where))


def _forget_files(folder: Path) -> None:
    """What R and w wrote, when it is old."""
    for file in folder.glob("*.ktop*"):
        if time.time() - file.stat().st_mtime > 60:
            file.unlink()


def store(samples: list[dict[str, Any]], minutes: float, keep: bool) -> int:
    """Judge, print, write; the exit status: 1 when something grows."""
    warm = min(WARM_S / 60, minutes / 3)
    result = {"kernel": platform.release(), "cpus": os.cpu_count(), "minutes": minutes,
              "date": datetime.now(UTC).date().isoformat(), "interval_s": INTERVAL_S,
              "past_bytes": PAST_BYTES, "warm_minutes": round(warm, 2),
              "held": judge(samples, warm), "samples": samples}
    print("\n".join(table(result["held"])))
    if keep:
        JSON.write_text(json.dumps(result, indent=None, separators=(",", ":")).replace(
            "},{", "},\n{") + "\n", encoding="ascii")
        SVG.write_text(draw(samples, warm), encoding="utf-8")
        where = [str(file.relative_to(ROOT)) for file in (JSON, SVG)]
        print("written:", *where, *(["README.md"] if readme(result, README) else []))
    return 1 if any(row["said"] == GROWS for row in result["held"].values()) else 0


def main() -> int:
    """Exit status 1: something grows."""
    parser = argparse.ArgumentParser(prog="bench.soak", description="Does anything grow?")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--keep", action=argparse.BooleanOptionalAction, default=True,
                        help="write soak.json, soak.svg and the table of README.md")
    args = parser.parse_args()
    require_root()
    samples = soak(args.minutes, lambda line: print(line, file=sys.stderr, flush=True))
    return store(samples, args.minutes, args.keep)


if __name__ == "__main__":
    sys.exit(main())
