"""From exec to the first live numbers on the screen of a pty; and a cold `--version`.

Live numbers are there when the row of a process that is known to use 30% of a CPU shows it, paint
when there is any text.
"""

from __future__ import annotations

import re
import subprocess
import time

from bench.common import KTOP, Missing, Row, tool
from bench.load import busy
from bench.terminal import Terminal, command, home

_NAME = "kbusy"  # short: columns are cut


def _row(display: list[str]) -> str | None:
    return next((line for line in display if _NAME in line), None)


def _painted(display: list[str]) -> bool:
    return sum(bool(line.strip()) for line in display) > 2


def _live(display: list[str]) -> bool:
    line = _row(display)
    if line is None:
        return False
    # What stands left of the command is figures; a share of 30% shows as 10 to 60.
    return any(10 <= float(found) <= 60
               for found in re.findall(r"(?<![\d.:])\d{1,2}\.\d(?![\d:BKMG])", line))


def _once(name: str, where: str) -> tuple[float, float]:
    """(paint, live), in seconds."""
    with Terminal(command(name), where, record=True) as terminal:
        terminal.run(3.0)
        paint, live = terminal.seen(_painted, _live)
        if not live:  # a busy host
            terminal.run(9.0)
            paint, live = terminal.seen(_painted, _live)
    if not paint or not live:
        shown = [line.strip() for line in terminal.display if line.strip()]
        raise Missing(f"{name} never showed it: {(shown or ['blank'])[0][:60]}")
    return paint, live


def _version() -> float:
    begun = time.perf_counter()
    subprocess.run([KTOP, "--version"], check=True, capture_output=True)
    return time.perf_counter() - begun


def run(quick: bool) -> list[Row]:
    rounds = 1 if quick else 5
    paints: dict[str, list[float] | str] = {}
    lives: dict[str, list[float] | str] = {}
    with home() as where, busy(_NAME):
        for _ in range(rounds):
            for name in ("ktop", "htop", "btop"):
                try:
                    paint, live = _once(name, where)
                except (Missing, OSError) as err:
                    paints[name] = lives[name] = str(err)
                    continue
                for found, value in ((paints, paint), (lives, live)):
                    values = found.setdefault(name, [])
                    if isinstance(values, list):
                        values.append(value * 1000)
    rows = [Row("start to first live numbers", "ms", lives.pop("ktop"), lives),
            Row("start to first paint", "ms", paints.pop("ktop"), paints)]
    try:
        versions: list[float] | str = [_version() * 1000 for _ in range(rounds)]
    except (OSError, subprocess.CalledProcessError) as err:
        versions = str(err)
    theirs = []
    for _ in range(rounds):
        begun = time.perf_counter()
        subprocess.run([tool("htop"), "--version"], check=False, capture_output=True)
        theirs.append((time.perf_counter() - begun) * 1000)
    return [*rows, Row("`--version`", "ms", versions, {"htop": theirs})]
