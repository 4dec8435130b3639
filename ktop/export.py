"""Frames as tables for people with their own tools. Pure: columns and rows, no files.

A table is a list of rows in the frame, named by its path (`tcp.connections`); a layer's own `rows`
are named as the layer. `frames` has what is once in a frame. Columns are the model's field names;
parts within a row are flattened with dots. A histogram is its count, sum, percentiles and maximum,
and its buckets; lists and dicts stay one value (JSON where the format has no such thing).
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

import msgspec

from ktop.model import Frame, Hist, Part
from ktop.snapshot import as_json

TIME = ("wall_ns", "time", "seq", "interval_ns")  # of every row: when its frame was taken
HIST = ("count", "sum_ns", "p50_ns", "p95_ns", "p99_ns", "p99_9_ns", "max_ns", "buckets")
# What people call the main table of a layer, and where it is.
ALIASES = {"tcp": "tcp.connections", "block": "block.devices", "sched": "cpus"}


@dataclass(frozen=True)
class Column:
    """name: as shown. kind: int, float, str, bool or json. path: of fields, from the row on."""

    name: str
    kind: str
    path: tuple[str, ...]
    of: str = ""  # of a histogram: which of HIST


@dataclass(frozen=True)
class Table:
    """path: of fields, from the frame to the list; empty for the frame itself."""

    name: str
    path: tuple[str, ...]
    columns: tuple[Column, ...]


def _bare(kind: Any) -> Any:
    """The type without `| None`."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return next(arg for arg in typing.get_args(kind) if arg is not type(None))
    return kind


def _is_part(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Part)


def _row_type(kind: Any) -> type[Part] | None:
    """What a list is of, when it is of Parts."""
    if typing.get_origin(kind) is list and _is_part(found := typing.get_args(kind)[0]):
        return typing.cast(type[Part], found)
    return None


@cache
def _fields(kind: type[Part]) -> dict[str, Any]:
    """Field names with their types, in the struct's order."""
    hints = typing.get_type_hints(kind)
    return {name: _bare(hints[name]) for name in kind.__struct_fields__}


def _columns(kind: type[Part], path: tuple[str, ...], lists: bool) -> Iterator[Column]:
    """lists: also lists of parts within (in a frame they are tables of their own)."""
    for name, found in _fields(kind).items():
        here = (*path, name)
        dotted = ".".join(here)
        if found is Hist:
            for of in HIST:
                number = "json" if of == "buckets" else (
                    "int" if of in ("count", "sum_ns", "max_ns") else "float")
                yield Column(f"{dotted}.{of}", number, here, of)
        elif _is_part(found):
            yield from _columns(found, here, lists)
        elif found in (int, float, str, bool):
            yield Column(dotted, found.__name__, here)
        elif lists or _row_type(found) is None:
            yield Column(dotted, "json", here)


def _tables(kind: type[Part], path: tuple[str, ...]) -> Iterator[Table]:
    for name, found in _fields(kind).items():
        here = (*path, name)
        row = _row_type(found)
        if row is not None:
            title = ".".join(path if name == "rows" else here)
            yield Table(title, here, tuple(_columns(row, (), True)))
        elif _is_part(found) and found is not Hist:
            yield from _tables(found, here)


@cache
def tables() -> dict[str, Table]:
    """All tables by name, `frames` first."""
    frames = Table("frames", (), tuple(
        column for column in _columns(Frame, (), False) if column.path[0] != "seq"))
    return {table.name: table for table in (frames, *_tables(Frame, ()))}


def table_of(name: str) -> Table:
    """By its name or a layer's. ValueError names those there are."""
    found = tables().get(name) or tables().get(ALIASES.get(name, ""))
    if found is None:
        raise ValueError(f"there is no table {name!r}: --list shows them")
    return found


def header(table: Table) -> list[str]:
    """Names of all columns."""
    return [*TIME, *(column.name for column in table.columns)]


def kinds(table: Table) -> list[str]:
    """Their kinds, in step."""
    return ["int", "str", "int", "int", *(column.kind for column in table.columns)]


def time_text(wall_ns: int) -> str:
    """`2026-11-22T20:00:57.864361798Z`: UTC, to the nanosecond."""
    whole = datetime.fromtimestamp(wall_ns // 10**9, UTC)
    return f"{whole:%Y-%m-%dT%H:%M:%S}.{wall_ns % 10**9:09d}Z"


def _at(value: Any, path: tuple[str, ...]) -> Any:
    """A field by its path; None as soon as something on the way is not known."""
    for name in path:
        if value is None:
            return None
        value = getattr(value, name)
    return value


def _value(row: Any, column: Column, known: dict[tuple[str, ...], dict[str, Any]]) -> Any:
    """known: histograms of this row that were taken apart already, by path."""
    found = _at(row, column.path)
    if found is None:
        return None
    if column.of == "max_ns":
        return found.max_ns  # whole, as it is in the frame
    if column.of:
        if column.path not in known:
            known[column.path] = as_json(found)
        return known[column.path][column.of.replace("p99_9", "p99.9")]
    return as_json(found) if column.kind == "json" else found


def rows(table: Table, frame: Frame) -> Iterator[list[Any]]:
    """The frame's rows of a table, in step with `header`. None is not known."""
    clock = frame.clock
    when = [clock.wall_ns, time_text(clock.wall_ns), frame.seq, clock.interval_ns]
    found = _at(frame, table.path) if table.path else [frame]
    for row in found or ():
        known: dict[tuple[str, ...], dict[str, Any]] = {}
        yield [*when, *(_value(row, column, known) for column in table.columns)]


def whole(frame: Frame) -> dict[str, Any]:
    """All of a frame as plain objects."""
    return {"time": time_text(frame.clock.wall_ns), **as_json(frame)}


def encode(value: Any) -> str:
    """JSON for a cell of a format that has no lists."""
    return msgspec.json.encode(value).decode()
