"""The real ktop in a real terminal: keys in, a screen out, everything as it was afterwards.

`--no-bpf` runs need no privileges. Those marked `live` load real programs into the kernel.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ptyshell import FAKE, PtyShell, alive, children, environment, until

KTOP = [sys.executable, "-m", "ktop"]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="BPF needs root")
SGR = re.compile(rb"\x1b\[([\d;:]*)m")
# What a program may write to a terminal: text, and the sequences that Textual and we use.
# "\x0f" and "\x1b(B" choose the character set.
SEQUENCE = re.compile(
    rb"\x0f|\x1b(?:\[[\x30-\x3f]*[\x20-\x2f]*[\x40-\x7e]|[78=>]|\(B|\][^\x07\x1b]*\x07)")


def colours(output: bytes) -> set[int]:
    """Every colour code among the SGR parameters; 39 and 49 mean none."""
    codes = {int(code) for match in SGR.findall(output) for code in match.split(b";") if code}
    return {code for code in codes if (30 <= code <= 48 and code != 39) or 90 <= code <= 107}


def assert_restored(shell: PtyShell) -> None:
    assert shell.attributes() == shell.before
    tail = shell.output[shell.output.rindex(b"\x1b[?1049l"):]
    assert b"\x1b[?25h" in tail
    for mode in (b"1000", b"1003", b"1006", b"1015", b"1004", b"2004", b"1049"):
        on = shell.output.rfind(b"\x1b[?" + mode + b"h")
        assert on < 0 or shell.output.rfind(b"\x1b[?" + mode + b"l") > on, mode
    assert b"\x1b[>" not in shell.output  # kitty's keys were never switched on


def walk(shell: PtyShell) -> None:
    """A user's minute, up to but without the end."""
    shell.until("LIVE")
    shell.until("COMMAND")
    shell.until(lambda: "first sample" not in shell.text)
    shell.send("5")
    shell.until("un queue")
    shell.send("?")
    shell.until("Keys in Scheduler")
    shell.send("\x1b")
    shell.settle()
    shell.until(lambda: "Keys in Scheduler" not in shell.text)
    shell.send(" ")
    shell.until("PAUSED")
    shell.send(" ")
    shell.until("LIVE")
    shell.send("-")
    shell.until("every 0.5s")
    shell.send("1")
    shell.until("COMMAND")
    shell.resize(132, 43)
    shell.until("1 Processes")
    shell.resize(80, 24)
    shell.until("1 Processes")


def test_without_bpf() -> None:
    with PtyShell([*KTOP, "--no-bpf"], columns=120, lines=40) as shell:
        walk(shell)
        family = [shell.pid, *children(shell.pid)]
        assert str(shell.pid) in shell.text or len(family) == 3
        shell.send("q")
        assert shell.wait() == 0
        assert_restored(shell)
        until(lambda: not any(map(alive, family)), "everybody gone")


@pytest.mark.live
@needs_root
def test_live() -> None:
    with PtyShell(KTOP, columns=120, lines=40) as shell:
        walk(shell)
        shell.until("probes")
        family = [shell.pid, *children(shell.pid)]
        shell.send("\x03")
        assert shell.wait() == 0
        assert_restored(shell)
        until(lambda: not any(map(alive, family)), "everybody gone")


EVIL = "\x1b[31mEVIL\x07\r\n[b]\u202e\udcff\x9b"
SHOWN = "\\e[31mEVIL"


@pytest.fixture
def hostile(tmp_path: Path) -> Iterator[None]:
    """Processes under names made to hurt a terminal: one that stays busy, others come and go."""
    link = tmp_path / EVIL
    link.symlink_to("/bin/sh")
    loop = "while :; do :; done"
    busy = subprocess.Popen([EVIL, "-c", loop, EVIL], executable=str(link))
    spawner = subprocess.Popen(["/bin/sh", "-c", 'cd "$1"; while :; do "./$2" -c : "$2"; '
                                "sleep 0.2; done", "sh", str(tmp_path), EVIL])
    yield
    for process in (busy, spawner):
        process.kill()
        process.wait()


@pytest.mark.live
@needs_root
@pytest.mark.usefixtures("hostile")
def test_hostile_names_reach_the_terminal_harmless() -> None:
    with PtyShell(KTOP, columns=240, lines=50) as shell:
        shell.until("LIVE")
        shell.until(lambda: shell.text.count(SHOWN) > 3)
        for key in "HeS5?":
            shell.send(key)
            shell.settle(1.2)
        shell.send("\x03")
        assert shell.wait() == 0
        assert_restored(shell)
        output = shell.output
    for raw in (b"\x1b[31mEVIL", b"\x1b]", b"\x07", b"\xe2\x80\xae", b"\xc2\x9b"):
        assert raw not in output, raw
    plain = SEQUENCE.sub(b"", output).decode("utf-8")  # it is valid UTF-8 throughout
    assert not {c for c in plain if (ord(c) < 32 and c not in "\r\n") or 0x7f <= ord(c) < 0xa0}


def test_no_color_means_no_colour() -> None:
    with PtyShell(FAKE, env=environment(NO_COLOR="1")) as shell:
        shell.until("LIVE")
        for key in "123456?":
            shell.send(key)
            shell.settle()
        shell.send("\x1b")
        shell.settle()
        shell.send(":")
        shell.until("Search")
        shell.send("\x03")
        shell.wait()
        assert colours(shell.output) == set()


@pytest.mark.parametrize("term", ["linux", "screen", "xterm-16color", "xterm", "tmux-256color"])
def test_only_the_terminals_own_colours(term: str) -> None:
    with PtyShell(FAKE, env=environment(TERM=term)) as shell:
        shell.until("LIVE")
        for key in "5?":
            shell.send(key)
            shell.settle()
        shell.send("\x1b")
        shell.settle()
        shell.send(":")
        shell.until("Search")
        shell.settle()
        shell.send("\x03")
        assert shell.wait() == 0
        assert colours(shell.output) <= {*range(30, 38), *range(40, 48)}
        assert colours(shell.output) - {38, 48}


@pytest.mark.parametrize(("arguments", "changes"), [
    ([], {"LC_ALL": "C"}), ([], {"LANG": None}), (["--ascii"], {}),
    ([], {"LANG": "de_DE.ISO-8859-1"})])
def test_ascii_locale_gets_ascii(arguments: list[str], changes: dict[str, str | None]) -> None:
    with PtyShell([*FAKE, *arguments], env=environment(**changes)) as shell:
        shell.until("LIVE")
        for key in "123456?":
            shell.send(key)
            shell.settle()
        shell.send("\x03")
        shell.wait()
        assert shell.output.isascii()


def test_stderr_in_a_file_does_not_take_the_picture(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with open(log, "wb") as file, PtyShell(FAKE, stderr=file.fileno()) as shell:
        shell.until("LIVE")
        shell.send("q")
        assert shell.wait() == 0
        assert_restored(shell)
    assert log.read_bytes() == b""


def test_mouse_is_left_alone_over_ssh() -> None:
    for arguments, changes, wanted in (
            ([], {"SSH_CONNECTION": "a 1 b 2"}, False), (["--mouse"], {"SSH_TTY": "x"}, True),
            ([], {}, True), (["--no-mouse"], {}, False)):
        with PtyShell([*FAKE, *arguments], env=environment(**changes)) as shell:
            shell.until("LIVE")
            shell.send("q")
            assert shell.wait() == 0
            assert (b"\x1b[?1000h" in shell.output) is wanted
            assert_restored(shell)


def test_a_terminal_that_does_not_read() -> None:
    """A stalled link: the app goes on, catches up when it can, and can be ended."""
    env = environment(FAKE_PROCESSES="300")
    with PtyShell([*FAKE, "--interval", "0.1"], columns=200, lines=60, env=env) as shell:
        shell.until("LIVE")
        family = [shell.pid, *children(shell.pid)]
        signal.sigtimedwait([], 8)  # nobody reads, until the terminal's buffer is full
        shell.until("link slow")
        signal.sigtimedwait([], 2)
        os.kill(shell.pid, signal.SIGTERM)
        until(lambda: not alive(family[1]) and not alive(family[2]), "both children gone")
        assert shell.wait() == 128 + signal.SIGTERM
        assert shell.attributes() == shell.before
        assert shell.output.rindex(b"\x1b[?1049l") > shell.output.rindex(b"\x1b[?1049h")


def test_resize_storm_is_drawn_a_few_times() -> None:
    with PtyShell(FAKE, columns=100, lines=30) as shell:
        shell.until("LIVE")
        shell.settle()
        mark = len(shell.output)
        for step in range(40):
            shell.resize(100 + step % 20, 30)
            shell.read(0.01)
        shell.resize(90, 28)
        shell.until(lambda: shell.screen.display[27].strip().endswith("? Help"))
        full_draws = shell.output[mark:].count(b"6 Diagnosis")
        assert full_draws < 20
        shell.send("q")
        assert shell.wait() == 0


def test_split_escape_sequence_is_one_key() -> None:
    with PtyShell(FAKE, env=environment(ESCDELAY="2000")) as shell:
        shell.until("LIVE")
        for part in (b"\x1b", b"[2", b"1~"):  # F10
            shell.send(part)
            shell.settle()
        assert shell.wait() == 0


def test_escape_never_quits() -> None:
    with PtyShell(FAKE) as shell:
        shell.until("LIVE")
        shell.send("\x1b\x1b\x1b")
        shell.settle()
        shell.send("6")
        shell.until("Pipes: wide is free")
        shell.send("q")
        assert shell.wait() == 0
