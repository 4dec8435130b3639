"""Scopes on this kernel: control groups that share nothing add up to the host."""

from __future__ import annotations

import time

import pytest

from ktop import hist
from ktop.narrow import narrow
from ktop.scope import Members, Roster, Scope
from tests.livekit import child, collecting, spin

pytestmark = pytest.mark.live


def test_control_groups_add_up_to_the_host() -> None:
    """Sums over groups against the host's own: its histogram is of another map altogether."""
    with child(spin), child(spin), child(lambda: time.sleep(0.001)), collecting() as collector:
        waits = slots = 0
        for _ in range(4):
            time.sleep(0.5)
            whole = collector.tick()
            parts = []
            for group in whole.cgroups:
                pids = frozenset(p.pid for p in whole.processes.rows if p.cgroup == group.id)
                parts.append(narrow(whole, Members(pids, frozenset([group.id]))))
            assert sum(len(p.processes.rows) for p in parts) == len(whole.processes.rows)
            assert whole.sched.off_cpu is not None and whole.sched.runq is not None
            for reason, threads in whole.sched.off_cpu.items():
                total = sum((p.sched.off_cpu or {}).get(reason, 0.0) for p in parts)
                assert total == pytest.approx(threads, abs=0.01), reason
            slots += sum(hist.count(p.sched.runq) for p in parts if p.sched.runq)
            waits += hist.count(whole.sched.runq)
        assert waits > 500
        # the two are read one after the other, a moment apart
        assert slots == pytest.approx(waits, rel=0.05)


def test_a_process_started_later_is_found_with_its_children() -> None:
    with collecting() as collector:
        with child(spin) as pid:
            time.sleep(0.5)
            collector.tick()
            time.sleep(0.5)
            whole = collector.tick()
            roster = Roster(Scope(pid=pid))
            seen = narrow(whole, roster.members(whole))
            assert [p.pid for p in seen.processes.rows] == [pid]
            assert (seen.processes.rows[0].cpu_pct or 0) > 20
            assert seen.sched.waiting is not None
        time.sleep(0.3)
        gone = collector.tick()
        members = roster.members(gone)
        assert pid in members.pids  # what it did stays its own
        assert narrow(gone, members).processes.rows == []
