"""Block devices as a scope sees them: devices used, sums, what stays the device's; its cost."""

from __future__ import annotations

import msgspec
import pytest
from test_panes import PaneApp

from ktop import hist
from ktop.model import Hist
from ktop.model_block import Block, BlockOp, BlockUser, Device, Limit, SlowIo
from ktop.narrow.block import narrow, notes
from ktop.panes import BlockPane
from ktop.scope import Members
from tests.frames import SECOND, make_hist
from tests.narrowkit import frame_with, untouched
from tests.session import frames as session
from tests.work import counted

ALONE, GROUP = Members(frozenset({1}), None), Members(frozenset({1, 2}), frozenset({10}))


def user(pid: int | None, cgroup: int, device: str | None, reads: float, writes: float = 0.0,
         others: float = 0.0, syncs: float = 0.0) -> BlockUser:
    row = BlockUser(
        cgroup, pid, f"p{pid}", reads, writes, others, reads * 4096, writes * 512,
        2000.0 if reads else None, 3000.0 if writes else None, None, device, syncs, 1.0, None, None,
        None, 1.0 if reads else 0.0, 0.0, others * 10)
    row.read = Hist({2: int(reads)}, int(reads) * 2000) if reads else None
    row.write = Hist({3: int(writes)}, int(writes) * 3000) if writes else None
    row.other = Hist({1: int(others)}, int(others) * 500) if others else None
    return row


def made() -> Block:
    """Processes 1 and 2 in group 10, 3 in group 20; loop0 lies on sda."""
    return Block(
        owned=True, reads_per_s=160.0, writes_per_s=60.0, read_bytes_per_s=9.0, queue=3.0,
        write_bytes_per_s=9.0, concurrency=1.0, unowned_per_s=2.0, unseen_pct=1.0, users_cut=3,
        devices=[
            Device("sda", 8 << 20, counted=True, util_pct=70.0, queue=3.0, in_flight=4,
                   reads_per_s=160.0, writes_per_s=60.0, merges_per_s=9.0, flushes_per_s=2.0,
                   concurrency=1.0, limit=Limit("sda", 3000.0), best_iops=999.0,
                   ops=[BlockOp("read", 160.0, 1.0, queue=Hist({1: 160}), total=Hist({2: 160}))]),
            Device("loop0", 7 << 20, "loop", util_pct=10.0), Device("sdb", 9 << 20, counted=True)],
        users=[user(1, 10, None, 110, 20), user(2, 10, None, 10), user(3, 20, None, 0, 20, 8, 8)],
        groups=[user(None, 10, None, 120, 20), user(None, 20, None, 40, 20, 8, 8)],
        by_device=[user(1, 10, "sda", 100, 20), user(1, 10, "loop0", 10), user(2, 10, "sda", 10),
                   user(3, 20, "sda", 0, 20, 8, 8), user(None, 20, "sda", 40)],
        slow=[SlowIo(1, "sda", "read", 1, 1, 9, pid=1, cgroup=10),
              SlowIo(1, "sda", "read", 1, 1, 9, pid=78, cgroup=10),
              SlowIo(1, "sda", "read", 1, 1, 9)])


def scoped(members: Members) -> Block:
    return untouched(narrow, made(), members)


def test_one_process() -> None:
    found = scoped(ALONE)
    sda, loop = found.devices
    assert (sda.name, sda.reads_per_s, sda.writes_per_s, sda.read_bytes_per_s) == (
        "sda", 100.0, 20.0, 409_600.0)
    assert (sda.read_ns, sda.write_ns) == (2000.0, 3000.0)
    assert sda.concurrency == pytest.approx(260_000 / SECOND)
    assert (sda.util_pct, sda.queue, sda.in_flight, sda.best_iops) == (70.0, 3.0, 4, 999.0)
    assert sda.merges_per_s is None and sda.flushes_per_s is None
    assert [(op.op, op.per_s, op.errors_per_s, op.queue, op.undivided_per_s) for op in sda.ops] == [
        ("read", 100.0, 1.0, None, 100.0), ("write", 20.0, 0.0, None, 20.0)]
    assert loop.reads_per_s == 10.0
    assert (found.reads_per_s, found.writes_per_s) == (100.0, 20.0)  # the loop's are the disk's
    assert (found.queue, found.unowned_per_s, found.unseen_pct) == (None, None, 1.0)
    assert [u.pid for u in found.users] == [1] and len(found.by_device) == 2
    (group,) = found.groups
    assert (group.cgroup, group.reads_per_s, group.writes_per_s) == (10, 110.0, 20.0)
    assert group.latency is not None and hist.count(group.latency) == 130
    assert [e.pid for e in found.slow] == [1] and found.users_cut == 0


def test_groups_and_what_has_no_row() -> None:
    assert [e.pid for e in scoped(GROUP).slow] == [1, 78]
    found = scoped(Members(frozenset({3}), frozenset({20})))
    (sda,) = found.devices
    assert (sda.reads_per_s, sda.writes_per_s) == (40.0, 28.0)  # a sync is a write to the kernel
    assert [(op.op, op.per_s, op.bytes_per_s) for op in sda.ops] == [
        ("read", 40.0, 163_840.0), ("write", 20.0, 10_240.0), ("sync", 8.0, 80.0)]
    assert found.users_cut == 3 and [g.cgroup for g in found.groups] == [20]
    total = sum(scoped(m).reads_per_s for m in (
        GROUP, Members(frozenset({3}), frozenset({20}))))
    assert total == 150.0  # all of sda's


def test_nothing_is_zero_and_a_first_sample_is_unknown() -> None:
    found = scoped(Members(frozenset({99}), None))
    assert found.devices == [] and (found.reads_per_s, found.concurrency) == (0, 0)
    layer = msgspec.structs.replace(made(), reads_per_s=None)
    assert narrow(layer, ALONE, frame_with(layer)).reads_per_s is None


def test_a_recording_without_devices_of_users_sums_users() -> None:
    played = next(f for f in reversed(session()) if f.block and f.block.users)
    assert played.block is not None
    layer = msgspec.structs.replace(played.block, owned=False, by_device=[])
    pid = layer.users[0].pid
    assert pid is not None
    found = narrow(layer, Members(frozenset({pid}), None), played)
    assert found.devices == [] and found.concurrency is None
    assert found.reads_per_s == sum(u.reads_per_s for u in layer.users if u.pid == pid)
    assert any("recording" in note for note in notes(layer, ALONE))
    layer.users_cut = 1
    assert narrow(layer, Members(frozenset({pid}), None), played).reads_per_s is None


async def test_the_pane_draws_it() -> None:
    app = PaneApp(BlockPane)
    async with app.run_test(size=(120, 40)) as pilot:
        for members in (ALONE, GROUP, Members(frozenset({99}), None)):
            frame = frame_with(scoped(members))
            await app.feed(pilot, [frame])
            for _ in range(len(app.pane.views)):
                app.pane.action_view()
                app.pane.show(frame, app.history)
                await pilot.pause()


def test_it_is_cheap() -> None:
    layer = made()
    some = user(1, 10, "sda", 5, 5, 5, 5)
    some.read, some.write = make_hist(300), make_hist(300, 90_000)
    layer.by_device = [msgspec.structs.replace(some, pid=i, device=f"sd{'ab'[i % 2]}")
                       for i in range(500)]
    layer.users = [msgspec.structs.replace(some, pid=i, device=None) for i in range(500)]
    frame = frame_with(layer)
    with counted() as work:
        narrow(layer, Members(frozenset(range(500)), frozenset({10})), frame)
    assert work.lines < 150_000
