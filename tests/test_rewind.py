"""The ring: what it remembers, how it forgets, where it finds."""

from __future__ import annotations

import msgspec
import pytest

from ktop import levels
from ktop.lens import Track
from ktop.packing import GROUP
from ktop.rewind import ENTRY_BYTES, Ring
from ktop.wire import encode_body
from tests import session
from tests.frames import SECOND, stream


def test_it_gives_back_what_it_got():
    ring: Ring = Ring()
    track: Track = ring
    frames = session.frames()
    for number, frame in enumerate(frames):
        assert ring.add(frame, encode_body(frame) if number % 2 else None) == number
    assert (track.first, track.end) == (0, len(frames))
    for at in (*range(len(frames)), 3, 30, 0, 41):
        assert track.frame(at) == frames[at]
        clock = frames[at].clock
        assert track.moment(at) == (clock.wall_ns, clock.monotonic_ns, clock.interval_ns,
                                    clock.gap_ns)
    assert ring.levels(0, 42) == [levels.levels(frame) for frame in frames]


def test_the_budget_holds_and_positions_stay():
    frames = stream(150, processes=12)
    ring = Ring(budget_bytes=80_000)
    sizes = []
    for frame in frames:
        ring.add(frame)
        sizes.append(ring.bytes)
    assert max(sizes) <= 80_000
    assert ring.first % GROUP == 0 and 0 < ring.first < 140 and ring.end == 150
    held = sum(len(entry.data) + ENTRY_BYTES for entry in ring.snapshot().entries)
    assert ring.bytes == held
    for at in range(ring.first, 150):
        assert ring.frame(at) == frames[at]
    for at in (-1, 0, ring.first - 1, 150):
        with pytest.raises(LookupError, match="no longer"):
            ring.frame(at)
        with pytest.raises(LookupError):
            ring.moment(at)
    assert ring.levels(ring.first - 2, ring.first) == [None, None]


def test_one_group_is_always_there():
    ring = Ring(budget_bytes=1)
    for frame in stream(40, processes=20):
        ring.add(frame)
        assert 1 <= ring.end - ring.first <= GROUP


def test_find_is_by_time_of_day_whatever_the_clock_did():
    ring = Ring()
    frames = stream(6, processes=3)
    walls = [100, 200, 300, 150, 160, 400]  # set back once
    for frame, wall in zip(frames, walls, strict=True):
        frame.clock.wall_ns = wall * SECOND
        ring.add(frame)
    expected = {50: 0, 100: 0, 149: 0, 155: 3, 199: 4, 200: 4, 350: 4, 400: 5, 999: 5}
    assert {wall: ring.find(wall * SECOND) for wall in expected} == expected
    track, quiet = Ring(), stream(6, processes=3)  # a clock that was left alone
    for frame in quiet:
        track.add(frame)
    walls = [frame.clock.wall_ns for frame in quiet]
    assert [track.find(wall + step) for wall in walls for step in (-1, 0, 1)] == [
        0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5]
    empty = Ring()
    assert empty.find(1) == empty.first == empty.end == 0


def test_a_frame_that_was_decoded_is_its_own_copy():
    ring = Ring()
    frames = stream(40, processes=5)
    for frame in frames:
        ring.add(frame)
    first = ring.frame(0)
    assert first == frames[0] and first is not frames[0]
    assert ring.frame(0) is first


def test_marks():
    ring = Ring()
    late, early = ring.mark(20, " it hurts\x1b[31m \n"), ring.mark(10)
    assert ring.marks() == [early, late]
    assert late.note == "it hurts\\e[31m"
    assert ring.unmark(early.id) and not ring.unmark(early.id)
    assert ring.mark(5, "x" * 2000).id == 3 and len(ring.marks()[0].note) == 500


def test_a_snapshot_does_not_change():
    ring = Ring(budget_bytes=1)
    frames = stream(60, processes=5)
    for frame in frames[:10]:
        ring.add(frame)
    taken = ring.snapshot()
    for frame in frames[10:]:
        ring.add(frame)
    assert [entry.at for entry in taken.entries] == list(range(10))
    assert taken.newest == msgspec.structs.replace(frames[9])
    assert Ring().snapshot() is None
