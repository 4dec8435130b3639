"""The collector with its stream on two descriptors: the far end of `ktop --host`.

A link may be slow, and between us and the reader lie buffers of megabytes (sockets, ssh's window)
that would be filled with frames nobody wants any more. So with `packed` the reader says what has
arrived, and no more than a little is ever on its way: what is sent next is the newest frame, and
those that were not sent are counted (Health.skipped_frames).
"""

from __future__ import annotations

import os
import selectors
import socket
import sys
import time
from collections import deque
from contextlib import suppress
from typing import cast

from ktop.collect.main import Options, Server
from ktop.remote_wire import Packing
from ktop.text import clean
from ktop.wire import HEADER, Control, WireError, encode_error, encode_hello

WINDOW_BYTES = 16 << 10  # on their way, beyond which nothing more is sent until some has arrived
SILENCE_NS = 60_000_000_000  # a packed stream's reader is heard of more often than that


class _Pipes:
    """What the server needs of a socket, over one descriptor in and one out."""

    def __init__(self, inward: int, outward: int) -> None:
        self._in, self._out = inward, outward

    def setblocking(self, flag: bool) -> None:
        os.set_blocking(self._in, flag)
        os.set_blocking(self._out, flag)

    def fileno(self) -> int:
        return self._in

    def recv(self, most: int) -> bytes:
        return os.read(self._in, most)

    def send(self, data: memoryview) -> int:
        return os.write(self._out, data)


class FarServer(Server):
    """Serves frames on `outward`, obeys controls from `inward` and ends when that ends."""

    def __init__(self, inward: int, outward: int, options: Options, packed: bool) -> None:
        super().__init__(cast(socket.socket, _Pipes(inward, outward)), options)
        self._selector = selectors.PollSelector()  # epoll takes no plain files
        self._out = outward
        self._listens = not os.isatty(inward)  # keys are for whoever reads our frames
        self._writing = False
        self._packing = Packing() if packed else None
        self._on_way: deque[int] = deque()  # bytes of each frame that has not arrived yet
        self._arrived = 0
        self._heard = time.monotonic_ns()
        self._sending = memoryview(encode_hello())

    def run(self) -> None:
        """Say hello, then frames, until the reader has gone."""
        self._sock.setblocking(False)
        self._send()
        try:
            super().run()
        finally:
            os.set_blocking(self._out, True)

    def _tick(self, now: int) -> None:
        if self._packing is not None and now - self._heard > SILENCE_NS:
            self._open = False
            print("ktop collect: the reader was not heard of for a minute", file=sys.stderr)
            return
        super()._tick(now)

    def _wait(self, timeout_ns: int) -> None:
        if not self._listens and self._sock.fileno() in self._selector.get_map():
            self._selector.unregister(self._sock)
        if bool(self._sending) != self._writing:
            self._writing = not self._writing
            if self._writing:
                self._selector.register(self._out, selectors.EVENT_WRITE)
            else:
                self._selector.unregister(self._out)
        for key, _ in self._selector.select(timeout_ns / 1e9):
            if key.fd == self._out:
                self._send()
            else:
                self._receive()

    def _obey(self, control: Control) -> None:
        self._heard = time.monotonic_ns()
        if control.got is not None:
            while self._on_way and self._arrived < control.got:
                self._arrived += 1
                self._on_way.popleft()
            self._send()
        super()._obey(control)

    def _send(self) -> None:
        try:
            while self._open and (self._sending or self._next()):
                self._sending = self._sending[self._sock.send(self._sending):]
        except BlockingIOError:
            pass
        except OSError:
            self._open = False

    def _next(self) -> bool:
        """Whether there is a frame that may go now."""
        if self._waiting is None or sum(self._on_way) >= WINDOW_BYTES:
            return False
        data, self._waiting = self._waiting, None
        if self._packing is not None:
            try:
                data = self._packing.message(data[HEADER.size:])
            except WireError as err:
                self._open = False
                print(f"ktop collect: {err}", file=sys.stderr)
                return False
            self._on_way.append(len(data))
        self._sending = memoryview(data)
        return True


def serve_pipes(inward: int, outward: int, options: Options, packed: bool) -> int:
    """Run the collector between two descriptors; exit status as that of `ktop.collect.main.serve`.
    """
    try:
        FarServer(inward, outward, options, packed).run()
    except Exception as err:
        text = clean(f"{type(err).__name__}: {err}", 300)
        with suppress(OSError):
            os.write(outward, encode_error(text))
        print(f"ktop collect: {text}", file=sys.stderr)
        return 1
    return 0
