"""What the user chooses and the config keeps: columns, sorting, themes, keys; on the session."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from textual.app import App

from ktop import actions, config, theme
from ktop.cli import main
from ktop.keymap import action_names, key_name, key_shown, keymap
from ktop.panes import PANES
from ktop.screens.columns import ColumnChooser, entries, layout_of
from ktop.widgets.columns import Column, Layout, arranged, ordered, plan
from ktop.widgets.table import VirtualTable
from tests.session import play, still


@pytest.fixture(autouse=True)
def _as_it_was():
    yield
    theme.use_theme("default")
    actions.rebind({})


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "ktop/config.toml"


def configured(file: Path, text: str = "") -> Any:
    if text:
        file.parent.mkdir()
        file.write_text(text)
    app = play()
    app.use_settings(config.load(file))
    return app


def lines(app: App[Any]) -> list[str]:
    screen = app.screen
    return [strip.text.rstrip() for strip in screen._compositor.render_strips(screen.size)]


def table(app: App[Any]) -> VirtualTable:
    return app.query_one("#main", VirtualTable)


def titles(made: VirtualTable) -> list[str]:
    return [c.title for c in made.columns]


# -- columns ---------------------------------------------------------------------------------------

MADE = [Column(k, k.upper(), 5, str) for k in "abcdef"]


@pytest.mark.parametrize(("layout", "shown"), [
    (Layout(), "abcdef"), (Layout(hidden=frozenset("bd")), "acef"),
    (Layout(order=tuple("fedcb")), "afedcb"), (Layout(order=tuple("dxa")), "adefbc"),
    (Layout(hidden=frozenset("abcdef")), "af"), (Layout(order=("f",)), "afbcde")])
def test_an_order_holds_and_what_it_does_not_name_stays_behind_its_neighbour(layout, shown):
    assert "".join(c.key for c in arranged(MADE, 1, layout))[0] == "a"
    if not layout.order:
        assert "".join(c.key for c in arranged(MADE, 1, layout)) == shown
    assert {c.key for c in ordered(MADE, 1, layout)} == set("abcdef")


def test_layouts_round_trip_through_the_list():
    for layout in (Layout(), Layout(tuple("cbdef")), Layout(hidden=frozenset("b")),
                   Layout(widths={"c": 9}), Layout(tuple("fbcde"), frozenset("ef"), {"b": 1})):
        assert layout_of(entries(MADE, 1, layout), MADE) == layout


def test_a_figure_that_came_last_stays_beside_the_others():
    found = plan(arranged(MADE, 1, Layout(hidden=frozenset("ef"))), 60, 1, 0)
    assert found.shown[-1][1] == 5


@pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=["80x24", "120x40"])
async def test_columns_are_hidden_widened_moved_and_kept(file, size):
    app = configured(file)
    async with app.run_test(size=size) as pilot:
        await still(pilot)
        made = table(app)
        before = titles(made)
        await pilot.press("C")
        await pilot.pause()
        screen = "\n".join(lines(app))
        assert "Columns of processes-main" in screen
        assert "Space show" in screen
        assert "state of the most active thread" in screen
        await pilot.press("up", "space")  # USER names the row
        assert titles(made) == before
        await pilot.press("down", "space", "down", "plus", "plus", "greater_than_sign")
        assert titles(made) == ["PID", "USER", "RQW%", "CPU%", *before[5:]]
        assert made.columns[3].width == 7
        await pilot.press("enter")
        await pilot.pause()
        assert "RQW%" in "\n".join(lines(app))
        await pilot.press("C", "r", "escape")
        assert titles(made)[2] == "RQW%"
    kept = config.load(file)
    assert kept.complaints() == []
    assert kept.columns["processes-main"].hidden == ("state",)
    assert kept.columns["processes-main"].width == {"cpu": 7}
    again = configured(file)
    async with again.run_test(size=size) as pilot:
        await still(pilot)
        assert titles(table(again))[:4] == ["PID", "USER", "RQW%", "CPU%"]
        await pilot.press("C", "r", "enter")
        assert titles(table(again)) == before
    assert "processes-main" not in config.load(file).columns or not (
        config.load(file).columns["processes-main"].hidden)


async def test_every_table_of_every_pane_has_a_chooser_and_a_name_of_its_own():
    app = play()
    async with app.run_test(size=(120, 40)) as pilot:
        await still(pilot)
        seen: list[str] = []
        for number in "12345":
            await pilot.press(number)
            for made in app.pane.query(VirtualTable):
                from ktop.shell.choices import table_name

                seen.append(table_name(made) or "")
            await pilot.press("C")
            assert isinstance(app.screen, ColumnChooser)
            await pilot.press("escape")
        assert len(seen) == len(set(seen)) > 15
        assert "" not in seen


async def test_the_order_is_kept(file):
    app = configured(file)
    async with app.run_test(size=(120, 40)) as pilot:
        await still(pilot)
        await pilot.press("greater_than_sign", "I")
        assert (table(app).sort_key, table(app).descending) == ("runq", False)
    assert config.load(file).sort == {"processes-main": ("runq", False)}
    again = configured(file)
    async with again.run_test(size=(120, 40)) as pilot:
        await still(pilot)
        assert (table(again).sort_key, table(again).descending) == ("runq", False)


async def test_the_interval_of_one_session_is_not_the_next_ones(file):
    """Ten samples a second, wanted for a moment, would cost the host for good."""
    app = configured(file)
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.pause()
        await pilot.press("plus")
        assert app.interval_ns == 2_000_000_000
    assert not file.exists()


def test_the_config_command_says_what_there_is(file, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(file.parent.parent))
    monkeypatch.delenv("SUDO_UID", raising=False)
    file.parent.mkdir()
    file.write_text('[keys]\npause = "q"\n')
    assert main(["config", "--path"]) == 0
    assert capsys.readouterr().out.strip() == str(file)
    assert main(["config"]) == 2
    said = capsys.readouterr().out
    assert "# wrong: line 2: keys.pause: q is quit already" in said
    # what it offers is good when the comment signs are taken away
    file.write_text("\n".join(line.removeprefix("# ") for line in said.splitlines()
                              if " = " in line or line.startswith(("[", "# ["))))
    found = config.load(file)
    assert found.complaints() == []
    assert len(found.keys) > 40
    assert keymap(found, [pane() for pane in PANES])[0] == []


async def test_what_cannot_be_written_is_one_line_and_no_harm(file):
    app = configured(file, "[theme]\n")
    file.write_text("[broken\n")
    async with app.run_test(size=(120, 40)) as pilot:
        await still(pilot)
        await pilot.press("I")
        await pilot.pause(1.5)
        assert "not saved" in lines(app)[-2]
    assert file.read_text() == "[broken\n"


# -- themes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", config.THEMES)
def test_no_theme_tells_anything_by_colour_alone(name):
    theme.use_theme(name)
    bare = {n: str(theme.style(n).without_color) for n in
            ("normal", "warn", "bad", "cursor", "sorted")}
    assert bare["warn"] != bare["bad"]
    assert bare["normal"] not in (bare["warn"], bare["bad"], bare["cursor"], bare["sorted"])
    if name == "mono":
        assert all(theme.style(n).color is None for n in theme._PALETTE)
    if name == "contrast":
        assert not any(theme.style(n).dim for n in theme._PALETTE)


async def test_a_theme_from_the_palette_is_in_force_at_once_and_next_time(file):
    app = configured(file)
    async with app.run_test(size=(120, 40)) as pilot:
        await still(pilot)
        await pilot.press("colon", *"mono")
        await pilot.pause(0.5)
        await pilot.press("down", "enter")
        await pilot.pause(0.3)
        assert theme.current() == "mono"
        assert app.theme == "ktop-mono"
        styles = {segment.style.color for strip in app.screen._compositor.render_strips(
            app.screen.size) for segment in strip if segment.style}
        assert {c.name for c in styles if c} <= {"default"}
    assert config.load(file).theme == "mono"
    theme.use_theme("default")
    assert configured(file).theme == "ktop-mono"
    assert theme.current() == "mono"


def test_the_config_knows_the_themes_that_there_are():
    assert config.THEMES == theme.THEMES == tuple(
        t.name.removeprefix("ktop-").replace(theme.THEME, "default")
        for t in theme.textual_themes())


# -- keys ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "name", "shown"), [
    ("/", "slash", "/"), ("S", "S", "S"), ("f5", "f5", "F5"), ("Ctrl-F", "ctrl+f", "Ctrl-F"),
    ("pgup", "pageup", "PgUp"), ("shift+s", "S", "S"), ("+", "plus", "+"), ("esc", "escape", "Esc"),
    ("ctrl+/", "ctrl+slash", "Ctrl-/"), ("space", "space", "Space")])
def test_keys_are_written_as_people_do(text, name, shown):
    assert key_name(text) == name
    assert key_shown(name) == shown


@pytest.mark.parametrize("text", ["", "foo", "ctrl+foo", "hyper+x", "\x01", "f99x"])
def test_no_keys(text):
    assert key_name(text) is None


def test_every_action_has_a_name_without_brackets():
    plain = {ident for name, ident in action_names().items() if name.isidentifier()}
    assert plain == {f"ktop.{a.name}" for a in actions.ACTIONS}


@pytest.mark.parametrize(("text", "said"), [
    ('pauze = "z"', "keys.pauze: no such action; is it pause"),
    ('pause = "banana"', "keys.pause: banana is no key"),
    ('pause = "q"', "keys.pause: q is quit already"),
    ('pause = "ctrl+c"', "keys.pause: ctrl+c always"),
    ('pause = "H"', "keys.pause: H is processes.threads already"),
    ('pause = "f9"\nhelp = "f9"', "f9 is"),
    ('pause = "end"', "End is"), ('"flame.zoom" = "w"', "w is stacks.write already"),
    ('"stacks.write" = "backspace"', "backspace is flame.zoom_out already"),
    ('"detail.view" = "o"', "o is detail.other already")])
def test_a_wrong_key_is_named_with_its_line_and_left_out(file, text, said):
    file.parent.mkdir()
    file.write_text(f"[keys]\n{text}\n")
    problems, changes = keymap(config.load(file), [pane() for pane in PANES])
    assert said.lower() in f"{problems[0].key}: {problems[0].text}".lower()
    assert problems[0].line >= 2
    assert "ktop.pause" not in changes or "f9" in text


async def test_keys_are_changed_and_footer_and_help_say_so(file):
    app = configured(file, '[keys]\npause = ["f9", "Z"]\nsort_next = "f4"\nquit = "nosuchkey"\n'
                     '"processes.side" = "f3"\n')
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.pause()
        assert "keys.quit: nosuchkey is no key" in lines(app)[-2]
        assert "line 4" in lines(app)[-2]
        await pilot.press("space")
        assert app.following
        await pilot.press("f9")
        assert not app.following
        await pilot.pause()
        assert "F9 Resume" in lines(app)[-1]
        await pilot.press("Z")
        assert app.following
        before = table(app).sort_key
        await pilot.press("greater_than_sign", "f6")
        assert table(app).sort_key == before
        await pilot.press("f4")
        assert table(app).sort_key != before
        side = app.pane.side
        await pilot.press("e")
        assert app.pane.side == side
        await pilot.press("f3")
        assert app.pane.side != side
        await pilot.press("question_mark")
        await pilot.pause()
        assert any("F9 Z" in line for line in lines(app))


async def test_thresholds_reach_the_collector(file):
    asked = []
    app = configured(file, '[thresholds]\nfiles_slow = "5ms"\n')
    async with app.run_test() as pilot:
        app.source.ask = asked.append
        await app.on_mount.__wrapped__() if hasattr(app.on_mount, "__wrapped__") else None
        from ktop.shell.choices import Choices

        await Choices.on_mount(app)
        await pilot.pause()
    assert {"files": 5_000_000} in [control.thresholds for control in asked]
