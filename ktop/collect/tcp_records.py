"""The TCP programs' records as rows: addresses, states and results as text."""

from __future__ import annotations

import errno
import functools
import socket
import struct

from ktop.bpf.tcp_layer import EVENT_STRUCT, KINDS, RETRANSMITS, Event
from ktop.model_tcp import TcpEvent
from ktop.text import comm

# include/net/tcp_states.h, as ss(8) abbreviates them
STATES = ("?", "ESTAB", "SYN-SENT", "SYN-RECV", "FIN-WAIT-1", "FIN-WAIT-2", "TIME-WAIT", "CLOSED",
          "CLOSE-WAIT", "LAST-ACK", "LISTEN", "CLOSING", "SYN-RECV")
LISTEN, ESTABLISHED = 10, 1
_KEY = struct.Struct("@QHH")
_MAPPED = bytes(10) + b"\xff\xff"


class EventRecord(Event):
    """One record of the event ring."""

    @property
    def key(self) -> bytes:
        """Which socket: its memory may have been another's before (tcp_table.Key)."""
        return _KEY.pack(self.sk, self.local_port, self.remote_port)


@functools.lru_cache(maxsize=65536)
def address(family: int, raw: bytes) -> str:
    """An address as text; IPv4 in IPv6 as IPv4; empty when the family is unknown."""
    if family == socket.AF_INET:
        return socket.inet_ntop(socket.AF_INET, raw[:4])
    if family == socket.AF_INET6:
        if raw[:12] == _MAPPED:
            return socket.inet_ntop(socket.AF_INET, raw[12:])
        return socket.inet_ntop(socket.AF_INET6, raw)
    return ""


@functools.lru_cache(maxsize=8192)
def command(raw: bytes) -> str | None:
    """The owner's name; None when nobody is known."""
    return comm(raw) or None


def state_name(state: int) -> str:
    """ESTAB for 1."""
    return STATES[state] if state < len(STATES) else str(state)


def result_name(code: int) -> str:
    """`ok`, errno's name, or `aborted`: the process gave up a connect that was under way."""
    if code == 0:
        return "ok"
    return "aborted" if code < 0 else errno.errorcode.get(code, str(code))


def decode(raw: bytes) -> EventRecord:
    """One record of the event ring."""
    return EventRecord._make(EVENT_STRUCT.unpack_from(raw))


def endpoint(host: str, port: int) -> str:
    """1.2.3.4:80, [::1]:80."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def event(r: EventRecord, wall_offset_ns: int, reasons: dict[str, dict[int, str]]) -> TcpEvent:
    """One record as a row. reasons: names of the kernel's numbers, for `drop` and `reset_sent`."""
    kind = KINDS[r.kind - 1] if 0 < r.kind <= len(KINDS) else str(r.kind)
    found = TcpEvent(
        kind=kind, time_ns=r.time_ns + wall_offset_ns, netns=r.netns,
        local=address(r.family, r.local), local_port=r.local_port,
        remote=address(r.family, r.remote), remote_port=r.remote_port,
        state=state_name(r.state), pid=r.pid or None, comm=command(r.comm),
        cgroup=r.cgroup or None)
    if kind in ("connect", "accept"):
        found.latency_ns = r.latency_ns or None
        found.result = result_name(r.code)
        found.state = None
    elif kind == "close":
        found.latency_ns = r.latency_ns or None
        found.result = result_name(r.code)
        found.tx_bytes, found.rx_bytes, found.retrans = r.tx_bytes, r.rx_bytes, r.retrans
    elif kind == "retransmit":
        found.result = RETRANSMITS[r.code] if 0 <= r.code < len(RETRANSMITS) else str(r.code)
        found.retrans = r.retrans
    else:
        names = reasons.get(kind, {})
        found.result = names.get(r.code, str(r.code)) if r.code >= 0 else None
        if kind == "drop":
            found.state, found.protocol = None, "udp" if r.state == 17 else "tcp"
    return found
