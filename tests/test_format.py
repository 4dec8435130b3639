"""Figures as text: unknown is "-", zero is zero, small is not zero, nothing outgrows its column."""

import pytest

from ktop import format as fmt

FUNCTIONS = [fmt.pct, fmt.rate, fmt.count, fmt.grouped, fmt.size, fmt.size_rate, fmt.duration,
             fmt.age, fmt.number, fmt.clock_time]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_unknown_is_a_dash_and_never_zero(function):
    assert function(None) == "-"


@pytest.mark.parametrize(("function", "value", "text"), [
    (fmt.pct, 0.0, "0.0"), (fmt.pct, 12.34, "12.3"), (fmt.pct, 99.96, "100"),
    (fmt.pct, 812.0, "812"), (fmt.pct, 12800.0, "13k"),
    (fmt.rate, 0, "0"), (fmt.rate, 0.01, "<0.1"), (fmt.rate, 3.41, "3.4"), (fmt.rate, 340, "340"),
    (fmt.rate, 1234, "1.2k"), (fmt.rate, 999.6, "1.0k"), (fmt.rate, 5.6e6, "5.6M"),
    (fmt.count, 0, "0"), (fmt.count, 99999, "99999"), (fmt.count, 123456, "123k"),
    (fmt.grouped, 1234567, "1,234,567"),
    (fmt.size, 0, "0"), (fmt.size, 0.3, "1B"), (fmt.size, 812, "812B"), (fmt.size, 1023, "1.0K"),
    (fmt.size, 5 << 20, "5.0M"), (fmt.size, 34 << 30, "34G"),
    (fmt.size_rate, 0, "0"), (fmt.size_rate, 1.2 * (1 << 20), "1.2M/s"),
    (fmt.duration, 0, "0"), (fmt.duration, 850, "850ns"), (fmt.duration, 12_000, "12us"),
    (fmt.duration, 3_400_000, "3.4ms"), (fmt.duration, 999_999, "1.0ms"),
    (fmt.duration, 1.2e9, "1.2s"), (fmt.duration, 125e9, "2m05s"),
    (fmt.age, 42e9, "42s"), (fmt.age, 192e9, "3m12s"), (fmt.age, 18_180e9, "5h03m"),
    (fmt.age, (12 * 24 + 4) * 3600e9, "12d04h"), (fmt.age, 400 * 86400e9, "1y035d"),
    (fmt.number, 0, "0"), (fmt.number, 0.001, "<0.01"), (fmt.number, 0.42, "0.42"),
    (fmt.number, 12.34, "12.3"), (fmt.number, 340, "340"),
])
def test_text(function, value, text):
    assert function(value) == text


def test_time_of_day():
    assert fmt.clock_time(1_770_000_000 * 10**9, utc=True) == "02:40:00"


@pytest.mark.parametrize(("function", "width"), [
    (fmt.pct, 5), (fmt.rate, 5), (fmt.count, 5), (fmt.size, 5), (fmt.duration, 6),
    (fmt.number, 5), (fmt.age, 6)])
def test_no_magnitude_outgrows_its_column(function, width):
    for exponent in range(-3, 16):
        for mantissa in (1, 3.3, 9.94, 9.96, 9.996):
            value = mantissa * 10.0**exponent
            if function is fmt.count:
                value = int(value)
            if function is fmt.age and value > 99 * 365 * 86400e9:
                continue
            text = function(value)
            assert len(text) <= width, (value, text)
            assert text.isascii()
