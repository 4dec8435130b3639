"""What layers with an event ring share: emptying it, and telling what did not fit."""

from __future__ import annotations

from ktop.bpf.engine import Engine
from ktop.bpf.ringbuf import RingBuffer


class RingLayer:
    """Base of a layer whose programs write into a ring buffer map; without one nothing comes.

    lost: events that did not fit since the last count; lost_total: since the start.
    """

    def __init__(self, engine: Engine | None = None, ring: str = "") -> None:
        self._ring: RingBuffer | None = None
        self.lost = 0
        self.lost_total = 0
        if engine is not None:
            self._open(engine, ring)

    def _open(self, engine: Engine, ring: str) -> None:
        """Read this map from now on."""
        m = engine.loaded.maps.get(ring)
        self._ring = RingBuffer(m.fd, m.max_entries) if m else None

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
