"""Columns of figures that the tables of several panes have in common."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any

from ktop import format as fmt
from ktop import hist, theme
from ktop.model import Hist
from ktop.panes.base import Names
from ktop.widgets.columns import Column

SLOW_NS, BAD_NS = 10e6, 100e6  # a wait that somebody notices, and one that hurts
NEVER = 1e18  # no value is alarming

Get = Callable[[Any], Any]
# what the filter needs to know of a figure (ktop.widgets.columns.Column.kind)
KINDS: dict[Callable[[Any], str], str] = {
    fmt.duration: "ns", fmt.age: "ns", fmt.size: "bytes", fmt.size_rate: "bytes",
    **dict.fromkeys((fmt.pct, fmt.rate, fmt.count, fmt.grouped, fmt.number), "number")}


def percentile(h: Hist | None, pct: float) -> float | None:
    """A percentile in ns; None without a histogram or samples."""
    return None if h is None else hist.percentile(h, pct)


def latency_style(value_ns: float | None) -> str:
    """Style of a wait or latency in ns."""
    return theme.load(value_ns, SLOW_NS, BAD_NS)


def figure(key: str, title: str, width: int, write: Callable[[Any], str], get: str | Get,
           text: str, load: tuple[float, ...] = (NEVER, NEVER)) -> Column:
    """A number by which rows are sorted. `get`: a field, also of a part (`ops.reads_per_s`), or a
    function of the row. load: from where it is a warning and bad, under what it is dim.
    """
    value = attrgetter(get) if isinstance(get, str) else get
    return Column(key, title, width, lambda row: write(value(row)), sort=value,
                  style=lambda row: theme.load(value(row), *load), help=text,
                  kind=KINDS.get(write, ""))


def latency(key: str, title: str, get: Get, text: str) -> Column:
    """A latency in ns; what is slow stands out."""
    return figure(key, title, 6, fmt.duration, get, text, (SLOW_NS, BAD_NS))


def cgroup_column(names: Names, width: int = 14, min_width: int = 0) -> Column:
    """The control group of a row."""
    return Column("cgroup", "CGROUP", width, lambda r: names.cgroup(r.cgroup), "left",
                  sort=lambda r: names.cgroup(r.cgroup), min_width=min_width,
                  help="container, pod or unit")
