"""The overview of a track against the frames one by one; the picture made of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktop import theme
from ktop.levels import Levels
from ktop.overview import SLICE, Cell, Overview, span_text
from ktop.widgets.timeline import Picture, heights, names
from tests.frames import SECOND
from tests.test_player import shifted, suspended
from tests.tracks import FakeTrack, moments


def read(track: FakeTrack) -> Overview:
    overview = Overview()
    while not overview.take(track):
        pass
    return overview


def text(pieces: list[tuple[str, str]]) -> str:
    return "".join(char for char, _ in pieces)


def test_the_worst_moment_of_a_column_is_shown() -> None:
    track = FakeTrack(moments(1000))
    track.known = {n: Levels(cpu=0.0) for n in range(1000)}
    track.known[505] = Levels(cpu=1.0, block=3.2)
    track.known[507] = Levels(cpu=1.7)
    overview = read(track)
    cells = overview.columns(100, *overview.span)
    assert [n for n, cell in enumerate(cells) if cell.kind != "idle"] == [50]
    assert cells[50] == Cell("level", 7, "block")


@pytest.mark.parametrize(("stalled", "height"), [
    (0.05, 1), (0.099, 1), (0.101, 2), (0.79, 4), (0.81, 5), (6.3, 7), (6.41, 8), (5000.0, 8)])
def test_height_doubles(stalled: float, height: int) -> None:
    track = FakeTrack(moments(2))
    track.known = {n: Levels(tcp=stalled) for n in range(2)}
    overview = read(track)
    assert {cell.height for cell in overview.columns(4, *overview.span)} == {height}


def test_unknown_is_not_idle() -> None:
    track = FakeTrack(moments(10))
    track.known = {n: Levels(cpu=0.0) for n in range(5)}
    cells = read(track).columns(10, 0, 10 * SECOND)
    assert [cell.kind for cell in cells[:2]] == ["idle", "idle"]
    assert cells[7].kind == "unknown"
    assert cells[9].kind == "none"


def test_gap_is_seen_as_long_as_it_was() -> None:
    track = FakeTrack(suspended())
    track.known = {n: Levels(cpu=0.0) for n in range(20)}
    overview = read(track)
    begin, end = overview.span
    assert end - begin == (19 + 720) * SECOND
    cells = overview.columns(100, begin, end)
    kinds = "".join(cell.kind[0] for cell in cells)
    assert kinds == "ii" + "g" * 96 + "ii"
    assert [n for n, cell in enumerate(cells) if cell.event] == [1]
    assert overview.position(begin + 300 * SECOND) == 9


def test_clock_set_back_is_an_event_and_time_goes_on() -> None:
    track = FakeTrack([*moments(50), *shifted(moments(50, first=False), -3550, 50)])
    track.known = {n: Levels(cpu=0.0) for n in range(100)}
    overview = read(track)
    assert overview.span == (0, 99 * SECOND)
    cells = overview.columns(33, *overview.span)
    assert [cell.event for cell in cells if cell.event] == ["step"]
    assert {cell.kind for cell in cells} == {"idle"}


def test_another_boot_is_a_gap() -> None:
    first, second = moments(10), moments(10)
    track = FakeTrack([*first, *shifted(second, 600, -50_000)])
    overview = read(track)
    assert overview.span[1] == (9 + 591 + 9) * SECOND
    assert "gap" in {cell.kind for cell in overview.columns(60, *overview.span)}


def test_columns_finer_than_frames_are_filled() -> None:
    track = FakeTrack(moments(5, every_s=10))
    track.known = {n: Levels(block=float(n)) for n in range(5)}
    overview = read(track)
    cells = overview.columns(40, *overview.span)
    assert "gap" not in {cell.kind for cell in cells}
    assert [cell.height for cell in cells[1:]] == sorted(cell.height for cell in cells[1:])


def test_ring_moves_on() -> None:
    track = FakeTrack(moments(100))
    overview = read(track)
    track.moments += moments(50, start_s=100, first=False)
    track.first = 70
    while not overview.take(track):
        pass
    assert overview.span == (70 * SECOND, 149 * SECOND)
    assert overview.position(overview.axis(90)) == 90
    track.moments += moments(200, start_s=150, first=False)
    track.first = 300
    while not overview.take(track):
        pass
    assert overview.position(overview.axis(320)) == 320


def test_reading_is_sliced_and_decodes_nothing_that_is_kept() -> None:
    track = FakeTrack(moments(3 * SLICE + 1))
    overview, slices = Overview(), 1
    while not overview.take(track):
        slices += 1
    assert slices == 4
    assert track.decoded == []


@given(st.lists(st.tuples(st.integers(1, 4000), st.integers(-5000, 5000),
                          st.one_of(st.none(), st.integers(1, 3000))), min_size=1, max_size=60),
       st.integers(1, 150), st.floats(0, 1), st.floats(0, 1))
def test_any_clock_makes_a_picture(ticks: list[tuple[int, int, int | None]], width: int,
                                   low: float, high: float) -> None:
    """(ms monotonic, ms that the wall clock steps, interval)"""
    found = moments(1)
    for passed, step, interval in ticks:
        last = found[-1]
        found.append(last._replace(
            monotonic_ns=last.monotonic_ns + passed * 10**6,
            wall_ns=last.wall_ns + (passed + step) * 10**6,
            interval_ns=None if interval is None else interval * 10**6))
    overview = read(FakeTrack(found))
    begin, end = overview.span
    length = end - begin
    low, high = sorted((low, high))
    cells = overview.columns(width, begin + int(low * length), begin + int(high * length))
    assert len(cells) == width
    picture = Picture(cells, width // 2, [0, width - 1, width])
    assert len(text(heights(picture))) == len(text(names(picture))) == width
    axis = [overview.axis(n) for n in range(len(found))]
    assert axis == sorted(set(axis))
    assert [overview.position(at) for at in axis] == list(range(len(found)))


def test_names_stand_at_the_beginning_of_a_run() -> None:
    cells = ([Cell("idle")] * 3 + [Cell("level", 5, "block")] * 8 + [Cell("level", 3, "tcp")] * 2
             + [Cell("level", 1, "uninterruptible")] * 3 + [Cell("gap", event="gap")]
             + [Cell("gap")] * 2 + [Cell("idle", event="step")])
    picture = Picture(cells, cursor=4, marks=[9])
    assert text(names(picture)) == "   b▲ock ◆ T D  ┊  !"
    assert text(heights(picture)) == "···▅▅▅▅▅▅▅▅▃▃▁▁▁┊┊┊·"
    assert heights(picture)[4][1] == "cursor"


def test_the_verdict_is_underlined() -> None:
    track = FakeTrack(moments(20))
    track.known = {n: Levels(cpu=1.0) for n in range(20)}
    for n in range(10, 20):
        track.known[n] = Levels(cpu=1.0, pipe="cpu", state="saturated")
    overview = read(track)
    cells = overview.columns(20, *overview.span)
    assert [cell.tight for cell in cells] == [False] * 10 + [True] * 10
    drawn = names(Picture(cells))
    assert text(drawn) == "cpu       cpu       "
    assert [name for char, name in drawn if char == "c"] == ["user", "sorted"]


def test_ascii() -> None:
    theme.use_ascii(True)
    try:
        picture = Picture([Cell("level", n, "cpu") for n in range(1, 9)]
                          + [Cell("idle"), Cell("gap", event="gap"), Cell("unknown")], 2, [5])
        assert text(heights(picture) + names(picture)).isascii()
    finally:
        theme.use_ascii(False)


@pytest.mark.parametrize(("seconds", "shown"), [
    (0, "0s"), (42, "42s"), (119, "119s"), (120, "2m"), (750, "12m"), (90 * 60, "90m"),
    (3 * 3600 + 1800, "3.5h"), (86_400, "24h"), (3 * 86_400, "3d")])
def test_spans(seconds: int, shown: str) -> None:
    assert span_text(seconds * SECOND) == shown
