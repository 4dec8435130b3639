"""The cell-level diff: a terminal (pyte) shows the same after it as after a full repaint."""

from __future__ import annotations

import re

import pyte
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ktop.cells import Cells, canonical, change, clusters, plain, sgr_parts

STYLES = ["", "1", "2", "36", "1;36", "1;4;36", "7", "44", "31;44", "38;5;9", "2;48;2;1;2;3",
          "39;49", "1;39;41"]
TEXTS = st.text(st.sampled_from("ab  01│█…·漢字e\u0301👍"), max_size=12)
PIECES = st.lists(st.tuples(TEXTS, st.sampled_from(STYLES)), max_size=5)
SIZE = st.tuples(st.integers(2, 24), st.integers(1, 4))
STEP = st.one_of(
    st.tuples(st.just("put"), st.integers(0, 26), st.integers(0, 4), PIECES, st.integers(0, 30)),
    st.tuples(st.just("update")), st.tuples(st.just("forget")),
    st.tuples(st.just("resize"), SIZE))


class Model:
    """A terminal and its shadow."""

    def __init__(self, width: int, height: int) -> None:
        self.cells = Cells()
        self.cells.resize(width, height)
        self.screen = pyte.Screen(width, height)
        self.stream = pyte.Stream(self.screen)
        self.screen.reset_mode(pyte.modes.DECAWM)
        self.fill()

    def fill(self) -> None:
        """All of it blank, so that there is nothing unknown."""
        for y in range(self.cells.height):
            self.cells.put(0, y, [(" " * self.cells.width, "")], 999)

    def update(self) -> str:
        out = self.cells.update()
        self.stream.feed(out)
        return out

    def repainted(self) -> pyte.Screen:
        """Another terminal, garbled, on which the same picture is drawn from nothing."""
        other = Model(self.cells.width, self.cells.height)
        other.stream.feed("\x1b[H" + "\x1b[7;31m#漢" * (self.cells.width * self.cells.height))
        other.stream.feed("\x1b[m")
        for y, line in enumerate(self.cells._lines):
            pieces = [(text or "", style) for text, style in
                      zip(line.texts, line.styles, strict=True)]
            other.cells.put(0, y, pieces, 999)
        other.update()
        return other.screen


def look(screen: pyte.Screen) -> list[list[tuple]]:
    """Every cell as one sees it: colour and boldness of a blank do not show."""
    def seen(cell):
        if cell.data == " " and not (cell.reverse or cell.underscore or cell.bg != "default"):
            return (" ",)
        return tuple(cell)
    return [[seen(screen.buffer[y][x]) for x in range(screen.columns)]
            for y in range(screen.lines)]


@given(SIZE, st.lists(STEP, max_size=14))
@example((6, 1), [("put", 0, 0, [("漢字", "1")], 9), ("update",), ("put", 1, 0, [("ab", "")], 9)])
@example((6, 1), [("put", 0, 0, [("ab漢", "")], 3)])
@settings(max_examples=250, deadline=None)
def test_a_diff_shows_what_a_full_repaint_shows(size, steps):
    model = Model(*size)
    for name, *values in [*steps, ("update",)]:
        if name == "put":
            model.cells.put(*values)
        elif name == "update":
            model.update()
        elif name == "forget":
            model.update()
            lines = [(line.texts, line.styles) for line in model.cells._lines]
            model.cells.forget()
            model.stream.feed("\x1b[Hgarbled\x1b[m")
            for y, (texts, styles) in enumerate(lines):
                model.cells.put(0, y, list(zip(map(str, texts), styles, strict=True)), 999)
        else:
            model.screen.resize(values[0][1], values[0][0])
            model.cells.resize(*values[0])
            model.fill()
    assert look(model.screen) == look(model.repainted())
    assert model.update() == ""


@given(st.lists(st.lists(st.tuples(
    st.text(st.sampled_from("ab  01│█…"), max_size=12), st.sampled_from(STYLES)), max_size=6),
    min_size=1, max_size=5))
@settings(max_examples=150, deadline=None)
def test_a_diff_shows_what_plain_writing_shows(pictures):
    """Against a way of drawing that shares no code with the diff."""
    model, plainly = Model(20, 1), pyte.Screen(20, 1)
    for pieces in pictures:
        model.fill()
        model.cells.put(0, 0, pieces, 20)
        model.update()
    written, left = "", 20
    for text, style in pictures[-1]:
        written += f"\x1b[{style}m{text[:left]}\x1b[0m"
        left -= len(text[:left])
    pyte.Stream(plainly).feed(written)
    assert look(model.screen) == look(plainly)


@given(st.sampled_from(STYLES), st.sampled_from(STYLES))
def test_a_change_of_style_is_as_good_as_starting_anew(old, new):
    def cell(sequence):
        screen = pyte.Screen(2, 1)
        pyte.Stream(screen).feed(sequence + "x")
        return screen.buffer[0][0]
    assert cell(f"\x1b[{old}m" + change(old, new)) == cell(f"\x1b[{new}m")
    assert len(change(old, new)) <= len(f"\x1b[0;{new}m")


def test_style_parts():
    assert sgr_parts("1;38;5;9;48;2;1;2;3") == ({"1"}, "38;5;9", "48;2;1;2;3")
    assert sgr_parts("21;97;107") == ({"21"}, "97", "107")
    assert [plain(s) for s in ("", "1;2;31", "4", "7", "41")] == [True, True, False, False, False]
    assert [canonical(s) for s in ("39;49", "4;1;39;41", "")] == ["", "1;4;41", ""]
    assert change("1", "1;36") == "\x1b[36m"
    assert change("1;36", "36") == "\x1b[0;36m"
    assert change("36", "33") == "\x1b[33m"


@pytest.mark.parametrize(("text", "cells"), [
    ("a漢b", ("a", "漢", "", "b")),
    ("e\u0301x", ("e\u0301", "x")),
    ("\u0301a", ("a",)),  # nothing to combine with
    ("👍", ("👍", "")),
    ("a\x1b[31mb\x9b\x07\r\n", ("a", "[", "3", "1", "m", "b"))])  # shown, never obeyed
def test_clusters(text, cells):
    assert clusters(text) == cells


def picture(change_at: tuple[int, int] | None = None) -> list[str]:
    lines = [f"{y:3d} " + "processes  0.1  12.3  │ " * 4 + "x" * 20 for y in range(40)]
    if change_at is not None:
        x, y = change_at
        lines[y] = lines[y][:x] + "@" + lines[y][x + 1:]
    return lines


def shown(model: Model, lines: list[str]) -> str:
    for y, line in enumerate(lines):
        model.cells.put(0, y, [(line[:60], "1;36"), (line[60:], "2")], 120)
    return model.update()


def test_bytes():
    model = Model(120, 40)
    assert shown(model, picture())
    assert shown(model, picture()) == ""
    out = shown(model, picture((57, 33)))
    assert "@" in out and len(out.encode()) < 40
    assert model.screen.display[33][57] == "@"
    model.cells.forget()
    assert len(shown(model, picture())) > 3000


def test_the_end_of_a_line_is_erased():
    model = Model(80, 1)
    model.cells.put(0, 0, [("x" * 80, "1")], 80)
    model.update()
    model.cells.put(0, 0, [("xx", "1"), (" " * 78, "2")], 80)
    assert model.update() == "\x1b[1;3H\x1b[K"


def test_gaps():
    model = Model(80, 1)
    model.cells.put(0, 0, [("aaaaaaaaaaaaaaaaaaaaaaaa", "1")], 80)
    model.update()
    model.cells.put(0, 0, [("baabaaaaaaaaaab", "1")], 80)
    assert model.update() == "\x1b[H\x1b[1mbaab\x1b[10Cb\x1b[m"


def test_a_terminal_that_counts_otherwise_loses_no_more_than_the_character():
    model = Model(20, 1)
    model.cells.put(0, 0, [("a❤\ufe0fbc", "")], 20)  # rich: two cells, pyte: one
    out = model.update()
    assert re.search("\ufe0f\x1b\\[4Gbc", out)
    assert model.screen.display[0].startswith("a❤")
    assert model.screen.buffer[0][3].data == "b"
    model.cells.put(4, 0, [("d", "")], 20)
    model.update()
    assert [model.screen.buffer[0][x].data for x in (2, 3, 4)] == [" ", "b", "d"]
