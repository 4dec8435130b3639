"""What may be typed next in a query: fields, operators, values that the column shows, and/or."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import islice
from typing import Any, NamedTuple

from ktop import query
from ktop.query import OPERATORS, Token
from ktop.query_match import UNKNOWN, Vocabulary

MOST = 50
SAMPLE = 5000  # rows looked at for values
_ABOUT = {"=": "is", "!=": "is not", "<": "less", "<=": "at most", ">": "more", ">=": "at least",
          "~": "has the pattern", "!~": "has not the pattern"}


class Choice(NamedTuple):
    """What could stand in text[start:end], and what it is."""

    text: str
    about: str
    start: int
    end: int


def complete(text: str, cursor: int, vocabulary: Vocabulary,
             rows: Iterable[Any] = ()) -> list[Choice]:
    """What may stand at the cursor, the likeliest first; text behind the cursor is left alone."""
    before = query.tokens(text[:cursor])
    word = before[-1] if before and before[-1].end == cursor else None
    if word is not None and word.kind in ("(", ")"):
        word = None
    done = before[:-1] if word is not None else before
    last = done[-1] if done else None
    start = word.start if word is not None else cursor
    typed = text[start:cursor]
    if word is not None and word.kind == "op":
        return _operators(typed, start, cursor) if last is not None else []
    if last is not None and last.kind == "op" and len(done) >= 2:
        shown = word.text if word is not None else ""
        return _values(done[-2], shown, start, cursor, vocabulary, rows)
    if word is None and last is not None and last.kind == "word":
        if _is_value(done) or vocabulary.field(last.text) is None:
            return _joints("", start, cursor)
        return [*_operators("", start, cursor), Choice("is unknown", "it is not known",
                                                       start, cursor)]
    if last is not None and last.kind in ("value", "text", ")"):
        return _joints(typed, start, cursor)
    if word is not None and word.kind == "text":
        return []
    return _fields(typed, start, cursor, vocabulary)


def _is_value(done: list[Token]) -> bool:
    return len(done) >= 2 and done[-2].kind == "op"


def _fields(typed: str, start: int, end: int, vocabulary: Vocabulary) -> list[Choice]:
    lower = typed.lower()
    names = vocabulary.names()
    first = [(n, h) for n, h in names if n.lower().startswith(lower)]
    inside = [(n, h) for n, h in names if lower in n.lower() and (n, h) not in first]
    return [Choice(name, about, start, end) for name, about in [*first, *inside][:MOST]]


def _operators(typed: str, start: int, end: int) -> list[Choice]:
    return [Choice(op, _ABOUT[op], start, end) for op in OPERATORS if op.startswith(typed)]


def _joints(typed: str, start: int, end: int) -> list[Choice]:
    return [Choice(word, about, start, end) for word, about in
            (("and", "both"), ("or", "either")) if word.startswith(typed.lower())]


def _values(name: Token, typed: str, start: int, end: int, vocabulary: Vocabulary,
            rows: Iterable[Any]) -> list[Choice]:
    """Texts that the column shows, the most frequent first. Figures are for the user to say."""
    field = vocabulary.field(name.text)
    if field is None or field.kind:
        return []
    found = Counter(field.text(row) for row in islice(rows, SAMPLE))
    lower = typed.casefold()
    texts = [(text, n) for text, n in found.most_common() if text and text != UNKNOWN]
    first = [item for item in texts if item[0].casefold().startswith(lower)]
    inside = [item for item in texts if lower in item[0].casefold() and item not in first]
    return [Choice(query.value(text), f"{n} rows" if n != 1 else "1 row", start, end)
            for text, n in [*first, *inside][:MOST]]
