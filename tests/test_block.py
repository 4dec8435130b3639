"""The block layer without a kernel: limits, diskstats, sysfs, records, and the pane."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from test_panes import PaneApp, picture, text

from ktop import hist
from ktop.bpf import block_layer as bl
from ktop.bpf.layout import HIST_SLOTS, TASK_HIST_SLOTS
from ktop.collect import block_records as rec
from ktop.collect.block_disks import Disks, look, parse
from ktop.collect.block_limits import parse_limit
from ktop.model import Frame, Hist, Probe
from ktop.model_block import Block, BlockOp, BlockUser, Device, Limit, SlowIo
from ktop.panes.base import Pane
from ktop.panes.block import VIEWS, BlockPane
from ktop.panes.block_columns import headroom
from tests.frames import SECOND, bare_frame, make_frame, make_hist

# -- what a volume is sold as ---------------------------------------------------------------------


def test_limits():
    assert parse_limit("vda=3000iops,125MBps") == Limit("vda", 3000.0, 125e6)
    assert parse_limit("/dev/nvme0n1 = 16k iops") == Limit("nvme0n1", 16000.0, None)
    assert parse_limit("sdb=1.5GiB/s") == Limit("sdb", None, 1.5 * 2**30)
    assert parse_limit("eth0=100kpps,1Gbit/s") == Limit("eth0", None, 125e6, 100e3)


@pytest.mark.parametrize("wrong", ["", "vda", "vda=", "=3000iops", "vda=3000", "vda=fast",
                                   "vda=0iops", "vda=1iops,2iops", "vda=125Mbps", "vda=1Mbps",
                                   "v da=1iops", "vda=1iops,", "vda=\x1b[31m"])
def test_a_wrong_limit_is_one_line(wrong):
    with pytest.raises(ValueError, match="--limit") as err:
        parse_limit(wrong)
    assert "\n" not in str(err.value) and "\x1b" not in str(err.value)
    assert len(str(err.value)) < 200


# -- /proc/diskstats and sysfs --------------------------------------------------------------------

DISKSTATS = """\
 254       0 vda 100 5 800 50 200 10 4000 300 2 400 350 7 1 64 9 30 12
 254       1 vda1 90 5 700 45 200 10 4000 300 0 400 345
   7       0 loop0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0
"""


def sysfs(root: Path, name: str, **files: str) -> None:
    for key, value in {"size": "2048", **files}.items():
        path = root / name / key.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value + "\n")


def test_diskstats_of_old_and_new_kernels():
    found = parse(DISKSTATS)
    dev, vda = found["vda"]
    assert dev == 254 << 20 and (vda.reads, vda.write_sectors, vda.in_flight) == (100, 4000, 2)
    assert (vda.queue_ms, vda.discards, vda.flushes) == (350, 7, 30)
    assert found["vda1"][1].flushes == 0  # before 4.18 there are 14 fields


def test_devices_are_what_they_are(tmp_path):
    sysfs(tmp_path, "vda", queue__scheduler="none [mq-deadline] bfq", queue__rotational="1")
    sysfs(tmp_path, "loop0", loop__backing_file="/srv/\x1b[31mimage")
    sysfs(tmp_path, "dm-0", dm__name="vg-root", dm__uuid="LVM-abc", slaves__vda3="")
    sysfs(tmp_path, "dm-1", dm__name="secret", dm__uuid="CRYPT-LUKS2-x", slaves__sdb="")
    sysfs(tmp_path, "md0", md__level="raid1", slaves__sdb="", slaves__sdc="")
    sysfs(tmp_path, "zram0")
    sysfs(tmp_path, "nvme0c0n1", hidden="1")
    sysfs(tmp_path, "ramdisk7", queue__iostats="0")
    kinds = {name: look(name, str(tmp_path)) for name in (
        "vda", "loop0", "dm-0", "dm-1", "md0", "zram0", "nvme0c0n1", "ramdisk7")}
    assert {name: (k.kind, k.counted) for name, k in kinds.items()} == {
        "vda": ("disk", True), "loop0": ("loop", False), "dm-0": ("lvm", False),
        "dm-1": ("crypt", False), "md0": ("raid1", False), "zram0": ("zram", False),
        "nvme0c0n1": ("disk", False), "ramdisk7": ("disk", True)}
    assert kinds["vda"].scheduler == "mq-deadline" and kinds["vda"].rotational is True
    assert kinds["loop0"].what == "/srv/\\e[31mimage"
    assert kinds["md0"].slaves == ["sdb", "sdc"] and kinds["dm-0"].what == "vg-root"
    assert not kinds["ramdisk7"].iostats
    assert look("gone", str(tmp_path)).size_bytes is None


def test_rates_between_two_reads(tmp_path):
    stats = tmp_path / "diskstats"
    stats.write_text(DISKSTATS)
    sysfs(tmp_path, "vda")
    sysfs(tmp_path, "vda1")
    sysfs(tmp_path, "loop0", size="0")
    disks = Disks(str(stats), str(tmp_path))
    first = {d.name: d for d in disks.rows(0, None)}
    assert set(first) == {"vda", "vda1"}  # an unused loop device is none
    assert first["vda"].reads_per_s is None and first["vda"].in_flight == 2
    stats.write_text(DISKSTATS.replace(
        "vda 100 5 800 50 200 10 4000 300 2 400 350",
        "vda 300 5 2400 150 200 10 4000 300 0 500 950"))
    vda = next(d for d in disks.rows(SECOND, 2 * SECOND) if d.name == "vda")
    assert (vda.reads_per_s, vda.writes_per_s) == (100.0, 0.0)
    assert vda.read_bytes_per_s == 1600 * 512 / 2
    assert vda.util_pct == 5.0 and vda.queue == pytest.approx(0.3)
    assert vda.read_ns == 500_000 and vda.write_ns is None
    assert (vda.best_iops, vda.best_bytes_per_s) == (100.0, 1600 * 512 / 2)
    stats.write_text(DISKSTATS)  # the device went and came back
    vda = next(d for d in disks.rows(2 * SECOND, SECOND) if d.name == "vda")
    assert vda.reads_per_s is None and vda.best_iops == 100.0


@pytest.mark.parametrize("requests", [True, False])
def test_a_mapping_counts_whatever_iostats_says(tmp_path, requests):
    """Older kernels (6.1) count bios of devices whose iostats say 0; requests none does."""
    stats = tmp_path / "diskstats"
    sysfs(tmp_path, "dm-0", dm__name="slow", queue__iostats="0", **(
        {"mq__0": ""} if requests else {}))
    disks = Disks(str(stats), str(tmp_path))
    seen = []
    for reads in (100, 100, 130, 130):
        stats.write_text(f" 254 0 dm-0 {reads} 0 800 50 0 0 0 0 1 400 350\n")
        (row,) = disks.rows(len(seen) * SECOND, SECOND)
        seen.append((row.reads_per_s, row.in_flight))
    counted = [(None, None), (None, None), (30.0, 1), (0.0, 1)]
    assert seen == ([(None, None)] * 4 if requests else counted)


def test_iostats_switched_off_are_unknown_at_once(tmp_path):
    """What moved before it was off does not say that it counts."""
    stats = tmp_path / "diskstats"
    disks = Disks(str(stats), str(tmp_path))
    seen = []
    for reads, on in ((100, "1"), (120, "0"), (120, "0")):
        sysfs(tmp_path, "dm-0", dm__name="slow", queue__iostats=on)
        stats.write_text(f" 254 0 dm-0 {reads} 0 800 50 0 0 0 0 1 400 350\n")
        (row,) = disks.rows(20 * len(seen) * SECOND, SECOND)  # each is looked at anew
        seen.append(row.reads_per_s)
    assert seen == [None, None, None]


# -- the programs' records ------------------------------------------------------------------------


def op_value(requests: int, each_ns: int, epoch: int, longest: int) -> bytes:
    slot = hist.slot(each_ns)
    counts = [requests if i == slot else 0 for i in range(HIST_SLOTS)]
    two = [0] * 8
    two[4 * (epoch & 1):4 * (epoch & 1) + 4] = [epoch, longest // 2, longest // 2, longest]
    return bl.OP_STRUCT.pack(requests, requests * 4096, 1, 0, 0, 0, 0, requests * each_ns, *two,
                             *([0] * HIST_SLOTS), *counts, *counts)


def test_operations_are_differences():
    ops, key = rec.Ops(), struct.pack("@II", 254 << 20, 0)
    assert ops.update([(key, memoryview(op_value(10, 50_000, 0, 60_000)))], 0, None) == {}
    rows = ops.update([(key, memoryview(op_value(30, 50_000, 1, 52_000)))], 1, 2 * SECOND)
    (read,) = rows[254 << 20]
    assert (read.op, read.per_s, read.bytes_per_s, read.errors_per_s) == ("read", 10.0, 40960.0, 0)
    assert read.queue is None and read.total is not None
    assert hist.count(read.total) == 20 and read.total.sum_ns == 20 * 50_000
    assert read.total.max_ns == 52_000
    (read,) = ops.update([(key, memoryview(op_value(30, 50_000, 1, 52_000)))], 2, SECOND)[254 << 20]
    assert read.total is None and read.per_s == 0  # idle: nothing, and no percentile of it
    (read,) = ops.update([(key, memoryview(op_value(40, 50_000, 2, 52_000)))], 3, SECOND)[254 << 20]
    assert read.total is not None and read.total.max_ns is None  # the longest is of another tick


def proc_value(reads: int, slot: int, born: int = 1, syncs: int = 0) -> memoryview:
    counts = [reads if i == slot else 0 for i in range(TASK_HIST_SLOTS)]
    none = [0] * TASK_HIST_SLOTS
    others = [syncs if i == 5 else 0 for i in range(TASK_HIST_SLOTS)]
    return memoryview(bl.PROC_STRUCT.pack(
        reads, 0, 0, syncs, reads * 512, 0, 0, 0, reads * 1000, 0, 0, syncs * 10, 0, 0, 0, syncs,
        born, *counts, *none, *others, b"evil\x1b[2J\0"))


def who(pid: int = 42, dev: int = 8 << 20, cgroup: int = 7) -> bytes:
    return struct.pack("@QII", cgroup, pid, dev)


def name_of(dev: int) -> str:
    return f"sd{dev & 0xF}"


def test_users_come_go_and_are_forgotten():
    users, key = rec.Users(), who()
    assert users.update([(key, proc_value(5, 3))], None, name_of) == []
    (row,) = users.update([(key, proc_value(9, 3))], SECOND, name_of)
    assert (row.pid, row.cgroup, row.device, row.reads_per_s, row.read_ns) == (
        42, 7, "sd0", 4.0, 1000.0)
    assert row.comm == "evil\\e[2J" and row.latency is None
    assert row.read is not None and row.read.counts == {3: 4}
    assert users.update([(key, proc_value(9, 3))], SECOND, name_of) == []
    (row,) = users.update([(key, proc_value(20, 3, born=2))], SECOND, name_of)  # evicted and back
    assert row.reads_per_s == 20.0
    (row,) = users.update([(key, proc_value(20, 3, born=2, syncs=3))], SECOND, name_of)
    assert (row.others_per_s, row.syncs_per_s, row.errors_per_s) == (3.0, 3.0, 3.0)
    assert row.read is None and row.other == Hist({5: 3}, 30)


def test_users_taken_out_of_the_map_are_told_of_once():
    users, key = rec.Users(), who()
    users.update([(key, proc_value(5, 3))], None, name_of)
    taken = [(key, bytes(proc_value(5, 3)))]
    assert users.update([], SECOND, name_of, taken) == []
    (row,) = users.update([(key, proc_value(2, 3, born=2))], SECOND, name_of)
    assert row.reads_per_s == 2.0 and users.moved == [key]
    # one more just before it was taken, and again before the read
    taken = [(key, bytes(proc_value(3, 3, born=2)))]
    rows = users.update([(key, proc_value(4, 3, born=3))], SECOND, name_of, taken)
    assert [row.reads_per_s for row in rows] == [1.0, 4.0]
    assert users.update([(key, proc_value(4, 3, born=3))], SECOND, name_of) == []
    assert users.moved == []


def test_users_are_folded_by_process_and_by_cgroup():
    users = rec.Users()
    users.update([], None, name_of)
    rows = users.update([(who(pid, dev), proc_value(pid, 3)) for pid in (1, 2, 3)
                         for dev in (1, 2)], SECOND, name_of)
    found = rec.by_process(rows)
    assert [(u.pid, u.device, u.reads_per_s, u.read_ns) for u in found] == [
        (1, None, 2.0, 1000.0), (2, None, 4.0, 1000.0), (3, None, 6.0, 1000.0)]
    assert found[2].latency == Hist({3: 6}, 6000) and found[2].read is None
    (group,) = rec.by_cgroup(rows)
    assert (group.pid, group.comm, group.reads_per_s, group.latency) == (
        None, "", 12.0, Hist({3: 12}, 12_000))
    left = [row for row in rec.rest(rows, found[2:]) if row.pid is None]
    assert [(u.device, u.reads_per_s, u.read) for u in left] == [
        ("sd1", 3.0, Hist({3: 3}, 3000)), ("sd2", 3.0, Hist({3: 3}, 3000))]


def test_a_slow_request():
    raw = bl.SLOW_STRUCT.pack(1000, 1, 2, 3, 7, 2048, 8 << 20, 8 << 20 | 1, 1, 1 << 11 | 1 << 12,
                              4096, 42, 10, bl.SLOW_OWNED | bl.SLOW_DIVIDED, b"pg\0")
    row = rec.slow_row(raw, 5, lambda dev: f"dev{dev & 0xFF}")
    assert row == SlowIo(time_ns=1005, device="dev0", op="write", sector=2048, bytes=4096,
                         total_ns=3, part="dev1", queue_ns=1, device_ns=2, pid=42, comm="pg",
                         cgroup=7, flags="sync meta", error="EIO")
    raw = bl.SLOW_STRUCT.pack(0, 0, 0, 3, 0, 0, 8 << 20, 8 << 20, 77, 0, 0, 0, -5, 0, b"")
    row = rec.slow_row(raw, 0, str)
    assert (row.op, row.error) == ("op 77", "EIO")
    assert (row.pid, row.queue_ns, row.part) == (None, None, None)


# -- the pane -------------------------------------------------------------------------------------


def make_block(seq: int, slow: int = 2) -> Block:
    """A bimodal log disk, an idle one, a mapping, and who uses them."""
    def op(name: str, rate: float, center: float, tail: float = 0.0) -> BlockOp:
        h = make_hist(int(rate), center, tail, seed=seq)
        return BlockOp(name, rate, rate * 8192, 0.0, make_hist(int(rate), 3_000, 0.0), h, h)

    devices = [
        Device("vda", 254 << 20, counted=True, size_bytes=256 << 30, rotational=False,
               scheduler="mq-deadline", reads_per_s=900, writes_per_s=2100, flushes_per_s=40,
               discards_per_s=0, merges_per_s=3, read_bytes_per_s=900 * 8192,
               write_bytes_per_s=2100 * 8192, in_flight=3, util_pct=71, queue=2.5, concurrency=2.4,
               read_ns=2e5, write_ns=9e5, limit=Limit("vda", 3200, 125e6), best_iops=4100,
               best_bytes_per_s=90e6,
               ops=[op("read", 900, 200_000), op("write", 2100, 400_000, 0.02),
                    op("flush", 40, 800_000)]),
        Device("vda1", 254 << 20 | 1, kind="partition", parent="vda", size_bytes=250 << 30,
               reads_per_s=900, writes_per_s=2100, util_pct=71.0),
        Device("sdb", 8 << 20, counted=True, size_bytes=1 << 40, reads_per_s=0, writes_per_s=0,
               util_pct=0, queue=0, in_flight=0),
        Device("dm-0", 253 << 20, kind="lvm", what="vg-log", slaves=["vda1"], reads_per_s=900,
               writes_per_s=2100, size_bytes=100 << 30, util_pct=70)]
    users = [BlockUser(2, 101, "postgres", 800, 2000, 1, 6e6, 1.6e7, 2e5, 9e5,
                       make_hist(2800, 300_000, 0.02)),
             BlockUser(3, 202, "evil\\e[2J", 100, 100, 0, 8e5, 8e5, 2e5, None, None)]
    return Block(
        devices=devices, users=users, groups=[BlockUser(2, None, "", 800, 2000)],
        slow=[SlowIo(seq * SECOND, "vda", "write", 123456 + i, 8192, 62_000_000, "vda1", 1_000_000,
                     61_000_000, 101, "postgres", 2, "sync fua") for i in range(slow)],
        slow_ns=10_000_000, reads_per_s=900, writes_per_s=2100, read_bytes_per_s=7e6,
        write_bytes_per_s=1.7e7, queue=2.5, concurrency=2.4, unowned_per_s=0.0,
        writeback_owner=True)


def block_stream(n: int, **kwargs: int) -> list[Frame]:
    frames = [make_frame(seq) for seq in range(1, n + 1)]
    for frame in frames:
        frame.block = make_block(frame.seq, **kwargs)
        frame.health.probes.append(Probe("block_done", "block", "raw_tp/x", "live"))
    return frames


async def test_one_screen_has_the_whole_story():
    app = PaneApp(BlockPane)
    async with app.run_test(size=(120, 40)) as pilot:
        await app.feed(pilot, block_stream(30))
        shown = text(app)
        assert "limit 3.2k IO/s, in use 93.8%" in shown and "operations nearer" in shown
        assert "3.0k IO/s × 8.0K = 23M/s" in shown and "2.40 under way (kernel: 2.50)" in shown
        assert "Device time: vda write" in shown and "rate x latency 2.40, measured 2.50" in shown
        assert "└╴vda1" in shown and "lvm vg-log on vda1" in shown and "postgres" in shown
        assert "62.0ms" not in shown and "61ms" in shown
        lines = picture(app)
        idle = next(line for line in lines if line.startswith(" sdb"))
        assert idle.split()[1:5] == ["0", "0", "-", "-"]
        heat = lines[next(i for i, x in enumerate(lines) if "the last minute" in x):]
        assert sum("█" in line or "▓" in line for line in heat) >= 2


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (170, 45)])
@pytest.mark.parametrize("view", VIEWS)
async def test_every_view_at_every_size(size, view):
    app = PaneApp(BlockPane)
    async with app.run_test(size=size) as pilot:
        for frames in ([bare_frame()], [make_frame(2)], block_stream(3)):
            app.pane.view = view
            app.pane._arrange()
            await app.feed(pilot, frames)
            lines = picture(app)
            assert {len(line) for line in lines} == {size[0]} and len(lines) == size[1]
            assert "\x1b" not in text(app)
        wanted = {"overview": "Devices", "latency": "Operations on vda", "users": "By process",
                  "groups": "By control group", "slow": "Slow requests"}
        assert wanted[view] in text(app)


async def test_the_histogram_follows_the_cursor():
    app = PaneApp(BlockPane)
    async with app.run_test(size=(120, 40)) as pilot:
        await app.feed(pilot, block_stream(3))
        app.pane.query_one("#ops-table").select("read")
        await pilot.pause()
        assert "Device time: vda read" in text(app)
        await pilot.press("d")
        assert "Queue time: vda read" in text(app)
        await pilot.press("d", "d")
        app.pane.query_one("#users-table").select((101, 2))
        await pilot.pause()
        assert "Requests of postgres (101)" in text(app)
        app.pane.query_one("#devices-table").select("sdb")
        await pilot.pause()
        assert "Operations on sdb" in text(app) and "no requests so far" in text(app)
        app.pane.query_one("#devices-table").select("vda1")
        await pilot.pause()
        assert "requests are counted on the whole disk: vda" in text(app)


async def test_what_is_not_known_apart_is_shown_together():
    app = PaneApp(BlockPane)
    async with app.run_test(size=(120, 40)) as pilot:
        frames = block_stream(3)
        for op in frames[-1].block.devices[0].ops:
            op.device = op.queue = None
        await app.feed(pilot, frames)
        assert "Queue + device: vda write" in text(app)


async def test_parentheses_change_what_is_slow():
    asked: list[dict[str, int] | None] = []

    class Asking(PaneApp):
        def on_pane_ask(self, message: Pane.Ask) -> None:
            asked.append(message.wish.thresholds)

    app = Asking(BlockPane)
    async with app.run_test(size=(120, 40)) as pilot:
        await app.feed(pilot, block_stream(3))
        assert "from 10ms" in text(app)
        await pilot.press("(")
        assert "from 5.0ms" in text(app)
        await pilot.press(")", ")")
        for _ in range(9):
            await pilot.press("(")
        await pilot.pause()
        assert asked[0] == {"block": 5_000_000} and asked[2] == {"block": 20_000_000}
        assert asked[-1] == {"block": 0} and "all  ( ) change" in text(app)
        await pilot.press(")")
        assert "from 100us" in text(app)


async def test_slow_requests_stay_when_their_tick_is_over():
    app = PaneApp(BlockPane)
    async with app.run_test(size=(120, 40)) as pilot:
        frames = block_stream(4)
        frames[-1].block.slow = []
        await app.feed(pilot, frames)
        assert len(app.history.slow_ios()) == 6
        assert text(app).count("vda1     write") == 6


async def test_the_same_frame_again_paints_nothing(monkeypatch):
    app = PaneApp(BlockPane)
    async with app.run_test(size=(120, 40)) as pilot:
        frames = block_stream(5)
        await app.feed(pilot, frames)
        dirty = []
        monkeypatch.setattr("textual.widget.Widget.refresh",
                            lambda self, *regions, **_: dirty.append((self, regions)))
        app.pane.show(frames[-1], app.history)
        assert dirty == []


async def test_every_column_is_in_the_help():
    app = PaneApp(BlockPane)
    async with app.run_test(size=(80, 24)):
        words = app.pane.help_text().split("\n")
        assert max(map(len, words)) <= 76
        for table in app.pane.query("VirtualTable"):
            for column in table.columns:
                assert column.help
                assert any(line.startswith(f"  {column.title}") for line in words), column.title


def test_headroom_is_of_the_nearer_limit():
    vda = make_block(1).devices[0]
    assert headroom(vda) == pytest.approx(93.75)
    vda.limit = Limit("vda", None, 30e6)
    assert headroom(vda) == pytest.approx(100 * 3000 * 8192 / 30e6)
    vda.limit = None
    assert headroom(vda) is None
