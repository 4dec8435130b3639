"""The border for text: whatever comes in, one harmless line comes out."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktop import text


@given(st.one_of(st.binary(max_size=500), st.text(max_size=500)), st.integers(1, 200))
def test_always_one_bounded_line_without_controls(raw: bytes | str, limit: int) -> None:
    shown = text.clean(raw, limit)
    assert len(shown) <= limit
    for char in shown:
        assert unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp"), repr(char)
    shown.encode("utf-8")  # no lone surrogates


def test_no_control_or_format_character_at_all_gets_through() -> None:
    for code in range(0x110000):
        char = chr(code)
        if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp"):
            assert text.clean(char) != char, hex(code)


@pytest.mark.parametrize(("raw", "shown"), [
    (b"nginx", "nginx"),
    (b"\x1b[31mred\x1b[0m", "\\e[31mred\\e[0m"),
    (b"two\nlines\r\t", "two\\nlines\\r\\t"),
    (b"\xff\xfe", "\\xff\\xfe"),
    ("\u202egpj.exe", "\\u202egpj.exe"),
    ("zero\u200bwidth\ufeff", "zero\\u200bwidth\\ufeff"),
    ("\x9b31m", "\\x9b31m"),
    ("[red]markup[/red]", "[red]markup[/red]"),
    ("日本語 é", "日本語 é"),
])
def test_known_tricks(raw: bytes | str, shown: str) -> None:
    assert text.clean(raw) == shown


def test_combining_marks_do_not_climb() -> None:
    assert text.clean("a" + "\u0301" * 50).count("\u0301") == 3


def test_cut_text_says_so() -> None:
    assert text.clean("x" * 100, 10) == "x" * 9 + "…"


def test_comm_ends_at_its_nul() -> None:
    assert text.comm(b"bash\0garbage\0\0\0\0") == "bash"
    assert text.comm(b"sixteen bytes ok") == "sixteen bytes ok"


def test_arguments_keep_their_borders() -> None:
    assert text.arguments(b"sh\0-c\0echo hi\0\0") == 'sh -c "echo hi"'
    assert text.arguments(b"prog\0\0last\0") == 'prog "" last'
    assert text.arguments(b"") == '""'
