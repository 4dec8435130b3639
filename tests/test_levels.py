"""Levels of a frame: every figure against what the frame itself says; what is kept of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktop.diagnosis.model import Pipe, Report, Verdict
from ktop.levels import PIPES, Levels, decode, encode, levels, tight, worst
from ktop.model_tcp import Connection, Tcp
from tests import session
from tests.frames import bare_frame, make_frame


def _connection(number: int, **fields: object) -> Connection:
    return Connection(number, 1, "10.0.0.1", 80, "10.0.0.2", 4000, "ESTAB",
                      **fields)  # type: ignore[arg-type]


def test_figures_of_a_frame() -> None:
    frame = make_frame(9)
    frame.sched.waiting = 3.0
    frame.cgroups[0].throttled_pct, frame.cgroups[4].throttled_pct = None, 42.0
    frame.sched.off_cpu = {"disk": 1.25, "uninterruptible": 0.5, "network": 40.0, "lock": 9.0}
    for cpu in frame.cpus:
        cpu.steal_pct = 10.0
    frame.tcp = Tcp(connections=[
        _connection(1), _connection(2, recovery="loss"), _connection(3, recovery="recovery"),
        _connection(4, zero_window=True), _connection(5, zero_window=True, unsent_bytes=100)])
    found = levels(frame)
    assert found == Levels(cpu=2.58, quota=0.42, steal=0.2, block=1.25, tcp=3.0,
                           uninterruptible=0.5)
    assert worst(found) == ("tcp", 3.0)


def test_waits_of_processes_go_to_their_pipes() -> None:
    frame = make_frame(9)
    frame.sched.off_cpu = {"disk": 1.0, "uninterruptible": 2.0, "network": 4.0}
    for row in frame.processes.rows:
        row.waits_pct = {}
    frame.processes.rows[0].waits_pct = {"disk": 80.0, "fsync": 100.0, "socket": 400.0}
    frame.processes.rows[1].waits_pct = {"disk": 20.0, "memory": 30.0, "reclaim": 10.0,
                                         "mutex": 250.0, "file_lock": 50.0, "new one": 3.0}
    found = levels(frame)
    assert (found.block, found.memory, found.file, found.lock) == (1.0, 0.4, 1.5, 2.5)
    assert found.uninterruptible == 0.1
    assert found.upstream is None


def test_first_sample_and_bare_host_know_nothing() -> None:
    assert levels(make_frame(1)) == Levels()
    assert worst(levels(bare_frame(2))) is None
    assert worst(None) is None


def test_idle_host_has_no_worst() -> None:
    assert worst(Levels(cpu=0.01, block=0.0, tcp=0.0)) is None


def test_the_verdict_goes_before() -> None:
    assert worst(Levels(cpu=5.0, block=1.0, pipe="block", state="saturated")) == ("block", 1.0)
    assert worst(Levels(cpu=5.0, pipe="none", state="ok")) == ("cpu", 5.0)
    assert worst(Levels(cpu=5.0, pipe="warp drive", state="saturated")) == ("cpu", 5.0)


def test_recorded_session_survives() -> None:
    for frame in session.frames():
        found = levels(frame)
        data = encode(found)
        assert decode(data) == found
        assert len(data) < 40


def test_the_diagnosis_knows_better() -> None:
    frame = make_frame(9)
    frame.sched.waiting = 3.0
    frame.sched.off_cpu = {"disk": 1.25}
    report = Report(Verdict("block", "vda", "saturated", 2.5), [
        Pipe("block", "vda", "saturated", 2.5), Pipe("block", "vdb", "ok", 0.5),
        Pipe("cpu", None, "ok", 0.25), Pipe("upstream", None, "blind"), Pipe("lock", stalled=0.0)])
    found = levels(frame, report)
    assert (found.block, found.cpu, found.lock, found.upstream) == (2.5, 0.25, 0.0, None)
    assert worst(found) == ("block", 2.5)
    assert tight(found)
    calm = levels(frame, Report(Verdict()))
    assert not tight(calm)
    assert worst(calm) == worst(levels(frame))
    assert decode(encode(found)) == found


@given(st.lists(st.one_of(st.none(), st.floats(0, 1e6)), min_size=len(PIPES),
                max_size=len(PIPES)), st.one_of(st.none(), st.sampled_from(PIPES)))
def test_round_trip(figures: list[float | None], pipe: str | None) -> None:
    found = Levels(*figures, pipe=pipe)  # type: ignore[misc]
    back = decode(encode(found))
    assert back is not None
    assert back.pipe == pipe
    for name, value in zip(PIPES, figures, strict=True):
        kept = getattr(back, name)
        assert kept == (None if value is None else pytest.approx(value, abs=0.0006))


@given(st.binary(max_size=60))
def test_foreign_bytes_are_no_levels(data: bytes) -> None:
    found = decode(data)
    assert found is None or isinstance(found, Levels)
    worst(found)
