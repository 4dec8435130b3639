"""The Diagnosis pane and the line of pipes, on built reports: what is tight is seen to be."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from ktop import theme
from ktop.diagnosis.model import PIPES, Actor, Evidence, Finding, Pipe, Report, Verdict
from ktop.history import History
from ktop.panes.diagnosis import ActorRow, DiagnosisPane, FindingRow, Words
from ktop.panes.pipes import ORDER, about, headline, in_words, named, sections, squeeze, sure
from ktop.panes.subject import subject_of
from ktop.widgets.pipes import PipeBar, PipePicture, Section, level_glyph, shares, spark, walls
from ktop.widgets.table import VirtualTable
from tests.frames import make_frame, stream
from tests.test_panes import PaneApp, text

EVIDENCE = [Evidence("requests under way", 6.2, "requests", "/proc/diskstats", 4.0),
            Evidence("fsync, P99", 41.0, "ms", "entry to exit", 10.0)]
FIO = Actor(4242, "fio", "/batch", 0.97)
DB = Actor(77, "postgres", "/db", 0.8)


def report(state: str = "saturated", stalled: float = 3.7) -> Report:
    block = Pipe("block", "vda", state, stalled, 96.0, p99_ns=41e6, since_s=8.0, culprits=[FIO],
                 victims=[DB], evidence=EVIDENCE)
    others = [Pipe(name, stalled=0.0) for name in PIPES if name not in ("block", "steal")]
    others.append(Pipe("steal", state="blind", why_blind="no /proc/stat"))
    verdict = Verdict("block", "vda", state, stalled, 8.0, 0.93, [FIO], [DB], EVIDENCE,
                      "iostat -xz 1", "a faster volume", "3.7 threads wait for the disk vda.",
                      ["cpu is tight too"])
    return Report(verdict, [block, *others])


def healthy() -> Report:
    return Report(Verdict(confidence=0.9, text="No pipe is tight."),
                  [Pipe(name, stalled=0.0) for name in PIPES])


class Told(PaneApp):
    """A pane app whose history's ticks say this."""

    def tell(self, found: Report | None, frames: int = 3) -> None:
        history = History()
        for frame in stream(frames):
            history.add(frame, found)
        self.pane.show(make_frame(frames), history)


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (60, 15)])
async def test_the_narrowest_is_named_with_who_and_why(size: tuple[int, int]) -> None:
    app = Told(DiagnosisPane)
    async with app.run_test(size=size) as pilot:
        app.tell(report())
        await pilot.pause()
        shown = text(app)
        assert "fio 4242 97% squeezes postgres 77 80%" in shown
        assert "sure (93%)" in shown or size[0] < 80
        assert "3.7 threads wait for the disk vda." in shown
        for _ in range(4):
            await pilot.press("v")
            await pilot.pause()
            app.tell(report())
        await pilot.press("v")
        app.tell(report())
        await pilot.pause()
        shown = text(app)
        assert "fio" in shown and "postgres" in shown
        assert "fsync, P99" in shown


async def test_nothing_tight_is_an_answer() -> None:
    app = Told(DiagnosisPane)
    async with app.run_test(size=(120, 40)) as pilot:
        app.tell(healthy())
        await pilot.pause()
        assert "No pipe is tight." in text(app)
        assert "nobody: nothing is tight" in text(app)
        app.tell(None)
        await pilot.pause()
        assert "no diagnosis yet" in text(app)


async def test_findings_have_a_view_of_their_own() -> None:
    found = healthy()
    found.findings = [Finding("descriptors", "api opens 12 descriptors a minute", 30.0,
                              [Actor(9, "api", "/web", 1.0)])]
    app = Told(DiagnosisPane)
    async with app.run_test(size=(120, 40)) as pilot:
        app.tell(found)
        await pilot.pause()
        assert "api opens 12 descriptors a minute" in text(app)
        await pilot.press("v", "v", "v")
        app.tell(found)
        await pilot.pause()
        rows = app.pane.query_one("#findings-table", VirtualTable).rows
        assert [row.pid for row in rows] == [9]


def test_rows_lead_to_whom_they_name() -> None:
    frame = make_frame(3)
    pid = frame.processes.rows[0].pid
    row = ActorRow("culprit", 0, pid, "x", "/some/group", 0.5)
    assert subject_of(row, frame).pid == pid
    assert subject_of(row, frame).path == "/some/group"
    assert subject_of(replace(row, pid=None), frame).path == "/some/group"
    rule = ActorRow("culprit", 0, None, "a rule of the firewall", None, None)
    assert subject_of(rule, frame).why == "a rule of the firewall: no process of this host"
    assert subject_of(Pipe("block", culprits=[FIO]), frame).pid == 4242
    assert subject_of(Pipe("steal"), frame).why == "nobody is known to squeeze it"
    path = Pipe("tcp", culprits=[Actor(None, "the path to 10.0.0.9")])
    assert subject_of(path, frame).why == "the path to 10.0.0.9: no process of this host"
    finding = Finding("forks", "x", 1.0, [Actor(None, "sh", "/a")])
    assert subject_of(FindingRow(0, finding, None, "sh"), frame).why


def test_sections_of_a_report() -> None:
    found = {section.name.split()[0]: section for section in sections(report())}
    assert list(found) == list(ORDER)
    assert found["block"].narrowest and found["block"].tight >= 0.85
    assert found["steal"].tight is None
    assert found["cpu"].tight == 0.0 and not found["cpu"].narrowest
    assert named(report()) == ("block", "vda")
    assert named(healthy()) is None
    assert all(section.tight is None for section in sections(None))
    assert "none tight" in headline(healthy())[0][0]


def test_walls_close_where_it_is_tight_and_grow_gently() -> None:
    assert sum(shares(118, 9)) == 118
    found = walls([0.0, 1.0, 0.0], [10, 10, 10], 6)
    assert found[:9] == [0] * 9
    assert max(found) == 6
    assert found[12:18] == [6] * 6
    assert all(abs(a - b) <= 4 for a, b in itertools.pairwise(found))


@pytest.mark.parametrize("ascii_only", [False, True])
@pytest.mark.parametrize("size", [(78, 10), (118, 13), (20, 5), (9, 3), (300, 30)])
def test_the_picture_fits_whatever_room_there_is(size: tuple[int, int], ascii_only: bool) -> None:
    theme.use_ascii(ascii_only)
    try:
        picture = PipePicture()
        picture.sections = sections(report())
        width, height = size
        for line in picture.lines(width, height):
            assert line.cell_length == width
            assert not ascii_only or line.text.isascii()
    finally:
        theme.use_ascii(False)


def test_levels_and_sparks_say_it_without_colour() -> None:
    assert level_glyph(None) == "?"
    assert level_glyph(0.0) == theme.glyphs().dot
    assert level_glyph(1.0) == "█"
    assert spark([0, None, 1, 2], 4) == "▁ ▅█"
    assert spark([], 5) == ""
    assert spark([None, 0.0], 9) == " ▁"
    assert Section("x", "x").tight == 0.0


def test_words_for_how_sure_it_is() -> None:
    assert [sure(value) for value in (1.0, 0.85, 0.6, 0.35, 0.1, 0.0)] == [
        "sure (100%)", "sure (85%)", "fairly sure (60%)", "unsure (35%)", "a guess (10%)",
        "a guess (0%)"]


def said(pieces: list[tuple[str, str]]) -> str:
    return "".join(piece for piece, _ in pieces)


def test_who_squeezes_whom() -> None:
    other = Actor(78, "checkout", "/web", 0.2)
    assert said(squeeze(Verdict())) == ""
    assert said(squeeze(Verdict(culprits=[FIO]))) == "fio 4242 97%"
    assert said(squeeze(Verdict(victims=[DB]))) == "postgres 77 80% waits"
    assert said(squeeze(Verdict(culprits=[FIO], victims=[FIO]))) == "fio 4242 97% squeezes itself"
    assert said(squeeze(Verdict(culprits=[FIO], victims=[FIO, DB, other]))) == (
        "fio 4242 97% squeezes postgres 77 80% and 1 more")
    assert said(squeeze(Verdict(culprits=[Actor(None, "a rule", None, None)], victims=[DB]))) == (
        "a rule squeezes postgres 77 80%")


def test_about_says_what_the_headline_leaves_out() -> None:
    assert said(about(report())) == "for 8s   sure (93%)   fio 4242 97% squeezes postgres 77 80%"
    assert said(about(healthy())).strip() == "sure (90%)"
    assert "no diagnosis yet" in said(about(None))
    blind = Report(Verdict(state="blind", text="Too little can be seen for a verdict."))
    assert said(about(blind)) == "Too little can be seen for a verdict."


@pytest.mark.parametrize("room", [0, 4, 5, 6, 20])
def test_the_verdict_in_words_leaves_nothing_out_but_evidence(room: int) -> None:
    lines = [said(line) for line in in_words(report(), 80, room, {})]
    whole = " ".join(lines)
    for words in ("3.7 threads wait for the disk vda.", "but    cpu is tight too",
                  "check  iostat -xz 1", "next   a faster volume"):
        assert words in whole
    assert sum("over" in line for line in lines) == (min(2, max(1, room - 4)) if room else 0)


def test_long_texts_are_wrapped_not_cut() -> None:
    long = report()
    long.verdict.text = "word " * 60
    long.verdict.next = "do " * 60
    lines = [said(line) for line in in_words(long, 80, 6, {})]
    assert all(len(line) <= 80 for line in lines)
    assert " ".join(lines).count("word") == 60 and " ".join(lines).count("do ") + 1 >= 60


def test_the_headline_names_the_culprit_before_the_figures() -> None:
    assert said(headline(report())) == "block vda saturated  by fio 4242  3.70 stalled  8s"
    found = healthy()
    found.findings = [Finding("forks", "x starts 9 a second", 30.0, [Actor(9, "x", "/web", 1.0)]),
                      Finding("ceiling", "near", 1.0)]
    assert said(headline(found)) == "none tight  forks by x 9 and 1 more"
    found.findings.pop(0)
    assert said(headline(found)) == "none tight  ceiling"


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
async def test_every_tight_pipe_can_be_looked_into_not_the_narrowest_only(
        size: tuple[int, int]) -> None:
    found = report()
    second = Pipe("tcp", "10.0.0.9:80", "errors", 0.0, culprits=[Actor(5, "curl", "/a", 1.0)],
                  evidence=[Evidence("connects that fail", 9.0, "/s", "x", 0.5)],
                  check="ss -ti", next="start the server")
    found.pipes.insert(1, second)
    app = Told(DiagnosisPane)
    async with app.run_test(size=size) as pilot:
        await pilot.press("v", "v")
        app.tell(found)
        await pilot.pause()
        table = app.pane.query_one("#pipes-table", VirtualTable)
        assert [p.state for p in table.rows[:2]] == ["errors", "saturated"]  # the tight ones first
        table.select(("tcp", "10.0.0.9:80"))
        await pilot.pause()
        shown = text(app)
        assert "connects that fail" in shown and "ss -ti" in shown and "start the server" in shown
        assert "requests under way" not in shown
        table.select(("block", "vda"))
        await pilot.pause()
        assert "3.7 threads wait for the disk vda." in text(app)
        assert "requests under way" in text(app)
        table.select(("steal", ""))
        await pilot.pause()
        assert "It cannot be seen: no /proc/stat." in text(app)


async def test_a_finding_has_its_evidence_and_what_to_do() -> None:
    found = report()
    found.findings = [
        Finding("descriptors", "api opens more than it closes", 30.0, [Actor(9, "api", "/web")],
                [Evidence("open descriptors", 900.0, "descriptors", "x", 1024.0)], "ls /proc/9/fd",
                "close them"),
        Finding("forks", "sh starts 5 a second", 20.0, [Actor(8, "sh", "/web")],
                [Evidence("short processes", 5.0, "/s", "x", 2.5)], "execsnoop", "less often")]
    app = Told(DiagnosisPane)
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("v", "v", "v")
        app.tell(found)
        await pilot.pause()
        shown = text(app)
        assert "900 descriptors" in shown and "close them" in shown  # the one seen longest
        app.pane.query_one("#findings-table", VirtualTable).select(1)
        await pilot.pause()
        shown = text(app)
        assert "short processes" in shown and "less often" in shown and "over 2.5" in shown
        assert "900 descriptors" not in shown
        assert "█" in shown  # its past


def test_the_bar_says_by_whom_also_where_there_is_little_room() -> None:
    found = report()
    found.verdict.resource = "a-very-long-name-of-a-volume"
    bar = PipeBar()
    bar.set(sections(found), headline(found), headline(found, brief=True))
    assert "block saturated  by fio 4242" in bar.lines(80, 1)[0].text
    assert "block a-very-long-name-of-a-volume saturated  by fio 4242" in bar.lines(160, 1)[0].text


async def test_evidence_fills_whatever_room_the_words_leave_also_without_another_tick() -> None:
    """A picture that stands still is shown once, maybe before the layout is known."""
    app = Told(DiagnosisPane)
    async with app.run_test(size=(80, 24)):
        app.tell(report())
        words = app.pane.query_one(Words)
        for height, figures in ((4, 1), (5, 1), (6, 2), (20, 2)):
            shown = [line.text for line in words.lines(80, height)]
            assert sum("over" in line for line in shown) == figures, height
