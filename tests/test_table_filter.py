"""Filtering and searching in a table: pure logic, and the widget in a small app."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from textual.app import App

from ktop import theme
from ktop.query import parse
from ktop.query_match import Vocabulary, compile
from ktop.widgets.columns import Column
from ktop.widgets.filtering import Filtering
from ktop.widgets.table import VirtualTable


@dataclass
class Row:
    id: int
    value: float | None
    name: str = "x"


COLUMNS = [
    Column("id", "ID", 6, lambda r: str(r.id), sort=lambda r: r.id),
    Column("value", "VALUE", 6, lambda r: "-" if r.value is None else f"{r.value:.1f}",
           sort=lambda r: r.value, kind="number"),
    Column("name", "NAME", 10, lambda r: r.name, "left", sort=lambda r: r.name, min_width=10)]


def by_id(row):
    return row.id


def rows(n):
    return [Row(i, float(i), f"name-{i}") for i in range(n)]


def asked(text):
    return compile(parse(text), Vocabulary(COLUMNS))


# -- without a terminal ----------------------------------------------------------------------------


def test_a_parent_is_there_for_its_children_and_brings_its_own():
    filtering = Filtering()
    parents = [Row(1, 1.0, "alpha"), Row(2, 2.0, "beta"), Row(3, 3.0, "gamma")]
    children = {1: [Row(11, 0.0, "one"), Row(12, 0.0, "two")], 2: [Row(21, 0.0, "one")]}
    filtering.set(asked("one"), "one")
    kept, below = filtering.apply(parents, children, by_id)
    assert [r.id for r in kept] == [1, 2]
    assert {k: [r.id for r in v] for k, v in below.items()} == {1: [11], 2: [21]}
    assert (filtering.matched, filtering.total) == (2, 6)
    filtering.set(asked("alpha"), "alpha")
    kept, below = filtering.apply(parents, children, by_id)
    assert {k: [r.id for r in v] for k, v in below.items()} == {1: [11, 12]}
    filtering.set(None, "")
    assert filtering.apply(parents, children, by_id) == (parents, children)
    assert (filtering.matched, filtering.total) == (6, 6)
    assert filtering.searched_text == "alpha"


@pytest.mark.parametrize(("at", "step", "found"), [
    (None, 1, (1, False)), (None, -1, (9, False)), (1, 1, (9, False)), (9, 1, (1, True)),
    (1, -1, (9, True)), (5, 1, (9, False)), (5, -1, (1, False))])
def test_the_next_match_goes_round(at, step, found):
    filtering = Filtering()
    filtering.set(asked("id = 1 or id = 9"), "")
    assert filtering.next(rows(10), at, step) == found


def test_the_only_match_finds_itself_and_none_nothing():
    filtering = Filtering()
    assert filtering.next(rows(3), None, 1) is None
    filtering.set(asked("id = 1"), "")
    assert filtering.next(rows(3), 1, 1) == (1, True)
    filtering.set(asked("id = 7"), "")
    assert filtering.next(rows(3), 1, 1) is None
    assert filtering.next([], None, 1) is None


# -- the widget ------------------------------------------------------------------------------------


class TableApp(App):
    def __init__(self, **kwargs):
        super().__init__()
        self.table = VirtualTable(COLUMNS, by_id, frozen=1, **{"sort": "value", **kwargs})
        self.seen = []

    def compose(self):
        yield self.table

    def on_mount(self):
        self.theme = theme.THEME
        self.table.focus()

    def on_virtual_table_filtered(self, message):
        self.seen.append(message.problem)


def screen(widget):
    return [widget.render_line(y).text for y in range(widget.size.height)]


async def test_the_filter_has_a_line_of_its_own_and_takes_no_row():
    app = TableApp()
    async with app.run_test(size=(60, 12)) as pilot:
        app.table.set_rows(rows(100))
        app.table.set_filter(asked("value >= 90"), "value >= 90")
        lines = screen(app.table)
        assert lines[0].startswith("── /value >= 90 ─")
        assert lines[0].endswith(" 10 of 100 ──")
        assert "VALUE" in lines[1]
        assert [line.split()[0] for line in lines[2:]] == [str(n) for n in range(99, 89, -1)]
        await pilot.press("end")
        assert "90" in screen(app.table)[-1]
        await pilot.click(VirtualTable, offset=(4, 3))
        assert app.table.selected == 98
        await pilot.click(VirtualTable, offset=(4, 1))
        assert app.table.sort_key == "id"
        await pilot.click(VirtualTable, offset=(4, 0))
        assert (app.table.sort_key, app.table.selected) == ("id", 98)
        await pilot.press("escape")
        assert len(app.table.rows) == 100
        assert app.table.selected == 98
        assert "VALUE" in screen(app.table)[0]
        assert app.seen == ["", ""]


async def test_new_rows_are_filtered_and_the_cursor_stays_with_its_row():
    app = TableApp()
    async with app.run_test(size=(60, 12)) as pilot:
        app.table.set_rows(rows(50))
        app.table.set_filter(asked("name ~ 7$"), "name ~ 7$")
        await pilot.press("down", "down")
        assert app.table.selected == 37
        app.table.set_rows(rows(80))
        assert [r.id for r in app.table.rows] == [77, 67, 57, 47, 37, 27, 17, 7]
        assert app.table.selected == 37
        app.table.set_rows([])
        assert "nothing here" in screen(app.table)[2]
        app.table.set_rows(rows(5))
        assert "none of 5 rows matches" in screen(app.table)[2]


async def test_a_feed_that_is_filtered_keeps_its_order():
    app = TableApp(feed=True, sort=None)
    async with app.run_test(size=(60, 12)):
        app.table.set_rows(rows(30)[::-1])
        app.table.set_filter(asked("value < 5"), "value < 5")
        assert [r.id for r in app.table.rows] == [4, 3, 2, 1, 0]


@pytest.mark.parametrize("height", [1, 2, 3])
async def test_there_is_always_room_for_nothing(height):
    app = TableApp()
    async with app.run_test(size=(30, height)) as pilot:
        app.table.set_rows(rows(30))
        app.table.set_filter(asked("value < 5"), "value < 5")
        await pilot.press("j", "j", "k", "end", "pagedown")
        assert len(screen(app.table)) == height
