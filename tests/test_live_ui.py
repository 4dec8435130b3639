"""The whole program on this kernel, in a pty: hostile names, figures on the screen, a clean end."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from tests.livekit import child, left_of, programs_of, spin
from tests.ptyshell import PtyShell

pytestmark = pytest.mark.live
KTOP = [sys.executable, "-m", "ktop"]


def look(shell: PtyShell, seconds: float) -> None:
    """Read what comes for that long; also keeps an Escape apart from the next key."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        shell.read(0.1)


def test_hostile_names_never_reach_the_terminal() -> None:
    name = b"\x1b]0;pwn\x07\xff[b]"
    code = ("import ctypes, sys\n"
            "ctypes.CDLL(None).prctl(15, bytes.fromhex(sys.argv[1]), 0, 0, 0)\n"
            "while True: pass")
    args = [b"\x1b[2J\x1b[31m[red]\nEVIL\x9b5m", "-I", "-c", code, name.hex()]
    p = subprocess.Popen(args, executable=sys.executable)
    short = b"\x1b[3J\x07"
    try:
        with PtyShell(KTOP, columns=139, lines=45) as shell:
            shell.until("EVIL")

            def in_the_feed() -> bool:  # once its probes have followed the first frames
                subprocess.run([short, "-c", "pass"], executable=sys.executable, check=False)
                return "\\e[3J\\x07" in shell.text

            shell.until(in_the_feed)
            for key in ("5", "1", "e", "e", "e", "?"):
                shell.send(key)
                look(shell, 0.7)
            shell.send("\x1b")
            look(shell, 1)
            shell.send("q")
            assert shell.wait() == 0
            assert "\\e[2J\\e[31m[red]\\nEVIL\\x9b5m" in shell.text or b"EVIL" in shell.output
            for raw in (b"\x1b]0;pwn", b"\x1b[2J\x1b[31m[red]", b"\x1b[3J", b"\x9b", b"\x07"):
                assert raw not in shell.output, raw
    finally:
        p.kill()
        p.wait()


def page_down_to(shell: PtyShell, text: str) -> None:
    """The help has as many pages as there are keys: leaf through it until the text is there."""
    for _ in range(9):
        if text in shell.text:
            return
        shell.send("\x1b[6~")
        look(shell, 0.5)
    shell.until(text)


def test_from_the_first_key_to_the_last() -> None:
    """A CPU hog is on top of the table with its figure; panes change; quitting leaves nothing."""
    with child(spin) as pid, PtyShell(KTOP, columns=120, lines=40) as shell:
        shell.until(lambda: any(line.split()[:1] == [str(pid)] for line in shell.text.splitlines()))
        shell.until("LIVE")
        shell.until(lambda: any(line.split()[:1] == [str(pid)] and float(line.split()[3]) > 30
                                for line in shell.text.splitlines()
                                if len(line.split()) > 3))
        shell.send("5")
        shell.until("Run queue latency")
        shell.until("P99")
        shell.send("3")
        shell.until("TCP")
        shell.send("1")
        shell.until("COMMAND")
        shell.send("?")
        shell.until("Keys in Processes")
        page_down_to(shell, "Every process with its threads folded in")
        shell.send("\x1b")
        look(shell, 1)
        shell.resize(80, 24)
        look(shell, 1)
        shell.until("COMMAND")
        programs = programs_of(shell.pid)
        assert len(programs) >= 6
        shell.send("q")
        assert shell.wait() == 0
        assert shell.attributes() == shell.before
        assert b"\x1b[?1049l" in shell.output
    assert left_of(programs) == set()


def test_failed_executions_are_watched_while_processes_are_looked_at() -> None:
    with PtyShell(KTOP, columns=139, lines=45) as shell:
        shell.until("LIVE")

        def seen() -> bool:
            subprocess.run(["/bin/sh", "-c", "/no/such/ktop-program"], check=False,
                           stderr=subprocess.DEVNULL)
            return "ENOENT" in shell.text and "/no/such/ktop-program" in shell.text

        shell.until(seen)
        shell.send("q")
        assert shell.wait() == 0
