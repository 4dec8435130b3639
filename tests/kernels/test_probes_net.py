"""TCP probes, each against a count of the kernel's own or of the test's."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_live_tcp_trouble import DNS_CLIENT, DNS_SERVER

from ktop.bpf.tcp_layer import SOCK_STRUCT, SockRecord
from ktop.collect.main import Collector
from ktop.collect.tcp_records import ESTABLISHED, LISTEN
from tests.tcpkit import connection, events, inside, listening, namespaces, port_of, tcp

from .conftest import Proved
from .machinery import run
from .test_probes import traced

pytestmark = pytest.mark.kernels

RECEIVE = """
import socket
s = socket.create_server(("0.0.0.0", 7000), backlog=64)
print("ready", flush=True)
while True:
    c, _ = s.accept()
    while c.recv(65536): pass
    c.close()
"""
SEND = """
import socket
c = socket.create_connection(("10.77.0.2", 7000))
for _ in range(60): c.sendall(bytes(20000))
c.shutdown(socket.SHUT_WR); c.recv(1); c.close()
print("sent", flush=True)
input()
"""

HOLD = """
import socket
s = socket.create_server(("127.0.0.1", 7001))
c = socket.create_connection(("127.0.0.1", 7001))
p, _ = s.accept()
c.sendall(bytes(54321))
left = 54321
while left: left -= len(p.recv(left))
print("sent", flush=True)
input()
"""


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[str, str]]:
    with namespaces("ktopkernels") as (a, b):
        yield a, b


def in_layer(collector: Collector) -> Any:
    assert collector._late is not None
    return collector._late.layers["tcp"]


def line(process: object) -> bytes:
    return process.stdout.readline()  # type: ignore[attr-defined,no-any-return]


def test_sockets_by_their_own_counters(collector: Collector, proved: Proved) -> None:
    with listening() as server, socket.create_connection(server.getsockname()) as client:
        peer, _ = server.accept()
        client.sendall(b"x" * 123_456)
        left = 123_456
        while left:
            left -= len(peer.recv(left))
        in_layer(collector)._sockets._walked.clear()  # all are walked, then
        layer = tcp(collector.tick())
        ours = connection(layer, port_of(client), port_of(server))
        theirs = connection(layer, port_of(server), port_of(client))
        peer.close()
        assert ours.state == "ESTAB" and ours.remote == "127.0.0.1"
        assert ours.netns == os.stat("/proc/self/ns/net").st_ino
        proved("tcp_socks", (ours.tx_bytes, theirs.rx_bytes), (123_456, 123_456))


def test_sockets_of_all_namespaces_at_once(
        collector: Collector, pair: tuple[str, str], proved: Proved) -> None:
    engine = in_layer(collector)._engine
    if not engine.live("tcp_noted"):
        pytest.skip(engine.loaded.reasons["tcp_noted"])
    with inside(pair[0], HOLD) as child:
        assert line(child) == b"sent\n"
        records = map(SockRecord._make, SOCK_STRUCT.iter_unpack(engine.read_iter("tcp_noted")))
        inode = os.stat(f"/run/netns/{pair[0]}").st_ino
        found = sorted((r.state, r.tx_bytes, r.rx_bytes) for r in records if r.netns == inode)
    proved("tcp_noted", found, [(ESTABLISHED, 0, 54_321), (ESTABLISHED, 54_321, 0), (LISTEN, 0, 0)])


def test_who_holds_a_socket(collector: Collector, proved: Proved) -> None:
    """After a fork two processes do; then only the child."""
    with listening() as server:
        client = socket.create_connection(server.getsockname())
        ends, pid = (port_of(client), port_of(server)), os.fork()
        if pid == 0:
            time.sleep(120)
            os._exit(0)
        try:
            found: tuple[int | None, int] = (None, 0)
            for _ in range(20):
                mine = connection(tcp(collector.tick()), *ends)
                found = (mine.pid, mine.holders)
                if found == (os.getpid(), 2):
                    break
                time.sleep(0.3)
            assert found == (os.getpid(), 2)
            client.close()
            for _ in range(20):
                mine = connection(tcp(collector.tick()), *ends)
                if mine.pid == pid and mine.holders == 1:
                    break
                time.sleep(0.3)
            proved("tcp_fds", (mine.pid, mine.holders), (pid, 1))
        finally:
            os.kill(pid, 9)
            os.waitpid(pid, 0)


def test_connects_and_accepts(collector: Collector, proved: Proved) -> None:
    with listening() as server:
        port = port_of(server)
        collector.tick()
        for _ in range(25):
            with socket.create_connection(("127.0.0.1", port)):
                server.accept()[0].close()
        time.sleep(0.1)
        seen = tcp(collector.tick())
    kinds = {kind: len(events(seen, kind, port)) for kind in ("connect", "accept", "close")}
    assert {e.pid for e in events(seen, "connect", port)} == {os.getpid()}
    proved("tcp_state", kinds, {"connect": 25, "accept": 25, "close": 50})


def test_resets(collector: Collector, proved: Proved) -> None:
    with listening() as server:
        port = port_of(server)
        collector.tick()
        for _ in range(10):
            client = socket.create_connection(("127.0.0.1", port))
            peer, _ = server.accept()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
            peer.close()
    for _ in range(7):  # nobody listens any more
        with socket.socket() as client:
            client.connect_ex(("127.0.0.1", port))
    time.sleep(0.1)
    seen = tcp(collector.tick())
    told = Path("/sys/kernel/tracing/events/tcp/tcp_send_reset/format").read_text()
    # before 6.10 (19822a980e19) the kernel tells nothing of those that have no socket
    proved("tcp_rst_out", len(events(seen, "reset_sent", port)), 17 if "reason" in told else 10)
    proved("tcp_rst_in", len(events(seen, "reset_received", port)), 17)


def settled(collector: Collector, told: Callable[[], list[int]]) -> tuple[dict[str, int], int]:
    """Retransmits by ktop and by the kernel's trace, between which there were none."""
    for _ in range(50):
        (first,), seen = told(), tcp(collector.tick()).retransmits
        if told() == [first]:
            return seen, first
        time.sleep(0.2)
    raise AssertionError("retransmits go on")


def test_retransmits_under_loss(collector: Collector, proved: Proved,
                                pair: tuple[str, str]) -> None:
    """As often as the kernel's own trace of the same event: one may be of several segments."""
    a, b = pair
    before = tcp(collector.tick()).retransmits
    with inside(b, RECEIVE) as server, traced("tcp/tcp_retransmit_skb") as count_of:
        line(server)
        run(f"tc -n {a} qdisc add dev ktv0 root netem loss 10%")
        try:
            with inside(a, SEND) as client:
                assert line(client) == b"sent\n"
        finally:
            run(f"tc -n {a} qdisc del dev ktv0 root")
        after, told = settled(collector, count_of)
    grown = sum(after.values()) - sum(before.values())
    synacks = after.get("synack", 0) - before.get("synack", 0)
    assert told > 3
    proved("tcp_retrans", grown - synacks, told)


def test_synacks_sent_again(collector: Collector, proved: Proved, pair: tuple[str, str]) -> None:
    """A server whose SYN-ACKs do not leave its namespace sends them again after a second."""
    a, b = pair
    code = """
import socket
s = socket.create_server(("0.0.0.0", 7001), backlog=4)
print("ready", flush=True)
input()
"""
    before = tcp(collector.tick()).retransmits
    with inside(b, code) as server, traced("tcp/tcp_retransmit_synack") as count_of:
        line(server)
        run(f"tc -n {b} qdisc add dev ktv1 root netem loss 100%")
        try:
            with inside(a, "import socket, time; s = socket.socket(); s.settimeout(5);"
                           "s.connect_ex(('10.77.0.2', 7001)); print('done', flush=True); input()"
                        ) as client:
                line(client)
        finally:
            run(f"tc -n {b} qdisc del dev ktv1 root")
        after, told = settled(collector, count_of)
    assert told >= 1
    proved("tcp_synack", after.get("synack", 0) - before.get("synack", 0), told)


def test_drops(collector: Collector, proved: Proved, pair: tuple[str, str]) -> None:
    a, b = pair
    inode = os.stat(f"/run/netns/{b}").st_ino
    run(f"ip netns exec {b} iptables -A INPUT -p udp --dport 7777 -j DROP")
    code = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(12): s.sendto(b"x", ("10.77.0.2", 7777))
print("done", flush=True); input()
"""
    collector.tick()
    with inside(a, code) as client:
        line(client)
        time.sleep(0.3)
        seen = tcp(collector.tick())
    mine = [d for d in seen.drops if d.netns == inode and d.protocol == "udp"]
    if "NETFILTER_DROP" in {d.reason for d in mine}:
        mine = [d for d in mine if d.reason == "NETFILTER_DROP"]
    else:  # before 5.17 (c504e5c2f964) no reason is told
        assert {d.reason for d in mine} <= {"unknown", "NOT_SPECIFIED"}, mine
    proved("tcp_drop", sum(d.total for d in mine), 12)


def test_dns(collector: Collector, proved: Proved, pair: tuple[str, str]) -> None:
    a, b = pair
    inode = os.stat(f"/run/netns/{a}").st_ino
    with inside(b, DNS_SERVER) as server:
        line(server)
        collector.tick()
        with inside(a, DNS_CLIENT) as client:
            line(client)
            for _ in range(30):  # one has no answer, and counts once it is given up
                time.sleep(0.5)
                (seen,) = [d for d in tcp(collector.tick()).dns if d.netns == inode]
                if seen.queries == 8:
                    break
    assert seen.server == "10.77.0.2"
    proved("tcp_dns_out", seen.queries, 8)
    # an answer may come later than the client waits for it, and counts all the same
    proved("tcp_dns_in", (seen.answers, seen.failures.get("NXDOMAIN")), (7, 2))
