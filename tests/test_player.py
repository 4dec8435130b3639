"""Moving and playing on built tracks: steps, minutes, times, speeds, gaps, a ring that forgets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktop.lens import Moment
from ktop.player import SPEEDS, Player, clock_step_ns, happened, hole_ns, speed_text
from tests.frames import SECOND, WALL0
from tests.tracks import FakeTrack, moments

MINUTE = 60 * SECOND


def shifted(found: list[Moment], wall_s: float, mono_s: float) -> list[Moment]:
    return [Moment(m.wall_ns + round(wall_s * SECOND), m.monotonic_ns + round(mono_s * SECOND),
                   m.interval_ns, m.gap_ns) for m in found]


def suspended() -> list[Moment]:
    """Ten seconds, twelve minutes of suspend, ten seconds."""
    after = shifted(moments(10, first=False), 730, 10)
    return [*moments(10), after[0]._replace(gap_ns=720 * SECOND), *after[1:]]


def test_recording_begins_at_its_beginning() -> None:
    player = Player(FakeTrack(moments(10)))
    assert (player.at, player.following, player.playing) == (0, False, False)
    assert player.step(1) == ""
    assert player.at == 1
    assert player.step(-5) == ""
    assert player.at == 0
    assert player.step(-1) == "this is the beginning"
    player.to_end()
    assert player.at == 9
    assert player.step(1) == "this is the end"
    assert player.behind_ns == 0


def test_live_follows_until_somebody_steps_back() -> None:
    track = FakeTrack(moments(10))
    player = Player(track, live=True)
    assert player.following
    assert player.at == 9
    track.moments += moments(1, start_s=10, first=False)
    assert player.at == 10
    player.step(-1)
    assert not player.following
    track.moments += moments(1, start_s=11, first=False)
    assert player.at == 9
    assert player.behind_ns == 2 * SECOND
    player.step(1)
    assert not player.following
    player.step(1)
    assert player.following
    assert player.step(1) == "this is now"


def test_hold_stands_still_and_end_follows() -> None:
    track = FakeTrack(moments(5))
    player = Player(track, live=True)
    player.hold()
    track.moments += moments(3, start_s=5, first=False)
    assert player.at == 4
    player.to_end()
    assert player.at == 7
    assert player.following


def test_ring_forgets() -> None:
    track = FakeTrack(moments(10))
    player = Player(track, live=True)
    player.seek(3)
    assert player.forgotten() == ""
    track.first = 6
    assert player.at == 6
    assert "oldest" in player.forgotten()
    assert player.forgotten() == ""
    assert player.step(-1) == "this is the oldest in memory"


def test_minutes() -> None:
    player = Player(FakeTrack(moments(300)))
    player.minutes(1)
    assert player.at == 60
    player.minutes(1)
    player.minutes(-1)
    assert player.at == 60
    player.minutes(-10)
    assert player.at == 0
    player.minutes(100)
    assert player.at == 299


def test_minutes_over_a_long_gap_always_move() -> None:
    player = Player(FakeTrack(suspended()))
    player.seek(9)
    player.minutes(1)
    assert player.at == 10
    player.minutes(-1)
    assert player.at == 9


def test_minutes_with_a_clock_set_back() -> None:
    track = FakeTrack([*moments(100), *shifted(moments(100, first=False), -3500, 100)])
    player = Player(track)
    player.seek(120)
    player.minutes(1)
    assert player.at > 120
    at = player.at
    player.minutes(-1)
    assert player.at < at


def test_to_time() -> None:
    player = Player(FakeTrack(moments(300)))
    assert player.to_time(WALL0 + 47 * SECOND + SECOND // 2) == ""
    assert player.at == 47
    assert "nothing before" in player.to_time(WALL0 - SECOND)
    assert player.at == 0
    assert "nothing after" in player.to_time(WALL0 + 400 * SECOND)
    assert player.at == 299


def test_to_time_inside_a_gap_says_so() -> None:
    player = Player(FakeTrack(suspended()))
    assert "no samples at" in player.to_time(WALL0 + 300 * SECOND)
    assert player.at == 9


def test_plays_by_the_frames_own_intervals() -> None:
    track = FakeTrack([*moments(5, every_s=1), *shifted(moments(5, every_s=2, first=False), 6, 6)])
    player = Player(track)
    player.play()
    player.advance(SECOND // 2)
    assert player.at == 0
    player.advance(SECOND // 2)
    assert player.at == 1
    player.advance(3 * SECOND)
    assert player.at == 4
    player.advance(SECOND)
    assert player.at == 4
    player.advance(SECOND)
    assert player.at == 5
    player.speed = 4.0
    player.advance(SECOND)
    assert player.at == 7


def test_plays_to_the_end_and_stays() -> None:
    player = Player(FakeTrack(moments(5)))
    player.play()
    assert "end" in player.advance(100 * SECOND)
    assert (player.at, player.playing) == (4, False)
    assert player.advance(SECOND) == ""
    player.toggle()
    assert (player.at, player.playing) == (0, True)


def test_live_plays_into_now() -> None:
    track = FakeTrack(moments(5))
    player = Player(track, live=True)
    player.seek(2)
    player.play()
    assert player.advance(2 * SECOND) == "this is now"
    assert player.following
    assert not player.playing


def test_gaps_are_skipped_and_told() -> None:
    player = Player(FakeTrack(suspended()))
    player.seek(9)
    player.play()
    assert player.advance(SECOND) == "gap of 12m00s: a suspend, or the clock was set forward"
    assert player.at == 10
    assert player.step(-1) == "gap of 12m00s: a suspend, or the clock was set forward"


@pytest.mark.parametrize(("wall_s", "mono_s", "interval", "says"), [
    (1, 1, SECOND, ""), (1.1, 1, SECOND, ""), (2, 2, 2 * SECOND, ""),
    (0, 1, SECOND, "the clock was set back by 1.0s"),
    (-3599, 1, SECOND, "the clock was set back by 1h00m"),
    (721, 1, SECOND, "gap of 12m00s: a suspend, or the clock was set forward"),
    (1.7, 1, SECOND, "the clock was set forward by 700ms"),
    (30, 30, SECOND, "gap of 29.0s: no samples"), (30, 30, None, "gap of 30.0s: no samples"),
    (30, 30, 30 * SECOND, ""), (100, -500, None, "the machine was started anew")])
def test_what_lies_between(wall_s: float, mono_s: float, interval: int | None, says: str) -> None:
    one = moments(1, start_s=1000)[0]
    other = shifted([one._replace(interval_ns=interval)], wall_s, mono_s)[0]
    said = happened(one, other)
    assert said.startswith(says.replace("29.0s", "29s").replace("30.0s", "30s"))
    assert bool(said) == bool(says)


def test_a_clock_set_back_is_no_hole() -> None:
    one, other = moments(2)
    other = other._replace(wall_ns=one.wall_ns - 3600 * SECOND)
    assert hole_ns(one, other) == 0
    assert clock_step_ns(one, other) == -3601 * SECOND


def test_speeds() -> None:
    player = Player(FakeTrack(moments(5)))
    assert [speed_text(speed) for speed in SPEEDS] == [
        "1/4x", "1/2x", "1x", "2x", "4x", "8x", "16x", "32x", "64x"]
    assert player.faster(1) == "plays at 2x"
    for _ in range(10):
        said = player.faster(1)
    assert said == "64x is as far as it goes"
    for _ in range(10):
        player.faster(-1)
    assert player.speed == 0.25
    player.speed = 3.0
    player.faster(1)
    assert player.speed == 4.0


def test_no_frames_at_all() -> None:
    for live in (True, False):
        player = Player(FakeTrack([]), live)
        assert player.empty
        for move in (lambda p: p.step(1), lambda p: p.step(-1), lambda p: p.minutes(1),
                     lambda p: p.to_time(0), lambda p: p.play(), lambda p: p.advance(SECOND)):
            assert isinstance(move(player), str)
        assert player.behind_ns == 0


@given(st.lists(st.sampled_from(["t", "T", "[", "]", "end", "space", "+", "-", "time", "tick",
                                 "frame", "forget", "hold"]), max_size=40),
       st.booleans(), st.integers(1, 40))
def test_any_keys_in_any_order_stay_on_the_track(keys: list[str], live: bool, size: int) -> None:
    track = FakeTrack(moments(size))
    player = Player(track, live)
    actions = {
        "t": lambda: player.step(1), "T": lambda: player.step(-1),
        "[": lambda: player.minutes(-1), "]": lambda: player.minutes(1), "end": player.to_end,
        "space": player.toggle, "+": lambda: player.faster(1), "-": lambda: player.faster(-1),
        "time": lambda: player.to_time(WALL0 + size * SECOND // 2),
        "tick": lambda: player.advance(SECOND), "hold": player.hold, "forget": player.forgotten}
    for key in keys:
        if key == "frame" and live:
            track.moments += moments(1, start_s=len(track.moments), first=False)
        elif key == "forget" and live and track.end - track.first > 1:
            track.first += 1
        if key in actions:
            actions[key]()
        assert track.first <= player.at < track.end
        assert not (player.following and not live)
        assert not (player.playing and player.following)
