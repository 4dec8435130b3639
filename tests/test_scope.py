"""Who is in a scope, frame by frame; and what processes and scheduler look like from inside it."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from ktop import hist
from ktop.model import Cgroup, Process, ProcessEvent
from ktop.narrow.processes import narrow_host_layers
from ktop.scope import HOST, Members, Roster, Scope, container_of, parse_scope
from tests.frames import make_frame
from tests.session import frames as session_frames

ID = "0123456789abcdef" * 4


def process(pid, ppid, comm="work", cgroup=1, start=None):
    return Process(pid=pid, ppid=ppid, uid=0, comm=comm, args=None, cgroup=cgroup, state="S",
                   threads=1, start_boottime_ns=start or pid * 1000)


def exec_event(pid, ppid, comm="work", cgroup=1):
    return ProcessEvent(kind="exec", time_ns=1, pid=pid, ppid=ppid, uid=0, comm=comm,
                        parent_comm="sh", cgroup=cgroup)


def frame_of(rows, events=(), groups=()):
    frame = make_frame(2)
    frame.processes.rows, frame.processes.events = list(rows), list(events)
    frame.cgroups = [Cgroup(id=n, path=path, name=path) for n, path in groups]
    return frame


def members(scope, *frames):
    roster = Roster(scope)
    return [roster.members(frame) for frame in frames][-1]


def test_a_process_comes_with_all_that_descend_from_it():
    frame = frame_of([process(1, 0), process(10, 1), process(11, 10), process(12, 11),
                      process(20, 1)])
    assert members(Scope(pid=10), frame).pids == {10, 11, 12}
    assert members(Scope(pid=10, children=False), frame).pids == {10}


def test_orphans_and_the_ended_stay_in():
    before = frame_of([process(10, 1), process(11, 10), process(12, 11)])
    after = frame_of([process(10, 1), process(12, 1)], [exec_event(13, 10), exec_event(14, 13)])
    assert members(Scope(pid=10), before, after).pids >= {10, 11, 12, 13, 14}


def test_a_number_that_is_used_again_is_another_process():
    before = frame_of([process(10, 1), process(11, 10)])
    after = frame_of([process(10, 1), process(11, 1, "other", start=99_999)])
    assert 11 not in members(Scope(pid=10), before, after).pids
    assert members(Scope(pid=10, start=5), before).pids == set()


def test_a_group_comes_with_those_below_it_and_not_with_its_namesakes():
    groups = [(1, "/a"), (2, "/a/b"), (3, "/ab"), (4, "/")]
    frame = frame_of([process(n, 1, cgroup=n) for n in (1, 2, 3, 4)], groups=groups)
    found = members(Scope(cgroup="/a"), frame)
    assert found.pids == {1, 2}
    assert found.cgroups == {1, 2}
    assert found.has(777, 2)  # ended before anyone saw it
    assert not found.has(777, 3)
    gone = frame_of([], groups=[(3, "/ab")])
    assert members(Scope(cgroup="/a"), frame, gone).cgroups == {1, 2}


def test_names_are_looked_at_anew():
    before = frame_of([process(10, 1, "sh"), process(11, 1, "postgres")])
    after = frame_of([process(10, 1, "postgres"), process(11, 1, "renamed")],
                     [exec_event(12, 1, "pg_dump")])
    assert members(Scope(comm="^(postgres|pg_)"), before, after).pids == {10, 12}


def test_name_and_group_narrow_each_other():
    frame = frame_of([process(1, 0, "pg", 1), process(2, 0, "pg", 2), process(3, 0, "sh", 1)],
                     groups=[(1, "/a"), (2, "/b")])
    found = members(Scope(cgroup="/a", comm="pg"), frame)
    assert found.pids == {1}
    assert found.cgroups is None


def test_the_way_up():
    scope = Scope(cgroup="/a/b", comm="x", pid=5, start=7, name="fio")
    steps = []
    while scope:
        steps.append(scope.crumbs())
        scope = scope.up()
    assert steps == [["host", "/a/b", "comm ~ x", "5 fio"], ["host", "/a/b", "comm ~ x"],
                     ["host", "/a/b"], ["host", "/a"]]
    assert scope == HOST


def test_command_lines():
    assert parse_scope() == HOST
    assert parse_scope(cgroup="a/b/") == Scope(cgroup="/a/b")
    assert parse_scope(cgroup="/") == HOST
    for wrong in ({"pid": 0}, {"comm": "("}, {"comm": "a{99999999999}"}):
        with pytest.raises(ValueError, match="--"):
            parse_scope(**wrong)


@given(st.text(max_size=40))
def test_no_pattern_ends_in_anything_but_a_value_error(text):
    with contextlib.suppress(ValueError):
        Roster(parse_scope(comm=text)).members(make_frame(2))


def test_the_container_a_path_is_in():
    pod = "/kubepods/burstable/pod1a2b3c4d-0000-0000-0000-123456789abc"
    assert container_of(f"/docker/{ID}") == f"/docker/{ID}"
    assert container_of(f"{pod}/{ID}/inner/x") == f"{pod}/{ID}"
    assert container_of(f"/system.slice/docker-{ID}.scope/init") == (
        f"/system.slice/docker-{ID}.scope")
    assert container_of("/system.slice/nginx.service") == "/system.slice/nginx.service"


def test_rows_threads_events_and_sums_are_the_scopes():
    frame = session_frames()[-1]
    some = {p.pid for p in frame.processes.rows[::3]}
    seen = narrow_host_layers(frame, Members(frozenset(some)))
    rows = seen.processes.rows
    assert {p.pid for p in rows} == some
    assert {t.pid for t in seen.processes.threads} <= some
    waits = [p.runq_wait_pct for p in rows if p.runq_wait_pct is not None]
    assert seen.sched.waiting == pytest.approx(sum(waits) / 100)
    assert hist.count(seen.sched.runq) == sum(hist.count(p.runq) for p in rows if p.runq)
    assert seen.processes.forks_total is None
    assert frame.processes.rows is not rows
    assert len(frame.processes.rows) > len(rows)


def test_scopes_that_share_nothing_add_up_to_the_host():
    frame = session_frames()[-1]
    whole = narrow_host_layers(
        frame, Members(frozenset(p.pid for p in frame.processes.rows),
                       frozenset(g.id for g in frame.cgroups)))
    parts = [narrow_host_layers(frame, Members(
        frozenset(p.pid for p in frame.processes.rows if p.cgroup == group.id),
        frozenset([group.id]))) for group in frame.cgroups]
    assert sum(p.sched.waiting or 0 for p in parts) == pytest.approx(whole.sched.waiting)
    assert sum(hist.count(p.sched.runq) for p in parts) == hist.count(whole.sched.runq)
    for reason in whole.sched.off_cpu:
        assert sum((p.sched.off_cpu or {}).get(reason, 0) for p in parts) == pytest.approx(
            whole.sched.off_cpu[reason])
    assert sum(len(p.processes.events) for p in parts) >= len(whole.processes.events)


def test_without_an_interval_nothing_is_a_rate():
    frame = make_frame(1)
    frame.clock = replace(frame.clock, interval_ns=None)
    seen = narrow_host_layers(frame, Members(frozenset(p.pid for p in frame.processes.rows)))
    assert seen.processes.execs_per_s is None
    assert seen.processes.exits_per_s is None
