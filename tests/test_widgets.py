"""The table and the charts: logic as pure functions, the widget inside a small app."""

import random
from dataclasses import dataclass
from itertools import pairwise

import pytest
from rich.cells import cell_len
from textual._styles_cache import StylesCache
from textual.app import App

from ktop import hist, theme
from ktop.model import Hist
from ktop.widgets import strips
from ktop.widgets.bars import KINDS, legend, stacked, value_lines
from ktop.widgets.columns import Column, heir, interleave, order_rows, plan, skip_to_show
from ktop.widgets.heatmap import LABEL, heatmap_lines, shade
from ktop.widgets.histogram import bar, histogram_lines
from ktop.widgets.octaves import condense, fold
from ktop.widgets.strips import Line, StripWidget, cut, fit, rule, strip
from ktop.widgets.table import VirtualTable
from tests.frames import HOSTILE, SECOND, make_hist


@pytest.fixture(autouse=True)
def _glyphs():
    theme.use_ascii(False)
    theme.use_color(True)
    yield
    theme.use_ascii(False)
    theme.use_color(True)


@pytest.fixture(params=[False, True], ids=["unicode", "ascii"])
def ascii_only(request):
    theme.use_ascii(request.param)
    return request.param


@dataclass
class Row:
    id: int
    value: float | None
    name: str = "x"


COLUMNS = [
    Column("id", "ID", 6, lambda r: str(r.id), sort=lambda r: r.id),
    Column("value", "VALUE", 6, lambda r: "-" if r.value is None else f"{r.value:.1f}",
           sort=lambda r: r.value),
    *[Column(f"c{i}", f"COL{i}", 8, lambda r: "c", sort=lambda r: r.id) for i in range(8)],
    Column("name", "NAME", 10, lambda r: r.name, "left", sort=lambda r: r.name, min_width=10),
]


def by_id(row):
    return row.id


# -- text ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [*HOSTILE, "", "plain", "e\u0301" * 9, "数" * 40])
@pytest.mark.parametrize("width", [0, 1, 2, 3, 7, 8, 30])
@pytest.mark.parametrize("align", ["left", "right"])
def test_text_fits_its_cells_exactly(text, width, align, ascii_only):
    assert cell_len(fit(text, width, align)) == width
    assert cell_len(strip([(text, "normal")], width).text) == width


def test_a_wide_character_is_never_halved():
    assert cut("数据库", 4) == "数…"
    assert fit("数据库", 4) == "数… "
    assert cut("数据库", 6) == "数据库"


def test_ascii_shows_nothing_else():
    theme.use_ascii(True)
    assert fit("数据库 a…", 9) == "??? a?   "
    assert all(glyph.isascii() for glyph in (theme.glyphs().bar, theme.glyphs().shades))


def test_markup_is_text():
    assert strip([("[bold]x[/bold]", "normal")]).text == "[bold]x[/bold]"


def test_no_color_is_no_color_at_all():
    theme.use_color(False)
    assert all(theme.style(name).color is None and theme.style(name).bgcolor is None
               for name in theme._PALETTE)


def test_alarming_styles_differ_without_colour_too():
    theme.use_color(False)
    assert len({str(theme.style(n)) for n in ("normal", "dim", "warn", "bad", "cursor")}) == 5


@pytest.mark.parametrize("width", [1, 5, 10, 40, 120])
def test_a_rule_is_as_wide_as_its_place(width, ascii_only):
    assert rule("Run queue latency", "4,000 waits", width).cell_length == width


# -- order and layout ------------------------------------------------------------------------------


def test_none_is_last_whichever_direction():
    rows = [Row(1, None), Row(2, 5.0), Row(3, None), Row(4, 9.0)]
    column = COLUMNS[1]
    assert [r.id for r in order_rows(rows, by_id, column, True)] == [4, 2, 1, 3]
    assert [r.id for r in order_rows(rows, by_id, column, False)] == [2, 4, 1, 3]


@pytest.mark.parametrize("descending", [True, False])
def test_ties_keep_one_order_whatever_order_they_came_in(descending):
    rows = [Row(i, float(i % 3)) for i in range(60)]
    expected = order_rows(rows, by_id, COLUMNS[1], descending)
    shuffled = rows[:]
    random.Random(1).shuffle(shuffled)
    assert order_rows(shuffled, by_id, COLUMNS[1], descending) == expected


def test_children_follow_their_parent():
    rows = [Row(1, 1.0), Row(5, 2.0)]
    assert [r.id for r in interleave(rows, {1: [Row(2, 0), Row(3, 0)]}, by_id)] == [1, 2, 3, 5]


@pytest.mark.parametrize("width", [30, 40, 80, 120, 200])
@pytest.mark.parametrize("skip", [0, 1, 5, 99])
def test_the_plan_fills_the_width_with_frozen_and_last_always_there(width, skip):
    found = plan(COLUMNS, width, 2, skip)
    assert 1 + sum(w for _, w in found.shown) + len(found.shown) - 1 == width
    keys = [c.key for c, _ in found.shown]
    assert keys[:2] == ["id", "value"]
    assert keys[-1] == "name"


def test_scrolling_sideways_reaches_every_column():
    seen, skip = set(), 0
    while True:
        found = plan(COLUMNS, 50, 1, skip)
        seen |= {c.key for c, _ in found.shown}
        if not found.more_right:
            break
        skip += 1
    assert seen == {c.key for c in COLUMNS}


def test_a_column_sorted_by_comes_into_view():
    skip = skip_to_show(COLUMNS, 50, 1, 0, "c7")
    assert "c7" in [c.key for c, _ in plan(COLUMNS, 50, 1, skip).shown]
    assert skip_to_show(COLUMNS, 50, 1, skip, "value") == 0
    assert skip_to_show(COLUMNS, 50, 1, 3, "id") == 3


def test_the_heir_is_the_next_alive_else_the_one_before():
    assert heir([1, 2, 3, 4], 1, {1: 0, 4: 1}) == 4
    assert heir([1, 2, 3, 4], 3, {1: 0}) == 1
    assert heir([1], 0, {}) is None


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

    def on_virtual_table_highlighted(self, message):
        self.seen.append(message.key)

    def on_virtual_table_selected(self, message):
        self.seen.append(("open", message.key))


def rows(n, value=float):
    return [Row(i, value(i), f"name-{i}") for i in range(n)]


def screen(widget):
    return [widget.render_line(y).text for y in range(widget.size.height)]


async def test_five_thousand_rows_draw_only_those_in_view():
    app = TableApp()
    async with app.run_test(size=(80, 24)) as pilot:
        app.table.rows_drawn = 0
        app.table.set_rows(rows(5000))
        await pilot.pause()
        assert app.table.rows_drawn == 23
        await pilot.press("end")
        assert app.table.rows_drawn <= 2 * 23
        assert app.table.selected == 0
        assert screen(app.table)[-1].split()[1] == "0"


async def test_only_changed_lines_are_repainted(monkeypatch):
    app = TableApp()
    async with app.run_test(size=(80, 24)) as pilot:
        app.table.set_rows(rows(100))
        await pilot.pause()
        dirty = []
        monkeypatch.setattr(StripWidget, "refresh", lambda self, *r, **k: dirty.extend(r))
        app.table.set_rows(rows(100))
        assert dirty == []
        changed = rows(100)
        changed[98].name = "other"
        app.table.set_rows(changed)
        assert [(r.y, r.height) for r in dirty] == [(2, 1)]


async def test_the_cursor_stays_with_its_row_and_its_line():
    app = TableApp()
    async with app.run_test(size=(80, 24)) as pilot:
        app.table.set_rows(rows(100))
        await pilot.press("down", "down", "down")
        assert app.table.selected == 97
        app.table.set_rows([Row(i, float(100 - i) if i != 97 else 50.5) for i in range(100)])
        assert app.table.selected == 97
        assert "97" in screen(app.table)[3].split()


async def test_a_vanished_row_hands_the_cursor_to_the_next():
    app = TableApp()
    async with app.run_test(size=(80, 24)) as pilot:
        app.table.set_rows(rows(10))
        await pilot.press("down", "down")
        assert app.table.selected == 8
        app.table.set_rows([r for r in rows(10) if r.id not in (8, 7)])
        await pilot.pause()
        assert app.table.selected == 6
        app.table.set_rows([])
        await pilot.pause()
        assert app.table.selected is None
        assert app.seen == [9, 8, 6, None]
        assert "nothing here" in screen(app.table)[1]


async def test_without_a_cursor_the_top_of_the_order_is_in_view():
    app = TableApp()
    async with app.run_test(size=(80, 24)) as pilot:
        app.table.set_rows(rows(100))
        app.table.set_rows(rows(100, lambda i: -float(i)))
        assert screen(app.table)[1].split()[0] == "0"
        await pilot.press("pagedown", "pagedown", "escape")
        assert (app.table.top, app.table.selected) == (0, None)


async def test_a_feed_stands_still_while_one_reads_it():
    app = TableApp(feed=True, sort=None)
    async with app.run_test(size=(80, 24)) as pilot:
        app.table.set_rows(rows(100)[::-1])
        app.table.scroll_rows(10)
        await pilot.pause()
        before = screen(app.table)
        app.table.set_rows(rows(105)[::-1])
        assert screen(app.table) == before
        app.table.scroll_rows(-99)
        app.table.set_rows(rows(110)[::-1])
        assert screen(app.table)[1].split()[0] == "109"


async def test_sort_keys_and_header_click():
    app = TableApp()
    async with app.run_test(size=(80, 24)) as pilot:
        app.table.set_rows(rows(30))
        assert "▼VALUE" in screen(app.table)[0]
        await pilot.press("I")
        assert "▲VALUE" in screen(app.table)[0]
        await pilot.press("greater_than_sign")
        assert app.table.sort_key == "c0"
        await pilot.click(VirtualTable, offset=(4, 0))
        assert (app.table.sort_key, app.table.descending) == ("id", True)
        await pilot.click(VirtualTable, offset=(4, 0))
        assert not app.table.descending


async def test_click_wheel_and_enter():
    app = TableApp()
    async with app.run_test(size=(80, 24)) as pilot:
        app.table.set_rows(rows(50))
        await pilot.click(VirtualTable, offset=(4, 5))
        assert app.table.selected == 45
        await pilot.press("enter")
        await pilot.pause()
        assert app.seen == [45, ("open", 45)]
        app.table.scroll_rows(3)
        assert app.table.top == 3


async def test_columns_scroll_with_the_frozen_ones_and_the_last_in_place():
    app = TableApp()
    async with app.run_test(size=(50, 10)) as pilot:
        app.table.set_rows(rows(5))
        for _ in range(20):
            await pilot.press("right")
        header = screen(app.table)[0]
        assert header.startswith("‹")
        assert "ID" in header
        assert "COL7" in header
        assert "NAME" in header
        for _ in range(20):
            await pilot.press("left")
        assert "VALUE" in screen(app.table)[0]


async def test_every_line_is_exactly_as_wide_as_the_table(ascii_only):
    app = TableApp()
    async with app.run_test(size=(61, 20)) as pilot:
        app.table.set_rows([Row(i, None, HOSTILE[i % len(HOSTILE)]) for i in range(30)])
        await pilot.press("down")
        lines = screen(app.table)
        assert {cell_len(line) for line in lines} == {61}
        assert not any("\x1b" in line or "\n" in line for line in lines)
        assert all(line.isascii() for line in lines) or not ascii_only


# -- charts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [40, 58, 80, 200])
@pytest.mark.parametrize("height", [4, 8, 16, 40])
def test_a_histogram_counts_every_sample_in_its_place(width, height, ascii_only):
    h = make_hist(4000)
    lines = histogram_lines(h, width, height)
    assert len(lines) <= height
    assert {line.cell_length for line in lines} == {width}
    text = "\n".join(line.text for line in lines)
    if width >= 58:
        pipe = theme.glyphs().pipe
        counted = [line.text.split(pipe)[1].split() for line in lines if pipe in line.text]
        numbers = [int(w.replace(",", "")) for words in counted
                   for w in words if w.replace(",", "").isdigit()]
        assert sum(numbers) == hist.count(h)
        assert "P50" in text
        assert "P99.9" in text


def test_percentile_marks_stand_on_the_octave_that_holds_them():
    h = make_hist(4000)
    lines = [line.text for line in histogram_lines(h, 80, 40)]
    octaves = hist.octaves(h)
    first = next(i for i, line in enumerate(lines) if "│" in line)
    for pct in (50.0, 99.0):
        at = next(i for i, (low, high, _) in enumerate(octaves)
                  if low <= hist.percentile(h, pct) < high)
        assert f"◂ P{pct:g}" in lines[first + at]


def test_a_histogram_without_samples_says_why():
    assert histogram_lines(None, 40, 5, "no probe")[0].text.strip() == "no probe"
    assert histogram_lines(Hist({}), 40, 5)[0].text.strip() == "no samples"


def test_a_bar_of_something_is_never_nothing(ascii_only):
    assert bar(0.0, 20) == ""
    assert bar(0.0001, 20).strip()
    assert cell_len(bar(1.0, 20)) == 20
    assert cell_len(bar(0.9999, 20)) <= 20


@pytest.mark.parametrize("height", [1, 3, 7, 15, 30])
@pytest.mark.parametrize("reduce", [fold, condense])
def test_folded_octaves_lose_nothing(reduce, height):
    octaves = hist.octaves(make_hist(4000))
    found = reduce(octaves, height)
    assert len(found) <= height
    assert sum(n for _, _, n in found) == sum(n for _, _, n in octaves)
    assert (found[0][0], found[-1][1]) == (octaves[0][0], octaves[-1][1])
    assert all(a[1] == b[0] for a, b in pairwise(found))


def test_heat_grows_by_the_logarithm(ascii_only):
    levels = [shade(n, 10_000) for n in (0, 1, 10, 100, 1000, 10_000)]
    assert levels == sorted(levels)
    assert levels[0] == 0
    assert levels[1] >= 1
    assert levels[-1] == len(theme.glyphs().shades) - 1
    assert shade(1, 1) == len(theme.glyphs().shades) - 1


@pytest.mark.parametrize("height", [9, 20])
def test_a_heatmap_has_the_newest_at_the_right_and_gaps_in_its_axis(height, ascii_only):
    columns = [None] * 20 + [make_hist(50)] * 20 + [None] * 10 + [make_hist(50, 9e6, 0)] * 10
    lines = heatmap_lines(columns, 300 * SECOND, 60 + LABEL, height)
    assert len(lines) <= height
    assert {line.cell_length for line in lines} == {60 + LABEL}
    axis = lines[-2].text[LABEL:]
    assert [c == " " for c in axis] == [c is None for c in columns]
    assert lines[-1].text.startswith(" " * LABEL)
    assert lines[-1].text.rstrip().endswith("now")
    assert "-5m" in lines[-1].text
    # what is slow is above: the newest ten columns have nothing in the lowest row
    assert not lines[-3].text[-10:].strip()
    assert lines[-3].text[LABEL + 20:LABEL + 40].strip()


def test_a_heatmap_of_nothing_says_so():
    assert "no history" in heatmap_lines([None] * 5, SECOND, 40, 5, "no history")[0].text


@pytest.mark.parametrize("width", [10, 17, 40])
def test_stacked_shares_are_told_apart_without_colour(width, ascii_only):
    pieces = stacked([("user", 40.0), ("nice", 0.0), ("system", 20.0), ("irq", None),
                      ("softirq", 10.0), ("iowait", 20.0), ("steal", 10.0)], width)
    text = "".join(t for t, _ in pieces)
    assert cell_len(text) == width
    assert len(set(theme.glyphs().stack.values())) == len(KINDS)
    assert theme.glyphs().dot not in text
    assert text.count(theme.glyphs().stack["user"]) == pytest.approx(width * 0.4, abs=1)


def test_stacked_unknown_is_a_dash():
    assert "".join(t for t, _ in stacked([("user", None)], 6)) == "-     "


def test_the_legend_names_every_kind():
    text = "".join(t for t, _ in legend())
    assert all(kind in text for kind in KINDS)


def test_named_values_scale_to_the_largest():
    lines = value_lines([("disk", 2.0, "2.00", "normal"), ("io", 1.0, "1.00", "normal"),
                         ("sleep", None, "88.0", "dim")], 60)
    bars = [line.text.count("█") for line in lines]
    assert bars[0] == pytest.approx(2 * bars[1], abs=1)
    assert bars[2] == 0
    assert {line.cell_length for line in lines} == {60}


def test_a_line_made_again_is_the_line_made_before():
    line = [("pid", "strong"), (" 42", "normal")]
    assert strip(line, 20) is strip(list(line), 20)
    assert strip(line, 20) is not strip(line, 21)
    assert strip(line, 20) is not strip([("pid", "dim"), (" 42", "normal")], 20)


def test_lines_made_before_do_not_outlive_their_colours_and_glyphs():
    def line():
        return strip([("é" * 30, "bad")], 10)

    first = line()
    theme.use_color(False)
    plain = line()
    assert plain.text == first.text and plain._segments[0].style != first._segments[0].style
    theme.use_ascii(True)
    assert line().text.isascii()


def test_few_lines_are_remembered():
    asked = [("0", "normal")]
    kept = strip(asked)
    for number in range(2_000):
        strip([(str(number + 1), "normal")])
        assert strip(asked) is kept  # it is asked for all the time
    once = strip([("1", "normal")])
    assert strips._strip.cache_info().currsize <= 512
    assert once.text == "1"


async def test_only_what_changed_is_rendered(monkeypatch):
    rendered = []
    render = StylesCache.render_widget

    def noted(self, widget, crop):
        rendered.append(widget.id)
        return render(self, widget, crop)

    class Two(App[None]):
        CSS = "Line { height: 1; }"

        def compose(self):
            yield Line(id="one")
            yield Line(id="two")

    app = Two()
    async with app.run_test(size=(40, 10)) as pilot:
        app.query_one("#one", Line).set([("a", "normal")])
        app.query_one("#two", Line).set([("b", "normal")])
        await pilot.pause()
        monkeypatch.setattr(StylesCache, "render_widget", noted)
        app.query_one("#two", Line).set([("c", "normal")])
        app.screen._compositor.render_update()
        await pilot.pause()
        assert "two" in rendered and "one" not in rendered
        app.query_one("#one", Line).styles.background = "red"  # not its lines, their style
        await pilot.pause()
        assert "one" in rendered
