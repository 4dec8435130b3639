"""Feeds: the last events of each kind, numbered. Bounded; no clock. Part of ktop/history.py."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ktop.model import Frame, ProcessEvent
from ktop.model_block import SlowIo
from ktop.model_files import MountEvent, OpenEvent, SlowOp
from ktop.model_tcp import TcpEvent
from ktop.scope import Members

T = TypeVar("T")


@dataclass(frozen=True)
class Fed(Generic[T]):
    """An event with the number it got here: its identity in the feed.

    args: of an execution or exit, its command line.
    """

    serial: int
    event: T
    args: str | None = None


class Feed(Generic[T]):
    """The last events of one kind."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._events: deque[Fed[T]] = deque(maxlen=most)
        self._serial = 0
        self.cut = 0  # events that happened and were not in their frame

    def put(self, event: T, args: str | None = None) -> None:
        """Take one event."""
        self._serial += 1
        self._events.append(Fed(self._serial, event, args))

    def add(self, events: Iterable[T], cut: int = 0) -> None:
        """Take a frame's events, oldest first, and how many of them it left out."""
        for event in events:
            self.put(event)
        self.cut += cut

    def newest_first(self) -> list[Fed[T]]:
        """All that is remembered."""
        return list(reversed(self._events))

    @property
    def newest(self) -> tuple[int, int]:
        """(number of the newest, how many): changes when there is news."""
        return self._serial, len(self._events)

    def until(self, serial: int, cut: int) -> Feed[T]:
        """The feed as it was when `serial` was its newest number, and `cut` had been cut."""
        past: Feed[T] = Feed(self.most)
        past._events.extend(fed for fed in self._events if fed.serial <= serial)
        past._serial, past.cut = min(serial, self._serial), min(cut, self.cut)
        return past

    def only(self, keep: Callable[[T], bool]) -> Feed[T]:
        """A feed of its own with the events that `keep` wants; their numbers stay."""
        found: Feed[T] = Feed(self.most)
        found._events.extend(fed for fed in self._events if keep(fed.event))
        found._serial, found.cut = self._serial, self.cut
        return found

    def clear(self) -> None:
        """Forget everything; numbers go on."""
        self._events.clear()
        self.cut = 0


ARGS = 512  # characters of a command line remembered for its exit


class Feeds:
    """One feed of each kind.

    processes: executions and exits. slow_ops, opens, mounts: of files. tcp: what happened to
    connections. slow_io: slow block requests.
    """

    def __init__(self, events: int = 5_000) -> None:
        self.processes: Feed[ProcessEvent] = Feed(events)
        self.slow_ops: Feed[SlowOp] = Feed(2_000)
        self.opens: Feed[OpenEvent] = Feed(2_000)
        self.mounts: Feed[MountEvent] = Feed(500)
        self.tcp: Feed[TcpEvent] = Feed(3_000)
        self.slow_io: Feed[SlowIo] = Feed(2_000)
        self._args: dict[int, str] = {}  # of running processes, by pid

    def _all(self) -> dict[str, Feed[Any]]:
        return {name: feed for name, feed in vars(self).items() if isinstance(feed, Feed)}

    def add(self, frame: Frame) -> None:
        """Take a frame's events."""
        for event in frame.processes.events:
            self.processes.put(event, self._arguments(event))
        self.processes.cut += frame.processes.events_cut
        if frame.files is not None:
            self.slow_ops.add(frame.files.slow)
            self.opens.add(frame.files.opens)
            self.mounts.add(frame.files.mounts)
        if frame.tcp is not None:
            self.tcp.add(frame.tcp.events, frame.tcp.events_cut)
        if frame.block is not None:
            self.slow_io.add(frame.block.slow)

    def _arguments(self, event: ProcessEvent) -> str | None:
        """An exit knows its command's name only: the command line is from its execution."""
        if event.kind == "exit":
            return self._args.pop(event.pid, None) if event.args is None else event.args
        if event.kind == "exec" and event.args is not None:
            self._args[event.pid] = event.args[:ARGS]
            if len(self._args) > self.processes.most:
                del self._args[next(iter(self._args))]
        return event.args

    def mark(self) -> tuple[tuple[int, int], ...]:
        """Where the feeds stand now, for `until`."""
        return tuple((feed.newest[0], feed.cut) for feed in self._all().values())

    def until(self, mark: tuple[tuple[int, int], ...]) -> Feeds:
        """The feeds as they stood at a mark."""
        past = Feeds()
        for (name, feed), at in zip(self._all().items(), mark, strict=True):
            setattr(past, name, feed.until(*at))
        return past

    def narrowed(self, members: Members) -> Feeds:
        """Feeds of their own with what is in a scope."""
        found = Feeds()
        for name, feed in self._all().items():
            setattr(found, name, feed.only(
                lambda e: members.has(e.pid, e.cgroup) or getattr(e, "ppid", 0) in members.pids))
        found._args = dict(self._args)
        return found

    def clear(self) -> None:
        """Forget everything; numbers go on."""
        for feed in self._all().values():
            feed.clear()
        self._args.clear()
