"""The lens: whatever way it got to a position and a scope, it shows the same as going straight."""

import random

import pytest

from ktop.lens import Lens, NoTrack
from ktop.narrow import narrow
from ktop.rewind import Ring
from ktop.scope import HOST, Roster, Scope
from tests.frames import SECOND, make_frame, stream
from tests.session import frames as session_frames


def ring_of(frames):
    ring = Ring()
    for frame in frames:
        ring.add(frame)
    return ring


def settle(lens):
    while lens.behind:
        lens.work(1.0)


def straight(frames, scope, upto):
    """What someone sees who was there from the start, through this scope."""
    ring, lens = Ring(), None
    for frame in frames[:upto + 1]:
        at = ring.add(frame)
        lens = lens or Lens(ring, scope)
        lens.take(frame, at)
    settle(lens)
    return lens


def same(one, other):
    assert one.frame == other.frame
    assert [t.monotonic_ns for t in one.history.ticks] == [
        t.monotonic_ns for t in other.history.ticks]
    assert [t.states for t in one.history.ticks] == [t.states for t in other.history.ticks]
    assert [f.event for f in one.history.events()] == [f.event for f in other.history.events()]
    assert [f.event for f in one.history.feeds.tcp.newest_first()] == [
        f.event for f in other.history.feeds.tcp.newest_first()]


def test_nothing_is_nowhere():
    track = NoTrack()
    with pytest.raises(LookupError):
        track.frame(0)
    with pytest.raises(LookupError):
        track.moment(0)
    assert track.find(5) == 0


def a_scope(frames):
    busiest = max(frames[-1].processes.rows, key=lambda p: p.cpu_pct or 0)
    path = next(g.path for g in frames[-1].cgroups if g.id == busiest.cgroup)
    return {"host": HOST, "pid": Scope(pid=busiest.pid, start=busiest.start_boottime_ns),
            "alone": Scope(pid=busiest.pid, children=False), "cgroup": Scope(cgroup=path),
            "comm": Scope(comm=busiest.comm[:4])}


@pytest.mark.parametrize("kind", ["host", "pid", "alone", "cgroup", "comm"])
def test_any_walk_ends_where_going_straight_ends(kind):
    frames = session_frames()
    scope = a_scope(frames)[kind]
    ring = ring_of(frames)
    lens = Lens(ring, scope)
    lens.take(frames[0], 0)
    walk = random.Random(7)
    for _ in range(12):
        at = walk.randrange(ring.end)
        lens.seek(at)
        for _ in range(walk.randrange(3)):
            lens.work(0.0)  # a slice or two, and off again
    for at in (ring.end - 1, 5, 30, ring.end - 1):
        lens.seek(at)
        settle(lens)
        same(lens, straight(frames, scope, at))


def test_a_scope_taken_late_has_its_events_at_once_and_its_past_soon():
    frames = session_frames()
    scope = a_scope(frames)["cgroup"]
    ring = ring_of(frames)
    host = straight(frames, HOST, len(frames) - 1)
    lens = Lens(ring, scope, host.history)
    lens.take(frames[-1], ring.end - 1)
    roster = Roster(scope)
    assert lens.frame == narrow(frames[-1], roster.members(frames[-1]))
    expected = straight(frames, scope, len(frames) - 1)
    assert len(lens.history.events()) >= len(expected.history.events()) - 1
    assert len(lens.history.ticks) == 1
    settle(lens)
    same(lens, expected)


def test_frames_that_come_while_the_past_is_made_up_for_are_in_it():
    frames = stream(60)
    ring = ring_of(frames[:50])
    lens = Lens(ring, Scope(comm="."))
    lens.take(frames[49], 49)
    for frame in frames[50:]:
        lens.work(0.0)
        lens.take(frame, ring.add(frame))
    settle(lens)
    assert len(lens.history.ticks) == 60
    assert lens.frame.seq == frames[-1].seq


def test_after_a_long_pause_the_past_is_that_of_now():
    frames = stream(700)
    ring = ring_of(frames[:10])
    lens = Lens(ring, HOST)
    for at, frame in enumerate(frames[:10]):
        lens.take(frame, at)
    for frame in frames[10:]:
        ring.add(frame)
    lens.seek(ring.end - 1)
    settle(lens)
    assert lens.history.ticks[-1].monotonic_ns == frames[-1].clock.monotonic_ns
    assert lens.history.ticks[0].monotonic_ns <= frames[-300].clock.monotonic_ns


def test_a_ring_that_forgot_says_so():
    ring = Ring(budget_bytes=20_000)
    for frame in stream(400):
        ring.add(frame)
    lens = Lens(ring, HOST)
    with pytest.raises(LookupError):
        lens.seek(0)
    lens.seek(ring.end - 1)
    settle(lens)
    assert lens.frame is not None


def test_folds_of_a_process_are_counted_from_its_events():
    frames = [make_frame(n) for n in range(1, 8)]
    event = frames[-1].processes.events[0]
    scope = Scope(pid=event.ppid)
    lens = straight(frames, scope, 6)
    mine = [fed.event for fed in lens.history.events()]
    assert mine
    assert sum(f.execs + f.failed + f.exits for f in lens.frame.processes.folds) == len(mine)
    assert all(f.window_ns <= 60 * SECOND for f in lens.frame.processes.folds)
