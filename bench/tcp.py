"""What TCP costs in BPF programs: a connection's changes of state, the packets of a bulk transfer
while the pane is looked at, a retransmit, a socket and a descriptor read at a tick; beside the
tools that show the same.

All attached at the same time, over loopback: they see the very same events.
"""

from __future__ import annotations

import contextlib
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator

from bench import hooks
from bench.common import Row, require_root

STATES = ["tcplife", "tcpstates", "tcpconnect", "tcpconnlat", "tcptracer", "tcplife.bt"]
PACKETS = ["tcptop", "tcprtt"]
_ALONE = {"tcp_retrans": "a retransmit (SYN)", "tcp_drop": "a dropped packet",
          "tcp_rst_out": "a reset sent", "tcp_rst_in": "a reset received",
          "tcp_socks": "one socket read in a walk", "tcp_noted": "one socket read at a tick",
          "tcp_fds": "one descriptor read in a pass"}


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


def _held_trouble(quick: bool) -> None:
    with held(500 if quick else 2_000):
        trouble(50 if quick else 200)


def run(quick: bool) -> list[Row]:
    """All rows."""
    require_root()
    share = 4 if quick else 1
    absent: dict[str, str] = {}
    count = 1 if quick else 4

    def rounds(load: Callable[[], object], names: list[str]) -> list[hooks.Costs]:
        return hooks.rounds(load, names, count, absent, ("tcp",), "tcp_state")

    rows = [hooks.compare("TCP state change, connect to close over loopback",
                          rounds(lambda: connections(2_000 // share), STATES), ("tcp_state",),
                          "tcp_state", STATES, absent),
            hooks.compare("TCP packet while the pane is looked at (bulk, loopback)",
                          rounds(lambda: bulk((512 << 20) // share), PACKETS),
                          ("tcp_dns_out", "tcp_dns_in"), "tcp_dns_out", PACKETS, absent)]
    troubles = rounds(lambda: _held_trouble(quick), ["tcpdrop.bt", "tcpretrans.bt"])
    for name, what in _ALONE.items():
        rows += hooks.alone(troubles, name, f"`{name}`, {what}")
    return rows
