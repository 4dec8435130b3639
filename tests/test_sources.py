"""The live source on a socket pair: what it makes of frames, of words, and of a broken stream."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from ktop.launch import DEAD, NEW, RESTART, Options, Session
from ktop.model import Frame
from ktop.sources import ENDED, LIVE, STARTING, LiveSource
from ktop.wire import Control, Reader, encode_error, encode_frame
from tests.frames import make_frame


class Ends:
    """A source, and the other ends of what it holds."""

    def __init__(self) -> None:
        self.collector, stream = socket.socketpair()
        self.supervisor, control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.log = os.memfd_create("log")
        self.source = LiveSource(Session(Options(), stream, self.log, control))
        self.batches: list[list[Frame]] = []
        self.changes: list[str] = []
        self.source.start(self.batches.append, lambda: self.changes.append(self.source.state))

    async def until(self, true: Any) -> None:
        for _ in range(1000):
            if true():
                return
            await asyncio.sleep(0.01)
        raise AssertionError("never came")


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    found = Ends()
    yield found
    found.source.close()
    found.collector.close()
    found.supervisor.close()


async def test_frames_arrive_in_one_batch_and_in_order(ends: Ends) -> None:
    ends.collector.sendall(b"".join(encode_frame(make_frame(n, 5)) for n in (1, 2, 3)))
    await ends.until(lambda: ends.batches)
    assert [frame.seq for batch in ends.batches for frame in batch] == [1, 2, 3]
    assert ends.changes == [LIVE]


async def test_a_frame_in_pieces(ends: Ends) -> None:
    data = encode_frame(make_frame(1, 50))
    for start in range(0, len(data), 5000):
        ends.collector.sendall(data[start:start + 5000])
        await asyncio.sleep(0)
    await ends.until(lambda: ends.batches)
    assert ends.batches[0][0] == make_frame(1, 50)


@pytest.mark.parametrize(("data", "reason"), [
    (b"GET / HTTP/1.1\r\n\r\n", "not a ktop stream"),
    (b"F\x00\x00\x00\x01\xc1", "a broken frame")])
async def test_a_broken_stream_ends_it(ends: Ends, data: bytes, reason: str) -> None:
    ends.collector.sendall(data)
    await ends.until(lambda: ends.changes)
    assert ends.source.state == ENDED
    assert reason in ends.source.reason


async def test_last_words_go_before_the_log(ends: Ends) -> None:
    os.write(ends.log, b"something\nolder\n\n")
    ends.collector.sendall(encode_error("no memory for maps"))
    ends.collector.close()
    await ends.until(lambda: ends.changes)
    assert ends.source.reason.endswith("no memory for maps")


async def test_the_log_speaks_for_a_silent_collector(ends: Ends) -> None:
    os.write(ends.log, b"one\nTraceback\nBoom: \x1b[31mred\n\n")
    ends.collector.close()
    await ends.until(lambda: ends.changes)
    assert ends.source.reason == "it closed its stream: Boom: \\e[31mred"
    ends.supervisor.send(DEAD + b"killed by SIGSEGV")
    await ends.until(lambda: len(ends.changes) == 2)
    assert ends.source.reason == "killed by SIGSEGV: Boom: \\e[31mred"


async def test_interval_reaches_the_collector(ends: Ends) -> None:
    ends.source.ask(Control(interval_ns=5_000_000_000))
    ends.collector.settimeout(10)
    (control,) = Reader().feed(ends.collector.recv(4096))
    assert isinstance(control, Control)
    assert control.interval_ns == 5_000_000_000


async def test_restart_brings_a_new_stream_at_the_same_interval(ends: Ends) -> None:
    ends.source.ask(Control(interval_ns=2_000_000_000))
    ends.collector.close()
    await ends.until(lambda: ends.changes)
    assert ends.source.restart()
    assert ends.supervisor.recv(64) == RESTART
    ends.collector, stream = socket.socketpair()
    log = os.memfd_create("log2")
    socket.send_fds(ends.supervisor, [NEW], [stream.fileno(), log])
    stream.close()
    os.close(log)
    await ends.until(lambda: STARTING in ends.changes)
    ends.collector.settimeout(10)
    (control,) = Reader().feed(ends.collector.recv(4096))
    assert isinstance(control, Control)
    assert control.interval_ns == 2_000_000_000
    ends.collector.sendall(encode_frame(make_frame(1, 5)))
    await ends.until(lambda: ends.changes[-1] == LIVE)


async def test_without_a_supervisor_nobody_restarts(ends: Ends) -> None:
    ends.supervisor.close()
    await asyncio.sleep(0.05)
    assert not ends.source.restart()
