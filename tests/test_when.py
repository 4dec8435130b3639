"""Times as people type them, in UTC and in a zone with summer time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktop.when import Span, WhenError, clock, duration, parse, stamp

SECOND = 1_000_000_000


@pytest.fixture(autouse=True)
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as m:
        m.setenv("TZ", "Europe/Berlin")
        time.tzset()
        yield
    time.tzset()


def ns(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp()) * SECOND


def span(first: str = "2026-11-22 22:10:00", last: str = "2026-11-23 01:05:00",
         here: str = "2026-11-22 23:50:00") -> Span:
    return Span(ns(first), ns(last), ns(here))


@pytest.mark.parametrize(("text", "meant"), [
    ("23:47", "2026-11-22 23:47:00"), ("23:47:10", "2026-11-22 23:47:10"),
    (" 0:30 ", "2026-11-23 00:30:00"), ("2026-11-22 23:47", "2026-11-22 23:47:00"),
    ("2026-11-22T23:47:10", "2026-11-22 23:47:10"), ("2026-11-23", "2026-11-23 00:00:00"),
    ("-10m", "2026-11-22 23:40:00"), ("+30s", "2026-11-22 23:50:30"),
    ("+30", "2026-11-22 23:50:30"), ("-1h30m", "2026-11-22 22:20:00"),
    ("now", "2026-11-23 01:05:00"), ("start", "2026-11-22 22:10:00"),
    ("-1.5h", "2026-11-22 22:20:00"), ("- 5m", "2026-11-22 23:45:00")])
def test_understood(text: str, meant: str) -> None:
    assert parse(text, span()) // SECOND * SECOND == ns(meant)


def test_a_second_is_meant_to_its_end() -> None:
    assert parse("23:47:10", span()) == ns("2026-11-22 23:47:11") - 1
    assert parse("-10m", span()) == ns("2026-11-22 23:40:00")


@pytest.mark.parametrize(("text", "at", "says"), [
    ("", 0, "time"), ("23:61", 3, "61"), ("24:00", 0, "24"), ("23:47x", 5, "here"),
    ("2026-11-22 abc", 11, "expected"), ("-10x", 3, "unit"), ("-", 1, "how long"),
    ("yesterday", 0, "expected"), ("2026-02-30", 0, "day"), ("-5m!", 3, "number"),
    ("23:47:75", 6, "75"), ("-9999999999d", 1, "long")])
def test_errors_point_at_the_character(text: str, at: int, says: str) -> None:
    with pytest.raises(WhenError) as found:
        parse(text, span())
    assert found.value.at == at
    assert says in str(found.value)


def test_fractions_of_a_second() -> None:
    assert parse("23:47:10.25", span()) == ns("2026-11-22 23:47:10") + SECOND // 4


def test_summer_time_ends_between() -> None:
    night = span("2026-10-25 01:00:00", "2026-10-25 12:00:00", "2026-10-25 11:00:00")
    assert parse("11:30", night) // SECOND * SECOND == ns("2026-10-25 11:30:00")


def test_shown_as_typed() -> None:
    assert clock(ns("2026-11-22 23:47:10")) == "23:47:10"
    assert clock(ns("2026-11-22 23:47:10"), day=True) == "2026-11-22 23:47:10"
    assert stamp(ns("2026-11-22 23:47:10")) == "20261122-234710"
    assert parse(clock(ns("2026-11-22 23:47:10"), day=True), span()) // SECOND * SECOND == (
        ns("2026-11-22 23:47:10"))


@given(st.text(max_size=30))
def test_any_text_is_a_time_or_an_error(text: str) -> None:
    try:
        assert isinstance(parse(text, span()), int)
    except WhenError as err:
        assert 0 <= err.at <= len(text)


@given(st.integers(0, 10**8))
def test_durations_of_seconds(seconds: int) -> None:
    assert duration(f"{seconds}s") == seconds * SECOND
