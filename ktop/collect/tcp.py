"""TCP layer: sockets of every namespace, events and counters -> rows."""

from __future__ import annotations

import struct
import time

from ktop import hist
from ktop.bpf import syscall
from ktop.bpf.engine import Engine
from ktop.bpf.layout import HIST_SLOTS
from ktop.bpf.tcp_layer import (
    COUNTERS,
    DROP_FEED,
    DROP_STACKS,
    KINDS,
    RETRANS_FEED,
    RETRANSMITS,
)
from ktop.collect.layer import Tick
from ktop.collect.ringlayer import RingLayer
from ktop.collect.tcp_dns import DnsFolds
from ktop.collect.tcp_drops import Drops, enum_names
from ktop.collect.tcp_netns import Namespaces, Rates, rate, read_counters, read_interfaces
from ktop.collect.tcp_owners import Owners
from ktop.collect.tcp_peers import Peers
from ktop.collect.tcp_records import EventRecord, address, command, decode, event
from ktop.collect.tcp_sockets import Sockets
from ktop.collect.tcp_table import Entry, Interval, TcpTable, connection, listener
from ktop.model import Hist
from ktop.model_block import Limit
from ktop.model_tcp import EVENTS_PER_FRAME, Tcp, TcpEvent

_CLOSE, _ACCEPT, _LISTENERS = KINDS.index("close") + 1, KINDS.index("accept") + 1, 500
_PASS_EVERY_NS = 5_000_000_000  # descriptors may move between processes without a trace
_PASS_SHARE = 50                # at most one fiftieth of the time goes into reading them
_LATENCY = struct.Struct(f"@QQ{HIST_SLOTS}Q")
_PENDING = 100_000              # events kept between two ticks


class TcpLayer(RingLayer):
    """The TCP layer, tick by tick. Without its programs: interfaces and namespaces from /proc."""

    def __init__(self, engine: Engine | None) -> None:
        self._engine = engine if engine is not None and engine.loaded.maps else None
        super().__init__(self._engine, "tcp_events")
        self._table, self._peers, self._owners = TcpTable(), Peers(), Owners()
        self._namespaces, self._rates = Namespaces(), Rates()
        self._sockets: Sockets | None = None
        self._drops: Drops | None = None
        self._dns: DnsFolds | None = None
        self._reasons: dict[str, dict[int, str]] = {}
        if self._engine is not None:
            self._sockets = Sockets(self._engine, syscall.possible_cpus())
            self._drops, self._dns = Drops(self._engine), DnsFolds(self._engine)
            self._reasons = {"drop": self._drops.reasons, "reset_sent": enum_names(
                "sk_rst_reason", "SK_RST_REASON_")}
        self._pending: list[EventRecord] = []
        # of the last update, and of this one
        self._counters: tuple[dict[str, int], dict[str, int]] = {}, {}
        self._latency: tuple[tuple[int, ...], tuple[int, ...]] = (), ()
        self._listen_drops: dict[int, int] = {}
        self._last_ns: int | None = None
        self._pass = 0
        self._pass_due = 0
        self._pass_at = 0
        self._unknown_netns = False
        self.pass_ns = 0             # CPU time of the last reading of descriptors
        self._overflow = 0
        self.limits: dict[str, Limit] = {}  # by an interface's name
        self._refill()

    # -- events ----------------------------------------------------------------------------------

    def _control(self, index: int, value: int) -> None:
        if self._engine is not None:
            syscall.map_update(self._engine.loaded.maps["tcp_control"].fd,
                               struct.pack("@I", index), struct.pack("@q", value))

    def _refill(self) -> None:
        """Drops and retransmits may be events again; they are counted all the same."""
        self._control(1, DROP_FEED)
        self._control(2, RETRANS_FEED)
        self._control(3, DROP_STACKS)

    def drain(self) -> None:
        """Empty the event ring; called between ticks too, so that a burst finds room."""
        if self._fetch():  # some may have been told
            self._refill()

    def _fetch(self) -> bool:
        """Take what is in the event ring; whether there was anything."""
        if self._ring is None:
            return False
        taken = raws = self._take()
        if self._dns is not None:
            raws = self._dns.take(raws)
        records = [decode(raw) for raw in raws]
        room = max(0, _PENDING - len(self._pending))
        self._overflow += max(0, len(records) - room)
        self._pending += records[:room]
        return bool(taken)

    def _count(self) -> None:
        """Read the counters at once after the ring, so that they say what the events say."""
        if self._engine is None:
            return
        self._counters = self._counters[1], self._engine.read_counters("tcp_counters", COUNTERS)
        values = [_LATENCY.unpack(raw) for raw in self._engine.read_percpu("tcp_latency")]
        self._latency = self._latency[1], tuple(
            sum(column) for column in zip(*values, strict=True))

    # -- the tick --------------------------------------------------------------------------------

    def update(self, tick: Tick) -> Tcp:
        """One tick: everything since the last."""
        self._fetch()
        self._refill()
        self._count()
        records, self._pending = self._pending, []
        layer = Tcp()
        self._namespaces.discover(tick.processes, tick.now + tick.boot_offset,
                                  self._unknown_netns)
        closes = [r for r in records if r.kind == _CLOSE]
        self._table.close(closes, self._last_ns)
        self._read_owners(tick.now, any(r.kind == _ACCEPT for r in records))
        data = self._visit(tick, layer)
        last, self._last_ns = self._last_ns, tick.now
        if tick.interval_ns is None:
            last = None
        self._table.update(data, Interval(last, tick.now))
        interval = self._table.interval(last, tick.now)
        self._events(records, layer, tick)
        self._fold(layer, interval, tick)
        self._listeners(layer, records, interval, tick)
        self._totals(layer, interval)
        if self._drops is not None:
            layer.drops = self._drops.rows(interval.ns, tick.watched)
        if self._dns is not None:
            layer.dns = self._dns.rows(tick.now)
        known = {n.id for n in layer.namespaces}
        self._unknown_netns = any(r.netns and r.netns not in known for r in records[:1000])
        self._note(layer)
        return layer

    def _read_owners(self, now: int, accepted: bool) -> None:
        """Have the kernel write into each socket's note who holds it, when that may have changed.

        What accept(2) handed out is only there; connect(2) and listen(2) tell by themselves.
        """
        if self._engine is None or not self._engine.live("tcp_fds") or now < self._pass_due:
            return
        if not (accepted or self._table.unowned or now - self._pass_at >= _PASS_EVERY_NS
                or not self._pass):
            return
        self._pass += 1
        self._control(0, self._pass)
        began = time.process_time_ns()
        self._engine.read_iter("tcp_fds")
        self.pass_ns = time.process_time_ns() - began
        self._pass_at, self._pass_due = now, now + self.pass_ns * _PASS_SHARE

    def _visit(self, tick: Tick, layer: Tcp) -> bytes:
        """Enter each namespace once: sockets, counters, interfaces."""
        cgroup = {row.pid: row.cgroup for row in tick.processes}.get
        found, layer.namespaces_cut = self._namespaces.known()
        chunks = [self._read_sockets(layer, found)]
        for position, inode in enumerate(found):
            row = self._namespaces.row(inode, cgroup)
            with self._namespaces.inside(inode) as entered:
                if not entered:
                    continue
                counters, devices = read_counters(), read_interfaces()
                if self._sockets is not None:
                    try:
                        chunks.append(self._sockets.walk(inode, position))
                    except OSError as err:
                        layer.notes.append(f"sockets of {row.name or inode}: {err.strerror}")
            self._rates.namespace(row, counters, tick.interval_ns)
            layer.namespaces.append(row)
            layer.interfaces += [self._rates.interface(inode, name, totals, tick.interval_ns)
                                 for name, totals in devices.items()]
        for interface in layer.interfaces if self.limits else ():
            interface.limit = self.limits.get(interface.name)
        self._rates.turn()
        return b"".join(chunks)

    def _read_sockets(self, layer: Tcp, namespaces: list[int]) -> bytes:
        """Records of those that are found without their namespace."""
        if self._sockets is None:
            return b""
        try:
            return self._sockets.begin(namespaces, self._counters[1]["no_note"])
        except OSError as err:
            layer.notes.append(f"sockets: {err.strerror}")
            return b""

    def _owner(self, r: EventRecord, closes: dict[bytes, EventRecord],
               servers: dict[tuple[int, int], Entry]) -> EventRecord:
        """An accepted connection's owner: who holds it now, closed it, or listens there."""
        if r.pid or not r.sk:
            return r
        entry = self._table.find(r.key)
        whose: EventRecord | Entry | None = closes.get(r.key)
        if entry is not None and entry.record.pid:
            whose = entry
        elif whose is None or not getattr(whose, "pid", 0):
            whose = servers.get((r.netns, r.local_port))
        if whose is None:
            return r
        source = whose.record if isinstance(whose, Entry) else whose
        return r._replace(pid=source.pid, comm=source.comm, cgroup=source.cgroup)

    def _events(self, records: list[EventRecord], layer: Tcp, tick: Tick) -> None:
        servers = {(e.record.netns, e.record.local_port): e for e in self._table.listening()}
        self._peers.listen(set(servers))
        closes = {r.key: r for r in records if r.kind == _CLOSE}
        found: list[TcpEvent] = []
        for r in records:
            row = event(self._owner(r, closes, servers), tick.wall_offset, self._reasons)
            row.cgroup = _cgroup(tick, row.pid, row.cgroup)
            self._peers.event(row, tick.now)
            self._owners.event(row)
            if row.kind == "drop" and self._drops is not None:
                self._drops.seen(row)
            found.append(row)
        layer.events_cut = max(0, len(found) - EVENTS_PER_FRAME)
        layer.events = found[layer.events_cut:]

    def _fold(self, layer: Tcp, interval: Interval, tick: Tick) -> None:
        """Sums, peers and owners over all connections that moved, rows of those shown."""
        table = self._table
        servers = {(e.record.netns, e.record.local_port): e for e in table.listening()}
        tx = rx = 0
        for entry in table.gone:
            self._peers.remove(entry)
        for entry in (*table.gone, *table.leaving()):
            self._owners.remove(entry)
        for entries, closed in ((table.closed, True), (table.changed, False)):
            for entry in entries:
                tx += entry.tx or 0
                rx += entry.rx or 0
                self._place(entry, servers, tick, closed)
        ended = {entry.id for entry in table.closed}
        shown = table.shown()
        for entry in shown:
            entry.cgroup = _cgroup(tick, entry.record.pid, entry.cgroup)
        layer.connections = [connection(e, interval, e.id in ended) for e in shown]
        if self._engine is not None and self._engine.live("tcp_socks"):
            layer.connections_total = len(table)
            layer.owned = True
        layer.peers, layer.peers_cut = self._peers.rows(tick.now, interval)
        layer.owners = self._owners.rows(interval)
        if interval.ns:
            layer.tx_bytes_per_s, layer.rx_bytes_per_s = (
                tx * 1e9 / interval.ns, rx * 1e9 / interval.ns)
        counts, total = table.rtt
        layer.rtt = Hist(counts, total) if counts else None
        sockets: dict[int, int] = {}
        for entry in table.entries():
            sockets[entry.record.netns] = sockets.get(entry.record.netns, 0) + 1
        for row in layer.namespaces:
            row.sockets = sockets.get(row.id, 0)

    def _place(self, entry: Entry, servers: dict[tuple[int, int], Entry], tick: Tick,
               closed: bool) -> None:
        """One connection into the folds of its peer and of its owner."""
        r = entry.record
        if not r.pid and entry.active is not True:
            server = servers.get((r.netns, r.local_port))
            if server is not None:
                whose = server.record
                entry.record = r = r._replace(pid=whose.pid, comm=whose.comm, cgroup=whose.cgroup)
        entry.cgroup = _cgroup(tick, r.pid, r.cgroup or None)
        key = entry.peer
        if key is None or entry.owner != (r.comm, entry.cgroup):
            key = self._peers.key_of(entry, address(r.family, r.remote), command(r.comm))
            entry.owner = r.comm, entry.cgroup
        self._peers.place(entry, key, tick.now, closed)
        self._owners.place(entry, (r.pid or None, entry.cgroup), closed)

    def _listeners(self, layer: Tcp, records: list[EventRecord], interval: Interval,
                   tick: Tick) -> None:
        accepts: dict[tuple[int, int], int] = {}
        for r in records:
            if r.kind == _ACCEPT:
                accepts[r.netns, r.local_port] = accepts.get((r.netns, r.local_port), 0) + 1
        found = sorted(self._table.listening(),
                       key=lambda e: (-e.record.backlog, -e.record.drops, e.id))
        live = self._engine is not None and self._engine.live("tcp_state")
        for entry in found:
            entry.cgroup = _cgroup(tick, entry.record.pid, entry.record.cgroup or None)
        before, self._listen_drops = self._listen_drops, {e.id: e.record.drops for e in found}
        layer.listeners = [
            listener(e, before.get(e.id),
                     accepts.get((e.record.netns, e.record.local_port), 0) if live else None,
                     interval)
            for e in found[:_LISTENERS]]
        layer.listeners_cut = max(0, len(found) - _LISTENERS)

    # -- totals ----------------------------------------------------------------------------------

    def _totals(self, layer: Tcp, interval: Interval) -> None:
        for name in ("segments_out_per_s", "retrans_per_s"):
            known = [v for v in (getattr(n, name) for n in layer.namespaces) if v is not None]
            setattr(layer, name, sum(known) if known else None)
        if self._engine is None:
            return
        old, new = self._counters
        self._lose(new["lost"] + self._overflow)
        layer.totals = new
        layer.retransmits = {kind: new[f"retrans_{kind}"] for kind in RETRANSMITS}
        if old and interval.ns:
            for name, probe in (
                    ("connects", "tcp_state"), ("connects_failed", "tcp_state"),
                    ("accepts", "tcp_state"), ("closes", "tcp_state"), ("drops", "tcp_drop"),
                    ("resets_sent", "tcp_rst_out"), ("resets_received", "tcp_rst_in")):
                if self._engine.live(probe):
                    setattr(layer, f"{name}_per_s", rate(new[name], old[name], interval.ns))
        self._connect_latency(layer, interval)

    def _connect_latency(self, layer: Tcp, interval: Interval) -> None:
        if self._engine is None or not self._engine.live("tcp_state"):
            return
        old, new = self._latency
        if old and interval.ns:
            grown = [a - b for a, b in zip(new, old, strict=True)]
            layer.connect_latency = hist.from_counts(grown[2:], grown[0])

    def _note(self, layer: Tcp) -> None:
        if self._namespaces.refused:
            layer.notes.append(self._namespaces.refused)
        if layer.namespaces_cut:
            layer.notes.append(f"{layer.namespaces_cut} network namespaces are not read")
        if self._drops is not None and self._drops.symbols.hidden:
            layer.notes.append(
                "kernel symbols are hidden (no CAP_SYSLOG, or kernel.kptr_restrict is 2)")

    def set_threshold(self, ns: int) -> None:
        """Nothing here is slow by a threshold."""

    def close(self) -> None:
        """Unmap the ring, let go of the namespace."""
        self._namespaces.close()
        super().close()


def _cgroup(tick: Tick, pid: int | None, noted: int | None) -> int | None:
    """Where a process is now; where it was when it took the socket, if it is there no longer."""
    row = tick.process(pid) if pid else None
    return row.cgroup if row is not None and row.cgroup is not None else noted
