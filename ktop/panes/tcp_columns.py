"""The columns of the TCP pane."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ktop import format as fmt
from ktop import theme
from ktop.history_feeds import Fed
from ktop.model_tcp import (
    Connection,
    Dns,
    Drop,
    Listener,
    Namespace,
    Peer,
    Tcp,
    TcpEvent,
)
from ktop.panes.base import Names
from ktop.panes.figures import NEVER, figure, percentile
from ktop.widgets.columns import Column

_RETRANS_WARN, _RETRANS_BAD = 0.1, 1.0   # % of segments sent again
_SLOW_NS, _BAD_NS = 100e6, 500e6         # a round trip or handshake that somebody notices


def endpoint(host: str, port: int) -> str:
    """1.2.3.4:80, [::1]:80; "-" when the address is not known."""
    if not host:
        return "-"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Spaces:
    """Network namespaces by number."""

    def __init__(self, names: Names) -> None:
        self._names, self._known = names, dict[int, str]()

    def learn(self, layer: Tcp) -> None:
        """Take the names of this tick; those of namespaces that are gone are kept for the feed."""
        if len(self._known) > Names.LIMIT:
            self._known.clear()
        for row in layer.namespaces:
            known = row.cgroup is not None and row.cgroup > 1
            self._known[row.id] = row.name or (
                self._names.cgroup(row.cgroup) if known else str(row.id))

    def cgroup(self, number: int | None) -> str:
        """A control group by number."""
        return self._names.cgroup(number)

    def name(self, number: int) -> str:
        """`host`, its name under /run/netns, its container's, else its inode number."""
        return self._known.get(number, str(number) if number else "-")


def _bytes(key: str, title: str, field: str, text: str) -> Column:
    return figure(key, title, 6, fmt.size, field, text, (NEVER, NEVER, 1))


def _rate(key: str, title: str, field: str, text: str, warn: float = NEVER, bad: float = NEVER,
          width: int = 6) -> Column:
    return figure(key, title, width, fmt.rate, field, text, (warn, bad, 1e-9))


def _count(key: str, title: str, get: Callable[[Any], int | None], text: str,
           warn: float = NEVER, bad: float = NEVER) -> Column:
    return figure(key, title, 6, fmt.count, get, text, (warn, bad, 1))


def _time(key: str, title: str, get: Callable[[Any], float | None], text: str,
          warn: float = NEVER, bad: float = NEVER) -> Column:
    return figure(key, title, 6, fmt.duration, get, text, (warn, bad, 1))


def _retrans_pct() -> Column:
    return Column("retrans_pct", "RTR%", 5, lambda r: fmt.pct(r.retrans_pct),
                  sort=lambda r: r.retrans_pct, kind="number",
                  style=lambda r: theme.load(r.retrans_pct, _RETRANS_WARN, _RETRANS_BAD, 1e-9),
                  help="segments sent again, % of the segments with data sent")


def _process(names: Names) -> list[Column]:
    return [
        Column("cgroup", "CGROUP", 12, lambda r: names.cgroup(r.cgroup), "left",
               sort=lambda r: names.cgroup(r.cgroup), help="its container, pod or unit"),
        Column("pid", "PID", 7, lambda r: "-" if r.pid is None else str(r.pid),
               sort=lambda r: r.pid, help="the process that holds it, or held it last"),
        Column("command", "COMMAND", 12, lambda r: r.comm or "-", "left",
               sort=lambda r: (r.comm or "").casefold(), min_width=10,
               style=lambda r: "normal" if r.comm else "dim", help="that process's name"),
    ]


def flags(c: Connection) -> str:
    """What is out of the ordinary about a connection, in a word or two."""
    found = ["ZWIN"] if c.zero_window else []
    if c.recovery:
        found.append("LOSS" if c.recovery == "loss" else "RECOV")
    if c.rcv_wnd_bytes == 0 and c.state == "ESTAB":
        found.append("FULL")
    return " ".join(found)


def _flags_style(c: Connection) -> str:
    return "bad" if c.zero_window or c.recovery == "loss" else "warn"


def connection_columns(names: Names, spaces: Spaces) -> list[Column]:
    """Rows are Connections."""
    return [
        Column("remote", "REMOTE", 21, lambda c: endpoint(c.remote, c.remote_port), "left",
               sort=lambda c: (c.remote, c.remote_port),
               style=lambda c: "dim" if c.state == "CLOSED" else "strong",
               help="the other end; never resolved to a name"),
        Column("dir", "DIR", 3, lambda c: "-" if c.active is None else "out" if c.active else "in",
               "left", sort=lambda c: c.active, style=lambda c: "dim",
               help="out: made here; in: accepted here"),
        _bytes("tx", "TX/s", "tx_bytes_per_s", "bytes sent a second, without retransmits"),
        _bytes("rx", "RX/s", "rx_bytes_per_s", "bytes received in order a second"),
        _time("rtt", "RTT", lambda c: c.srtt_ns, "smoothed round-trip time (srtt_us)",
              _SLOW_NS, _BAD_NS),
        _retrans_pct(),
        _rate("retrans", "RTR/s", "retrans_per_s", "segments sent again a second", 0.05, 10),
        Column("flags", "FLAGS", 5, flags, "left", sort=flags, style=_flags_style,
               help="ZWIN: the peer takes no more; FULL: we take no more; LOSS: after a "
                    "retransmission timeout; RECOV: in fast recovery"),
        _bytes("unacked", "UNACK", "unacked_bytes", "sent, not acknowledged"),
        _bytes("unsent", "UNSENT", "unsent_bytes", "written by the process, not sent"),
        _bytes("unread", "UNREAD", "unread_bytes", "received, not read by the process"),
        _count("cwnd", "CWND", lambda c: c.cwnd, "congestion window, segments"),
        Column("state", "STATE", 10, lambda c: c.state, "left", sort=lambda c: c.state,
               style=lambda c: "dim" if c.state in ("ESTAB", "CLOSED") else "warn",
               help="as ss(8) abbreviates it; CLOSED: ended in this interval"),
        Column("local", "LOCAL", 21, lambda c: endpoint(c.local, c.local_port), "left",
               sort=lambda c: (c.local, c.local_port), help="our end"),
        _time("rttvar", "RTTVAR", lambda c: c.rttvar_ns, "its mean deviation (mdev_us)"),
        _time("minrtt", "MINRTT", lambda c: c.min_rtt_ns, "least round trip of late"),
        _time("rto", "RTO", lambda c: c.rto_ns, "retransmission timeout in force"),
        _rate("dsack", "DUP/s", "dsack_dups_per_s",
              "sent again though it had arrived, says the peer (DSACK): late, not lost", 0.5, 10),
        _rate("reord", "REO/s", "reord_seen_per_s", "packets that others overtook", 0.5, 10),
        _time("sent", "SENT", lambda c: None if c.sent_ago_ms is None else c.sent_ago_ms * 1e6,
              "since data was last sent"),
        _time("recv", "RECV",
              lambda c: None if c.received_ago_ms is None else c.received_ago_ms * 1e6,
              "since data was last received"),
        _bytes("total_tx", "TX", "tx_bytes", "bytes sent in all"),
        _bytes("total_rx", "RX", "rx_bytes", "bytes received in all"),
        Column("age", "AGE", 6, lambda c: fmt.age(c.age_ns), sort=lambda c: c.age_ns, kind="ns",
               style=lambda c: "dim", help="since it was established; - when older than ktop"),
        Column("netns", "NETNS", 10, lambda c: spaces.name(c.netns), "left",
               sort=lambda c: spaces.name(c.netns), style=lambda c: "dim",
               help="network namespace"),
        *_process(names),
    ]


def _p(pct: float) -> Callable[[Peer | Dns], float | None]:
    return lambda p: percentile(p.latency, pct)


def counted(found: dict[str, int]) -> str:
    """`ECONNREFUSED 3 ETIMEDOUT 1`, most frequent first."""
    return "  ".join(f"{name} {n}" for name, n in
                     sorted(found.items(), key=lambda item: (-item[1], item[0])))


def peer_columns() -> list[Column]:
    """Rows are Peers."""
    return [
        Column("remote", "PEER", 21,
               lambda p: endpoint(p.remote, p.port) if p.direction == "out" else p.remote, "left",
               sort=lambda p: (p.remote, p.port), style=lambda p: "warn" if p.new else "strong",
               help="the other end; highlighted when it came after ktop's first minute"),
        Column("dir", "DIR", 8,
               lambda p: "out" if p.direction == "out" else f"in :{p.port}", "left",
               sort=lambda p: (p.direction, p.port), style=lambda p: "dim",
               help="out: connected to; in: accepted from, on our port"),
        Column("command", "COMMAND", 10, lambda p: p.comm, "left",
               sort=lambda p: p.comm.casefold(), help="whose connections these are"),
        _count("open", "OPEN", lambda p: p.connections, "connections open now"),
        _count("opened", "CONN", lambda p: p.opened, "established in the last minute"),
        _count("failed", "FAIL", lambda p: p.failed, "connects that failed in the last minute",
               1, 10),
        _time("p50", "P50", _p(50), "median latency to established: SYN to established when we "
              "connect, SYN-ACK to ACK when we accept", _SLOW_NS, _BAD_NS),
        _time("p99", "P99", _p(99), "its 99th percentile", _SLOW_NS, _BAD_NS),
        _bytes("tx", "TX/s", "tx_bytes_per_s", "bytes sent a second, ended connections included"),
        _bytes("rx", "RX/s", "rx_bytes_per_s", "bytes received a second"),
        _time("rtt", "RTT", lambda p: p.srtt_ns, "mean smoothed round trip of those open",
              _SLOW_NS, _BAD_NS),
        _retrans_pct(),
        _rate("retrans", "RTR/s", "retrans_per_s", "segments sent again a second", 0.05, 10),
        Column("why", "FAILURES", 14, lambda p: counted(p.failures), "left",
               sort=lambda p: sum(p.failures.values()), min_width=8, style=lambda p: "bad",
               help="failed connects and connections that ended badly, last minute, by error"),
    ]


def trouble_columns() -> list[Column]:
    """Rows are Peers with retransmits or failures."""
    found = {c.key: c for c in peer_columns()}
    kinds = Column("kinds", "KINDS (LAST MINUTE)", 24, lambda p: counted(p.retrans_kinds), "left",
                   sort=lambda p: sum(p.retrans_kinds.values()), min_width=16,
                   style=lambda p: "warn",
                   help="retransmits by kind: rto (timeout), fast (recovery), tlp (tail loss "
                        "probe), syn, synack, unknown; as far as they were in the feed")
    return [found[k] for k in ("remote", "dir", "command", "retrans", "retrans_pct", "rtt",
                               "failed", "why")] + [kinds]


FEEDS = ("everything", "connections", "trouble")
# packets that are freed undelivered in the life of every healthy host
_ORDINARY = {"NO_SOCKET", "QUEUE_PURGE", "TCP_OLD_DATA", "TCP_OLD_ACK", "TCP_OLD_SEQUENCE",
             "NOT_SPECIFIED", "SOCKET_CLOSE", "TCP_RESET", "TCP_CLOSE"}


def in_feed(e: TcpEvent, which: str) -> bool:
    """Whether an event belongs into that one of FEEDS."""
    life = e.kind in ("connect", "accept", "close")
    if which == "connections":
        return life
    return which == "everything" or (e.result != "ok" if life else not ordinary(e))


def ordinary(what: Drop | TcpEvent) -> bool:
    """A drop of which every host has some."""
    if isinstance(what, Drop):
        return what.reason in _ORDINARY
    return what.kind == "drop" and what.result in _ORDINARY


_KIND_STYLE = {"connect": "accent", "accept": "good", "close": "dim", "retransmit": "warn",
               "drop": "bad", "reset_sent": "warn", "reset_received": "warn"}
_KIND_SHORT = {"retransmit": "retrans", "reset_sent": "rst sent", "reset_received": "rst rcvd"}


def _result_style(f: Fed[TcpEvent]) -> str:
    e = f.event
    if e.kind in ("connect", "accept", "close"):
        return "dim" if e.result == "ok" else "bad"
    return "dim" if ordinary(e) else "warn"


def event_note(e: TcpEvent) -> str:
    """What is to be said about an event besides its result."""
    if e.kind == "close":
        return f"sent {fmt.size(e.tx_bytes)} received {fmt.size(e.rx_bytes)}" + (
            f" resent {e.retrans}" if e.retrans else "")
    if e.kind == "retransmit":
        return f"{e.state}, {fmt.count(e.retrans)} in all" if e.retrans else f"{e.state}"
    if e.kind == "drop":
        return f"{e.protocol} to {endpoint(e.local, e.local_port)}"
    return f"from {endpoint(e.local, e.local_port)}" if e.kind == "connect" else (
        f"to {endpoint(e.local, e.local_port)}")


def feed_columns(names: Names, spaces: Spaces) -> list[Column]:
    """Rows are Fed TcpEvents."""
    return [
        Column("time", "TIME", 8, lambda f: fmt.clock_time(f.event.time_ns), "left",
               style=lambda f: "dim", help="time of day"),
        Column("kind", "EVENT", 8, lambda f: _KIND_SHORT.get(f.event.kind, f.event.kind), "left",
               style=lambda f: "dim" if ordinary(f.event) else _KIND_STYLE.get(
                   f.event.kind, "normal"),
               help="connect, accept, close, retrans, drop, rst sent, rst rcvd"),
        Column("remote", "REMOTE", 21, lambda f: endpoint(f.event.remote, f.event.remote_port),
               "left", style=lambda f: "strong", help="the other end; of a drop its source"),
        Column("result", "RESULT", 14, lambda f: f.event.result or "-", "left",
               style=_result_style,
               help="ok, the error, or aborted (the process gave up); the kind of a retransmit; "
                    "the kernel's reason for a drop or reset"),
        Column("latency", "TIME TO", 7, lambda f: fmt.duration(f.event.latency_ns), kind="ns",
               value=lambda f: f.event.latency_ns,
               style=lambda f: "dim" if f.event.kind == "close" else theme.load(
                   f.event.latency_ns, _SLOW_NS, _BAD_NS, quiet=1),
               help="until established (or failed); of a close, how long it was open"),
        Column("note", "DETAIL", 24, lambda f: event_note(f.event), "left",
               help="bytes in all for a close; our end otherwise"),
        Column("pid", "PID", 7, lambda f: "-" if f.event.pid is None else str(f.event.pid),
               help="its process id"),
        Column("cgroup", "CGROUP", 12, lambda f: names.cgroup(f.event.cgroup), "left",
               help="its container, pod or unit"),
        Column("netns", "NETNS", 10, lambda f: spaces.name(f.event.netns), "left",
               style=lambda f: "dim", help="network namespace"),
        Column("command", "COMMAND", 12, lambda f: f.event.comm or "-", "left", min_width=10,
               style=lambda f: "normal" if f.event.comm else "dim", help="whose it is"),
    ]


def _full(row: Listener) -> float | None:
    return 100 * row.backlog / (row.backlog_max + 1)


def listener_columns(names: Names, spaces: Spaces) -> list[Column]:
    """Rows are Listeners."""
    return [
        Column("local", "LISTENS ON", 22, lambda r: endpoint(r.local, r.local_port), "left",
               sort=lambda r: (r.local_port, r.local), style=lambda r: "strong",
               help="address and port"),
        Column("backlog", "QUEUE", 6, lambda r: fmt.count(r.backlog), sort=lambda r: r.backlog,
               style=lambda r: theme.load(_full(r), 50, 90, quiet=1e-9),
               help="connections established and waiting for accept(2) (sk_ack_backlog)"),
        _count("max", "LIMIT", lambda r: r.backlog_max,
               "at most so many wait (sk_max_ack_backlog); one more is let in"),
        _count("syn", "SYNQ", lambda r: r.syn_queue, "handshakes under way"),
        _rate("accepts", "ACC/s", "accepts_per_s", "connections established a second, all "
              "sockets of this port"),
        _rate("drops_s", "DROP/s", "drops_per_s", "SYNs and connections refused a second", 0.01, 1),
        _count("drops", "DROPS", lambda r: r.drops_total, "the same in all (sk_drops)", 1, 1e18),
        Column("netns", "NETNS", 10, lambda r: spaces.name(r.netns), "left",
               sort=lambda r: spaces.name(r.netns), style=lambda r: "dim",
               help="network namespace"),
        *_process(names),
    ]


def _track(row: Namespace) -> float | None:
    if row.conntrack_count is None or not row.conntrack_max:
        return None
    return 100 * row.conntrack_count / row.conntrack_max


def namespace_columns(spaces: Spaces) -> list[Column]:
    """Rows are Namespaces."""
    return [
        Column("name", "NETNS", 14, lambda r: spaces.name(r.id), "left",
               sort=lambda r: spaces.name(r.id), style=lambda r: "strong",
               help="network namespace: host, its name under /run/netns, or its container"),
        _count("sockets", "SOCKS", lambda r: r.sockets, "TCP connections"),
        _count("tw", "TIMEW", lambda r: r.time_wait, "connections in TIME-WAIT (sockstat)"),
        _rate("over", "OVER/s", "listen_overflows_per_s",
              "connections refused because an accept queue was full (ListenOverflows)", 0.01, 1),
        _count("over_all", "OVERFL", lambda r: r.listen_overflows_total, "the same in all", 1),
        _rate("ldrop", "LDRP/s", "listen_drops_per_s",
              "SYNs and ACKs dropped by listeners (ListenDrops)", 0.01, 1),
        _rate("retrans", "RTR/s", "retrans_per_s", "segments sent again (RetransSegs)", 1, 100),
        _count("ct", "CTRACK", lambda r: r.conntrack_count, "connection tracking entries"),
        Column("ct_pct", "CT%", 5, lambda r: fmt.pct(_track(r)), sort=_track,
               style=lambda r: theme.load(_track(r), 70, 90),
               help="of its limit (nf_conntrack_max)"),
        _rate("ct_fail", "CTFL/s", "conntrack_insert_failed_per_s",
              "entries that could not be inserted", 0.01, 1),
        _rate("ct_drop", "CTDR/s", "conntrack_drops_per_s",
              "packets dropped by connection tracking, early drops included", 0.01, 1),
        _count("procs", "PROCS", lambda r: r.processes, "processes in it"),
        Column("cgroup", "CGROUP", 12, lambda r: spaces.cgroup(r.cgroup), "left",
               sort=lambda r: spaces.cgroup(r.cgroup), min_width=8,
               help="container, pod or unit of one of its processes"),
    ]


def drop_columns(spaces: Spaces) -> list[Column]:
    """Rows are Drops."""
    return [
        Column("reason", "REASON", 22, lambda d: d.reason, "left", sort=lambda d: d.reason,
               style=lambda d: "dim" if ordinary(d) else "strong",
               help="enum skb_drop_reason of the running kernel; dim: every host has some"),
        Column("rate", "DROP/s", 6, lambda d: fmt.rate(d.per_s), sort=lambda d: d.per_s,
               style=lambda d: "dim" if ordinary(d) else theme.load(d.per_s, 0.01, 100, 1e-9),
               help="packets dropped a second"),
        _count("total", "TOTAL", lambda d: d.total, "since ktop started"),
        Column("proto", "L4", 3, lambda d: d.protocol, "left", sort=lambda d: d.protocol,
               help="tcp or udp"),
        Column("source", "LAST FROM", 21, lambda d: d.source or "-", "left",
               sort=lambda d: d.source, help="source of the last one seen"),
        Column("dest", "LAST TO", 21, lambda d: d.destination or "-", "left",
               sort=lambda d: d.destination, help="its destination"),
        Column("netns", "NETNS", 10, lambda d: spaces.name(d.netns), "left",
               sort=lambda d: spaces.name(d.netns), style=lambda d: "dim",
               help="network namespace"),
        Column("place", "DROPPED IN", 20, lambda d: d.place or "-", "left",
               sort=lambda d: d.place, min_width=14, help="the kernel function that dropped it"),
    ]


def interface_columns(spaces: Spaces) -> list[Column]:
    """Rows are Interfaces."""
    return [
        Column("name", "INTERFACE", 15, lambda i: i.name, "left", sort=lambda i: i.name,
               style=lambda i: "strong", help="network interface"),
        _bytes("rx", "RX B/s", "rx_bytes_per_s", "bytes received a second (/proc/net/dev)"),
        _bytes("tx", "TX B/s", "tx_bytes_per_s", "bytes sent a second"),
        _rate("rxp", "RXP/s", "rx_packets_per_s", "packets received a second"),
        _rate("txp", "TXP/s", "tx_packets_per_s", "packets sent a second"),
        _rate("rxd", "RXDR/s", "rx_drops_per_s", "received packets dropped a second", 0.01, 100),
        _rate("txd", "TXDR/s", "tx_drops_per_s", "packets to send dropped a second", 0.01, 100),
        _rate("rxe", "RXER/s", "rx_errors_per_s", "receive errors a second", 0.01, 1),
        _rate("txe", "TXER/s", "tx_errors_per_s", "transmit errors a second", 0.01, 1),
        _count("drops", "DROPS", lambda i: i.drops_total, "drops in all, both ways"),
        _count("errors", "ERRORS", lambda i: i.errors_total, "errors in all, both ways", 1, 1e18),
        Column("netns", "NETNS", 10, lambda i: spaces.name(i.netns), "left",
               sort=lambda i: spaces.name(i.netns), style=lambda i: "dim", min_width=8,
               help="network namespace"),
    ]


def dns_columns(spaces: Spaces) -> list[Column]:
    """Rows are Dns."""
    return [
        Column("server", "SERVER", 21, lambda d: d.server, "left", sort=lambda d: d.server,
               style=lambda d: "strong", help="the server asked (UDP port 53)"),
        _count("queries", "ASKED", lambda d: d.queries, "queries in the last minute"),
        _count("failed", "FAILED",
               lambda d: None if d.queries is None else sum(d.failures.values()),
               "without a good answer", 1, 10),
        _time("p50", "P50", _p(50), "median time to the answer", _SLOW_NS, _BAD_NS),
        _time("p99", "P99", _p(99), "its 99th percentile", _SLOW_NS, _BAD_NS),
        Column("command", "COMMAND", 14, lambda d: d.comm or "-", "left",
               sort=lambda d: d.comm.casefold(), help="who asked"),
        Column("why", "FAILURES", 20, lambda d: counted(d.failures), "left",
               sort=lambda d: sum(d.failures.values()), style=lambda d: "bad",
               help="by result: NXDOMAIN, SERVFAIL..., timeout"),
        Column("netns", "NETNS", 10, lambda d: spaces.name(d.netns), "left",
               sort=lambda d: spaces.name(d.netns), style=lambda d: "dim",
               help="network namespace"),
        Column("name", "LAST NAME", 16, lambda d: d.last_name or "-", "left",
               sort=lambda d: d.last_name, min_width=10, help="what was asked last"),
    ]
