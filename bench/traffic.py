"""A loopback HTTP server and a client that loads it, each a child of its own: one thread, epoll, a
fixed answer, so that little of a request is Python. Only 127/8 is used.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator

from bench.common import ROOT, Missing, cpu_ns, end

REQUEST = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 512\r\n\r\n" + b"k" * 512
KEPT = 16         # connections of the client that keeps them
SAME_SOURCE = 4_000  # then another loopback address: ports wait a minute before they come again


def serve() -> None:
    """In a child: until its standard input ends. Prints its port."""
    watched = selectors.DefaultSelector()
    server = socket.create_server(("127.0.0.1", 0), backlog=512)
    server.setblocking(False)
    watched.register(server, selectors.EVENT_READ)
    watched.register(sys.stdin, selectors.EVENT_READ)
    print(server.getsockname()[1], flush=True)
    while True:
        for key, _ in watched.select():
            one = key.fileobj
            if one is sys.stdin:
                return
            if one is server:
                with contextlib.suppress(BlockingIOError):
                    client = server.accept()[0]
                    watched.register(client, selectors.EVENT_READ)
                continue
            assert isinstance(one, socket.socket)
            with contextlib.suppress(OSError):  # reset by a client that has ended
                if one.recv(4096):
                    one.sendall(ANSWER)
                    continue
            watched.unregister(one)
            one.close()


def _keep(port: int, until: float) -> int:
    """Requests answered over connections that stay open."""
    done = 0
    watched = selectors.DefaultSelector()
    for _ in range(KEPT):
        one = socket.create_connection(("127.0.0.1", port))
        one.sendall(REQUEST)
        watched.register(one, selectors.EVENT_READ)
    while time.perf_counter() < until:
        for key, _ in watched.select(0.1):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.recv(4096)
            key.fileobj.sendall(REQUEST)
            done += 1
    return done


def _renew(port: int, until: float) -> int:
    """Requests answered over a connection each, one after the other."""
    done = 0
    base = 0x7F010000 + (os.getpid() & 0xFFF) * 16
    while time.perf_counter() < until:
        source = socket.inet_ntoa(struct.pack("!I", base + done // SAME_SOURCE))
        with socket.socket() as one:
            one.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
            one.bind((source, 0))
            one.connect(("127.0.0.1", port))
            one.sendall(REQUEST)
            one.recv(4096)
        done += 1
    return done


def load(port: int, kept: bool, seconds: float) -> None:
    """In a child: prints how many requests were answered, and its CPU seconds for them."""
    begun = time.process_time()
    done = (_keep if kept else _renew)(port, time.perf_counter() + seconds)
    print(done, time.process_time() - begun, flush=True)


def finish(child: subprocess.Popen[bytes]) -> None:
    """End a child that reads its standard input, by the end of that."""
    assert child.stdin and child.stdout
    child.stdin.close()
    try:
        child.wait(10)
    except subprocess.TimeoutExpired:
        end(child, signal.SIGKILL)
    child.stdout.close()


@contextlib.contextmanager
def server(cpu: int) -> Iterator[tuple[int, int]]:
    """A server on that CPU: its pid and port."""
    child = subprocess.Popen([sys.executable, "-c", "from bench.traffic import serve; serve()"],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
    try:
        os.sched_setaffinity(child.pid, {cpu})
        assert child.stdout
        yield child.pid, int(child.stdout.readline())
    finally:
        finish(child)


def requests(of: tuple[int, int], cpu: int, kept: bool, seconds: float) -> float:
    """Requests of a client on that CPU for a CPU second of client and server."""
    pid, port = of
    before = cpu_ns([pid])
    code = f"from bench.traffic import load; load({port}, {kept}, {seconds})"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, cwd=ROOT)
    os.sched_setaffinity(child.pid, {cpu})
    said, _ = child.communicate(timeout=seconds + 20)
    if not said:
        raise Missing("the HTTP client failed")
    done, seconds = (float(word) for word in said.split())
    return done / (seconds + (cpu_ns([pid]) - before) / 1e9)
