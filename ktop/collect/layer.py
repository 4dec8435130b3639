"""What the collector asks of a layer that is loaded after the first frames (files, tcp, block)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from ktop.model import Process

P_co = TypeVar("P_co", covariant=True)


@dataclass
class Tick:
    """One tick, CLOCK_MONOTONIC ns. wall_offset, boot_offset: what CLOCK_REALTIME and
    CLOCK_BOOTTIME are ahead of it. interval_ns is None in the layer's first update: no rates yet.

    process: row of a pid, None when there is none now. processes: all rows. watched: whether
    somebody looks at (or records) this layer. vmstat: /proc/vmstat, as far as a layer asks.
    """

    now: int
    interval_ns: int | None
    wall_offset: int
    boot_offset: int
    process: Callable[[int], Process | None]
    processes: list[Process]
    watched: bool
    vmstat: dict[str, int]


class Layer(Protocol[P_co]):
    """A layer: made from its group's engine once that is loaded."""

    lost: int        # events lost since the last update
    lost_total: int  # and since the start

    def drain(self) -> None:
        """Empty the layer's event ring; called a few times a second between ticks."""

    def update(self, tick: Tick) -> P_co:
        """The layer's part of the frame."""

    def set_threshold(self, ns: int) -> None:
        """What counts as slow from now on."""

    def close(self) -> None:
        """Let go of everything but the engine."""
