"""What layers with an event ring share: emptying it, and telling what did not fit."""

from __future__ import annotations

from ktop.bpf.engine import Engine
from ktop.bpf.ringbuf import RingBuffer


class RingLayer:
    """Base of a layer whose programs write into the ring buffer map `ring`; without it, nothing.

    lost: events that did not fit since the last count; lost_total: since the start.
    """

    def __init__(self, engine: Engine | None, ring: str) -> None:
        m = engine.loaded.maps.get(ring) if engine is not None else None
        self._ring = RingBuffer(m.fd, m.max_entries) if m else None
        self.lost = 0
        self.lost_total = 0

    def _take(self) -> list[bytes]:
        """Empty the ring."""
        return self._ring.drain() if self._ring is not None else []

    def _lose(self, total: int) -> None:
        """How many were lost since the start, by now."""
        self.lost, self.lost_total = total - self.lost_total, total

    def close(self) -> None:
        """Unmap the ring."""
        if self._ring is not None:
            self._ring.close()
            self._ring = None
