"""Terminals of every kind and size: the program draws or says one line; then all is as it was."""

from __future__ import annotations

import sys

import pytest

from tests.ptyshell import FAKE, PtyShell, environment
from tests.test_pty import assert_restored, colours

KTOP = [sys.executable, "-m", "ktop"]
SIZES = [(20, 5), (400, 120), (80, 5), (20, 120), (81, 25), (40, 10), (80, 24)]


def leave(shell: PtyShell) -> None:
    shell.send("q")
    assert shell.wait() == 0
    assert_restored(shell)


def test_every_size_one_after_the_other() -> None:
    with PtyShell(FAKE, columns=20, lines=5) as shell:
        shell.until(lambda: bool(shell.text.strip()))
        for columns, lines in SIZES:
            shell.resize(columns, lines)
            # the tab that is in view is named at every size that has room for a name
            shell.until(lambda columns=columns: len(shell.screen.display[0]) == columns
                        and bool(shell.screen.display[0].strip()))
            shell.send("5")
            shell.settle(0.1)
            shell.send("1")
            shell.settle(0.1)
        shell.until("1 Processes")
        shell.until("COMMAND")
        leave(shell)


@pytest.mark.parametrize("term", ["linux", "screen", "xterm-16color", "vt100"])
def test_terminals_that_can(term: str) -> None:
    with PtyShell(FAKE, columns=80, lines=24, env=environment(TERM=term)) as shell:
        shell.until("COMMAND")
        leave(shell)


@pytest.mark.parametrize("locale", ["C", "POSIX"])
def test_no_utf8_no_colour(locale: str) -> None:
    env = environment(LANG=locale, LC_ALL=locale, NO_COLOR="1", TERM="linux")
    with PtyShell(FAKE, columns=80, lines=24, env=env) as shell:
        shell.until("COMMAND")
        leave(shell)
        assert shell.output.isascii()
        assert not colours(shell.output)


@pytest.mark.parametrize("term", ["dumb", "unknown", None])
def test_terminals_that_cannot(term: str | None) -> None:
    with PtyShell([*KTOP, "--no-bpf"], columns=100, lines=24, env=environment(TERM=term)) as shell:
        assert shell.wait() == 2
        said = [line for line in shell.text.splitlines() if line.strip()]
        assert len(said) == 1 and said[0].startswith("ktop: TERM="), said
        assert shell.attributes() == shell.before
        assert b"\x1b" not in shell.output
