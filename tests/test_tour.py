"""The README is true: its keys show what it says, its commands are commands, its links lead on."""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from textual.app import App
from textual.pilot import Pilot

from ktop import cli
from ktop.commands.replay import _start
from ktop.keymap import key_name
from ktop.manual import commands_of
from ktop.recording import Recording
from tests.session import FILE, incident, play, still
from tests.test_setup import ROOT, make

README = (ROOT / "README.md").read_text(encoding="utf-8")
SIZE = (120, 40)
TOUR = re.search(r"^ktop replay tests/data/(\w+)\.ktop --at (\S+)$", README, re.MULTILINE)


@dataclass(frozen=True)
class Row:
    """A row of one of the README's tables: keys to press, and what must then be on the screen."""

    name: str
    keys: tuple[str, ...]
    shown: tuple[str, ...]


def rows(table: str) -> list[Row]:
    """Of the table behind `<!-- table -->`, by its headings `keys` and the one after it."""
    found = re.search(rf"<!-- {table} -->\n((?:\|.*\n)+)", README)
    assert found, f"there is no table {table} in the README"
    lines = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
             for line in found[1].splitlines()]
    at = lines[0].index("keys")
    made = []
    for cells in lines[2:]:
        keys = [key_name(key) for code in re.findall(r"`([^`]+)`", cells[at])
                for key in code.split()]
        assert None not in keys, cells[at]
        made.append(Row(cells[0] if at else cells[at], tuple(filter(None, keys)),
                        tuple(re.findall(r"`([^`]+)`", cells[at + 1]))))
    assert len(made) > 4
    return made


def screen(app: App[Any]) -> str:
    """All of it, blanks as one."""
    lines = [strip.text for strip in app.screen._compositor.render_strips(app.screen.size)]
    return " ".join(" ".join(lines).split())


async def shows(pilot: Pilot[Any], name: str, keys: Sequence[str], texts: Sequence[str]) -> None:
    """Press the keys; what must come has come."""
    await pilot.press(*keys)
    for _ in range(500):
        missing = [text for text in texts if text not in screen(pilot.app)]
        if not missing:
            return
        await pilot.pause(0.02)
    raise AssertionError(f"{name}: after {keys} no {missing} on the screen")


async def test_the_tour_goes_where_the_readme_says() -> None:
    assert TOUR, "the README's tour does not begin with ktop replay"
    recording = Recording(FILE.parent / f"{TOUR[1]}.ktop")
    assert _start(recording, TOUR[2]) < recording.moment(recording.end - 1).wall_ns
    app = incident(TOUR[1], int(TOUR[2].strip("+s")))
    async with app.run_test(size=SIZE) as pilot:
        await still(pilot)
        for row in rows("tour"):
            await shows(pilot, row.name, row.keys, row.shown)


async def test_what_stands_in_for_a_tool_is_where_the_readme_says() -> None:
    app = play()
    at: dict[str, int] = {}  # pane -> how often `v` was pressed there
    found = rows("tools") + rows("incidents")
    async with app.run_test(size=SIZE) as pilot:
        await still(pilot)
        for row in sorted(found, key=lambda row: (row.keys[0] == "S", row.keys)):
            pane, *views = row.keys
            assert set(views) <= {"v"}
            # keys that it names are in other tests; a stack is shown if there was a drop
            await shows(pilot, row.name, (pane, *views[at.get(pane, 0):]),
                        [t for t in row.shown if len(t) > 3 and t != "Where it was dropped"])
            at[pane] = len(views)


def test_the_faults_that_the_readme_names_are_made() -> None:
    part = README[README.index("\n## Ten incidents"):README.index("\n## Keys")]
    named = {name for text in re.findall(r"\(((?:`[a-z -]+`(?:, )?)+)\)", part)
             for name in re.findall(r"`([^`]+)`", text)}
    made = "".join(path.read_text(encoding="utf-8")
                   for path in (ROOT / "tests/faults").glob("*.py"))
    assert len(named) > 8
    for name in named:
        assert f'Case("{name}"' in made, name


# -- commands and links ----------------------------------------------------------------------------


def commands() -> list[str]:
    """Every line of an sh block, and every `ktop ...` in the text."""
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()
             if line.strip()]
    return lines + re.findall(r"`((?:sudo )?(?:ktop|make) [^`]*)`", README)


@pytest.mark.parametrize("line", sorted(set(commands())))
def test_a_command_of_the_readme_is_one(line: str) -> None:
    words = shlex.split(line.replace("\\|", "|"), comments=True)
    words = words[words[0] == "sudo":]
    if words[0] == "make":
        assert next(word for word in words[1:] if "=" not in word) in targets()
    elif words[0] == "ktop":
        parser = cli.build_parser()
        commands = {name: made for name, (_, made) in commands_of(parser).items()}
        known = commands.get(next(iter(words[1:]), ""), parser)._option_string_actions
        options = re.findall(r"--[a-z-]+", " ".join(words))
        assert all(option in known for option in options)
        if not re.search(r"[][|]|\.\.\.|--\S+ [A-Z]+$", " ".join(words)):  # not a pattern of many
            parser.parse_args(cli.joined(words[1:]))


@functools.cache
def targets() -> list[str]:
    return re.findall(r"^make (\S+)", make("help").stdout, re.MULTILINE)


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_somewhere(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    titles = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
              for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}
    for link in re.findall(r"\]\(([^)]+)\)", text):
        if link.startswith("#"):
            assert link[1:] in titles
        else:
            assert (ROOT / link).exists(), link


def test_paths_of_the_repository_in_the_readme_exist() -> None:
    for path in re.findall(r"`((?:ktop|tests|bench|screenshots|LICENSES)/[\w./*]+)`", README):
        if "NAME" not in path:
            assert list(ROOT.glob(path)), path
