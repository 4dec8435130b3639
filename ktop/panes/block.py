"""Block: how long disks make requests wait, in the queue and in the device, and whose they are."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container

from ktop import format as fmt
from ktop import hist, theme
from ktop.model import Frame, Hist
from ktop.model_block import Block, BlockOp, BlockUser, Device
from ktop.panes.base import column_help, paragraph, why_missing
from ktop.panes.block_columns import (
    device_columns,
    group_columns,
    of_op,
    op_columns,
    slow_columns,
    user_columns,
)
from ktop.panes.block_summary import busy, limits, summary
from ktop.panes.views import SlowPane, chart_span, view_keys
from ktop.widgets.columns import Key
from ktop.widgets.heatmap import Heatmap
from ktop.widgets.histogram import Histogram
from ktop.widgets.strips import Line, Piece, Rule, cut
from ktop.widgets.table import VirtualTable

VIEWS = {"overview": ("devices", "hist"), "latency": ("ops", "heat"), "users": ("users",),
         "groups": ("groups",), "slow": ("slow",)}
TIMES = ("device", "queue", "total")
_MOST_ROWS = 7  # of a table that stands above a chart


class BlockPane(SlowPane):
    """Devices, latency by operation now and over time, who does it, and each slow request.

    With the cursor on a device, an operation, a process or a control group, the histogram is of
    that; without one, of the busiest operation of the busiest disk.
    """

    title = "Block"
    key = "4"
    layer = "block"
    BINDINGS: ClassVar[list[BindingType]] = [
        *view_keys("block", "Overview, latency, processes, control groups, slow requests"),
        Binding("d", "times", "Which time", id="block.times",
                tooltip="Histogram of device time, queue time, or both together"),
        Binding("left_parenthesis", "threshold(-1)", "Slow: less", id="block.slow_less",
                key_display="(", tooltip="Halve the threshold of slow requests; below 100us: all"),
        Binding("right_parenthesis", "threshold(1)", "Slow: more", id="block.slow_more",
                key_display=")", tooltip="Double the threshold of slow requests"),
    ]
    views = VIEWS
    big_views: ClassVar = {"overview": ("devices", "ops", "hist", "heat", "users", "slow"),
                           "latency": ("devices", "ops", "hist", "heat"),
                           "users": ("devices", "hist", "heat", "users"),
                           "groups": ("devices", "hist", "heat", "groups"),
                           "slow": ("devices", "slow")}
    titles: ClassVar = {
        "devices": "Devices", "ops": "Operations", "hist": "Device time",
        "heat": "Device time, the last 5 minutes", "users": "By process",
        "groups": "By control group", "slow": "Slow requests"}
    groups: ClassVar = {"left": ("hist", "heat"), "right": ("users", "groups", "slow")}
    split = ("left", "right")
    subjects = ("users", "groups")
    finest_ns, least_ns = 100_000, 0
    DEFAULT_CSS = """
    BlockPane #summary { height: 2; }
    BlockPane.-split #left { margin: 0 1 0 0; }
    """

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.which = "device"
        self._device: Key | None = None   # under the cursor
        self._op: Key | None = None
        self._auto: tuple[str, str] = ("", "")  # the busiest, until it rests
        self._last_parts: set[str] = set()

    def compose(self) -> ComposeResult:
        """A summary, two tables across, and five sections in two columns."""
        yield Line(id="summary")
        yield self._section("devices", VirtualTable(
            device_columns(self._label), lambda d: d.name, frozen=1, sort="util",
            id="devices-table", empty="no block devices"))
        yield self._section("ops", VirtualTable(op_columns(), lambda o: o.op, frozen=1,
                                                id="ops-table"))
        with Container(id="body"):
            with Container(id="left", classes="column"):
                yield self._section("hist", Histogram(id="histogram"))
                yield self._section("heat", Heatmap(id="heatmap"))
            with Container(id="right", classes="column"):
                yield self._section("users", VirtualTable(
                    user_columns(self.names), lambda u: (u.pid, u.cgroup), frozen=1, sort="all",
                    id="users-table"))
                yield self._section("groups", VirtualTable(
                    group_columns(self.names), lambda u: u.cgroup, sort="all", id="groups-table"))
                yield self._section("slow", VirtualTable(
                    slow_columns(self.names), lambda e: e.serial, feed=True, frozen=1,
                    id="slow-table"))

    # -- what is looked at -----------------------------------------------------------------------

    def _label(self, device: Device) -> str:
        if device.parent is None:
            return device.name
        g = theme.glyphs()
        return (g.last if device.name in self._last_parts else g.branch) + device.name

    def chosen(self, block: Block) -> tuple[Device | None, BlockOp | None]:
        """The device and operation in view: the cursor's, else the busiest, until they rest."""
        device = next((d for d in block.devices if d.name == self._device), None)
        if device is None:
            device = next((d for d in block.devices if d.name == self._auto[0] and busy(d)), None)
        if device is None:
            device = max(block.devices, key=lambda d: (
                busy(d), d.counted, d.size_bytes or 0), default=None)
        if device is None:
            return None, None
        op = of_op(device, str(self._op)) if self._op is not None else None
        if op is None and self._auto[0] == device.name:
            op = of_op(device, self._auto[1])
            op = op if op is not None and op.per_s else None
        if op is None:
            op = max(device.ops, key=lambda o: o.per_s, default=None)
        self._auto = (device.name, op.op if op else "")
        return device, op

    def _follow(self, section: str, key: Key | None) -> None:
        if section == "devices":
            self._device, self._subject = key, None
        elif section == "ops":
            self._op, self._subject = key, None
        else:
            super()._follow(section, key)
            return
        self._again()

    def _show_followers(self) -> None:
        self._again()

    # -- each tick -----------------------------------------------------------------------------

    def _about(self, frame: Frame) -> tuple[Block, Device | None, BlockOp | None]:
        block = frame.block or Block()
        return block, *self.chosen(block)

    def _summary(self, block: Block, device: Device | None,
                 _op: BlockOp | None) -> list[list[Piece]]:
        assert self._frame is not None
        return [summary(block, self._frame), limits(device)]

    def _why(self, what: str = "no latency") -> str:
        assert self._frame is not None
        if self._frame.block is None and self._frame.health.source == "bpf":
            return "the block layer's probes are being loaded"
        return why_missing(self._frame, "block_done", what)

    def _show_devices(self, block: Block, _device: Device | None, _op: BlockOp | None) -> None:
        disks = {d.name for d in block.devices if d.parent is None}
        children: dict[Key, list[Device]] = {}
        rows = []
        for device in sorted(block.devices, key=lambda d: d.dev):
            if device.parent in disks:
                children.setdefault(device.parent, []).append(device)
            else:
                rows.append(device)
        self._last_parts = {parts[-1].name for parts in children.values()}
        self._take("devices", min(len(block.devices), _MOST_ROWS))
        counted = sum(1 for d in rows if d.counted)
        note = f"{counted} in the totals" if rows else ""
        if block.devices_cut:
            note += f", {block.devices_cut} not shown"
        self.query_one("#devices-rule", Rule).set(note=note)
        self.query_one("#devices-table", VirtualTable).set_rows(rows, children)

    def _show_ops(self, _block: Block, device: Device | None, _op: BlockOp | None) -> None:
        ops = device.ops if device else []
        self._take("ops", min(max(len(ops), 3), _MOST_ROWS))
        note = ""
        if device is not None and device.concurrency is not None:
            note = (f"rate x latency {fmt.number(device.concurrency)}, "
                    f"measured {fmt.number(device.queue)}")
        self.query_one("#ops-rule", Rule).set(
            f"Operations on {cut(device.name, 16)}" if device else self.titles["ops"])
        self._fill("ops", ops, self._no_requests(device), note)

    def _no_requests(self, device: Device | None) -> str:
        if self._frame is None or self._frame.clock.interval_ns is None:
            return "nothing yet: it takes one full interval"
        live = any(p.name == "block_done" and p.status == "live" for p in self._frame.health.probes)
        if not live or device is None:
            return self._why()
        if device.parent is not None:
            return f"requests are counted on the whole disk: {device.parent}"
        if device.reads_per_s or device.writes_per_s:
            return "it serves without requests of its own: no latency but the mean"
        return "no requests so far"

    def _show_hist(self, block: Block, device: Device | None, op: BlockOp | None) -> None:
        if self._subject is not None:
            found, title = self._subject_hist(block)
            note = "all operations, queue + device"
            empty = "nothing of it ended in this interval"
        else:
            which, found = self.which, getattr(op, self.which) if op else None
            if found is None and op is not None and op.total is not None:
                which, found = "total", op.total  # not known apart
            what = f"{which.capitalize()} time" if which != "total" else "Queue + device"
            title = f"{what}: {cut(device.name, 16)} {op.op}" if device and op else what
            note = "d: other times"
            if found is not None:
                note = f"{fmt.grouped(hist.count(found))} requests  d: other times"
            empty = "none ended in this interval" if op else self._no_requests(device)
            if op is not None and op.per_s and found is None:
                empty = "its times are not known: the queue keeps no statistics"
        self.query_one("#hist-rule", Rule).set(title, note)
        of = self._subject or (device.name if device else "", op.op if op else "", title)
        self.query_one(Histogram).show(found, empty, of=of)

    def _subject_hist(self, block: Block) -> tuple[Hist | None, str]:
        assert self._subject is not None
        section, key = self._subject
        if section == "users":
            for user in block.users:
                if (user.pid, user.cgroup) == key:
                    return user.latency, f"Requests of {cut(user.comm, 16)} ({user.pid})"
            return None, f"Requests of {key[0]}"
        found = next((g for g in block.groups if g.cgroup == key), None)
        name = self.names.cgroup(key if isinstance(key, int) else None)
        return (found.latency if found else None), f"Requests of {cut(name, 20)}"

    def _show_heat(self, _block: Block, device: Device | None, op: BlockOp | None) -> None:
        heatmap = self.query_one(Heatmap)
        span, when = chart_span(self._history)
        columns = self._history.block_columns(device.name, op.op, heatmap.columns, span) if (
            device and op) else [None] * heatmap.columns
        known = hist.merge(h for h in columns if h is not None)
        note = f"P99 {fmt.duration(hist.percentile(known, 99))}" if known.counts else ""
        what = f"{cut(device.name, 16)} {op.op}, " if device and op else ""
        self.query_one("#heat-rule", Rule).set(
            f"Device time: {what}the last {when}", note)
        heatmap.show(columns, span, "none so far" if op else self._no_requests(device))

    def _show_users(self, block: Block, _device: Device | None, _op: BlockOp | None) -> None:
        self._show_by("users", block.users, block, block.users_cut)

    def _show_groups(self, block: Block, _device: Device | None, _op: BlockOp | None) -> None:
        self._show_by("groups", block.groups, block, 0)

    def _show_by(self, section: str, rows: list[BlockUser], block: Block,
                 cut_off: int) -> None:
        empty = self._why("nobody known")
        if self._frame is not None and self._frame.clock.interval_ns and block.unowned_per_s == 0:
            empty = "no requests ended in this interval"
        note = f"{cut_off} not shown" if cut_off else ""
        if block.writeback_owner is False and any(
                u.comm.startswith("kworker") and u.writes_per_s for u in block.users):
            note = "cgroup v1: write-back is kworker's"
        if block.unowned_per_s:
            note = f"{fmt.rate(block.unowned_per_s)}/s of unknown origin"
        self._fill(section, rows, empty, note)

    def _show_slow(self, block: Block, _device: Device | None, _op: BlockOp | None) -> None:
        limit = self._slow_ns() or 0
        what = "all" if limit == 0 else f"from {fmt.duration(limit)}"
        note = f"{what}  ( ) change"
        if block.slow_cut:
            note = f"{fmt.grouped(block.slow_cut)} more in this tick  {note}"
        live = block.unowned_per_s is not None or any(d.ops for d in block.devices)
        self._feed("slow", self._history.feeds.slow_io,
                   "none so far" if live else self._why("none"), note)

    def _take(self, section: str, rows: int) -> None:
        """Tables above a chart take what they need: rows, the rule and the header."""
        self._fix_height(section, rows + 2)

    def _told_ns(self, frame: Frame) -> int | None:
        return frame.block.slow_ns if frame.block else None

    # -- keys ----------------------------------------------------------------------------------

    def action_times(self) -> None:
        """Device, queue, both."""
        self.which = TIMES[(TIMES.index(self.which) + 1) % len(TIMES)]
        self._again()

    # -- help ----------------------------------------------------------------------------------

    def help_text(self) -> str:
        """What every figure of this pane means."""
        return "\n".join([
            paragraph("""Queue time: from the request's start to its issue to the device; device
                time: from there to its completion. The kernel stamps both into the request
                (start_time_ns, io_start_time_ns), ktop reads them when it completes. The second
                stamp is there while the queue keeps statistics (as for write-back throttling, the
                default of most); elsewhere ktop stamps while this pane is looked at. Time that a
                bio waits before it is a request (throttled by its cgroup, waiting for a tag) is
                in none of them. The kernel reads its clock once for requests submitted together:
                times under some microseconds may be 0."""),
            "", paragraph("""IO/s x size = bytes/s. IO/s x mean latency = requests under way, from
                our sums, beside the kernel's own mean (time_in_queue / interval). Totals are over
                disks that lie on no other device; not loop devices, partitions, mappings, or
                memory. best: the most seen in one interval since ktop started. unseen: requests
                that the kernel counted and ran no program for; rates in the table of operations,
                by process and histograms lack them."""),
            "", paragraph("""The histogram is of the row under the cursor, else of the busiest
                operation of the busiest disk; the picture of the last minutes is always of device
                time, of the busiest operations of each tick (darker: more, by logarithm).
                By process: who submitted the request. What kernel threads submit
                (write-back, what was throttled) belongs, on cgroup v2, to the cgroup that dirtied
                or asked for it; on v1 the kernel does not say. Devices without requests of
                their own (zram, most mappings) have means only."""),
            "", "Devices", column_help(device_columns(self._label)),
            "", "Operations", column_help(op_columns()),
            "", "By process, by control group", column_help(user_columns(self.names)),
            "", paragraph("""Slow requests: all that took the threshold or more, and all that
                failed. ( halves it, ) doubles it; below 100us all are shown, the newest of each
                tick; what does not fit is counted."""), column_help(slow_columns(self.names)),
        ])
