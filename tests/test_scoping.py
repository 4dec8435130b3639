"""Drill-down by keys on the recorded session: into a process, a control group, and out again."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import pytest

from ktop.app import KtopApp
from ktop.panes.groups import Group
from ktop.panes.subject import subject_of
from ktop.scope import HOST, Scope
from ktop.screens.detail import ProcessDetail
from ktop.screens.flame import FlameScreen
from ktop.widgets.table import VirtualTable
from tests.session import frames
from tests.test_app import FakeSource, Stage


@contextlib.asynccontextmanager
async def stage(scope: Scope = HOST, size: tuple[int, int] = (120, 40)) -> AsyncIterator[Stage]:
    source = FakeSource()
    app = KtopApp(lambda: source, scope=scope)
    async with app.run_test(size=size) as pilot:
        found = Stage(app, source, pilot)
        await found.play(*frames())
        yield found


def table(s: Stage) -> VirtualTable:
    found = s.app.focused
    assert isinstance(found, VirtualTable)
    return found


async def settle(s: Stage) -> None:
    while any(lens.behind for lens in s.app.lenses()):
        await s.pilot.pause(0.02)


async def test_p_goes_into_a_process_and_backspace_out() -> None:
    async with stage() as s:
        await s.press("down")
        row = table(s).selected_row
        await s.press("p")
        assert s.app.lens.scope == Scope(pid=row.pid, start=row.start_boottime_ns, name=row.comm)
        assert f"host > {row.pid} {row.comm}" in s.text
        assert {p.pid for p in s.app.frame.processes.rows} >= {row.pid}
        assert len(s.app.frame.processes.rows) < len(s.app.host.whole.processes.rows)
        await settle(s)
        assert len(s.app.history.ticks) == len(frames())
        await s.press("backspace")
        assert s.app.lens is s.app.host
        assert "host >" not in s.text
        await s.press("backspace")
        assert "the whole host" in s.text


async def test_p_again_leaves_its_children_out_and_lets_them_in() -> None:
    async with stage() as s:
        await s.press("down", "p", "p")
        assert not s.app.lens.scope.children
        assert " alone" in s.text
        await s.press("p")
        assert s.app.lens.scope.children


async def test_c_goes_into_the_control_group_and_up_by_steps() -> None:
    async with stage() as s:
        groups = {g.id: g for g in s.app.host.whole.cgroups}
        at = next(p for p in s.app.host.whole.processes.rows
                  if groups[p.cgroup].path.count("/") > 1)
        table(s).select((at.pid, at.start_boottime_ns, 0))
        await s.press("c")
        path = groups[at.cgroup].path
        assert s.app.lens.scope == Scope(cgroup=path)
        assert f"host > {path}" in s.text
        assert all(groups[p.cgroup].path.startswith(path)
                   for p in s.app.frame.processes.rows)
        await s.press("p")  # the cursor stayed on its row
        assert s.app.lens.scope.cgroup == path and s.app.lens.scope.pid == at.pid
        await s.press("backspace", "backspace")
        assert s.app.lens.scope == Scope(cgroup=path.rpartition("/")[0])
        await s.press("backspace")
        assert not s.app.lens.scope


async def test_without_a_row_it_is_said() -> None:
    async with stage() as s:
        await s.press("p")
        assert "no process to go into: no row is under the cursor" in s.text
        await s.press("c")
        assert "no control group to go into" in s.text
        await s.press("enter")
        assert s.app.lens.scope == HOST


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
@pytest.mark.parametrize("key", list("123456"))
async def test_every_pane_and_view_can_be_looked_at_from_inside_every_scope(
        key: str, size: tuple[int, int]) -> None:
    busiest = max(frames()[-1].processes.rows, key=lambda p: p.cpu_pct or 0)
    group = max(frames()[-1].cgroups, key=lambda g: g.processes if g.path != "/" else 0)
    scopes = [Scope(pid=busiest.pid), Scope(pid=1 << 21), Scope(cgroup=group.path),
              Scope(comm="python"), Scope(cgroup="/none/such")]
    for scope in scopes:
        async with stage(scope, size) as s:
            await s.press(key)
            views = len(getattr(s.app.pane, "views", "x"))
            for _ in range(views):
                assert "host >" in s.lines[3]
                await s.press("g")
                await s.press("g", "v")


async def test_a_scope_narrows_every_layer() -> None:
    group = max(frames()[-1].cgroups, key=lambda g: g.processes if g.path != "/" else 0)
    async with stage(Scope(cgroup=group.path)) as s:
        whole, seen = s.app.host.whole, s.app.frame
        inside = {p.pid for p in seen.processes.rows}
        assert len(seen.processes.rows) == group.processes
        for rows in (seen.tcp.connections, seen.files.processes, seen.block.users):
            assert all(row.pid in inside or row.cgroup == group.id for row in rows)
        assert len(seen.tcp.connections) <= len(whole.tcp.connections)
        assert seen.block.read_bytes_per_s is None or (
            seen.block.read_bytes_per_s <= (whole.block.read_bytes_per_s or 0) * 1.01)


async def test_enter_opens_what_a_row_is_about() -> None:
    async with stage() as s:
        await s.press("down")
        row = table(s).selected_row
        await s.press("enter")
        assert isinstance(s.app.screen, ProcessDetail)
        assert str(row.pid) in s.text
        await s.press("escape")
        assert not isinstance(s.app.screen, ProcessDetail)
        assert table(s).selected_row.pid == row.pid


async def test_enter_on_a_control_group_goes_into_it() -> None:
    async with stage() as s:
        await s.press("5", "v", "v")
        groups = s.app.pane.query_one("#cgroups-table", VirtualTable)
        groups.focus()
        await s.press("down")
        row = next(g for g in groups.rows if g.path != "/")
        groups.select(row.id)
        await s.press("enter")
        assert s.app.lens.scope == Scope(cgroup=row.path)


async def test_g_folds_every_table_and_enter_unfolds_a_group() -> None:
    async with stage() as s:
        await s.press("g")
        main = table(s)
        assert all(isinstance(row, Group) for row in main.rows)
        assert main.rows[0].count == len(s.app.frame.processes.rows)
        await s.press("down", "enter")
        assert any(not isinstance(row, Group) for row in main.rows)
        branch = next(row for row in main.rows if isinstance(row, Group) and row.path != "/")
        main.select(("group", branch.path))
        await s.press("c")
        assert s.app.lens.scope == Scope(cgroup=branch.path)
        await s.press("backspace", "g")
        assert not any(isinstance(row, Group) for row in main.rows)


async def test_end_in_the_past_is_the_folded_tables_first_and_then_goes_to_now() -> None:
    async with stage() as s:
        await s.press("T", "g", "down")
        assert not s.app.following
        await s.press("home", "enter", "end")
        assert table(s).selected_row is table(s).rows[-1]
        assert not s.app.following
        await s.press("end")
        assert s.app.following
        await s.press("T", "home", "enter", "end")  # closed again: a group is the last line
        assert s.app.following


async def test_stacks_are_of_the_scope_or_of_the_row() -> None:
    async with stage() as s:
        await s.press("down")
        row = table(s).selected_row
        await s.press("S")
        assert isinstance(s.app.screen, FlameScreen)
        assert s.app.screen.scope.pid == row.pid
        await s.press("escape")
        assert not isinstance(s.app.screen, FlameScreen)


def test_every_row_of_every_table_says_whom_it_is_about() -> None:
    whole = frames()[-1]
    for rows in (whole.processes.rows, whole.processes.events, whole.tcp.connections,
                 whole.tcp.listeners, whole.tcp.peers, whole.tcp.events, whole.tcp.drops,
                 whole.files.rows, whole.files.processes, whole.files.slow, whole.files.opens,
                 whole.block.users, whole.block.groups, whole.block.slow, whole.block.devices,
                 whole.cgroups, whole.tcp.interfaces, whole.tcp.namespaces):
        for row in rows:
            found = subject_of(row, whole)
            assert found.pid is not None or found.cgroup is not None or found.why


async def test_freeze_lets_one_walk_about_in_the_picture() -> None:
    async with stage() as s:
        await s.press("space", "down")
        row = table(s).selected_row
        seq = s.app.frame.seq
        later = frames()[-1]
        later.seq += 1
        later.clock.monotonic_ns += 1_000_000_000
        await s.play(later)
        await s.press("p", "3", "1", "backspace", "g", "g")
        assert s.app.frame.seq == seq
        assert row.pid in {p.pid for p in s.app.frame.processes.rows}
