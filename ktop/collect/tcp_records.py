"""The TCP programs' records as named tuples, addresses and states as text."""

from __future__ import annotations

import errno
import functools
import socket
import struct
from typing import NamedTuple

from ktop.bpf.tcp_layer import EVENT_STRUCT, KINDS, RETRANSMITS
from ktop.model_tcp import TcpEvent
from ktop.text import comm

# include/net/tcp_states.h, as ss(8) abbreviates them
STATES = ("?", "ESTAB", "SYN-SENT", "SYN-RECV", "FIN-WAIT-1", "FIN-WAIT-2", "TIME-WAIT", "CLOSED",
          "CLOSE-WAIT", "LAST-ACK", "LISTEN", "CLOSING", "SYN-RECV")
LISTEN, ESTABLISHED = 10, 1
_KEY = struct.Struct("@QHH")
_MAPPED = bytes(10) + b"\xff\xff"


class SockRecord(NamedTuple):
    """struct ktop_tcp_sock of tcp.bpf.c."""

    sk: int
    tx_bytes: int
    retrans_bytes: int
    rx_bytes: int
    born_ns: int
    cgroup: int
    netns: int
    uid: int
    pid: int
    holders: int
    segs_out: int
    segs_in: int
    data_segs_out: int
    retrans: int
    srtt_us8: int
    mdev_us4: int
    min_rtt_us: int
    rto_jiffies: int
    cwnd: int
    mss: int
    unacked_bytes: int
    unsent_bytes: int
    unread_bytes: int
    snd_wnd: int
    rcv_wnd: int
    sent_jiffies: int
    received_jiffies: int
    rate_delivered: int
    rate_interval_us: int
    backlog: int
    backlog_max: int
    syn_queue: int
    drops: int
    pad: int
    local_port: int
    remote_port: int
    family: int
    state: int
    flags: int
    local: bytes
    remote: bytes
    comm: bytes


class EventRecord(NamedTuple):
    """struct ktop_tcp_event of tcp.bpf.c."""

    sk: int
    time_ns: int
    latency_ns: int
    tx_bytes: int
    rx_bytes: int
    cgroup: int
    kind: int
    pid: int
    uid: int
    netns: int
    retrans: int
    code: int
    stack: int
    pad: int
    local_port: int
    remote_port: int
    family: int
    state: int
    flags: int
    local: bytes
    remote: bytes
    comm: bytes

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
