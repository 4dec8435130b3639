"""Two spans side by side, against sums made by hand; the screen by its keys."""

from __future__ import annotations

import math
import random
import statistics

import pytest

from ktop import compare_spans as spans
from ktop import hist
from ktop.app import KtopApp
from ktop.compare import FLOORS, Change, Comparison, Tally, compare, reading, telling, unit_of
from ktop.compare_text import figure_text, lacks, ratio_text, turn_lines, value_text
from ktop.model import Frame, Hist
from ktop.scope import Scope
from ktop.screens.compare import CompareScreen
from ktop.screens.detail import ProcessDetail
from ktop.when import Span, WhenError
from ktop.widgets.table import VirtualTable
from tests import session
from tests.frames import SECOND, WALL0, bare_frame, make_frame, stream
from tests.tracks import FakeTrack, moments


def tallied(frames: list[Frame], by_pid: bool = True) -> Tally:
    tally = Tally(by_pid)
    for frame in frames:
        tally.add(frame)
    return tally


def halves() -> tuple[list[Frame], list[Frame]]:
    frames = session.frames()
    return frames[:21], frames[21:]


def of(found: Comparison, layer: str, kind: str, name: str, figure: str) -> Change:
    return next(c for c in found.changes
                if (c.layer, c.kind, c.name, c.figure) == (layer, kind, name, figure))


# -- figures ---------------------------------------------------------------------------------------

def test_means_are_weighted_by_time() -> None:
    before, after = halves()
    after[3].clock.interval_ns = 4 * SECOND  # one that counts for more
    found = compare(tallied(before), tallied(after))
    for side, frames in (("a", before), ("b", after)):
        known = [f for f in frames if f.clock.interval_ns]
        for figure, value in (
                ("writes_per_s", lambda f: f.block.writes_per_s),
                ("queue", lambda f: f.block.queue)):
            total = sum(value(f) * f.clock.interval_ns for f in known)
            wanted = total / sum(f.clock.interval_ns for f in known)
            got = getattr(of(found, "block", "", "", figure), side)
            assert got == pytest.approx(wanted), (side, figure)


def test_who_is_away_did_nothing() -> None:
    """A process of a few samples: its CPU time over the whole span."""
    before, after = halves()
    found = compare(tallied(before), tallied(after))
    rows = [(p.pid, p.comm, p.cpu_pct * f.clock.interval_ns) for f in after
            for p in f.processes.rows if p.cpu_pct is not None and f.clock.interval_ns]
    times: dict[tuple[int, str], float] = {}
    for pid, comm, value in rows:
        times[pid, comm] = times.get((pid, comm), 0.0) + value
    span = sum(f.clock.interval_ns or 0 for f in after)
    short = [key for key in times if 0 < sum(r[:2] == key for r in rows) < 10 and times[key] > 0]
    assert short
    for pid, comm in short:
        everywhere = [p for f in after for p in f.processes.rows if p.pid == pid]
        if all(p.cpu_pct is not None for p in everywhere):
            got = of(found, "processes", "process", f"{pid} {comm}", "cpu_pct")
            assert got.b == pytest.approx(times[pid, comm] / span)
            assert got.a == 0.0 and got.state == "new"


def test_percentiles_are_of_the_merged_histograms() -> None:
    before, after = halves()
    found = compare(tallied(before), tallied(after))
    for side, frames in (("a", before), ("b", after)):
        merged = hist.merge([f.sched.runq for f in frames if f.sched.runq and f.clock.interval_ns])
        for pct in (50, 95, 99):
            got = getattr(of(found, "sched", "", "", f"runq.p{pct}"), side)
            assert got == hist.percentile(merged, pct)


def test_too_few_samples_give_no_percentile() -> None:
    frames = stream(4)
    for frame in frames:
        frame.sched.runq = Hist({30: 10})
    found = compare(tallied(frames[:2]), tallied(frames[2:]))
    assert of(found, "sched", "", "", "runq.p50").b is not None
    assert not [c for c in found.changes if c.figure == "runq.p99" and c.layer == "sched"
                and not c.kind]


def test_what_is_not_known_stays_so() -> None:
    before, after = [bare_frame(seq) for seq in (1, 2)], [bare_frame(seq) for seq in (3, 4)]
    for frame in before + after:
        frame.clock.interval_ns = SECOND
    found = compare(tallied(before), tallied(after))
    assert not [c for c in found.changes if c.matters]
    assert not [c for c in found.changes if c.figure == "cpu_pct"]
    assert tallied(before).missing == {"files": 2, "tcp": 2, "block": 2}


def test_a_row_left_out_of_a_full_table_is_not_gone() -> None:
    before, after = halves()
    peer = next(p for p in after[5].tcp.peers)  # type: ignore[union-attr]
    for frame in after:
        assert frame.tcp is not None
        frame.tcp.peers = [p for p in frame.tcp.peers if p.remote != peer.remote]
        frame.tcp.peers_cut = 7
    found = compare(tallied(before), tallied(after))
    changed = [c for c in found.changes if c.kind == "peer" and peer.remote in c.name]
    assert changed and all(c.b is None and not c.state for c in changed)
    assert not [t for t in found.turns if t.kind == "peer"]


def test_a_first_sample_counts_for_nothing() -> None:
    frames = stream(3)
    assert frames[0].clock.interval_ns is None
    tally = tallied(frames)
    assert (tally.frames, tally.covered_ns) == (3, 2 * SECOND)


# -- what matters ----------------------------------------------------------------------------------

def noisy(rng: random.Random, mean: float, frames: int = 30) -> list[Frame]:
    found = [make_frame(seq, processes=3) for seq in range(2, frames + 2)]
    for frame in found:
        frame.sched.switches_per_s = max(0.0, rng.gauss(mean, mean * 0.3))
    return found


def test_noise_does_not_matter_and_a_doubling_does() -> None:
    rng = random.Random(5)
    wrong = 0
    for _ in range(40):
        a, b = noisy(rng, 5000), noisy(rng, 5000)
        wrong += of(compare(tallied(a), tallied(b)), "sched", "", "", "switches_per_s").matters
    assert wrong <= 1
    change = of(compare(tallied(noisy(rng, 5000)), tallied(noisy(rng, 10000))), "sched", "", "",
                "switches_per_s")
    assert change.matters and change.ratio == pytest.approx(2, rel=0.2)
    assert change.score == pytest.approx(
        abs(math.log2((change.b + 100) / (change.a + 100)))
        * math.log10(1 + abs(change.b - change.a) / 100))


def test_standard_error_is_that_of_the_frames() -> None:
    frames = noisy(random.Random(1), 300)
    tally = tallied(frames)
    kind = next(k for k in tally.groups if "switches_per_s" in k.figures)
    got = tally.value(kind, "", "switches_per_s")
    values = [f.sched.switches_per_s for f in frames]
    assert got.variance == pytest.approx(statistics.pvariance(values) / len(values))


@pytest.mark.parametrize(("a", "b", "matters"), [
    (10.0, 10.9, False),   # less than the least
    (1000.0, 1050.0, False),  # less than a tenth
    (1000.0, 1200.0, True), (0.0, 3.0, True), (3.0, 0.0, True)])
def test_least_and_tenth(a: float, b: float, matters: bool) -> None:
    sides = []
    for value in (a, b):
        frames = [make_frame(seq, processes=1) for seq in range(2, 12)]
        for frame in frames:
            frame.processes.execs_per_s = value
        sides.append(tallied(frames))
    assert of(compare(*sides), "processes", "", "", "execs_per_s").matters is matters


def test_the_order_is_the_score_and_a_histogram_is_told_once() -> None:
    before, after = halves()
    found = compare(tallied(before), tallied(after))
    told = telling(found.changes)
    assert told and all(c.matters for c in told)
    scores = [c.score for c in told]
    assert scores == sorted(scores, reverse=True)
    rows = [(c.layer, c.kind, c.name, c.figure.partition(".p")[0]) for c in told
            if ".p" in c.figure]
    assert len(rows) == len(set(rows))
    assert all(c.unit in FLOORS for c in found.changes)


def test_identical_spans_differ_in_nothing() -> None:
    found = compare(tallied(session.frames()), tallied(session.frames()))
    assert found.turns == [] and not [c for c in found.changes if c.matters]


# -- who came and who went -------------------------------------------------------------------------

def test_new_and_gone() -> None:
    before, after = halves()
    found = compare(tallied(before), tallied(after))
    pids = [{(p.pid, p.start_boottime_ns) for f in side if f.clock.interval_ns
             for p in f.processes.rows} for side in (before, after)]
    told = {state: {(t.pid, t.start) for t in found.turns
                    if t.kind == "process" and t.state == state} for state in ("new", "gone")}
    assert told == {"new": pids[1] - pids[0], "gone": pids[0] - pids[1]}
    lines = turn_lines(found.turns)
    assert any(text.startswith("new processes: sleep (") for _, text in lines)


def test_of_two_boots_processes_are_their_command_lines() -> None:
    before, after = halves()
    for frame in after:
        for p in frame.processes.rows:
            p.pid += 100_000
    found = compare(tallied(before, False), tallied(after, False))
    assert not [t for t in found.turns if t.kind == "process" and "rollup" in t.name]
    assert all(c.pid is None for c in found.changes)


# -- reading ---------------------------------------------------------------------------------------

def test_gaps_and_samples_left_out_are_told() -> None:
    track = FakeTrack([*moments(50), *moments(50, start_s=200, first=False)])
    tally = Tally()
    assert list(reading(track, range(100), tally, most=25))[-1] == 97
    assert (tally.frames, tally.skipped, tally.gaps) == (25, 75, 1)
    assert tally.gap_ns == pytest.approx(150 * SECOND, rel=0.02)
    words = lacks(tally)
    assert "one in 4 looked at" in words and any(word.startswith("1 gap of") for word in words)


def test_a_scope_narrows_both() -> None:
    track = FakeTrack(moments(10))
    wanted = track.frame(3).processes.rows[0]
    tally = Tally()
    for _ in reading(track, range(10), tally, Scope(pid=wanted.pid, children=False)):
        pass
    kind = next(k for k in tally.groups if k.kind == "process" and k.layer == "processes")
    assert [key[0] for key in tally.groups[kind].things] == [wanted.pid]


# -- spans -----------------------------------------------------------------------------------------

def at(text: str) -> int:
    from ktop import when

    return when.parse(text, Span(0, 1_795_377_657 * SECOND, 1_795_377_657 * SECOND))


NOW = 1_795_377_657 * SECOND
DAY = 86_400 * SECOND


@pytest.mark.parametrize(("text", "begin", "length_s"), [
    ("-10m..-5m", NOW - 600 * SECOND, 300), ("-20s..end", NOW - 20 * SECOND, 20),
    ("start..now", 1000, None), ("..-5m", 1000, None),
    ("-5m+30s", NOW - 300 * SECOND, 30)])
def test_offsets(text: str, begin: int, length_s: int | None) -> None:
    found = spans.parse(text, Span(1000, NOW, NOW))
    assert found.begin_ns == begin
    if length_s is not None:
        assert found.end_ns - found.begin_ns == length_s * SECOND


def test_times_of_day() -> None:
    span = Span(NOW - 3 * DAY, NOW, NOW)
    for text in ("03:10-03:12", "03:10 - 03:12", "03:10..03:12", "03:10+2m", "03:10:00+120s"):
        found = spans.parse(text, span)
        assert (found.begin_ns, found.end_ns) == (at("03:10"), at("03:12")), text
    late = spans.parse("23:59-00:01", span)
    assert late.end_ns - late.begin_ns == 120 * SECOND
    dated = spans.parse("2026-11-20 23:47..23:50", span)
    assert dated.end_ns - dated.begin_ns == 180 * SECOND
    assert dated.begin_ns == at("2026-11-20 23:47")


@pytest.mark.parametrize("text", ["", "soon", "-5m..-10m", "23:47", "23:61-23:62", "1..2..3", "+5m",
                                  "\x1b[2J", "23:47-", "+" * 500, "-5m+" + "9" * 60])
def test_what_is_no_span(text: str) -> None:
    with pytest.raises(WhenError):
        spans.parse(text, Span(NOW - DAY, NOW, NOW))


def test_positions() -> None:
    track = FakeTrack(moments(60))
    assert spans.positions(track, spans.Stretch(WALL0 + 9 * SECOND, WALL0 + 19 * SECOND)) == range(
        10, 20)
    assert not spans.positions(track, spans.Stretch(WALL0 - 9 * SECOND, WALL0 - SECOND))
    assert not spans.positions(track, spans.Stretch(WALL0 + 99 * SECOND, WALL0 + 199 * SECOND))
    assert spans.positions(track, spans.whole(track)) == range(60)
    last = spans.recent(track, 10 * SECOND)
    assert spans.positions(track, last) == range(50, 60)
    assert spans.positions(track, spans.before(last)) == range(40, 50)


# -- words -----------------------------------------------------------------------------------------

def test_words() -> None:
    assert figure_text("read_bytes_per_s") == "read bytes/s"
    assert figure_text("runq.p99") == "runq P99" and figure_text("cpu_pct") == "cpu %"
    assert unit_of("retrans_pct") == "pct" and unit_of("queue") == "number"
    change = Change("tcp", "", "", "x_per_s", "per_s", 2.0, 9.0, 1.0, True)
    assert ratio_text(change) == "4.5x"
    assert ratio_text(change._replace(a=0.0)) == "from 0"
    assert ratio_text(change._replace(a=None)) == "-"
    assert ratio_text(change._replace(state="new")) == "new"
    for unit in FLOORS:
        assert value_text(None, unit) == "-" and value_text(1.0, unit)


# -- the screen ------------------------------------------------------------------------------------

async def opened(pilot, *keys: str) -> CompareScreen:
    await pilot.pause()
    await pilot.press("space", *keys, "D")
    for _ in range(200):
        await pilot.pause(0.05)
        screen = pilot.app.screen
        if isinstance(screen, CompareScreen) and screen._job is None and screen._tallies:
            return screen
    raise TimeoutError


async def test_d_compares() -> None:
    app: KtopApp = session.play()
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await opened(pilot)
        table = screen.query_one(VirtualTable)
        frames = session.frames()
        half = len(frames) // 2
        wanted = telling(compare(tallied(frames[1:half]), tallied(frames[half:])).changes)
        assert len(table.rows) > 10 and wanted
        assert table.rows[0].change.score == max(
            r.change.score for r in table.rows if r.change is not None)
        await pilot.press("question_mark")
        await pilot.pause()
        assert not isinstance(app.screen, CompareScreen)
        await pilot.press("escape")
        await pilot.press("minus")  # shorter spans
        for _ in range(100):
            await pilot.pause(0.05)
            if screen._job is None:
                break
        assert screen._tallies is not None
        assert 28 <= screen._tallies[0].frames + screen._tallies[1].frames <= 42
        await pilot.press("escape")
        await pilot.pause()
        assert len(app.screen_stack) == 1


async def test_enter_opens_a_process_that_lives() -> None:
    app: KtopApp = session.play()
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await opened(pilot)
        table = screen.query_one(VirtualTable)
        living = {p.pid for p in session.frames()[-1].processes.rows}
        row = next(r for r in table.rows if r.change and r.change.pid in living)
        table.post_message(VirtualTable.Selected(table, row.number, row))
        await pilot.pause(0.2)
        assert isinstance(app.screen, ProcessDetail)
        assert app.screen.scope.pid == row.change.pid
        await pilot.press("escape")
        await pilot.pause()
        assert app.screen is screen
        dead = row._replace(change=row.change._replace(pid=999_999))
        table.post_message(VirtualTable.Selected(table, row.number, dead))
        await pilot.pause(0.2)
        assert app.screen is screen


async def test_too_little_to_compare() -> None:
    app = KtopApp(session.Played)
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        screen = CompareScreen(FakeTrack(moments(2)), None, Scope())
        app.open_over(screen)
        await pilot.pause(0.3)
        assert "too few samples" in screen._said
