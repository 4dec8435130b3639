"""Pipe `upstream`: waiting for the answer of a peer.

A connection that we made waits when its last data went out after the last came in, all of it was
acknowledged, and no answer has come for longer than a round trip or a fast server takes. An idle
keep-alive got its answer, a server that waits for a request did not make the connection, and who
has asked for nothing in half a minute has subscribed to something; none of them counts. Nor does a
peer on this host that is at work or waits itself: then its own pipe counts.

Answers that are too short to be met by a sample each tick are counted: who asks one thing at a
time has its connection busy for requests a second x round trip (Little), which is the part of its
wall time that it waits. When that is most of it, it is bound by its upstream however short each
answer is.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ktop.diagnosis.look import Look
from ktop.diagnosis.model import Actor, Evidence, Pipe
from ktop.diagnosis.tcp import actors
from ktop.model_tcp import Connection, Tcp


def waits(look: Look, c: Connection, listening: set[tuple[int, int]]) -> bool:
    """Whether a connection waits for an answer."""
    t = look.limits
    if c.state != "ESTAB" or c.sent_ago_ms is None or c.active is False:
        return False
    if c.active is None and (c.netns, c.local_port) in listening:
        return False
    if c.received_ago_ms is not None and c.sent_ago_ms > c.received_ago_ms:
        return False  # it was answered
    if c.unacked_bytes or c.unsent_bytes or c.zero_window or c.recovery:
        return False  # that is the path's fault or the peer's window: tcp
    if c.tx_bytes_per_s and not c.rx_bytes_per_s:
        return False  # it only sends so far: a stream has no answers
    least = max(t.upstream_wait_ms, t.upstream_rtts * (c.srtt_ns or 0) / 1e6)
    return least <= c.sent_ago_ms <= t.upstream_forget_ms


def tied(c: Connection) -> bool:
    """Whether in and out fell into one tick of the kernel's clock: answered, or asked again."""
    return c.sent_ago_ms == c.received_ago_ms


def unanswered(c: Connection) -> bool:
    """Whether its last data went out after the last came in."""
    return c.sent_ago_ms is not None and (
        c.received_ago_ms is None or c.sent_ago_ms < c.received_ago_ms)


@dataclass
class _Sleepers:
    """Of the processes that hold connections. waiting: how many threads wait at a socket for most
    of the time; paces: how often the busiest of those that sleep by choice goes on, a second."""

    waiting: dict[int, int] = field(default_factory=dict)
    paces: dict[int, float] = field(default_factory=dict)


def _decided(tcp: Tcp, rows: list[Connection], sleepers: _Sleepers) -> list[Connection]:
    """Without the ties that no thread waits for.

    A process's threads that wait at sockets most of the time (many that wait a little each make no
    such thread) are spread first over the connections it accepted (they wait for requests) and
    those that wait without a doubt; what is left waits for the ties.
    """
    ties = any(tied(c) for c in rows)
    left: dict[int | None, int] = dict(sleepers.waiting.items()) if ties else {}
    for c in tcp.connections if ties else ():
        if c.active is False and c.state == "ESTAB" and c.pid in left:
            left[c.pid] -= 1
    found = []
    for c in sorted(rows, key=lambda c: (tied(c), -(c.tx_bytes_per_s or 0.0), c.id)):
        if not tied(c) or (left.get(c.pid, 0) > 0 and c.tx_bytes_per_s):
            found.append(c)
            if c.pid in left:
                left[c.pid] -= 1
    return found


def _excused(look: Look, c: Connection) -> bool:
    """The peer is on this host and works, or waits for something that has a pipe of its own; or
    it waits itself for one that does."""
    end = look.other_end(c)
    process = look.by_pid.get(end.pid) if end is not None and end.pid is not None else None
    if process is None:
        return False
    known = look.at_work.get(process.pid)
    if known is not None:
        return known
    look.at_work[process.pid] = False  # two that ask each other come back to here
    waits_pct = process.waits_pct or {}
    busy = ((process.cpu_pct or 0.0) + (process.runq_wait_pct or 0.0)
            + sum(pct for name, pct in waits_pct.items() if name not in ("socket", "reclaim")))
    found = busy >= look.limits.upstream_busy_pct or any(
        _excused(look, o) for o in look.connections(process.pid)
        if o.active and (asking(look, o) or unanswered(o)))
    look.at_work[process.pid] = found
    return found


def asking(look: Look, c: Connection) -> float:
    """The part of the time that a connection waits for answers, 0 when that cannot be said.

    Requests are segments with data; one that fills segments is an upload, several at once are a
    stream: neither waits for each answer.
    """
    t, per_s = look.limits, c.segments_out_per_s or 0.0
    if (c.state != "ESTAB" or not c.active or not c.srtt_ns or not c.rx_bytes_per_s or per_s < 1
            or c.unsent_bytes or c.zero_window or c.recovery):
        return 0.0
    if c.mss_bytes and (c.tx_bytes_per_s or 0.0) > 0.9 * per_s * c.mss_bytes:
        return 0.0
    busy = per_s * c.srtt_ns / 1e9
    return min(1.0, busy) if busy <= t.upstream_most else 0.0


@dataclass
class _Asker:
    """A process that asks: its connections and the part of the time that each waits."""

    rows: list[tuple[float, Connection]] = field(default_factory=list)

    @property
    def busy(self) -> float:
        return sum(busy for busy, _ in self.rows)


def _sleepers(look: Look, tcp: Tcp) -> _Sleepers:
    """Those of all threads."""
    t, found = look.limits, _Sleepers()
    waiting, paces = found.waiting, found.paces
    holders = {c.pid for c in tcp.connections if c.pid is not None}
    for pid in holders & look.waiters.keys():
        one = look.waiters[pid]
        if one.process.threads == 1 and one.socket >= t.upstream_share:
            waiting[pid] = 1
    for thread in look.frame.processes.threads if holders else ():
        if thread.pid not in holders:
            continue
        w, blocked = look.waiters.get(thread.pid), (thread.blocked_pct or 0.0) / 100
        if blocked < 1 - t.upstream_share:
            paces[thread.pid] = max(paces.get(thread.pid, 0.0), thread.voluntary_per_s or 0.0)
        elif (w is not None and w.socket >= t.upstream_share <= blocked
                and thread.blocked_reason not in ("futex", "lock", "disk", "iowait")):
            waiting[thread.pid] = waiting.get(thread.pid, 0) + 1
    return found


def chatty(look: Look, tcp: Tcp, sleepers: _Sleepers) -> list[tuple[float, Connection]]:
    """(part of the time, connection) of those whose short answers take most of somebody's time."""
    t = look.limits
    askers: dict[int | None, _Asker] = {}
    for c in tcp.connections:
        busy = asking(look, c)
        if busy > 0.02 and look.inside(c.pid, c.cgroup):
            askers.setdefault(c.pid, _Asker()).rows.append((busy, c))
    found = []
    for pid, asker in askers.items():
        threads = sleepers.waiting.get(pid, 0) if pid is not None else 0
        bound = bool(threads) and asker.busy >= t.upstream_share * threads
        rows = [(busy, c) for busy, c in asker.rows if bound or busy >= t.upstream_alone]
        # Sent by a thread that sleeps in between: that one waits for no answer.
        paced = sleepers.paces.get(pid, 0.0) if pid is not None else 0.0
        if paced < sum(c.segments_out_per_s or 0.0 for _, c in rows) / 2:
            found += rows
    return [(busy, c) for busy, c in found
            if not (look.other_end(c) is not None and (c.srtt_ns or 0) < t.upstream_local_ns)]


def measure(look: Look) -> list[Pipe]:
    """One pipe for each peer that is waited for."""
    tcp = look.frame.tcp
    if tcp is None or tcp.connections_total is None:
        return [Pipe("upstream", state="blind", why_blind="no sockets are read")]
    listening = {(row.netns, row.local_port) for row in tcp.listeners}
    rows = [c for c in tcp.connections if waits(look, c, listening)
            and look.inside(c.pid, c.cgroup)]
    peers: dict[tuple[str, int], list[Connection]] = {}
    sleepers = _sleepers(look, tcp)
    for c in _decided(tcp, rows, sleepers):
        if not _excused(look, c):
            peers.setdefault((c.remote, c.remote_port), []).append(c)
    short: dict[tuple[str, int], list[tuple[float, Connection]]] = {}
    for busy, c in chatty(look, tcp, sleepers):
        if (c.remote, c.remote_port) not in peers and not _excused(look, c):
            short.setdefault((c.remote, c.remote_port), []).append((busy, c))
    pipes = [_one(look, key, rows) for key, rows in peers.items()]
    pipes += [_chatty(look, key, found) for key, found in short.items()]
    return pipes or [Pipe("upstream", stalled=0.0)]


def _chatty(look: Look, key: tuple[str, int],
            found: list[tuple[float, Connection]]) -> Pipe:
    """Answers that are short and many."""
    t, rows = look.limits, [c for _, c in found]
    name, busy = f"{key[0]}:{key[1]}", sum(busy for busy, _ in found)
    per_s = sum(c.segments_out_per_s or 0.0 for c in rows)
    pipe = Pipe("upstream", name, "waiting", stalled=busy, concurrency=busy, rate_per_s=per_s,
                confidence=0.7, victims=actors(look, rows))
    ends = [end for c in rows if (end := look.other_end(c)) is not None]
    pipe.culprits = actors(look, ends) if ends else [Actor(None, name, None, 1.0)]
    pipe.evidence = [
        Evidence("waiting for answers, of the wall time of each", 100 * busy / len(rows), "%",
                 "requests/s x srtt", 100 * t.upstream_share),
        Evidence("requests, one at a time", per_s, "/s", "tcp_sock data_segs_out"),
        Evidence("each answer, mean", 1e3 * busy / per_s, "ms", "srtt")]
    pipe.check = f"ss -tinp dst {key[0]}  (data_segs_out x rtt)"
    pipe.next = "ask for several things at once (batch, pipeline, join), or move nearer to it"
    return pipe


def _one(look: Look, key: tuple[str, int], rows: list[Connection]) -> Pipe:
    t = look.limits
    name = f"{key[0]}:{key[1]}"
    waited = sum(c.sent_ago_ms or 0 for c in rows) / len(rows)
    pipe = Pipe("upstream", name, stalled=float(len(rows)), concurrency=float(len(rows)),
                rate_per_s=sum(c.segments_out_per_s or 0.0 for c in rows))
    pipe.state, pipe.confidence = "waiting", 0.8
    pipe.victims = actors(look, rows)
    ends = [end for c in rows if (end := look.other_end(c)) is not None]
    pipe.culprits = actors(look, ends) if ends else [Actor(None, name, None, 1.0)]
    pipe.evidence = [
        Evidence("requests without an answer", float(len(rows)), "connections",
                 "lsndtime after lrcvtime", t.upstream_stalled),
        Evidence("waiting for it so far, mean", waited, "ms", "since the last data went out",
                 t.upstream_wait_ms)]
    srtt = [c.srtt_ns for c in rows if c.srtt_ns]
    if srtt:
        pipe.evidence.append(Evidence("round trip to it", sum(srtt) / len(srtt) / 1e6, "ms",
                                      "srtt"))
    pipe.check = f"ss -tinp dst {key[0]}  (lastsnd less than lastrcv)"
    pipe.next = "look at that server, ask it less often, or ask for several things at once"
    return pipe
