"""The process tree, with a fake collector: however it ends, the terminal is right and nobody stays.

Everything runs in a real pty. Nothing here measures time; all waits are generous.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from ktop import terminal
from tests.ptyshell import FAKE, PtyShell, alive, children, environment, until


@pytest.fixture
def pids_file(tmp_path: Path) -> Path:
    """Where fake collectors write their pids."""
    return tmp_path / "pids"


@pytest.fixture
def shell(pids_file: Path) -> Iterator[PtyShell]:
    """A ktop that shows frames of a fake collector."""
    with PtyShell(FAKE, env=environment(FAKE_PIDS=str(pids_file))) as found:
        found.until("LIVE")
        yield found


def collectors(pids_file: Path) -> list[int]:
    return [int(line) for line in pids_file.read_text().split()]


def interface(shell: PtyShell, pids_file: Path) -> int:
    found = set(children(shell.pid)) - set(collectors(pids_file))
    assert len(found) == 1
    return found.pop()


def assert_all_right(shell: PtyShell, family: list[int], leftover: bool = False) -> None:
    """The terminal as before, the modes off, nobody left."""
    assert shell.attributes() == shell.before
    for mode in (b"?1049", b"?1004", b"?2004"):
        assert shell.output.rfind(b"\x1b[" + mode + b"l") > shell.output.rfind(
            b"\x1b[" + mode + b"h"), mode
    for mode in (b"?25", b"?7"):
        assert shell.output.rfind(b"\x1b[" + mode + b"h") > shell.output.rfind(
            b"\x1b[" + mode + b"l"), mode
    until(lambda: not any(map(alive, family)), "everybody gone")


def family_of(shell: PtyShell) -> list[int]:
    return [shell.pid, *children(shell.pid)]


def test_quit(shell: PtyShell) -> None:
    family = family_of(shell)
    assert len(family) == 3
    shell.send("q")
    assert shell.wait() == 0
    assert_all_right(shell, family)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signal_to_the_supervisor(shell: PtyShell, number: int) -> None:
    family = family_of(shell)
    os.kill(shell.pid, number)
    assert shell.wait() == 128 + number
    assert_all_right(shell, family)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_interface_killed(shell: PtyShell, pids_file: Path, number: int) -> None:
    family = family_of(shell)
    os.kill(interface(shell, pids_file), number)
    assert shell.wait() == 128 + number
    assert_all_right(shell, family)
    assert shell.output.count(b"the terminal is restored") == 1
    assert signal.Signals(number).name in shell.text


def test_ended_before_it_draws_leaves_the_screen_alone() -> None:
    with PtyShell(FAKE) as shell:
        until(lambda: len(children(shell.pid)) == 2, "both children")
        os.kill(shell.pid, signal.SIGINT)
        assert shell.wait() == 128 + signal.SIGINT
        assert shell.attributes() == shell.before
        assert b"\x1b[?1049h" in shell.output or b"\x1b" not in shell.output


def test_interface_told_to_end(shell: PtyShell, pids_file: Path) -> None:
    family = family_of(shell)
    os.kill(interface(shell, pids_file), signal.SIGTERM)
    assert shell.wait() == 128 + signal.SIGTERM
    assert_all_right(shell, family)


def test_supervisor_killed(shell: PtyShell) -> None:
    family = family_of(shell)
    os.kill(shell.pid, signal.SIGKILL)
    assert shell.wait() == -signal.SIGKILL
    until(lambda: not any(map(alive, family)), "everybody gone")
    shell.read(0.2)
    assert_all_right(shell, family)


def test_terminal_closed(shell: PtyShell) -> None:
    family = family_of(shell)
    shell.hang_up()
    until(lambda: not any(map(alive, family)), "everybody gone")


def test_terminal_closed_and_the_shell_says_so(shell: PtyShell) -> None:
    family = family_of(shell)
    shell.hang_up()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(shell.pid, signal.SIGHUP)
    until(lambda: not any(map(alive, family)), "everybody gone")


def test_collector_killed_and_restarted(shell: PtyShell, pids_file: Path) -> None:
    first = collectors(pids_file)[0]
    os.kill(first, signal.SIGKILL)
    shell.until("DEAD")
    shell.until("killed by SIGKILL")
    assert "COMMAND" in shell.text  # the last picture stays
    shell.send("r")
    shell.until("LIVE")
    shell.until(lambda: "has ended" not in shell.text)
    assert len(collectors(pids_file)) == 2
    family = [first, *family_of(shell), *collectors(pids_file)]
    shell.send("q")
    assert shell.wait() == 0
    assert_all_right(shell, family)


def test_collector_that_ends_says_why(pids_file: Path) -> None:
    env = environment(FAKE_PIDS=str(pids_file), FAKE_DIES_AFTER="2")
    with PtyShell(FAKE, columns=120, env=env) as shell:
        shell.until("DEAD")
        shell.until("exit status 3: fake: out of \\e[31mluck")
        shell.send("q")
        assert shell.wait() == 0


def test_collector_that_does_not_listen_is_killed(shell: PtyShell, pids_file: Path) -> None:
    family = family_of(shell)
    os.kill(collectors(pids_file)[0], signal.SIGSTOP)
    shell.send("q")
    assert shell.wait() == 0
    assert_all_right(shell, family)


def test_suspend_and_foreground(shell: PtyShell) -> None:
    for _ in range(2):
        mark = len(shell.output)
        shell.send("\x1a")
        shell.wait_stopped()
        assert shell.attributes() == shell.before
        assert b"\x1b[?1049l" in shell.output[mark:]
        shell.screen.reset()
        shell.foreground()
        shell.until("LIVE")
        shell.until("COMMAND")
    family = family_of(shell)
    shell.send("q")
    assert shell.wait() == 0
    assert_all_right(shell, family)


def test_started_in_the_background() -> None:
    with PtyShell(FAKE, background=True) as shell:
        shell.wait_stopped()
        assert shell.output == b""
        shell.foreground()
        shell.until("LIVE")
        family = family_of(shell)
        shell.send("q")
        assert shell.wait() == 0
        assert_all_right(shell, family)


def test_interface_stopped_from_outside(shell: PtyShell, pids_file: Path) -> None:
    os.kill(interface(shell, pids_file), signal.SIGSTOP)
    shell.wait_stopped()
    assert shell.attributes() == shell.before
    assert b"\x1b[?1049l" in shell.output
    shell.screen.reset()
    shell.foreground()
    shell.until("COMMAND")
    until(lambda: shell.attributes() != shell.before, "the terminal is the app's again")
    family = family_of(shell)
    shell.send("q")
    assert shell.wait() == 0
    assert_all_right(shell, family)


def test_told_to_end_while_the_interface_hangs(shell: PtyShell, pids_file: Path) -> None:
    family = family_of(shell)
    ui = interface(shell, pids_file)
    os.kill(shell.pid, signal.SIGSTOP)
    os.kill(ui, signal.SIGSTOP)
    os.kill(shell.pid, signal.SIGTERM)
    os.kill(shell.pid, signal.SIGCONT)
    assert shell.wait() == 128 + signal.SIGTERM
    assert_all_right(shell, family)


def test_a_bug_in_the_interface(tmp_path: Path) -> None:
    with PtyShell(FAKE, env=environment(FAKE_BROKEN_UI="1", TMPDIR=str(tmp_path))) as shell:
        assert shell.wait() == 1
        assert "the interface broke: ValueError: a bug in the interface (details:" in (
            shell.text.replace("\n", ""))
        assert "Traceback" not in shell.text
        assert shell.attributes() == shell.before
    assert len(list(tmp_path.glob("ktop-crash-*"))) == 1


def test_bad_terminal_is_refused() -> None:
    for term in ("dumb", None):
        with PtyShell(FAKE, env=environment(TERM=term)) as shell:
            assert shell.wait() == 2
            assert "TERM=" in shell.text
            assert b"\x1b" not in shell.output


@pytest.mark.skipif(os.geteuid() != 0, reason="dropping privileges needs root")
def test_interface_runs_as_the_invoking_user(pids_file: Path) -> None:
    env = environment(FAKE_PIDS=str(pids_file), SUDO_UID="65534", SUDO_GID="65534")
    with PtyShell(FAKE, env=env) as shell:
        shell.until("LIVE")
        status = Path(f"/proc/{interface(shell, pids_file)}/status").read_text()
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert fields["Uid"].split() == fields["Gid"].split() == ["65534"] * 4
        assert fields["NoNewPrivs"] == "1"
        assert int(fields["CapEff"], 16) == int(fields["CapPrm"], 16) == 0
        family = family_of(shell)
        os.kill(shell.pid, signal.SIGKILL)  # the death signal survives the change of user
        until(lambda: not any(map(alive, family)), "everybody gone")


@pytest.mark.parametrize(("variables", "ascii_only"), [
    ({}, True), ({"LANG": "C"}, True), ({"LANG": "de_DE.UTF-8"}, False),
    ({"LANG": "de_DE.UTF-8", "LC_ALL": "C"}, True), ({"LC_CTYPE": "C.utf8", "LANG": "C"}, False),
    ({"LANG": "de_DE.ISO-8859-1"}, True), ({"LC_ALL": "", "LANG": "C.UTF-8"}, False)])
def test_locale(variables: dict[str, str], ascii_only: bool) -> None:
    assert terminal.ascii_only(variables) is ascii_only


def test_mouse_is_off_over_ssh(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SSH_CONNECTION", "SSH_TTY"):
        monkeypatch.delenv(name, raising=False)
    assert terminal.mouse_wanted(None)
    monkeypatch.setenv("SSH_TTY", "/dev/pts/1")
    assert not terminal.mouse_wanted(None)
    assert terminal.mouse_wanted(True)
