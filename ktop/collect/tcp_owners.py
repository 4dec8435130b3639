"""All sockets by who has them: what no list of connections has room for, summed by process."""

from __future__ import annotations

from ktop import hist
from ktop.collect.tcp_table import Entry, Interval
from ktop.model import Hist
from ktop.model_tcp import OWNERS_PER_FRAME, TcpEvent, TcpOwner

Key = tuple[int | None, int | None]  # process, control group
_EVENTS = {"connect": "connects", "accept": "accepts", "close": "closes"}
_RATES = (("tx_bytes", "tx"), ("rx_bytes", "rx"), ("segments", "segments"), ("retrans", "retrans"),
          ("connects", "connects"), ("failed", "failed"), ("accepts", "accepts"),
          ("closes", "closes"))
_SUMS = tuple(name for _, name in _RATES)


class _Fold:
    """open: connections; the sums are of the interval."""

    __slots__ = (*_SUMS, "latencies", "open", "rtt", "rtt_sum")

    def __init__(self) -> None:
        self.open = self.rtt_sum = 0
        self.rtt: dict[int, int] = {}
        self.clear()

    def clear(self) -> None:
        """Another interval begins."""
        self.tx = self.rx = self.segments = self.retrans = 0
        self.connects = self.failed = self.accepts = self.closes = 0
        self.latencies: list[int] = []

    @property
    def busy(self) -> bool:
        """Whether anything was done in the interval."""
        return any(getattr(self, name) for name in _SUMS)

    def add(self, other: _Fold) -> None:
        """Take in another."""
        self.open += other.open
        self.rtt_sum += other.rtt_sum
        self.latencies += other.latencies
        for bucket, n in other.rtt.items():
            self.rtt[bucket] = self.rtt.get(bucket, 0) + n
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Owners:
    """By (process, control group); None: not known."""

    def __init__(self) -> None:
        self._folds: dict[Key, _Fold] = {}

    def _fold(self, key: Key) -> _Fold:
        fold = self._folds.get(key)
        if fold is None:
            fold = self._folds[key] = _Fold()
        return fold

    def place(self, entry: Entry, key: Key, closed: bool = False) -> None:
        """Add what a connection did in this interval; keep count of it while it is open."""
        if entry.holder != key or closed:
            self.remove(entry)
        fold = self._fold(key)
        if not closed:
            if entry.holder is None:
                entry.holder = key
                fold.open += 1
            self._measure(fold, entry)
        fold.tx += entry.tx or 0
        fold.rx += entry.rx or 0
        fold.segments += entry.segments or 0
        fold.retrans += entry.retrans or 0

    @staticmethod
    def _measure(fold: _Fold, entry: Entry) -> None:
        """Keep the round-trip times of what is open."""
        new, old = entry.rtt, entry.holder_rtt
        if new == old:
            return
        for sample, sign in ((old, -1), (new, 1)):
            if sample is not None:
                fold.rtt[sample[0]] = fold.rtt.get(sample[0], 0) + sign
                fold.rtt_sum += sign * sample[1]
        entry.holder_rtt = new

    def remove(self, entry: Entry) -> None:
        """A connection that is open no longer, or another's now."""
        if entry.holder is None:
            return
        fold = self._folds.get(entry.holder)
        if fold is not None:
            fold.open -= 1
            if entry.holder_rtt is not None:
                fold.rtt[entry.holder_rtt[0]] -= 1
                fold.rtt_sum -= entry.holder_rtt[1]
        entry.holder = entry.holder_rtt = None

    def event(self, e: TcpEvent) -> None:
        """Count a connect, accept or close."""
        name = _EVENTS.get(e.kind)
        if name is None:
            return
        if e.kind == "connect" and e.result != "ok":
            name = "failed"
        fold = self._fold((e.pid, e.cgroup))
        setattr(fold, name, getattr(fold, name) + 1)
        if name == "connects" and e.latency_ns is not None:
            fold.latencies.append(e.latency_ns)

    def rows(self, interval: Interval) -> list[TcpOwner]:
        """Of more than OWNERS_PER_FRAME processes the busiest, the rest summed by cgroup.

        Another interval begins.
        """
        found = [(key, fold) for key, fold in self._folds.items() if fold.open or fold.busy]
        if len(found) > OWNERS_PER_FRAME:
            found.sort(key=lambda kf: (kf[1].tx + kf[1].rx, kf[1].open), reverse=True)
            groups: dict[Key, _Fold] = {}
            for (_, cgroup), fold in found[OWNERS_PER_FRAME:]:
                groups.setdefault((None, cgroup), _Fold()).add(fold)
            found = found[:OWNERS_PER_FRAME] + list(groups.items())
        rows = [_row(key, fold, interval.ns) for key, fold in found]
        for key, fold in list(self._folds.items()):
            if fold.open:
                fold.clear()
            else:
                del self._folds[key]
        return rows


def _row(key: Key, fold: _Fold, interval_ns: int | None) -> TcpOwner:
    row = TcpOwner(*key, connections=fold.open)
    counts = {bucket: n for bucket, n in fold.rtt.items() if n > 0}
    row.rtt = Hist(counts, fold.rtt_sum) if counts else None
    if not interval_ns:
        return row
    for field, name in _RATES:
        setattr(row, f"{field}_per_s", getattr(fold, name) * 1e9 / interval_ns)
    if fold.latencies:
        counts = {}
        for ns in fold.latencies:
            bucket = hist.slot(ns)
            counts[bucket] = counts.get(bucket, 0) + 1
        row.connect_latency = Hist(counts, sum(fold.latencies), max(fold.latencies))
    return row
