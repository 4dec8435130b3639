"""TCP without a kernel: decoders, differences, folds, and the pane on synthetic rows."""

from __future__ import annotations

import socket

import pytest
from rich.cells import cell_len
from test_panes import SIZES, PaneApp, picture, text

from ktop import hist, theme
from ktop.bpf import tcp_layer
from ktop.bpf.tcp_layer import SockRecord
from ktop.collect.tcp_dns import query_name
from ktop.collect.tcp_netns import Rates, conntrack_stat, interfaces, named_pairs
from ktop.collect.tcp_owners import Owners
from ktop.collect.tcp_peers import Peers
from ktop.collect.tcp_records import EventRecord, address, event, result_name
from ktop.collect.tcp_table import TcpTable, connection
from ktop.model import Frame, Hist
from ktop.model_tcp import (
    CONNECTIONS_PER_FRAME,
    Connection,
    Dns,
    Drop,
    Interface,
    Listener,
    Namespace,
    Peer,
    Tcp,
    TcpEvent,
)
from ktop.panes.tcp import VIEWS, TcpPane
from ktop.panes.tcp_columns import flags, in_feed
from ktop.widgets.table import VirtualTable
from tests.frames import HOSTILE, SECOND, bare_frame, make_hist, stream


@pytest.fixture(autouse=True)
def _glyphs():
    theme.use_ascii(False)
    theme.use_color(True)
    yield
    theme.use_ascii(False)
    theme.use_color(True)


# -- records ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Sock", "Event", "Dns"])
def test_records_have_a_field_for_each_value(kind):
    layout = getattr(tcp_layer, f"{kind.upper()}_STRUCT")
    record = getattr(tcp_layer, "Event" if kind == "Event" else f"{kind}Record")
    values = layout.unpack(bytes(layout.size))
    assert len(record._make(values)) == len(values)
    assert record._make(values).comm == bytes(16)


def test_addresses():
    v4 = socket.inet_aton("10.1.2.3") + bytes(12)
    assert address(socket.AF_INET, v4) == "10.1.2.3"
    mapped = bytes(10) + b"\xff\xff" + socket.inet_aton("10.1.2.3")
    assert address(socket.AF_INET6, mapped) == "10.1.2.3"
    assert address(socket.AF_INET6, bytes(15) + b"\1") == "::1"
    assert address(0, bytes(16)) == ""


def test_results():
    assert [result_name(c) for c in (0, -1, 111, 110, 9999)] == [
        "ok", "aborted", "ECONNREFUSED", "ETIMEDOUT", "9999"]


def sock(**values):
    blank = SockRecord._make(tcp_layer.SOCK_STRUCT.unpack(bytes(tcp_layer.SOCK_STRUCT.size)))
    base = {"sk": 0xffff888012345678, "netns": 7, "local_port": 40000, "remote_port": 80,
            "family": 2, "state": 1, "local": socket.inet_aton("10.0.0.1") + bytes(12),
            "remote": socket.inet_aton("10.0.0.2") + bytes(12), "comm": b"curl".ljust(16, b"\0"),
            "pid": 12, "cwnd": 10, "snd_wnd": 65535, "rcv_wnd": 65535}
    return blank._replace(**{**base, **values})


def pack(*records):
    return b"".join(tcp_layer.SOCK_STRUCT.pack(*r) for r in records)


def closing(record, **values):
    blank = EventRecord._make(tcp_layer.EVENT_STRUCT.unpack(bytes(tcp_layer.EVENT_STRUCT.size)))
    same = {f: getattr(record, f) for f in EventRecord._fields if f in SockRecord._fields}
    return blank._replace(**{**same, "kind": 3, **values})


def step(table, last, now, *records):
    table.update(pack(*records), table.interval(last, now))
    return table.interval(last, now)


def test_rates_are_differences_and_the_first_sample_has_none():
    table = TcpTable()
    interval = step(table, None, SECOND, sock(tx_bytes=1000))
    (entry,) = table.entries()
    assert connection(entry, interval).tx_bytes_per_s is None
    interval = step(table, SECOND, 3 * SECOND, sock(tx_bytes=5000, data_segs_out=40, retrans=2))
    row = connection(entry, interval)
    assert (row.tx_bytes_per_s, row.tx_bytes, row.retrans_pct) == (2000.0, 5000, 5.0)
    interval = step(table, 3 * SECOND, 4 * SECOND,
                    sock(tx_bytes=5000, data_segs_out=40, retrans=2))
    assert connection(entry, interval).tx_bytes_per_s == 0.0


def test_a_socket_born_since_the_last_tick_counts_from_nothing():
    table = TcpTable()
    step(table, None, SECOND)
    interval = step(table, SECOND, 2 * SECOND, sock(tx_bytes=700, born_ns=SECOND + 5))
    assert connection(table.entries()[0], interval).tx_bytes_per_s == 700.0


def test_memory_used_again_is_another_connection():
    table = TcpTable()
    step(table, None, SECOND, sock(tx_bytes=9_000))
    other = socket.inet_aton("10.9.9.9") + bytes(12)
    interval = step(table, SECOND, 2 * SECOND,
                    sock(tx_bytes=10, remote=other, born_ns=SECOND + 5))
    (entry,) = table.entries()
    row = connection(entry, interval)
    assert (row.remote, row.tx_bytes_per_s) == ("10.9.9.9", 10.0)


def test_the_last_bytes_come_with_the_close_before_or_after_it_left_the_table():
    for late in (False, True):
        table, one = TcpTable(), sock(tx_bytes=100)
        step(table, None, SECOND, one)
        if late:
            step(table, SECOND, 2 * SECOND)
        table.close([closing(one, tx_bytes=150)], SECOND)
        interval = step(table, 2 * SECOND, 3 * SECOND)
        (entry,) = table.closed
        assert connection(entry, interval, True).tx_bytes_per_s == 50.0
        assert len(table) == 0


def test_a_connection_between_two_ticks_counts_in_full_and_one_of_unknown_age_does_not():
    table = TcpTable()
    step(table, None, SECOND)
    whole = closing(sock(), time_ns=2 * SECOND, latency_ns=SECOND // 2, tx_bytes=50)
    unknown = closing(sock(sk=0xffff888000000001), time_ns=2 * SECOND, tx_bytes=60)
    table.close([whole, unknown], SECOND)
    assert [entry.tx for entry in table.closed] == [50, None]


def test_fifty_thousand_connections_make_a_thousand_rows():
    table = TcpTable()
    many = [sock(sk=1000 + i, local_port=i % 60000, tx_bytes=i) for i in range(50_000)]
    step(table, None, SECOND, *many)
    many[77] = many[77]._replace(tx_bytes=10**9)
    interval = step(table, SECOND, 2 * SECOND, *many)
    shown = table.shown()
    assert len(table) == 50_000 and len(shown) == CONNECTIONS_PER_FRAME
    assert connection(shown[0], interval).tx_bytes_per_s == 10**9 - 77


def test_round_trip_histogram_follows_the_sockets():
    table = TcpTable()
    step(table, None, SECOND, sock(srtt_us8=8000))
    assert table.rtt == ({hist.slot(1_000_000): 1}, 1_000_000)
    step(table, SECOND, 2 * SECOND, sock(srtt_us8=16000))
    assert table.rtt == ({hist.slot(2_000_000): 1}, 2_000_000)
    step(table, SECOND, 3 * SECOND)
    assert table.rtt == ({}, 0)


def test_a_drop_names_its_reason():
    r = closing(sock(), kind=7, code=5, state=17)
    row = event(r, 0, {"drop": {5: "NETFILTER_DROP"}})
    assert (row.kind, row.result) == ("drop", "NETFILTER_DROP")
    assert (row.protocol, row.state) == ("udp", None)


# -- text of /proc ---------------------------------------------------------------------------------


def test_proc_files():
    snmp = "Ip: A B\nIp: 1 2\nTcp: RtoAlgorithm OutSegs RetransSegs\nTcp: 1 100 7\n"
    wanted = ("RetransSegs", "OutSegs", "InSegs")
    assert named_pairs(snmp, "Tcp", wanted) == {"OutSegs": 100, "RetransSegs": 7}
    assert named_pairs(snmp, "Udp", wanted) == {}
    stat = "entries  drop insert_failed\n0000000a 00000001 00000002\n0000000a 0000000f 00000000\n"
    assert conntrack_stat(stat) == {"entries": 20, "drop": 16, "insert_failed": 2}
    assert conntrack_stat("") == {}
    dev = ("Inter-| Receive | Transmit\n face |bytes\n"
           "  eth0: 100 2 3 4 0 0 0 0 500 6 7 8 0 0 0 0\n")
    totals = interfaces(dev)
    assert totals["eth0"] == (100, 2, 3, 4, 500, 6, 7, 8)
    rates = Rates()
    assert rates.interface(1, "eth0", totals["eth0"], SECOND).rx_bytes_per_s is None
    rates.turn()
    row = rates.interface(1, "eth0", totals["eth0"]._replace(rx_bytes=400), SECOND)
    assert (row.rx_bytes_per_s, row.drops_total) == (300.0, 12)


def test_dns_names():
    assert query_name(b"\3www\7example\0junk") == "www.example"
    assert query_name(b"\3w\x1bw\0") == "w\\ew"
    assert query_name(b"\xc0\x0c") == ""
    assert query_name(b"\x3f" + b"a" * 63).endswith("…")


# -- the pane --------------------------------------------------------------------------------------


def layer(seq: int = 2) -> Tcp:
    """One of everything, some of it hostile, some unknown."""
    rtt = make_hist(200, 900_000, seed=seq)
    return Tcp(
        connections=[
            Connection(1, 7, "10.0.0.1", 40000, "10.0.0.2", 5432, "ESTAB", True, 103, "psql", 3,
                       1000, 1, 75 * SECOND, 10**9, 5000, 2.2e6, 810.0, 3_900_000, 800_000,
                       1_000_000, 204_000_000, 10, 1448, 900.0, 40, 12.0, 1.3, 34_000, 1_100_000,
                       0, 65535, 65535, False, "loss", 3, 4000, 2e6),
            Connection(2, 7, "2001:db8::aaaa:bbbb:cccc:dddd", 443, "2001:db8::1:2:3:4", 50123,
                       "ESTAB", False, 104, HOSTILE[5], 4, zero_window=True, unsent_bytes=10**7),
            Connection(3, 8, "127.0.0.1", 1, "127.0.0.1", 2, "CLOSED"),
        ],
        connections_total=48_211,
        listeners=[Listener(4, 7, "0.0.0.0", 80, 104, "nginx", 3, 0, 4, 511, 511, 20, 90, 3.0,
                            40.0),
                   Listener(5, 8, "::", 22)],
        peers=[Peer("out", "psql", "10.0.0.2", 5432, 60 * SECOND, 12, 40, 3, 30,
                    {"ETIMEDOUT": 2, "ECONNREFUSED": 1}, make_hist(40, 2e6), 2.2e6, 810.0, 35.0,
                    37.4,
                    {"rto": 30, "fast": 5}, 4_000_000, True),
               Peer("in", HOSTILE[0], "192.168.100.200", 443, 60 * SECOND)],
        events=[TcpEvent("connect", seq * SECOND, 7, "10.0.0.1", 4, "10.0.0.2", 5432, None, "ok",
                         103, "psql", 3, 900_000),
                TcpEvent("close", seq * SECOND, 7, "10.0.0.1", 4, "10.0.0.2", 5432, "ESTAB",
                         "ECONNRESET", 103, HOSTILE[8], 3, SECOND, 10, 20, 2),
                TcpEvent("retransmit", seq * SECOND, 7, "10.0.0.1", 4, "10.0.0.2", 5432, "ESTAB",
                         "rto", retrans=9),
                TcpEvent("drop", seq * SECOND, 7, "10.0.0.1", 4, "10.0.0.2", 5432, None,
                         "NETFILTER_DROP"),
                TcpEvent("drop", seq * SECOND, 7, "10.0.0.1", 4, "10.0.0.2", 5432, None,
                         "TCP_OLD_DATA"),
                TcpEvent("reset_sent", seq * SECOND, 0, "", 0, "", 0)],
        events_cut=17,
        drops=[Drop("NETFILTER_DROP", "tcp", 7, "nft_do_chain+0x3e8", 1292, 44.0,
                    ["sk_skb_reason_drop+0x90", "nft_do_chain+0x3e8"], "10.0.0.1:4", "10.0.0.2:1"),
               Drop("NO_SOCKET", "udp", 8)],
        interfaces=[Interface(7, "eth0", 1e6, 2e6, 900.0, 800.0, 0.0, 0.0, 0.0, 0.0, 3, 0),
                    Interface(8, HOSTILE[2])],
        namespaces=[Namespace(7, "host", True, 1, 90, 2, 91, 2000.0, 35.0, 700, 4, 0.5, 5, 0.5,
                              260_000, 262_144, 3.0, 9, 2.0, 8), Namespace(8, "", False)],
        dns=[Dns("curl", "10.0.0.53", 7, 8, 7, {"NXDOMAIN": 2, "timeout": 1}, make_hist(7, 5e7),
                 HOSTILE[3])],
        tx_bytes_per_s=2.2e6, rx_bytes_per_s=810.0, connects_per_s=9.0, connects_failed_per_s=0.05,
        accepts_per_s=9.0, closes_per_s=9.0, segments_out_per_s=2000.0, retrans_per_s=35.0,
        drops_per_s=58.0, resets_sent_per_s=9.0, resets_received_per_s=0.0,
        totals={"drops": 1292}, retransmits={"rto": 30, "fast": 5, "tlp": 0}, rtt=rtt,
        connect_latency=make_hist(40, 2e6))


def frames() -> list[Frame]:
    found = stream(3)
    for frame in found:
        frame.tcp = layer(frame.seq)
    return found


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["full", "empty", "bare"])
async def test_every_view_fits_every_size(size, kind):
    found = frames() if kind == "full" else [bare_frame()]
    if kind == "empty":
        found[0].tcp = Tcp()
    app = PaneApp(TcpPane)
    async with app.run_test(size=size) as pilot:
        await app.feed(pilot, found)
        for view in VIEWS:
            assert app.pane.view == view
            lines = picture(app)
            assert {cell_len(line) for line in lines} == {size[0]}
            assert not any(c in line for line in lines for c in "\x1b\n\x07\u202e")
            await pilot.press("v")
            await pilot.pause()


async def test_what_an_engineer_reads():
    app = PaneApp(TcpPane)
    async with app.run_test(size=(120, 40)) as pilot:
        await app.feed(pilot, frames())
        shown = text(app)
        assert "48,211 connections" in shown and "35 (1.8%) retrans/s" in shown
        assert "conntrack 99.2% in host" in shown
        assert "10.0.0.2:5432" in shown and "ZWIN" in shown and "the busiest 3 of 48,211" in shown
        wanted = {"peers": ["ETIMEDOUT 2", "1 new since"],
                  "feed": ["TCP_OLD_DATA", "51 beyond the feed"],
                  "listeners": ["0.0.0.0:80", "99.2"],
                  "trouble": ["rto 30", "nft_do_chain", "sk_skb_reason_drop"],
                  "network": ["eth0", "NXDOMAIN 2", "10.0.0.53"], "latency": ["P50"]}
        for view, words in wanted.items():
            await pilot.press("v")
            await pilot.pause()
            assert app.pane.view == view
            for word in words:
                assert word in text(app), (view, word)


async def test_feed_by_kind():
    app = PaneApp(TcpPane)
    async with app.run_test(size=(120, 40)) as pilot:
        await app.feed(pilot, frames())
        await pilot.press("e")
        await pilot.pause()
        assert app.pane.view == "feed" and "retrans" not in text(app).split("RESULT")[1]
        await pilot.press("e")
        await pilot.pause()
        shown = text(app)
        assert "NETFILTER_DROP" in shown and "TCP_OLD_DATA" not in shown


async def test_latency_follows_the_peer_under_the_cursor():
    app = PaneApp(TcpPane)
    async with app.run_test(size=(120, 40)) as pilot:
        await app.feed(pilot, frames())
        await pilot.press("v", "down")
        await pilot.pause()
        assert "Connect latency: 10.0.0.2:5432" in text(app)
        await pilot.press("escape")
        await pilot.pause()
        assert "Connect latency: " not in text(app)


async def test_every_column_is_in_the_help():
    app = PaneApp(TcpPane)
    async with app.run_test(size=(80, 24)):
        words = app.pane.help_text().split("\n")
        for table in app.pane.query(VirtualTable):
            for column in table.columns:
                assert column.help
                assert any(line.startswith(f"  {column.title}") for line in words), column.title


async def test_the_focus_moves_between_two_tables():
    app = PaneApp(TcpPane)
    async with app.run_test(size=(80, 24)) as pilot:
        await app.feed(pilot, frames())
        await pilot.press("v", "v", "v", "o")
        await pilot.pause()
        assert app.focused.id == "spaces-table"
        await pilot.press("o")
        await pilot.pause()
        assert app.focused.id == "listeners-table"


def test_flags_and_feeds():
    found = layer()
    assert [flags(c) for c in found.connections] == ["LOSS", "ZWIN", ""]
    assert [in_feed(e, "trouble") for e in found.events] == [False, True, True, True, False, True]
    assert [in_feed(e, "connections") for e in found.events] == [True, True] + [False] * 4


# -- owners and peers ------------------------------------------------------------------------------


def test_owners_are_sums_of_all_their_connections():
    table, owners = TcpTable(), Owners()
    one, two = sock(tx_bytes=100, srtt_us8=80_000), sock(sk=2, local_port=2, pid=13)
    interval = step(table, None, SECOND, one, two)
    for entry in table.changed:
        owners.place(entry, (entry.record.pid, 5))
    assert {(o.pid, o.connections, o.tx_bytes_per_s) for o in owners.rows(interval)} == {
        (12, 1, None), (13, 1, None)}
    moved = one._replace(tx_bytes=700, data_segs_out=4, retrans=1, srtt_us8=160_000)
    interval = step(table, SECOND, 2 * SECOND, moved, two)
    for entry in table.changed:
        owners.place(entry, (entry.record.pid, 5))
    for kind, result, ns in (("connect", "ok", 900), ("connect", "ETIMEDOUT", 5),
                             ("close", "ok", 1), ("accept", "ok", 7), ("retransmit", "rto", None)):
        owners.event(TcpEvent(kind, 1, 7, "", 1, "", 2, result=result, pid=12, cgroup=5,
                              latency_ns=ns))
    busy, idle = owners.rows(interval)
    assert (busy.tx_bytes_per_s, busy.segments_per_s, busy.retrans_per_s) == (600, 4, 1)
    assert (busy.connects_per_s, busy.failed_per_s, busy.accepts_per_s, busy.closes_per_s) == (
        1, 1, 1, 1)
    assert busy.rtt == Hist({hist.slot(20_000_000): 1}, 20_000_000)
    assert busy.connect_latency == Hist({hist.slot(900): 1}, 900, 900)
    assert (idle.pid, idle.connections, idle.tx_bytes_per_s, idle.rtt) == (13, 1, 0, None)
    table.close([closing(moved, tx_bytes=750)], 2 * SECOND)
    interval = step(table, 2 * SECOND, 3 * SECOND, two)
    for entry in table.closed:
        owners.place(entry, (12, 5), closed=True)
    ended, _ = owners.rows(interval)
    assert (ended.pid, ended.connections, ended.tx_bytes_per_s, ended.rtt) == (12, 0, 50, None)
    assert [o.pid for o in owners.rows(interval)] == [13]


def test_owners_without_a_row_are_summed_by_cgroup(monkeypatch):
    monkeypatch.setattr("ktop.collect.tcp_owners.OWNERS_PER_FRAME", 2)
    table, owners = TcpTable(), Owners()
    interval = step(table, None, SECOND, *(
        sock(sk=i, local_port=i, pid=i, srtt_us8=8_000) for i in range(1, 6)))
    for entry in table.changed:
        owners.place(entry, (entry.record.pid, entry.record.pid % 2))
    rows = owners.rows(interval)
    assert sum(o.connections for o in rows) == 5 and len(rows) == 4
    assert sum(hist.count(o.rtt) for o in rows if o.rtt) == 5
    assert {(o.pid, o.cgroup) for o in rows[2:]} == {(None, 0), (None, 1)}


def test_a_peer_is_of_one_cgroup_and_names_its_processes():
    table, peers = TcpTable(), Peers()
    interval = step(table, None, SECOND, *(
        sock(sk=i, local_port=i, pid=i, cgroup=i // 20, flags=tcp_layer.ACTIVE)
        for i in range(1, 40)))
    for entry in table.changed:
        peers.place(entry, peers.key_of(entry, "10.0.0.2", "curl"), SECOND)
    peers.event(TcpEvent("connect", 1, 7, "", 1, "10.0.0.2", 80, result="ok", pid=99, cgroup=1,
                         comm="curl"), SECOND)
    a, b = sorted(peers.rows(SECOND, interval)[0], key=lambda p: p.cgroup or 0)
    assert (a.cgroup, a.connections, len(a.pids), a.pids_cut) == (None, 19, 16, 3)
    assert (b.cgroup, b.connections, b.pids[0], b.pids_cut) == (1, 20, 99, 5)
    for entry in table.entries():
        peers.remove(entry)
    (b,) = peers.rows(2 * SECOND, interval)[0]
    assert (b.pids, b.pids_cut, b.connections) == ([99], 0, 0)
