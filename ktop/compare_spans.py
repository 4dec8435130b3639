"""Spans of a track as people type them: `23:47-23:50`, `23:47:10+30s`, `-10m..-5m`."""

from __future__ import annotations

import re
from typing import NamedTuple

from ktop import when
from ktop.lens import Track
from ktop.when import DAY_S, SECOND, WhenError

_DASH = re.compile(r"(?P<left>.*:\d\d(?:\.\d+)?)\s*-\s*(?P<right>\d{1,2}:\d\d.*|\d{4}-\d.*)")
_PLUS = re.compile(r"(?P<left>.*[^\s+.])\s*\+\s*(?P<right>\d[^+:]*)")
_DATE = re.compile(r"\s*(\d{4}-\d{1,2}-\d{1,2})[ T]")
_CLOCK = re.compile(r"\s*\d{1,2}:\d\d")
MINUTE = 60 * SECOND


class Stretch(NamedTuple):
    """From after one wall-clock time to another, ns: the frames that were taken in between."""

    begin_ns: int
    end_ns: int


def span_of(track: Track, at: int | None = None) -> when.Span:
    """What there is of a track to speak of; offsets are from the frame `at`, or from its end."""
    last = track.moment(track.end - 1).wall_ns
    return when.Span(track.moment(track.first).wall_ns, last,
                     last if at is None else track.moment(at).wall_ns)


def parse(text: str, span: when.Span) -> Stretch:
    """The stretch that `text` means. WhenError says what is wrong, and at which character."""
    found = _plus(text, span) or _between(text, span)
    if found.end_ns <= found.begin_ns:
        raise WhenError("it ends before it begins", 0)
    return found


def _plus(text: str, span: when.Span) -> Stretch | None:
    """`23:47:10+30s`: from a time on."""
    match = _PLUS.fullmatch(text)
    if match is None or ".." in text:
        return None
    begin = when.parse(match["left"], span)
    return Stretch(begin, begin + when.duration(match["right"], match.start("right")))


def _between(text: str, span: when.Span) -> Stretch:
    left, dots, right = text.partition("..")
    at = len(left) + 2
    if not dots:
        match = _DASH.fullmatch(text)
        if match is None:
            raise WhenError("a span: 23:47-23:50, 23:47:10+30s, -10m..-5m, start..end", 0)
        left, right, at = match["left"], match["right"], match.start("right")
    begin = when.parse(left or "start", span)
    dated, clock = _DATE.match(left), _CLOCK.match(right)
    word = f"{dated[1]} {right.strip()}" if dated and clock else right or "end"
    try:
        end = when.parse(word, span)
    except WhenError as err:
        raise WhenError(str(err), at + min(err.at, len(right))) from None
    while clock and end <= begin:  # past midnight
        end += DAY_S * SECOND
    return Stretch(begin, end)


def before(stretch: Stretch) -> Stretch:
    """As long a stretch, just before."""
    return Stretch(2 * stretch.begin_ns - stretch.end_ns, stretch.begin_ns)


def recent(track: Track, length_ns: int = MINUTE, at: int | None = None) -> Stretch:
    """The last minute before a frame, or before the end; half of it all where that is less."""
    end = track.moment(track.end - 1 if at is None else at).wall_ns
    all_of_it = end - track.moment(track.first).wall_ns + 1
    return Stretch(end - max(1, min(length_ns, all_of_it // 2)), end)


def whole(track: Track) -> Stretch:
    """All of it."""
    return Stretch(track.moment(track.first).wall_ns - 1, track.moment(track.end - 1).wall_ns)


def positions(track: Track, stretch: Stretch) -> range:
    """The frames that were taken in a stretch."""
    begin = track.find(stretch.begin_ns)
    if track.moment(begin).wall_ns <= stretch.begin_ns:
        begin += 1
    end = track.find(stretch.end_ns)
    if track.moment(end).wall_ns > stretch.end_ns:
        end -= 1
    return range(begin, max(begin, end + 1))
