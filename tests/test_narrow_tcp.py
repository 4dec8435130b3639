"""TCP as a scope sees it: rows, sums, parts of a peer, drops by address; the pane; its cost."""

from __future__ import annotations

import msgspec
import pytest
from test_panes import PaneApp

from ktop import hist
from ktop.model import Hist
from ktop.model_tcp import (
    Connection,
    Dns,
    Drop,
    Interface,
    Listener,
    Namespace,
    Peer,
    Tcp,
    TcpEvent,
    TcpOwner,
)
from ktop.narrow.tcp import narrow, notes
from ktop.panes import TcpPane
from ktop.scope import Members
from tests.narrowkit import frame_with, untouched
from tests.session import frames as session
from tests.work import counted

ALONE, BOTH = Members(frozenset({1}), None), Members(frozenset({1, 2}), None)
GROUP = Members(frozenset({1, 2}), frozenset({10}))


def connection(number: int, pid: int, cgroup: int, netns: int = 7, **values: object) -> Connection:
    fields: dict[str, object] = {
        "state": "ESTAB", "active": True, "pid": pid, "comm": "web", "cgroup": cgroup,
        "tx_bytes_per_s": 10.0, "rx_bytes_per_s": 1.0, "srtt_ns": 5000, "retrans_per_s": 2.0}
    return Connection(number, netns, "10.0.0.1", 40_000 + number, "10.0.0.9", 80,
                      **{**fields, **values})  # type: ignore[arg-type]


def owner(pid: int | None, cgroup: int | None, n: float) -> TcpOwner:
    return TcpOwner(pid, cgroup, int(n), *([n] * 8), rtt=Hist({3: int(n)}, int(n)),
                    connect_latency=Hist({4: int(n)}, int(n), int(n)))


def made() -> Tcp:
    """Processes 1 and 2 in group 10 share a peer; 3 is in group 20, in a namespace of its own."""
    def event(kind: str, **values: object) -> TcpEvent:
        return TcpEvent(kind, 1, 7, "10.0.0.1", 40_001, "10.0.0.9", 80,
                        **values)  # type: ignore[arg-type]

    return Tcp(
        owned=True, connections=[connection(1, 1, 10), connection(2, 2, 10),
                                 connection(3, 1, 10, state="CLOSED", srtt_ns=None),
                                 connection(4, 3, 20, 8)], connections_total=30,
        listeners=[Listener(9, 7, "10.0.0.1", 443, 2, "web", 10)],
        peers=[Peer("out", "web", "10.0.0.9", 80, 9, 2, 5, 1, 1, {"x": 1}, Hist({1: 1}), 30.0, 3.0,
                    cgroup=10, pids=[1, 2]),
               Peer("in", "web", "10.0.0.9", 443, 9, 1, 5, cgroup=10, pids=[2]),
               Peer("out", "db", "10.0.0.9", 80, 9, 1, 7, cgroup=20, pids=[3], pids_cut=3)],
        events=[event("connect", pid=1, cgroup=10), event("close", pid=77, cgroup=10),
                event("drop"), event("connect", pid=3, cgroup=20),
                TcpEvent("drop", 1, 7, "10.0.0.1", 443, "10.0.0.200", 555),
                TcpEvent("drop", 1, 7, "10.0.0.1", 999, "10.0.0.200", 555)],
        drops=[Drop("A", "tcp", 7), Drop("A", "tcp", 8)],
        interfaces=[Interface(7, "lo"), Interface(8, "lo")],
        namespaces=[Namespace(7, "host", True), Namespace(8, "", False, cgroups=[20]),
                    Namespace(9, "", False, cgroups=[10])],
        dns=[Dns("web", "1.1.1.1", 7, 9, 8, {"timeout": 1}, cgroup=10, pids=[1, 2]),
             Dns("db", "1.1.1.1", 8, 4, 4, cgroup=20, pids=[3])],
        tx_bytes_per_s=60.0, rx_bytes_per_s=60.0, connects_per_s=60.0, connects_failed_per_s=60.0,
        accepts_per_s=60.0, closes_per_s=60.0, segments_out_per_s=90.0, retrans_per_s=60.0,
        drops_per_s=4.0, resets_sent_per_s=1.0, totals={"drops": 9}, retransmits={"rto": 3},
        rtt=Hist({3: 60}, 60), connect_latency=Hist({4: 60}, 60),
        owners=[owner(1, 10, 10), owner(2, 10, 20), owner(3, 20, 24), owner(None, 10, 4),
                owner(None, None, 2)])


def scoped(members: Members) -> Tcp:
    return untouched(narrow, made(), members)


def test_one_process() -> None:
    found = scoped(ALONE)
    assert [c.id for c in found.connections] == [1, 3]
    for name in ("tx_bytes_per_s", "rx_bytes_per_s", "segments_out_per_s", "retrans_per_s",
                 "connects_per_s", "connects_failed_per_s", "accepts_per_s", "closes_per_s"):
        assert getattr(found, name) == 10.0
    assert (found.connections_total, found.rtt) == (10, Hist({3: 10}, 10))
    assert found.connect_latency == Hist({4: 10}, 10, 10)
    assert (found.drops_per_s, found.resets_sent_per_s) == (None, None)
    assert (found.totals, found.retransmits, found.listeners) == ({}, {}, [])
    assert [(e.kind, e.local_port) for e in found.events] == [("connect", 40_001), ("drop", 40_001)]
    assert [n.id for n in found.namespaces] == [7]
    assert [d.netns for d in found.drops] == [i.netns for i in found.interfaces] == [7]


def test_of_a_part_of_a_peer_only_the_connections_are_known() -> None:
    (peer,) = scoped(ALONE).peers
    assert (peer.direction, peer.connections, peer.opened, peer.failed) == ("out", 1, None, None)
    assert (peer.failures, peer.latency, peer.srtt_ns, peer.pids) == ({}, None, 5000, [1])
    assert (peer.tx_bytes_per_s, peer.retrans_per_s) == (20.0, 4.0)  # with the one that ended
    (dns,) = scoped(ALONE).dns
    assert (dns.queries, dns.answers, dns.failures, dns.pids) == (None, None, {}, [1])
    whole, own = scoped(BOTH).peers
    assert (whole.opened, whole.tx_bytes_per_s, own.opened) == (5, 30.0, 5)
    assert scoped(Members(frozenset({3}), None)).peers[0].opened is None  # of others with it


def test_a_group_with_what_has_ended() -> None:
    found = scoped(GROUP)
    assert (found.tx_bytes_per_s, found.connections_total) == (34.0, 34)
    assert found.rtt is not None and hist.count(found.rtt) == 34
    assert [(e.kind, e.local_port) for e in found.events] == [
        ("connect", 40_001), ("close", 40_001), ("drop", 40_001), ("drop", 443)]
    assert [n.id for n in found.namespaces] == [7, 9]  # 9: only its processes are in it
    assert [p.opened for p in found.peers] == [5, 5] and [d.queries for d in found.dns] == [9]
    other = scoped(Members(frozenset({3}), frozenset({20})))
    assert other.tx_bytes_per_s == 24.0 and [n.id for n in other.namespaces] == [8]


def test_nothing_is_zero_and_a_first_sample_is_unknown() -> None:
    found = scoped(Members(frozenset({99}), None))
    assert (found.tx_bytes_per_s, found.connections_total, found.rtt) == (0, 0, None)
    layer = msgspec.structs.replace(made(), tx_bytes_per_s=None, connects_per_s=None)
    found = narrow(layer, GROUP, frame_with(layer))
    assert found.tx_bytes_per_s is None and found.connects_per_s is None


def test_a_recording_without_owners_sums_its_connections() -> None:
    played = next(f for f in reversed(session()) if f.tcp and f.tcp.connections)
    assert played.tcp is not None
    layer = msgspec.structs.replace(played.tcp, owned=False, owners=[])
    pid = next(c.pid for c in layer.connections if c.pid is not None)
    found = narrow(layer, Members(frozenset({pid}), None), played)
    mine = [c for c in layer.connections if c.pid == pid]
    assert found.tx_bytes_per_s == pytest.approx(sum(c.tx_bytes_per_s or 0 for c in mine))
    assert found.connections_total == sum(1 for c in mine if c.state != "CLOSED")
    assert found.peers == [] and found.connects_per_s is None
    layer.connections_total = 5_000  # more than are in the frame
    found = narrow(layer, Members(frozenset({pid}), None), played)
    assert found.tx_bytes_per_s is None and found.connections_total is None
    assert any("recording" in note for note in notes(layer, ALONE))


@pytest.mark.parametrize(
    "view", ["connections", "peers", "feed", "listeners", "trouble", "network", "latency"])
async def test_the_pane_draws_it(view: str) -> None:
    app = PaneApp(TcpPane)
    async with app.run_test(size=(120, 40)) as pilot:
        for members in (ALONE, GROUP):
            frame = frame_with(scoped(members))
            await app.feed(pilot, [frame])
            while app.pane.view != view:
                app.pane.action_view()
            app.pane.show(frame, app.history)
            await pilot.pause()


def test_it_is_cheap() -> None:
    layer = made()
    layer.connections = [connection(i, i % 500, 10) for i in range(1000)]
    layer.owners = [owner(i, 10, 3) for i in range(500)]
    layer.peers = [Peer("out", "web", f"10.0.{i % 250}.9", 80, 9, 1, cgroup=10, pids=[i, i + 1])
                   for i in range(500)]
    frame = frame_with(layer)
    for members in (Members(frozenset(range(500)), frozenset({10})),
                    Members(frozenset(range(0, 500, 2)), None)):
        with counted() as work:
            narrow(layer, members, frame)
        assert work.lines < 50_000
