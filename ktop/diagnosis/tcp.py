"""Pipe `tcp`: one for each peer, listener, namespace or reason that holds connections up.

Here a connection waits, not a thread: most programs that use many have one thread for all of them.
`stalled` is the mean number of connections that could go on and do not.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from ktop import hist
from ktop.diagnosis.ceilings import interfaces
from ktop.diagnosis.look import MOST, Look, set_percentiles
from ktop.diagnosis.model import Actor, Evidence, Pipe
from ktop.diagnosis.thresholds import Thresholds
from ktop.model import Hist
from ktop.model_tcp import Connection, Drop, Listener, Tcp

_WINDOW_NS = 3_000_000_000  # connects, and what is sent again, are judged over so long
_OPEN = ("ESTAB", "CLOSE-WAIT")  # of later states nobody waits: the program has closed it


@dataclass
class _Cause:
    """Connections to one peer that are held up in one way."""

    how: str
    remote: str
    ports: set[int] = field(default_factory=set)
    stalled: float = 0.0
    rows: list[Connection] = field(default_factory=list)
    late_pct: float = 0.0  # of what is sent again, at least: had arrived


@dataclass
class _Tries:
    """Connects of one command to one peer within one tick."""

    time_ns: int
    failed: int = 0
    made: int = 0
    results: dict[str, int] = field(default_factory=dict)
    actor: Actor | None = None


def actors(look: Look, rows: list[Connection]) -> list[Actor]:
    """Processes of connections, by their number."""
    counts: dict[int | None, int] = {}
    first: dict[int | None, Connection] = {}
    for c in rows:
        counts[c.pid] = counts.get(c.pid, 0) + 1
        first.setdefault(c.pid, c)
    order = sorted(counts, key=lambda pid: (-counts[pid], pid or 0))[:MOST]
    return [look.actor_of(pid, first[pid].comm, first[pid].cgroup, counts[pid] / len(rows))
            for pid in order]


class TcpPipes:
    """Remembers the connects of the last seconds, and what was sent again."""

    def __init__(self) -> None:
        self._tries: dict[tuple[str, str, int], deque[_Tries]] = {}
        self._again: dict[str, deque[tuple[int, float, float]]] = {}  # by peer: time, all, late

    def measure(self, look: Look) -> list[Pipe]:
        """All that is tight; one quiet pipe when nothing is."""
        tcp = look.frame.tcp
        if tcp is None or tcp.connections_total is None:
            why = "its probes are not loaded yet" if tcp is None else "no sockets are read"
            return [Pipe("tcp", state="blind", why_blind=why)]
        causes = _causes(look, tcp)
        self._late(look.frame.clock.monotonic_ns, causes)
        pipes = [pipe for cause in causes if (pipe := _connections(look, tcp, cause)) is not None]
        pipes += self._connects(look, tcp)
        pipes += [pipe for row in tcp.listeners if (pipe := _listener(look, row)) is not None]
        pipes += _namespaces(look, tcp)
        pipes += _drops(look, tcp, causes)
        near = next(iter(interfaces(look)), None)
        if near is not None and near.pct >= look.limits.ceiling_pct:
            for pipe in pipes:
                pipe.evidence.append(near.evidence())
        if pipes:
            return pipes
        quiet = Pipe("tcp", stalled=sum(c.stalled for c in causes),
                     rate_per_s=tcp.segments_out_per_s)
        if tcp.tx_bytes_per_s is not None and tcp.rx_bytes_per_s is not None:
            quiet.throughput_bytes_per_s = tcp.tx_bytes_per_s + tcp.rx_bytes_per_s
        quiet.errors_per_s = tcp.retrans_per_s
        quiet.headroom_pct = max(0.0, 100 - near.pct) if near is not None else None
        set_percentiles(quiet, tcp.rtt)
        return [quiet]

    def _late(self, now: int, causes: list[_Cause]) -> None:
        """What the peer says it had is late, by another way or held up for a moment, and not lost.
        It says so of each acknowledgement once, a round trip later: that is the least of it."""
        lossy = {cause.remote: cause for cause in causes if cause.how == "loss"}
        self._again = {remote: self._again.get(remote, deque()) for remote in lossy}
        for remote, found in self._again.items():
            cause = lossy[remote]
            found.append((now, sum(c.retrans_per_s or 0.0 for c in cause.rows),
                          sum(c.dsack_dups_per_s or 0.0 for c in cause.rows)))
            while now - found[0][0] > _WINDOW_NS:
                found.popleft()
            again, late = (sum(x[at] for x in found) for at in (1, 2))
            cause.late_pct = min(100.0, 100 * late / again) if again else 0.0

    def _connects(self, look: Look, tcp: Tcp) -> list[Pipe]:
        """Connects that fail: refused, unreachable, timed out, given up."""
        t, now = look.limits, look.frame.clock.monotonic_ns
        for e in tcp.events:
            if e.kind != "connect" or not look.inside(e.pid, e.cgroup):
                continue
            key = (e.comm or "?", e.remote, e.remote_port)
            found = self._tries.setdefault(key, deque())
            if not found or found[-1].time_ns != now:
                found.append(_Tries(now))
            tries = found[-1]
            tries.made += 1
            tries.actor = look.actor_of(e.pid, e.comm, e.cgroup, 1.0)
            if e.result not in (None, "ok"):
                tries.failed += 1
                tries.results[e.result or "?"] = tries.results.get(e.result or "?", 0) + 1
        pipes = []
        for key, found in list(self._tries.items()):
            while found and now - found[0].time_ns > _WINDOW_NS:
                found.popleft()
            if not found:
                del self._tries[key]
                continue
            failed, made = sum(x.failed for x in found), sum(x.made for x in found)
            per_s = failed * 1e9 / _WINDOW_NS
            if (per_s >= t.connect_failures_per_s and failed >= t.connect_failures_share * made
                    and not self._elsewhere(key, failed)):
                pipes.append(_failing(look, key, found, per_s, made))
        return pipes

    def _elsewhere(self, key: tuple[str, str, int], failed: int) -> bool:
        """Whether the command reaches the same port at another address (::1, then 127.0.0.1)."""
        comm, remote, port = key
        made = sum(x.made - x.failed for other, tries in self._tries.items()
                   if other[0] == comm and other[2] == port and other[1] != remote for x in tries)
        return made >= failed


def _failing(look: Look, key: tuple[str, str, int], found: deque[_Tries], per_s: float,
             made: int) -> Pipe:
    comm, remote, port = key
    results: dict[str, int] = {}
    for tries in found:
        for name, n in tries.results.items():
            results[name] = results.get(name, 0) + n
    worst = max(results, key=lambda name: (results[name], name))
    pipe = Pipe("tcp", f"{remote}:{port}", "errors", stalled=0.0, errors_per_s=per_s,
                rate_per_s=made * 1e9 / _WINDOW_NS, confidence=0.9)
    pipe.culprits = [Actor(None, f"{remote}:{port} ({worst})")]
    pipe.victims = [x.actor for x in (found[-1],) if x.actor is not None]
    pipe.evidence = [
        Evidence(f"connects of {comm} that fail, most with {worst}", per_s, "/s",
                 "inet_sock_set_state", look.limits.connect_failures_per_s),
        Evidence("connects in all", made * 1e9 / _WINDOW_NS, "/s", "inet_sock_set_state")]
    pipe.check = f"ss -tan dst {remote}; nc -vz {remote} {port}"
    pipe.next = ("nothing listens there: is the service up, is the address right?"
                 if worst == "ECONNREFUSED" else
                 "nobody answers: a firewall, a dead host, or a listener that is full")
    return pipe


def _held_up(look: Look, c: Connection) -> tuple[str, float]:
    """How a connection is held up ("" if not) and for what part of the time."""
    t = look.limits
    if c.state == "SYN-SENT":
        return ("opening", 1.0) if (c.age_ns or 0) >= t.connect_wait_ns else ("", 0.0)
    if c.state not in _OPEN:
        return "", 0.0
    queued = c.unsent_bytes > 0
    if c.zero_window and (queued or c.unacked_bytes):
        return "closed window", 1.0
    if c.recovery or (c.retrans_per_s or 0.0) > 0:
        lost = (c.retrans_per_s or 0.0) * (c.rto_ns or 200_000_000) / 1e9
        return "loss", 1.0 if c.recovery else min(1.0, lost)
    return ("queue", 1.0) if queued and _queues(t, c) else ("", 0.0)


def _queues(t: Thresholds, c: Connection) -> bool:
    """Whether data waits for a link that takes no more: on the way, or already in the socket."""
    if not c.srtt_ns or not c.min_rtt_ns:
        return False
    ratio = c.srtt_ns / c.min_rtt_ns
    if ratio >= t.queue_ratio and c.srtt_ns - c.min_rtt_ns >= t.queue_delay_ns:
        return True
    in_socket_ns = c.unsent_bytes * 1e9 / c.tx_bytes_per_s if c.tx_bytes_per_s else 0.0
    return (ratio >= t.queue_socket_ratio and c.srtt_ns >= t.queue_socket_rtt_ns
            and in_socket_ns >= t.queue_socket_ns)


def _causes(look: Look, tcp: Tcp) -> list[_Cause]:
    """Connections of the scope that are held up, by how and by peer."""
    found: dict[tuple[str, str], _Cause] = {}
    for c in tcp.connections:
        how, stalled = _held_up(look, c)
        if how and look.inside(c.pid, c.cgroup):
            cause = found.setdefault((how, c.remote), _Cause(how, c.remote))
            cause.stalled += stalled
            cause.ports.add(c.remote_port)
            cause.rows.append(c)
    return list(found.values())


def _connections(look: Look, tcp: Tcp, cause: _Cause) -> Pipe | None:
    t = look.limits
    retrans = sum(c.retrans_per_s or 0.0 for c in cause.rows)
    segments = sum(c.segments_out_per_s or 0.0 for c in cause.rows)
    share = 100 * retrans / segments if segments else 100.0
    if cause.how == "loss" and (retrans < t.retrans_per_s or share < t.retrans_pct
                                or cause.stalled < t.tcp_stalled / 3):
        return None
    if cause.how != "loss" and cause.stalled < t.tcp_stalled:
        return None
    port = f":{next(iter(cause.ports))}" if len(cause.ports) == 1 else ""
    pipe = Pipe("tcp", f"{cause.remote}{port}", "errors", stalled=cause.stalled, confidence=0.9,
                concurrency=float(len(cause.rows)), errors_per_s=retrans, rate_per_s=segments)
    rtts: dict[int, int] = {}
    for c in cause.rows:
        if c.srtt_ns:
            bucket = hist.slot(c.srtt_ns)
            rtts[bucket] = rtts.get(bucket, 0) + 1
    set_percentiles(pipe, Hist(rtts) if rtts else None)
    pipe.throughput_bytes_per_s = sum(c.tx_bytes_per_s or 0.0 for c in cause.rows)
    pipe.victims = actors(look, cause.rows)
    pipe.culprits = [Actor(None, f"the path to {cause.remote}")]
    pipe.check = f"ss -tinp dst {cause.remote}"
    pipe.evidence = [Evidence(_HOW[cause.how], cause.stalled, "connections", "sockets, each tick",
                              t.tcp_stalled)]
    _explain(look, tcp, cause, pipe, share)
    return pipe


_HOW = {"opening": "connections that get no answer to their SYN",
        "closed window": "connections whose peer does not read",
        "loss": "connections that repeat what was lost",
        "queue": "connections whose data waits in a queue on the way"}
_LATE = "connections that repeat what was only late"


def _explain(look: Look, tcp: Tcp, cause: _Cause, pipe: Pipe, share: float) -> None:
    """State, culprit, evidence and advice by how they are held up."""
    t, rows = look.limits, cause.rows
    if cause.how == "loss":
        pipe.evidence.append(Evidence("segments sent again", share, "%", "tcp_sock total_retrans",
                                      t.retrans_pct))
        _late_or_lost(t, cause, pipe)
    elif cause.how == "opening":
        pipe.next = "is the host up, is the port filtered, is the listener's backlog full?"
    elif cause.how == "closed window":
        pipe.state = "saturated"
        waiting = sum(c.unsent_bytes + c.unacked_bytes for c in rows)
        pipe.evidence.append(Evidence("bytes that wait to be sent", float(waiting), "bytes",
                                      "write_seq - snd_una"))
        readers = [end for c in rows if (end := look.other_end(c)) is not None]
        if readers:
            pipe.culprits = actors(look, readers)
            pipe.evidence.append(Evidence(
                "bytes that the peer has not read", float(sum(c.unread_bytes for c in readers)),
                "bytes", "rcv_nxt - copied_seq"))
        pipe.next = "the receiver is too slow or stuck: look at what it does instead of reading"
    else:
        pipe.state = "saturated"
        srtt = max(c.srtt_ns or 0 for c in rows) / 1e6
        least = min(c.min_rtt_ns or 0 for c in rows) / 1e6
        pipe.evidence.append(Evidence("round trip, of its least", srtt, "ms", "srtt, min_rtt",
                                      least * t.queue_ratio))
        pipe.evidence.append(Evidence("bytes not sent yet",
                                      float(sum(c.unsent_bytes for c in rows)), "bytes",
                                      "write_seq - snd_nxt"))
        pipe.culprits = pipe.victims
        pipe.next = "the link is full: send less, compress, or get more bandwidth"


def _late_or_lost(t: Thresholds, cause: _Cause, pipe: Pipe) -> None:
    """What makes segments be sent again."""
    if cause.late_pct < t.dsack_pct:
        pipe.next = "find the lossy hop (mtr, the interface's drops); check drops by a firewall"
        return
    pipe.evidence[0].text = _LATE
    pipe.evidence += [
        Evidence("of them, what had arrived: at least", cause.late_pct, "%",
                 "tcp_sock dsack_dups", t.dsack_pct),
        Evidence("packets that others overtook", sum(c.reord_seen_per_s or 0.0 for c in cause.rows),
                 "/s", "tcp_sock reord_seen", 0.0)]
    pipe.check += "  (dsack_dups, reord_seen)"
    pipe.next = ("packets overtake each other: ways in parallel (ECMP, bonding by packet, several "
                 "queues), or a hop that holds some back")


def _listener(look: Look, row: Listener) -> Pipe | None:
    """A listener whose accept queue is full."""
    if not look.inside(row.pid, row.cgroup):
        return None
    full = row.backlog_max > 0 and row.backlog >= row.backlog_max
    refused = row.drops_per_s or 0.0
    if not full and not (refused and row.backlog):
        return None
    pipe = Pipe("tcp", f"listener {row.local}:{row.local_port}", "errors" if refused else
                "saturated", stalled=float(row.backlog + row.syn_queue), confidence=0.95,
                concurrency=float(row.backlog), errors_per_s=refused, rate_per_s=row.accepts_per_s)
    pipe.utilisation_pct = 100.0 * row.backlog / row.backlog_max if row.backlog_max else None
    pipe.headroom_pct = max(0.0, 100 - (pipe.utilisation_pct or 0.0))
    pipe.culprits = [look.actor_of(row.pid, row.comm, row.cgroup, 1.0)]
    pipe.victims = _known(look, _clients(look, row)) or [
        Actor(None, f"clients of port {row.local_port}")]
    pipe.evidence = [
        Evidence("connections waiting for accept(2), of the backlog", float(row.backlog),
                 "connections", "sk_ack_backlog", float(row.backlog_max)),
        Evidence("packets that it refused", refused, "/s", "sk_drops", 0.0)]
    pipe.check = f"ss -ltn sport = {row.local_port}; nstat -az TcpExtListenOverflows"
    pipe.next = "accept faster (more workers, a stuck one?), or a longer backlog (somaxconn)"
    return pipe


def _known(look: Look, rows: list[Connection]) -> list[Actor]:
    """Processes of connections, where these are of this host and have one."""
    return actors(look, [c for c in rows if c.pid is not None])


def _clients(look: Look, row: Listener) -> list[Connection]:
    """Connections from this host that a listener has not accepted: opening, or in its queue."""
    rows = look.frame.tcp.connections if look.frame.tcp is not None else []
    addresses = {row.local} | {c.local for c in rows
                               if c.netns == row.netns and c.local_port == row.local_port}
    return [c for c in rows if c.remote_port == row.local_port and c.remote in addresses and (
        c.state == "SYN-SENT" or ((end := look.other_end(c)) is not None and end.pid is None))]


def _namespaces(look: Look, tcp: Tcp) -> list[Pipe]:
    """Connection tracking that is full."""
    pipes = []
    for n in tcp.namespaces:
        failed = (n.conntrack_insert_failed_per_s or 0.0) + (n.conntrack_drops_per_s or 0.0)
        if not failed or not _has_namespace(look, n.cgroup, n.cgroups):
            continue
        full = 100 * (n.conntrack_count or 0) / n.conntrack_max if n.conntrack_max else 0.0
        pipe = Pipe("tcp", f"conntrack of {n.name or n.id}", "errors", errors_per_s=failed,
                    stalled=0.0, utilisation_pct=full, headroom_pct=max(0.0, 100 - full),
                    confidence=0.95 if full >= look.limits.conntrack_pct else 0.75)
        pipe.culprits = [Actor(None, f"the limit of {n.conntrack_max} tracked connections")]
        pipe.victims = [Actor(None, f"new connections of {n.name or n.id}", look.path(n.cgroup))]
        pipe.evidence = [
            Evidence("packets dropped or not tracked", failed, "/s",
                     "/proc/net/stat/nf_conntrack", 0.0),
            Evidence("tracked connections, of the limit", float(n.conntrack_count or 0),
                     "connections", "nf_conntrack_count", float(n.conntrack_max or 0) or None)]
        pipe.check = "conntrack -C; sysctl net.netfilter.nf_conntrack_max; conntrack -S"
        pipe.next = "raise nf_conntrack_max, shorten its timeouts, or do not track this traffic"
        pipes.append(pipe)
    return pipes


def _has_namespace(look: Look, cgroup: int | None, cgroups: list[int]) -> bool:
    """Whether a network namespace is the scope's."""
    if look.members is None:
        return True
    return any(look.members.has(None, group) for group in {cgroup, *cgroups} if group is not None)


def _harm(tcp: Tcp, drop: Drop, causes: list[_Cause]
          ) -> tuple[bool, float, list[Connection]]:
    """(whether a drop may matter, how many connections it holds up at a time, which).

    What scanners send to a host is dropped all the time and harms nobody: there must be a
    connection to where it was dropped that is held up, or a listener that it was meant for.
    """
    ends = {_host(drop.destination), _host(drop.source)}
    lossy = [c for c in causes if c.how in ("opening", "loss") and c.remote in ends]
    held_up = sum(c.stalled for c in lossy)
    port = drop.destination.rpartition(":")[2]
    meant = any(str(row.local_port) == port and row.netns == drop.netns for row in tcp.listeners)
    return bool(held_up) or meant, held_up, [row for c in lossy for row in c.rows]


def _host(address: str) -> str:
    """Without its port."""
    return address.rpartition(":")[0].strip("[]")


def _drops(look: Look, tcp: Tcp, causes: list[_Cause]) -> list[Pipe]:
    """Packets that a firewall drops to somebody's harm."""
    t = look.limits
    spaces = {n.id: n for n in tcp.namespaces}
    pipes = []
    for drop in tcp.drops:
        if "NETFILTER" not in drop.reason or (drop.per_s or 0.0) < t.drops_per_s:
            continue
        space = spaces.get(drop.netns)
        mine = space is not None and _has_namespace(look, space.cgroup, space.cgroups)
        matters, held_up, rows = _harm(tcp, drop, causes)
        if not matters or (look.members is not None and not mine and not held_up):
            continue
        name = space.name or str(space.id) if space is not None else str(drop.netns)
        pipe = Pipe("tcp", f"firewall of {name}", "errors", stalled=held_up,
                    errors_per_s=drop.per_s, confidence=0.85)
        pipe.culprits = [Actor(None, f"a rule of the firewall of {name} ({drop.reason})")]
        pipe.victims = _known(look, rows) or [
            Actor(None, f"{drop.source} to {drop.destination}")]
        pipe.evidence = [Evidence(f"packets dropped: {drop.reason}", drop.per_s or 0.0, "/s",
                                  f"kfree_skb in {drop.place or '?'}", 0.0)]
        pipe.check = "iptables -L -v -n; nft list ruleset  (counters)"
        pipe.next = f"find the rule that drops {drop.source} to {drop.destination}"
        pipes.append(pipe)
    return pipes
