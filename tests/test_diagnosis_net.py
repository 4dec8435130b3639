"""Diagnosis on built frames: connections, peers, interfaces, locks."""

from __future__ import annotations

import pytest

from ktop.diagnosis.model import Report
from ktop.model import Frame, Thread
from ktop.model_block import Limit
from ktop.model_tcp import Drop, Interface, Listener, Namespace, TcpEvent
from tests.diagkit import SECOND, add, connection, process, verdict, watch

# -- tcp and upstream --------------------------------------


def with_tcp(**figures: object) -> Report:
    def trouble(f: Frame) -> None:
        assert f.tcp is not None
        for name, value in figures.items():
            setattr(f.tcp, name, value)

    return watch(trouble)


def test_loss() -> None:
    report = with_tcp(connections=[connection(
        1, retrans_per_s=4.0, segments_out_per_s=50.0, recovery="recovery", unacked_bytes=9000)])
    assert verdict(report) == ("tcp", "errors") and report.verdict.resource == "10.0.0.2:5432"
    one = with_tcp(connections=[connection(1, retrans_per_s=0.5, segments_out_per_s=50.0)])
    assert one.verdict.pipe == "none"


def test_what_is_late_is_not_lost() -> None:
    def told(**figures: float) -> tuple[list[str], str]:
        report = with_tcp(connections=[connection(
            1, retrans_per_s=20.0, segments_out_per_s=200.0, recovery="recovery", **figures)])
        assert verdict(report) == ("tcp", "errors")
        return [e.text for e in report.verdict.evidence], report.verdict.next

    lost, advice = told(dsack_dups_per_s=1.0, reord_seen_per_s=0.0)
    assert lost[0] == "connections that repeat what was lost" and "lossy hop" in advice
    late, advice = told(dsack_dups_per_s=8.0, reord_seen_per_s=4.0)
    assert late[0] == "connections that repeat what was only late"
    assert "of them, what had arrived: at least" in late and "overtake" in advice
    assert told() == (lost, told(dsack_dups_per_s=0.0)[1])  # a recording that does not know


def test_a_full_link_a_closed_window_and_no_answer_at_all() -> None:
    queue = with_tcp(connections=[connection(1, unsent_bytes=200_000, srtt_ns=200_000_000)])
    assert verdict(queue) == ("tcp", "saturated")
    short = with_tcp(connections=[connection(1, unsent_bytes=850_000, srtt_ns=4_500_000,
                                             min_rtt_ns=60_000, tx_bytes_per_s=3.5e6)])
    assert verdict(short) == ("tcp", "saturated")
    local = with_tcp(connections=[connection(1, unsent_bytes=2_000_000, srtt_ns=1_500_000,
                                             min_rtt_ns=20_000, tx_bytes_per_s=1e9)])
    assert local.verdict.pipe == "none"
    bulk = with_tcp(connections=[connection(1, unsent_bytes=200_000, srtt_ns=450_000)])
    assert bulk.verdict.pipe == "none"
    reader = connection(2, "10.0.0.1", 40_001, pid=300, local="10.0.0.2", local_port=5432,
                        active=False, comm="deaf", unread_bytes=60_000)
    closed = with_tcp(connections=[connection(1, zero_window=True, unsent_bytes=5000), reader])
    assert verdict(closed) == ("tcp", "saturated") and closed.verdict.culprits[0].comm == "deaf"
    opening = with_tcp(connections=[connection(1, state="SYN-SENT", age_ns=2 * SECOND)])
    assert verdict(opening) == ("tcp", "errors")


def test_connects_that_fail_and_a_few_that_do() -> None:
    def event(result: str) -> TcpEvent:
        return TcpEvent("connect", 0, 1, "10.0.0.1", 1, "10.0.0.9", 80, result=result, pid=100,
                        comm="client", cgroup=2)

    refused = with_tcp(events=[event("ECONNREFUSED")] * 3)
    assert verdict(refused) == ("tcp", "errors") and refused.verdict.resource == "10.0.0.9:80"
    assert with_tcp(events=[event("ok")] * 9 + [event("ECONNREFUSED")]).verdict.pipe == "none"


def test_listener_conntrack_and_firewall() -> None:
    full = with_tcp(listeners=[Listener(1, 1, "0.0.0.0", 80, 100, "web", 2, backlog=129,
                                        backlog_max=128, drops_per_s=3.0)])
    assert verdict(full) == ("tcp", "errors") and full.verdict.culprits[0].comm == "web"
    table = with_tcp(namespaces=[Namespace(1, "host", True, conntrack_count=100, conntrack_max=100,
                                           conntrack_drops_per_s=8.0)])
    assert "conntrack" in (table.verdict.resource or "")
    assert with_tcp(drops=[Drop("NO_SOCKET", "udp", 1, per_s=3.0)]).verdict.pipe == "none"


def test_a_firewall_that_harms_somebody_and_one_that_keeps_scanners_out() -> None:
    scans = [Drop("NETFILTER_DROP", "tcp", 1, per_s=30.0, source="6.6.6.6:999",
                  destination="10.0.0.1:23")]
    here = [Namespace(1, "host", True)]
    assert with_tcp(drops=scans, namespaces=here).verdict.pipe == "none"
    meant = with_tcp(drops=scans, namespaces=here, listeners=[Listener(1, 1, "0.0.0.0", 23)])
    assert meant.verdict.resource == "firewall of host"
    ours = [Drop("NETFILTER_DROP", "tcp", 1, per_s=3.0, source="10.0.0.1:999",
                 destination="10.0.0.2:80")]
    opening = with_tcp(drops=ours, namespaces=here, connections=[
        connection(1, port=80, state="SYN-SENT", age_ns=2 * SECOND)])
    assert {p.resource for p in opening.pipes if p.state == "errors"} == {
        "10.0.0.2:80", "firewall of host"}
    wall = next(p for p in opening.pipes if p.resource == "firewall of host")
    assert [(a.pid, a.comm) for a in wall.victims] == [(100, "client")]  # Enter opens it
    assert [a.comm for a in meant.verdict.victims] == ["6.6.6.6:999 to 10.0.0.1:23"]


def test_who_waits_for_a_listener_is_named_where_it_is_on_this_host() -> None:
    web = Listener(1, 1, "0.0.0.0", 80, 100, "web", 2, backlog=129, backlog_max=128)
    queued = [connection(1, remote="10.0.0.1", port=80, pid=7),  # nobody has accepted it
              connection(2, remote="10.0.0.1", port=40_001, pid=None, local="10.0.0.1",
                         local_port=80, active=False),
              connection(3, remote="10.0.0.1", port=80, pid=8),  # this one was
              connection(4, remote="10.0.0.1", port=40_003, pid=100, local="10.0.0.1",
                         local_port=80, active=False),
              connection(5, remote="10.0.0.1", port=80, pid=9, state="SYN-SENT"),
              connection(6, remote="9.9.9.9", port=80, pid=10, state="SYN-SENT")]
    found = with_tcp(listeners=[web], connections=queued)
    pipe = next(p for p in found.pipes if (p.resource or "").startswith("listener"))
    assert {a.pid for a in pipe.victims} == {7, 9}
    assert [a.pid for a in pipe.culprits] == [100]
    elsewhere = with_tcp(listeners=[web])
    assert [a.comm for a in elsewhere.verdict.victims] == ["clients of port 80"]


def test_who_gets_through_at_another_address_is_not_refused() -> None:
    def event(remote: str, result: str) -> TcpEvent:
        return TcpEvent("connect", 0, 1, "::1", 1, remote, 80, result=result, pid=100,
                        comm="client", cgroup=2)

    assert with_tcp(events=[event("::1", "ECONNREFUSED"), event("127.0.0.1", "ok")] * 3
                    ).verdict.pipe == "none"


def test_upstream_is_waited_for_and_an_idle_keep_alive_is_not() -> None:
    asked = {"sent_ago_ms": 90, "received_ago_ms": 150}
    report = with_tcp(connections=[connection(i, **asked) for i in range(3)])
    assert verdict(report) == ("upstream", "waiting")
    assert report.verdict.stalled == pytest.approx(3.0, rel=0.05)
    for innocent in (
            {},                                                        # answered
            asked | {"active": False},                                 # it is the server
            {"sent_ago_ms": 2, "received_ago_ms": 9},                  # not for long
            {"sent_ago_ms": 90_000, "received_ago_ms": 95_000},        # a subscription
            asked | {"unacked_bytes": 100},                            # not delivered: tcp's
            asked | {"tx_bytes_per_s": 9e6, "rx_bytes_per_s": 0.0}):   # a stream
        found = with_tcp(connections=[connection(i, **innocent) for i in range(3)])
        assert found.verdict.pipe == "none", innocent


@pytest.mark.parametrize(("blocked_pct", "accepted", "pipe"), [
    (290.0, 0, "upstream"),  # three threads wait, and three connections asked at once again
    (0.0, 0, "none"),        # answered at once, and nobody waits
    (290.0, 3, "none")])     # the threads wait for requests of clients
def test_in_and_out_in_one_tick_of_the_clock(blocked_pct: float, accepted: int, pipe: str) -> None:
    def trouble(f: Frame) -> None:
        assert f.tcp is not None
        f.tcp.connections = [
            *(connection(i, sent_ago_ms=60, received_ago_ms=60) for i in range(3)),
            *(connection(10 + i, "10.9.9.9", active=False) for i in range(accepted))]
        add(f, process(100, "client", waits_pct={"socket": blocked_pct}))

    assert watch(trouble).verdict.pipe == pipe


@pytest.mark.parametrize(("blocked_pct", "pipe"), [(11.0, "none"), (97.0, "upstream")])
def test_ties_are_waited_for_by_a_thread_that_waits_and_not_by_many_a_little(
        blocked_pct: float, pipe: str) -> None:
    """Keep-alive clients that think between requests: 7 threads at 11% are no thread at 77%."""
    def trouble(f: Frame) -> None:
        assert f.tcp is not None
        f.tcp.connections = [connection(i, sent_ago_ms=40, received_ago_ms=40) for i in range(7)]
        f.processes.threads = [
            Thread(100 + i, 100, "w", "S", 0, 0.5, 0.5, blocked_pct, "recvfrom", 90.0, 0.0)
            for i in range(7)]
        add(f, process(100, "client", threads=8, waits_pct={"socket": 7 * blocked_pct}))

    assert watch(trouble).verdict.pipe == pipe


def test_a_server_here_that_waits_for_its_disk_is_not_an_upstream() -> None:
    def trouble(f: Frame) -> None:
        assert f.tcp is not None
        f.tcp.connections = [
            connection(1, sent_ago_ms=90, received_ago_ms=150),
            connection(2, "10.0.0.1", 40_001, pid=300, local="10.0.0.2", local_port=5432,
                       active=False)]
        add(f, process(300, "server", waits_pct={"disk": 95.0}))

    assert watch(trouble).verdict.pipe != "upstream"


# -- lock --------------------------------------


def test_a_contended_mutex_and_an_idle_pool() -> None:
    mutex = watch(lambda f: add(f, process(100, threads=5, waits_pct={"mutex": 300.0},
                                           off_cpu_pct={"lock": 390.0}, voluntary_per_s=900.0)))
    assert verdict(mutex) == ("lock", "contended") and mutex.verdict.culprits[0].pid == 100
    pool = watch(lambda f: add(f, process(100, threads=50, cpu_pct=30.0, voluntary_per_s=2000.0,
                                          off_cpu_pct={"lock": 4900.0})))
    assert pool.verdict.pipe == "none"


@pytest.mark.parametrize(("feeder", "busy_pct", "queued_pct", "pipe"), [
    (0.0, 25.0, 0.0, "lock"),   # four threads take turns at one thing: one of them is not waiting
    (0.0, 10.0, 0.0, "none"),   # a pool with little to do
    (0.0, 40.0, 0.0, "none"),   # a pool with more than one at work
    (0.0, 40.0, 14.0, "lock"),  # one at work, others on their way to the lock wait for a CPU
    (300.0, 25.0, 0.0, "none")])  # a pool, and a thread that feeds it
def test_other_futexes_only_with_the_signs_of_a_lock(
        feeder: float, busy_pct: float, queued_pct: float, pipe: str) -> None:
    def trouble(f: Frame) -> None:
        add(f, process(100, threads=5, off_cpu_pct={"lock": 500 - 4 * busy_pct}))
        f.processes.threads = [
            Thread(100, 100, "main", "S", 0, 0.0, 0.0, 0.0, None, feeder, 0.0),
            *(Thread(101 + i, 100, "w", "S", 0, 1.0, queued_pct, 100 - busy_pct, "futex", 150.0,
                     0.0)
              for i in range(4))]

    assert watch(trouble).verdict.pipe == pipe


# -- short answers --------------------------------------


def asker(number: int, busy: float, **figures: object) -> object:
    """A connection that asks one thing at a time over 1 ms, for that part of its time."""
    per_s = 1000 * busy
    return connection(number, **{"srtt_ns": 1_000_000, "segments_out_per_s": per_s,
                                 "tx_bytes_per_s": 200 * per_s, "rx_bytes_per_s": 900 * per_s,
                                 "mss_bytes": 1448, **figures})


def asking(rows: list[object], *clients: object) -> Report:
    def trouble(f: Frame) -> None:
        assert f.tcp is not None
        f.tcp.connections = rows  # type: ignore[assignment]
        add(f, *clients)

    return watch(trouble)


def test_answers_however_short_that_take_most_of_a_threads_time() -> None:
    bound = process(100, "app", cpu_pct=20.0, waits_pct={"socket": 78.0})
    report = asking([asker(1, 0.75)], bound)
    assert verdict(report) == ("upstream", "waiting")
    assert report.verdict.resource == "10.0.0.2:5432"
    assert report.verdict.victims[0].pid == 100
    assert report.verdict.stalled == pytest.approx(0.75, rel=0.05)
    spread = asking([asker(i, 0.35) for i in range(2)], bound)  # one thread, two connections
    assert verdict(spread) == ("upstream", "waiting")
    assert spread.verdict.stalled == pytest.approx(0.7, rel=0.05)


@pytest.mark.parametrize("figures", [
    {"active": False},                              # the server: it waits for requests
    {"segments_out_per_s": 150.0},                  # keep-alive clients that think between
    {"tx_bytes_per_s": 1448 * 750.0},               # an upload fills its segments
    {"segments_out_per_s": 20_000.0},               # a stream has many under way
    {"rx_bytes_per_s": 0.0},                        # nobody answers at all
    {"unsent_bytes": 9000}, {"recovery": "loss"}])  # tcp's
def test_who_does_not_wait_for_each_answer(figures: dict[str, object]) -> None:
    client = process(100, "app", cpu_pct=20.0, waits_pct={"socket": 78.0})
    assert asking([asker(1, 0.75, **figures)], client).verdict.pipe == "none", figures


def test_workers_that_wait_for_requests_most_of_their_time_are_no_askers() -> None:
    """Four workers blocked at sockets, each of which asks its database now and then."""
    server = process(100, "app", threads=4, waits_pct={"socket": 390.0})

    def trouble(f: Frame) -> None:
        assert f.tcp is not None
        f.tcp.connections = [asker(i, 0.1) for i in range(4)]  # type: ignore[misc]
        f.processes.threads = [Thread(100 + i, 100, "w", "S", 0, 1.0, 0.0, 97.0, "recvfrom", 9.0,
                                      0.0) for i in range(4)]
        add(f, server)

    assert watch(trouble).verdict.pipe == "none"


def test_who_sends_by_a_clock_and_reads_apart_waits_for_no_answer() -> None:
    def trouble(pause: float) -> Report:
        def paced(f: Frame) -> None:
            assert f.tcp is not None
            f.tcp.connections = [asker(1, 0.9)]  # type: ignore[list-item]
            f.processes.threads = [
                Thread(100, 100, "send", "S", 0, 3.0, 0.0, 0.0, None, pause, 0.0),
                Thread(101, 100, "read", "S", 0, 3.0, 0.0, 96.0, "recvfrom", 900.0, 0.0)]
            add(f, process(100, "app", threads=2, waits_pct={"socket": 96.0}))

        return watch(paced)

    assert trouble(900.0).verdict.pipe == "none"
    assert trouble(1.0).verdict.pipe == "upstream"  # that thread does nothing


def test_a_peer_here_that_works_or_waits_for_one_that_does_is_no_upstream() -> None:
    """client -> proxy -> worker, all on this host: the worker's CPU is what takes the time."""
    rows = [asker(1, 0.9),
            connection(2, "10.0.0.1", 40_001, pid=300, local="10.0.0.2", local_port=5432,
                       active=False),
            asker(3, 0.9, pid=300, remote="10.0.0.3", port=80, local="10.0.0.2"),
            connection(4, "10.0.0.2", 40_003, pid=400, local="10.0.0.3", local_port=80,
                       active=False)]
    client = process(100, "client", waits_pct={"socket": 90.0})
    proxy = process(300, "proxy", cpu_pct=9.0)
    idle, busy = process(400, "worker", cpu_pct=3.0), process(400, "worker", cpu_pct=88.0)
    assert asking(rows, client, proxy, busy).verdict.pipe == "none"
    assert asking(rows, client, proxy, idle).verdict.pipe == "upstream"


# -- declared interfaces --------------------------------------


def gateway(packets: float, **figures: object) -> Report:
    row = Interface(1, "eth0", tx_bytes_per_s=10e6, rx_bytes_per_s=1e6, tx_packets_per_s=packets,
                    rx_packets_per_s=10.0, limit=Limit("eth0", None, 1.5e9, 100e3))
    return with_tcp(interfaces=[row], namespaces=[Namespace(1, "host", True)], **figures)


def test_packets_before_bandwidth_is_a_finding_and_stalls_nobody() -> None:
    report = gateway(83e3)
    assert report.verdict.pipe == "none"
    assert [f.kind for f in report.findings] == ["ceiling"]
    assert "83% of the packets" in report.findings[0].text
    assert "(the other limit: 1%)" in report.findings[0].text
    tcp = next(p for p in report.pipes if p.pipe == "tcp")
    assert tcp.headroom_pct == pytest.approx(17)
    assert gateway(50e3).findings == []


def test_a_near_ceiling_is_evidence_for_who_waits() -> None:
    report = gateway(99e3, connections=[connection(
        1, retrans_per_s=4.0, segments_out_per_s=50.0, recovery="recovery", unacked_bytes=9000)])
    assert verdict(report) == ("tcp", "errors")
    assert any(e.reference == 100e3 and "eth0" in e.text for e in report.verdict.evidence)
