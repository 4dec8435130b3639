"""Rows of the TCP layer. Conventions: ktop/model.py.

Fields named after the kernel's are those of struct tcp_sock (include/linux/tcp.h) and its bases.
Addresses are text, never resolved; an IPv4 address mapped into IPv6 is shown as IPv4.
"""

from __future__ import annotations

from ktop.model_block import Limit
from ktop.parts import Hist, Part, Real

CONNECTIONS_PER_FRAME = 1000
EVENTS_PER_FRAME = 500
PEERS_PER_FRAME = 500
OWNERS_PER_FRAME = 500
PIDS_PER_ROW = 16


class Connection(Part):
    """One TCP socket that is not listening. `id` is its identity while it lives.

    netns: inode number of its network namespace. state: as ss(8) abbreviates it, CLOSED when it
    ended in this interval. active: it made the connection (True) or accepted it (False).
    pid, comm, cgroup: who holds a descriptor of it, else who did; `holders`: how many processes.
    tx_bytes: sent, retransmissions not counted (bytes_sent - bytes_retrans); rx_bytes: received in
    order (bytes_received, without the FIN). The rates are of the interval.
    srtt_ns, rttvar_ns: smoothed round-trip time and its mean deviation; min_rtt_ns: the least in
    the last five minutes (tcp_min_rtt_wlen). rto_ns: retransmission timeout in force.
    cwnd: congestion window in segments of `mss_bytes`. retrans_pct: of the segments with data sent
    in this interval. unacked_bytes: snd_nxt - snd_una; unsent_bytes: write_seq - snd_nxt;
    unread_bytes: rcv_nxt - copied_seq. zero_window: the peer takes no more.
    recovery: `loss` (after a timeout), `recovery` (fast retransmit), else None.
    sent_ago_ms, received_ago_ms: since data last went out or came in.
    delivery_bytes_per_s: the kernel's last sample of what the path delivered.
    dsack_dups_per_s: what the peer says had arrived already when it came again (RFC 2883); it is
    told of some of it only. reord_seen_per_s: packets that others overtook, as the kernel noticed.
    ino: of the socket, as readlink(2) of /proc/PID/fd/N names it; None: held by nobody.
    """

    id: int
    netns: int
    local: str
    local_port: int
    remote: str
    remote_port: int
    state: str
    active: bool | None = None
    pid: int | None = None
    comm: str | None = None
    cgroup: int | None = None
    uid: int | None = None
    holders: int = 0
    age_ns: int | None = None
    tx_bytes: int = 0
    rx_bytes: int = 0
    tx_bytes_per_s: Real | None = None
    rx_bytes_per_s: Real | None = None
    srtt_ns: int | None = None
    rttvar_ns: int | None = None
    min_rtt_ns: int | None = None
    rto_ns: int | None = None
    cwnd: int | None = None
    mss_bytes: int | None = None
    segments_out_per_s: Real | None = None
    retrans_total: int = 0
    retrans_per_s: Real | None = None
    retrans_pct: Real | None = None
    unacked_bytes: int = 0
    unsent_bytes: int = 0
    unread_bytes: int = 0
    snd_wnd_bytes: int | None = None
    rcv_wnd_bytes: int | None = None
    zero_window: bool = False
    recovery: str | None = None
    sent_ago_ms: int | None = None
    received_ago_ms: int | None = None
    delivery_bytes_per_s: Real | None = None
    ino: int | None = None
    dsack_dups_per_s: Real | None = None
    reord_seen_per_s: Real | None = None


class Listener(Part):
    """A listening socket. backlog: connections waiting for accept(2) (sk_ack_backlog), at most
    `backlog_max` (+1); syn_queue: handshakes under way; drops: packets it refused (sk_drops).
    """

    id: int
    netns: int
    local: str
    local_port: int
    pid: int | None = None
    comm: str | None = None
    cgroup: int | None = None
    uid: int | None = None
    holders: int = 0
    backlog: int = 0
    backlog_max: int = 0
    syn_queue: int = 0
    drops_total: int = 0
    drops_per_s: Real | None = None
    accepts_per_s: Real | None = None


class Peer(Part):
    """Connections folded by command, cgroup and peer. Counts are of the last minute (`window_ns`).

    direction: `out` (port is the remote one) or `in` (port is ours). connections: open now.
    failures: by result, errno's name or `aborted` (given up by the process). latency: SYN to
    established for `out`, SYN-ACK to ACK for `in`. new: not seen in ktop's first minute.
    Rates, of the interval, include connections that ended in it. srtt_ns: mean of those open now.
    pids: processes behind it, now or in the last minute, newest first; `pids_cut` more. Counts are
    None where only some of them are looked at: their share is not known.
    """

    direction: str
    comm: str
    remote: str
    port: int
    window_ns: int
    connections: int = 0
    opened: int | None = 0
    failed: int | None = 0
    closed: int | None = 0
    failures: dict[str, int] = {}
    latency: Hist | None = None
    tx_bytes_per_s: Real | None = None
    rx_bytes_per_s: Real | None = None
    retrans_per_s: Real | None = None
    retrans_pct: Real | None = None
    retrans_kinds: dict[str, int] = {}
    srtt_ns: int | None = None
    new: bool = False
    cgroup: int | None = None
    pids: list[int] = []
    pids_cut: int = 0


class TcpOwner(Part):
    """All TCP of one process, whether or not its connections are in the frame; in this interval.

    pid None: the processes of that cgroup that are not listed, together; with cgroup None too: what
    nobody is known of. connections: open now. segments: those with data. failed: connects that
    failed. rtt: one sample per established connection; connect_latency: of its connects.
    """

    pid: int | None
    cgroup: int | None
    connections: int = 0
    tx_bytes_per_s: Real | None = None
    rx_bytes_per_s: Real | None = None
    segments_per_s: Real | None = None
    retrans_per_s: Real | None = None
    connects_per_s: Real | None = None
    failed_per_s: Real | None = None
    accepts_per_s: Real | None = None
    closes_per_s: Real | None = None
    rtt: Hist | None = None
    connect_latency: Hist | None = None


class TcpEvent(Part):
    """Something that happened once. kind: a name of ktop.bpf.tcp_layer.KINDS.

    result: of a connect or close, `ok`, errno's name, or `aborted`; of a retransmit its kind (rto,
    fast, tlp, syn, synack, unknown); of a drop or reset the kernel's reason. latency_ns: of a
    connect or accept until established; of a close the connection's duration. tx_bytes, rx_bytes,
    retrans: final totals of a close. For a drop, local is the packet's destination, remote its
    source. state: before it happened. protocol: tcp or udp.
    """

    kind: str
    time_ns: int
    netns: int
    local: str
    local_port: int
    remote: str
    remote_port: int
    state: str | None = None
    result: str | None = None
    pid: int | None = None
    comm: str | None = None
    cgroup: int | None = None
    latency_ns: int | None = None
    tx_bytes: int | None = None
    rx_bytes: int | None = None
    retrans: int | None = None
    protocol: str = "tcp"


class Drop(Part):
    """Dropped packets by reason and place. stack: functions from where it was dropped outward, of
    a recent one: not every stack is taken. What was not read before a close (QUEUE_PURGE) is none.

    place: the function that dropped it. Empty until the kernel's symbols are known; addresses where
    they are hidden (kptr_restrict). source, destination: of the last one seen.
    """

    reason: str
    protocol: str
    netns: int
    place: str = ""
    total: int = 0
    per_s: Real | None = None
    stack: list[str] = []
    source: str = ""
    destination: str = ""


class Interface(Part):
    """A network interface, from /proc/net/dev of its namespace. limit: what it was declared to
    carry, by its name, in every namespace (--limit, [limits])."""

    netns: int
    name: str
    rx_bytes_per_s: Real | None = None
    tx_bytes_per_s: Real | None = None
    rx_packets_per_s: Real | None = None
    tx_packets_per_s: Real | None = None
    rx_drops_per_s: Real | None = None
    tx_drops_per_s: Real | None = None
    rx_errors_per_s: Real | None = None
    tx_errors_per_s: Real | None = None
    drops_total: int = 0
    errors_total: int = 0
    limit: Limit | None = None


class Namespace(Part):
    """A network namespace: its own counters (/proc/net/snmp, netstat, sockstat; conntrack).

    name: `host`, its name under /run/netns, or empty. cgroup: of one of its processes.
    listen_overflows: accept queue full; listen_drops: SYNs and ACKs refused for any reason.
    conntrack_pct: entries as % of the limit. Totals are since the namespace was made.
    cgroups: those that have processes in it, at most 256.
    """

    id: int
    name: str
    own: bool
    cgroup: int | None = None
    processes: int = 0
    sockets: int = 0
    time_wait: int | None = None
    segments_out_per_s: Real | None = None
    retrans_per_s: Real | None = None
    retrans_total: int | None = None
    listen_overflows_total: int | None = None
    listen_overflows_per_s: Real | None = None
    listen_drops_total: int | None = None
    listen_drops_per_s: Real | None = None
    conntrack_count: int | None = None
    conntrack_max: int | None = None
    conntrack_insert_failed_per_s: Real | None = None
    conntrack_insert_failed_total: int | None = None
    conntrack_drops_per_s: Real | None = None
    conntrack_drops_total: int | None = None
    cgroups: list[int] = []


class Dns(Part):
    """Queries over UDP port 53 by command, cgroup and server, in the last minute. Asked while
    looked at.

    failures: by result: NXDOMAIN, SERVFAIL..., `timeout` (no answer in 5 s). pids: who asked, at
    most PIDS_PER_ROW; `pids_cut` more. queries, answers: None as in Peer.
    """

    comm: str
    server: str
    netns: int
    queries: int | None = 0
    answers: int | None = 0
    failures: dict[str, int] = {}
    latency: Hist | None = None
    last_name: str = ""
    cgroup: int | None = None
    pids: list[int] = []
    pids_cut: int = 0


class Tcp(Part):
    """The TCP layer.

    connections: the busiest CONNECTIONS_PER_FRAME of `connections_total`. events: newest last;
    `events_cut` more happened in this interval and are in the totals. tx, rx: sums over all
    sockets; a connection within this host counts at both ends. retransmits, resets, drops: since
    the start, by kind where known. rtt: one sample per established connection. connect_latency:
    of this interval. namespaces_cut: namespaces beyond the number read. owners: all sockets by who
    has them; their sums are the totals. owned: owners, and the cgroups of peers and DNS, are told
    (older recordings have none).
    """

    connections: list[Connection] = []
    connections_total: int | None = None
    listeners: list[Listener] = []
    listeners_cut: int = 0
    peers: list[Peer] = []
    peers_cut: int = 0
    events: list[TcpEvent] = []
    events_cut: int = 0
    drops: list[Drop] = []
    interfaces: list[Interface] = []
    namespaces: list[Namespace] = []
    namespaces_cut: int = 0
    dns: list[Dns] = []
    tx_bytes_per_s: Real | None = None
    rx_bytes_per_s: Real | None = None
    connects_per_s: Real | None = None
    connects_failed_per_s: Real | None = None
    accepts_per_s: Real | None = None
    closes_per_s: Real | None = None
    segments_out_per_s: Real | None = None
    retrans_per_s: Real | None = None
    drops_per_s: Real | None = None
    resets_sent_per_s: Real | None = None
    resets_received_per_s: Real | None = None
    totals: dict[str, int] = {}
    retransmits: dict[str, int] = {}
    rtt: Hist | None = None
    connect_latency: Hist | None = None
    notes: list[str] = []
    owned: bool = False
    owners: list[TcpOwner] = []
