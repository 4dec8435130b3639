"""What ktop may cost at most, and whether it does: each against a row of the table."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from bench.common import Row, ratio

TOGETHER = " + "  # in the name of peers that are added up


@dataclass(frozen=True)
class Budget:
    """`what` begins the row's name. peer: at least `limit` times ours is its figure (TOGETHER: of
    those that are added up); None: ours is at most `limit`."""

    text: str
    what: str
    limit: float
    peer: str | None = None

    def _pair(self, rows: list[Row]) -> tuple[list[float], list[float] | None] | str:
        row = next((row for row in rows if row.what.startswith(self.what)), None)
        if row is None:
            return "not measured"
        if isinstance(row.ktop, str) or not row.ktop:
            return str(row.ktop) or "not measured"
        if self.peer is None:
            return row.ktop, None
        for name, values in row.peers.items():
            if isinstance(values, list) and values and (
                    self.peer in name if self.peer == TOGETHER else self.peer == name):
                return row.ktop, values
        return "no peer for it starts here"

    def line(self, rows: list[Row]) -> str:
        """A line of the table: the budget, what was found, ok or missed."""
        pair = self._pair(rows)
        if isinstance(pair, str):
            return f"| {self.text} | - | {pair} |"
        ours, theirs = pair
        if theirs is None:
            found = statistics.median(ours)
            held = found <= self.limit
            return f"| {self.text} | {found:,.3g} | {'ok' if held else '**missed**'} |"
        times = ratio(ours, theirs)
        if times is None:
            return f"| {self.text} | - | ours is zero |"
        return (f"| {self.text} | {times:,.2g}x | "
                f"{'ok' if times >= self.limit else '**missed**'} |")


_HALF = "at most half of the libbpf-tools that show the same"
BUDGETS = (
    Budget(f"all always-on programs together: {_HALF}", "all always-on programs", 2, TOGETHER),
    Budget(f"a context switch: {_HALF}", "context switch, ping-pong on one CPU", 2, TOGETHER),
    Budget(f"a process's fork, exec and exit: {_HALF}", "fork, exec and exit", 2, TOGETHER),
    Budget(f"a TCP state change: {_HALF}", "TCP state change", 2, TOGETHER),
    Budget(f"a block request: {_HALF}", "block request", 2, TOGETHER),
    Budget("a sample of 5,000 processes: 20 times cheaper than psutil",
           "one refresh, 5,000 processes", 20, "psutil"),
    Budget("a sample of 5,000 processes: 5 times cheaper than htop's",
           "one refresh, 5,000 processes", 5, "htop"),
    Budget("start to first live numbers: under 1,000 ms", "start to first live numbers", 1_000),
    Budget("collector and interface together: under 100 MB resident", "Rss of collector and UI",
           100),
    Budget("bytes to the terminal, idle host: no more than htop", "written to the terminal, idle",
           1, "htop"),
    Budget("bytes to the terminal, mild load: no more than htop", "written to the terminal, mild",
           1, "htop"),
    Budget("CPU of all of ktop, idle host: under 1.2% of one", "CPU of all its processes, idle",
           1.2),
    Budget("a recorded hour: at most a third of what atop -w takes", "an hour at 1 s", 3,
           "atop -w"),
    Budget("a day's recording opens in under 500 ms", "open a day", 500),
    Budget("any second of that day in under 100 ms", "seek to any of them", 100),
)


def table(rows: list[Row]) -> list[str]:
    """Markdown."""
    return ["| budget | measured | |", "|---|---|---|", *(one.line(rows) for one in BUDGETS)]
