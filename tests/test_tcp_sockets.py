"""All sockets at once, and each namespace's table only when there may be some without a note."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import Any, cast

import pytest

from ktop.bpf.tcp_layer import SOCK_STRUCT
from ktop.collect.main import Collector
from ktop.collect.tcp_sockets import AGAIN, Sockets
from tests.tcpkit import collecting_tcp, inside, namespaces, tick

COLLECTING = collecting_tcp  # for the fixture `collector`


class Reads:
    """An engine that notes what is read. sockets: how many each read finds."""

    def __init__(self) -> None:
        self.probes = {"tcp_socks", "tcp_noted", "tcp_state"}
        self.sockets = 1
        self.done: list[str] = []
        self.error: str | None = None

    def live(self, probe: str) -> bool:
        return probe in self.probes

    def read_iter(self, probe: str) -> bytes:
        self.done.append(probe)
        if probe == self.error:
            raise OSError(12, "no memory")
        return bytes(self.sockets * SOCK_STRUCT.size)


def sample(sockets: Sockets, reads: Reads, found: tuple[int, ...] = (7, 8),
           no_note: int = 0) -> list[str]:
    """What a tick reads."""
    reads.done = []
    with contextlib.suppress(OSError):
        sockets.begin(found, no_note)
    for position, inode in enumerate(found):
        with contextlib.suppress(OSError):
            sockets.walk(inode, position)
    return reads.done


@pytest.fixture
def reads() -> Reads:
    return Reads()


@pytest.fixture
def sockets(reads: Reads) -> Sockets:
    return Sockets(cast(Any, reads), 2)


WALKS, ONCE = ["tcp_socks", "tcp_socks"], ["tcp_noted"]


def test_a_namespace_is_walked_when_it_is_new(sockets: Sockets, reads: Reads) -> None:
    assert sample(sockets, reads) == WALKS
    assert sample(sockets, reads) == ONCE
    assert sample(sockets, reads, (7, 8, 9)) == ["tcp_noted", "tcp_socks"]
    assert sample(sockets, reads, (7, 9)) == ONCE
    assert sample(sockets, reads) == ["tcp_noted", "tcp_socks"]  # 8 may be another by now


def test_each_in_its_turn_is_walked_again(sockets: Sockets, reads: Reads) -> None:
    sample(sockets, reads)
    done = [sample(sockets, reads) for _ in range(2 * AGAIN)]
    assert sorted(map(len, done)) == [1] * (2 * AGAIN - 4) + [2] * 4


def test_a_socket_without_a_note_has_all_walked(sockets: Sockets, reads: Reads) -> None:
    sample(sockets, reads)
    assert sample(sockets, reads, no_note=1) == WALKS
    assert sample(sockets, reads, no_note=1) == ONCE


@pytest.mark.parametrize("probe", ["tcp_noted", "tcp_state"])
def test_without_a_probe_all_are_walked(sockets: Sockets, reads: Reads, probe: str) -> None:
    sample(sockets, reads)
    reads.probes.discard(probe)
    assert sample(sockets, reads) == sample(sockets, reads) == WALKS
    reads.probes.add(probe)
    assert sample(sockets, reads) == ONCE


def test_a_read_that_fails_has_all_walked(sockets: Sockets, reads: Reads) -> None:
    sample(sockets, reads)
    reads.error = "tcp_noted"
    assert sample(sockets, reads) == ["tcp_noted", *WALKS]
    reads.error = "tcp_socks"
    assert sample(sockets, reads) == ONCE
    assert sample(sockets, reads, (9,)) == sample(sockets, reads, (9,)) == ["tcp_socks"]


def test_long_lists_are_not_gone_through(sockets: Sockets, reads: Reads) -> None:
    sample(sockets, reads)
    reads.sockets = 100_000
    assert sample(sockets, reads) == ONCE
    assert sample(sockets, reads) == WALKS
    many = Sockets(cast(Any, reads), 1024)
    assert [sample(many, reads) for _ in range(2)] == [WALKS, ONCE]


STEPS = """
import socket, sys
kept = [socket.create_server(("127.0.0.1", 7000))]
kept.append(socket.create_connection(("127.0.0.1", 7000)))
print("listens", flush=True)
for step in sys.stdin:
    if step == "listen\\n":
        kept.append(socket.create_server(("::1", 7002), family=socket.AF_INET6))
    elif step == "connect\\n":
        kept.append(socket.create_connection(("127.0.0.1", 7000)))
    else:
        kept.pop().close()
    print("done", flush=True)
"""


@pytest.fixture
def walks(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The iterators that the TCP layer runs."""
    assert collector._late is not None
    engine = cast(Any, collector._late.layers["tcp"])._engine
    done: list[str] = []
    read = engine.read_iter

    def reading(probe: str) -> bytes:
        done.append(probe)
        return cast(bytes, read(probe))

    monkeypatch.setattr(engine, "read_iter", reading)
    yield done


@pytest.mark.live
def test_what_comes_and_goes_is_seen_without_a_walk(
        collector: Collector, walks: list[str]) -> None:
    with namespaces("ktopnoted") as (a, _), inside(a, STEPS) as child:
        assert child.stdin is not None and child.stdout is not None
        assert child.stdout.readline() == b"listens\n"
        inode = os.stat(f"/run/netns/{a}").st_ino

        def seen() -> tuple[list[int], list[str]]:
            frame = tick(collector)
            return (sorted(r.local_port for r in frame.listeners if r.netns == inode),
                    sorted(c.state for c in frame.connections
                           if c.netns == inode and c.state != "CLOSED"))

        assert seen() == ([7000], ["ESTAB", "ESTAB"])
        assert "tcp_socks" in walks
        cast(Any, collector._late).layers["tcp"]._sockets._turn = 2  # no namespace's turn
        walks.clear()
        for step, expected in (
                ("listen", ([7000, 7002], ["ESTAB", "ESTAB"])),
                ("connect", ([7000, 7002], ["ESTAB"] * 4)),
                ("close", ([7000, 7002], ["CLOSE-WAIT", "ESTAB", "ESTAB"])),
                ("close", ([7000], ["CLOSE-WAIT", "ESTAB", "ESTAB"]))):
            child.stdin.write(f"{step}\n".encode())
            child.stdin.flush()
            assert child.stdout.readline() == b"done\n"
            time.sleep(0.1)  # a FIN waits for a delayed ACK of up to 40 ms
            assert seen() == expected
        assert walks.count("tcp_noted") == 4 and "tcp_socks" not in walks
