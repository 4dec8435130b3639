"""The known keys of `[thresholds]`: one row each. A new threshold is a new row here, nothing else.

    [thresholds]
    files_slow = "10ms"

`Settings.thresholds[name]` has the value in the unit of its check; names that the file does not
have are not in it, so that whoever asks knows their own default.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ktop.diagnosis.thresholds import DEFAULT, NAMES, PREFIX
from ktop.query_match import figure


def duration(value: object) -> int:
    """`"10ms"` in ns; ValueError says what is wrong."""
    found = figure(value.strip(), "ns") if isinstance(value, str) else None
    if found is None or found[1] != "ns" or found[0] <= 0:
        raise ValueError('expected a time like "10ms"')
    return round(found[0])


def percent(value: object) -> float:
    """5, 0.1 or "5%" as a number."""
    if isinstance(value, str):
        value = float(value.removesuffix("%")) if value.removesuffix("%").replace(
            ".", "", 1).isdecimal() else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise ValueError('expected a percentage like 5 or "5%"')
    return float(value)


def number(value: object) -> float:
    """A number that is not negative."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise ValueError("expected a number that is not negative")
    return float(value)


def size(value: object) -> int:
    """`"1MiB"` or a number, in bytes."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    found = figure(value.strip(), "bytes") if isinstance(value, str) else None
    if found is None or found[1] == "ns" or found[0] < 0:
        raise ValueError('expected a size like "1MiB"')
    return round(found[0])


@dataclass(frozen=True)
class Threshold:
    """check: the value as it is used, ValueError for what is none. about, example: for the help."""

    check: Callable[[object], float]
    about: str
    example: str = '"10ms"'


THRESHOLDS: dict[str, Threshold] = {
    "files_slow": Threshold(duration, "from where an operation on a file is in the slow feed"),
    "block_slow": Threshold(duration, "from where a request to a disk is in the slow feed"),
    **{name: Threshold(number, "what diagnosis judges by: ktop/diagnosis/thresholds.py",
                       f"{getattr(DEFAULT, name.removeprefix(PREFIX)):g}") for name in NAMES},
}
