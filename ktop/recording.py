"""Reading a recording: a Track (ktop.lens) over a file that anybody may have written.

Nothing in the file is believed. It is one of ours by its header and its statements, read with
SQLite's defences on, bounded in size, and only from the tables we know. What is damaged in it costs
the frames it hits: the others are shown.
"""

from __future__ import annotations

import contextlib
import sqlite3
from array import array
from collections.abc import Iterable
from operator import le
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from ktop.border import harmless
from ktop.kept import NOTE, Mark
from ktop.lens import Moment
from ktop.levels import Levels
from ktop.levels import decode as decode_levels
from ktop.model import Frame
from ktop.packing import GROUP, PackError, Unpacker
from ktop.recording_open import FAILURES, open_for_marks, open_recording, problem, tidied
from ktop.recording_schema import DiskFull, FrameError, RecordingError, default_name, shown
from ktop.recording_writer import Info, Writer, insert_mark
from ktop.rewind import Decoded, find
from ktop.text import clean
from ktop.wire import WireError, decode_body

__all__ = ["DiskFull", "FrameError", "Info", "Mark", "ProbeChange", "Recording", "RecordingError",
           "Spell", "Writer", "default_name"]

_ROW_BYTES = 12      # the least that a row takes: bounds how many a file can have
_TEXT = 4096         # characters of a text in a small table
_MOMENTS = ("SELECT position, wall_ns, monotonic_ns, interval_ns, gap_ns, key FROM frames "
            "WHERE position >= ? ORDER BY position")
_UNKNOWN = -1        # interval_ns is None; no key
_JUMP = 2000         # more positions than one damaged page of the table takes
_MARKS = 10_000
_CHANGES = 100_000

Row = tuple[Any, ...]


class ProbeChange(NamedTuple):
    """From here on a probe fared like this; fields as in ktop.model.Probe."""

    position: int
    wall_ns: int
    layer: str
    name: str
    status: str
    reason: str


class Spell(NamedTuple):
    """A verdict of the diagnosis while it was recorded. until_ns None: it held to the end."""

    wall_ns: int
    until_ns: int | None
    pipe: str
    state: str
    line: str


class Recording:
    """A recording, open. `first` and `end` are positions of its frames.

    about: what it says of itself, by name (hostname, kernel, scope, redacted, ktop...). notes:
    lines for the user about the state it was found in. All methods raise RecordingError; `frame`
    and `moment` FrameError, which is a LookupError too.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._db, self.notes, size, self._copy = open_recording(self.path)
        self._most = size // _ROW_BYTES
        self.first = self.end = 0
        self._columns: list[array[int]] = [array("q") for _ in range(5)]  # _MOMENTS, no position
        self._ordered = True
        self._decoded = Decoded()
        self._key: tuple[int, bytes] | None = None  # the keyframe's body used last
        try:
            self.about = {name: value[0] for name, *value in self._texts(
                "SELECT name, value FROM meta LIMIT 100")}
            self._load()
            if not self.end:
                raise RecordingError(f"{shown(self.path)}: holds no sample")
        except BaseException as err:
            self.close()
            if isinstance(err, FAILURES):
                raise problem(self.path, err) from None
            raise

    # -- loading -------------------------------------------------------------------------------

    def _load(self) -> None:
        """When each frame was. What cannot be read in the middle is missing there."""
        rows, broken = self._rows(_MOMENTS, 0)
        if broken is not None:
            known = {row[0] for row in rows}
            tail, _ = self._rows(f"{_MOMENTS} DESC", 0)
            rows += [row for row in reversed(tail) if row[0] not in known]
            if not rows:
                raise broken
            self.notes.append("it is damaged")
        self._take(rows)

    def refresh(self) -> int:
        """Notice frames that a recorder has added since; how many."""
        before = self.end
        rows, broken = self._rows(_MOMENTS, before)
        if broken is not None:
            raise problem(self.path, broken)
        self._take(rows)
        return self.end - before

    def _rows(self, query: str, begin: int) -> tuple[list[Row], sqlite3.Error | None]:
        """Rows until they end, or the error that ended them."""
        rows: list[Row] = []
        try:
            rows.extend(self._db.execute(f"{query} LIMIT ?", (begin, self._most)))
        except sqlite3.Error as err:
            return rows, err
        return rows, None

    def _take(self, rows: list[Row]) -> None:
        """Append what follows what is known."""
        if not rows:
            return
        if not self.end:
            self.first = self.end = rows[0][0]
        positions, *columns = zip(*rows, strict=True)
        if positions != tuple(range(self.end, self.end + len(rows))):
            rows = self._filled(rows)
            columns = list(zip(*rows, strict=True))[1:]
        columns[2] = tuple(_UNKNOWN if value is None else value for value in columns[2])
        try:
            for kept, column in zip(self._columns, columns, strict=True):
                kept.extend(array("q", column))
        except (TypeError, OverflowError):
            raise RecordingError(f"{shown(self.path)}: table frames is damaged") from None
        self.end += len(rows)
        walls = self._columns[0]
        self._ordered = all(map(le, walls, walls[1:]))

    def _filled(self, rows: list[Row]) -> list[Row]:
        """Rows for every position: a missing one has the moment of the one before, and no frame.

        Where the table is damaged positions jump: rows that are out of order are missing too.
        """
        found: list[Row] = []
        at, real = self.end, 0
        for row in rows:
            if not 0 <= row[0] - at <= _JUMP:
                continue
            before = found[-1] if found else row
            found += [(i, *before[1:3], None, 0, _UNKNOWN) for i in range(at, row[0])]
            found.append(row)
            at, real = row[0] + 1, real + 1
            if len(found) > 2 * len(rows) + _JUMP:
                break
        if real < len(rows) / 2:
            raise RecordingError(f"{shown(self.path)}: table frames is damaged")
        missing = len(found) - real or len(rows) - real
        self.notes.append("1 sample is missing" if missing == 1
                          else f"{missing} samples are missing")
        return found

    # -- the track -----------------------------------------------------------------------------

    def _index(self, at: int) -> int:
        if not self.first <= at < self.end:
            raise FrameError(f"there is no sample {at}")
        return at - self.first

    def frame(self, at: int) -> Frame:
        """The frame at a position; the same object while it is among those decoded last."""
        key = self._columns[4][self._index(at)]
        found = self._decoded.get(at)
        if found is not None:
            return found
        try:
            return self._decoded.put(at, harmless(decode_body(self._body(at, key))))
        except (PackError, WireError, MemoryError) as err:
            raise FrameError(f"sample {at} cannot be read: {clean(str(err), 200)}") from None

    def _body(self, at: int, key: int) -> bytes:
        if not at - GROUP < key <= at:
            raise PackError("it is missing")
        if self._key is None or self._key[0] != key:
            self._key = None
            self._key = (key, Unpacker().unpack(self._blob(key)))
        return self._key[1] if at == key else Unpacker(self._key[1]).unpack(self._blob(at))

    def _blob(self, at: int) -> bytes:
        try:
            row = self._db.execute("SELECT data FROM blobs WHERE position=?", (at,)).fetchone()
        except sqlite3.Error as err:
            raise PackError(str(err)) from None
        if row is None or not isinstance(row[0], bytes):
            raise PackError("it is missing")
        return row[0]

    def moment(self, at: int) -> Moment:
        """When that was, without decoding it."""
        index = self._index(at)
        wall, monotonic, interval, gap = (column[index] for column in self._columns[:4])
        return Moment(wall, monotonic, None if interval == _UNKNOWN else interval, gap)

    def find(self, wall_ns: int) -> int:
        """The last position at or before a time of day; `first` when all are later."""
        return self.first + find(self._columns[0], wall_ns, self._ordered)

    def levels(self, begin: int, end: int) -> list[Levels | None]:
        """Of the positions begin to end - 1; None where there is no frame, or it is damaged."""
        found: list[Levels | None] = [None] * max(0, end - begin)
        with contextlib.suppress(sqlite3.Error):
            for at, data in self._db.execute(
                    "SELECT position, levels FROM frames WHERE position >= ? AND position < ? "
                    "LIMIT ?", (begin, end, len(found))):
                if isinstance(data, bytes):
                    found[at - begin] = decode_levels(data)
        return found

    # -- small tables --------------------------------------------------------------------------

    def _texts(self, query: str) -> Iterable[list[Any]]:
        """Rows with their texts made harmless."""
        for row in self._db.execute(query):
            yield [value if isinstance(value, int) else clean(str(value), _TEXT) for value in row]

    def marks(self) -> list[Mark]:
        """In order of time, as they are in the file now."""
        try:
            found = [Mark(number, wall, clean(note, NOTE)) for number, wall, note in self._texts(
                f"SELECT id, wall_ns, note FROM marks LIMIT {_MARKS}") if isinstance(wall, int)]
        except sqlite3.Error as err:
            raise problem(self.path, err) from None
        return sorted(found, key=lambda mark: mark.wall_ns)

    def mark(self, wall_ns: int, note: str = "") -> Mark:
        """Note something about a time of day, in the file, also while it is being recorded."""
        with contextlib.closing(self._writable()) as db:
            try:
                return insert_mark(db, wall_ns, note)
            except sqlite3.Error as err:
                raise self._refused(err) from None

    def unmark(self, number: int) -> bool:
        """Take a mark away; False when there is none of that number."""
        with contextlib.closing(self._writable()) as db:
            try:
                return db.execute("DELETE FROM marks WHERE id=?", (number,)).rowcount > 0
            except sqlite3.Error as err:
                raise self._refused(err) from None

    def _writable(self) -> sqlite3.Connection:
        if self._copy is not None:
            raise RecordingError(f"{shown(self.path)}: cannot be written to: no mark is kept")
        return open_for_marks(self.path)

    def _refused(self, err: sqlite3.Error) -> RecordingError:
        if getattr(err, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_READONLY:
            return RecordingError(f"{shown(self.path)}: cannot be written to: no mark is kept")
        return problem(self.path, err)

    def probes(self) -> list[ProbeChange]:
        """How probes fared, and when that changed; in order of time."""
        try:
            rows = self._texts("SELECT position, wall_ns, layer, name, status, reason FROM probes "
                               f"ORDER BY rowid LIMIT {_CHANGES}")
            return [ProbeChange(*row) for row in rows
                    if isinstance(row[0], int) and isinstance(row[1], int)]
        except sqlite3.Error as err:
            raise problem(self.path, err) from None

    def verdicts(self) -> list[Spell]:
        """What was said to be the narrowest pipe, and when, while it was recorded; in order."""
        try:
            rows = self._texts("SELECT wall_ns, ifnull(until_ns, -1), pipe, state, line "
                               f"FROM verdicts ORDER BY id LIMIT {_CHANGES}")
            return [Spell(wall, None if until == -1 else until, str(pipe), str(state), str(line))
                    for wall, until, pipe, state, line in rows
                    if isinstance(wall, int) and isinstance(until, int)]
        except sqlite3.Error as err:
            raise problem(self.path, err) from None

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()
        if self._copy is not None:
            self._copy.cleanup()
        else:
            with contextlib.suppress(OSError):
                tidied(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()
