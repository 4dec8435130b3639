"""TCP figures against what the tests did themselves, /proc, and the firewall, on this kernel."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from livekit import collecting, python

from ktop import hist
from ktop.collect.main import Collector, Options
from ktop.model import Frame, Tcp
from ktop.model_tcp import Connection, TcpEvent

pytestmark = pytest.mark.live


def run(command: str) -> str:
    return subprocess.run(command.split(), check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as c:
        c.watch(["tcp"])
        c.settle()
        c.tick()
        time.sleep(0.3)
        c.tick()
        yield c


def tcp(frame: Frame) -> Tcp:
    assert frame.tcp is not None
    return frame.tcp


def tick(collector: Collector) -> Tcp:
    return tcp(collector.tick())


@contextlib.contextmanager
def listening(family: int = socket.AF_INET, address: str = "127.0.0.1",
              backlog: int = 16) -> Iterator[socket.socket]:
    with socket.socket(family) as server:
        server.bind((address, 0))
        server.listen(backlog)
        yield server


def port_of(s: socket.socket) -> int:
    return int(s.getsockname()[1])


def connection(layer: Tcp, local: int, remote: int) -> Connection:
    found = [c for c in layer.connections if (c.local_port, c.remote_port) == (local, remote)]
    assert len(found) == 1, found
    return found[0]


def events(layer: Tcp, kind: str, port: int) -> list[TcpEvent]:
    return [e for e in layer.events if e.kind == kind and port in (e.local_port, e.remote_port)]


@contextlib.contextmanager
def namespaces(prefix: str = "ktoptest") -> Iterator[tuple[str, str]]:
    """Two network namespaces joined by a veth pair: 10.77.0.1 and 10.77.0.2."""
    a, b = f"{prefix}{os.getpid()}a", f"{prefix}{os.getpid()}b"
    try:
        for name in (a, b):
            run(f"ip netns add {name}")
            run(f"ip -n {name} link set lo up")
        run(f"ip link add ktv0 netns {a} type veth peer name ktv1 netns {b}")
        for name, device, address in ((a, "ktv0", "10.77.0.1"), (b, "ktv1", "10.77.0.2")):
            run(f"ip -n {name} addr add {address}/24 dev {device}")
            run(f"ip -n {name} link set {device} up")
        yield a, b
    finally:
        for name in (a, b):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


@contextlib.contextmanager
def inside(name: str, code: str, *args: str) -> Iterator[subprocess.Popen[bytes]]:
    """A python child in a namespace."""
    p = subprocess.Popen(["ip", "netns", "exec", name, "python3", "-I", "-c", code, *args],
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield p
    finally:
        p.kill()
        p.communicate()


def netns_counter(name: str, what: str) -> int:
    for line in run(f"ip netns exec {name} nstat -asz {what}").splitlines():
        if line.startswith(what):
            return int(line.split()[1])
    raise AssertionError(what)


SERVE = """
import socket, sys, threading
s = socket.create_server(("0.0.0.0", 7000), backlog=64)
print("ready", flush=True)
def one(c):
    n = 0
    while d := c.recv(1 << 16):
        n += len(d)
    c.sendall(str(n).encode())
    c.close()
while True:
    threading.Thread(target=one, args=(s.accept()[0],), daemon=True).start()
"""
SEND = """
import socket, sys
total = int(sys.argv[2])
c = socket.create_connection((sys.argv[1], 7000))
sent = 0
while sent < total:
    n = min(65536, total - sent)
    c.sendall(bytes(n))
    sent += n
c.shutdown(socket.SHUT_WR)
print(c.recv(100).decode(), flush=True)
"""


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


def test_refused(collector: Collector) -> None:
    with listening() as server:
        closed = port_of(server)
    tick(collector)
    with socket.socket() as client:
        assert client.connect_ex(("127.0.0.1", closed)) == errno.ECONNREFUSED
    time.sleep(0.1)
    layer = tick(collector)
    (event,) = events(layer, "connect", closed)
    assert (event.result, event.pid) == ("ECONNREFUSED", os.getpid())
    (peer,) = [p for p in layer.peers if p.port == closed]
    assert (peer.failed, peer.failures) == (1, {"ECONNREFUSED": 1})
    assert any(e.result == "ECONNREFUSED" for e in layer.events)
    resets = events(layer, "reset_sent", closed)
    assert resets and resets[0].local == "127.0.0.1" and resets[0].local_port == closed
    received = events(layer, "reset_received", closed)
    assert len(received) == 1


def test_reset_of_an_open_connection(collector: Collector) -> None:
    with listening() as server, socket.create_connection(server.getsockname()) as client:
        peer, _ = server.accept()
        tick(collector)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        peer.close()
        time.sleep(0.1)
        layer = tick(collector)
        ours = port_of(client)
    (close,) = [e for e in events(layer, "close", ours) if e.local_port == ours]
    assert close.result == "ECONNRESET"


def test_timed_out(collector: Collector) -> None:
    """A firewall drops the SYNs: the connect fails by ETIMEDOUT, after retransmits."""
    code = """
import errno, socket, time
t = time.monotonic()
with socket.socket() as c:
    e = c.connect_ex(("10.77.0.2", 7777))
print(errno.errorcode[e], time.monotonic() - t, flush=True)
input()
"""
    with namespaces() as (a, b):
        run(f"ip netns exec {b} iptables -A INPUT -p tcp --dport 7777 -j DROP")
        run(f"ip netns exec {a} sysctl -qw net.ipv4.tcp_syn_retries=1")
        run(f"ip netns exec {a} sysctl -qw net.ipv4.tcp_syn_linear_timeouts=0")
        tick(collector)
        with inside(a, code) as p:
            assert p.stdout is not None
            seen: list[TcpEvent] = []
            drops = 0.0
            deadline = time.monotonic() + 15
            while time.monotonic() < deadline and not any(e.kind == "connect" for e in seen):
                time.sleep(0.5)
                layer = tick(collector)
                seen += [e for e in layer.events if 7777 in (e.local_port, e.remote_port)]
                drops = sum(d.total for d in layer.drops if d.reason == "NETFILTER_DROP")
            name, took = p.stdout.readline().decode().split()
    assert name == "ETIMEDOUT"
    (event,) = [e for e in seen if e.kind == "connect"]
    assert event.result == "ETIMEDOUT" and event.comm == "python3"
    assert (event.latency_ns or 0) / 1e9 == pytest.approx(float(took), abs=0.3)
    assert [e.result for e in seen if e.kind == "retransmit"] == ["syn"]
    assert drops >= 2
    dropped = [e for e in seen if e.kind == "drop"]
    assert [e.result for e in dropped] == ["NETFILTER_DROP"] * 2
    assert {(e.remote, e.local) for e in dropped} == {("10.77.0.1", "10.77.0.2")}


# -- loss ------------------------------------------------------------------------------------------


def test_retransmits_are_nstats_in_a_lossy_namespace(collector: Collector) -> None:
    with namespaces() as (a, b), inside(b, SERVE) as server:
        assert server.stdout is not None and server.stdout.readline() == b"ready\n"
        run(f"ip netns exec {b} iptables -A INPUT -p tcp -m statistic --mode random "
            "--probability 0.1 -j DROP")
        before = tick(collector)
        first = netns_counter(a, "TcpRetransSegs")
        with inside(a, SEND, "10.77.0.2", "6000000") as client:
            assert client.stdout is not None
            total, kinds, peer = 0.0, [], 0.0
            frames: list[Tcp] = []
            while not frames or len(frames) < 30:
                time.sleep(0.3)
                frame = collector.tick()
                layer = tcp(frame)
                frames.append(layer)
                seconds = (frame.clock.interval_ns or 0) / 1e9
                rows = [c for c in layer.connections if c.remote == "10.77.0.2"]
                total += sum(c.retrans_per_s or 0 for c in rows) * seconds
                peer += sum(p.retrans_per_s or 0 for p in layer.peers
                            if p.remote == "10.77.0.2") * seconds
                kinds += [e.result for e in events(layer, "retransmit", 7000)]
                if any(e.kind == "close" for e in layer.events if e.remote_port == 7000):
                    break
            assert client.stdout.readline() == b"6000000\n"
        time.sleep(0.2)
        frames.append(tick(collector))
        nstat = netns_counter(a, "TcpRetransSegs") - first
        dropped = int(run(f"ip netns exec {b} iptables -nvxL INPUT").splitlines()[2].split()[0])
        inode = os.stat(f"/run/netns/{b}").st_ino
        counted = sum(d.total for d in frames[-1].drops
                      if (d.reason, d.netns) == ("NETFILTER_DROP", inode))
    assert nstat > 20
    assert total == pytest.approx(nstat, abs=2)
    assert peer == pytest.approx(nstat, abs=2)
    assert {"fast"} <= set(kinds) <= {"fast", "rto", "tlp", "syn", "unknown"}
    grown = {k: n - before.retransmits[k] for k, n in frames[-1].retransmits.items()}
    assert sum(grown.values()) >= len(kinds) > 10
    assert counted == dropped


def test_drop_has_its_stack(collector: Collector) -> None:
    with namespaces() as (a, b):
        run(f"ip netns exec {b} iptables -A INPUT -p tcp --dport 7777 -j DROP")
        with inside(a, "import socket; s=socket.socket(); s.setblocking(False);"
                       "s.connect_ex(('10.77.0.2', 7777)); input()"):
            layers = collector._late.layers["tcp"]  # type: ignore[union-attr]
            inode = os.stat(f"/run/netns/{b}").st_ino
            time.sleep(0.3)
            tick(collector)
            layers._drops.symbols.wait()
            (row,) = [d for d in tick(collector).drops
                      if d.netns == inode and d.reason == "NETFILTER_DROP"]
    assert row.protocol == "tcp" and row.destination == "10.77.0.2:7777"
    if layers._drops.symbols.hidden:
        pytest.skip("kernel symbols are hidden")
    names = [line.split("+")[0] for line in row.stack]
    assert "ip_local_deliver" in names or "nf_hook_slow" in names, names


# -- listeners -------------------------------------------------------------------------------------


def test_overflow_of_a_tiny_backlog(collector: Collector) -> None:
    code = """
import socket
s = socket.socket(); s.bind(("127.0.0.1", 7100)); s.listen(1)
cs = []
for i in range(6):
    c = socket.socket(); c.setblocking(False)
    c.connect_ex(("127.0.0.1", 7100)); cs.append(c)
print("ready", flush=True)
input()
"""
    with namespaces() as (a, _):
        tick(collector)
        with inside(a, code) as p:
            assert p.stdout is not None and p.stdout.readline() == b"ready\n"
            time.sleep(1.3)  # the SYNs that came again
            layer = tick(collector)
            drops = netns_counter(a, "TcpExtListenDrops")
            overflows = netns_counter(a, "TcpExtListenOverflows")
        (row,) = [x for x in layer.listeners if x.local_port == 7100]
        inode = os.stat(f"/run/netns/{a}").st_ino
        (space,) = [n for n in layer.namespaces if n.id == inode]
    assert (row.backlog, row.backlog_max, row.comm) == (2, 1, "python3")
    assert overflows > 0
    assert space.name == a and space.listen_overflows_total == pytest.approx(overflows, abs=4)
    assert space.listen_drops_total == pytest.approx(drops, abs=4)
    assert row.drops_total > 0


def test_zero_window(collector: Collector) -> None:
    with listening() as server, socket.create_connection(server.getsockname()) as client:
        peer, _ = server.accept()
        with peer:
            client.setblocking(False)
            sent = 0
            with contextlib.suppress(BlockingIOError):
                while True:
                    sent += client.send(bytes(1 << 16))
            time.sleep(0.7)
            layer = tick(collector)
            out = connection(layer, port_of(client), port_of(server))
            back = connection(layer, port_of(server), port_of(client))
            assert out.zero_window and out.unsent_bytes > 0
            assert out.tx_bytes + out.unsent_bytes == sent
            assert back.unread_bytes == back.rx_bytes == out.tx_bytes - out.unacked_bytes


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
    with namespaces() as (a, b), inside(b, SERVE) as server:
        assert server.stdout is not None and server.stdout.readline() == b"ready\n"
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
    with namespaces() as (a, b), inside(b, SERVE) as server:
        assert server.stdout is not None and server.stdout.readline() == b"ready\n"
        with inside(a, "import socket; c=socket.create_connection(('10.77.0.2', 7000));"
                       "c.sendall(bytes(50)); print('x', flush=True); input()") as client:
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
    with namespaces() as (a, b), inside(b, SERVE) as server:
        assert server.stdout is not None and server.stdout.readline() == b"ready\n"
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


# -- DNS -------------------------------------------------------------------------------------------

DNS_SERVER = """
import socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("10.77.0.2", 53))
print("ready", flush=True)
while True:
    q, who = s.recvfrom(512)
    name = q[13:13 + q[12]]
    if name == b"silent":
        continue
    time.sleep(0.05)
    s.sendto(q[:2] + bytes([0x81, 0x83 if name == b"nothere" else 0x80]) + q[4:], who)
"""
DNS_CLIENT = """
import socket, struct
def ask(name, id):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(0.3)
        s.connect(("10.77.0.2", 53))
        s.send(struct.pack(">HHHHHH", id, 0x0100, 1, 0, 0, 0) + bytes([len(name)]) + name
               + b"\\7example\\0" + struct.pack(">HH", 1, 1))
        try:
            s.recv(512)
        except TimeoutError:
            pass
for i in range(5):
    ask(b"www", 100 + i)
for i in range(2):
    ask(b"nothere", 200 + i)
ask(b"silent", 300)
print("done", flush=True)
input()
"""


def test_dns_queries_by_process_and_server(collector: Collector) -> None:
    with namespaces() as (a, b), inside(b, DNS_SERVER) as server:
        assert server.stdout is not None and server.stdout.readline() == b"ready\n"
        tick(collector)
        with inside(a, DNS_CLIENT) as client:
            assert client.stdout is not None and client.stdout.readline() == b"done\n"
            inode = os.stat(f"/run/netns/{a}").st_ino
            time.sleep(5.2)
            (row,) = [d for d in tick(collector).dns if d.netns == inode]
    assert (row.comm, row.server) == ("python3", "10.77.0.2")
    assert (row.queries, row.answers) == (8, 7)
    assert row.failures == {"NXDOMAIN": 2, "timeout": 1}
    assert row.last_name == "silent.example"
    assert row.latency is not None and hist.count(row.latency) == 7
    assert 50e6 <= row.latency.sum_ns / 7 < 90e6
