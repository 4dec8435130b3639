"""What the workloads of recorded sessions share. Standard library only.

A module of roles (tests/session_load.py, tests/incident_load.py) is copied beside the data under
the name of each of its roles, this file with it, and run as `python3 -Es app/ROLE.py`: the name of
the file is the role. All run until killed, and die with the process that started them.
"""

from __future__ import annotations

import ctypes
import random
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

THERE = "10.77.0.2"  # the other network namespace
DATA = Path(sys.argv[0]).resolve().parent.parent
_DEATH_SIGNAL, _SET_NAME = 1, 15  # of prctl(2)


def take(connection: socket.socket, size: int) -> bool:
    """Read so many bytes; False when the other end has closed."""
    while size:
        got = connection.recv(size)
        if not got:
            return False
        size -= len(got)
    return True


def serve(server: socket.socket, work: Callable[[socket.socket], None]) -> None:
    """A thread for each connection."""
    while True:
        client, _ = server.accept()
        threading.Thread(target=work, args=(client,), daemon=True).start()


def answering(port: int, asked: int, answer: int, work: Callable[[], None] = lambda: None) -> None:
    """Serve at a port of every address: `asked` bytes, some work, then `answer` bytes."""
    def each(connection: socket.socket) -> None:
        while take(connection, asked):
            work()
            connection.sendall(bytes(answer))

    serve(socket.create_server(("0.0.0.0", port), backlog=64), each)


def asking(count: int, address: tuple[str, int], size: int, answer: int, pause: float) -> None:
    """So many connections that ask without end, with a mean pause (seconds) in between."""
    def ask() -> None:
        while True:
            try:
                with socket.create_connection(address, timeout=20) as connection:
                    while True:
                        connection.sendall(bytes(size))
                        if not take(connection, answer):
                            break
                        time.sleep(random.expovariate(1 / pause))
            except OSError:
                time.sleep(0.2)

    for _ in range(count):
        threading.Thread(target=ask).start()


def die_with_parent() -> None:
    """No workload outlives the session."""
    ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL)


def be(roles: Mapping[str, Callable[[], None]]) -> None:
    """The role that the file is named after."""
    name = Path(sys.argv[0]).stem
    die_with_parent()
    ctypes.CDLL(None).prctl(_SET_NAME, name.encode(), 0, 0, 0)
    roles[name]()
