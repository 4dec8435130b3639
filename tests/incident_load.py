"""The workloads of the four recorded incidents; how they are run: tests/rolekit.py.

Disk: `orders` commits with fdatasync, `checkout` asks it, and `dump` comes and fills the device.
Network: `gateway` asks `ledger` in another namespace, over a link that begins to lose packets.
Quota: `pages` renders what `visitors` ask for, until its control group may use too little CPU.
Upstream: `basket` asks `prices` in another namespace, which becomes slow (SIGUSR1) and quick again
(SIGUSR2), while other connections idle.
"""

from __future__ import annotations

import mmap
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable

from tests.rolekit import DATA, THERE, answering, asking, be, die_with_parent

ORDERS, LEDGER, RATES, PAGES, PRICES = 5432, 7100, 7200, 8000, 7300
PORTS = frozenset((ORDERS, LEDGER, RATES, PAGES, PRICES))
SLOW_S = 0.2       # an answer of `prices` while it is slow
RENDER_S = 0.003   # of CPU for a page
WORKERS = 5


def orders() -> None:
    """A database: each request is a record in a log, synced before it is answered."""
    log = os.open(DATA / "orders.wal", os.O_WRONLY | os.O_CREAT, 0o600)
    lock = threading.Lock()

    def commit() -> None:
        with lock:
            os.pwrite(log, os.urandom(8192), random.randrange(2048) * 8192)
            os.fdatasync(log)

    answering(ORDERS, 256, 64, commit)


def checkout() -> None:
    """Four customers of the database."""
    asking(4, ("127.0.0.1", ORDERS), 256, 64, 0.04)


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
    answering(LEDGER, 1200, 4096)


def rates() -> None:
    """The same on a port that loses nothing."""
    answering(RATES, 200, 400)


def gateway() -> None:
    """Eight connections to the ledger, two to the rates, and work of its own in between."""
    asking(8, (THERE, LEDGER), 1200, 4096, 0.02)
    asking(2, (THERE, RATES), 200, 400, 0.02)
    while True:
        sum(range(20_000))
        time.sleep(0.02)


def pages() -> None:
    """Processes that render a page for each request."""
    def render() -> None:
        until = time.process_time() + RENDER_S
        while time.process_time() < until:
            pass

    for number in range(WORKERS):
        if not os.fork():
            die_with_parent()
            answering(PAGES + number, 200, 16_000, render)
    signal.pause()


def visitors() -> None:
    """Three connections to each of the workers."""
    for number in range(WORKERS):
        asking(2, ("127.0.0.1", PAGES + number), 200, 16_000, 0.25)


def prices() -> None:
    """Answers at once, or after SLOW_S."""
    slow = threading.Event()
    signal.signal(signal.SIGUSR1, lambda *_: slow.set())
    signal.signal(signal.SIGUSR2, lambda *_: slow.clear())

    def look_up() -> None:
        time.sleep(SLOW_S if slow.is_set() else 0.001)

    threading.Thread(target=answering, args=(PRICES, 300, 900, look_up)).start()
    while True:  # Python runs the handlers of signals in the main thread
        time.sleep(0.2)


def basket() -> None:
    """Ten connections that ask for prices, and twenty that are kept for later."""
    idle = []
    while len(idle) < 20:
        try:
            idle.append(socket.create_connection((THERE, PRICES)))
        except OSError:
            time.sleep(0.2)
    asking(10, (THERE, PRICES), 300, 900, 0.05)
    signal.pause()


ROLES: dict[str, Callable[[], None]] = {
    role.__name__: role for role in (orders, checkout, dump, ledger, rates, gateway, pages,
                                     visitors, prices, basket)}

if __name__ == "__main__":
    be(ROLES)
