"""Many rows of one kind as one: sums, merged histograms. What cannot be added is None.

A field is added up when its name says that it counts something (UNITS); histograms are merged;
whatever else differs between the rows (names, addresses, ages) is not the group's.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, TypeVar, get_type_hints

from ktop import hist
from ktop.parts import Hist, Part

UNITS = ("_pct", "_per_s", "_per_min", "_bytes", "_total")
# counts whose names carry no unit
COUNTS = frozenset((
    "threads", "processes", "holders", "connections", "opened", "failed", "closed", "inside",
    "backlog", "backlog_max", "syn_queue", "concurrency", "queue", "in_flight", "open",
    "segments_out_per_s", "queries", "answers", "execs", "exits", "exits_bad"))
# shares of something that differs from row to row: their sum is of nothing
SHARES = frozenset(("retrans_pct", "util_pct", "conntrack_pct", "best_bytes_per_s", "mss_bytes",
                    "snd_wnd_bytes", "rcv_wnd_bytes", "delivery_bytes_per_s"))

P = TypeVar("P", bound=Part)


def added(values: Sequence[Any]) -> Any:
    """The sum of the known ones; of histograms, parts and dicts of figures likewise."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    first = known[0]
    if isinstance(first, Hist):
        return hist.merge(known)
    if isinstance(first, Part):
        return fold(known)
    if isinstance(first, dict):
        total: dict[Any, Any] = {}
        for found in known:
            for key, value in found.items():
                total[key] = total.get(key, 0) + value
        return total
    return sum(known)


@cache
def _plan(kind: type[Part]) -> list[tuple[str, bool]]:
    """The fields of a struct, and whether they add up."""
    found = []
    hints = get_type_hints(kind)
    for name in kind.__struct_fields__:
        kinds = str(hints[name])
        sums = (name.endswith(UNITS) or name in COUNTS) and name not in SHARES
        parts = "Hist" in kinds or "FileOps" in kinds
        tally = "dict[str, float]" in kinds or "dict[str, int]" in kinds
        found.append((name, sums or parts or tally))
    return found


def fold(rows: Sequence[P]) -> P:
    """One row that stands for all. Figures None where none of the rows knows them."""
    kind = type(rows[0])
    return kind(*(added([getattr(row, name) for row in rows]) if adds else None
                  for name, adds in _plan(kind)))
