"""Rows out of task records: differences, folding, ended threads, reused numbers."""

from __future__ import annotations

from typing import Any

import pytest

from ktop.bpf.layout import HIST_STRUCT, REASONS, TAG_HIST, TASK_HIST_SLOTS, TASK_STRUCT, WAITS
from ktop.collect.records import TaskRecord
from ktop.collect.taskrows import state_letter
from ktop.collect.tasks import TaskTable

SECOND = 1_000_000_000
SLEEP, IO = REASONS.index("sleep"), REASONS.index("io")


def record(pid: int = 10, tgid: int | None = None, **fields: Any) -> bytes:
    """One thread's bytes; unnamed fields are zero."""
    values: dict[str, Any] = dict.fromkeys(TaskRecord._fields, 0)
    values |= {"tag": 1, "pid": pid, "tgid": tgid or pid, "comm": b"test", "flags": 4,
               "syscall": -1, "wait": len(WAITS), "start_boottime_ns": 5, "state": 1,
             "reason": SLEEP, "threads": 1}
    return TASK_STRUCT.pack(*(values | fields).values())


def histogram(pid: int, **counts: int) -> bytes:
    values = [counts.get(f"b{i}", 0) for i in range(TASK_HIST_SLOTS)]
    return HIST_STRUCT.pack(TAG_HIST, pid, *values)


def table(*reads: list[bytes], syscalls: dict[int, str] | None = None) -> TaskTable:
    """A table after reads a second apart."""
    t = TaskTable(syscalls or {})
    for i, read in enumerate(reads, 1):
        t.update(b"".join(read), i * SECOND, 0)
    return t


def test_a_first_sample_is_no_sample() -> None:
    row = table([record(cpu_ns=5 * SECOND)]).row(10)
    assert row is not None
    assert (row.cpu_pct, row.runq_wait_pct, row.blocked_pct, row.forks_per_s) == (None,) * 4
    assert row.state == "S" and row.rss_bytes == 0


def test_rates_are_differences_over_the_interval() -> None:
    row = table([record(cpu_ns=7, voluntary=1, run_delay_ns=3)],
                [record(cpu_ns=7 + SECOND // 2, voluntary=11, run_delay_ns=3 + SECOND // 4,
                        utime_ns=30, stime_ns=10)]).row(10)
    assert row is not None
    assert row.cpu_pct == pytest.approx(50) and row.runq_wait_pct == pytest.approx(25)
    assert row.voluntary_per_s == pytest.approx(10)
    assert row.user_pct == pytest.approx(37.5) and row.system_pct == pytest.approx(12.5)


def test_an_idle_process_keeps_its_row_object() -> None:
    t = table([record(off_ns=1)], [record(off_ns=1)], [record(off_ns=1)])
    row = t.row(10)
    t.update(record(off_ns=1), 4 * SECOND, 0)
    assert t.row(10) is row and t.changes == []
    assert row is None or row.cpu_pct in (0, None)


def test_sleep_under_way_is_counted_and_the_queue_taken_out() -> None:
    """Off the CPU since t=1s, woken at 1.75s, still queued at 2s: 0.75 s asleep, 0.25 s waiting."""
    row = table([record(off_ns=SECOND, reason=IO, syscall=0)],
                [record(off_ns=SECOND, reason=IO, syscall=0, waiting_ns=SECOND // 4, state=0)],
                syscalls={0: "read"}).row(10)
    assert row is not None and row.off_cpu_pct is not None
    assert row.off_cpu_pct == {"io": pytest.approx(75)}
    assert row.runq_wait_pct == pytest.approx(25)
    assert row.blocked_reason == "read" and row.blocked_pct == pytest.approx(75)


def test_threads_fold_and_unfold() -> None:
    row = table([record(10), record(11, 10)],
                [record(10, cpu_ns=SECOND // 10),
                 record(11, 10, cpu_ns=SECOND // 5, state=0)]).row(10)
    assert row is not None
    assert row.cpu_pct == pytest.approx(30) and row.threads == 2 and row.state == "R"


def test_a_thread_that_ended_is_not_counted_twice() -> None:
    """Its time moves into signal_struct: 0.2 s known before, 0.3 s in all: 0.1 s is new."""
    t = table([record(10), record(11, 10, cpu_ns=SECOND // 5)],
              [record(10, dead_cpu_ns=3 * SECOND // 10)])
    row = t.row(10)
    assert row is not None and row.cpu_pct == pytest.approx(10) and row.threads == 1


def test_the_last_thread_of_many_is_its_process_again() -> None:
    both = [record(10), record(11, tgid=10)]
    found = table(both, both)
    assert sorted(t.tid for t in found.threads()) == [10, 11]
    found = table(both, both, both[:1])
    assert found.threads() == [] and [p.pid for p in found.rows()] == [10]
    found = table(both, both, [])
    assert found.threads() == [] and found.rows() == []


def test_born_since_counts_whole_older_does_not() -> None:
    t = table([record(10)],
              [record(10), record(20, start_boottime_ns=3 * SECOND // 2, cpu_ns=SECOND // 2),
               record(30, start_boottime_ns=1, cpu_ns=SECOND // 2)])
    new, old = t.row(20), t.row(30)
    assert new is not None and new.cpu_pct == pytest.approx(50)
    assert old is not None and old.cpu_pct == 0


def test_a_reused_pid_is_another_process() -> None:
    t = table([record(10, cpu_ns=9 * SECOND)],
              [record(10, cpu_ns=SECOND // 10, start_boottime_ns=3 * SECOND // 2)])
    row = t.row(10)
    assert row is not None and row.cpu_pct == pytest.approx(10)
    assert [(a is None, b is None) for a, b in t.changes] == [(False, True), (True, False)]


def test_a_process_that_ended_leaves() -> None:
    t = table([record(10), record(20)], [record(10)])
    assert t.row(20) is None and [r.pid for r in t.rows()] == [10]
    assert [(a.pid, b) for a, b in t.changes if a is not None and b is None] == [(20, None)]


def test_histograms_are_differences_and_fold() -> None:
    t = table([record(10), record(11, 10)],
              [record(10, voluntary=1), histogram(10, b3=5), record(11, 10, voluntary=1),
               histogram(11, b3=1, b9=2)],
              [record(10, voluntary=2), histogram(10, b3=7), record(11, 10, voluntary=1)])
    row = t.row(10)
    assert row is not None and row.runq is not None and row.runq.counts == {3: 2}
    t.update(record(10, voluntary=2), 4 * SECOND, 0)
    assert t.buried == [(0, tuple(histogram_counts(b3=1, b9=2)))]


def test_an_ended_threads_histogram_is_told_of_once() -> None:
    """A zombie's when it becomes one; another's that had the number, when that is seen."""
    t = table([record(10)], [record(10, voluntary=1), histogram(10, b3=5)],
              [record(10, voluntary=1, state=0x20), histogram(10, b3=6)])
    assert t.buried == [(0, tuple(histogram_counts(b3=6)))]
    t.update(record(10, voluntary=1, state=0x20), 4 * SECOND, 0)
    assert t.buried == []
    t.update(b"", 5 * SECOND, 0)
    assert t.buried == []
    t = table([record(10)], [record(10, voluntary=1), histogram(10, b3=5)],
              [record(10, start_boottime_ns=2 * SECOND)])
    assert t.buried == [(0, tuple(histogram_counts(b3=5)))]


def histogram_counts(**counts: int) -> list[int]:
    return [counts.get(f"b{i}", 0) for i in range(TASK_HIST_SLOTS)]


def test_without_the_scheduler_probe_blocked_is_unknown() -> None:
    t = TaskTable({}, tracked=False)
    t.update(record(off_ns=1), SECOND, 0)
    t.update(record(off_ns=1, cpu_ns=5), 2 * SECOND, 0)
    row = t.row(10)
    assert row is not None and row.cpu_pct is not None
    assert row.blocked_pct is None and row.off_cpu_pct is None and row.forks_per_s is None


@pytest.mark.parametrize(("state", "letter"), [
    (0, "R"), (1, "S"), (2, "D"), (0x102, "D"), (0x402, "I"), (4, "T"), (8, "t"), (0x20, "Z"),
    (0xA0, "Z"), (0x10, "X"), (0x80, "X"), (0x40, "P"), (0x8000, "D")])
def test_state_letters_are_those_of_ps(state: int, letter: str) -> None:
    assert state_letter(state) == letter
