"""What TCP costs in BPF programs: a connection's changes of state, the packets of a bulk transfer
while the pane is looked at, a retransmit, a socket and a descriptor read at a tick; beside the
libbpf-tools that show the same.

All attached at the same time, over loopback: they see the very same events.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator

from bench import hooks
from bench.common import Missing, Row, bpf_stats, programs_of, require_root

STATES = ["tcplife", "tcpstates", "tcpconnect", "tcpconnlat", "tcptracer"]
PACKETS = ["tcptop", "tcprtt"]
_ALONE = {"tcp_retrans": "a retransmit (SYN)", "tcp_drop": "a dropped packet",
          "tcp_rst_out": "a reset sent", "tcp_rst_in": "a reset received",
          "tcp_socks": "one socket read at a tick", "tcp_fds": "one descriptor read in a pass"}


@contextlib.contextmanager
def descriptors() -> Iterator[int]:
    """As many as the hard limit allows; how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def connections(count: int) -> None:
    """Connect, accept, a few bytes each way, close: one after the other."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        for _ in range(count):
            with socket.create_connection(server.getsockname()) as client, \
                    server.accept()[0] as peer:
                client.sendall(b"x" * 100)
                peer.recv(100)
                peer.sendall(b"y" * 100)
                client.recv(100)


def bulk(size: int) -> None:
    """So many bytes over one connection."""
    def drain(peer: socket.socket) -> None:
        with peer:
            while peer.recv(1 << 18):
                pass

    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname()) as client:
            reader = threading.Thread(target=drain, args=(server.accept()[0],))
            reader.start()
            piece = bytes(1 << 16)
            for _ in range(size >> 16):
                client.sendall(piece)
        reader.join()


def trouble(count: int) -> None:
    """SYNs that a full backlog drops and that come again after a second; refused connects."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        refused = server.getsockname()
        for _ in range(count):
            with socket.socket() as client:
                client.connect_ex(refused)
        server.listen(0)
        for _ in range(count):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        time.sleep(1.3)


@contextlib.contextmanager
def held(count: int) -> Iterator[None]:
    """That many connections, both ends in this process."""
    with contextlib.ExitStack() as stack, descriptors() as limit:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        for _ in range(min(count, (limit - 200) // 2)):
            stack.enter_context(socket.create_connection(server.getsockname()))
            stack.enter_context(server.accept()[0])
        yield


@contextlib.contextmanager
def _ktop() -> Iterator[tuple[Callable[[], object], set[int]]]:
    """ktop with every layer loaded and the TCP pane looked at: its tick, its TCP programs."""
    from ktop.collect.main import Collector, Options

    before = programs_of([os.getpid()])
    one = Collector(Options(watch=("tcp",)))
    one.start()
    try:
        one.tick()
        one.settle()
        frame = one.tick()
        fates = {p.name: p.status for p in frame.health.probes}
        if fates.get("tcp_state") != "live":
            raise Missing(f"tcp_state is {fates.get('tcp_state', frame.health.banner)}")
        yield one.tick, programs_of([os.getpid()]) - before
    finally:
        one.close()


def _round(loads: list[tuple[Callable[[], None], int]], absent: dict[str, str],
           ours_first: bool) -> list[hooks.Costs]:
    """Everything attached; the costs of each load, with so many connections open, and a tick."""
    names = [*STATES, *PACKETS]
    owners: dict[str, set[int]] = {}
    found = []
    with contextlib.ExitStack() as stack:
        for name in ["ktop", *names] if ours_first else [*names, "ktop"]:
            if name in absent:
                continue
            try:
                if name == "ktop":
                    tick, owners[name] = stack.enter_context(_ktop())
                else:
                    owners[name] = stack.enter_context(hooks.peer(name))
            except (Missing, OSError) as err:
                absent[name] = str(err)
        for load, idle in loads:
            with held(idle):
                before = hooks._read(owners)
                load()
                if "ktop" in owners:
                    tick()
                found.append(hooks._difference(hooks._read(owners), before))
    return found


def run(quick: bool) -> list[Row]:
    """All rows."""
    require_root()
    share = 4 if quick else 1
    absent: dict[str, str] = {}
    loads: list[tuple[Callable[[], None], int]] = [
        (lambda: connections(2_000 // share), 0), (lambda: bulk((512 << 20) // share), 0),
        (lambda: trouble(200 // share), 2_000 // share)]
    with bpf_stats():
        rounds = [_round(loads, absent, i % 2 == 0) for i in range(2 if quick else 4)]
    states, packets, troubles = (list(same) for same in zip(*rounds, strict=True))
    rows = [hooks._compare("TCP state change, connect to close over loopback", states,
                           ("tcp_state",), "tcp_state", STATES, absent),
            hooks._compare("TCP packet while the pane is looked at (bulk, loopback)", packets,
                           ("tcp_dns_out", "tcp_dns_in"), "tcp_dns_out", PACKETS, absent)]
    for name, what in _ALONE.items():
        rows += hooks._alone(troubles, name, f"`{name}`, {what}")
    return rows
