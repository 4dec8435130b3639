"""Between a local reader's socket and ssh: frames unpacked inward, controls outward.

It answers for each frame when the reader has taken it, and holds one at most: a reader that is slow
is felt at the far end, where frames are left out and counted, and nowhere in between.
"""

from __future__ import annotations

import os
import selectors
import socket
import time
from contextlib import suppress

from ktop import wire
from ktop.remote_wire import Unpacking

CHUNK = 1 << 18
STILL_HERE_S = 10.0  # how often the far end is told that we are


class Relay:
    """One connection, from its first bytes to its end."""

    def __init__(self, sock: socket.socket, inward: int, outward: int, begin: bytes) -> None:
        """inward, outward: from and to the far collector. begin: what was read of it already."""
        self._sock = sock
        self._in, self._out = inward, outward
        self._unpacking = Unpacking(begin)
        self._controls = wire.Reader()
        self._pending = memoryview(b"")  # to the reader
        self._of_frame = False           # what is pending is a frame
        self._outgoing = bytearray()     # to the far end
        self._got = 0
        self._told = 0.0
        self._why: str | None = None
        self._open = True

    def run(self) -> str | None:
        """Until an end goes away: why the far one did, None when the reader left."""
        self._sock.setblocking(False)
        os.set_blocking(self._in, False)
        os.set_blocking(self._out, False)
        self._forward()
        while self._open:
            if time.monotonic() - self._told >= STILL_HERE_S:
                self._answer()
            self._turn()
        return self._why

    def _turn(self) -> None:
        with selectors.SelectSelector() as selector:
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._pending else 0)
            selector.register(self._sock, events)
            if not self._pending:
                selector.register(self._in, selectors.EVENT_READ)
            if self._outgoing:
                selector.register(self._out, selectors.EVENT_WRITE)
            for key, ready in selector.select(STILL_HERE_S):
                if not self._open:
                    return
                if key.fd == self._out:
                    self._send()
                elif key.fd == self._in:
                    self._receive()
                else:
                    if ready & selectors.EVENT_WRITE:
                        self._forward()
                    if ready & selectors.EVENT_READ and self._open:
                        self._listen()

    def _over(self, why: str | None) -> None:
        self._why, self._open = why, False

    # -- inward --------------------------------------------------------------------------------

    def _receive(self) -> None:
        try:
            data = os.read(self._in, CHUNK)
        except BlockingIOError:
            return
        except OSError as err:
            self._over(err.strerror or "the connection is lost")
            return
        if not data:
            self._over("the connection is lost")
            return
        self._unpacking.feed(data)
        self._forward()

    def _forward(self) -> None:
        """What has come to the reader, as far as it takes it."""
        try:
            while self._open and (self._pending or self._next()):
                self._pending = self._pending[self._sock.send(self._pending):]
                if not self._pending and self._of_frame:
                    self._got += 1
                    self._answer()
        except BlockingIOError:
            pass
        except OSError:
            self._over(None)

    def _next(self) -> bool:
        try:
            came = self._unpacking.next()
        except wire.WireError as err:
            self._over(str(err))
            return False
        if came is None:
            return False
        self._pending, self._of_frame = memoryview(came.data), came.frame
        return True

    # -- outward -------------------------------------------------------------------------------

    def _answer(self) -> None:
        self._told = time.monotonic()
        self._outgoing += wire.encode_control(wire.Control(got=self._got))
        self._send()

    def _listen(self) -> None:
        try:
            data = self._sock.recv(CHUNK)
            wishes = self._controls.feed(data)
        except BlockingIOError:
            return
        except (OSError, wire.WireError):
            data, wishes = b"", []
        if not data:
            self._over(None)
            return
        for wish in wishes:
            if isinstance(wish, wire.Control):
                self._outgoing += wire.encode_control(wish)
        self._send()

    def _send(self) -> None:
        with suppress(OSError):  # the inward side tells of an end
            del self._outgoing[:os.write(self._out, self._outgoing)]
