"""Namespaces in which nothing moves are not read again; what comes there is seen at once."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest
from tcpkit import collecting_tcp, inside, namespaces, tick

from ktop.bpf.tcp_layer import SOCK_STRUCT, SockRecord
from ktop.collect.main import Collector
from ktop.collect.tcp_quiet import AGAIN_NS, Quiet
from ktop.collect.tcp_records import ESTABLISHED, LISTEN

COLLECTING = collecting_tcp  # for the fixture `collector`
MOVED = (1, 2, 3, 4, 0, 1, 0)


def read(*states: int) -> bytes:
    """What a run of the iterator writes: a record a socket, and the one that tells the time."""
    blank = SockRecord._make(SOCK_STRUCT.unpack(bytes(SOCK_STRUCT.size)))
    return b"".join(SOCK_STRUCT.pack(*blank._replace(sk=n and n + 1, state=state))
                    for n, state in enumerate((*states, 0)))


def test_only_what_cannot_have_changed_stands() -> None:
    quiet, data = Quiet(), read(LISTEN, LISTEN)
    assert quiet.sockets(7, MOVED, 0) is None
    quiet.keep(7, MOVED, data, 0)
    assert quiet.sockets(7, MOVED, AGAIN_NS - 1) == data[:2 * SOCK_STRUCT.size]
    assert quiet.sockets(8, MOVED, 1) is None and quiet.sockets(7, MOVED, AGAIN_NS) is None
    for at in range(len(MOVED)):
        assert quiet.sockets(7, (*MOVED[:at], 99, *MOVED[at + 1:]), 1) is None
    quiet.only([8])
    assert quiet.sockets(7, MOVED, 1) is None
    quiet.keep(7, MOVED, data, 0)
    quiet.forget()
    assert quiet.sockets(7, MOVED, 1) is None


def test_what_is_not_quiet_is_not_kept() -> None:
    quiet = Quiet()
    for moved, data in ((MOVED, read(LISTEN, ESTABLISHED)), (MOVED, read(*[LISTEN] * 100)),
                        ((None, *MOVED[1:]), read(LISTEN))):
        quiet.keep(7, MOVED, read(), 0)
        assert quiet.sockets(7, MOVED, 1) == b""
        quiet.keep(7, moved, data, 0)
        assert quiet.sockets(7, moved, 1) is quiet.sockets(7, MOVED, 1) is None


STEPS = """
import socket, sys
kept = [socket.create_server(("127.0.0.1", 7000))]
print("listens", flush=True)
for step in sys.stdin:
    if step == "listen\\n":
        kept.append(socket.create_server(("127.0.0.1", 7001)))
    elif step == "listen6\\n":
        kept.append(socket.create_server(("::1", 7002), family=socket.AF_INET6))
    else:
        kept.append(socket.create_connection(("127.0.0.1", 7000)))
    print("done", flush=True)
"""


@pytest.mark.live
def test_what_comes_to_a_quiet_namespace_is_seen_at_once(collector: Collector) -> None:
    assert collector._late is not None
    layer: Any = collector._late.layers["tcp"]
    with namespaces("ktopquiet") as (a, _), inside(a, STEPS) as child:
        assert child.stdin is not None and child.stdout is not None
        assert child.stdout.readline() == b"listens\n"
        inode = os.stat(f"/run/netns/{a}").st_ino

        def ports() -> list[int]:
            return sorted(r.local_port for r in tick(collector).listeners if r.netns == inode)

        for step, expected in ((b"", [7000]), (b"listen\n", [7000, 7001]),
                               (b"listen6\n", [7000, 7001, 7002])):
            if step:
                child.stdin.write(step)
                child.stdin.flush()
                assert child.stdout.readline() == b"done\n"
            assert ports() == expected
            for _ in range(20):  # owners may be looked for meanwhile, then all are read
                if inode in layer._quiet._kept:
                    break
                time.sleep(0.05)
                assert ports() == expected
            before = layer._quiet._kept[inode]
            assert ports() == expected
            assert layer._quiet._kept[inode][0] == before[0]  # and nothing had moved
        child.stdin.write(b"connect\n")
        child.stdin.flush()
        assert child.stdout.readline() == b"done\n"
        found = [c for c in tick(collector).connections if c.netns == inode]
        assert sorted(c.state for c in found) == ["ESTAB", "ESTAB"]
        assert inode not in layer._quiet._kept
