"""A feed: the last events of one kind, numbered. Bounded; no clock. Part of ktop/history.py."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

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

    def clear(self) -> None:
        """Forget everything; numbers go on."""
        self._events.clear()
        self.cut = 0
