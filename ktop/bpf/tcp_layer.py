"""TCP layer: its probes, its records' bytes, what its C side is told.

Runs under the system's python3 too (standard library only).
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from ktop.bpf.layout import packer
from ktop.bpf.probes import Probe


class SockRecord(NamedTuple):
    """struct ktop_tcp_sock of tcp.bpf.c: one per socket and read, totals of the socket's life."""

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
    ino: int
    dsack_dups: int
    reord_seen: int
    local_port: int
    remote_port: int
    family: int
    state: int
    flags: int
    local: bytes
    remote: bytes
    comm: bytes


class Event(NamedTuple):
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


class DnsRecord(NamedTuple):
    """struct ktop_tcp_dns of tcp_dns.bpf.h: a query, and its answer once there is one."""

    sent_ns: int
    latency_ns: int
    cgroup: int
    pid: int
    netns: int
    rcode: int
    pad: int
    port: int
    id: int
    family: int
    tries: int
    server: bytes
    name: bytes
    comm: bytes


# Their bytes: as many of each type, in the fields' order.
SOCK_STRUCT = struct.Struct("@6Q30I3H2B16s16s16s")
EVENT_STRUCT = struct.Struct("@6Q5I2iI3H2B16s16s16s")
DNS_STRUCT = struct.Struct("@3Q2IiI4H16s64s16s")

# Flags of a socket: what is known of its making, and of its present.
ACTIVE, PASSIVE, RECOVERY, LOSS, PROBING = 1, 2, 4, 8, 16

# Kinds of events (enum ktop_tcp_kind), in order from 1.
KINDS = ("connect", "accept", "close", "retransmit", "reset_sent", "reset_received", "drop",
         "listen")
# What a retransmit was for (enum ktop_tcp_why).
RETRANSMITS = ("unknown", "rto", "fast", "tlp", "syn", "synack")
# Totals since the programs were loaded, summed over CPUs (enum ktop_tcp_counter).
COUNTERS = ("connects", "connects_failed", "accepts", "closes", "retrans_unknown", "retrans_rto",
            "retrans_fast", "retrans_tlp", "retrans_syn", "retrans_synack", "resets_sent",
            "resets_received", "drops", "lost", "dns_queries", "dns_answers", "dns_failed",
            "no_note")
DROP_KEY = packer((("reason", "I"), ("protocol", "I"), ("location", "Q"), ("netns", "I"),
                   ("pad", "I")))

RING_PAGES = 512       # 2 MiB: 13,000 events between two drains
STACKS = 2048          # distinct drop stacks
STACK_DEPTH = 127      # BPF_STACK_TRACE's
DROP_FEED, RETRANS_FEED = 200, 400  # events between two drains; all are counted
DROP_STACKS = 16       # drops between two drains whose stack is taken

DEFINES = {
    "KTOP_TCP_SOCK_SIZE": SOCK_STRUCT.size,
    "KTOP_TCP_EVENT_SIZE": EVENT_STRUCT.size,
    "KTOP_TCP_DNS_SIZE": DNS_STRUCT.size,
    "KTOP_TCP_COUNTERS": len(COUNTERS),
    "KTOP_TCP_RING_PAGES": RING_PAGES,
    "KTOP_TCP_STACKS": STACKS,
    "KTOP_TCP_DROP_KEY_SIZE": DROP_KEY.size,
}

_PACKET_TAX = "costs every packet of the host a look at its headers while attached"

PROBES: tuple[Probe, ...] = (
    Probe("tcp_socks", "tcp", "iter", "tcp",
          "every TCP socket of each network namespace with the kernel's own counters",
          "none", "sockets in TIME_WAIT and half-open ones: counted per namespace and listener"),
    Probe("tcp_noted", "tcp", "iter", "bpf_sk_storage_map",
          "the same sockets of all namespaces in one read",
          "tcp_socks in each namespace: 2 ms each on a host of 24 GB", "as tcp_socks",
          over="tcp_notes"),
    Probe("tcp_fds", "tcp", "iter", "task_file",
          "which processes hold a socket", "the process that connected or closed it",
          "sockets held by the kernel only, or in flight between processes"),
    Probe("tcp_state", "tcp", "tp", "inet_sock_set_state",
          "connects, accepts, closes with latency, result and final byte counts",
          "none", "connects that fail before a packet is sent (no route)"),
    Probe("tcp_retrans", "tcp", "tp", "tcp_retransmit_skb",
          "each retransmit with its kind", "none: totals from the sockets",
          "its kind where the kernel keeps no note of why"),
    Probe("tcp_synack", "tcp", "tp", "tcp_retransmit_synack",
          "SYN-ACKs sent again", "none", "nothing"),
    Probe("tcp_rst_out", "tcp", "tp", "tcp_send_reset", "resets sent", "none",
          "before 6.10 (19822a980e19) those without a socket: to a closed port"),
    Probe("tcp_rst_in", "tcp", "tp", "tcp_receive_reset", "resets received", "none",
          "nothing"),
    Probe("tcp_drop", "tcp", "tp", "kfree_skb",
          "dropped TCP and UDP packets: reason, stack, connection", "none",
          "what is dropped before the kernel sees it (device, XDP)"),
    Probe("tcp_dns_out", "tcp", "tp", "net_dev_queue",
          "DNS queries over UDP port 53: who asks whom", "none",
          "queries over TCP, TLS and HTTPS; answers from a cache in the process", _PACKET_TAX),
    Probe("tcp_dns_in", "tcp", "tp", "netif_receive_skb",
          "answers to them: latency and result", "none", "answers in VLAN-tagged frames",
          _PACKET_TAX),
)
