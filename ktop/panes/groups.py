"""Any table as a tree of control groups: totals and percentiles, rows below on request."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import is_
from typing import Any

from ktop import format as fmt
from ktop import hist, theme
from ktop.fold import added, fold
from ktop.history_feeds import Fed
from ktop.model import Cgroup, Hist
from ktop.widgets.columns import Column, Key, order_rows

NAME_WIDTH = 26


@dataclass
class Group:
    """One line of the tree: a control group with all that is below it.

    id: None for a path that has no row of its own in the frame. total: one row that stands for all
    (ktop.fold). count: rows. latency: of all of them, where rows have one. open: rows are shown.
    """

    path: str
    id: int | None = None
    name: str = ""
    depth: int = 0
    open: bool = False
    rows: list[Any] = field(default_factory=list)
    below: list[Group] = field(default_factory=list)
    total: Any = None
    count: int = 0
    latency: Hist | None = None


def plain(row: Any) -> Any:
    """The row itself; of a feed's item, its event."""
    return row.event if isinstance(row, Fed) else row


def latency_of(row: Any) -> Hist | None:
    """The latency that a row is about: run queue, request, connect, operation, round trip."""
    for name in ("runq", "latency"):
        if hasattr(row, name):
            found: Hist | None = getattr(row, name)
            return found
    if hasattr(row, "ops") and hasattr(row.ops, "fsync"):
        merged: Hist | None = added([row.ops.read, row.ops.write, row.ops.fsync])
        return merged
    ns = next((getattr(row, name) for name in ("latency_ns", "total_ns", "srtt_ns")
               if getattr(row, name, None) is not None), None)
    return None if ns is None else Hist({hist.slot(int(ns)): 1}, int(ns), int(ns))


def _nested(path: str, found: dict[str, Group]) -> None:
    """Put the group of a path below the nearest group above it that branches or has rows."""
    parts = path.rstrip("/").split("/")
    above = ["/".join(parts[:n]) or "/" for n in range(len(parts) - 1, 0, -1)]
    for parent in above if path != "/" else ():
        if parent in found:
            found[parent].below.append(found[path])
            return


def _sum_up(group: Group, depth: int) -> None:
    """Totals from the leaves up."""
    group.depth = depth
    bare = [plain(row) for row in group.rows]
    totals = [fold(bare)] if bare else []
    latencies = [latency_of(row) for row in bare]
    group.count = len(bare)
    for child in group.below:
        _sum_up(child, depth + 1)
        totals.append(child.total)
        latencies.append(child.latency)
        group.count += child.count
    group.total = totals[0] if len(totals) == 1 else fold(totals)
    group.latency = added(latencies)


def tree(rows: Sequence[Any], groups: Mapping[int, Cgroup]) -> list[Group]:
    """The groups that have rows, nested by path. Rows of an unknown group are under their id."""
    found: dict[str, Group] = {}
    for row in rows:
        number = getattr(plain(row), "cgroup", None)
        known = groups.get(number) if number is not None else None
        path = known.path if known else "?" if number is None else f"?{number}"
        if path not in found:
            name = known.name if known else "unknown" if number is None else f"gone: {number}"
            found[path] = Group(path, number, name)
        found[path].rows.append(row)
    _branches(found, groups)
    for path in found:
        _nested(path, found)
    inside = {id(child) for group in found.values() for child in group.below}
    roots = [group for group in found.values() if id(group) not in inside]
    for group in roots:
        _sum_up(group, 0)
    return roots


def _branches(found: dict[str, Group], groups: Mapping[int, Cgroup]) -> None:
    """Paths without rows of their own that two or more groups have in common."""
    ids = {group.path: group.id for group in groups.values()}
    below: dict[str, set[str]] = {}
    for path in found:
        parts = path.rstrip("/").split("/")
        for n in range(2, len(parts)):
            below.setdefault("/".join(parts[:n]), set()).add(parts[n])
    for path, names in below.items():
        if len(names) > 1 and path not in found:
            found[path] = Group(path, ids.get(path), path.rpartition("/")[2])


def value_of(column: Column, row: Any) -> Any:
    """What a group's line is sorted by in a column; None where the group has no such figure."""
    if column.sort is None or row is None:
        return None
    try:
        return column.sort(row)
    except (AttributeError, TypeError, ValueError):
        return None  # a name, an age: not of a group


def _ordered(groups: Sequence[Group], column: Column | None, descending: bool) -> list[Group]:
    groups = sorted(groups, key=lambda group: group.path)
    if column is None:
        return sorted(groups, key=lambda group: -group.count)
    known = [(value_of(column, group), group) for group in groups]
    rated = [pair for pair in known if pair[0] is not None]
    rated.sort(key=lambda pair: pair[0], reverse=descending)
    return [group for _, group in rated] + [group for value, group in known if value is None]


def _for_group(column: Column) -> Column:
    """A column that has something to say of a group's total, and of rows what it always said."""
    def text(row: Any) -> str:
        if not isinstance(row, Group):
            return column.text(row)
        if column.align != "right" or value_of(column, row.total) is None:
            return ""
        return column.text(row.total)

    def style(row: Any) -> str:
        if column.style is None:
            return "normal"
        if not isinstance(row, Group):
            return column.style(row)
        return column.style(row.total) if text(row) else "normal"

    def sort(row: Any) -> Any:
        if not isinstance(row, Group):
            return column.sort(row) if column.sort else None
        return value_of(column, row.total) if column.align == "right" else None

    return Column(column.key, column.title, column.width, text, column.align,
                  sort=sort if column.sort else None, style=style, help=column.help,
                  min_width=column.min_width)


def _percentile(pct: float) -> Column:
    def value(row: Any) -> float | None:
        found = row.latency if isinstance(row, Group) else latency_of(plain(row))
        return hist.percentile(found, pct) if found is not None and found.counts else None

    name = f"P{pct:g}"
    return Column(name.lower(), name, 6, lambda row: fmt.duration(value(row)), sort=value,
                  help="of the latency that the rows are about (run queue, request, operation, "
                       "connect, round trip)")


class GroupTree:
    """The rows of a table folded by control group. `groups`: those of the frame, by id."""

    def __init__(self) -> None:
        self.groups: Mapping[int, Cgroup] = {}
        self._opened: frozenset[str] = frozenset()
        self._depths: dict[int, int] = {}  # of the rows shown last, by id()
        self._summed: tuple[Sequence[Any], Mapping[int, Cgroup], list[Group]] = ((), {}, [])

    def forget(self) -> None:
        """The tree is not shown any more: let go of the rows."""
        self._summed, self._depths = ((), {}, []), {}

    def takes(self, row: Any) -> bool:
        """Whether it says which control group it belongs to."""
        return hasattr(plain(row), "cgroup")

    def lines(self, rows: Sequence[Any], identity: Callable[[Any], Key], column: Column | None,
              descending: bool) -> list[Any]:
        """Groups, and below the unfolded ones their groups and rows."""
        found: list[Any] = []
        self._depths = {}
        self._flatten(self._tree(rows), identity, column, descending, found)
        return found

    def _tree(self, rows: Sequence[Any]) -> list[Group]:
        """A key that sorts, opens or draws anew does not sum up again what is there."""
        before, groups, found = self._summed
        if len(before) != len(rows) or not all(map(is_, before, rows)) or groups != self.groups:
            found = tree(rows, self.groups)
            self._summed = tuple(rows), self.groups, found
        return found

    def _flatten(self, groups: Sequence[Group], identity: Callable[[Any], Key],
                 column: Column | None, descending: bool, found: list[Any]) -> None:
        for group in _ordered(groups, column, descending):
            found.append(group)
            group.open = group.path in self._opened
            if group.open:
                self._flatten(group.below, identity, column, descending, found)
                self._depths.update((id(row), group.depth + 1) for row in group.rows)
                found += order_rows(group.rows, identity, column, descending)

    def key(self, line: Any) -> Key | None:
        """The path, of a group."""
        return ("group", line.path) if isinstance(line, Group) else None

    def toggle(self, line: Any) -> None:
        """Open a group or close it."""
        self._opened = self._opened ^ {line.path}

    def columns(self, columns: Sequence[Column]) -> list[Column]:
        """Name, rows, percentiles, and the table's own columns."""
        first = Column(
            "group", "CONTROL GROUP", NAME_WIDTH, self._name, "left",
            sort=lambda row: row.path if isinstance(row, Group) else "",
            style=lambda row: "strong" if isinstance(row, Group) else "dim",
            help="control group, with all below it; Enter opens it to its rows, c goes into it")
        count = Column("rows", "ROWS", 5, lambda row: fmt.count(row.count) if isinstance(row, Group)
                       else "", sort=lambda row: row.count if isinstance(row, Group) else None,
                       help="rows in it")
        rest = [_for_group(column) for column in columns if column.key != "cgroup"]
        return [first, count, *(_percentile(pct) for pct in (50.0, 95.0, 99.0)), *rest]

    def _name(self, row: Any) -> str:
        g = theme.glyphs()
        if isinstance(row, Group):
            return f"{'  ' * row.depth}{g.down if row.open else g.more_right} {row.name}"
        name = getattr(plain(row), "comm", None) or ""
        return f"{'  ' * self._depths.get(id(row), 1)}{g.last}{name}"
