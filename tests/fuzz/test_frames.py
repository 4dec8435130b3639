"""Frames whose fields hold anything their types allow, through all that reads frames."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktop.app import KtopApp
from ktop.model import Frame
from ktop.recording import Recording, Writer
from ktop.recording_schema import RecordingError
from ktop.wire import FRAME, Reader, WireError, decode_body, encode_body, message
from tests.fuzz import TIMES, bounded
from tests.fuzz.consumers import ALL
from tests.fuzz.keyboard import picture, send
from tests.fuzz.oddities import CHANGES, Change, changed, fields, real_frames, sweep
from tests.test_app import FakeSource

ROUNDS = list(sweep(0, 1))
PARTS = 3 if TIMES else 1


def consume(frames: list[Frame]) -> None:
    for consumer in ALL:
        try:
            consumer(frames)
        except Exception as err:
            err.add_note(f"in {consumer.__name__}")
            raise


def test_every_field_is_there() -> None:
    found = fields()
    assert len(found) > 600
    values = {(field.kind.__name__, field.name): field.values for field in found}
    assert None in values["Process", "cpu_pct"] and 2**64 - 1 in values["Connection", "ino"]
    assert -1 not in values["Clock", "wall_ns"] and 0 not in values["Clock", "interval_ns"]


def test_every_field_with_every_value() -> None:
    for part in range(PARTS):
        for number, make in enumerate(sweep(part, PARTS)):
            consume(make(number))


@bounded(15)
@given(which=st.integers(0, 1), changes=CHANGES)
def test_any_fields_with_any_values(which: int, changes: list[Change]) -> None:
    consume(changed(which, changes))


# -- what does not even come in --------------------------------------------------------------------


def body_with(change: Callable[[Frame], None]) -> bytes:
    frame = real_frames(0)[1]
    change(frame)
    return encode_body(frame)


def _set(path: str, value: object) -> Callable[[Frame], None]:
    def change(frame: Frame) -> None:
        *way, name = path.split(".")
        part: object = frame
        for step in way:
            part = part[int(step)] if step.isdigit() else getattr(part, step)  # type: ignore[index]
        setattr(part, name, value)

    return change


@pytest.mark.parametrize(("path", "value", "said"), [
    ("clock.wall_ns", -1, "Expected `int` >= 0"),
    ("clock.wall_ns", 2**63, "Expected `int` <="),
    ("host.cpus", 0, "Expected `int` >= 1"),
    ("clock.interval_ns", 0, "Expected `int` >= 1"),
    ("clock.interval_ns", -10**9, "Expected `int` >= 1"),
    ("sched.runq.counts", {2**40: 1}, "Expected `int` <"),
    ("sched.runq.counts", {-1: 1}, "Expected `int` >= 0"),
    ("sched.runq.counts", {1: -1}, "Expected `int` >= 0"),
    ("processes.rows.0.cpu_pct", float("nan"), "Expected `float`"),
    ("host.load1", float("-inf"), "Expected `float`"),
    ("processes.rows.0.cpu_pct", 1e300, "Expected `float`"),
    ("stacks.stacks.0.names", [10**6], "does not name"),
    ("stacks.stacks.0.names", [-1], "does not name")], ids=str)
def test_what_cannot_be_is_no_frame(path: str, value: object, said: str) -> None:
    body = body_with(_set(path, value))
    with pytest.raises(WireError, match="a broken frame: ") as err:
        decode_body(body)
    assert said in str(err.value) and "\n" not in str(err.value)
    with pytest.raises(WireError):
        Reader().feed(message(FRAME, body))


def test_sums_beyond_64_bits_are_one_line(tmp_path: Path) -> None:
    frame = real_frames(0)[1]
    frame.processes.rows[0].rss_bytes = 2**64
    with pytest.raises(WireError, match="beyond 64 bits"):
        encode_body(frame)
    with Writer(tmp_path / "a.ktop") as writer:
        writer.add(real_frames(0)[0])
        with pytest.raises(RecordingError, match="beyond 64 bits"):
            writer.add(frame)
    assert Recording(tmp_path / "a.ktop").end == 1


# -- pictures --------------------------------------------------------------------------------------

KEYS = ["1", "2", "3", "4", "5", "6"]
WAYS = {"panes": [], "views": ["v"], "folded": ["g"], "scope": ["down", "p"],
        "detail": ["down", "enter"], "compare": ["D"], "stacks": ["S"]}


async def shown(rounds: list[list[Frame]], way: list[str]) -> None:
    """All of them to one application, each in every pane (or view of a screen)."""
    source = FakeSource()
    app = KtopApp(lambda: source)
    at = -1
    try:
        async with app.run_test(size=(120, 40)) as pilot:
            source.play(*real_frames(0))
            await pilot.pause()
            for key in way:
                await send(pilot, key)
            for number, frames in enumerate(rounds):
                at = number
                source.play(*frames)
                for key in ["r", *KEYS[:2]] if way in (["D"], ["S"]) else KEYS:
                    await send(pilot, key)
                    if app._exception is not None:
                        return
                await pilot.pause()
                picture(app)
                if app._exception is not None:
                    return
    except Exception as err:
        told = "".join(traceback.format_exception(err))
        raise AssertionError(f"round {at}:\n{told}") from None


@pytest.mark.parametrize("way", WAYS if TIMES else ["panes", "views", "folded"])
def test_every_pane_and_screen_with_every_value(way: str) -> None:
    every = [make(number) for number, make in enumerate(ROUNDS)]
    share = every if TIMES else every[list(WAYS).index(way)::len(WAYS)]
    asyncio.run(shown(share, WAYS[way]))


@pytest.mark.skipif(not TIMES, reason="only by make fuzz: it takes its time")
@bounded(3)
@given(rounds=st.lists(st.tuples(st.integers(0, 1), CHANGES), min_size=1, max_size=6),
       way=st.sampled_from(sorted(WAYS)))
def test_panes_with_any_values(rounds: list[tuple[int, list[Change]]], way: str) -> None:
    asyncio.run(shown([changed(*found) for found in rounds], WAYS[way]))


def test_what_was_sent_by_a_later_version_is_read() -> None:
    """Structs are arrays: fields at the end that are not known yet are left out."""
    array = msgspec.msgpack.decode(encode_body(real_frames(0)[1]))
    array.append({"new": [1, 2, 3]})
    array[1] += 1
    assert decode_body(msgspec.msgpack.encode(array)).seq == array[1]
