"""DNS queries over UDP port 53 and their answers, folded by process and server over a minute."""

from __future__ import annotations

import contextlib
from collections import deque

from ktop import hist
from ktop.bpf import syscall
from ktop.bpf.engine import Engine
from ktop.bpf.tcp_layer import DNS_STRUCT, DnsRecord
from ktop.collect.tcp_records import address, command
from ktop.model import Hist
from ktop.model_tcp import PIDS_PER_ROW, Dns
from ktop.text import clean

WINDOW_NS = 60_000_000_000
TIMEOUT_NS = 5_000_000_000   # resolv.conf(5)'s own
MAX_QUERIES = 20_000         # remembered of the last minute; the oldest go
_ROWS = 200
# RFC 1035, RFC 2136
_RCODES = {1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED", 6: "YXDOMAIN",
           7: "YXRRSET", 8: "NXRRSET", 9: "NOTAUTH", 10: "NOTZONE"}


def query_name(raw: bytes) -> str:
    """The name asked for, from its labels; what did not fit ends in an ellipsis."""
    labels: list[bytes] = []
    at = 0
    while at < len(raw) and raw[at]:
        size = raw[at]
        if size > 63:
            break
        labels.append(raw[at + 1:at + 1 + size])
        at += 1 + size
    cut = at >= len(raw)
    return clean(b".".join(labels), 80) + ("…" if cut else "")


class DnsFolds:
    """Answered and given-up queries by (command, server, namespace, cgroup)."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._done: deque[tuple[int, DnsRecord]] = deque(maxlen=MAX_QUERIES)
        self._pending: list[DnsRecord] = []

    def take(self, raws: list[bytes]) -> list[bytes]:
        """Take this layer's answers out of what came from the ring; the rest is given back."""
        size = DNS_STRUCT.size
        rest = [raw for raw in raws if len(raw) != size]
        if len(rest) != len(raws):
            self._pending += [DnsRecord._make(DNS_STRUCT.unpack(raw))
                              for raw in raws if len(raw) == size]
            del self._pending[:-MAX_QUERIES]
        return rest

    def _give_up(self, now: int) -> None:
        """Queries without an answer for TIMEOUT_NS."""
        asked = self._engine.loaded.maps.get("tcp_dns_asked")
        if asked is None or not self._engine.live("tcp_dns_out"):
            return
        for key, value in self._engine.read_hash("tcp_dns_asked"):
            r = DnsRecord._make(DNS_STRUCT.unpack(value))
            if now - r.sent_ns < TIMEOUT_NS:
                continue
            self._done.append((now, r))
            with contextlib.suppress(FileNotFoundError):  # answered, or pushed out, meanwhile
                syscall.map_delete(asked.fd, key)

    def rows(self, now: int) -> list[Dns]:
        """The last minute, most queries first."""
        self._done.extend((now, r) for r in self._pending)
        self._pending = []
        self._give_up(now)
        while self._done and self._done[0][0] <= now - WINDOW_NS:
            self._done.popleft()
        found: dict[tuple[str, str, int, int], _Fold] = {}
        for _, r in self._done:
            key = (command(r.comm) or "-", address(r.family, r.server), r.netns, r.cgroup)
            fold = found.get(key)
            if fold is None:
                fold = found[key] = _Fold()
            fold.add(r)
        rows = [fold.row(*key) for key, fold in found.items()]
        return sorted(rows, key=lambda d: (-(d.queries or 0), d.comm, d.server))[:_ROWS]


class _Fold:
    """The queries of one row."""

    def __init__(self) -> None:
        self.queries = self.answers = self.total_ns = self.longest_ns = 0
        self.failures: dict[str, int] = {}
        self.counts: dict[int, int] = {}
        self.pids: dict[int, None] = {}  # newest last
        self.name = b""

    def add(self, r: DnsRecord) -> None:
        """One query, answered or given up."""
        self.queries += 1
        self.name = r.name
        if r.pid:
            self.pids.pop(r.pid, None)
            self.pids[r.pid] = None
        if not r.latency_ns:
            self.failures["timeout"] = self.failures.get("timeout", 0) + 1
            return
        self.answers += 1
        if r.rcode:
            name = _RCODES.get(r.rcode, f"rcode {r.rcode}")
            self.failures[name] = self.failures.get(name, 0) + 1
        bucket = hist.slot(r.latency_ns)
        self.counts[bucket] = self.counts.get(bucket, 0) + 1
        self.total_ns += r.latency_ns
        self.longest_ns = max(self.longest_ns, r.latency_ns)

    def row(self, comm: str, server: str, netns: int, cgroup: int) -> Dns:
        """As it is shown."""
        pids = list(self.pids)[::-1]
        return Dns(
            comm, server, netns, queries=self.queries, answers=self.answers,
            failures=self.failures, last_name=query_name(self.name), cgroup=cgroup or None,
            latency=Hist(self.counts, self.total_ns, self.longest_ns) if self.counts else None,
            pids=pids[:PIDS_PER_ROW], pids_cut=max(0, len(pids) - PIDS_PER_ROW))
