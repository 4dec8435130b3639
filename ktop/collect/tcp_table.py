"""Connections out of the iterators' records: differences by socket, rates, rows.

An idle socket writes the same bytes each tick: what did not change is not decoded (as in
collect/tasks.py). A row is made only for those that are shown.
"""

from __future__ import annotations

import heapq
import struct
from dataclasses import dataclass
from typing import Any

from ktop import hist
from ktop.bpf.tcp_layer import ACTIVE, LOSS, PASSIVE, RECOVERY, SOCK_STRUCT, SockRecord
from ktop.collect.tcp_records import (
    ESTABLISHED,
    LISTEN,
    EventRecord,
    address,
    command,
    state_name,
)
from ktop.model_tcp import CONNECTIONS_PER_FRAME, Connection, Listener

_CUT = struct.Struct(f"{SOCK_STRUCT.size}s")
_LISTENERS = 500
_NOBODY = bytes(12)
Key = bytes  # of a socket: its address and ports, as they stand in the record
_PORTS = SOCK_STRUCT.size - struct.calcsize("@HHHBB16s16s16s")
_HZ = (100, 250, 300, 1000)


@dataclass(frozen=True)
class Interval:
    """The time rates are over. jiffies: now, None when unknown; hz: jiffies a second."""

    last_ns: int | None
    now: int
    jiffies: int | None = None
    hz: int | None = None

    @property
    def ns(self) -> int | None:
        """Length; None on the first read."""
        return None if self.last_ns is None else self.now - self.last_ns


class Entry:
    """One socket. tx, rx, segments, retrans, dups, reordered: what was added in the interval; None
    when unknown."""

    __slots__ = ("active", "cgroup", "dups", "holder", "holder_rtt", "id", "owner", "peer",
                 "peer_pid", "peer_rtt", "record", "reordered", "retrans", "rtt", "rx", "segments",
                 "tx")

    def __init__(self, number: int, record: SockRecord) -> None:
        self.id, self.record = number, record
        self.tx: int | None = None
        self.rx: int | None = None
        self.segments: int | None = None
        self.retrans: int | None = None
        self.dups: int | None = None
        self.reordered: int | None = None
        self.active: bool | None = None
        self.cgroup: int | None = record.cgroup or None     # its owner's
        self.owner: tuple[bytes, int | None] | None = None  # when it was put into its fold
        self.peer: tuple[str, str, str, int, int | None] | None = None  # the fold it is counted in
        self.peer_pid = self.peer_rtt = 0                   # and with which process, and srtt, ns
        self.holder: tuple[int | None, int | None] | None = None  # the same by owner
        self.holder_rtt: tuple[int, int] | None = None
        self.rtt: tuple[int, int] | None = None  # (bucket, srtt ns) counted in the histogram

    def advance(self, record: SockRecord, base: SockRecord | None) -> None:
        """A new record. base: the last one, None when all of it is new."""
        self.record = record
        if base is None:
            self.tx, self.rx = record.tx_bytes, record.rx_bytes
            self.segments, self.retrans = record.data_segs_out, record.retrans
            self.dups, self.reordered = record.dsack_dups, record.reord_seen
            return
        self.tx = max(0, record.tx_bytes - base.tx_bytes)
        self.rx = max(0, record.rx_bytes - base.rx_bytes)
        self.segments = (record.data_segs_out - base.data_segs_out) & 0xFFFFFFFF
        self.retrans = (record.retrans - base.retrans) & 0xFFFFFFFF
        self.dups = (record.dsack_dups - base.dsack_dups) & 0xFFFFFFFF
        self.reordered = (record.reord_seen - base.reord_seen) & 0xFFFFFFFF

    def rest(self) -> None:
        """Nothing happened in the interval."""
        self.tx = self.rx = self.segments = self.retrans = self.dups = self.reordered = 0


class TcpTable:
    """Every socket that is open, by its identity.

    changed: entries whose figures moved in the last update; closed: those that ended in it, with
    their last bytes. touched entries carry new figures for whoever folds them.
    """

    def __init__(self) -> None:
        self._seen: dict[Key, bytes] = {}
        self._entries: dict[Key, Entry] = {}
        self._leaving: dict[Key, Entry] = {}
        self._unsettled: set[Key] = set()
        self._listeners: dict[Key, Entry] = {}
        self._serial = 0
        self._rtt: dict[int, int] = {}
        self._rtt_sum = 0
        self._jiffies: tuple[int, int] | None = None
        self.hz: int | None = None
        self.changed: list[Entry] = []
        self.closed: list[Entry] = []
        self.gone: list[Entry] = []
        self.unowned = 0

    def _new(self, record: SockRecord) -> Entry:
        self._serial += 1
        return Entry(self._serial, record)

    def close(self, events: list[EventRecord], last_ns: int | None) -> None:
        """Take the final counts of sockets that closed, before `update` of the same tick."""
        self.closed = []
        for e in events:
            entry = self._entries.pop(e.key, None) or self._leaving.pop(e.key, None)
            final: dict[str, Any] = {"tx_bytes": e.tx_bytes, "rx_bytes": e.rx_bytes,
                                     "retrans": e.retrans, "state": e.state}
            if entry is None:
                blank = SOCK_STRUCT.unpack(bytes(SOCK_STRUCT.size))
                record = SockRecord._make(blank)._replace(
                    sk=e.sk, born_ns=e.time_ns - e.latency_ns if e.latency_ns else 0,
                    cgroup=e.cgroup, netns=e.netns, uid=e.uid, pid=e.pid, flags=e.flags,
                    local_port=e.local_port, remote_port=e.remote_port, family=e.family,
                    local=e.local, remote=e.remote, comm=e.comm, **final)
                entry = self._new(record)
                if last_ns is not None and record.born_ns > last_ns:
                    entry.advance(record, None)
            else:
                old = entry.record
                whose: dict[str, Any] = (
                    {"pid": e.pid, "comm": e.comm, "cgroup": e.cgroup} if e.pid else {})
                entry.advance(old._replace(**final, **whose), old)
            self._uncount(entry)
            self.closed.append(entry)

    def update(self, data: bytes, interval: Interval) -> None:
        """Take in one read of all namespaces."""
        current = {chunk[:8] + chunk[_PORTS:_PORTS + 4]: chunk
                   for (chunk,) in _CUT.iter_unpack(data)}
        end = current.pop(_NOBODY, None)
        unpack, make = SOCK_STRUCT.unpack, SockRecord._make
        if end is not None:
            self._clock(make(unpack(end)))
        self.unowned, self.changed = 0, []
        seen = self._seen
        moved = {key: chunk for key, chunk in current.items() if seen.get(key) != chunk}
        self._leave(seen.keys() - current.keys())
        for key, chunk in moved.items():
            self._enter(key, make(unpack(chunk)), interval)
        for key in self._unsettled - moved.keys():
            entry = self._entries.get(key)
            if entry is not None:
                entry.rest()
                self.changed.append(entry)
        self._unsettled = set(moved)
        self._seen = current

    def _clock(self, r: SockRecord) -> None:
        """The kernel's jiffies, and how many there are in a second (CONFIG_HZ)."""
        if self._jiffies is not None and self.hz is None:
            ticks = (r.sent_jiffies - self._jiffies[0]) & 0xFFFFFFFF
            span = r.born_ns - self._jiffies[1]
            if span > 150_000_000:
                self.hz = min(_HZ, key=lambda hz: abs(hz - ticks * 1e9 / span))
        if self._jiffies is None or self.hz is not None:
            self._jiffies = (r.sent_jiffies, r.born_ns)

    def interval(self, last_ns: int | None, now: int) -> Interval:
        """For the rows made after an update."""
        return Interval(last_ns, now, self._jiffies[0] if self._jiffies else None, self.hz)

    def _leave(self, keys: set[Key]) -> None:
        """No longer there: a close event tells the rest, now or in the next tick."""
        self.gone = [*self._leaving.values()]  # no event came: lost, or a namespace that went
        self._leaving = {}
        for key in keys:
            self._listeners.pop(key, None)
            entry = self._entries.pop(key, None)
            if entry is not None:
                self._uncount(entry)
                self._leaving[key] = entry

    def _enter(self, key: Key, r: SockRecord, interval: Interval) -> None:
        listening = r.state == LISTEN
        table = self._listeners if listening else self._entries
        entry = table.get(key)
        if not listening:
            self._listeners.pop(key, None)
        fresh = entry is None or entry.record.remote != r.remote or (
            entry.record.tx_bytes > r.tx_bytes)
        if entry is None or fresh:
            if entry is not None:
                self._uncount(entry)
                self._leaving[key] = entry
            entry = table[key] = self._new(r)
            if interval.last_ns is not None and r.born_ns > interval.last_ns:
                entry.advance(r, None)
        else:
            entry.advance(r, entry.record)
        if not r.pid:
            self.unowned += 1
        if listening:
            return
        flags = r.flags
        if flags & (ACTIVE | PASSIVE):
            entry.active = bool(flags & ACTIVE)
        self._count(entry)
        self.changed.append(entry)

    def _count(self, entry: Entry) -> None:
        """Keep the round-trip histogram of what is established."""
        r = entry.record
        ns = r.srtt_us8 * 125 if r.state == ESTABLISHED else 0
        if entry.rtt is not None:
            if entry.rtt[1] == ns:
                return
            self._uncount(entry)
        if ns:
            entry.rtt = (hist.slot(ns), ns)
            self._rtt[entry.rtt[0]] = self._rtt.get(entry.rtt[0], 0) + 1
            self._rtt_sum += ns

    def _uncount(self, entry: Entry) -> None:
        if entry.rtt is not None:
            bucket, ns = entry.rtt
            self._rtt[bucket] -= 1
            self._rtt_sum -= ns
            entry.rtt = None

    # -- what is shown --------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._entries)

    def entries(self) -> list[Entry]:
        """Every open connection."""
        return list(self._entries.values())

    def leaving(self) -> list[Entry]:
        """Those that are no longer there and have not been heard to close."""
        return list(self._leaving.values())

    def find(self, key: Key) -> Entry | None:
        """An open connection."""
        return self._entries.get(key)

    def listening(self) -> list[Entry]:
        """Every listening socket."""
        return list(self._listeners.values())

    @property
    def rtt(self) -> tuple[dict[int, int], int]:
        """(samples by bucket, their sum): smoothed round-trip times of what is established."""
        return {i: n for i, n in self._rtt.items() if n > 0}, self._rtt_sum

    def shown(self) -> list[Entry]:
        """Those that ended or moved most, then others, up to CONNECTIONS_PER_FRAME."""
        limit = CONNECTIONS_PER_FRAME
        moved = [*self.closed, *self.changed]
        if len(moved) > limit:
            moved = heapq.nlargest(limit, moved, key=_weight)
        if len(moved) == limit or len(moved) >= len(self._entries) + len(self.closed):
            return moved
        chosen = {entry.id for entry in moved}
        rest = (entry for entry in self._entries.values() if entry.id not in chosen)
        if len(self._entries) > 2 * limit:
            for entry, _ in zip(rest, range(limit - len(moved)), strict=False):
                moved.append(entry)
            return moved
        return moved + heapq.nlargest(limit - len(moved), rest, key=_weight)


def _weight(entry: Entry) -> tuple[int, int, int]:
    r = entry.record
    return (entry.tx or 0) + (entry.rx or 0) + 1_000_000 * (entry.retrans or 0), (
        r.unacked_bytes + r.unsent_bytes), -entry.id


def _per_s(amount: int | None, interval: Interval) -> float | None:
    ns = interval.ns
    return None if amount is None or not ns else amount * 1e9 / ns


def _ago(stamp: int, interval: Interval) -> int | None:
    if not stamp or interval.jiffies is None or not interval.hz:
        return None
    return max(0, ((interval.jiffies - stamp) & 0xFFFFFFFF) * 1000 // interval.hz)


def connection(entry: Entry, interval: Interval, closed: bool = False) -> Connection:
    """The row of one socket."""
    r, ns = entry.record, interval.ns
    retrans_pct = None
    if ns and entry.segments is not None and entry.retrans is not None:
        retrans_pct = 100 * entry.retrans / entry.segments if entry.segments else 0.0
    row = Connection(
        id=entry.id, netns=r.netns, local=address(r.family, r.local), local_port=r.local_port,
        remote=address(r.family, r.remote), remote_port=r.remote_port,
        state="CLOSED" if closed else state_name(r.state), active=entry.active,
        pid=r.pid or None, comm=command(r.comm), cgroup=entry.cgroup, uid=r.uid, ino=r.ino or None,
        holders=r.holders, age_ns=interval.now - r.born_ns if r.born_ns else None,
        tx_bytes=r.tx_bytes, rx_bytes=r.rx_bytes, tx_bytes_per_s=_per_s(entry.tx, interval),
        rx_bytes_per_s=_per_s(entry.rx, interval), retrans_total=r.retrans,
        retrans_per_s=_per_s(entry.retrans, interval), retrans_pct=retrans_pct,
        segments_out_per_s=_per_s(entry.segments, interval))
    if closed:
        row.segments_out_per_s = row.retrans_pct = None
        return row
    row.srtt_ns = r.srtt_us8 * 125 or None
    row.rttvar_ns = r.mdev_us4 * 250 if r.srtt_us8 else None
    row.min_rtt_ns = r.min_rtt_us * 1000 if r.min_rtt_us not in (0, 0xFFFFFFFF) else None
    row.rto_ns = r.rto_jiffies * 1_000_000_000 // interval.hz if interval.hz else None
    row.cwnd, row.mss_bytes = r.cwnd, r.mss
    row.unacked_bytes, row.unsent_bytes = r.unacked_bytes, r.unsent_bytes
    row.unread_bytes = r.unread_bytes if r.unread_bytes < 1 << 31 else 0
    row.snd_wnd_bytes, row.rcv_wnd_bytes = r.snd_wnd, r.rcv_wnd
    row.zero_window = r.state in (ESTABLISHED, 8, 4) and not r.snd_wnd
    row.recovery = "loss" if r.flags & LOSS else "recovery" if r.flags & RECOVERY else None
    row.sent_ago_ms = _ago(r.sent_jiffies, interval) if r.tx_bytes else None
    row.received_ago_ms = _ago(r.received_jiffies, interval) if r.rx_bytes else None
    row.dsack_dups_per_s = _per_s(entry.dups, interval)
    row.reord_seen_per_s = _per_s(entry.reordered, interval)
    if r.rate_interval_us:
        row.delivery_bytes_per_s = r.rate_delivered * r.mss * 1e6 / r.rate_interval_us
    return row


def listener(entry: Entry, drops_before: int | None, accepts: int | None,
             interval: Interval) -> Listener:
    """The row of a listening socket. accepts: connections established in the interval."""
    r = entry.record
    grown = None if drops_before is None else (r.drops - drops_before) & 0xFFFFFFFF
    return Listener(
        id=entry.id, netns=r.netns, local=address(r.family, r.local), local_port=r.local_port,
        pid=r.pid or None, comm=command(r.comm), cgroup=entry.cgroup, uid=r.uid,
        holders=r.holders, backlog=r.backlog, backlog_max=r.backlog_max, syn_queue=r.syn_queue,
        drops_total=r.drops, drops_per_s=_per_s(grown, interval),
        accepts_per_s=_per_s(accepts, interval))
