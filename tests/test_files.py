"""Files layer without a kernel: decoders, differences, folds, leaks, mounts; the pane."""

from __future__ import annotations

import struct

import pytest
from rich.cells import cell_len
from test_panes import RESERVED, PaneApp, picture, text

from ktop import hist, theme
from ktop.bpf import files_layer as fl
from ktop.bpf.layout import HIST_SLOTS
from ktop.bpf.table import Table
from ktop.collect.files_accounts import Shares, Uses, device
from ktop.collect.files_events import FileEvents, Record, joined, open_flags
from ktop.collect.files_fds import FdRecord, Track, left_ns
from ktop.collect.files_folds import FOLDS_PER_TICK, OpenFolds
from ktop.collect.files_mounts import mount_flags, parse
from ktop.collect.files_ops import HostTotals, histogram
from ktop.model import Frame, Hist
from ktop.model_files import (
    Descriptors,
    FileOps,
    FileProcess,
    FileRow,
    Files,
    FileSystem,
    MountEvent,
    OpenEvent,
    OpenFold,
    PageCache,
    SlowOp,
    Throttled,
)
from ktop.panes import FilesPane
from ktop.panes.files import VIEWS, dominant
from ktop.panes.files_columns import tail
from ktop.widgets.table import VirtualTable
from tests.frames import HOSTILE, SECOND, WALL0, bare_frame, make_frame, make_hist

SIZES = [(80, 24), (120, 40), (170, 45)]


@pytest.fixture(autouse=True)
def _glyphs():
    theme.use_ascii(False)
    yield
    theme.use_ascii(False)


# -- synthetic -------------------------------------------------------------------------------------


def make_ops(rate: float = 100.0, slow: float = 1.0, seed: int = 1) -> FileOps:
    return FileOps(
        reads_per_s=rate, writes_per_s=rate / 2, fsyncs_per_s=rate / 50, opens_per_s=1.0,
        errors_per_s=0.0, read_bytes_per_s=rate * 4096, write_bytes_per_s=rate * 8192,
        read=make_hist(400, 9_000 * slow, seed=seed),
        write=make_hist(200, 30_000 * slow, seed=seed),
        fsync=make_hist(40, 2_000_000 * slow, seed=seed), inside=rate / 900)


PATHS = ["/var/lib/postgresql/14/main/pg_wal/000000010000000200000047", "/proc/stat",
         "/mnt/nfs/reports/2026-02-02.parquet", "/数据库/表", *(f"/tmp/{name}" for name in HOSTILE)]


def make_files(seq: int = 1, watched: bool = True) -> Files:
    at = WALL0 + seq * SECOND
    cache = PageCache(900 << 20, 40 << 20, 1 << 30, 512 << 20,
                      [Throttled(130, "postgres", 2, 4.0, 38.0)])
    fds = [Descriptors(130, "java", 5, 3800, 4096, 62.0, 300 * SECOND, True, 286 * SECOND),
           Descriptors(1, "systemd", 1, 120, None, 0.0, 300 * SECOND),
           Descriptors(7, HOSTILE[0], None, 12, 1024)]
    mounts = [MountEvent(at, "mounted", source="nfs:/x", target="/mnt/x", fstype="nfs4"),
              MountEvent(at, "mount", 9, "mount", 1, "/dev/vdb", "/data", "ext4", "MS_NOATIME",
                         "ENOENT")]
    if not watched:
        return Files(threshold_ns=10_000_000, descriptors=fds, mounts=mounts, cache=cache,
                     descriptors_host=4821, descriptors_max=1 << 20)
    rows = [FileRow(path, "254:0", 100 + i, make_ops(900 / (i + 1), 4 if "nfs" in path else 1, i),
                    "nfs4" if "nfs" in path else "proc" if "proc" in path else "ext4", i == 3)
            for i, path in enumerate(PATHS)]
    rows.append(FileRow(None, "0:52", 77, make_ops(1)))
    slow = [SlowOp(at - i, 130, "postgres", 2, "fdatasync", 80_000_000 + i, PATHS[0], "ext4")
            for i in range(3)]
    slow.append(SlowOp(at, 131, HOSTILE[2], 6, "pread64", 15_000_000, None, None, None, "EIO"))
    opens = [OpenEvent(at, 200, "worker", 4, "/etc/app/missing.conf", "O_RDONLY|O_CLOEXEC",
                       error="ENOENT"),
             OpenEvent(at, 201, HOSTILE[1], 6, f"./{HOSTILE[4]}", "O_RDWR|O_CREAT", fd=12)]
    folds = [OpenFold("worker", "/etc/app/missing.conf", "ENOENT", 5540, 5540.0, 200, 1),
             OpenFold("worker", None, None, 3, 3.0, 200, 2),
             OpenFold("worker", None, None, 3, 3.0, 200, 3)]
    return Files(
        watched=True, threshold_ns=10_000_000, host=make_ops(1500), rows=rows, rows_cut=12,
        processes=[FileProcess(130, "postgres", make_ops(800), 2),
                   FileProcess(131, HOSTILE[0], make_ops(5), None)],
        filesystems=[FileSystem("254:0", make_ops(900), "ext4", "/", "/dev/vda"),
                     FileSystem("0:52", make_ops(5, 20), "nfs4", None, None)],
        slow=slow, slow_total=42, opens=opens, opens_cut=7, opens_failed_per_s=92.0, folds=folds,
        descriptors=fds, descriptors_host=4821, descriptors_max=1 << 20, mounts=mounts, cache=cache)


def stream(n: int, watched: bool = True) -> list[Frame]:
    frames = [make_frame(seq) for seq in range(1, n + 1)]
    for frame in frames:
        frame.files = make_files(frame.seq, watched)
    return frames


# -- records ---------------------------------------------------------------------------------------


def event(**values: object) -> bytes:
    fields = dict.fromkeys(Record._fields, 0) | {
        "file": bytes(16), "comm": b"cat", "fstype": b""} | values
    return fl.EVENT_STRUCT.pack(*fields.values())


def test_field_order_is_the_layouts():
    assert list(Record._fields) == [name for name, _ in fl.EVENT]
    assert list(FdRecord._fields) == [name for name, _ in fl.FDS]


def test_names_are_joined_from_the_file_upward():
    assert joined(b"f\0b\0a\0", True) == b"/a/b/f"
    assert joined(b"f\0b\0", False) == b".../b/f"
    assert joined(b"", True) == b"/"


def test_a_slow_operation_has_the_path_of_its_file():
    events = FileEvents({17: "pread64", 74: "fsync"})
    key = fl.KEY_STRUCT.pack(5, 1, 0)
    events.take([
        event(kind=fl.EVENT_NAME, file=key, base_whole=1, fstype=b"fuse".ljust(16, b"\0") + b"s3fs")
        + bytes(fl.TEXT) + b"\x1b[31m\0dir\0",
        event(kind=fl.EVENT_SLOW, file=key, tgid=9, nr=17, ret=512, latency_ns=7, time_ns=100),
        event(kind=fl.EVENT_SLOW, file=key, tgid=9, nr=74, ret=0, latency_ns=8),
        event(kind=fl.EVENT_SLOW, file=bytes(16), tgid=9, nr=17, ret=-5, latency_ns=9)])
    (a, b, c), cut = events.slow(1000, 10)
    assert (a.op, a.path, a.fstype, a.bytes, a.time_ns) == (
        "pread64", "/dir/\\e[31m", "fuse.s3fs", 512, 1100)
    assert (b.op, b.bytes) == ("fsync", None)
    assert (c.path, c.error, c.bytes, cut) == (None, "EIO", None, 0)
    assert events.slow(0, 10) == ([], 0)


@pytest.mark.parametrize(("asked", "base", "whole", "shown"), [
    (b"/abs\0", b"", 0, "/abs"), (b"rel\0", b"d\0top\0", 1, "/top/d/rel"),
    (b".//rel\0", b"d\0", 1, "/d/rel"), (b".\0", b"d\0", 1, "/d"), (b"rel\0", b"", 0, "./rel"),
    (b"rel\0", b"", 1, "/rel"), (b"rel\0", b"d\0", 0, ".../d/rel"), (b"", b"", 0, "(unreadable)"),
    (b"x" * fl.TEXT, b"", 0, "./" + "x" * fl.TEXT + "…")])
def test_the_path_of_an_open(asked, base, whole, shown):
    events = FileEvents({})
    events.take([event(kind=fl.EVENT_OPEN, text_len=len(asked), base_whole=whole, ret=-2)
                 + asked.ljust(fl.TEXT, b"\0") + base])
    (found,) = events.opens(0, 10)
    assert (found.path, found.error, found.fd) == (shown, "ENOENT", None)


def test_flags_by_name():
    assert open_flags(0o2000000) == "O_RDONLY|O_CLOEXEC"
    assert open_flags(0o4010101) == "O_WRONLY|O_CREAT|O_SYNC"
    assert open_flags(0o20200002) == "O_RDWR|O_DIRECTORY|O_TMPFILE"
    assert mount_flags("mount", 0xC0ED0000 | 1 | 4096) == "MS_RDONLY|MS_BIND"
    assert mount_flags("umount2", 2) == "MNT_DETACH"
    assert mount_flags("fsopen", 1) == ""
    assert device((254 << 20) | 3) == "254:3"


def table(entries: list[tuple[bytes, bytes]], key: int, value: int) -> Table:
    return Table(b"".join(k for k, _ in entries), b"".join(v for _, v in entries), len(entries),
                 key, value)


def folded(*entries: tuple[bytes, int, int, int]) -> Table:
    """(key, opens, when last, when first)"""
    return table([(key, fl.OPEN_FOLD_STRUCT.pack(n, last, first, 7, 9, 1, n > 30, 0))
                  for key, n, last, first in entries],
                 fl.OPEN_KEY_STRUCT.size, fl.OPEN_FOLD_STRUCT.size)


def test_folds_count_what_the_kernel_counted():
    folds = OpenFolds()
    key = fl.OPEN_KEY_STRUCT.pack(1, b"cat", -2, 0)
    folds.begin(SECOND)
    folds.update(folded((key, 10, SECOND, SECOND)), SECOND)
    folds.update(folded((key, 40, 30 * SECOND, SECOND)), 31 * SECOND)
    folds.update(folded((key, 40, 30 * SECOND, SECOND)), 32 * SECOND)
    folds.update(folded((key, 45, 60 * SECOND, 50 * SECOND)), 61 * SECOND)  # dropped, made again
    (row,), cut = folds.rows(61 * SECOND, {key: "/x"}, 10)
    assert (row.count, row.per_min, row.path, row.error, cut) == (75, 75.0, "/x", "ENOENT", 0)
    assert (row.cgroup, row.pid, row.shared) == (7, 9, True)
    folds.update(folded(), 200 * SECOND)
    assert folds.rows(200 * SECOND, {}, 10) == ([], 0)
    folds.begin(300 * SECOND)
    folds.update(folded((key, 48, 301 * SECOND, 50 * SECOND)), 301 * SECOND)
    assert [(r.count, r.per_min) for r in folds.rows(302 * SECOND, {}, 10)[0]] == [(3, 90.0)]


def test_a_storm_of_new_paths_is_bounded():
    folds = OpenFolds()
    folds.begin(SECOND)
    keys = [fl.OPEN_KEY_STRUCT.pack(i, b"cat", 0, 0) for i in range(3 * FOLDS_PER_TICK)]
    folds.update(folded(*((key, 1 + (i == 5), SECOND, SECOND) for i, key in enumerate(keys))),
                 SECOND)
    rows, cut = folds.rows(2 * SECOND, {}, 10)
    assert (rows[0].fold, rows[0].count, len(rows)) == (5, 2, 10)
    assert cut == FOLDS_PER_TICK - 10


# -- counters --------------------------------------------------------------------------------------


def stat(reads: int, ns: int, longest: int, epoch: int, before: tuple[int, int] = (0, 0),
         born: int = 1) -> bytes:
    return fl.STAT_STRUCT.pack(
        reads, 0, 0, 0, 0, 0, 0, 0, ns, 0, 0, 0, reads * 10, 0, longest, 0, 0, 0,
        before[0], 0, 0, 0, epoch, before[1], born, 0, 7, b"cat")


def use_key(ino: int, pid: int) -> bytes:
    return fl.USE_STRUCT.pack(fl.KEY_STRUCT.pack(ino, (8 << 20) | 1, 0), pid, 0)


def slots(bucket: int, n: int) -> bytes:
    return struct.pack(f"@{3 * HIST_SLOTS}I", *(n if i == bucket else 0
                                                for i in range(3 * HIST_SLOTS)))


class Uprobed:
    """Uses, fed by hand."""

    def __init__(self) -> None:
        self.uses = Uses()

    def tick(self, epoch: int, *entries: tuple[int, int, bytes, bytes | None], most: int = 10):
        stats = [(use_key(ino, pid), value) for ino, pid, value, _ in entries]
        hists = [(use_key(ino, pid), h) for ino, pid, _, h in entries if h is not None]
        return self.uses.update(
            table(stats, fl.USE_STRUCT.size, fl.STAT_STRUCT.size),
            table(hists, fl.USE_STRUCT.size, 4 * 3 * HIST_SLOTS), epoch, SECOND, most,
            lambda pid: None)


def test_counters_are_differences_with_the_interval_s_own_maximum():
    fed = Uprobed()
    fed.tick(1, (5, 3, stat(3, 300, 200, 1), slots(9, 0)))
    # touched again since the epoch ended
    (row,), _, (use,), _ = fed.tick(2, (5, 3, stat(5, 900, 50, 3, (400, 2)), slots(9, 2)))
    assert (row.ops.reads_per_s, row.ops.read_bytes_per_s, row.ops.inside) == (2.0, 20.0, 6e-7)
    assert row.ops.read == Hist({9: 2}, 600, 400)
    assert (use.pid, use.dev, use.ino, use.cgroup, use.comm) == (3, "8:1", 5, 7, "cat")
    assert use.ops == row.ops
    assert fed.tick(3, (5, 3, stat(5, 900, 50, 3, (400, 2)), slots(9, 2))) == ([], 0, [], 0)
    # counted after the tick that its epoch belongs to: not lost
    (row,), *_ = fed.tick(4, (5, 3, stat(6, 901, 50, 3, (400, 2)), slots(9, 3)))
    assert (row.ops.reads_per_s, row.ops.read) == (1.0, Hist({9: 1}, 1, None))
    # dropped, and made again, with more than it had
    (row,), *_ = fed.tick(9, (5, 3, stat(9, 970, 70, 9, born=8), slots(9, 9)))
    assert row.ops.reads_per_s == 9.0


def test_a_file_is_the_sum_of_its_users():
    fed = Uprobed()
    entries = [(ino, pid, stat(pid, 100 * pid, 100 * pid, 1), slots(4, pid) if pid < 3 else None)
               for ino in (5, 6) for pid in (1, 2, 3)]
    rows, cut, uses, uses_cut = fed.tick(1, *entries, (7, 1, stat(1, 1, 1, 1), None), most=2)
    assert (cut, uses_cut, len(uses)) == (1, 5, 2)
    assert {use.pid for use in uses} == {3}
    for row in rows:
        assert (row.ops.reads_per_s, row.ops.read_bytes_per_s, row.ops.inside) == (6, 60, 6e-7)
        assert row.ops.read == Hist({4: 3}, 300, 200)  # of the two of which one is kept


def test_processes_and_filesystems_are_sums_of_the_same():
    shares = Shares()
    entries = [(fl.SHARE_STRUCT.pack(pid, dev), stat(pid + dev, 10 * pid, 9, 1) + slots(2, 1)
                + bytes(4)) for pid in (1, 2, 3) for dev in (0, 21, 22)]
    made = table(entries, fl.SHARE_STRUCT.size, fl.STAT_STRUCT.size + 4 * 3 * HIST_SLOTS + 4)
    shares.update(made, 1, SECOND, 2, lambda pid: None)
    assert [(p.pid, p.ops.reads_per_s) for p in shares.processes] == [(3, 52.0), (2, 49.0)]
    assert shares.processes_cut == 1
    assert {(f.dev, f.ops.reads_per_s) for f in shares.filesystems} == {
        ("0:21", 69.0), ("0:22", 72.0)}
    assert [(s.cgroup, s.dev, s.ops.reads_per_s) for s in shares.shares if s.pid is None] == [
        (7, None, 1.0), (7, "0:21", 22.0), (7, "0:22", 23.0)]
    total = sum(s.ops.reads_per_s or 0 for s in shares.shares)
    assert total == shares.done == 147
    assert sum(hist.count(s.ops.read) for s in shares.shares if s.ops.read) == 9


def test_without_an_interval_there_are_no_rates():
    change = HostTotals().update([stat(4, 10, 10, 1) + bytes(8 * 4 * HIST_SLOTS)], 1, None)
    assert change.reads_per_s is None and change.inside is None


def test_a_histogram_made_again_begins_at_zero():
    assert histogram((1, 0), (5, 0), 9, 0) == Hist({0: 1}, 9, None)
    assert histogram((1, 0), (1, 0), 9, 0) is None
    assert histogram((0, 2), None, 9, 5) == Hist({1: 2}, 9, 5)


# -- descriptors, mounts ---------------------------------------------------------------------------


def track(counts: list[int], step: int = 2 * SECOND) -> tuple[float | None, int, bool]:
    found = Track(0, counts[0])
    for i, count in enumerate(counts):
        found.add(i * step, count)
    return found.growth((len(counts) - 1) * step)


def test_a_leak_is_steady_growth():
    growth, window, steady = track(list(range(10, 210, 2)))
    assert steady and growth == pytest.approx(60) and window == 198 * SECOND
    assert not track([10 + i % 7 for i in range(100)])[2]      # up and down
    assert not track([10] * 50 + [90] * 50)[2]                 # one step
    assert not track([*range(10, 110), *range(110, 60, -1)])[2]  # falls back
    assert track([10, 11])[0] is None                          # too early to say
    assert track([10] * 30)[:1] == (0.0,)
    assert left_ns(3800, 4096, 62.0) == pytest.approx(296 / 62 * 60 * SECOND)
    assert left_ns(10, None, 5.0) is None and left_ns(10, 20, 0.0) is None


def test_a_leak_is_known_after_four_even_steps_and_a_start_is_none():
    assert track([10, 12, 14, 17, 19], SECOND) == (pytest.approx(135), 4 * SECOND, True)
    assert not track([10, 60, 80, 90, 93], SECOND)[2]        # a burst that ebbs away
    assert not track([10, 11, 12, 13], SECOND)[2]            # too few
    assert not track([10, 12, 14, 17, 19, 19], SECOND)[2]    # it has stopped
    # One that has run for long: it never fell back, or it comes and goes.
    assert track([50] * 200 + [52, 54, 56, 58], SECOND)[2]
    assert not track([50, 51, 50] * 60 + [52, 54, 56, 58], SECOND)[2]


def test_a_leak_that_has_stopped_is_none():
    grown = list(range(10, 110))
    assert track(grown, SECOND)[2] and not track([*grown, *[109] * 7], SECOND)[2]


def test_a_long_leak_keeps_few_changes():
    found = Track(0, 0)
    for i in range(3000):
        found.add(i * SECOND, i)
    assert len(found.changes) <= 128
    assert found.growth(2999 * SECOND)[0] == pytest.approx(60, rel=0.05)


def test_mountinfo_with_escapes_and_optional_fields():
    raw = (b"36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 shared:2 - ext3 /dev/root rw\n"
           b"37 35 0:5 / /a\\012b rw - tmpfs none rw\nbroken line\n")
    a, b = parse(raw)
    assert (a.number, a.dev, a.root, a.target, a.fstype, a.source) == (
        36, "98:0", "/mnt1", "/mnt 2", "ext3", "/dev/root")
    assert b.target == "/a\\nb"


# -- the pane --------------------------------------------------------------------------------------


async def show(app: PaneApp, pilot, frames, view: str = "files") -> None:
    await app.feed(pilot, frames)
    while app.pane.view != view:
        app.pane.action_view()
    await pilot.pause()
    app.pane.show(frames[-1], app.history)
    await pilot.pause()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("view", VIEWS)
async def test_every_view_fits_every_size(view, size):
    for frames in (stream(3), stream(2, watched=False), [bare_frame()]):
        app = PaneApp(FilesPane)
        async with app.run_test(size=size) as pilot:
            await show(app, pilot, frames, view)
            lines = picture(app)
            assert {cell_len(line) for line in lines} == {size[0]}
            assert not any(c in line for line in lines for c in "\x1b\n\x07\u202e")


async def test_every_column_is_in_the_help_and_no_key_is_taken():
    app = PaneApp(FilesPane)
    async with app.run_test(size=(80, 24)):
        words = app.pane.help_text().split("\n")
        for table in app.pane.query(VirtualTable):
            for column in table.columns:
                assert any(line.startswith(f"  {column.title}") for line in words), column.title
        assert max(map(len, words)) <= 76
    assert not RESERVED & {binding.key for binding in FilesPane.BINDINGS}


async def test_what_an_engineer_reads_first():
    app = PaneApp(FilesPane)
    async with app.run_test(size=(80, 24)) as pilot:
        await show(app, pilot, stream(3))
        assert "000000010000000200000047" in text(app)  # the end of a path is kept
        assert "1.5k rd/s" in text(app)
        await show(app, pilot, stream(3), "slow")
        assert "80ms" in text(app) and "fdatasync" in text(app) and "10ms and more" in text(app)
        await show(app, pilot, stream(3), "opens")
        assert "ENOENT" in text(app) and "/etc/app/missing.conf" in text(app)
        await show(app, pilot, stream(3), "fds")
        first = next(line for line in picture(app) if "java" in line)
        assert "92.8" in first and "+62" in first and "4m46s" in first
        await show(app, pilot, stream(3), "mounts")
        assert "900M dirty 87.9% of the 1.0G" in text(app)
        assert "38.0" in text(app)
        assert "ENOENT" in text(app)


async def test_nobody_looked_is_said_not_shown_as_nothing():
    frames = stream(2, watched=False)
    app = PaneApp(FilesPane)
    async with app.run_test(size=(120, 40)) as pilot:
        await show(app, pilot, frames)
        assert "no file operations" in text(app)
        await show(app, pilot, frames, "mounts")
        assert "by whom is not known" in text(app) and "nfs:/x" in text(app)
        await show(app, pilot, frames, "fds")
        assert "java" in text(app)


async def test_the_histogram_follows_the_cursor():
    app = PaneApp(FilesPane)
    async with app.run_test(size=(120, 40)) as pilot:
        await show(app, pilot, stream(3))
        assert "Latency of" in text(app) and " of …" not in text(app)
        await pilot.press("down")
        await pilot.pause()
        assert "0000000200000047" in next(line for line in picture(app) if "Latency of" in line)
        await pilot.press("escape")
        await pilot.pause()
        assert "0000000200000047" not in next(
            line for line in picture(app) if "Latency of" in line)


async def test_the_threshold_keys_ask_the_collector():
    asked = []

    class App(PaneApp):
        def on_pane_ask(self, message):
            asked.append(message.wish.thresholds)

    app = App(FilesPane)
    async with app.run_test(size=(80, 24)) as pilot:
        await show(app, pilot, stream(2), "slow")
        for key in ("left_parenthesis", "left_parenthesis", "right_parenthesis"):
            await pilot.press(key)
        await pilot.pause()
        assert asked == [{"files": 5_000_000}, {"files": 2_500_000}, {"files": 5_000_000}]
        assert "5.0ms and more" in text(app)


async def test_ascii_is_ascii():
    theme.use_ascii(True)
    for view in VIEWS:
        app = PaneApp(FilesPane)
        async with app.run_test(size=(120, 40)) as pilot:
            await show(app, pilot, stream(3), view)
            assert text(app).isascii()


def test_the_end_of_a_path_in_cells():
    assert tail("/a/b", 10) == "/a/b"
    assert tail("/aaaa/bbbb", 6) == "…/bbbb"
    assert cell_len(tail("/数据库/表", 6)) <= 6 and tail("/数据库/表", 6).endswith("/表")


def test_the_operation_that_takes_most_time():
    ops = make_ops()
    assert dominant(ops)[0] == "fsync"
    assert dominant(FileOps()) == ("read", None)
