"""TCP's troubles against nstat, the firewall, the tests' own: failures, loss, full queues, DNS."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import time

import pytest

from ktop import hist
from ktop.collect.main import Collector
from ktop.diagnosis.engine import Diagnosis
from ktop.model import Tcp
from ktop.model_tcp import TcpEvent
from tests.tcpkit import (
    SEND,
    collecting_tcp,
    connection,
    events,
    inside,
    listening,
    namespaces,
    netns_counter,
    port_of,
    relayed,
    run,
    serving,
    tcp,
    tick,
)

pytestmark = pytest.mark.live
COLLECTING = collecting_tcp  # for the fixture `collector`


# -- failed connects -------------------------------------------------------------------------------


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
    with serving() as (a, b):
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


def test_what_others_overtake_is_said_to_be_late(collector: Collector) -> None:
    """A tenth of the packets come 20 ms late: what is sent again for it, nstat counts as well."""
    code = """
import fcntl, select, socket, struct, sys, termios, time
c = socket.create_connection((sys.argv[1], 7000))
while not select.select([sys.stdin], [], [], 0)[0]: c.sendall(bytes(1_000_000))
while struct.unpack("i", fcntl.ioctl(c, termios.TIOCOUTQ, bytes(4)))[0]: time.sleep(0.01)
print("sent", flush=True)
time.sleep(60)
"""
    names = ("TcpRetransSegs", "TcpExtTCPDSACKRecvSegs", "TcpExtTCPSACKReorder",
             "TcpExtTCPTSReorder")
    with serving() as (a, b), relayed(a, b, 0.1, 20, 5) as address:
        tick(collector)
        with inside(a, code, address) as client:
            assert client.stdin is not None and client.stdout is not None
            diagnosis, sums, over = Diagnosis(), [0.0, 0.0, 0.0], False
            said: list[str] = []
            for _ in range(200):
                if len(said) >= 12 and sums[2]:
                    client.stdin.write(b"\n")
                    client.stdin.flush()
                over = over or bool(select.select([client.stdout], [], [], 0.3)[0])
                time.sleep(0.1 * over)  # what was late is answered late, too
                frame = collector.tick()
                seconds = (frame.clock.interval_ns or 0) / 1e9
                for row in tcp(frame).connections:
                    if row.remote == address:
                        figures = row.retrans_per_s, row.dsack_dups_per_s, row.reord_seen_per_s
                        sums = [n + (x or 0) * seconds for n, x in zip(sums, figures, strict=True)]
                said += [pipe.evidence[0].text for pipe in diagnosis.update(frame).pipes
                         if pipe.pipe == "tcp" and address in (pipe.resource or "")]
                if over:
                    break
            again, had, *overtaken = (netns_counter(a, name) for name in names)
    assert over and again > 20 and had > 0.2 * again and sum(overtaken) > 0
    assert sums == pytest.approx([again, had, sum(overtaken)])
    late, lost = map(said.count, ("connections that repeat what was only late",
                                  "connections that repeat what was lost"))
    assert late > 3 * lost and late + lost == len(said)  # what the peer says comes a little later


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
