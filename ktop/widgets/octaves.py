"""Rows of a latency chart: octaves, fewer where there is no room. Rows are (low ns, high ns, n)."""

from __future__ import annotations

from collections.abc import Sequence

from ktop import format as fmt

Row = tuple[int, int, int]


def _join(rows: Sequence[Row]) -> Row:
    return rows[0][0], rows[-1][1], sum(n for _, _, n in rows)


def fold(rows: Sequence[Row], height: int) -> list[Row]:
    """At most `height` rows that cover the same range.

    First two, three ... octaves to a row until there are at most a quarter too many; then the
    fast end becomes one row from 0, so that the slow end, which people wait for, keeps its shape.
    """
    height = max(1, height)
    each = 1
    while -(-len(rows) // each) > height * 1.25 and each < len(rows):
        each += 1
    folded = [_join(rows[i:i + each]) for i in range(0, len(rows), each)]
    if len(folded) > height:
        _, high, n = _join(folded[:len(folded) - height + 1])
        folded[:len(folded) - height + 1] = [(0, high, n)]
    return folded


def condense(rows: Sequence[Row], height: int) -> list[Row]:
    """At most `height` rows that cover the same range, with the finer ones at the slow end."""
    height = max(1, height)
    if len(rows) <= height:
        return list(rows)
    each, wider = divmod(len(rows), height)
    folded, at = [], 0
    for number in range(height):
        size = each + (number < wider)
        folded.append(_join(rows[at:at + size]))
        at += size
    return folded


def label(row: Row) -> str:
    """A row is named by its lower bound; the lowest by its upper."""
    return "<" + fmt.duration(row[1]) if row[0] == 0 else fmt.duration(row[0])
