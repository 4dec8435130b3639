"""The recent past of the TCP layer: its feed, for ktop/history.py. Bounded; no clock."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from ktop.model_tcp import Tcp, TcpEvent

EVENTS = 3_000


@dataclass(frozen=True)
class FeedTcp:
    """An event with the number it got here: its identity in the feed."""

    serial: int
    event: TcpEvent


class TcpFeed:
    """Connects, accepts, closes, retransmits, drops and resets, as far as they came in frames."""

    def __init__(self) -> None:
        self._events: deque[FeedTcp] = deque(maxlen=EVENTS)
        self._serial = 0
        self.cut = 0  # events that happened and were not in their frame

    def clear(self) -> None:
        """Forget everything."""
        self._events.clear()
        self.cut = 0

    def add(self, layer: Tcp | None) -> None:
        """Take a frame's events."""
        if layer is None:
            return
        for event in layer.events:
            self._serial += 1
            self._events.append(FeedTcp(self._serial, event))
        self.cut += layer.events_cut

    def events(self) -> list[FeedTcp]:
        """Newest first."""
        return list(reversed(self._events))

    @property
    def newest(self) -> tuple[int, int]:
        """(number of the newest, how many): changes when there is news."""
        return (self._events[-1].serial if self._events else 0), len(self._events)
