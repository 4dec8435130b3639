"""ktop replay --diagnose: what was tight, from when to when."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.json import encode

from ktop.diagnosis.engine import Diagnosis
from ktop.diagnosis.model import PIPES
from ktop.diagnosis.thresholds import DEFAULT
from ktop.judge import judge, worst
from ktop.lens import Lens
from ktop.recording import Writer
from ktop.rewind import Ring
from ktop.scope import HOST
from tests.session import frames


def ring():
    found = Ring()
    for frame in frames():
        found.add(frame)
    return found


def test_episodes_are_what_the_screen_would_have_said():
    track = ring()
    lens = Lens(track, HOST, limits=DEFAULT)
    said = []
    for at in range(track.first, track.end):
        lens.take(track.frame(at), at)
        verdict = lens.history.newest.report.verdict
        said.append((verdict.pipe, verdict.resource))
    walls = [track.moment(at).wall_ns for at in range(track.first, track.end)]
    episodes, last, report = judge(track, walls[0], walls[-1], HOST)
    assert last.seq == track.frame(track.end - 1).seq
    assert report.verdict.pipe == said[-1][0]
    told = [next(((e.worst.verdict.pipe, e.worst.verdict.resource) for e in episodes
                  if e.begin_ns < wall <= e.end_ns), None) for wall in walls]
    for seen, was in zip(told, said, strict=True):
        assert (seen[0] if seen else "none") == (was[0] if was[0] in PIPES else "none")
    assert worst(episodes) in episodes


def test_a_report_does_not_change_any_more():
    """Reports are kept; what is held over to the next frame must not be the same pipe."""
    diagnosis = Diagnosis()
    reports = [diagnosis.update(frame) for frame in frames()]
    kept = [encode(report) for report in reports]
    diagnosis, said = Diagnosis(), []
    for frame in frames():
        said.append(encode(diagnosis.update(frame)))
    assert kept == said


def test_a_span_counts_only_what_is_in_it():
    track = ring()
    walls = [track.moment(at).wall_ns for at in range(track.first, track.end)]
    episodes, last, _ = judge(track, walls[10], walls[20], HOST)
    assert last.clock.wall_ns == walls[20]
    assert all(e.end_ns <= walls[20] for e in episodes)
    assert judge(track, walls[-1] + 10**12, walls[-1] + 2 * 10**12, HOST)[1] is None


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("judge") / "session.ktop"
    with Writer(path) as writer:
        for frame in frames():
            writer.add(frame)
    return path


def ktop(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "ktop", "replay", *arguments], text=True,
                          capture_output=True, timeout=60, check=False)


def test_the_command(file):
    done = ktop(str(file), "--diagnose")
    assert (done.returncode, done.stderr) == (0, "")
    assert "stalled at most" in done.stdout or "nothing was tight" in done.stdout
    done = ktop(str(file), "--diagnose", "--json")
    found = json.loads(done.stdout)
    assert set(found) == {"verdict", "pipes", "findings", "health", "episodes"}
    assert done.returncode == 0


@pytest.mark.parametrize(("more", "says"), [
    (["--diagnose", "--span", "23:99-23:50"], "--span"), (["--span", "-10m..-5m"], "--diagnose"),
    (["--json"], "--diagnose"), (["--diagnose", "--comm", "("], "--comm")])
def test_bad_input_is_one_line(file, more, says):
    done = ktop(str(file), *more)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert says in done.stderr
