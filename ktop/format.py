"""Figures as short text: ASCII, right-alignable, never longer than its column.

Every function takes None for unknown and answers "-". Zero is a figure and looks like one: "0".
A figure that is there but too small to show is never rounded down to zero: "<0.1".
"""

from __future__ import annotations

import time

UNKNOWN = "-"
_SECOND = 1_000_000_000
_STEPS = (("ns", 1.0), ("us", 1e3), ("ms", 1e6), ("s", 1e9))


def _three(value: float) -> str:
    """At most three digits and a point: 1.2, 12, 123."""
    return f"{value:.1f}" if value < 9.95 else f"{value:.0f}"


def _scaled(value: float, step: float, units: str) -> str:
    """Scale by powers of `step` so that the number keeps to three digits: 1.2k, 34M."""
    index = 0
    while value >= 999.5 and index < len(units):
        value /= step
        index += 1
    if index == 0:
        return _three(value)
    return _three(value) + units[index - 1]


def pct(value: float | None) -> str:
    """Percentage with one decimal, so that a column lines up on the point; four cells to 999 %."""
    if value is None:
        return UNKNOWN
    if value < 99.95:
        return f"{value:.1f}"
    return f"{value:.0f}" if value < 9_999.5 else _scaled(value, 1000.0, "kMGT")


def rate(value: float | None) -> str:
    """Events a second: 0, <0.1, 3.4, 340, 1.2k, 34k, 5.6M."""
    if value is None:
        return UNKNOWN
    if value == 0:
        return "0"
    return "<0.1" if value < 0.05 else _scaled(value, 1000.0, "kMGT")


def count(value: int | None) -> str:
    """A number of things: exact to 99999, then 123k, 4.5M."""
    if value is None:
        return UNKNOWN
    return str(value) if value < 100_000 else _scaled(float(value), 1000.0, "kMGT")


def grouped(value: int | None) -> str:
    """A number of things in full, in groups of three: 1,234,567."""
    return UNKNOWN if value is None else f"{value:,}"


def size(value: float | None) -> str:
    """Bytes, by powers of 1024: 0, 812B, 1.2K, 34M, 5.6G."""
    if value is None:
        return UNKNOWN
    if value == 0:
        return "0"
    if value < 999.5:
        return f"{max(1.0, value):.0f}B"
    return _scaled(value, 1024.0, "KMGTP")


def size_rate(value: float | None) -> str:
    """Bytes a second: 0, 1.2M/s."""
    text = size(value)
    return text if text in (UNKNOWN, "0") else text + "/s"


def duration(value_ns: float | None) -> str:
    """A latency in ns, to two or three digits: 850ns 12us 3.4ms 1.2s 2m05s."""
    if value_ns is None:
        return UNKNOWN
    if value_ns == 0:
        return "0"
    if value_ns < 0.5:
        return "<1ns"
    if value_ns >= 99.5 * _SECOND:
        return age(value_ns)
    for unit, scale in _STEPS:
        scaled = value_ns / scale
        if scaled < 999.5 or unit == "s":
            return (f"{scaled:.0f}" if unit == "ns" else _three(scaled)) + unit
    return UNKNOWN


def age(value_ns: float | None) -> str:
    """A span of seconds and more, in two units at most: 42s 3m12s 5h03m 12d04h 3y051d."""
    if value_ns is None:
        return UNKNOWN
    seconds = int(value_ns // _SECOND)
    if seconds < 60:
        return f"{seconds}s"
    minutes, seconds = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes}m{seconds:02d}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}h{minutes:02d}m"
    days, hours = divmod(hours, 24)
    if days < 365:
        return f"{days}d{hours:02d}h" if days < 100 else f"{days}d"
    years, days = divmod(days, 365)
    return f"{years}y{days:03d}d"


def number(value: float | None) -> str:
    """A mean number of things, two decimals under ten: 0.42, 12.3, 340."""
    if value is None:
        return UNKNOWN
    if value == 0:
        return "0"
    if value < 0.005:
        return "<0.01"
    if value < 9.995:
        return f"{value:.2f}"
    return f"{value:.1f}" if value < 99.95 else _scaled(value, 1000.0, "kMGT")


def figure(value: float) -> str:
    """A figure of any unit, three digits that count: 0.42, 12.3, 12,358."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def clock_time(wall_ns: int | None, utc: bool = False) -> str:
    """Time of day of a CLOCK_REALTIME instant in ns: 23:47:05, local unless `utc`."""
    if wall_ns is None:
        return UNKNOWN
    seconds = wall_ns // _SECOND
    return time.strftime("%H:%M:%S", time.gmtime(seconds) if utc else time.localtime(seconds))
