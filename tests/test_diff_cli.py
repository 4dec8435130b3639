"""ktop diff: what it prints, what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ktop.compare import compare
from ktop.recording import Writer
from tests import session
from tests.frames import SECOND, stream
from tests.ptyshell import ROOT, PtyShell, environment
from tests.test_compare import tallied

KTOP = [sys.executable, "-m", "ktop", "diff"]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("diff") / "a.ktop"
    with Writer(path) as writer:
        for frame in session.frames():
            writer.add(frame)
    return path


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*KTOP, *arguments], cwd=ROOT, env=environment(), capture_output=True,
                          text=True, stdin=subprocess.DEVNULL, timeout=120, check=False)


def test_text_of_80_columns(recorded: Path) -> None:
    done = run(recorded, "--span", "-20s..end")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert all(len(line) <= 80 for line in lines), max(lines, key=len)
    assert lines[0].startswith("before  db1  2026-") and "samples" in lines[0]
    assert any("BEFORE    AFTER    CHANGE   RATIO" in line for line in lines)
    assert any(line.strip().startswith("new processes: sleep (") for line in lines)
    assert len(run(recorded, "--span", "-20s..end", "--all").stdout) >= len(done.stdout)


def test_json_has_all_figures(recorded: Path) -> None:
    found = json.loads(run(recorded, "--json", "--span", "-20s..end").stdout)
    frames = session.frames()
    end = frames[-1].clock.wall_ns
    after = [f for f in frames if f.clock.wall_ns > end - 20 * SECOND]
    before = [f for f in frames if end - 40 * SECOND < f.clock.wall_ns <= end - 20 * SECOND]
    wanted = compare(tallied(before), tallied(after))
    assert (found["before"]["samples"], found["after"]["samples"]) == (len(before), len(after))
    assert [(c["figure"], c["name"], c["before"], c["after"], c["matters"])
            for c in found["changes"]] == [(c.figure, c.name, c.a, c.b, c.matters)
                                           for c in wanted.changes]
    assert len(found["turns"]) == len(wanted.turns)
    assert found["rule"]["floors"]["pct"] == 1.0


def test_default_spans_of_a_short_recording_are_its_halves(recorded: Path) -> None:
    found = json.loads(run(recorded, "--json").stdout)
    assert abs(found["before"]["samples"] - found["after"]["samples"]) <= 2


def test_two_recordings(recorded: Path, tmp_path: Path) -> None:
    other = tmp_path / "b.ktop"
    with Writer(other) as writer:
        for frame in stream(30, processes=5):
            writer.add(frame)
    found = json.loads(run(recorded, other, "--json").stdout)
    assert found["before"]["hostname"] == "db1" and found["after"]["hostname"] == "db-1"
    assert all(c["pid"] is None for c in found["changes"])  # pids of two hosts are no pair
    text = run(recorded, other)
    assert text.returncode == 0
    same = run(recorded, recorded)
    assert "Nothing changed" in same.stdout


def test_a_scope(recorded: Path) -> None:
    found = json.loads(run(recorded, "--json", "--span", "-20s..end", "--comm", "^rollup$").stdout)
    names = {c["name"].partition(" ")[2] for c in found["changes"]
             if c["kind"] == "process" and c["layer"] == "processes"}
    assert names == {"rollup"}


@pytest.mark.parametrize("arguments", [
    ["--span", "soon"], ["--span", "-5s..-9s"], ["--span=-1m..end"] * 3, ["--span=-9h..-8h"],
    ["--nothing"], ["--comm", "("]])
def test_bad_input_is_one_line(recorded: Path, arguments: list[str]) -> None:
    done = run(recorded, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("ktop") and done.stderr.count("\n") == 1


def test_no_recordings(tmp_path: Path, recorded: Path) -> None:
    for paths in ([tmp_path / "none"], [recorded, Path("/etc/passwd")]):
        done = run(*paths)
        assert done.returncode == 2 and done.stderr.count("\n") == 1


def test_on_a_terminal_progress_is_wiped_away(recorded: Path) -> None:
    with PtyShell([*KTOP, str(recorded), "--span", "-20s..end"], columns=80, lines=60) as shell:
        assert shell.wait() == 0
        assert "reading" not in shell.text and "before  db1" in shell.text
