"""Which rows of a table a filter lets through, and what n and N look for. No terminal in here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ktop.query_match import PASS_S, Matcher, SlowPattern
from ktop.widgets.columns import Key

Children = Mapping[Key, Sequence[Any]]


class Filtering:
    """The filter of one table, and the search that outlives it.

    text: the filter as it was typed. total: rows without it, children that are unfolded included.
    matched: those that match. problem: why the last filter was dropped, "" when it was not.
    """

    def __init__(self) -> None:
        self.matcher: Matcher | None = None
        self.text = ""
        self.searched: Matcher | None = None
        self.searched_text = ""
        self.total = self.matched = 0
        self.problem = ""

    def set(self, matcher: Matcher | None, text: str) -> None:
        """Another filter, or none; what was asked for last stays the search."""
        self.matcher = matcher if matcher is not None and matcher.query else None
        self.text = text if self.matcher is not None else ""
        self.problem = ""
        if self.matcher is not None:
            self.searched, self.searched_text = self.matcher, text

    def apply(self, rows: Sequence[Any], children: Children,
              identity: Callable[[Any], Key]) -> tuple[Sequence[Any], Children]:
        """Rows and children that the filter lets through; all of them without one.

        A row that matches has all its children. One that does not is there as the place of those
        of its children that match.
        """
        self.total = len(rows)
        if children:
            self.total += sum(len(children.get(identity(row), ())) for row in rows)
        if self.matcher is not None:
            try:
                return self._kept(self.matcher, rows, children, identity)
            except SlowPattern:
                self.searched, self.searched_text = None, ""
                self.set(None, "")
                self.problem = (f"the pattern took more than {PASS_S * 1000:g} ms and was "
                                "taken out: make it simpler")
        self.matched = self.total
        return rows, children

    def _kept(self, matcher: Matcher, rows: Sequence[Any], children: Children,
              identity: Callable[[Any], Key]) -> tuple[Sequence[Any], Children]:
        if not children:
            kept = matcher.keep(rows)
            self.matched = len(kept)
            return kept, {}
        matcher.start()
        found: list[Any] = []
        below: dict[Key, Sequence[Any]] = {}
        matched = 0
        for row in rows:
            key = identity(row)
            own = children.get(key, ())
            itself = matcher.matches(row)
            matching = [child for child in own if matcher.matches(child)]
            if itself or matching:
                found.append(row)
                below[key] = own if itself else matching
                matched += itself + len(matching)
        self.matched = matched
        return found, below

    def next(self, rows: Sequence[Any], at: int | None, step: int,
             eligible: Callable[[Any], bool] = lambda _: True) -> tuple[int, bool] | None:
        """(place of the next row that the search matches, whether it went round); None: nowhere.

        at: from where; None is before the first or behind the last. eligible: of which rows.
        """
        if self.searched is None or not rows:
            return None
        count = len(rows)
        start = (-1 if step > 0 else count) if at is None else at
        self.searched.start()
        try:
            for distance in range(1, count + 1):
                place = start + step * distance
                row = rows[place % count]
                if eligible(row) and self.searched.matches(row):
                    return place % count, not 0 <= place < count
        except SlowPattern:
            self.problem = "the pattern takes too long"
        return None
