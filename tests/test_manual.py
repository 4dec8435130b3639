"""Man page and completions: up to date, whole, and taken by those that they are made for."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ktop import actions, cli, manual
from ktop.commands.completions import SCRIPTS
from tests.ptyshell import PtyShell, environment

SHARE = manual.SHARE
TAB = "\t"


def run(*command: str, cwd: Path | None = None) -> str:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=cwd,
                          stdin=subprocess.DEVNULL, env=environment(MANWIDTH="90", LC_ALL="C"))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


# -- the page --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [manual.PAGE, *SCRIPTS.values()])
def test_what_is_kept_is_what_would_be_made(name: str) -> None:
    pytest.importorskip("shtab")
    assert manual.made()[name] == (SHARE / name).read_text(encoding="utf-8"), "run: make man"


def test_every_key_command_and_option_is_in_the_page() -> None:
    page = " ".join(run("man", "-l", str(SHARE / manual.PAGE)).split())
    page = re.sub(r"(?<=\w)‐ ", "", page)  # hyphenated at the end of a line
    parser = cli.build_parser()
    commands = manual.commands_of(parser)
    assert set(commands) >= {name for name in (*cli.COMMANDS_APART, *cli.COMMANDS) if name}
    for made in (parser, *(made for _, made in commands.values())):
        for option in manual._options(made):
            assert all(name in page for name in option.option_strings)
            assert option.help, f"{made.prog} {option.dest} has no help"
    for action in actions.ACTIONS:
        assert action.shown in page
    assert sorted(manual.keys_by_place()) == sorted(set(manual.keys_by_place()))
    assert all(keys for keys in manual.keys_by_place().values())


def test_the_page_has_no_mistakes() -> None:
    assert run("man", "--warnings", "-l", str(SHARE / manual.PAGE)).startswith("KTOP(1)")
    assert run("mandoc", "-Tlint", str(SHARE / manual.PAGE)) == ""


def test_what_looks_like_a_command_of_troff_is_text() -> None:
    assert manual.roff(".so /etc/passwd\n'x \\n(.x") == "\\&.so /etc/passwd\n\\(aqx \\en(.x"


def test_every_command_says_in_one_line_what_it_does() -> None:
    for name, (line, made) in manual.commands_of(cli.build_parser()).items():
        assert 10 < len(line) < 70, name
        assert "\n" not in line
        assert made.prog == f"ktop {name}"
        assert not [a for a in made._actions if not a.help and a.help is not argparse.SUPPRESS]


def test_the_command_prints_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["manual"]) == 0
    assert capsys.readouterr().out == (SHARE / manual.PAGE).read_text(encoding="utf-8")


# -- completions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", SCRIPTS)
def test_the_command_prints_the_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["completions", shell]) == 0
    assert capsys.readouterr().out == (SHARE / SCRIPTS[shell]).read_text(encoding="utf-8")


BASH = """
source "$1"
shift
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
complete -p ktop >/dev/null && _shtab_ktop ktop "${COMP_WORDS[COMP_CWORD]}" ""
printf '%s\\n' "${COMPREPLY[@]}"
"""
CASES = [(["ktop", "rec"], {"record"}), (["ktop", "record", "--max"], {"--max-size"}),
         (["ktop", "export", "--format", ""], {"jsonl", "csv", "parquet"}),
         (["ktop", "replay", "dis"], {"disk.ktop"}),
         (["ktop", "completions", ""], {"bash", "zsh", "fish"})]


@pytest.mark.parametrize(("words", "found"), CASES)
def test_bash_completes(words: list[str], found: set[str], tmp_path: Path) -> None:
    (tmp_path / "disk.ktop").touch()
    said = run("bash", "--norc", "-c", BASH, "bash", str(SHARE / SCRIPTS["bash"]), *words,
               cwd=tmp_path)
    assert set(said.split()) == found


@pytest.mark.parametrize(("words", "found"), CASES)
def test_fish_completes(words: list[str], found: set[str], tmp_path: Path) -> None:
    (tmp_path / "disk.ktop").touch()
    said = run("fish", "--no-config", "-c", f"source {SHARE / SCRIPTS['fish']}; "
               f"complete -C '{' '.join(words)}'", cwd=tmp_path)
    assert {line.split("\t")[0] for line in said.splitlines()} == found


def test_zsh_completes(tmp_path: Path) -> None:
    if shutil.which("zsh") is None:
        pytest.skip("zsh is not installed")
    (tmp_path / "disk.ktop").touch()
    with PtyShell(["zsh", "-f", "-i"], env=environment(HOME=str(tmp_path))) as shell:
        shell.send(f"cd {tmp_path}; fpath=({SHARE} $fpath); autoload -U compinit; "
                   f"compinit -u -d {tmp_path}/dump; bindkey '^I' complete-word; PS1='rea''dy> '\r")
        shell.until("ready>")
        for begun, whole in (("rec", "ktop record"), ("record --max", "ktop record --max-size"),
                             ("export --format par", "--format parquet"),
                             ("replay dis", "ktop replay disk.ktop")):
            shell.send(f"ktop {begun}{TAB}")
            shell.until(whole)
            shell.send("\x15")  # away with the line
