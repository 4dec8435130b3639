"""The prompt as a picture and as an editor: no app needed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from textual import events

from ktop.query import MAX_LENGTH, QueryError
from ktop.query_complete import Choice
from ktop.widgets.prompt import HINT, REMEMBERED, Editor, Prompt


def prompt(text: str = "", choices: list[Choice] | None = None, past: list[str] | None = None,
           ) -> Prompt:
    made = Prompt(past if past is not None else [], lambda _: None, lambda _: None,
                  lambda *_: choices or [])
    made.open(text)
    return made


def picture(made: Prompt, width: int = 60) -> list[str]:
    return [strip.text.rstrip() for strip in made.lines(width, 2)]


def press(made: Prompt, *keys: str) -> None:
    for key in keys:
        made.take(events.Key(key, key if len(key) == 1 else None))


@pytest.mark.parametrize(("text", "at", "first", "second"), [
    ("cpu >> 5", 5, " /cpu >> 5", "       ^ wrong"), ("", 0, " /", "  ^ wrong"),
    ("数 >> 5", 3, " /数 >> 5", "      ^ wrong")])
def test_the_caret_is_below_its_character(text, at, first, second):
    made = prompt(text)
    made.show(QueryError("wrong", at), "3 of 9")
    lines = picture(made)
    assert lines[0].startswith(first)
    assert lines[0].endswith("3 of 9")
    assert lines[1] == second


def test_a_mistake_at_the_end_of_a_long_line_has_its_message_before_it():
    text = "x" * 50 + " >"
    made = prompt(text)
    made.show(QueryError("a long message here", 51), "")
    line = picture(made, 60)[1]
    assert line.index("^") == 2 + 51
    assert "a long message here ^" in line


@pytest.mark.parametrize("width", [20, 40, 80, 200])
@pytest.mark.parametrize("text", ["", "a", "x" * 300, "数" * 100, "e\u0301" * 40])
@pytest.mark.parametrize("cursor", [0, 1, 40, 299])
def test_it_is_as_wide_as_the_screen_and_the_cursor_is_in_view(width, text, cursor):
    made = prompt(text, [Choice("word" * n, "what", 0, 0) for n in range(1, 30)])
    made.editor.cursor = min(cursor, len(text))
    for error in (None, QueryError("something is wrong here", len(text))):
        made.show(error, "12 of 345")
        lines = made.lines(width, 2)
        assert [line.cell_length for line in lines] == [width, width]
    from ktop import theme

    where = [segment for segment in made.lines(width, 2)[0]
             if segment.style == theme.style("cursor")]
    assert len(where) == 1
    assert cell_len(where[0].text) >= 1


def test_choices_are_offered_and_gone_through():
    made = prompt("c", [Choice("cpu", "CPU time", 0, 1), Choice("comm", "its name", 0, 1)])
    assert picture(made)[1].split() == ["cpu", "comm", "Tab"]
    press(made, "tab")
    assert made.editor.text == "cpu"
    assert picture(made)[1].endswith("CPU time")
    press(made, "tab")
    assert made.editor.text == "comm"
    press(made, "tab")
    assert made.editor.text == "cpu"
    press(made, "shift+tab")
    assert made.editor.text == "comm"


def test_without_anything_to_say_it_says_its_keys():
    assert picture(prompt("zzz"), 80)[1].strip() == HINT


def test_the_last_fifty_are_remembered_once_each():
    past: list[str] = []
    for n in range(70):
        editor = Editor(f"query {n % 60}", 0, past)
        editor.remember()
    assert len(past) == REMEMBERED
    assert past[-1] == "query 9"
    assert len(set(past)) == len(past)
    editor = Editor("draft", 5, past)
    editor.recall(1)
    assert editor.text == "query 9"
    editor.recall(-1)
    assert editor.text == "draft"


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=12), st.lists(st.sampled_from(
    ["left", "right", "home", "end", "backspace", "delete", "ctrl+w", "ctrl+u", "ctrl+k", "ctrl+a",
     "ctrl+e", "tab", "shift+tab", "up", "down", "f5", "a", "数"]), max_size=20))
def test_no_sequence_of_keys_breaks_it(text, keys):
    made = prompt(text, [Choice("cpu", "", 0, 1), Choice("x y", "", 0, 0)], ["before", "earlier"])
    press(made, *keys)
    assert 0 <= made.editor.cursor <= len(made.editor.text) <= MAX_LENGTH
    assert [line.cell_length for line in made.lines(40, 2)] == [40, 40]
