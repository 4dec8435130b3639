"""The workloads of the recorded session, one function each; how they are run: tests/rolekit.py."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import random
import resource
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable

from tests.rolekit import DATA, THERE, be, serve

API, MIRROR, STUCK, NOBODY, SHIP, DNS = 8080, 8081, 8090, 8099, 7000, 53
PORTS = frozenset((API, MIRROR, STUCK, NOBODY, SHIP, DNS))
BLOCK, RESERVED = 8192, 64 << 20


def rollup() -> None:
    """Burn CPU without end."""
    n = 0
    while True:
        n += 1


def pinger() -> None:
    """Work a moment, sleep a moment: what waits for the CPU that others hold."""
    while True:
        time.sleep(0.004)
        for _ in range(3000):
            pass


def reports() -> None:
    """Four threads that read a file at random, past the page cache."""
    path = DATA / "reports.db"

    def read() -> None:
        file = os.open(path, os.O_RDONLY | os.O_DIRECT)
        page = mmap.mmap(-1, BLOCK)
        while True:
            os.preadv(file, [page], random.randrange(RESERVED // BLOCK) * BLOCK)
            time.sleep(random.expovariate(200))

    for number in range(4):
        threading.Thread(target=read, name=f"reader-{number}").start()


def journal() -> None:
    """Append and fsync, as a database does on commit."""
    with open(DATA / "journal.log", "wb", buffering=0) as file:
        while True:
            file.write(os.urandom(6000))
            os.fsync(file.fileno())
            if file.tell() > 16 << 20:
                file.seek(0)
            time.sleep(random.expovariate(60))


def archive() -> None:
    """Buffered writes; the kernel brings them to the disk, or now and then an fdatasync."""
    chunk = os.urandom(1 << 16)
    while True:
        with open(DATA / "archive.tar", "wb") as file:
            for number in range(640):
                file.write(chunk)
                if number % 160 == 159:
                    os.fdatasync(file.fileno())
                time.sleep(0.02)


def static() -> None:
    """Read small files, and note each in a log."""
    names = [DATA / "www" / f"{name}.html" for name in (
        "index", "cart", "search", "about", "offers", "help", "terms", "login", "orders", "news")]
    names[0].parent.mkdir(exist_ok=True)
    for number, name in enumerate(names):
        name.write_bytes(b"<p>" * (2000 + 5000 * number))
    with open(DATA / "access.log", "w", buffering=1) as log:
        while True:
            name = names[min(int(random.expovariate(0.5)), len(names) - 1)]
            with open(name, "rb", buffering=0) as file:
                while file.read(1 << 14):
                    pass
            log.write(f"GET /{name.name} 200\n")
            time.sleep(random.expovariate(60))


def config() -> None:
    """Look for settings everywhere but where they are."""
    (DATA / "app.conf").write_text("workers = 4\n" * 50)
    os.chdir(DATA)
    while True:
        for name in ("/etc/shop/app.conf", "/usr/local/etc/shop/app.conf", "conf.d/local.conf"):
            for _ in range(4):
                with contextlib.suppress(OSError):
                    open(name).close()
        with open("app.conf") as file:
            file.read()
        time.sleep(0.04)


def leaky() -> None:
    """One descriptor more every quarter of a second."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
    kept = []
    while True:
        kept.append(os.open(DATA / "app.conf", os.O_RDONLY | os.O_CREAT))
        time.sleep(0.25)


def _answer(client: socket.socket) -> None:
    with contextlib.suppress(OSError), client:
        while client.recv(4096):
            time.sleep(random.expovariate(400))
            client.sendall(b"x" * 2000)


def api() -> None:
    """A server that answers, and one at whose port nobody accepts."""
    stuck = socket.create_server(("127.0.0.1", STUCK), backlog=4)
    server = socket.create_server(("::1", API), family=socket.AF_INET6, backlog=64)
    threading.Thread(target=serve, args=(server, _answer)).start()
    serve(socket.create_server(("127.0.0.1", API), backlog=64), _answer)
    stuck.close()


def _ask(address: tuple[str, int], times: int) -> None:
    with contextlib.suppress(OSError), socket.create_connection(address, timeout=0.4) as s:
        for _ in range(times):
            s.sendall(b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n")
            s.recv(4096)
            time.sleep(random.expovariate(30))


def client() -> None:
    """Short and long connections to the server; now and then one where nobody listens."""
    def steady(host: str) -> None:
        while True:
            _ask((host, API), 600)

    for host in ("127.0.0.1", "127.0.0.1", "127.0.0.1", "::1"):
        threading.Thread(target=steady, args=(host,)).start()
    while True:
        _ask(("127.0.0.1", API), 5)
        if random.random() < 0.3:
            _ask(("127.0.0.1", NOBODY), 1)


def impatient() -> None:
    """Connects to the port at which nobody accepts."""
    kept = []
    while True:
        s = socket.socket()
        s.settimeout(3.0)
        try:
            s.connect(("127.0.0.1", STUCK))
            kept.append(s)
        except OSError:
            s.close()
        time.sleep(0.3)


def _swallow(client: socket.socket) -> None:
    with contextlib.suppress(OSError), client:
        while client.recv(1 << 16):
            pass


def _pour(address: tuple[str, int], chunk: int, pause: float) -> None:
    data = b"m" * chunk
    while True:
        with contextlib.suppress(OSError), socket.create_connection(address) as s:
            while True:
                s.sendall(data)
                time.sleep(pause)


def mirror() -> None:
    """Bulk traffic over loopback."""
    server = socket.create_server(("127.0.0.1", MIRROR))
    threading.Thread(target=serve, args=(server, _swallow)).start()
    _pour(("127.0.0.1", MIRROR), 1 << 18, 0.02)


def depot() -> None:
    """In the other namespace: takes what is shipped, and answers questions about names."""
    def names() -> None:
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.bind((THERE, DNS))
        while True:
            query, who = s.recvfrom(512)
            name = query[13:13 + query[12]]
            code = 0x83 if name == b"nothere" else 0x80
            time.sleep(random.expovariate(200))
            if name != b"silent":
                s.sendto(query[:2] + bytes([0x81, code]) + query[4:], who)

    threading.Thread(target=names).start()
    serve(socket.create_server((THERE, SHIP)), _swallow)


def shipper() -> None:
    """Sends to the other namespace, through a firewall that loses packets."""
    for _ in range(3):
        threading.Thread(target=_pour, args=((THERE, SHIP), 20_000, 0.05)).start()
    _pour((THERE, SHIP), 1 << 18, 0.2)


def lookup() -> None:
    """Asks for names."""
    number = 0
    while True:
        number += 1
        name = b"silent" if number % 40 == 0 else b"nothere" if number % 7 == 0 else b"www"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.settimeout(0.5)
            s.connect((THERE, DNS))
            with contextlib.suppress(OSError):
                s.send(struct.pack(">HHHHHH", number & 0xffff, 0x0100, 1, 0, 0, 0)
                       + bytes([len(name)]) + name + b"\x07example\0" + struct.pack(">HH", 1, 1))
                s.recv(512)
        time.sleep(0.15)


def backup() -> None:
    """Mounts and unmounts in a mount namespace of its own; once in a while a wrong type."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x00020000) or libc.mount(b"none", b"/", None, 0x4000 | 0x40000, None):
        raise OSError(ctypes.get_errno(), errno.errorcode[ctypes.get_errno()])
    target = DATA / "backup"
    target.mkdir(exist_ok=True)
    place = os.fsencode(target)
    while True:
        libc.mount(b"tmpfs", place, b"tmpfs", 6, b"size=1m")
        time.sleep(2)
        libc.umount2(place, 0)
        libc.mount(b"store:/backup", place, b"nosuchfs", 0, None)
        time.sleep(5)


# A shell that forks: what ends well, what fails, what is not there.
HEALTHCHECK = """#!/bin/sh
while kill -0 "$PPID"; do
  date +%s >/dev/null
  grep -q workers app.conf
  sh -c 'exit 3'
  /opt/old/check-disk
  sleep 0.4
done
"""


def healthcheck() -> None:
    """Run the shell script of that name."""
    script = DATA / "app" / "healthcheck"
    script.write_text(HEALTHCHECK)
    script.chmod(0o755)
    os.chdir(DATA)
    with open(os.devnull, "w") as null:
        subprocess.run([script], stderr=null, check=False)


ROLES: dict[str, Callable[[], None]] = {
    role.__name__: role for role in (
        rollup, pinger, reports, journal, archive, static, config, leaky, api, client, impatient,
        mirror, depot, shipper, lookup, backup, healthcheck)}


if __name__ == "__main__":
    be(ROLES)
