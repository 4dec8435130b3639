"""Block: how long disks make requests wait, in the queue and in the device, and whose they are."""

from __future__ import annotations

from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container

from ktop import format as fmt
from ktop import hist, theme
from ktop.history import History
from ktop.model import Frame, Hist
from ktop.model_block import Block, BlockOp, BlockUser, Device
from ktop.panes.base import Names, Pane, column_help, in_view, paragraph, why_missing
from ktop.panes.block_columns import (
    device_columns,
    group_columns,
    of_op,
    op_columns,
    slow_columns,
    user_columns,
)
from ktop.panes.block_summary import busy, limits, summary
from ktop.widgets.columns import Key
from ktop.widgets.heatmap import Heatmap
from ktop.widgets.histogram import Histogram
from ktop.widgets.strips import Line, Rule, cut
from ktop.widgets.table import VirtualTable
from ktop.wire import Control

WIDE, HIGH = 120, 32  # size of the pane from which everything is on one screen
MINUTE_NS = 60_000_000_000
SPAN_NS = 5 * MINUTE_NS
VIEWS = ("overview", "latency", "users", "groups", "slow")
TIMES = ("device", "queue", "total")
_SECTIONS = ("devices", "ops", "hist", "heat", "users", "groups", "slow")
_LEFT, _RIGHT = ("hist", "heat"), ("users", "groups", "slow")
_BIG_SECTIONS = {"overview": ("devices", "ops", "hist", "heat", "users", "slow"),
                 "latency": ("devices", "ops", "hist", "heat"),
                 "users": ("devices", "hist", "heat", "users"),
                 "groups": ("devices", "hist", "heat", "groups"), "slow": ("devices", "slow")}
_VIEW_SECTIONS = {"overview": ("devices", "hist"), "latency": ("ops", "heat"),
                  "users": ("users",), "groups": ("groups",), "slow": ("slow",)}
_TABLES = ("devices", "ops", "users", "groups", "slow")
_TITLES = {"devices": "Devices", "ops": "Operations", "hist": "Device time",
           "heat": "Device time, the last 5 minutes", "users": "By process",
           "groups": "By control group", "slow": "Slow requests"}
_MOST_ROWS = 7  # of a table that stands above a chart
_FINEST_NS, _COARSEST_NS = 100_000, 60_000_000_000


class BlockPane(Pane):
    """Devices, latency by operation now and over time, who does it, and each slow request.

    With the cursor on a device, an operation, a process or a control group, the histogram is of
    that; without one, of the busiest operation of the busiest disk.
    """

    title = "Block"
    key = "4"
    layer = "block"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("v", "view", "View", id="block.view",
                tooltip="Overview, latency, processes, control groups, slow requests"),
        Binding("o", "other", "Other part", id="block.other",
                tooltip="Move the focus to the next table"),
        Binding("d", "times", "Which time", id="block.times",
                tooltip="Histogram of device time, queue time, or both together"),
        Binding("left_parenthesis", "threshold(-1)", "Slow: less", id="block.slow_less",
                key_display="(", tooltip="Halve the threshold of slow requests; below 100us: all"),
        Binding("right_parenthesis", "threshold(1)", "Slow: more", id="block.slow_more",
                key_display=")", tooltip="Double the threshold of slow requests"),
    ]
    DEFAULT_CSS = """
    BlockPane #totals { height: 2; }
    BlockPane #body { layout: horizontal; width: 1fr; height: 1fr; }
    BlockPane .column { layout: vertical; width: 1fr; height: 1fr; }
    BlockPane.-split #left { margin: 0 1 0 0; }
    BlockPane .section { layout: vertical; width: 1fr; height: 1fr; }
    """

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.names = Names()
        self.view = "overview"
        self.which = "device"
        self._subject: tuple[str, Key] | None = None  # a user or group whose histogram it is
        self._device: Key | None = None   # under the cursor
        self._op: Key | None = None
        self._auto: tuple[str, str] = ("", "")  # the busiest, until it rests
        self._last_parts: set[str] = set()
        self._slow_ns: int | None = None  # asked for, the collector may not have heard yet
        self._frame: Frame | None = None
        self._history: History | None = None
        self._fed: object = None

    def compose(self) -> ComposeResult:
        """A summary, two tables across, and five sections in two columns."""
        yield Line(id="totals")
        with Container(id="devices", classes="section"):
            yield Rule(_TITLES["devices"], id="devices-rule")
            yield VirtualTable(device_columns(self._label), lambda d: d.name, frozen=1,
                               sort="util", id="devices-table", empty="no block devices")
        with Container(id="ops", classes="section"):
            yield Rule(_TITLES["ops"], id="ops-rule")
            yield VirtualTable(op_columns(), lambda o: o.op, frozen=1, id="ops-table")
        with Container(id="body"):
            with Container(id="left", classes="column"):
                with Container(id="hist", classes="section"):
                    yield Rule(_TITLES["hist"], id="hist-rule")
                    yield Histogram(id="histogram")
                with Container(id="heat", classes="section"):
                    yield Rule(_TITLES["heat"], id="heat-rule")
                    yield Heatmap(id="heatmap")
            with Container(id="right", classes="column"):
                with Container(id="users", classes="section"):
                    yield Rule(_TITLES["users"], id="users-rule")
                    yield VirtualTable(user_columns(self.names), lambda u: (u.pid, u.cgroup),
                                       frozen=1, sort="all", id="users-table")
                with Container(id="groups", classes="section"):
                    yield Rule(_TITLES["groups"], id="groups-rule")
                    yield VirtualTable(group_columns(self.names), lambda u: u.cgroup,
                                       sort="all", id="groups-table")
                with Container(id="slow", classes="section"):
                    yield Rule(_TITLES["slow"], id="slow-rule")
                    yield VirtualTable(slow_columns(self.names), lambda e: e.serial, feed=True,
                                       frozen=1, id="slow-table")

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

    def on_virtual_table_highlighted(self, message: VirtualTable.Highlighted) -> None:
        """Charts follow the cursor."""
        table = str(message.table.id)
        if table == "devices-table":
            self._device, self._subject = message.key, None
        elif table == "ops-table":
            self._op, self._subject = message.key, None
        elif table in ("users-table", "groups-table"):
            if message.key is not None:
                self._subject = (table, message.key)
            elif self._subject is not None and self._subject[0] == table:
                self._subject = None
        else:
            return
        if self._frame is not None and self._history is not None:
            self.show(self._frame, self._history)

    # -- each tick -----------------------------------------------------------------------------

    def show(self, frame: Frame, history: History) -> None:
        """This tick's block layer: only what is in view is worked out."""
        self._frame, self._history = frame, history
        self.names.learn(frame)
        block = frame.block or Block()
        device, op = self.chosen(block)
        self.query_one("#totals", Line).set(summary(block, frame), limits(device))
        for section in _SECTIONS:
            if self.query_one(f"#{section}").display:
                getattr(self, f"_show_{section}")(block, device, op)

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
        self._fix_height("devices", min(len(block.devices), _MOST_ROWS))
        counted = sum(1 for d in rows if d.counted)
        note = f"{counted} in the totals" if rows else ""
        if block.devices_cut:
            note += f", {block.devices_cut} not shown"
        self.query_one("#devices-rule", Rule).set(note=note)
        self.query_one("#devices-table", VirtualTable).set_rows(rows, children)

    def _show_ops(self, _block: Block, device: Device | None, _op: BlockOp | None) -> None:
        ops = device.ops if device else []
        table = self.query_one("#ops-table", VirtualTable)
        table.empty = self._no_requests(device)
        self._fix_height("ops", min(max(len(ops), 3), _MOST_ROWS))
        note = ""
        if device is not None and device.concurrency is not None:
            note = (f"rate x latency {fmt.number(device.concurrency)}, "
                    f"measured {fmt.number(device.queue)}")
        self.query_one("#ops-rule", Rule).set(
            f"Operations on {cut(device.name, 16)}" if device else _TITLES["ops"], note)
        table.set_rows(ops)

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
        table, key = self._subject
        if table == "users-table":
            for user in block.users:
                if (user.pid, user.cgroup) == key:
                    return user.latency, f"Requests of {cut(user.comm, 16)} ({user.pid})"
            return None, f"Requests of {key[0]}"
        found = next((g for g in block.groups if g.cgroup == key), None)
        name = self.names.cgroup(key if isinstance(key, int) else None)
        return (found.latency if found else None), f"Requests of {cut(name, 20)}"

    def _show_heat(self, _block: Block, device: Device | None, op: BlockOp | None) -> None:
        assert self._history is not None
        heatmap = self.query_one(Heatmap)
        ticks = self._history.ticks
        young = not ticks or ticks[-1].at_ns - ticks[0].at_ns < MINUTE_NS
        span = MINUTE_NS if young else SPAN_NS
        columns = self._history.block_columns(device.name, op.op, heatmap.columns, span) if (
            device and op) else [None] * heatmap.columns
        known = hist.merge(h for h in columns if h is not None)
        note = f"P99 {fmt.duration(hist.percentile(known, 99))}" if known.counts else ""
        what = f"{cut(device.name, 16)} {op.op}, " if device and op else ""
        self.query_one("#heat-rule", Rule).set(
            f"Device time: {what}the last {'minute' if young else '5 minutes'}", note)
        heatmap.show(columns, span, "none so far" if op else self._no_requests(device))

    def _show_users(self, block: Block, _device: Device | None, _op: BlockOp | None) -> None:
        self._show_by("users", block.users, block, block.users_cut)

    def _show_groups(self, block: Block, _device: Device | None, _op: BlockOp | None) -> None:
        self._show_by("groups", block.groups, block, 0)

    def _show_by(self, section: str, rows: list[BlockUser], block: Block,
                 cut_off: int) -> None:
        table = self.query_one(f"#{section}-table", VirtualTable)
        table.empty = self._why("nobody known")
        if self._frame is not None and self._frame.clock.interval_ns and block.unowned_per_s == 0:
            table.empty = "no requests ended in this interval"
        note = f"{cut_off} not shown" if cut_off else ""
        if block.writeback_owner is False and any(
                u.comm.startswith("kworker") and u.writes_per_s for u in block.users):
            note = "cgroup v1: write-back is kworker's"
        if block.unowned_per_s:
            note = f"{fmt.rate(block.unowned_per_s)}/s of unknown origin"
        self.query_one(f"#{section}-rule", Rule).set(note=note)
        table.set_rows(rows)

    def _show_slow(self, block: Block, _device: Device | None, _op: BlockOp | None) -> None:
        assert self._history is not None
        table = self.query_one("#slow-table", VirtualTable)
        limit = self._threshold(block)
        what = "all" if limit == 0 else f"from {fmt.duration(limit)}"
        note = f"{what}  ( ) change"
        if block.slow_cut:
            note = f"{fmt.grouped(block.slow_cut)} more in this tick  {note}"
        self.query_one("#slow-rule", Rule).set(note=note)
        found = self._history.slow_ios()
        live = block.unowned_per_s is not None or any(d.ops for d in block.devices)
        table.empty = "none so far" if live else self._why("none")
        newest = (id(self._history), found[0].serial if found else 0, len(found), table.empty)
        if newest != self._fed:
            self._fed = newest
            table.set_rows(found)

    # -- layout --------------------------------------------------------------------------------

    @property
    def big(self) -> bool:
        """There is room for two columns of sections."""
        return self.size.width >= WIDE and self.size.height >= HIGH

    def on_resize(self, _event: events.Resize) -> None:
        """Another size may have room for more, or less."""
        self._arrange()

    def _arrange(self) -> None:
        shown = _VIEW_SECTIONS[self.view]
        if self.big:
            shown = _BIG_SECTIONS.get(self.view, shown)
        for section in _SECTIONS:
            self.query_one(f"#{section}").display = section in shown
        left = any(s in shown for s in _LEFT)
        right = any(s in _RIGHT for s in shown)
        self.query_one("#left").display = left
        self.query_one("#right").display = right
        self.set_class(left and right, "-split")
        if self._frame is not None and self._history is not None:
            # sizes are known after the layout: the charts ask for their width
            self.call_after_refresh(self.show, self._frame, self._history)
        if self.is_attached and self.has_focus_within:
            focused = self.screen.focused
            if focused is None or not in_view(focused, self):
                self.focus_main()

    def _fix_height(self, section: str, rows: int) -> None:
        """Tables above a chart take what they need: rows, the rule and the header."""
        widget = self.query_one(f"#{section}")
        wanted = rows + 2
        if getattr(widget, "_ktop_height", None) != wanted:
            widget._ktop_height = wanted  # type: ignore[attr-defined]
            widget.styles.height = wanted

    # -- keys ----------------------------------------------------------------------------------

    def action_view(self) -> None:
        """The next view."""
        self.view = VIEWS[(VIEWS.index(self.view) + 1) % len(VIEWS)]
        self._arrange()
        self.focus_main()

    def action_other(self) -> None:
        """The next table in view."""
        tables = self.tables()
        if tables:
            at = next((i for i, table in enumerate(tables) if table.has_focus), -1)
            tables[(at + 1) % len(tables)].focus()

    def action_times(self) -> None:
        """Device, queue, both."""
        self.which = TIMES[(TIMES.index(self.which) + 1) % len(TIMES)]
        if self._frame is not None and self._history is not None:
            self.show(self._frame, self._history)

    def _threshold(self, block: Block) -> int:
        """What counts as slow: as asked for, until the collector says the same."""
        if self._slow_ns == block.slow_ns:
            self._slow_ns = None
        return block.slow_ns if self._slow_ns is None else self._slow_ns

    def action_threshold(self, step: int) -> None:
        """Halve or double what counts as slow; 0 is everything."""
        if self._frame is None or self._frame.block is None:
            return
        ns = self._threshold(self._frame.block)
        if step > 0:
            ns = min(max(2 * ns, _FINEST_NS), _COARSEST_NS)
        else:
            ns = ns // 2 if ns // 2 >= _FINEST_NS else 0
        self._slow_ns = ns
        self.post_message(self.Ask(Control(thresholds={self.layer: ns})))
        if self._history is not None:
            self.show(self._frame, self._history)

    def on_descendant_focus(self) -> None:
        """The rules say where the focus is."""
        self._rules()

    def on_descendant_blur(self) -> None:
        """The rules say where the focus is."""
        self._rules()

    def _rules(self) -> None:
        for section in _TABLES:
            focused = self.query_one(f"#{section}-table", VirtualTable).has_focus
            self.query_one(f"#{section}-rule", Rule).set(active=focused)

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
