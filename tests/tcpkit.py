"""What the live TCP tests share: a collector, listeners, two network namespaces, traffic."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from ktop.collect.main import Collector
from ktop.model import Frame, Tcp
from ktop.model_tcp import Connection, TcpEvent
from tests.livekit import collecting

RELAY = Path(__file__).with_name("relay.py")


def run(command: str) -> str:
    return subprocess.run(command.split(), check=True, capture_output=True, text=True).stdout


@contextlib.contextmanager
def collecting_tcp() -> Iterator[Collector]:
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


@contextlib.contextmanager
def relayed(a: str, b: str, share: float, late_ms: float, path_ms: float) -> Iterator[str]:
    """Another path between them, on which a share of the packets is late: the second's address."""
    command = [sys.executable, "-I", str(RELAY), a, b, str(share), str(late_ms), str(path_ms)]
    p = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert p.stdout is not None and p.stdout.readline() == b"ready\n"
        yield "10.79.0.2"
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


@contextlib.contextmanager
def serving() -> Iterator[tuple[str, str]]:
    """Two namespaces, in the second of which a server on port 7000 counts what it gets."""
    with namespaces() as (a, b), inside(b, SERVE) as server:
        assert server.stdout is not None and server.stdout.readline() == b"ready\n"
        yield a, b
