"""Files as a scope sees them: rows, sums, what is unknown; the pane draws it; what it costs."""

from __future__ import annotations

import msgspec
import pytest
from test_panes import PaneApp, picture

from ktop import hist
from ktop.model import Hist
from ktop.model_files import (
    Descriptors,
    FileOps,
    FileProcess,
    FileRow,
    Files,
    FileShare,
    FileSystem,
    FileUse,
    MountEvent,
    OpenEvent,
    OpenFold,
    PageCache,
    SlowOp,
    Throttled,
)
from ktop.narrow.files import add, narrow, notes
from ktop.panes import FilesPane
from ktop.scope import Members
from tests.frames import make_hist
from tests.narrowkit import frame_with, untouched
from tests.session import frames as session
from tests.work import counted

ALONE, GROUP = Members(frozenset({1}), None), Members(frozenset({1, 2}), frozenset({10}))
NOBODY = Members(frozenset({99}), None)


def ops(reads: float, writes: float = 0.0, errors: float = 0.0, opens: float = 0.0) -> FileOps:
    return FileOps(
        reads_per_s=reads, writes_per_s=writes, fsyncs_per_s=0.0, opens_per_s=opens,
        errors_per_s=errors, read_bytes_per_s=reads * 10, write_bytes_per_s=writes * 100,
        read=Hist({5: int(reads)}, int(reads) * 100, 200) if reads else None,
        inside=(reads + writes) / 1000)


def made() -> Files:
    """Processes 1 and 2 in group 10, 3 in group 20, more of that group without a row."""
    return Files(
        watched=True, threshold_ns=1, host=ops(100, 20, 7, 9), owned=True,
        rows=[FileRow("/a", "8:1", 5, ops(60), "ext4"),
              FileRow("/b", "8:1", 6, ops(0, 20), "ext4")],
        processes=[FileProcess(1, "one", ops(40, 20), 10), FileProcess(2, "two", ops(20), 10),
                   FileProcess(3, "three", ops(0, 0, 7, 9), 20)], processes_cut=4,
        filesystems=[FileSystem("8:1", ops(100, 20), "ext4", "/", "/dev/sda1")],
        uses=[FileUse(1, "8:1", 5, 0, ops(40), "one", 10),
              FileUse(2, "8:1", 5, 0, ops(20), "two", 10),
              FileUse(1, "8:1", 6, 0, ops(0, 20), "one", 10)],
        shares=[FileShare(1, 10, "8:1", ops(40, 20)), FileShare(2, 10, "8:1", ops(20)),
                FileShare(3, 20, None, ops(0, 0, 7, 9)), FileShare(None, 20, "8:1", ops(40))],
        folds=[OpenFold("one", "/x", "ENOENT", 8, 8.0, 1, 1, 10, False),
               OpenFold("two", "/x", "ENOENT", 5, 5.0, 1, 2, 10, True),
               OpenFold("three", "/x", "ENOENT", 9, 9.0, 3, 3, 20, False)],
        slow=[SlowOp(1, 1, "one", 10, "read", 9), SlowOp(1, 77, "gone", 10, "read", 9),
              SlowOp(1, 3, "three", 20, "read", 9)], slow_total=50,
        opens=[OpenEvent(1, 2, "two", 10, "/x", "O_RDONLY")],
        descriptors=[Descriptors(1, "one", 10, 3, 9), Descriptors(3, "three", 20, 3, 9)],
        descriptors_host=500, unowned_per_s=1.0,
        mounts=[MountEvent(1, "mounted"), MountEvent(1, "mount", 3, "three", 20)],
        cache=PageCache(1, 2, 3, 4, [Throttled(1, "one", 10, 1.0), Throttled(3, "x", 20, 1.0)]))


def scoped(members: Members) -> Files:
    return untouched(narrow, made(), members)


def test_one_process() -> None:
    found = scoped(ALONE)
    assert found.host == ops(40, 20)
    assert [(r.path, r.ops, r.fstype) for r in found.rows] == [
        ("/a", ops(40), "ext4"), ("/b", ops(0, 20), "ext4")]
    assert [p.pid for p in found.processes] == [1] and found.processes_cut == 0
    assert [(f.mount, f.ops) for f in found.filesystems] == [("/", ops(40, 20))]
    assert (found.opens_failed_per_s, found.unowned_per_s, found.slow_total) == (0, None, None)
    assert [(f.fold, f.count, f.per_min) for f in found.folds] == [(1, 8, 8.0), (2, None, None)]
    assert [s.pid for s in found.slow] == [1] and found.opens == [] and found.mounts == []
    assert [d.pid for d in found.descriptors] == [1] and found.descriptors_host == 500
    assert found.cache is not None and [t.pid for t in found.cache.throttled] == [1]
    assert (found.rows_cut, found.uses_cut, found.cache.dirty_bytes) == (0, 0, 1)


def test_a_group_with_what_has_ended() -> None:
    found = scoped(GROUP)
    assert found.host is not None and found.host.reads_per_s == 60
    assert found.host.read == Hist({5: 60}, 6000, 200)
    (a, _) = found.rows
    assert (a.path, a.ops.reads_per_s, a.ops.read_bytes_per_s) == ("/a", 60, 600)
    assert [s.pid for s in found.slow] == [1, 77]
    assert [f.count for f in found.folds] == [8, 5]


def test_what_has_no_row_is_in_its_groups_sum() -> None:
    found = scoped(Members(frozenset({3}), frozenset({20})))
    assert found.host is not None and found.host.reads_per_s == 40
    assert (found.opens_failed_per_s, found.processes_cut) == (7, 4)
    assert found.rows == [] and found.rows_cut == 1  # whose files are not told
    assert [(f.dev, f.ops.reads_per_s) for f in found.filesystems] == [("8:1", 40)]


def test_nothing_done_is_nothing_and_unknown_is_unknown() -> None:
    found = scoped(NOBODY)
    assert found.host is not None
    assert (found.host.reads_per_s, found.host.inside, found.host.read) == (0.0, 0.0, None)
    layer = replaced(host=FileOps(), shares=[], uses=[])
    assert narrow(layer, ALONE, frame_with(layer)).host == FileOps()
    layer = Files(threshold_ns=1)
    assert narrow(layer, ALONE, frame_with(layer)).host is None


def replaced(**values: object) -> Files:
    return msgspec.structs.replace(made(), **values)


def test_a_row_that_is_unknown_stays_so() -> None:
    assert add([ops(1), FileOps()]).reads_per_s == 1
    assert add([FileOps(), FileOps()]).reads_per_s is None


def test_a_recording_without_owners_says_so() -> None:
    played = next(f for f in reversed(session()) if f.files and f.files.processes)
    assert played.files is not None
    layer = msgspec.structs.replace(played.files, owned=False, uses=[], shares=[])
    pids = frozenset(p.pid for p in layer.processes[:2])
    found = narrow(layer, Members(pids, None), played)
    assert {p.pid for p in found.processes} == pids
    assert found.host is not None and found.host.reads_per_s == pytest.approx(
        sum(p.ops.reads_per_s or 0 for p in layer.processes[:2]))
    assert found.rows == [] and found.filesystems == [] and found.opens_failed_per_s is None
    assert any("recording" in note for note in notes(layer, ALONE))


def test_notes() -> None:
    assert "4 less busy" in " ".join(notes(made(), ALONE))
    assert "less busy" not in " ".join(notes(made(), GROUP))


@pytest.mark.parametrize("view", ["files", "processes", "slow", "opens", "fds", "mounts"])
async def test_the_pane_draws_it(view: str) -> None:
    app = PaneApp(FilesPane)
    async with app.run_test(size=(100, 30)) as pilot:
        frame = frame_with(scoped(ALONE))
        await app.feed(pilot, [frame])
        while app.pane.view != view:
            app.pane.action_view()
        app.pane.show(frame, app.history)
        await pilot.pause()
        lines = picture(app)
        assert any("ENOENT" in line for line in lines) == (view == "opens")


def big() -> Files:
    layer = made()
    some = FileOps(reads_per_s=1.0, writes_per_s=1.0, fsyncs_per_s=0.0, opens_per_s=1.0,
                   errors_per_s=0.0, read_bytes_per_s=1.0, write_bytes_per_s=1.0, inside=0.1,
                   read=make_hist(200), write=make_hist(200, 40_000))
    layer.uses = [FileUse(i % 500, "8:1", i, 0, some, "x", 10) for i in range(500)]
    layer.rows = [FileRow("/f", "8:1", i, some) for i in range(500)]
    layer.shares = [FileShare(i, 10, f"8:{i % 3}", some) for i in range(500)]
    layer.processes = [FileProcess(i, "x", some, 10) for i in range(500)]
    return layer


def test_it_is_cheap() -> None:
    layer = big()
    frame = frame_with(layer)
    members = Members(frozenset(range(500)), frozenset({10}))
    with counted() as work:
        found = narrow(layer, members, frame)
    assert work.lines < 300_000
    assert found.host is not None and found.host.read is not None
    assert hist.count(found.host.read) == 500 * 200
