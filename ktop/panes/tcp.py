"""TCP: every connection and whose it is, who talks to whom, what is lost, refused or dropped."""

from __future__ import annotations

from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container

from ktop import format as fmt
from ktop import hist, theme
from ktop.model import Frame
from ktop.model_tcp import Drop, Peer, Tcp
from ktop.panes.base import column_help, paragraph, why_missing
from ktop.panes.tcp_columns import (
    FEEDS,
    Spaces,
    connection_columns,
    dns_columns,
    drop_columns,
    endpoint,
    feed_columns,
    in_feed,
    interface_columns,
    listener_columns,
    namespace_columns,
    peer_columns,
    trouble_columns,
)
from ktop.panes.views import ViewPane, chart_span, view_keys
from ktop.widgets.columns import Column, Key
from ktop.widgets.heatmap import Heatmap
from ktop.widgets.histogram import Histogram
from ktop.widgets.strips import Line, Piece, Rule
from ktop.widgets.table import VirtualTable

VIEWS = {"connections": ("connections",), "peers": ("peers",), "feed": ("feed",),
         "listeners": ("listeners", "spaces"), "trouble": ("troubled", "drops"),
         "network": ("interfaces", "dns"), "latency": ("rtt", "connect")}
_CHARTS = ("rtt", "heat", "connect")
_REFERENCE = "loss over 0.1% is felt, over 1% it rules; in a zone 0.1-0.5 ms, between zones 0.5-2"


class TcpPane(ViewPane):
    """Connections, peers, feed, listeners, trouble, network, latency: one view at a time."""

    title = "TCP"
    key = "3"
    layer = "tcp"
    BINDINGS: ClassVar[list[BindingType]] = [
        *view_keys("tcp", "Connections, peers, feed, listeners, trouble (retransmits, drops), "
                   "network, latency"),
        Binding("V", "view(-1)", "View back", show=False, id="tcp.view_back",
                tooltip="The view before"),
        Binding("e", "feed", "Feed of", show=False, id="tcp.feed",
                tooltip="The feed shows everything, connections, or trouble only"),
    ]
    BIG = (118, 30)
    views = VIEWS
    big_views: ClassVar = {
        "connections": ("connections", "rtt", "heat"), "peers": ("peers", "connect"),
        "trouble": ("troubled", "drops", "stack")}
    titles: ClassVar = {
        "connections": "Connections", "peers": "Peers, the last minute", "feed": "Feed",
        "listeners": "Listening sockets", "spaces": "Network namespaces",
        "troubled": "Retransmits and failures by peer", "drops": "Dropped packets by reason",
        "interfaces": "Interfaces", "dns": "DNS queries, the last minute",
        "stack": "Where it was dropped", "rtt": "Round-trip times of open connections",
        "heat": "Round trips, the last 5 minutes", "connect": "Connect latency"}
    groups: ClassVar = {"charts": _CHARTS}
    split = ("rtt", "heat")
    followers = ("connect", "stack")
    DEFAULT_CSS = """
    TcpPane #summary { height: 2; }
    TcpPane #body { layout: vertical; }
    TcpPane #connections, TcpPane #peers { height: 3fr; }
    TcpPane #stack { height: 14; }
    TcpPane #stack-lines { height: 1fr; }
    TcpPane #charts { layout: horizontal; width: 1fr; height: 2fr; }
    TcpPane.-small #charts { layout: vertical; }
    TcpPane.-split #rtt { margin: 0 1 0 0; }
    """

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.spaces = Spaces(self.names)
        self.feed = "everything"
        self._peer: Key | None = None  # whose latency is shown
        self._drop: Key | None = None

    def _columns(self) -> dict[str, list[Column]]:
        names, spaces = self.names, self.spaces
        return {"connections": connection_columns(names, spaces), "peers": peer_columns(),
                "feed": feed_columns(names, spaces), "listeners": listener_columns(names, spaces),
                "spaces": namespace_columns(spaces), "troubled": trouble_columns(),
                "drops": drop_columns(spaces), "interfaces": interface_columns(spaces),
                "dns": dns_columns(spaces)}

    def _table(self, name: str, columns: list[Column]) -> VirtualTable:
        keys: dict[str, Any] = {
            "peers": _peer_key, "troubled": _peer_key, "feed": lambda f: f.serial,
            "drops": _drop_key, "interfaces": lambda i: (i.netns, i.name),
            "dns": lambda d: (d.comm, d.server, d.netns, d.cgroup)}
        sorts = {"connections": "tx", "peers": "tx", "listeners": "backlog", "spaces": "sockets",
                 "troubled": "retrans", "drops": "rate", "interfaces": "rx", "dns": "queries"}
        return VirtualTable(columns, keys.get(name, lambda row: row.id), sort=sorts.get(name),
                            frozen=1, feed=name == "feed", id=f"{name}-table")

    def compose(self) -> ComposeResult:
        """Two lines of totals, and the sections of the view."""
        yield Line(id="summary")
        with Container(id="body"):
            for name, columns in self._columns().items():
                yield self._section(name, self._table(name, columns))
            yield self._section("stack", Line(id="stack-lines"))
            with Container(id="charts"):
                for name in _CHARTS:
                    yield self._section(name, Heatmap(id="heatmap") if name == "heat" else
                                        Histogram(id=f"{name}-histogram"))

    # -- each tick -------------------------------------------------------------------------------

    def _about(self, frame: Frame) -> tuple[Frame, Tcp]:
        layer = frame.tcp or Tcp()
        self.spaces.learn(layer)
        return frame, layer

    def _summary(self, frame: Frame, layer: Tcp) -> list[list[Piece]]:
        if frame.tcp is None:
            return [[(" its probes were not loaded yet", "dim")], []]
        first: list[Piece] = [
            (" ", "normal"), (fmt.grouped(layer.connections_total), "strong"),
            (" connections  ", "dim"), (fmt.size_rate(layer.tx_bytes_per_s), "strong"),
            (" out  ", "dim"), (fmt.size_rate(layer.rx_bytes_per_s), "strong"), (" in   ", "dim")]
        second: list[Piece] = [(" ", "normal")]
        for line, name, value, warn in (
                (first, "conn/s", layer.connects_per_s, 1e18),
                (first, "acc/s", layer.accepts_per_s, 1e18),
                (first, "failed/s", layer.connects_failed_per_s, 1e-9),
                (second, "retrans/s", layer.retrans_per_s, 1e-9),
                (second, "drops/s", layer.drops_per_s, 1e18),
                (second, "rst sent/s", layer.resets_sent_per_s, 1e18),
                (second, "rcvd/s", layer.resets_received_per_s, 1e18)):
            style = "dim" if not value else "warn" if value >= warn else "normal"
            line += [(fmt.rate(value), style), (f" {name}  ", "dim")]
        if layer.retrans_per_s and layer.segments_out_per_s:
            share = 100 * layer.retrans_per_s / layer.segments_out_per_s
            second[2:2] = [(" ", "normal"),
                           (f"({fmt.pct(share)}%)", theme.load(share, 0.1, 1, 1e-9))]
        for n in layer.namespaces:
            if n.conntrack_count and n.conntrack_max:
                share = 100 * n.conntrack_count / n.conntrack_max
                if share >= 70:
                    second += [(f" conntrack {fmt.pct(share)}% in {self.spaces.name(n.id)}", "bad")]
        if layer.notes:
            second += [("  " + "; ".join(layer.notes), "warn")]
        return [first, second]

    def _show_connections(self, frame: Frame, layer: Tcp) -> None:
        total, shown = layer.connections_total, len(layer.connections)
        ended = sum(1 for c in layer.connections if c.state == "CLOSED")
        note = f"{fmt.grouped(ended)} ended in this interval" if ended else ""
        if total is not None and total + ended > shown:
            note = f"the busiest {fmt.grouped(shown)} of {fmt.grouped(total)}"
        self._fill("connections", layer.connections,
                   "no connections" if total is not None else
                   why_missing(frame, "tcp_socks", "no connections known"), note)

    def _show_peers(self, frame: Frame, layer: Tcp) -> None:
        new = sum(1 for p in layer.peers if p.new)
        note = f"{new} new since ktop's first minute" if new else ""
        if layer.peers_cut:
            note = f"{fmt.grouped(layer.peers_cut)} more are not shown"
        self._fill("peers", layer.peers, why_missing(frame, "tcp_state", "no peers"), note)

    def _show_feed(self, frame: Frame, layer: Tcp) -> None:
        feed = self._history.feeds.tcp
        note = f"{self.feed}: e changes"
        if feed.cut:
            note = f"{fmt.grouped(feed.cut)} beyond the feed, {note}"
        empty = "nothing of that kind" if feed.newest[1] else why_missing(
            frame, "tcp_state", "nothing")
        self._feed("feed", feed, empty, note, self.feed, lambda e: in_feed(e, self.feed))

    def _show_listeners(self, frame: Frame, layer: Tcp) -> None:
        full = sum(1 for r in layer.listeners if r.backlog > r.backlog_max)
        note = f"{full} with a full queue" if full else ""
        self._fill("listeners", layer.listeners,
                   why_missing(frame, "tcp_socks", "nobody listens"), note)

    def _show_spaces(self, frame: Frame, layer: Tcp) -> None:
        cut = f"{layer.namespaces_cut} more are not read" if layer.namespaces_cut else ""
        self._fill("spaces", layer.namespaces, "none read", cut)

    def _show_troubled(self, frame: Frame, layer: Tcp) -> None:
        rows = [p for p in layer.peers if p.failed or p.failures or p.retrans_kinds
                or p.retrans_per_s]
        sums = counted_kinds(layer.retransmits)
        self._fill("troubled", rows, "no retransmits, no failures",
                   f"since ktop started: {sums}" if sums else "")

    def _show_drops(self, frame: Frame, layer: Tcp) -> None:
        live = any(p.name == "tcp_drop" and p.status == "live" for p in frame.health.probes)
        self._fill("drops", layer.drops, "nothing was dropped" if live else
                   why_missing(frame, "tcp_drop", "no drops known"),
                   f"{fmt.grouped(layer.totals.get('drops'))} since ktop started"
                   if layer.totals else "")

    def _show_stack(self, frame: Frame, layer: Tcp) -> None:
        table = self.query_one("#drops-table", VirtualTable)
        chosen = next((d for d in layer.drops if _drop_key(d) == self._drop),
                      table.rows[0] if table.rows else None)
        lines: list[list[Piece]] = []
        note = ""
        if isinstance(chosen, Drop):
            note = f"{chosen.reason}, a recent one"
            lines = [[(" " + name, "strong" if at == 0 else "normal")]
                     for at, name in enumerate(chosen.stack)]
        self.query_one("#stack-rule", Rule).set(note=note)
        self.query_one("#stack-lines", Line).set(
            *lines or [[(" no stack" if chosen else " nothing was dropped", "dim")]])

    def _show_interfaces(self, frame: Frame, layer: Tcp) -> None:
        self._fill("interfaces", layer.interfaces, "none read")

    def _show_dns(self, frame: Frame, layer: Tcp) -> None:
        self._fill("dns", layer.dns, why_missing(frame, "tcp_dns_out", "no queries"))

    def _show_rtt(self, frame: Frame, layer: Tcp) -> None:
        n = hist.count(layer.rtt) if layer.rtt else 0
        self.query_one("#rtt-rule", Rule).set(note=f"{fmt.grouped(n)} open" if n else "")
        self.query_one("#rtt-histogram", Histogram).show(
            layer.rtt, why_missing(frame, "tcp_socks", "no round trips"))

    def _show_heat(self, frame: Frame, layer: Tcp) -> None:
        heatmap = self.query_one(Heatmap)
        span, when = chart_span(self._history)
        self.query_one("#heat-rule", Rule).set(f"Round trips, the last {when}")
        heatmap.show(self._history.rtt_columns(heatmap.columns, span), span,
                     why_missing(frame, "tcp_socks", "no history"))

    def _show_connect(self, frame: Frame, layer: Tcp) -> None:
        found, title, note = layer.connect_latency, self.titles["connect"], "this interval"
        peer = next((p for p in layer.peers if _peer_key(p) == self._peer), None)
        if peer is not None and self.view == "peers":
            found, note = peer.latency, "last minute"
            title = f"{self.titles['connect']}: {endpoint(peer.remote, peer.port)}"
        self.query_one("#connect-rule", Rule).set(title, note)
        self.query_one("#connect-histogram", Histogram).show(
            found, why_missing(frame, "tcp_state", "no connects") if found is None else
            "no connects in this time", of=self._peer)

    def _follow(self, section: str, key: Key | None) -> None:
        if section in ("peers", "troubled"):
            self._peer = key
        elif section == "drops":
            self._drop = key
        else:
            return
        self._show_followers()

    # -- keys ------------------------------------------------------------------------------------

    def _arrange(self) -> None:
        super()._arrange()
        self.set_class(not self.big, "-small")

    def action_feed(self) -> None:
        """Everything, connections, trouble."""
        self.feed = FEEDS[(FEEDS.index(self.feed) + 1) % len(FEEDS)]
        if self.view != "feed":
            self.view = "feed"
            self._arrange()
            self.focus_main()
        else:
            self._again()

    def _rules(self) -> None:
        place = f"{list(VIEWS).index(self.view) + 1}/{len(VIEWS)}"
        first = True
        for name in self.shown:
            if name in self.followers or name in _CHARTS:
                continue
            focused = self.query_one(f"#{name}-table", VirtualTable).has_focus
            title = self.titles[name]
            if first:
                title += f" {theme.glyphs().dot} view {place}"
            self.query_one(f"#{name}-rule", Rule).set(title, active=focused)
            first = False

    # -- help ------------------------------------------------------------------------------------

    def help_text(self) -> str:
        """What every figure of this pane means."""
        columns = self._columns()
        parts = [paragraph(f"""Every TCP socket of every network namespace, read each tick from
            the kernel's own counters (tcp_sock, by its iterator); connects, accepts and closes
            come as events with their final byte counts, so that a connection that lives for less
            than a tick is counted to its last byte. The process is the one that holds a
            descriptor, asked anew at least every few seconds, else the one that connected or
            closed it. Connections in TIME-WAIT and handshakes under way are counted, not listed.
            A connection within this host is here twice, once for each end. References:
            {_REFERENCE}.""")]
        for name, found in columns.items():
            parts += ["", self.titles[name], column_help(found)]
        parts += ["", paragraph("""Drops: TCP and UDP packets that the kernel freed as not
            delivered (kfree_skb), with its own reason; some reasons are part of normal life and
            dim (TCP_OLD_DATA, NO_SOCKET); a stack is taken of a few a second only, and what
            nobody read before a close (QUEUE_PURGE) is not counted as dropped. What a network
            card or XDP drops is only in its interface's counters. Retransmit kinds are as far as
            the kernel shows them; under a storm each is counted and not all are in the feed.
            Connects that fail before a packet is sent (no route) are not seen. DNS is watched
            only while this pane is looked at: each packet then costs a short look.""")]
        return "\n".join(parts)


def counted_kinds(found: dict[str, int]) -> str:
    """`rto 3  fast 12`: those that happened."""
    return "  ".join(f"{name} {n}" for name, n in found.items() if n)


def _peer_key(p: Peer) -> Key:
    return p.direction, p.comm, p.remote, p.port, p.cgroup


def _drop_key(d: Drop) -> Key:
    return d.reason, d.protocol, d.netns, d.place
