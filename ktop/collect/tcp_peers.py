"""Connections folded by command, cgroup and peer: what is open, what came and went in a minute."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from ktop import hist
from ktop.collect.tcp_table import Entry, Interval
from ktop.model import Hist
from ktop.model_tcp import PEERS_PER_FRAME, PIDS_PER_ROW, Peer, TcpEvent

WINDOW_NS = 60_000_000_000
MAX_PEERS = 20_000
_Key = tuple[str, str, str, int, int | None]  # direction, command, remote, port, cgroup


@dataclass
class _Tick:
    """What happened in one tick."""

    time_ns: int
    opened: int = 0
    failed: int = 0
    closed: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    kinds: dict[str, int] = field(default_factory=dict)
    latencies: list[int] = field(default_factory=list)
    pids: dict[int, None] = field(default_factory=dict)


class _Fold:
    __slots__ = ("connections", "pids", "retrans", "rtt_sum", "rtts", "rx", "segments", "since",
                 "ticks", "tx")

    def __init__(self, since: int) -> None:
        self.ticks: deque[_Tick] = deque()
        self.pids: dict[int, int] = {}  # connections that are open, by process
        self.since = since
        self.connections = self.rtt_sum = self.rtts = 0
        self.clear()

    def clear(self) -> None:
        """Another interval begins."""
        self.tx = self.rx = self.segments = self.retrans = 0


class Peers:
    """By (direction, command, remote address, service port, cgroup)."""

    def __init__(self) -> None:
        self._folds: dict[_Key, _Fold] = {}
        self._start: int | None = None
        self._ports: set[tuple[int, int]] = set()  # (namespace, port) that something listens on

    def listen(self, ports: set[tuple[int, int]]) -> None:
        """What tells the direction of connections older than ktop."""
        self._ports = ports

    def _fold(self, key: _Key, now: int) -> _Fold:
        fold = self._folds.get(key)
        if fold is None:
            if len(self._folds) >= MAX_PEERS:
                self._prune(now)
            fold = self._folds[key] = _Fold(now)
        return fold

    def _prune(self, now: int) -> None:
        for key in [k for k, f in self._folds.items() if not f.connections and not f.ticks]:
            del self._folds[key]
        while len(self._folds) >= MAX_PEERS:  # the oldest go
            del self._folds[next(iter(self._folds))]

    def key_of(self, entry: Entry, remote: str, comm: str | None) -> _Key:
        """Where a connection belongs."""
        r = entry.record
        if entry.active is None:
            entry.active = (r.netns, r.local_port) not in self._ports
        port = r.remote_port if entry.active else r.local_port
        return "out" if entry.active else "in", comm or "-", remote, port, entry.cgroup

    def place(self, entry: Entry, key: _Key, now: int, closed: bool = False) -> None:
        """Add what a connection did in this interval; keep count of it while it is open."""
        if entry.peer != key or entry.peer_pid != entry.record.pid:
            self.remove(entry)
        fold = self._fold(key, now)
        if closed:
            self.remove(entry)
        else:
            if entry.peer is None:
                entry.peer, entry.peer_pid = key, entry.record.pid
                fold.connections += 1
                fold.pids[entry.peer_pid] = fold.pids.get(entry.peer_pid, 0) + 1
            self._measure(fold, entry)
        fold.tx += entry.tx or 0
        fold.rx += entry.rx or 0
        fold.segments += entry.segments or 0
        fold.retrans += entry.retrans or 0

    @staticmethod
    def _measure(fold: _Fold, entry: Entry) -> None:
        """Keep the sum of the round-trip times of what is open."""
        new = entry.rtt[1] if entry.rtt else 0
        fold.rtt_sum += new - entry.peer_rtt
        fold.rtts += bool(new) - bool(entry.peer_rtt)
        entry.peer_rtt = new

    def remove(self, entry: Entry) -> None:
        """A connection that is open no longer."""
        if entry.peer is None:
            return
        fold = self._folds.get(entry.peer)
        if fold is not None:
            fold.connections = max(0, fold.connections - 1)
            fold.rtt_sum -= entry.peer_rtt
            fold.rtts -= bool(entry.peer_rtt)
            fold.pids[entry.peer_pid] = fold.pids.get(entry.peer_pid, 0) - 1
            if fold.pids[entry.peer_pid] <= 0:
                del fold.pids[entry.peer_pid]
        entry.peer, entry.peer_rtt = None, 0

    def event(self, e: TcpEvent, now: int) -> None:
        """Count a connect, accept, close or retransmit."""
        if e.kind not in ("connect", "accept", "close", "retransmit"):
            return
        out = e.kind == "connect" or (e.kind != "accept"
                                      and (e.netns, e.local_port) not in self._ports)
        fold = self._fold(("out" if out else "in", e.comm or "-", e.remote,
                           e.remote_port if out else e.local_port, e.cgroup), now)
        if not fold.ticks or fold.ticks[-1].time_ns != now:
            fold.ticks.append(_Tick(now))
        tick = fold.ticks[-1]
        if e.pid:
            tick.pids.pop(e.pid, None)
            tick.pids[e.pid] = None
        result = e.result or "?"
        if e.kind == "close":
            tick.closed += 1
            if result not in ("ok", "EPIPE"):
                tick.failures[result] = tick.failures.get(result, 0) + 1
        elif e.kind == "retransmit":
            tick.kinds[result] = tick.kinds.get(result, 0) + 1
        elif result == "ok":
            tick.opened += 1
            if e.latency_ns is not None:
                tick.latencies.append(e.latency_ns)
        else:
            tick.failed += 1
            tick.failures[result] = tick.failures.get(result, 0) + 1

    def rows(self, now: int, interval: Interval) -> tuple[list[Peer], int]:
        """(busiest first, how many were left out)."""
        self._start = now if self._start is None else self._start
        window = max(1, min(WINDOW_NS, now - self._start))
        found = []
        for key, fold in list(self._folds.items()):
            while fold.ticks and fold.ticks[0].time_ns <= now - WINDOW_NS:
                fold.ticks.popleft()
            if not fold.ticks and not fold.connections and not fold.tx and not fold.rx:
                del self._folds[key]
                continue
            found.append((key, fold))
        found.sort(key=lambda kf: (-kf[1].tx - kf[1].rx, -sum(
            t.opened + t.failed for t in kf[1].ticks), -kf[1].connections, kf[0][:4]))
        rows = [self._row(key, fold, window, interval) for key, fold in found[:PEERS_PER_FRAME]]
        for _, fold in found:
            fold.clear()
        return rows, max(0, len(found) - PEERS_PER_FRAME)

    def _row(self, key: _Key, fold: _Fold, window: int, interval: Interval) -> Peer:
        direction, comm, remote, port, cgroup = key
        pids = dict.fromkeys(pid for tick in reversed(fold.ticks) for pid in reversed(tick.pids))
        pids.update(dict.fromkeys(pid for pid in fold.pids if pid))
        failures: dict[str, int] = {}
        kinds: dict[str, int] = {}
        counts: dict[int, int] = {}
        total = longest = 0
        for tick in fold.ticks:
            for name, n in tick.failures.items():
                failures[name] = failures.get(name, 0) + n
            for name, n in tick.kinds.items():
                kinds[name] = kinds.get(name, 0) + n
            for ns in tick.latencies:
                bucket = hist.slot(ns)
                counts[bucket] = counts.get(bucket, 0) + 1
                total, longest = total + ns, max(longest, ns)
        row = Peer(
            direction, comm, remote, port, window, connections=fold.connections,
            opened=sum(t.opened for t in fold.ticks), failed=sum(t.failed for t in fold.ticks),
            closed=sum(t.closed for t in fold.ticks), failures=failures,
            latency=Hist(counts, total, longest) if counts else None, retrans_kinds=kinds,
            srtt_ns=fold.rtt_sum // fold.rtts if fold.rtts > 0 else None,
            new=self._start is not None and fold.since - self._start > WINDOW_NS, cgroup=cgroup,
            pids=list(pids)[:PIDS_PER_ROW], pids_cut=max(0, len(pids) - PIDS_PER_ROW))
        if interval.ns:
            per = 1e9 / interval.ns
            row.tx_bytes_per_s, row.rx_bytes_per_s = fold.tx * per, fold.rx * per
            row.retrans_per_s = fold.retrans * per
            row.retrans_pct = 100 * fold.retrans / fold.segments if fold.segments else 0.0
        return row
