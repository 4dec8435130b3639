"""Frames in which fields hold what their types allow and nobody expects.

Fields and their values come from the annotations of the structs themselves: what is added to the
model is fuzzed without a word here. A field's bounds (msgspec.Meta) are kept: what is beyond them
does not come over the wire.
"""

from __future__ import annotations

import functools
import math
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from hypothesis import strategies as st

from ktop.model import Frame, Part, Stacks
from ktop.model_stacks import Stack
from ktop.text import clean
from ktop.wire import decode_body, encode_body
from tests import session, stacks
from tests.test_detail import make_detail

# As they come; what of them may be in a frame went through ktop.text.
NAMES: list[str | bytes] = [
    "", " ", "-", "--help", "-rf /", "=cmd|' /C calc'!A0", "+1+1", "@SUM(1)", "\t=1", "0", "None",
    b"\x1b]52;c;cHduZWQ=\x07", b"\x1b]0;title\x07", b"\x1b[2J\x1b[31mred", b"\x9b31m",
    b"a\nb\rc\td",
    "[red]x[/red]", "[/]", "[", "]", "[@click=app.quit]x[/]", "[link=file:///]", "{}{0}%s%n",
    "\u202egpj.exe", "\u2066x\u2069", "a\u200bb\ufeff", "e\u0301\u0301\u0301\u0301\u0301",
    "数据库服务器", "👩‍👩‍👧‍👦", "🇩🇪", "\u0e33\u0e33", "ﷺ",
    "\U0001f600" * 40, "\u0300", "|", "a;b;c 1",
    b"\xff\xfe\x80", b"/" + b"d" * 254 + b"/" + b"f" * 3841,
    "x" * 4096, "../../etc/passwd", "$(id)",
    "`id`", "'; --", '"', "\\", "\\e[31m", "a,b", "http://[::1", "[:]:", ":", "::ffff:1.2.3.4%eth0",
    "not found", "/", "//", "/..", "cgroup\n"]
CLEAN = [clean(name) for name in NAMES]
WHOLE = [0, 1, -1, 2, 7, 105, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1, -2**63]
REAL = [0.0, -0.0, 1e-308, 0.5, 99.999, 100.0, 1e9, -1.0, -1e18, 1e18, 1e30, -1e30, 1.7e308]

Change = tuple[int, int, int]  # which field, which of its values, which rows


class Field(typing.NamedTuple):
    """A field of a class of the model, and the odd values it may have."""

    kind: type[Part]
    name: str
    values: tuple[Any, ...]


def _bounds(hint: Any) -> tuple[float, float]:
    """Of an Annotated number."""
    low, high = -math.inf, math.inf
    for meta in getattr(hint, "__metadata__", ()):
        if isinstance(meta, msgspec.Meta):
            low = max(low, *(found for found in (meta.ge, meta.gt and meta.gt + 1)
                             if found is not None), low)
            high = min(high, *(found for found in (meta.le, meta.lt and meta.lt - 1)
                               if found is not None), high)
    return low, high


def odd_values(hint: Any) -> list[Any]:
    """What a type allows; None among it where it may be. [] for parts: they have fields."""
    if typing.get_origin(hint) is typing.Annotated:
        low, high = _bounds(hint)
        base = typing.get_args(hint)[0]
        edges = [base(edge) for edge in (low, high) if math.isfinite(edge)]
        return [value for value in (*odd_values(base), *edges) if low <= value <= high]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return [None, *(value for kind in arguments if kind is not type(None)
                        for value in odd_values(kind))]
    simple: dict[Any, list[Any]] = {int: WHOLE, float: REAL, str: list(CLEAN),
                                    bool: [False, True], type(None): [None]}
    if hint in simple:
        return simple[hint]
    if origin is list:
        inner = odd_values(arguments[0])
        return [[], *([value] for value in inner[:4]), inner[:8], inner[8:12]] if inner else [[]]
    if origin is tuple:
        return [tuple(found[n % len(found)] for found in map(odd_values, arguments))
                for n in range(6)]
    if origin is dict:
        keys, values = map(odd_values, arguments)
        return [{}, *({key: values[n % len(values)]} for n, key in enumerate(keys)),
                {key: values[n % len(values)] for n, key in enumerate(keys)},
                {key: values[-1 - n % len(values)] for n, key in enumerate(keys)}]
    return []


def kinds(kind: type[Part] = Frame) -> Iterator[type[Part]]:
    """Every class of a frame, once."""
    seen: set[type] = set()
    todo = [kind]
    while todo:
        found = todo.pop()
        if found not in seen:
            seen.add(found)
            yield found
            hints = typing.get_type_hints(found)
            todo += [part for hint in hints.values() for part in _parts(hint)]


def _parts(hint: Any) -> list[type[Part]]:
    if isinstance(hint, type) and issubclass(hint, Part):
        return [hint]
    return [part for argument in typing.get_args(hint) for part in _parts(argument)]


@functools.cache
def fields() -> list[Field]:
    """All of them, in an order that stays."""
    found = []
    for kind in sorted(kinds(), key=lambda k: (k.__module__, k.__name__)):
        hints = typing.get_type_hints(kind, include_extras=True)
        for name in kind.__struct_fields__:
            if (kind, name) in ((Frame, "schema"), (Stack, "names"), (Stacks, "names")):
                continue  # checked by ktop.wire
            values = odd_values(hints[name])
            if values:
                found.append(Field(kind, name, tuple(values)))
    return found


def _collect(value: Any, into: dict[type, list[Any]]) -> None:
    if isinstance(value, msgspec.Struct):
        into.setdefault(type(value), []).append(value)
        for name in value.__struct_fields__:
            _collect(getattr(value, name), into)
    elif isinstance(value, list):
        for item in value:
            if not isinstance(item, msgspec.Struct | list | dict):
                break
            _collect(item, into)
    elif isinstance(value, dict):
        for item in value.values():
            if not isinstance(item, msgspec.Struct):
                break
            _collect(item, into)


def change(found: dict[type, list[Any]], field: Field, value: Any, rows: int) -> None:
    """Set a field to a value: of every row of its kind (rows 0), or of one of them."""
    rows_of = found.get(field.kind, [])
    for row in rows_of if not rows else rows_of[(rows - 1) % len(rows_of):][:1] if rows_of else ():
        copied = msgspec.msgpack.decode(msgspec.msgpack.encode(value)) if isinstance(
            value, list | dict) else value
        setattr(row, field.name, copied)


@functools.cache
def _bodies() -> list[bytes]:
    """Real frames with everything in them."""
    found = []
    for name, at in (("disk", 84), ("network", 100)):
        with session.recorded(name) as recording:
            for step in range(3):
                frame = recording.frame(recording.first + at + step)
                frame.stacks = stacks.recorded() if step else frame.stacks
                frame.detail = make_detail(frame.processes.rows[0].pid)
                frame.detail.start_boottime_ns = frame.processes.rows[0].start_boottime_ns
                found.append(encode_body(frame))
    return found


def real_frames(which: int) -> list[Frame]:
    """Three in a row, of one of two incidents; new objects each time."""
    return [decode_body(body) for body in _bodies()[which % 2 * 3:][:3]]


def changed(which: int, changes: list[Change]) -> list[Frame]:
    """Three frames, the second and the third with the changes, as they come over the wire."""
    found = real_frames(which)
    every = fields()
    for frame in found[1:]:
        parts: dict[type, list[Any]] = {}
        _collect(frame, parts)
        for number, pick, rows in changes:
            field = every[number % len(every)]
            change(parts, field, field.values[pick % len(field.values)], rows)
    return [as_sent(frame) for frame in found]


def as_sent(frame: Frame) -> Frame:
    """Over the wire and back; a dict with the same key twice is the writer's own fault."""
    return decode_body(encode_body(frame))


def sweep(part: int, parts: int) -> Iterator[Callable[[int], list[Frame]]]:
    """Every field with every value, many fields at once: a round has the n-th value of each
    `parts`-th field, so that each is seen beside others that are as they should be.
    """
    every = list(enumerate(fields()))[part::parts]
    for pick in range(max(len(field.values) for _, field in every)):
        changes = [(number, pick, 0) for number, field in every if pick < len(field.values)]
        yield functools.partial(changed, changes=changes)


CHANGES = st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 200), st.integers(0, 12)),
                   min_size=1, max_size=30)
