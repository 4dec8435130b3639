"""TCP figures against what the tests did themselves, ss and /proc, on this kernel."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from typing import Any

import pytest

from ktop import hist
from ktop.collect.main import Collector, Options
from tests.livekit import python
from tests.tcpkit import (
    SEND,
    collecting_tcp,
    connection,
    events,
    inside,
    listening,
    port_of,
    run,
    serving,
    tcp,
    tick,
)

pytestmark = pytest.mark.live
COLLECTING = collecting_tcp  # for the fixture `collector`


# -- bytes -----------------------------------------------------------------------------------------


def test_bytes_of_a_connection_are_what_was_sent(collector: Collector) -> None:
    with listening() as server, socket.create_connection(server.getsockname()) as client:
        peer, _ = server.accept()
        with peer:
            time.sleep(0.1)
            before = tick(collector)
            ours, theirs = port_of(client), port_of(server)
            client.sendall(bytes(300_001))
            left = 300_001
            while left:
                left -= len(peer.recv(1 << 16))
            peer.sendall(bytes(77))
            assert len(client.recv(100)) == 77
            time.sleep(0.1)
            frame = collector.tick()
            layer = tcp(frame)
            out, back = connection(layer, ours, theirs), connection(layer, theirs, ours)
    interval = (frame.clock.interval_ns or 0) / 1e9
    assert (out.tx_bytes, out.rx_bytes) == (300_001, 77)
    assert (back.tx_bytes, back.rx_bytes) == (77, 300_001)
    assert (out.tx_bytes_per_s or 0) * interval == pytest.approx(300_001)
    assert (back.rx_bytes_per_s or 0) * interval == pytest.approx(300_001)
    assert out.active is True and back.active is False
    assert out.state == back.state == "ESTAB"
    assert connection(before, ours, theirs).tx_bytes == 0
    assert out.pid == back.pid == os.getpid()
    assert out.srtt_ns and out.cwnd and out.mss_bytes
    assert out.sent_ago_ms is not None and 50 <= out.sent_ago_ms < 2_000
    assert out.received_ago_ms is not None and 50 <= out.received_ago_ms < 2_000


def test_short_lived_connections_count_to_the_last_byte(collector: Collector) -> None:
    """None of them lives at a tick; their bytes are in the totals and in the peer's rate."""
    tick(collector)
    sent = 0
    with listening() as server:
        theirs = port_of(server)
        for i in range(20):
            with socket.create_connection(server.getsockname()) as client:
                peer, _ = server.accept()
                with peer:
                    client.sendall(bytes(1000 + i))
                    sent += 1000 + i
                    client.shutdown(socket.SHUT_WR)
                    while peer.recv(1 << 16):
                        pass
                    peer.sendall(bytes(10))
        time.sleep(0.2)
        frame = collector.tick()
    layer = tcp(frame)
    interval = (frame.clock.interval_ns or 0) / 1e9
    closes = events(layer, "close", theirs)
    clients = [e for e in closes if e.remote_port == theirs]
    servers = [e for e in closes if e.local_port == theirs]
    assert len(clients) == len(servers) == 20
    assert sum(e.tx_bytes or 0 for e in clients) == sum(e.rx_bytes or 0 for e in servers) == sent
    assert sum(e.rx_bytes or 0 for e in clients) == sum(e.tx_bytes or 0 for e in servers) == 200
    assert {e.pid for e in closes} == {os.getpid()}
    assert all(e.latency_ns and e.latency_ns < 5e9 and e.result == "ok" for e in closes)
    mine = {p.direction: p for p in layer.peers if p.port == theirs}
    assert (mine["out"].tx_bytes_per_s or 0) * interval == pytest.approx(sent)
    assert (mine["in"].rx_bytes_per_s or 0) * interval == pytest.approx(sent)
    assert (mine["out"].opened, mine["in"].opened) == (20, 20)
    assert mine["out"].failed == 0 and mine["out"].latency is not None
    rows = [c for c in layer.connections if theirs in (c.local_port, c.remote_port)]
    assert sum(c.tx_bytes_per_s or 0 for c in rows if c.remote_port == theirs
               ) * interval == pytest.approx(sent)


def test_a_connection_closed_between_ticks_adds_its_rest(collector: Collector) -> None:
    with listening() as server:
        client = socket.create_connection(server.getsockname())
        peer, _ = server.accept()
        client.sendall(bytes(5000))
        time.sleep(0.1)
        ours, theirs = port_of(client), port_of(server)
        assert connection(tick(collector), ours, theirs).tx_bytes == 5000
        client.sendall(bytes(321))
        client.close()
        while peer.recv(1 << 16):
            pass
        peer.close()
        time.sleep(0.1)
        frame = collector.tick()
    row = connection(tcp(frame), ours, theirs)
    assert row.state == "CLOSED" and row.tx_bytes == 5321
    assert (row.tx_bytes_per_s or 0) * (frame.clock.interval_ns or 0) / 1e9 == pytest.approx(321)


def test_ipv6(collector: Collector) -> None:
    with listening(socket.AF_INET6, "::1") as server, \
            socket.create_connection(server.getsockname()[:2]) as client:
        peer, _ = server.accept()
        with peer:
            peer.sendall(bytes(1234))
            time.sleep(0.1)
            layer = tick(collector)
            row = connection(layer, port_of(client), port_of(server))
    assert (row.local, row.remote, row.rx_bytes) == ("::1", "::1", 1234)


def test_connections_older_than_ktop() -> None:
    with listening() as server, socket.create_connection(server.getsockname()) as client:
        peer, _ = server.accept()
        with peer:
            client.sendall(bytes(999))
            with contextlib.closing(Collector(Options(watch=("tcp",)))) as c:
                c.start()
                c.settle()
                first = tick(c)
                row = connection(first, port_of(client), port_of(server))
                assert row.tx_bytes == 999 and row.tx_bytes_per_s is None
                assert row.pid == os.getpid() and row.age_ns is None
                client.sendall(bytes(100))
                time.sleep(0.2)
                frame = c.tick()
                row = connection(tcp(frame), port_of(client), port_of(server))
                assert (row.tx_bytes_per_s or 0) * (frame.clock.interval_ns or 0) / 1e9 == (
                    pytest.approx(100))
                assert row.active is True


# -- connects and accepts -------------------------------------------------------------------------


def test_connects_and_accepts_are_the_servers_own_count(collector: Collector) -> None:
    before = tick(collector)
    with listening() as server:
        theirs, count = port_of(server), 0
        for _ in range(37):
            with socket.create_connection(server.getsockname()):
                server.accept()[0].close()
                count += 1
        time.sleep(0.2)
        layer = tick(collector)
    connects, accepts = events(layer, "connect", theirs), events(layer, "accept", theirs)
    assert len(connects) == len(accepts) == count
    assert all(e.result == "ok" and e.pid == os.getpid() and e.latency_ns for e in connects)
    assert {e.pid for e in accepts} == {os.getpid()}
    assert layer.totals["connects"] - before.totals["connects"] >= count
    assert layer.connect_latency is not None
    assert hist.count(layer.connect_latency) >= count


# -- round trips -----------------------------------------------------------------------------------


def test_round_trip_is_what_ss_says(collector: Collector) -> None:
    with listening() as server, socket.create_connection(server.getsockname()) as client:
        peer, _ = server.accept()
        with peer:
            for _ in range(50):
                client.sendall(b"x")
                peer.recv(1)
                peer.sendall(b"y")
                client.recv(1)
            time.sleep(0.1)
            row = connection(tick(collector), port_of(client), port_of(server))
            said = run(f"ss -tinH sport = :{port_of(client)} dport = :{port_of(server)}")
    words = dict(w.split(":", 1) for w in said.split() if ":" in w and w[0].isalpha())
    srtt, var = (float(x) * 1e6 for x in words["rtt"].split("/"))
    assert row.srtt_ns == pytest.approx(srtt, abs=1000)
    assert row.rttvar_ns == pytest.approx(var, abs=1000)
    assert row.cwnd == int(words["cwnd"])
    assert row.rto_ns == int(words["rto"]) * 1_000_000
    assert (row.segments_out_per_s or 0) > 0
    if "minrtt" in words:
        assert row.min_rtt_ns == float(words["minrtt"]) * 1e6


def test_round_trip_of_a_slow_path(collector: Collector) -> None:
    """A link of 2 Mbit/s with a long queue: the round trip is its queueing delay, as ss has it."""
    with serving() as (a, _b):
        run(f"tc -n {a} qdisc add dev ktv0 root tbf rate 4mbit burst 16kbit latency 800ms")
        with inside(a, SEND, "10.77.0.2", "20000000"):
            time.sleep(2.0)
            tick(collector)
            time.sleep(1.5)
            layer = tick(collector)
            said = run(f"ip netns exec {a} ss -tinH dport = :7000")
            row = next(c for c in layer.connections if c.remote_port == 7000)
    srtt = float(next(w for w in said.split() if w.startswith("rtt:"))[4:].split("/")[0]) * 1e6
    assert srtt > 20e6
    assert row.srtt_ns == pytest.approx(srtt, rel=0.3)
    assert row.comm == "python3" and row.unacked_bytes > 0
    assert row.tx_bytes_per_s == pytest.approx(4e6 / 8, rel=0.4)


# -- owners ----------------------------------------------------------------------------------------


def test_owner_is_who_holds_it_after_a_fork(collector: Collector) -> None:
    code = """
import os, socket, sys, time
c = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
child = os.fork()
if child == 0:
    time.sleep(60)
c.close()
print(child, flush=True)
input()
"""
    with listening() as server:
        p = python(code, str(port_of(server)))
        peer, (_, ours) = server.accept()
        try:
            assert p.stdout is not None
            heir = int(p.stdout.readline())
            deadline = time.monotonic() + 8
            owner = None
            while owner != heir and time.monotonic() < deadline:
                time.sleep(0.5)
                owner = connection(tick(collector), ours, port_of(server)).pid
            row = connection(tick(collector), ours, port_of(server))
            assert (row.pid, row.holders) == (heir, 1)
            os.kill(heir, 9)
        finally:
            p.kill()
            p.communicate()
            peer.close()


def test_every_namespace_is_seen(collector: Collector) -> None:
    send = ("import socket; c=socket.create_connection(('10.77.0.2', 7000));"
            "c.sendall(bytes(50)); print('x', flush=True); input()")
    with serving() as (a, b), inside(a, send) as client:
        assert client.stdout is not None and client.stdout.readline()
        time.sleep(0.2)
        tick(collector)
        layer = tick(collector)
        inodes = [os.stat(f"/run/netns/{n}").st_ino for n in (a, b)]
        found = {c.netns: c for c in layer.connections if 7000 in (c.local_port, c.remote_port)}
        assert set(found) == set(inodes)
        assert found[inodes[0]].tx_bytes == found[inodes[1]].rx_bytes == 50
        assert found[inodes[0]].pid is not None and found[inodes[1]].comm == "python3"
        names = {n.id: n.name for n in layer.namespaces}
        assert [names[i] for i in inodes] == [a, b]
        veths = {i.name: i for i in layer.interfaces if i.netns in inodes}
        assert {"ktv0", "ktv1", "lo"} <= set(veths)
    assert os.stat("/proc/self/ns/net").st_ino not in inodes
    tick(collector)
    assert not {n.id for n in tick(collector).namespaces} & set(inodes)


def test_interface_rates(collector: Collector) -> None:
    def lo() -> list[int]:
        with open("/proc/net/dev", encoding="ascii") as f:
            line = next(x for x in f if x.strip().startswith("lo:"))
        return [int(n) for n in line.split(":")[1].split()]

    done = threading.Event()

    def chatter(to: Any) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            while not done.wait(0.005):
                s.sendto(bytes(1000), to)

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
        sink.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=chatter, args=(sink.getsockname(),))
        thread.start()
        try:
            tick(collector)
            first = lo()
            time.sleep(1.0)
            frame = collector.tick()
            second = lo()
        finally:
            done.set()
            thread.join()
    row = next(i for i in tcp(frame).interfaces
               if i.name == "lo" and i.netns == os.stat("/proc/self/ns/net").st_ino)
    seconds = (frame.clock.interval_ns or 0) / 1e9
    assert (row.rx_bytes_per_s or 0) * seconds == pytest.approx(second[0] - first[0], rel=0.1)
    assert (row.tx_packets_per_s or 0) * seconds == pytest.approx(second[9] - first[9], rel=0.1)


def test_conntrack_count_is_the_namespaces_own(collector: Collector) -> None:
    with serving() as (a, b):
        run(f"ip netns exec {b} iptables -A INPUT -m conntrack --ctstate NEW -j ACCEPT")
        with inside(a, "import socket; c=[socket.create_connection(('10.77.0.2', 7000)) "
                       "for _ in range(9)]; print('x', flush=True); input()") as client:
            assert client.stdout is not None and client.stdout.readline()
            inode = os.stat(f"/run/netns/{b}").st_ino
            (row,) = [n for n in tick(collector).namespaces if n.id == inode]
            proc = "/proc/sys/net/netfilter/nf_conntrack_"
            count, limit = (int(run(f"ip netns exec {b} cat {proc}{n}")) for n in ("count", "max"))
    assert row.conntrack_count == pytest.approx(count, abs=1) and count >= 9
    assert row.conntrack_max == limit
    assert row.sockets >= 9
