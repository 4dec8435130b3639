"""Files layer: kernel data -> rows. Syscalls only while it is watched, the rest always."""

from __future__ import annotations

import sys

from ktop.bpf import syscall
from ktop.bpf.engine import Engine
from ktop.bpf.files_layer import (
    CONFIG_STRUCT,
    COUNTERS,
    KEY_STRUCT,
    OPS,
    SYSCALLS,
)
from ktop.collect import files_fds
from ktop.collect.files_accounts import FileSum, Shares, Uses, device
from ktop.collect.files_cache import Pauses, page_cache
from ktop.collect.files_events import FileEvents
from ktop.collect.files_folds import OpenFolds
from ktop.collect.files_mounts import Mountinfo
from ktop.collect.files_ops import HostTotals
from ktop.collect.layer import Tick
from ktop.collect.ringlayer import RingLayer
from ktop.model import Files
from ktop.model_files import (
    EVENTS_PER_FRAME,
    ROWS_PER_FRAME,
    FileRow,
    MountEvent,
)

THRESHOLD_NS = 10_000_000


class FilesLayer(RingLayer):
    """The Files layer, tick by tick."""

    def __init__(self, engine: Engine | None) -> None:
        super().__init__(engine, "files_events")
        self._engine = engine
        self._threshold = THRESHOLD_NS
        self._since = 0
        self._epoch = 1
        self._was_live = False
        self._maps = engine.loaded.maps if engine is not None else {}
        self._events = FileEvents(engine.loaded.syscalls if engine is not None else {})
        self._counters = dict.fromkeys(COUNTERS, 0)
        self._host, self._folds = HostTotals(), OpenFolds()
        self._uses, self._shares = Uses(), Shares()
        self._fds, self._pauses, self._mountinfo = (
            files_fds.DescriptorTable(), Pauses(), Mountinfo())
        if engine is not None and "fs_op" in self._maps:
            for number, name in engine.loaded.syscalls.items():
                if name in SYSCALLS and number < 1024:
                    syscall.map_update(self._maps["fs_op"].fd, number.to_bytes(4, sys.byteorder),
                                       bytes([OPS.index(SYSCALLS[name])]))
        self._configure()

    def _configure(self) -> None:
        if "fs_config" in self._maps:
            syscall.map_update(self._maps["fs_config"].fd, bytes(4),
                               CONFIG_STRUCT.pack(self._threshold, self._since, self._epoch, 0))

    def set_threshold(self, ns: int) -> None:
        """Reads, writes and fsyncs that take at least this long are slow."""
        self._threshold = max(0, ns)
        self._configure()

    def drain(self) -> None:
        """Take what is in the ring."""
        self._events.take(self._take())

    def update(self, tick: Tick) -> Files:
        """One tick."""
        live = self._engine is not None and self._engine.live("fs_exit")
        files = Files(watched=live, threshold_ns=self._threshold,
                      cache=page_cache(tick.vmstat))
        self.drain()
        self._count(files, tick.interval_ns)
        if live:
            # in the first tick since somebody looks, the interval is not all ours
            interval = tick.interval_ns if self._was_live else None
            if not self._was_live:
                self._folds.begin(tick.now)
            self._watched(files, tick, interval)
        elif self._was_live:
            self._since = tick.now  # what is under way now is not timed by the next session
            self._configure()
        files.files_dropped = max(0, self._counters["uses"] - self._uses.entries)
        self._was_live = live
        self._always(files, tick)
        wall = tick.wall_offset
        files.slow, cut = self._events.slow(wall, EVENTS_PER_FRAME)
        files.slow_cut += cut
        files.opens = self._events.opens(wall, EVENTS_PER_FRAME)
        files.opens_cut = max(0, files.opens_cut - len(files.opens))
        files.mounts = self._mounts(tick)
        return files

    # -- while watched -------------------------------------------------------------------------

    def _watched(self, files: Files, tick: Tick, interval: int | None) -> None:
        assert self._engine is not None
        epoch, self._epoch = self._epoch, self._epoch + 1
        self._configure()
        read, shares = self._engine.read_table, self._shares
        files.host = self._host.update(self._engine.read_percpu("fs_hosts"), epoch, interval)
        accounts = read("fs_shares")
        found, files.rows_cut, files.uses, files.uses_cut = self._uses.update(
            read("fs_stats"), read("fs_hists"), epoch, interval, ROWS_PER_FRAME, tick.process)
        shares.update(accounts, epoch, interval, ROWS_PER_FRAME, tick.process)
        self._folds.update(read("fs_opens"), tick.now)
        files.folds, files.folds_cut = self._folds.rows(
            tick.now, self._events.paths, ROWS_PER_FRAME)
        files.owned = True
        if interval is None:
            return
        files.rows = [self._file(row) for row in found]
        files.processes, files.processes_cut = shares.processes, shares.processes_cut
        files.shares, files.filesystems = shares.shares, shares.filesystems[:ROWS_PER_FRAME]
        if shares.whole(accounts, self._counters["shares"]):
            # Read a moment apart the two may differ by a few: what is shown adds up.
            files.host, files.unowned_per_s = shares.all, 0.0
        else:
            files.unowned_per_s = max(0, self._host.done - shares.done) * 1e9 / interval
        types = {row.dev: row.fstype for row in files.rows if row.fstype}
        mounted = self._mountinfo.by_device()
        for system in files.filesystems:
            at = mounted.get(system.dev)
            system.fstype = at.fstype if at else types.get(system.dev)
            system.mount, system.source = (at.target, at.source) if at else (None, None)

    def _file(self, row: FileSum) -> FileRow:
        name = self._events.names.get(row.file)
        ino, dev, generation = KEY_STRUCT.unpack(row.file)
        return FileRow(
            path=name.path if name else None, dev=device(dev), ino=ino, ops=row.ops,
            fstype=name.fstype if name else None, deleted=bool(name and name.deleted),
            whole=name.whole if name else True, generation=generation)

    # -- always --------------------------------------------------------------------------------

    def _count(self, files: Files, interval: int | None) -> None:
        """The kernel side's own totals: what was lost, cut, dropped."""
        if self._engine is None or "fs_counters" not in self._maps:
            return
        new = self._engine.read_counters("fs_counters", COUNTERS)
        old, self._counters = self._counters, new
        self._lose(new["lost"])
        files.slow_total = new["slow"]
        files.slow_cut = new["slow_cut"] - old["slow_cut"]
        files.opens_cut = new["opens"] - old["opens"]  # those shown are taken off later
        if interval and self._was_live:
            failed = new["opens_failed"] - old["opens_failed"]
            files.opens_failed_per_s = failed * 1e9 / interval

    def _always(self, files: Files, tick: Tick) -> None:
        engine = self._engine
        if self._fds.due(tick.now):
            records = (files_fds.decode(engine.read_iter("fs_fds"))
                       if engine is not None and engine.live("fs_fds")
                       else files_fds.from_proc(tick.processes, tick.now))
            self._fds.sample(records, tick.now, ROWS_PER_FRAME)
        files.descriptors, files.descriptors_cut = self._fds.rows()
        files.descriptors_host, files.descriptors_max = files_fds.host_descriptors()
        if engine is not None and engine.live("fs_throttle") and files.cache is not None:
            files.cache.throttled = self._pauses.update(
                engine.read_hash("fs_pauses"), tick.interval_ns, self._fds.hz)

    def _mounts(self, tick: Tick) -> list[MountEvent]:
        """Syscalls with who made them; mountinfo has those that no syscall here explains."""
        events = self._events.mounts(tick.wall_offset)
        known = {(e.op.startswith("umount"), e.target) for e in events if e.error is None}
        for change in self._mountinfo.changes(tick.now + tick.wall_offset):
            if (change.op == "unmounted", change.target) not in known:
                events.append(change)
        return events[-EVENTS_PER_FRAME:]

    def close(self) -> None:
        """Let go of the ring and the mount table."""
        super().close()
        self._mountinfo.close()
