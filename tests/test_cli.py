"""The command line: what it accepts, what it says when it does not, what it must not import."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ktop import __version__, cli, crash
from tests.ptyshell import ROOT, environment


def ktop(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "ktop", *arguments], cwd=ROOT, text=True,
                          capture_output=True, stdin=subprocess.DEVNULL, timeout=60,
                          env=environment(**env), check=False)


@pytest.mark.parametrize(("text", "value"), [("1", 1.0), ("0.1", 0.1), ("60", 60.0), ("2s", 2.0)])
def test_interval_in_range(text: str, value: float) -> None:
    assert cli.seconds(text) == value


@pytest.mark.parametrize("arguments", [
    ["--interval", "0"], ["--interval", "61"], ["--interval", "nan"], ["--interval", "soon"],
    ["--interval"], ["snapshot", "--interval", "-1"], ["nonsense"], ["--no-such"],
    ["--limit", "vda"], ["--inter", "1"],
    ["doctor", "extra"]])
def test_bad_input_costs_one_line_and_status_2(arguments: list[str]) -> None:
    done = ktop(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("ktop")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("arguments", "interval", "bpf"), [
    ([], 1.0, True), (["--interval", "5"], 5.0, True), (["snapshot", "--no-bpf"], 1.0, False),
    (["--interval", "5", "--no-bpf", "snapshot"], 5.0, False),
    (["--interval", "5", "snapshot", "--interval", "2"], 2.0, True)])
def test_options_before_and_after_the_command(
        arguments: list[str], interval: float, bpf: bool) -> None:
    args = cli.build_parser().parse_args(arguments)
    assert (args.interval, args.bpf) == (interval, bpf)


def test_version_and_help() -> None:
    assert ktop("--version").stdout == f"ktop {__version__}\n"
    text = ktop("--help").stdout
    for option in ("--interval", "--no-bpf", "--ascii", "--no-mouse", "snapshot", "doctor"):
        assert option in text


@pytest.mark.parametrize("arguments", [
    ["--version"], ["--help"], ["snapshot", "--no-bpf", "--interval", "0.1"], ["doctor"]])
def test_textual_stays_out(arguments: list[str]) -> None:
    code = ("import sys\nfrom ktop.cli import main\n"
            f"try:\n    main({arguments!r})\nexcept SystemExit:\n    pass\n"
            "loaded = {name.partition('.')[0] for name in sys.modules}\n"
            "print('LOADED', sorted(loaded & {'textual'}), file=sys.stderr)")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True,
                          stdin=subprocess.DEVNULL, timeout=60, env=environment(), check=False)
    assert "LOADED []" in done.stderr, done.stderr


def test_supervisor_is_light() -> None:
    code = ("import sys\nimport ktop.cli, ktop.launch\n"
            "print(sorted({'textual', 'rich', 'psutil', 'msgspec', 'asyncio', 'ctypes'}"
            " & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, text=True, timeout=60,
                          capture_output=True, env=environment(), check=True)
    assert done.stdout == "[]\n"


def test_not_on_a_terminal_is_refused_in_one_line() -> None:
    done = ktop()
    assert done.returncode == 2
    assert "not a terminal" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_bug_is_one_line_and_a_file(monkeypatch: pytest.MonkeyPatch,
                                      capsys: pytest.CaptureFixture[str],
                                      tmp_path: object) -> None:
    def broken(_args: object) -> int:
        raise ValueError("no\x1b[31m such thing\nat all")

    monkeypatch.delenv("KTOP_DEBUG", raising=False)
    monkeypatch.setattr(crash.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setitem(cli.COMMANDS, "doctor", broken)
    assert cli.main(["doctor"]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "\x1b" not in said
    path = said.rpartition("details: ")[2].strip(")\n")
    assert "Traceback" in Path(path).read_text(encoding="utf-8")
    assert os.stat(path).st_mode & 0o077 == 0
    monkeypatch.setenv("KTOP_DEBUG", "1")
    assert cli.main(["doctor"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_interrupt_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_args: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.COMMANDS, "snapshot", interrupted)
    assert cli.main(["snapshot"]) == 130
