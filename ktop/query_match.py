"""What a query means for the rows of one table: its fields, a predicate, what may be typed next.

A field is a column (by key or title) or a field of the row's model (`retrans_pct`, `srtt_ns`, also
without its unit: `srtt`). Comparing what is unknown is never true, nor is its negation.

Patterns are those of `re`. One that could explode runs on `regex`, which takes a time limit, so
nothing that somebody types can hang the screen: one pass over a table may take PASS_S in patterns.
`re` is for the others: looking at the clock for each row costs more than most patterns do.
"""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from ktop.query import Compare, Not, Or, Query, QueryError, Search, Term, Unknown

PASS_S = 0.1
MAX_PATTERN = 200
MAX_REPEATS = 1000
UNKNOWN = "-"  # as ktop/format.py shows it
_NS = {"ns": 1.0, "us": 1e3, "µs": 1e3, "ms": 1e6, "s": 1e9, "m": 60e9, "min": 60e9, "h": 3600e9,
       "d": 86400e9, "y": 365 * 86400e9}
_POWERS = {"k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_FIGURE = re.compile(r"<?([+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?)([a-zA-Zµ%]*)(?:/s)?", re.I)
_SPAN = re.compile(r"(\d+)(y|d|h|m)(\d+)(d|h|m|s)")
# names people use -> what the tables may call it, the best first
ALIASES: dict[str, tuple[str, ...]] = {
    "errno": ("error", "result", "last_error"), "err": ("error", "result", "errors"),
    "comm": ("command",), "cmd": ("command", "comm"), "name": ("command", "comm", "path"),
    "args": ("command",), "uid": ("user",), "mem": ("rss", "memory"), "memory": ("rss",),
    "res": ("rss",), "status": ("state",), "s": ("state",), "thr": ("threads",),
    "rtt": ("srtt_ns",), "retransmits": ("retrans",), "retrans": ("retrans_per_s",),
    "peer": ("remote",), "ip": ("remote", "local"), "addr": ("remote", "local"),
    "dst": ("remote",), "src": ("local",), "port": ("remote_port", "local_port"),
    "file": ("path",), "disk": ("device", "dev", "name"), "dev": ("device", "name"),
    "container": ("cgroup",), "pod": ("cgroup",), "unit": ("cgroup",), "group": ("cgroup",),
    "latency": ("latency_ns", "p99", "total_ns"), "lat": ("latency", "latency_ns", "p99"),
    "took": ("latency", "latency_ns"), "wait": ("runq", "runq_wait_pct"), "blk": ("blocked",),
    "event": ("kind", "what"), "code": ("what",), "fstype": ("fs",),
}
_SUFFIXES = ("_pct", "_ns", "_per_s", "_bytes", "_bytes_per_s", "_ms", "_total")
_FALSE, _TRUE = ("false", "no", "0"), ("true", "yes", "1")

Predicate = Callable[[Any], bool]


class SlowPattern(Exception):
    """The patterns of a query took longer than PASS_S over the rows of a table."""


class Shown(Protocol):
    """What a filter needs of a column (ktop.widgets.columns.Column)."""

    @property
    def key(self) -> str:
        """Its name in the grammar."""

    @property
    def title(self) -> str:
        """Its heading, a name too."""

    @property
    def align(self) -> str:
        """Text is at the left, figures at the right."""

    @property
    def help(self) -> str:
        """What it is."""

    @property
    def kind(self) -> str:
        """`ns`, `bytes`, `number`, or "" when it does not say."""

    @property
    def text(self) -> Callable[[Any], str]:
        """What is shown."""

    @property
    def sort(self) -> Callable[[Any], Any] | None:
        """Its value for ordering."""

    @property
    def value(self) -> Callable[[Any], Any] | None:
        """Its value for comparing where that is not the one for ordering."""


@dataclass(frozen=True)
class Field:
    """One thing that a row can be asked for. kind: as in Shown. value: None is unknown."""

    name: str
    text: Callable[[Any], str]
    value: Callable[[Any], Any]
    kind: str = ""
    help: str = ""


# -- figures ---------------------------------------------------------------------------------------


def figure(text: str, kind: str = "") -> tuple[float, str] | None:
    """(number, what it is: `ns`, `bytes` or "") of a figure as people and tables write it.

    20ms 1.5MiB 10k 5% 2m05s <0.1. KB is 1000 bytes, KiB 1024, and K by itself what tables mean by
    it: 1024 bytes, 1000 of anything else. `m` is a minute, `M` mega. None: it is no figure.
    """
    if found := _SPAN.fullmatch(text):
        first, unit, second, smaller = found.groups()
        return float(first) * _NS[unit] + float(second) * _NS[smaller], "ns"
    match = _FIGURE.fullmatch(text)
    if match is None:
        return None
    number, unit = float(match[1]), match[2]
    if unit in ("", "%"):
        return number, ""
    if unit in _NS and not (unit == "m" and kind == "bytes"):
        return number * _NS[unit], "ns"
    lower = unit.lower()
    if lower == "b":
        return number, "bytes"
    power = _POWERS.get(lower[0], 0)
    if not power or lower[1:] not in ("", "b", "ib"):
        return None
    if len(lower) == 1:
        return number * (1024 if kind == "bytes" else 1000) ** power, kind if kind != "ns" else ""
    return number * (1024 if lower[1:] == "ib" else 1000) ** power, "bytes"


def _number(term: Compare, field: Field) -> float | None:
    """The value of a comparison as a number, in the field's unit; None when it is text."""
    if term.quoted:
        return None
    found = figure(term.value, field.kind)
    if found is None:
        return None
    number, kind = found
    if field.kind == "ns" and not kind and number and term.op not in ("~", "!~"):
        raise QueryError(f"{term.name} is a time: {term.value}ms, {term.value}us or {term.value}s?",
                         term.value_at)
    if kind and field.kind and kind != field.kind:
        is_what = {"ns": "a time", "bytes": "bytes", "number": "a plain number"}[field.kind]
        raise QueryError(f"{term.name} is {is_what}, {term.value} is not", term.value_at)
    return number


# -- fields ----------------------------------------------------------------------------------------


def _column_field(column: Shown) -> Field:
    value = column.value or column.sort
    if value is None:
        kind = column.kind

        def value(row: Any) -> Any:
            found = figure(column.text(row), kind)
            return None if found is None else found[0]
    return Field(column.key, column.text, value, column.kind, column.help)


def _model_names(types: Iterable[type]) -> list[str]:
    """Fields of the models, in their order; of parts in them those of one word's more depth."""
    found: dict[str, None] = {}
    for kind in types:
        found.update(dict.fromkeys(getattr(kind, "__struct_fields__", ())))
    return list(found)


def _plain(value: Any) -> str:
    if value is None:
        return UNKNOWN
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, dict):
        return " ".join(f"{k} {v}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return str(value)


def _model_field(name: str) -> Field:
    """A field of the row itself, of the event in it, or of a part (`ops.reads_per_s`)."""
    steps = name.split(".")
    scale = 1e6 if name.endswith("_ms") else 1.0

    def value(row: Any) -> Any:
        found = getattr(row, "event", row)
        for step in steps:
            found = getattr(found, step, None)
        return found * scale if scale != 1.0 and found is not None else found

    kind = ("ns" if name.endswith(("_ns", "_ms")) else
            "bytes" if name.endswith(("_bytes", "_bytes_per_s")) else
            "number" if name.endswith(("_pct", "_per_s", "_per_min", "_total")) else "")
    return Field(name, lambda row: _plain(value(row)), value, kind, "as in the model of the rows")


class Vocabulary:
    """The fields of one table: its columns, and the models of the rows it has had so far."""

    def __init__(self, columns: Sequence[Shown], models: Iterable[type] = (),
                 hidden: Iterable[str] = ()) -> None:
        self.columns = list(columns)
        gone = set(hidden)
        self.shown = [c for c in self.columns if c.key not in gone]  # what words are searched in
        self._columns = {c.key.lower(): c for c in reversed(self.columns)}
        for column in self.columns:
            for name in (column.title.lower(), column.title.lower().rstrip("%/s")):
                self._columns.setdefault(name, column)
        self.models = list(models)
        self._model = {name.lower(): name for name in _model_names(self.models)}

    def names(self) -> list[tuple[str, str]]:
        """(name, help) of every field: columns, then what only the model has."""
        found = {c.key: c.help or c.title for c in self.columns}
        for name in self._model.values():
            found.setdefault(name, "not a column; as in the model of the rows")
        return list(found.items())

    def field(self, name: str) -> Field | None:
        """The field that somebody means by a name."""
        lower = name.lower()
        for candidate in (lower, *ALIASES.get(lower, ())):
            if (column := self._columns.get(candidate)) is not None:
                return _column_field(column)
            if (found := self._model_name(candidate)) is not None:
                return _model_field(found)
        return None

    def _model_name(self, lower: str) -> str | None:
        for suffix in ("", *_SUFFIXES):
            if lower + suffix in self._model:
                return self._model[lower + suffix]
        first, dot, rest = lower.partition(".")
        if dot and first in self._model and re.fullmatch(r"\w+(\.\w+)?", rest):
            return f"{self._model[first]}.{rest}"
        return None

    def need(self, name: str, at: int) -> Field:
        """The field, or an error that says what is near."""
        found = self.field(name)
        if found is None:
            from difflib import get_close_matches

            near = get_close_matches(name.lower(), [n for n, _ in self.names()], 3, 0.5)
            hint = f"; is it {' or '.join(near)}?" if near else "; Tab shows what there is"
            raise QueryError(f"no column or field {name} here{hint}", at)
        return found


# -- predicates ------------------------------------------------------------------------------------


class _Clock:
    """What patterns may take in one pass over the rows: PASS_S of this thread's CPU time."""

    _used_s = _look_at = 0.0

    def start(self) -> None:
        """A new pass."""
        self._used_s = time.thread_time()
        self._look_at = time.perf_counter() + PASS_S

    def check(self) -> None:
        """SlowPattern when the time is over. The dear clock is read only when it could be."""
        if time.perf_counter() > self._look_at:
            left = PASS_S - (time.thread_time() - self._used_s)
            if left <= 0:
                raise SlowPattern
            self._look_at = time.perf_counter() + left


def _sensitive(text: str) -> bool:
    """Smart case: an upper-case letter in what is asked for means it."""
    return any(c.isupper() for c in re.sub(r"\\.", "", text))


def _search(term: Search, vocabulary: Vocabulary, wanted: bool) -> Predicate:
    """Words are looked for in what is no figure: nobody who types 5432 means a kilobyte more."""
    needle = term.text.casefold()
    texts = [c.text for c in vocabulary.shown if not c.kind]
    texts = texts or [c.text for c in vocabulary.shown]

    def found(row: Any) -> bool:
        return (needle in "\n".join([text(row) for text in texts]).casefold()) is wanted

    return found


def _unknown(term: Unknown, vocabulary: Vocabulary, wanted: bool) -> Predicate:
    text = vocabulary.need(term.name, term.at).text
    known = term.known is wanted
    return lambda row: (text(row) != UNKNOWN) is known


def _harmless(pattern: str) -> bool:
    """Whether a search takes at worst the square of the text: hardly any choice to go back to."""
    return (sum(pattern.count(c) for c in "*+?{") <= 1 and pattern.count("(") <= 1
            and not re.search(r"\)[*+?{]|\\[1-9]", pattern))


def _searcher(text: str) -> Callable[[str], Any]:
    """What looks for a pattern in a text; re.error or ValueError when it is none."""
    ignore = not _sensitive(text)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what they have to say would go to the screen
        known = re.compile(text, re.IGNORECASE if ignore else 0)
        if _harmless(text):
            return known.search
        repeats = 1  # nested, each takes as much memory as all within it
        for count in re.findall(r"\d+(?=[\d,]*\})", text):
            repeats *= max(1, int(count))
        if repeats > MAX_REPEATS:
            raise ValueError(f"more than {MAX_REPEATS} repetitions")
        import regex

        # a brace that repeats nothing is a character for re, and something else for regex
        limited = regex.compile(re.sub(r"(?<!\\)\{(?![0-9,]+\})", r"\\{", text),
                                regex.VERSION0 | (regex.IGNORECASE if ignore else 0))
    return partial(limited.search, timeout=PASS_S)


def _pattern(term: Compare, field: Field, wanted: bool, clock: _Clock) -> Predicate:
    at = term.value_at + term.quoted
    if len(term.value) > MAX_PATTERN:
        raise QueryError(f"a pattern has at most {MAX_PATTERN} characters", at + MAX_PATTERN)
    try:
        search = _searcher(term.value)
    except re.error as err:
        raise QueryError(f"pattern: {err.msg}", at + min(err.pos or 0, len(term.value))) from None
    except Exception as err:  # also of regex, and what is too deep or too big for either
        raise QueryError(f"pattern: {str(err) or type(err).__name__}", at) from None
    text, check = field.text, clock.check

    def found(row: Any) -> bool:
        shown = text(row)
        if shown == UNKNOWN:
            return False
        check()
        try:
            return (search(shown) is not None) is wanted
        except TimeoutError:
            raise SlowPattern from None

    return found


def _same(value: Any, text: str) -> bool:
    """Whether a text is meant: true for yes of a flag."""
    return value is not None and text in (_TRUE if value else _FALSE)


def _equal(term: Compare, field: Field, wanted: bool) -> Predicate:
    """As it is shown, or the same number."""
    number, get, show = _number(term, field), field.value, field.text
    sensitive = _sensitive(term.value)
    asked = term.value if sensitive else term.value.casefold()

    def found(row: Any) -> bool:
        value = get(row)
        if value is True or value is False:
            return (_same(value, asked) or show(row).casefold() == asked) is wanted
        if number is not None and isinstance(value, int | float) and value == number:
            return wanted
        shown = show(row)
        if shown == UNKNOWN or (number is not None and value is None):
            return False
        return ((shown if sensitive else shown.casefold()) == asked) is wanted

    return found


_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "<": lambda a, b: a < b, "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b, ">=": lambda a, b: a >= b}
_OPPOSITE = {"<": ">=", "<=": ">", ">": "<=", ">=": "<", "=": "!=", "!=": "=", "~": "!~",
             "!~": "~"}


def _ordered(term: Compare, field: Field, op: str) -> Predicate:
    number, get, show = _number(term, field), field.value, field.text
    if number is None:
        asked, order = term.value.casefold(), _ORDER[op]
        if field.kind:
            raise QueryError(f"{term.name} is a figure, {term.value} is not", term.value_at)
        return lambda row: (shown := show(row)) not in ("", UNKNOWN) and order(
            shown.casefold(), asked)
    least = number  # a closure for each operator: half the time of calling one

    def known(row: Any) -> float | None:
        value = get(row)
        return value if isinstance(value, int | float) else None

    if op == ">":
        return lambda row: (v := known(row)) is not None and v > least
    if op == ">=":
        return lambda row: (v := known(row)) is not None and v >= least
    if op == "<":
        return lambda row: (v := known(row)) is not None and v < least
    return lambda row: (v := known(row)) is not None and v <= least


def _compare(term: Compare, vocabulary: Vocabulary, wanted: bool, clock: _Clock) -> Predicate:
    field = vocabulary.need(term.name, term.at)
    op = term.op if wanted else _OPPOSITE[term.op]
    if op in ("~", "!~"):
        return _pattern(term, field, op == "~", clock)
    if op in ("=", "!="):
        return _equal(term, field, op == "=")
    return _ordered(term, field, op)


def _predicate(term: Term, vocabulary: Vocabulary, wanted: bool, clock: _Clock) -> Predicate:
    """`wanted` False is the negation, carried down to the comparisons: unknown stays untrue."""
    if isinstance(term, Not):
        return _predicate(term.term, vocabulary, not wanted, clock)
    if isinstance(term, Search):
        return _search(term, vocabulary, wanted)
    if isinstance(term, Unknown):
        return _unknown(term, vocabulary, wanted)
    if isinstance(term, Compare):
        return _compare(term, vocabulary, wanted, clock)
    parts = [_predicate(part, vocabulary, wanted, clock) for part in term.terms]
    if isinstance(term, Or) is wanted:
        return _any(parts)
    return _every(parts)


def _every(parts: list[Predicate]) -> Predicate:
    if len(parts) == 2:
        first, second = parts
        return lambda row: first(row) and second(row)
    return lambda row: all(part(row) for part in parts)


def _any(parts: list[Predicate]) -> Predicate:
    if len(parts) == 2:
        first, second = parts
        return lambda row: first(row) or second(row)
    return lambda row: any(part(row) for part in parts)


@dataclass(frozen=True)
class Matcher:
    """A query ready for the rows of a table."""

    query: Query
    predicate: Predicate
    clock: _Clock

    def keep(self, rows: Sequence[Any]) -> list[Any]:
        """The rows that match. SlowPattern when patterns take too long."""
        self.start()
        try:
            return list(filter(self.predicate, rows))
        except (AttributeError, TypeError):  # rows of another kind among them
            return list(filter(self.matches, rows))

    def any(self, rows: Iterable[Any]) -> bool:
        """Whether any row matches. SlowPattern as in keep."""
        self.start()
        return any(map(self.matches, rows))

    def start(self) -> None:
        """A new pass over rows: patterns have their time again."""
        self.clock.start()

    def matches(self, row: Any) -> bool:
        """Whether one row does; one that has no such thing does not. SlowPattern as in keep."""
        try:
            return self.predicate(row)
        except (AttributeError, TypeError):
            return False


def compile(query: Query, vocabulary: Vocabulary) -> Matcher:
    """The query for these fields. QueryError for unknown fields, wrong units, broken patterns."""
    clock = _Clock()
    if query.term is None:
        return Matcher(query, lambda _: True, clock)
    return Matcher(query, _predicate(query.term, vocabulary, True, clock), clock)
