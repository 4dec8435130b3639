"""Filter, search and the choice of columns by keys, on the recorded session."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from textual import events

from ktop.query import parse
from ktop.query_match import compile
from ktop.widgets.prompt import Prompt
from ktop.widgets.table import VirtualTable
from tests.session import play, still
from tests.work import counted


def lines(app: Any) -> list[str]:
    screen = app.screen
    return [strip.text.rstrip() for strip in screen._compositor.render_strips(screen.size)]


def main(app: Any) -> VirtualTable:
    return app.query_one("#main", VirtualTable)


def keys(text: str) -> list[str]:
    names = {" ": "space", ">": "greater_than_sign", "<": "less_than_sign", "~": "tilde",
             '"': "quotation_mark", "(": "left_parenthesis", ")": "right_parenthesis",
             "|": "vertical_line", "=": "equals_sign", "_": "underscore", "/": "slash",
             ".": "full_stop", "-": "minus"}
    return [names.get(c, c) for c in text]


@pytest.fixture(params=[(80, 24), (120, 40)], ids=["80x24", "120x40"])
def size(request):
    return request.param


async def test_a_filter_holds_while_it_is_typed_and_is_named_above_the_table(size):
    app = play()
    async with app.run_test(size=size) as pilot:
        await still(pilot)
        table = main(app)
        every = len(table.rows)
        truth = [row for row in table.rows if (row.cpu_pct or 0) > 0.5]
        assert 0 < len(truth) < every
        await pilot.press("slash", *keys("cpu > 0.5"))
        await pilot.pause()
        assert [id(r) for r in table.rows] == [id(r) for r in truth]
        assert lines(app)[-2].startswith(" /cpu > 0.5")
        assert f"{len(truth)} of {every}" in lines(app)[-2]
        await pilot.press("enter")
        await pilot.pause()
        assert not app.query(Prompt)
        assert any(line.startswith("── /cpu > 0.5 ─") and f"{len(truth)} of {every} ─" in line
                   for line in lines(app))
        assert " / Find" in lines(app)[-1]


async def test_escape_puts_back_what_was_and_escape_in_the_pane_clears():
    app = play()
    async with app.run_test(size=(120, 40)) as pilot:
        await still(pilot, "down", "down", "down")
        table = main(app)
        before, selected, top = list(table.rows), table.selected, table.top
        await pilot.press("slash", *keys("nosuchword"))
        assert table.rows == []
        assert "none of" in "\n".join(lines(app))
        await pilot.press("escape")
        assert (table.rows, table.selected, table.top) == (before, selected, top)
        await pilot.press("slash", *keys("state = S"), "enter")
        kept = len(table.rows)
        assert 0 < kept < len(before)
        await pilot.press("slash", *keys(" x"), "escape")
        assert (len(table.rows), table.filtering.text) == (kept, "state = S")
        await pilot.press("escape")
        assert table.filtering.text == ""
        assert table.rows == before
        assert table.selected is not None
        await pilot.press("escape")
        assert table.selected is None


async def test_the_last_query_that_can_be_understood_holds_and_the_mistake_is_pointed_at():
    app = play()
    async with app.run_test(size=(80, 24)) as pilot:
        await still(pilot)
        table = main(app)
        await pilot.press("slash", *keys("cpu > 0.5"))
        kept = list(table.rows)
        await pilot.press(*keys("ms and d"), "left")
        await pilot.pause()
        assert lines(app)[-1].startswith(" " * 8 + "^ cpu is a plain number, 0.5ms is not")
        assert lines(app)[-2][2:14] == "cpu > 0.5ms "
        assert table.rows == kept
        await pilot.press("ctrl+u", *keys("x > 1 and d"), "home")
        await pilot.pause()
        assert lines(app)[-1].startswith("  ^ no column or field x here")
        await pilot.press("enter")
        await pilot.pause()
        assert "kept: " in lines(app)[-2]
        assert "no column" in lines(app)[-2]


async def test_no_key_is_lost_or_goes_elsewhere():
    """Everything at once, as a paste into a terminal would have it: q does not leave."""
    app = play()
    async with app.run_test(size=(80, 24)) as pilot:
        await still(pilot)
        for key in ["slash", *keys("quit k 1 space"), "enter", "down"]:
            app.post_message(events.Key(key, key if len(key) == 1 else
                                        {"space": " "}.get(key)))
        await pilot.pause(0.2)
        table = main(app)
        assert table.filtering.text == "quit k 1 space"
        assert app.number == 1
        assert app.return_code is None


async def test_n_moves_among_matches_and_the_search_outlives_the_filter():
    app = play()
    async with app.run_test(size=(120, 40)) as pilot:
        await still(pilot)
        table = main(app)
        await pilot.press("n")
        await pilot.pause()
        assert "nothing to look for yet" in lines(app)[-2]
        await pilot.press("slash", *keys("state = S"), "enter", "escape")
        assert table.filtering.text == ""
        wanted = [i for i, row in enumerate(table.rows) if row.state == "S"]
        at = []
        for _ in range(len(wanted) + 1):
            await pilot.press("n")
            at.append(table.rows.index(table.selected_row))
        assert at == [*wanted, wanted[0]]
        await pilot.pause()
        assert "from the top again" in lines(app)[-2]
        await pilot.press("N")
        assert table.rows.index(table.selected_row) == wanted[-1]


async def test_completion_history_and_editing():
    app = play()
    async with app.run_test(size=(120, 40)) as pilot:
        await still(pilot)
        table = main(app)
        await pilot.press("slash", *keys("runq_w"), "tab")
        prompt = app.query_one(Prompt)
        assert prompt.editor.text == "runq_wait_pct "
        await pilot.press("tab", "tab", "shift+tab")
        assert prompt.editor.text == "runq_wait_pct ="
        await pilot.press("ctrl+w", *keys(">= 0"), "left", "left", "backspace", "home", "delete",
                          "r", "end", "enter")
        assert table.filtering.text == "runq_wait_pct > 0"
        await pilot.press("slash", "ctrl+u", *keys("x"), "enter", "slash", "ctrl+u", "up", "up")
        prompt = app.query_one(Prompt)
        assert prompt.editor.text == "runq_wait_pct > 0"
        await pilot.press("down", "down")
        assert prompt.editor.text == ""
        await pilot.press("enter")
        assert table.filtering.matcher is None
        app.post_message(events.Key("slash", "/"))
        app.post_message(events.Paste("state\x1b = \n S"))
        await pilot.pause(0.1)
        assert app.query_one(Prompt).editor.text == "state\\e = S"


async def test_a_filter_belongs_to_its_table_and_survives_panes_and_samples():
    app = play()
    async with app.run_test(size=(120, 40)) as pilot:
        await still(pilot)
        await pilot.press("slash", *keys("state = S"), "enter", "3")
        tables = app.pane.tables()
        assert all(t.filtering.text == "" for t in tables)
        await pilot.press("slash", *keys("rtt > 1us"), "enter", "1")
        assert main(app).filtering.text == "state = S"
        main(app).set_rows(main(app).unfiltered)
        assert {row.state for row in main(app).rows} == {"S"}
        await pilot.press("3")
        assert app.pane.tables()[0].filtering.text == "rtt > 1us"


async def test_a_feed_is_filtered_too():
    app = play()
    async with app.run_test(size=(160, 40)) as pilot:
        await still(pilot, "o")
        feed = app.query_one("#feed", VirtualTable)
        assert feed.has_focus
        assert {f.event.kind for f in feed.rows} > {"exec"}
        await pilot.press("slash", *keys("kind = exec"), "enter")
        assert {f.event.kind for f in feed.rows} == {"exec"}


async def test_a_pattern_that_explodes_is_taken_out_and_named():
    app = play()
    async with app.run_test(size=(80, 24)) as pilot:
        await still(pilot)
        table = main(app)
        table.set_rows([msgspec.structs.replace(row, args="a" * 4000)
                        for row in table.unfiltered])
        pattern = "(a|a)" * 28 + "c"
        table.set_filter(compile(parse(f'args ~ "{pattern}"'), table.vocabulary()), "slow")
        await pilot.pause()
        assert table.filtering.matcher is None
        assert "the pattern took more than" in lines(app)[-2]


async def test_j_and_k_move_and_do_nothing_else():
    app = play()
    async with app.run_test(size=(80, 24)) as pilot:
        await still(pilot, "j", "j", "j", "k")
        table = main(app)
        assert table.rows.index(table.selected_row) == 1


async def test_a_filter_is_cheap():
    """5,000 rows: from the key to the repainted table. (In milliseconds: bench/drill.py.)"""
    app = play()
    async with app.run_test(size=(120, 40)) as pilot:
        await still(pilot)
        table = main(app)
        some = list(table.unfiltered)
        many = [type(row)(**{name: getattr(row, name) for name in row.__struct_fields__}
                          | {"pid": 100_000 + n}) for n, row in
                enumerate(some * (5000 // len(some) + 1))][:5000]
        table.set_rows(many)
        for text in ("cpu > 1", "python", "comm ~ py.*", ""):
            matcher = compile(parse(text), table.vocabulary())
            with counted() as work:
                table.set_filter(matcher, text)
                await asyncio.sleep(0)
            assert work.lines < 300_000


async def test_the_screen_of_a_process_is_filtered_and_stacks_have_a_search_of_their_own():
    app = play()
    async with app.run_test(size=(100, 30)) as pilot:
        await still(pilot, "down", "enter")
        await pilot.pause(0.3)
        await pilot.press("3", "slash", *keys("zz"))
        await pilot.pause()
        assert app.screen.query(Prompt)
        assert lines(app)[-2].startswith(" /zz")
        await pilot.press("escape")
        await pilot.pause()
        assert not app.screen.query(Prompt)
        assert len(app.screen_stack) == 2
        await pilot.press("escape", "S")
        await pilot.pause(0.3)
        await pilot.press("slash")
        await pilot.pause(0.3)
        assert not any(screen.query(Prompt) for screen in app.screen_stack)


async def test_a_dialog_that_wants_text_gets_a_slash():
    app = play()
    async with app.run_test(size=(100, 30)) as pilot:
        await still(pilot, "colon", *keys("a/b"))
        assert app.screen.query_one("CommandInput").value == "a/b"
        await pilot.press("escape", "question_mark", "slash")
        assert not any(screen.query(Prompt) for screen in app.screen_stack)


async def test_a_screen_that_goes_away_below_the_prompt_gives_the_keys_back():
    app = play()
    async with app.run_test(size=(100, 30)) as pilot:
        await still(pilot, "down", "enter")
        await pilot.pause(0.3)
        await pilot.press("3", "slash", *keys("zz"))
        app.pop_screen()
        await pilot.pause()
        await pilot.press("2")
        assert app.number == 2
        assert app.status.display


async def test_fingers_that_know_top_and_htop_are_understood():
    app = play()
    async with app.run_test(size=(120, 40)) as pilot:
        await still(pilot)
        table = main(app)
        await pilot.press("M")
        assert (table.sort_key, table.descending) == ("rss", True)
        await pilot.press("P")
        assert (table.sort_key, table.descending) == ("cpu", True)
        await pilot.press("P")  # as in top, no toggle
        assert (table.sort_key, table.descending) == ("cpu", True)
        for key in ("f3", "f4"):
            await pilot.press(key)
            assert app.query(Prompt)
            await pilot.press("escape")
            await pilot.pause()
        every = len(table.rows)
        await pilot.press("u", *keys("root"), "enter")
        await pilot.pause()
        assert table.filtering.text == "user = root"
        assert {row.uid for row in table.rows} == {0}
        assert 0 < len(table.rows) <= every
        await pilot.press("escape", "f5")
        assert app.pane.grouped
        await pilot.press("f5", "f2")
        await pilot.pause()
        assert len(app.screen_stack) == 2
        await pilot.press("escape", "f9")
        await pilot.pause()
        assert "ktop only looks" in "\n".join(lines(app))
        await pilot.press("5", "v", "P")  # CPUs: its column CPU is their number, USER% a share
        await pilot.pause()
        assert app.query_one("#cpus-table", VirtualTable).sort_key is None
        assert "no column CPU% here" in "\n".join(lines(app))
        await pilot.press("u")
        await pilot.pause()
        assert "no users here" in "\n".join(lines(app))
