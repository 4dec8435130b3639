"""The workloads of the two recorded incidents. Standard library only; see tests/session_load.py.

Disk: `orders` commits with fdatasync, `checkout` asks it, and `dump` comes and fills the device.
Network: `gateway` asks `ledger` in another namespace, over a link that begins to lose packets.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import random
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

ORDERS, LEDGER, RATES = 5432, 7100, 7200
THERE = "10.77.0.2"
PORTS = frozenset((ORDERS, LEDGER, RATES))
DATA = Path(sys.argv[0]).resolve().parent.parent


def _take(connection: socket.socket, size: int) -> bool:
    while size:
        got = connection.recv(size)
        if not got:
            return False
        size -= len(got)
    return True


def _serve(address: tuple[str, int], work: Callable[[socket.socket], None]) -> None:
    with socket.create_server(address, backlog=64) as server:
        while True:
            connection, _ = server.accept()
            threading.Thread(target=work, args=(connection,), daemon=True).start()


def orders() -> None:
    """A database: each request is a record in a log, synced before it is answered."""
    log = os.open(DATA / "orders.wal", os.O_WRONLY | os.O_CREAT, 0o600)
    lock = threading.Lock()

    def commit(connection: socket.socket) -> None:
        while _take(connection, 256):
            with lock:
                os.pwrite(log, os.urandom(8192), random.randrange(2048) * 8192)
                os.fdatasync(log)
            connection.sendall(bytes(64))

    _serve(("127.0.0.1", ORDERS), commit)


def _ask(address: tuple[str, int], size: int, answer: int, pause: float) -> None:
    while True:
        try:
            with socket.create_connection(address, timeout=20) as connection:
                while True:
                    connection.sendall(bytes(size))
                    if not _take(connection, answer):
                        break
                    time.sleep(random.expovariate(1 / pause))
        except OSError:
            time.sleep(0.2)


def _askers(count: int, *what: object) -> None:
    for _ in range(count):
        threading.Thread(target=_ask, args=what).start()


def checkout() -> None:
    """Four customers of the database."""
    _askers(4, ("127.0.0.1", ORDERS), 256, 64, 0.04)


def dump() -> None:
    """A backup that writes past the page cache, as fast as the device takes it."""
    def write(number: int) -> None:
        file = os.open(DATA / f"dump.{number}", os.O_WRONLY | os.O_CREAT | os.O_DIRECT, 0o600)
        page = mmap.mmap(-1, 256 << 10)
        while True:
            os.pwrite(file, page, random.randrange(256) << 18)

    for number in range(16):
        threading.Thread(target=write, args=(number,)).start()


def ledger() -> None:
    """Answers 4 kB at once."""
    def answer(connection: socket.socket) -> None:
        while _take(connection, 1200):
            connection.sendall(bytes(4096))

    _serve(("0.0.0.0", LEDGER), answer)


def rates() -> None:
    """The same on a port that loses nothing."""
    def answer(connection: socket.socket) -> None:
        while _take(connection, 200):
            connection.sendall(bytes(400))

    _serve(("0.0.0.0", RATES), answer)


def gateway() -> None:
    """Eight connections to the ledger, two to the rates, and work of its own in between."""
    _askers(8, (THERE, LEDGER), 1200, 4096, 0.02)
    _askers(2, (THERE, RATES), 200, 400, 0.02)
    while True:
        sum(range(20_000))
        time.sleep(0.02)


ROLES: dict[str, Callable[[], None]] = {
    role.__name__: role for role in (orders, checkout, dump, ledger, rates, gateway)}


def main() -> None:
    """Be the role that the file is named after."""
    name = Path(sys.argv[0]).stem
    libc = ctypes.CDLL(None)
    libc.prctl(1, signal.SIGKILL)           # PR_SET_PDEATHSIG
    libc.prctl(15, name.encode(), 0, 0, 0)  # PR_SET_NAME
    ROLES[name]()


if __name__ == "__main__":
    main()
