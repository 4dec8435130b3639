"""The task iterator fills its buffer several times a tick: no thread may lose a figure over it."""

from __future__ import annotations

import contextlib
import time

import pytest

from tests.livekit import child, collecting

pytestmark = pytest.mark.live
SLEEPERS, TICKS = 40, 8


def test_a_full_buffer_costs_no_histogram() -> None:
    with collecting() as collector, contextlib.ExitStack() as stack:
        pids = {stack.enter_context(child(lambda: time.sleep(0.002))) for _ in range(SLEEPERS)}
        collector.tick()
        for _ in range(TICKS):
            time.sleep(0.4)
            rows = [p for p in collector.tick().processes.rows if p.pid in pids]
            assert len(rows) == SLEEPERS
            assert [p.pid for p in rows if p.runq is None] == []
