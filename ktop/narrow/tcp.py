"""TCP as a scope sees it.

Summed anew: connections, bytes, connects and their latency, accepts, closes, retransmits, round
trips, from the accounts by owner, so that connections without a row count too. Kept, because they
are shared: the network namespaces that the scope's sockets or processes are in, with their
interfaces, their own counters and their dropped packets. Unknown: packets dropped and resets by
process, totals since the start. Of a scope, segments are those with data, a drop in the feed is of
the connection or listener that it was sent to.
"""

from __future__ import annotations

from typing import TypeVar

from msgspec.structs import replace

from ktop import hist
from ktop.model import Frame, Hist
from ktop.model_tcp import Connection, Dns, Namespace, Peer, Tcp, TcpEvent, TcpOwner
from ktop.narrow.rules import Within, merged, total, within
from ktop.scope import Members

_Row = TypeVar("_Row", Peer, Dns)
_Ends = tuple[int, str, int, str, int]
# a field of the layer, and of its owners, of which it is the sum
_SUMS = (("tx_bytes_per_s", "tx_bytes_per_s"), ("rx_bytes_per_s", "rx_bytes_per_s"),
         ("segments_out_per_s", "segments_per_s"), ("retrans_per_s", "retrans_per_s"),
         ("connects_per_s", "connects_per_s"), ("connects_failed_per_s", "failed_per_s"),
         ("accepts_per_s", "accepts_per_s"), ("closes_per_s", "closes_per_s"))
_UNKNOWN = ("drops_per_s", "resets_sent_per_s", "resets_received_per_s")


def narrow(layer: Tcp, members: Members, frame: Frame) -> Tcp:
    """The layer with only the scope's sockets. Nothing passed in is changed."""
    has = within(members)
    connections = [c for c in layer.connections if has(c.pid, c.cgroup)]
    listeners = [r for r in layer.listeners if has(r.pid, r.cgroup)]
    spaces = _spaces(layer, members, frame, {c.netns for c in connections}
                     | {r.netns for r in listeners})
    owned = {(c.netns, c.local, c.local_port, c.remote, c.remote_port) for c in connections}
    ports = {(r.netns, r.local_port) for r in listeners}
    kept = {n.id for n in spaces}
    found = replace(
        layer, connections=connections, listeners=listeners, namespaces=spaces,
        events=[e for e in layer.events if _about(e, has, owned, ports)],
        drops=[d for d in layer.drops if d.netns in kept],
        interfaces=[i for i in layer.interfaces if i.netns in kept], totals={}, retransmits={})
    for name in _UNKNOWN:
        setattr(found, name, None)
    if not layer.owned:
        return _older(found, layer)
    found.owners = [o for o in layer.owners if has(o.pid, o.cgroup)]
    _totals(found, layer)
    found.peers = [p for p in (_part(p, members, has) for p in layer.peers) if p is not None]
    _measure(found, layer)
    found.dns = [d for d in (_part(d, members, has) for d in layer.dns) if d is not None]
    return found


def _spaces(layer: Tcp, members: Members, frame: Frame, used: set[int]) -> list[Namespace]:
    """Those that its sockets are in, or processes of its control groups."""
    groups = members.cgroups
    if groups is None:
        groups = frozenset(p.cgroup for p in frame.processes.rows
                           if p.pid in members.pids and p.cgroup is not None)
    return [n for n in layer.namespaces if n.id in used or not groups.isdisjoint(n.cgroups)]


def _about(e: TcpEvent, has: Within, owned: set[_Ends], ports: set[tuple[int, int]]) -> bool:
    """Whether an event is the scope's; what has no owner (a drop) goes by its addresses."""
    if e.pid is not None or e.cgroup is not None:
        return has(e.pid, e.cgroup)
    return (e.netns, e.local, e.local_port, e.remote, e.remote_port) in owned or (
        e.kind in ("drop", "reset_sent") and (e.netns, e.local_port) in ports)


def _totals(found: Tcp, layer: Tcp) -> None:
    owners: list[TcpOwner] = found.owners
    for name, field in _SUMS:
        value = total(getattr(o, field) for o in owners)
        setattr(found, name, value if getattr(layer, name) is not None else None)
    found.connections_total = sum(o.connections for o in owners)
    found.rtt = merged(o.rtt for o in owners)
    if layer.connect_latency is not None:
        found.connect_latency = merged(o.connect_latency for o in owners) or Hist({})


def _older(found: Tcp, layer: Tcp) -> Tcp:
    """From a recording that tells owners of connections only: sums while all of them are there."""
    rows = found.connections
    ended = sum(1 for c in layer.connections if c.state == "CLOSED")
    whole = layer.connections_total is not None and (
        len(layer.connections) - ended >= layer.connections_total)
    for name, field in (("tx_bytes_per_s", "tx_bytes_per_s"), ("rx_bytes_per_s", "rx_bytes_per_s"),
                        ("segments_out_per_s", "segments_out_per_s"),
                        ("retrans_per_s", "retrans_per_s")):
        setattr(found, name, total(getattr(c, field) for c in rows) if whole else None)
    for name in ("connects_per_s", "connects_failed_per_s", "accepts_per_s", "closes_per_s"):
        setattr(found, name, None)
    opened = [c for c in rows if c.state != "CLOSED"]
    found.connections_total = len(opened) if whole else None
    found.rtt = _rtt(opened) if whole else None
    found.connect_latency, found.peers, found.dns, found.peers_cut = None, [], [], 0
    return found


def _rtt(rows: list[Connection]) -> Hist | None:
    samples = [c.srtt_ns for c in rows if c.srtt_ns and c.state == "ESTAB"]
    counts: dict[int, int] = {}
    for ns in samples:
        counts[hist.slot(ns)] = counts.get(hist.slot(ns), 0) + 1
    return Hist(counts, sum(samples)) if counts else None


def _part(row: _Row, members: Members, has: Within) -> _Row | None:
    """A fold is of one cgroup. Of some of its processes the counts are not known."""
    if members.cgroups is not None and row.cgroup is not None:
        return row if has(None, row.cgroup) else None
    inside = [pid for pid in row.pids if pid in members.pids]
    if not inside:
        return None
    if len(inside) == len(row.pids) and not row.pids_cut:
        return row
    unknown = dict.fromkeys(("opened", "failed", "closed", "queries", "answers", "tx_bytes_per_s",
                             "rx_bytes_per_s", "retrans_per_s", "retrans_pct", "srtt_ns"))
    fields = {name: None for name in unknown if name in row.__struct_fields__}
    part = replace(row, pids=inside, pids_cut=0, failures={}, latency=None, **fields)
    if isinstance(part, Peer):
        part.retrans_kinds, part.connections = {}, 0
    return part


def _measure(found: Tcp, layer: Tcp) -> None:
    """What the scope's connections say of the peers of which it is only a part."""
    parts = {(p.direction, p.comm, p.remote, p.port, p.cgroup): p
             for p in found.peers if p.opened is None}
    if not parts:
        return
    mine: dict[int, list[Connection]] = {}
    for c in found.connections:
        key = ("out" if c.active else "in", c.comm or "-", c.remote,
               c.remote_port if c.active else c.local_port, c.cgroup)
        if key in parts:
            mine.setdefault(id(parts[key]), []).append(c)
    for peer in parts.values():
        rows = mine.get(id(peer), [])
        opened = [c for c in rows if c.state != "CLOSED"]
        peer.connections = len(opened)
        for name in ("tx_bytes_per_s", "rx_bytes_per_s", "retrans_per_s"):
            setattr(peer, name, total(getattr(c, name) for c in rows))
        rtts = [c.srtt_ns for c in opened if c.srtt_ns]
        peer.srtt_ns = sum(rtts) // len(rtts) if rtts else None


def notes(layer: Tcp, members: Members) -> list[str]:
    """What is not the scope's own, in words for the help."""
    found = ["Namespaces, their interfaces, counters and drops by reason are those of the network "
             "namespaces that the scope is in, whoever else uses them. Drops and resets are not "
             "counted by process; those in the feed are found by their addresses.",
             "Segments a second are those with data; retransmits are those of the scope's sockets."]
    if not layer.owned:
        return [*found, "This recording tells the owners of connections only: peers, DNS, connects "
                "and accepts are not known for a part of the host."]
    if members.cgroups is None:
        found.append("A peer or DNS server that other processes of the same command and control "
                     "group talk to as well: of one process only its connections and their rates "
                     "are known.")
    return found
