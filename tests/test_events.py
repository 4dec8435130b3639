"""Events and folds: decoding, the sliding minute, bounded keys."""

from __future__ import annotations

from typing import Any

import pytest

from ktop.bpf.layout import EVENT_STRUCT
from ktop.collect import events
from ktop.collect.records import EventRecord
from ktop.folds import MAX_FOLDS, Folds
from ktop.model import EVENTS_PER_FRAME, ProcessEvent

SECOND = 1_000_000_000


def raw(kind: int, args: bytes = b"", **fields: Any) -> bytes:
    values: dict[str, Any] = dict.fromkeys(EventRecord._fields, 0)
    values |= {"kind": kind, "pid": 7, "ppid": 6, "comm": b"kid", "parent_comm": b"mum",
               "filename": b"/bin/kid", "args_len": len(args)}
    return EVENT_STRUCT.pack(*(values | fields).values()) + args


def test_an_execution() -> None:
    e = events.decode(raw(1, b"kid\0-x\0a b\0", time_ns=5), 1000)
    assert (e.kind, e.time_ns, e.args, e.filename) == ("exec", 1005, 'kid -x "a b"', "/bin/kid")


def test_a_cut_command_line() -> None:
    assert events.decode(raw(1, b"abc", args_len=100), 0).args_cut == 97


def test_a_failed_execution_names_what_was_wanted() -> None:
    e = events.decode(raw(2, code=-13, filename=b"/opt/x/run"), 0)
    assert (e.kind, e.error, e.code, e.comm, e.parent_comm) == (
        "exec_failed", "EACCES", 13, "run", "kid")


@pytest.mark.parametrize(("code", "shown"), [
    (0, (0, None, False)), (3 << 8, (3, None, False)), (9, (None, "SIGKILL", False)),
    (0x8B, (None, "SIGSEGV", True)), (36, (None, "SIGRTMIN+2", False))])
def test_exit_codes_are_those_of_wait(code: int, shown: tuple[Any, ...]) -> None:
    e = events.decode(raw(3, code=code, lifetime_ns=4, cpu_ns=2), 0)
    assert (e.code, e.signal, e.core_dumped) == shown
    assert (e.lifetime_ns, e.cpu_ns) == (4, 2)


def event(kind: str, comm: str = "kid", **fields: Any) -> ProcessEvent:
    return ProcessEvent(kind=kind, time_ns=0, pid=1, ppid=2, uid=0, comm=comm, parent_comm="sh",
                        cgroup=1, **fields)


def test_a_health_check_is_one_line_with_its_rate() -> None:
    folds = Folds(0)
    for tick in range(1, 61):
        now = tick * SECOND
        for _ in range(3):
            folds.add(event("exec", args="check --all"), now)
            folds.add(event("exit", code=1, cpu_ns=10, lifetime_ns=100), now)
    (fold,) = folds.rows(60 * SECOND)
    assert (fold.execs, fold.exits, fold.exits_bad) == (180, 180, 180)
    assert fold.execs_per_min == pytest.approx(180) and fold.cpu_ns == 1800
    assert (fold.last_error, fold.last_args) == ("exit 1", "check --all")


def test_the_minute_slides_and_the_first_is_scaled() -> None:
    folds = Folds(0)
    folds.add(event("exec"), 10 * SECOND)
    assert folds.rows(10 * SECOND)[0].execs_per_min == pytest.approx(6)
    assert folds.rows(69 * SECOND)[0].execs == 1
    assert folds.rows(70 * SECOND) == []


def test_keys_are_bounded_least_recent_first() -> None:
    folds = Folds(0)
    for i in range(MAX_FOLDS + 10):
        folds.add(event("exec", comm=f"c{i}"), SECOND)
    names = {f.comm for f in folds.rows(SECOND)}
    assert len(names) == MAX_FOLDS and "c0" not in names and f"c{MAX_FOLDS}" in names


def test_the_feed_is_bounded_and_says_so() -> None:
    shown, cut = events.feed([event("exec")] * (EVENTS_PER_FRAME + 7))
    assert len(shown) == EVENTS_PER_FRAME and cut == 7
