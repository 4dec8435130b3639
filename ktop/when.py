"""Times as people type them: `23:47`, `23:47:10`, `2026-11-22 23:47`, `-10m`, `+1h30m`, `now`.

Pure but for the time zone, which is the local one as everywhere else on the screen.
"""

from __future__ import annotations

import re
import time
from typing import NamedTuple

SECOND = 1_000_000_000
DAY_S = 86_400
_UNITS = {"ms": 1_000_000, "s": SECOND, "m": 60 * SECOND, "min": 60 * SECOND,
          "h": 3600 * SECOND, "d": DAY_S * SECOND}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)\s*")
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2})(\.\d{1,9})?)?")
_DATE = re.compile(r"(\d{4})-(\d{1,2})-(\d{1,2})(?:[ T]+|$)")
_DIGITS = 9  # of a number: nobody means more
START, END = ("start", "begin", "first"), ("now", "end", "last")


class WhenError(Exception):
    """Text that is no time; `at` is the offset of the character where it stops being one."""

    def __init__(self, message: str, at: int = 0) -> None:
        super().__init__(message)
        self.at = at


class Span(NamedTuple):
    """What there is to jump in: wall-clock times of the first and last frame and of where we are,
    ns."""

    first_ns: int
    last_ns: int
    here_ns: int


def parse(text: str, span: Span) -> int:
    """The wall-clock time in ns that `text` means. Offsets are from where we are.

    A time without a date is the last such time before the end. A second is meant to its end, so
    that the sample shown as 23:47:10 is the one found by it. WhenError says what is wrong.
    """
    lead = len(text) - len(text.lstrip())
    word = text.strip()
    if not word:
        raise WhenError("a time (23:47:10, 2026-11-22 23:47) or an offset (-10m, +30s)", 0)
    if word.lower() in START:
        return span.first_ns
    if word.lower() in END:
        return span.last_ns
    if word[0] in "+-\N{MINUS SIGN}":
        length = duration(word[1:], lead + 1)
        return span.here_ns + (length if word[0] == "+" else -length)
    return _time_of_day(word, lead, span)


def duration(text: str, offset: int = 0) -> int:
    """`10m`, `1h30m`, `90s`, `1.5h`, in ns; a bare number is of seconds."""
    at, total = len(text) - len(text.lstrip()), 0.0
    if not text.strip():
        raise WhenError("how long? e.g. 10m, 1h30m, 30s", offset + len(text))
    while at < len(text):
        found = _PART.match(text, at)
        if found is None:
            raise WhenError("expected a number and a unit: s m h d", offset + at)
        number, unit = found.groups()
        if len(number) > _DIGITS:
            raise WhenError("that is too long", offset + at)
        if unit and unit not in _UNITS:
            raise WhenError(f"unknown unit {unit[:8]!r}: use s m h d", offset + found.start(2))
        total += float(number) * _UNITS[unit or "s"]
        at = found.end()
    return round(total)


def _time_of_day(word: str, lead: int, span: Span) -> int:
    dated = _DATE.match(word)
    at = dated.end() if dated else 0
    rest = word[at:]
    clock = _CLOCK.fullmatch(rest)
    if rest and clock is None:
        good = _CLOCK.match(rest)
        where = lead + at + (good.end() if good else 0)
        raise WhenError("expected a time like 23:47 or 23:47:10" if not good
                        else "not understood from here", where)
    hour, minute, second, part_ns = _clock(clock, lead + at) if clock else (0, 0, 0, SECOND - 1)
    if dated:
        year, month, day = (int(group) for group in dated.groups())
        seconds = _instant(year, month, day, hour, minute, second)
        if time.localtime(seconds)[:3] != (year, month, day):
            raise WhenError("there is no such day", lead)
        return seconds * SECOND + part_ns
    return _last_before(span, hour, minute, second) + part_ns


def _clock(found: re.Match[str], at: int) -> tuple[int, int, int, int]:
    hour, minute, second = (int(group or 0) for group in found.groups()[:3])
    for value, most, group in ((hour, 23, 1), (minute, 59, 2), (second, 59, 3)):
        if value > most:
            raise WhenError(f"{value} is more than {most}", at + found.start(group))
    return hour, minute, second, round(float(found[4]) * SECOND) if found[4] else SECOND - 1


def _instant(year: int, month: int, day: int, hour: int, minute: int, second: int) -> int:
    try:
        return int(time.mktime((year, month, day, hour, minute, second, 0, 0, -1)))
    except (OverflowError, ValueError):
        raise WhenError("there is no such day", 0) from None


def _last_before(span: Span, hour: int, minute: int, second: int) -> int:
    """The last such time of day that is not after the end."""
    day = time.localtime(span.last_ns // SECOND)
    for back in (0, 1):
        at = _instant(day.tm_year, day.tm_mon, day.tm_mday - back, hour, minute, second) * SECOND
        if at <= span.last_ns:
            break
    return at


def stamp(wall_ns: int) -> str:
    """For file names: 20261122-234710, local time."""
    return time.strftime("%Y%m%d-%H%M%S", time.localtime(wall_ns // SECOND))


def clock(wall_ns: int, day: bool = False) -> str:
    """23:47:10; with `day` 2026-11-22 23:47:10."""
    form = "%Y-%m-%d %H:%M:%S" if day else "%H:%M:%S"
    return time.strftime(form, time.localtime(wall_ns // SECOND))


def label(wall_ns: int, day: bool = False) -> str:
    """For the ends of a timeline: 23:47:10; with `day` 22 23:47."""
    form = "%d %H:%M" if day else "%H:%M:%S"
    return time.strftime(form, time.localtime(wall_ns // SECOND))


def same_day(one_ns: int, other_ns: int) -> bool:
    """Whether both are of one day: then times need no date."""
    return time.localtime(one_ns // SECOND)[:3] == time.localtime(other_ns // SECOND)[:3]
