"""Pipe `upstream`: waiting for the answer of a peer.

A connection that we made waits when its last data went out after the last came in, all of it was
acknowledged, and no answer has come for longer than a round trip or a fast server takes. An idle
keep-alive got its answer, a server that waits for a request did not make the connection, and who
has asked for nothing in half a minute has subscribed to something; none of them counts. Nor does a
peer on this host that is at work or waits itself: then its own pipe counts.
"""

from __future__ import annotations

from ktop.diagnosis.look import Look
from ktop.diagnosis.model import Actor, Evidence, Pipe
from ktop.diagnosis.tcp import actors, other_end
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


def _decided(look: Look, tcp: Tcp, rows: list[Connection]) -> list[Connection]:
    """Without the ties that no thread waits for.

    A process's threads that wait at sockets are spread first over the connections it accepted (they
    wait for requests) and those that wait without a doubt; what is left waits for the ties.
    """
    left: dict[int | None, float] = {pid: w.socket for pid, w in look.waiters.items()}
    for c in tcp.connections if any(tied(c) for c in rows) else ():
        if c.active is False and c.state == "ESTAB" and c.pid in left:
            left[c.pid] -= 1
    found = []
    for c in sorted(rows, key=lambda c: (tied(c), -(c.tx_bytes_per_s or 0.0), c.id)):
        if not tied(c) or (left.get(c.pid, 0.0) >= 0.5 and c.tx_bytes_per_s):
            found.append(c)
            if c.pid in left:
                left[c.pid] -= 1
    return found


def _excused(look: Look, tcp: Tcp, c: Connection) -> bool:
    """The peer is on this host and works, or waits for something that has a pipe of its own."""
    end = other_end(tcp, c)
    process = look.by_pid.get(end.pid) if end is not None and end.pid is not None else None
    if process is None:
        return False
    waits_pct = process.waits_pct or {}
    busy = ((process.cpu_pct or 0.0) + (process.runq_wait_pct or 0.0)
            + sum(pct for name, pct in waits_pct.items() if name not in ("socket", "reclaim")))
    return busy >= look.limits.upstream_busy_pct


def measure(look: Look) -> list[Pipe]:
    """One pipe for each peer that is waited for."""
    tcp = look.frame.tcp
    if tcp is None or tcp.connections_total is None:
        return [Pipe("upstream", state="blind", why_blind="no sockets are read")]
    listening = {(row.netns, row.local_port) for row in tcp.listeners}
    rows = [c for c in tcp.connections if waits(look, c, listening)
            and look.inside(c.pid, c.cgroup)]
    peers: dict[tuple[str, int], list[Connection]] = {}
    for c in _decided(look, tcp, rows):
        if not _excused(look, tcp, c):
            peers.setdefault((c.remote, c.remote_port), []).append(c)
    pipes = [_one(look, tcp, key, rows) for key, rows in peers.items()]
    return pipes or [Pipe("upstream", stalled=0.0)]


def _one(look: Look, tcp: Tcp, key: tuple[str, int], rows: list[Connection]) -> Pipe:
    t = look.limits
    name = f"{key[0]}:{key[1]}"
    waited = sum(c.sent_ago_ms or 0 for c in rows) / len(rows)
    pipe = Pipe("upstream", name, stalled=float(len(rows)), concurrency=float(len(rows)),
                rate_per_s=sum(c.segments_out_per_s or 0.0 for c in rows))
    pipe.state, pipe.confidence = "waiting", 0.8
    pipe.victims = actors(look, rows)
    ends = [end for c in rows if (end := other_end(tcp, c)) is not None]
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
