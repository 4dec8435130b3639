"""Names for addresses, asked of the symbols child (ktop/bpf/symbols.py). Never waits for it.

The child reads what the watched processes wrote, so it may hang or die of it: then the process that
it was busy with keeps `[unknown]`, and a fresh child goes on with the others.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import time
from collections import deque
from collections.abc import Iterable

from ktop.bpf import symbols
from ktop.bpf.engine import system_python
from ktop.text import clean

KERNEL = 0           # instead of a pid
CHUNK = 200          # addresses a request: the answer must fit into the socket's buffer
PATIENCE_S = 20.0    # for one answer: symbol tables of a big binary, on a busy machine
RESTARTS = 5
NAME_LIMIT = 200
UNKNOWN = symbols.UNKNOWN
_CHILD = os.path.join(os.path.dirname(os.path.abspath(symbols.__file__)), "symbols.py")
_RUST_HASH = re.compile(r"::h[0-9a-f]{16}$")


def shown(raw: str, kernel: bool) -> str:
    """A function's name for the screen: harmless, without a Rust hash, marked if the kernel's."""
    name = clean(_RUST_HASH.sub("", raw), NAME_LIMIT) or UNKNOWN
    return f"{name}_[k]" if kernel else name


class Symbols:
    """Ask, poll, look up. Addresses are those of instructions, not of the ones they return to."""

    def __init__(self) -> None:
        self._names: dict[tuple[int, int], str | None] = {}  # None: asked
        self._queue: deque[tuple[int, list[int]]] = deque()
        self._asked: dict[int, tuple[int, list[int]]] = {}  # request -> process, addresses
        self._next = 0
        self._waiting_since = 0.0
        self._child: subprocess.Popen[bytes] | None = None
        self._sock: socket.socket | None = None
        self._starts = 0
        self.notes: list[str] = []

    def name(self, pid: int, address: int) -> str | None:
        """None until the child has answered."""
        return self._names.get((pid, address))

    def ask(self, pid: int, addresses: Iterable[int]) -> None:
        """Names of these are wanted; what is known or asked for already is not asked again."""
        fresh = [a for a in dict.fromkeys(addresses) if (pid, a) not in self._names]
        for address in fresh:
            self._names[pid, address] = None
        for at in range(0, len(fresh), CHUNK):
            self._queue.append((pid, fresh[at:at + CHUNK]))

    def poll(self) -> None:
        """Send what can be sent, take what has come. Never waits."""
        while self._receive():
            pass
        if self._asked and time.monotonic() - self._waiting_since > PATIENCE_S:
            self._broke("took too long")
        self._send()

    @property
    def busy(self) -> bool:
        """Whether names are outstanding."""
        return bool(self._queue or self._asked)

    def fileno(self) -> int | None:
        """What becomes readable when an answer has come; None without a child."""
        return self._sock.fileno() if self._sock is not None else None

    def _send(self) -> None:
        while self._queue:
            if self._sock is None and not self._start():
                self.give_up("the reader of symbols does not start")
                return
            pid, addresses = self._queue[0]
            request = {"id": self._next, "pid": pid, "addrs": addresses}
            try:
                assert self._sock is not None
                self._sock.send(json.dumps(request).encode())
            except BlockingIOError:
                return
            except OSError:
                self._broke("has ended")
                continue
            if not self._asked:
                self._waiting_since = time.monotonic()
            self._asked[self._next] = self._queue.popleft()
            self._next += 1

    def _receive(self) -> bool:
        if self._sock is None or not self._asked:
            return False
        try:
            data = self._sock.recv(1 << 20)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._broke("has ended")
            return False
        answer = json.loads(data)
        pid, addresses = self._asked.pop(answer["id"])
        self._waiting_since = time.monotonic()
        for address, name in zip(addresses, answer["names"], strict=True):
            self._names[pid, address] = shown(name, pid == KERNEL)
        self._note(answer["note"])
        return True

    def _note(self, text: str) -> None:
        if text and (note := clean(text, 200)) not in self.notes:
            self.notes.append(note)

    def _start(self) -> bool:
        python = system_python()
        if python is None or self._starts > RESTARTS:
            return False
        self._starts += 1
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._child = subprocess.Popen(
                [python, "-I", "-B", _CHILD, str(theirs.fileno())], pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd="/",
                env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"})
        except OSError as err:
            self._note(f"no names: {python}: {err.strerror}")
            ours.close()
            return False
        finally:
            theirs.close()
        ours.setblocking(False)
        self._sock = ours
        return True

    def _broke(self, why: str) -> None:
        """The first request under way is the one it broke at; the others are asked again."""
        self._end()
        asked, self._asked = list(self._asked.values()), {}
        if asked:
            pid, addresses = asked[0]
            who = "the kernel" if pid == KERNEL else f"process {pid}"
            self._note(f"some names of {who} are missing: the reader of symbols {why}")
            for address in addresses:
                self._names[pid, address] = shown(UNKNOWN, pid == KERNEL)
        self._queue.extendleft(reversed(asked[1:]))

    def give_up(self, why: str) -> None:
        """What has no name by now will have none."""
        self._note(f"some names are missing: {why}")
        for pid, addresses in (*self._queue, *self._asked.values()):
            for address in addresses:
                self._names[pid, address] = shown(UNKNOWN, pid == KERNEL)
        self._queue.clear()
        self._asked.clear()

    def _end(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None

    def close(self) -> None:
        """End the child and forget what was asked."""
        self._end()
        self._queue.clear()
        self._asked.clear()


def settle(found: Symbols, timeout_s: float = PATIENCE_S) -> None:
    """Wait until all is answered (tests)."""
    end = time.monotonic() + timeout_s
    while found.busy and time.monotonic() < end:
        found.poll()
        time.sleep(0.005)


