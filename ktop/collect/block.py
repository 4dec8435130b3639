"""Block layer: the programs' maps and /proc/diskstats -> rows."""

from __future__ import annotations

import sys
from collections import deque

from ktop.bpf import syscall
from ktop.bpf.block_layer import COUNTERS, DEFAULT_SLOW_NS
from ktop.bpf.engine import Engine
from ktop.collect.block_disks import Disks
from ktop.collect.block_records import Ops, Users, by_cgroup, by_process, rest, slow_row
from ktop.collect.cgroups import find_hierarchy
from ktop.collect.layer import Tick
from ktop.collect.ringlayer import RingLayer
from ktop.collect.sweep import Sweep
from ktop.model_block import SLOW_PER_FRAME, Block, BlockUser, Device, Limit

MAX_USERS = 500  # rows; the busiest


class BlockLayer(RingLayer):
    """The block layer, tick by tick."""

    def __init__(self, engine: Engine | None) -> None:
        live = engine if engine is not None and engine.live("block_done") else None
        super().__init__(live, "block_events")
        self._engine = engine
        self._disks, self._ops, self._users = Disks(), Ops(), Users()
        self._epoch = 0
        self._raw: deque[bytes] = deque(maxlen=SLOW_PER_FRAME)
        self._happened = 0  # slow requests since the last update
        self._counters: dict[str, int] | None = None
        self._names: dict[int, str] = {}
        self._writeback_owner: bool | None = None
        self._slow_ns = DEFAULT_SLOW_NS
        self.limits: dict[str, Limit] = {}  # by device name
        self._sweep: Sweep | None = None
        if live is not None:
            self._sweep = Sweep(live, "block_procs")
            hierarchy = find_hierarchy()
            self._writeback_owner = bool(hierarchy and not hierarchy.v1)
        self.set_threshold(DEFAULT_SLOW_NS)

    def drain(self) -> None:
        """Empty the ring; of a flood only the newest are kept, the others are counted."""
        found = self._take()
        self._happened += len(found)
        self._raw.extend(found)

    def update(self, tick: Tick) -> Block:
        """One tick."""
        self.drain()
        devices = self._disks.rows(tick.now, tick.interval_ns)
        self._names = {d.dev: d.name for d in devices}
        layer = Block(devices=devices, devices_cut=self._disks.cut, slow_ns=self._slow_ns,
                      writeback_owner=self._writeback_owner)
        if self._ring is not None:
            self._programs(layer, tick)
        for device in devices:
            device.limit = self.limits.get(device.name)
        _totals(layer)
        return layer

    def _programs(self, layer: Block, tick: Tick) -> None:
        """What the programs saw."""
        engine, interval = self._engine, tick.interval_ns
        assert engine is not None and self._sweep is not None
        ended, self._epoch = self._epoch, self._epoch + 1
        engine.write_u32("block_epoch", self._epoch)
        ops = self._ops.update(engine.read_hash("block_ops"), ended, interval)
        for device in layer.devices:
            device.ops = ops.get(device.dev, [])
            if interval and device.ops:
                device.concurrency = sum(
                    op.total.sum_ns for op in device.ops
                    if op.total and op.op != "flush") / interval
        taken = self._sweep.take()
        found = engine.read_hash("block_procs")
        rows = self._users.update(found, interval, self._device, taken)
        self._sweep.note([key for key, _ in found], self._users.moved)
        for row in rows:
            process = tick.process(row.pid) if row.pid is not None else None
            if process is not None:
                row.comm = process.comm
        users = by_process(rows)
        layer.groups = by_cgroup(rows)
        layer.users = _busiest(users)
        layer.users_cut = len(users) - len(layer.users)
        layer.by_device = rest(rows, layer.users) if layer.users_cut else rows
        layer.owned = True
        self._count(layer, interval)
        raw, happened = list(self._raw), self._happened
        self._raw.clear()
        self._happened = 0
        layer.slow = [slow_row(r, tick.wall_offset, self._device) for r in raw]
        layer.slow_cut = happened - len(raw)

    def _device(self, dev: int) -> str:
        return self._names.get(dev, f"{dev >> 20}:{dev & 0xFFFFF}")

    def _count(self, layer: Block, interval: int | None) -> None:
        assert self._engine is not None
        new = self._engine.read_counters("block_counters", COUNTERS)
        old, self._counters = self._counters, new
        self._lose(new["lost_events"])
        layer.untracked_total = new["full"]
        owned = any(self._engine.live(probe) for probe in ("block_start", "block_issued"))
        if old and interval and owned:
            layer.unowned_per_s = (new["unowned"] - old["unowned"]) * 1e9 / interval

    def set_threshold(self, ns: int) -> None:
        """Requests of `ns` and more go to the feed; 0 shows all, as many as fit."""
        self._slow_ns = max(0, ns)
        if self._ring is not None and self._engine is not None:
            syscall.map_update(self._engine.loaded.maps["block_slow_ns"].fd, bytes(4),
                               (self._slow_ns + 1).to_bytes(8, sys.byteorder))


def _busiest(users: list[BlockUser]) -> list[BlockUser]:
    if len(users) <= MAX_USERS:
        return users
    return sorted(users, key=lambda u: -(u.read_bytes_per_s + u.write_bytes_per_s))[:MAX_USERS]


def _totals(layer: Block) -> None:
    """Sums over the devices that are counted; None where none of them is known."""
    counted: list[Device] = [d for d in layer.devices if d.counted]
    for name in ("reads_per_s", "writes_per_s", "read_bytes_per_s", "write_bytes_per_s", "queue",
                 "concurrency"):
        known = [value for value in (getattr(d, name) for d in counted) if value is not None]
        setattr(layer, name, sum(known) if known else None)
    layer.unseen_pct = _unseen(counted)


def _unseen(counted: list[Device]) -> float | None:
    """Requests in the kernel's counters that our program did not see, %."""
    kernel = seen = 0.0
    for device in counted:
        if device.ops and device.reads_per_s is not None and device.writes_per_s is not None:
            kernel += device.reads_per_s + device.writes_per_s
            seen += sum(op.per_s for op in device.ops if op.op in ("read", "write", "sync"))
    return max(0.0, 100.0 * (kernel - seen) / kernel) if kernel else None
