"""The four recorded incidents: the verdict is what was played, in the pane by every key.

tests/make_incidents.py made them; `--judge` there writes the verdicts of a changed engine anew.
"""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest

from ktop.answer import answer, schema
from ktop.app import KtopApp
from ktop.diagnosis.model import PIPES
from ktop.judge import judge, worst
from ktop.levels import tight
from ktop.panes.diagnosis import ActorRow, DiagnosisPane
from ktop.panes.pipes import squeeze
from ktop.recording import Recording
from ktop.scope import HOST, Scope
from ktop.screens.detail import ProcessDetail
from ktop.sources_replay import ReplaySource
from ktop.widgets.table import VirtualTable
from tests import session
from tests.make_incidents import INCIDENTS, MARK, NAMED_S
from tests.test_app import FakeSource, Stage
from tests.timekit import Replay, settled

SECOND = 1_000_000_000
DROPPED_S = 10
CULPRIT = {"disk": "dump", "quota": "pages", "upstream": "prices"}  # network: a firewall's rule
SIZES = pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=["80x24", "120x40"])
NAMES = pytest.mark.parametrize("name", INCIDENTS)
FILES = session.FILE.parent


def middle(recording: Recording, name: str) -> int:
    """A position in the middle of the fault."""
    incident = INCIDENTS[name]
    return recording.first + (incident.begin + NAMED_S + incident.end) // 2


@NAMES
def test_the_costliest_is_what_was_played(name: str) -> None:
    """Named within NAMED_S of its beginning, and not for longer than DROPPED_S after its end."""
    incident = INCIDENTS[name]
    with session.recorded(name) as recording:
        walls = [recording.moment(at).wall_ns for at in range(recording.first, recording.end)]
        episodes, _, _ = judge(recording, walls[0], walls[-1], HOST)
        (mark,) = recording.marks()
    assert mark.note == MARK and mark.wall_ns == walls[incident.begin]
    most = worst(episodes)
    assert most is not None
    verdict = most.worst.verdict
    assert verdict.pipe == incident.pipe
    if name in CULPRIT:
        assert verdict.culprits[0].comm == CULPRIT[name]
    mine = [e for e in episodes if e.worst.verdict.pipe == incident.pipe]
    assert mine[0].begin_ns <= walls[incident.begin + NAMED_S]
    assert mine[-1].end_ns <= walls[min(incident.end + DROPPED_S, len(walls) - 1)]


@NAMES
def test_what_is_kept_beside_the_frames_is_what_the_engine_says(name: str) -> None:
    """Otherwise: `python -m tests.make_incidents --judge`."""
    incident = INCIDENTS[name]
    with session.recorded(name) as recording:
        kept = recording.levels(recording.first, recording.end)
        named = [found.pipe if found is not None and tight(found) else "none" for found in kept]
        during = named[incident.begin + NAMED_S:incident.end]
        assert during.count(incident.pipe) > 0.6 * len(during)
        assert any(spell.pipe == incident.pipe for spell in recording.verdicts())


def test_recordings_are_small() -> None:
    sizes = {name: (FILES / f"{name}.ktop").stat().st_size for name in INCIDENTS}
    assert all(size < 1_000_000 for size in sizes.values())
    assert sizes["quota"] < 400_000 and sizes["upstream"] < 400_000


# -- the JSON ------------------------------------------------------------------------------------


def replayed(name: str, *more: str) -> bytes:
    done = subprocess.run(
        [sys.executable, "-m", "ktop", "replay", str(FILES / f"{name}.ktop"), "--diagnose",
         "--json", *more], capture_output=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout


def test_the_json_is_what_its_schema_says() -> None:
    said = replayed("upstream")
    found = msgspec.json.decode(said, type=answer(), strict=True)
    assert msgspec.to_builtins(found) == msgspec.json.decode(said)
    assert found.verdict.pipe == "upstream"  # type: ignore[attr-defined]
    assert [e.verdict.pipe for e in found.episodes].count("upstream")  # type: ignore[attr-defined]


def test_the_schema_in_the_repository_is_that_of_now() -> None:
    """Otherwise: `python -m ktop.answer > docs/diagnose.schema.json`."""
    kept = (FILES.parent.parent / "docs" / "diagnose.schema.json").read_bytes()
    assert _bare(msgspec.json.decode(kept)) == _bare(msgspec.json.decode(schema()))


def _bare(part: object) -> object:
    """Without the words."""
    if isinstance(part, dict):
        return {key: _bare(value) for key, value in part.items()
                if key != "description" or isinstance(value, dict)}
    return [_bare(value) for value in part] if isinstance(part, list) else part


def test_a_span_before_the_fault_is_quiet() -> None:
    said = msgspec.json.decode(replayed("upstream", "--span", "-69s..-60s"))
    assert said["verdict"]["pipe"] != "upstream"
    assert all(e["verdict"]["pipe"] != "upstream" for e in said["episodes"])


# -- the pane ------------------------------------------------------------------------------------


class Shown(Replay):
    """The pane in the middle of a fault."""

    @property
    def pane(self) -> DiagnosisPane:
        pane = self.app.pane
        assert isinstance(pane, DiagnosisPane)
        return pane

    def table(self, name: str) -> VirtualTable:
        return self.pane.query_one(f"#{name}-table", VirtualTable)


@NAMES
@SIZES
async def test_every_key_of_the_pane(name: str, size: tuple[int, int]) -> None:
    recording = session.recorded(name)
    source = ReplaySource(recording, recording.moment(middle(recording, name)).wall_ns)
    app = KtopApp(lambda: source)
    async with app.run_test(size=size) as pilot:
        s = Shown(app, source, pilot)
        await settled(s)
        await s.press("6")
        await settled(s)
        report = app.host.report
        assert report is not None
        verdict = report.verdict
        assert verdict.pipe == INCIDENTS[name].pipe
        await _overview(s)
        await s.press("v")
        await _evidence(s)
        await s.press("v")
        pipes = s.table("pipes").rows
        assert {p.pipe for p in pipes} == set(PIPES)
        await s.press("v")
        assert s.pane.view == "findings"
        assert "nothing that is wrong" in s.text or s.table("findings").rows
        await s.press("v")
        assert s.pane.view == "overview"
        await s.press("question_mark")
        assert len(app.screen_stack) == 2
        assert "stalled task-seconds a second" in s.pane.help_text()
        await s.press("escape")
        await _drill(s)


async def _overview(s: Shown) -> None:
    """One look says what, who, how sure; nothing is cut where it matters."""
    report = s.app.host.report
    assert report is not None
    verdict = report.verdict
    assert verdict.text.split(";")[0][:40] in s.text
    assert "for " in s.text and "sure (" in s.text
    assert squeeze(verdict)[0][0].split()[0] in s.text
    assert "check  " in s.text and "next   " in s.text
    assert verdict.check[:30] in s.text
    assert any(e.text in s.text for e in verdict.evidence)
    assert " process " in s.text and " disk " in s.text and " network " in s.text
    bar = s.app.pipes.lines(s.app.size.width, 1)[0].text
    assert verdict.pipe in bar
    narrow = [line for line in s.lines if "▲" in line and ("quota" in line or "quo" in line)]
    assert narrow, "the narrowest is marked without colour"


async def _evidence(s: Shown) -> None:
    report = s.app.host.report
    assert report is not None
    rows = s.table("evidence").rows
    assert [row.evidence for row in rows] == report.verdict.evidence
    assert all(len(row.past) > 5 for row in rows)
    past = [value for value in rows[0].past if value is not None]
    assert past[-1] == rows[0].evidence.value
    actors = s.table("actors").rows
    assert [(a.pid, a.comm) for a in actors if a.role == "culprit"] == [
        (a.pid, a.comm) for a in report.verdict.culprits]
    for word in ("REF", "LAST SAMPLES", "ROLE", "CONTROL GROUP"):
        assert word in s.text


async def _drill(s: Shown) -> None:
    """Enter opens a process, p and c make it the scope; back is the way back."""
    await s.press("v")
    table = s.table("actors")
    at = next((n for n, row in enumerate(table.rows) if row.pid is not None), None)
    table.focus()
    await s.press("home", *["down"] * (at or 0))
    row = table.selected_row
    assert isinstance(row, ActorRow)
    if at is None:  # a firewall's rule is no process
        await s.press("enter")
        assert not isinstance(s.app.screen, ProcessDetail)
        assert "nothing to open" in s.text
        return
    await s.press("enter")
    assert isinstance(s.app.screen, ProcessDetail)
    await s.press("escape")
    await s.press("p")
    assert s.app.lens.scope.pid == row.pid
    await settled(s)
    assert "host " in s.lines[3]  # whose timeline it is
    await s.press("backspace")
    assert not s.app.lens.scope
    s.table("actors").focus()
    await s.press("home", *["down"] * (at or 0), "c")
    assert s.app.lens.scope.cgroup == row.group


@pytest.mark.parametrize(("group", "pipe"), [("/shop/edge", "upstream"), ("/shop/none", "none")])
async def test_it_obeys_the_scope(group: str, pipe: str) -> None:
    """Who waits has the verdict; who is not there has none."""
    recording = session.recorded("upstream")
    source = ReplaySource(recording, recording.moment(middle(recording, "upstream")).wall_ns)
    app = KtopApp(lambda: source, scope=Scope(cgroup=group))
    async with app.run_test(size=(100, 30)) as pilot:
        s = Shown(app, source, pilot)
        await settled(s)
        await s.press("6")
        await settled(s)
        report = s.app.lens.report
        assert report is not None and report.verdict.pipe == pipe


async def test_live_it_says_the_same() -> None:
    """The frames of a recording as if they came now: the line of pipes and the pane."""
    with session.recorded("upstream") as recording:
        frames = [recording.frame(at) for at in range(
            recording.first + INCIDENTS["upstream"].begin, middle(recording, "upstream"))]
    source = FakeSource()
    app = KtopApp(lambda: source)
    async with app.run_test(size=(120, 40)) as pilot:
        s = Stage(app, source, pilot)
        await s.play(*frames)
        await s.press("6")
        assert "upstream 10.77.0.2:7300 waiting" in s.text
        assert "prices" in s.text and "basket" in s.text
