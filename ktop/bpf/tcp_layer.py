"""TCP layer: its probes, its records' bytes, what its C side is told.

Runs under the system's python3 too (standard library only).
"""

from __future__ import annotations

from ktop.bpf.layout import packer
from ktop.bpf.probes import Probe

# struct ktop_tcp_sock, one per socket and read: totals of the socket's life.
SOCK = (
    ("sk", "Q"), ("tx_bytes", "Q"), ("retrans_bytes", "Q"), ("rx_bytes", "Q"), ("born_ns", "Q"),
    ("cgroup", "Q"),
    ("netns", "I"), ("uid", "I"), ("pid", "I"), ("holders", "I"), ("segs_out", "I"),
    ("segs_in", "I"), ("data_segs_out", "I"), ("retrans", "I"), ("srtt_us8", "I"),
    ("mdev_us4", "I"), ("min_rtt_us", "I"), ("rto_jiffies", "I"), ("cwnd", "I"), ("mss", "I"),
    ("unacked_bytes", "I"), ("unsent_bytes", "I"), ("unread_bytes", "I"), ("snd_wnd", "I"),
    ("rcv_wnd", "I"), ("sent_jiffies", "I"), ("received_jiffies", "I"), ("rate_delivered", "I"),
    ("rate_interval_us", "I"), ("backlog", "I"), ("backlog_max", "I"), ("syn_queue", "I"),
    ("drops", "I"), ("pad", "I"),
    ("local_port", "H"), ("remote_port", "H"), ("family", "H"), ("state", "B"), ("flags", "B"),
    ("local", "16s"), ("remote", "16s"), ("comm", "16s"),
)
# Flags of a socket: what is known of its making, and of its present.
ACTIVE, PASSIVE, RECOVERY, LOSS, PROBING = 1, 2, 4, 8, 16

EVENT = (
    ("sk", "Q"), ("time_ns", "Q"), ("latency_ns", "Q"), ("tx_bytes", "Q"), ("rx_bytes", "Q"),
    ("cgroup", "Q"),
    ("kind", "I"), ("pid", "I"), ("uid", "I"), ("netns", "I"), ("retrans", "I"), ("code", "i"),
    ("stack", "i"), ("pad", "I"),
    ("local_port", "H"), ("remote_port", "H"), ("family", "H"), ("state", "B"), ("flags", "B"),
    ("local", "16s"), ("remote", "16s"), ("comm", "16s"),
)
# Kinds of events (enum ktop_tcp_kind), in order from 1.
KINDS = ("connect", "accept", "close", "retransmit", "reset_sent", "reset_received", "drop",
         "listen")
# What a retransmit was for (enum ktop_tcp_why).
RETRANSMITS = ("unknown", "rto", "fast", "tlp", "syn", "synack")
# Totals since the programs were loaded, summed over CPUs (enum ktop_tcp_counter).
COUNTERS = ("connects", "connects_failed", "accepts", "closes", "retrans_unknown", "retrans_rto",
            "retrans_fast", "retrans_tlp", "retrans_syn", "retrans_synack", "resets_sent",
            "resets_received", "drops", "lost", "dns_queries", "dns_answers", "dns_failed")
DROP_KEY = packer((("reason", "I"), ("protocol", "I"), ("location", "Q"), ("netns", "I"),
                   ("pad", "I")))
# struct ktop_tcp_dns: a query, and its answer once there is one.
DNS = (
    ("sent_ns", "Q"), ("latency_ns", "Q"), ("cgroup", "Q"), ("pid", "I"), ("netns", "I"),
    ("rcode", "i"), ("pad", "I"), ("port", "H"), ("id", "H"), ("family", "H"), ("tries", "H"),
    ("server", "16s"), ("name", "64s"), ("comm", "16s"),
)

SOCK_STRUCT, EVENT_STRUCT, DNS_STRUCT = packer(SOCK), packer(EVENT), packer(DNS)
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
          "nothing"),
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
