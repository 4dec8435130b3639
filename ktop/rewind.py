"""The last minutes of a live session, packed in memory: always there to go back to, or to save."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ktop.diagnosis.model import Report
from ktop.kept import Entry, Keeper, Mark, levelled, make_mark
from ktop.lens import Moment
from ktop.levels import Levels
from ktop.levels import decode as decode_levels
from ktop.model import Frame
from ktop.packing import GROUP, PackError, Unpacker
from ktop.wire import WireError, decode_body

BUDGET_BYTES = 64 << 20
ENTRY_BYTES = 500  # what an entry takes beside its data (measured: bench/recording.py)
DECODED = 6        # frames that stay decoded
GONE = "that sample is no longer remembered"


def find(walls: Sequence[int], wall_ns: int, ordered: bool) -> int:
    """Index of the last time of day at or before `wall_ns`, 0 when all are later.

    ordered: the clock was never set back; otherwise they are looked through one by one.
    """
    if ordered:
        return max(0, bisect_right(walls, wall_ns) - 1)
    for i in range(len(walls) - 1, -1, -1):
        if walls[i] <= wall_ns:
            return i
    return 0


class Decoded:
    """The frames decoded last."""

    def __init__(self, limit: int = DECODED) -> None:
        self._limit = limit
        self._frames: OrderedDict[int, Frame] = OrderedDict()

    def get(self, at: int) -> Frame | None:
        """The frame at a position, if it is still here."""
        found = self._frames.get(at)
        if found is not None:
            self._frames.move_to_end(at)
        return found

    def put(self, at: int, frame: Frame) -> Frame:
        """Remember one, forget the one that was not asked for longest."""
        self._frames[at] = frame
        self._frames.move_to_end(at)
        if len(self._frames) > self._limit:
            self._frames.popitem(last=False)
        return frame


class Snapshot(NamedTuple):
    """All that a ring remembers at one moment; the ring goes on. Nothing in it changes any more."""

    entries: tuple[Entry, ...]
    marks: tuple[Mark, ...]
    newest: Frame

    def save(self, path: Path, scope: str = "") -> None:
        """Write it to a new recording; may take a second: from another thread.

        Raises RecordingError.
        """
        from ktop.recording_writer import Info, Writer

        with Writer(path, Info(scope=scope)) as writer:
            writer.describe(self.newest)
            writer.put(self.entries)
            for mark in self.marks:
                writer.mark(mark.wall_ns, mark.note)


class Ring:
    """A Track (ktop.lens) over the newest frames. `budget_bytes` bounds what is kept, packed."""

    def __init__(self, budget_bytes: int = BUDGET_BYTES) -> None:
        self._budget = budget_bytes
        self._keeper = Keeper()
        self._groups: deque[list[Entry]] = deque()  # each begins with its keyframe
        self._walls = array("q")
        self._ordered = True
        self._decoded = Decoded()
        self._key: tuple[int, bytes] | None = None  # the keyframe's body used last
        self._marks: list[Mark] = []
        self._marked = 0
        self._newest: Frame | None = None
        self.first = 0
        self.end = 0
        self.bytes = 0

    def add(self, frame: Frame, body: bytes | None = None) -> int:
        """Remember one more; its position. body: its encoding (Source.bodies), if at hand.

        Raises PackError when it is larger than anything we keep.
        """
        self._settle()
        entry = self._keeper.keep(frame, body)
        if entry.key == entry.at:
            self._groups.append([])
        self._groups[-1].append(entry)
        wall = entry.moment.wall_ns
        self._ordered = self._ordered and (not self._walls or self._walls[-1] <= wall)
        self._walls.append(wall)
        self.bytes += _cost(entry)
        self.end = entry.at + 1
        self._newest = self._decoded.put(entry.at, frame)
        while self.bytes > self._budget and len(self._groups) > 1:
            self._forget()
        return entry.at

    def _forget(self) -> None:
        """The oldest group: what is packed against a keyframe goes with it."""
        gone = self._groups.popleft()
        self.first = self._groups[0][0].at
        self.bytes -= sum(map(_cost, gone))
        del self._walls[:len(gone)]

    def _entry(self, at: int) -> Entry:
        if not self.first <= at < self.end:
            raise LookupError(GONE)
        group, offset = divmod(at - self.first, GROUP)
        return self._groups[group][offset]

    def frame(self, at: int) -> Frame:
        """The frame at a position; the same object while it is among those decoded last."""
        entry = self._entry(at)
        found = self._decoded.get(at)
        if found is not None:
            return found
        try:
            return self._decoded.put(at, decode_body(self._body(entry)))
        except (PackError, WireError) as err:
            raise LookupError(f"that sample cannot be read: {err}") from None

    def _body(self, entry: Entry) -> bytes:
        if self._key is None or self._key[0] != entry.key:
            self._key = (entry.key, Unpacker().unpack(self._entry(entry.key).data))
        if entry.at == entry.key:
            return self._key[1]
        return Unpacker(self._key[1]).unpack(entry.data)

    def judge(self, report: Report) -> None:
        """What the diagnosis made of the newest frame, a moment after it was added."""
        if self._newest is not None:
            group = self._groups[-1]
            group[-1] = levelled(group[-1], self._newest, report)

    def _settle(self) -> None:
        """The newest frame has its levels; from itself, if nobody judged it. Worked out once."""
        if self._newest is not None and not self._groups[-1][-1].levels:
            group = self._groups[-1]
            group[-1] = levelled(group[-1], self._newest, None)

    def moment(self, at: int) -> Moment:
        """When that was."""
        return self._entry(at).moment

    def find(self, wall_ns: int) -> int:
        """The last position at or before a time of day."""
        return self.first + find(self._walls, wall_ns, self._ordered)

    def levels(self, begin: int, end: int) -> list[Levels | None]:
        """Of the positions begin to end - 1; None where there is no frame (any more)."""
        self._settle()
        return [decode_levels(self._entry(at).levels) if self.first <= at < self.end else None
                for at in range(begin, end)]

    # -- marks ---------------------------------------------------------------------------------

    def marks(self) -> list[Mark]:
        """In order of time."""
        return sorted(self._marks, key=lambda mark: mark.wall_ns)

    def mark(self, wall_ns: int, note: str = "") -> Mark:
        """Note something about a time of day."""
        self._marked += 1
        self._marks.append(make_mark(self._marked, wall_ns, note))
        return self._marks[-1]

    def unmark(self, number: int) -> bool:
        """Take a mark away; False when there is none of that number."""
        before = len(self._marks)
        self._marks = [mark for mark in self._marks if mark.id != number]
        return len(self._marks) < before

    # -- to a file -----------------------------------------------------------------------------

    def snapshot(self) -> Snapshot | None:
        """What is remembered now, to be saved by another thread; None when nothing is."""
        if self._newest is None:
            return None
        self._settle()
        return Snapshot(tuple(entry for group in self._groups for entry in group),
                        tuple(self.marks()), self._newest)


def _cost(entry: Entry) -> int:
    return len(entry.data) + ENTRY_BYTES
