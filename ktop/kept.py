"""A frame as it is kept, in memory or in a file: packed, with what a timeline needs beside it."""

from __future__ import annotations

from typing import NamedTuple

from ktop.diagnosis.model import Report
from ktop.lens import Moment
from ktop.levels import encode, levels
from ktop.model import Frame, Probe
from ktop.packing import LEVEL, Packer
from ktop.text import clean
from ktop.wire import encode_body

NOTE = 500  # characters of a mark's note


class Entry(NamedTuple):
    """One kept frame.

    at: its position; key: that of the keyframe which it is packed against, its own for a keyframe.
    levels: ktop.levels.encode, empty until they are worked out (`levelled`). probes: those whose
    status changed, all in the first.
    """

    at: int
    key: int
    moment: Moment
    levels: bytes
    data: bytes
    probes: tuple[Probe, ...] = ()


def levelled(entry: Entry, frame: Frame, report: Report | None) -> Entry:
    """The same with its levels; report: what the diagnosis made of the frame, where it did."""
    return entry._replace(levels=encode(levels(frame, report)))


class Mark(NamedTuple):
    """A note about a time of day. id: its number in its track, for good."""

    id: int
    wall_ns: int
    note: str


def make_mark(number: int, wall_ns: int, note: str) -> Mark:
    """A mark whose note is one harmless line."""
    return Mark(number, wall_ns, clean(note.strip(), NOTE))


class Keeper:
    """Makes entries of the frames of one session, in order."""

    def __init__(self, level: int = LEVEL) -> None:
        self._packer = Packer(level=level)
        self._at = 0
        self._key = 0
        self._statuses: dict[tuple[str, str], tuple[str, str]] = {}

    def keep(self, frame: Frame, body: bytes | None = None) -> Entry:
        """The next one, without levels. body: its encoding, if at hand. Raises PackError if it is
        too large."""
        packed = self._packer.pack(encode_body(frame) if body is None else body)
        at = self._at
        self._at += 1
        if packed.key:
            self._key = at
        clock = frame.clock
        return Entry(at, self._key,
                     Moment(clock.wall_ns, clock.monotonic_ns, clock.interval_ns, clock.gap_ns),
                     b"", packed.data, self._changed(frame))

    def _changed(self, frame: Frame) -> tuple[Probe, ...]:
        """Probes that are new or fare differently from the frame before."""
        now = {(p.layer, p.name): (p.status, p.reason) for p in frame.health.probes}
        if now == self._statuses:
            return ()
        before, self._statuses = self._statuses, now
        return tuple(p for p in frame.health.probes
                     if before.get((p.layer, p.name)) != (p.status, p.reason))
