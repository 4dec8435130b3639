"""Writing a recording: valid at every instant, one file when closed.

SQLite in WAL mode, one transaction a frame: whoever kills the writer loses the frame under way at
most. synchronous=NORMAL: a power failure can also lose what the system had not yet written back
(about half a minute), and leaves a file that opens. A full disk leaves room to close: space for the
main file is reserved before it is needed.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from ktop import __version__
from ktop.diagnosis.model import PIPES, Report, Verdict
from ktop.kept import Entry, Keeper, Mark, levelled, make_mark
from ktop.model import SCHEMA, Frame
from ktop.packing import FILE_LEVEL, GROUP, PackError
from ktop.recording_schema import (
    APPLICATION_ID,
    PAGE_SIZE,
    TABLES,
    VERSION,
    DiskFull,
    RecordingError,
    explain,
    shown,
)
from ktop.text import clean
from ktop.wire import WireError

CHECKPOINT_PAGES = 500        # the WAL grows to so much, and with it what a checkpoint writes
RESERVE_BYTES = 1 << 20       # reserved at once
_MARGIN_BYTES = 64 << 10      # tables beside the blobs
_BUSY_S = 5.0                 # a reader adding a mark
_BULK = 256                   # frames a transaction when many are written at once
LINE = 500                    # characters of a verdict's text
_KEEP_SIZE = 1                # FALLOC_FL_KEEP_SIZE


@dataclass
class Info:
    """What a recording says about itself. scope: in words, empty for the host."""

    scope: str = ""
    redacted: bool = False
    more: dict[str, str] = field(default_factory=dict)


def create(path: Path) -> int:
    """A new private file, never one that was there, never through a link. Its descriptor."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o600)
    except FileExistsError:
        raise RecordingError(f"{shown(path)}: is already there; ktop never overwrites") from None
    except OSError as err:
        raise explain(path, err) from None


class Writer:
    """A recording being made. One thread at a time. Every method raises RecordingError.

    frames: written so far. step: by how many bytes a frame may make the file grow, as seen so far.
    """

    def __init__(self, path: Path | str, info: Info | None = None) -> None:
        self.path = Path(path)
        self.frames = 0
        self.step = 0
        self._verdict: tuple[str, str | None, str] | None = None
        self._keeper = Keeper(FILE_LEVEL)
        self._described = False
        self._closed = False
        for suffix in ("-wal", "-shm", "-journal"):  # a dead recording's must not become ours
            if os.path.lexists(f"{self.path}{suffix}") and not os.path.lexists(self.path):
                raise RecordingError(f"{shown(self.path)}{suffix}: is in the way")
        # Held until SQLite is done: closing any descriptor of the file drops SQLite's locks.
        self._fd = create(self.path)
        try:
            self._db = self._open(info or Info())
        except (sqlite3.Error, OSError) as err:
            os.close(self._fd)
            self.path.unlink(missing_ok=True)
            raise explain(self.path, err) from None

    def _open(self, info: Info) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=_BUSY_S, isolation_level=None,
                             check_same_thread=False)
        try:
            ours, now = os.fstat(self._fd), os.stat(self.path, follow_symlinks=False)
            if (ours.st_dev, ours.st_ino) != (now.st_dev, now.st_ino):
                raise OSError(errno.EEXIST, "was replaced by another file")
            db.execute(f"PRAGMA page_size={PAGE_SIZE}")
            db.execute("BEGIN IMMEDIATE")
            db.execute(f"PRAGMA application_id={APPLICATION_ID}")
            db.execute(f"PRAGMA user_version={VERSION}")
            for statement in TABLES.values():
                db.execute(statement)
            said = {"ktop": __version__, "frame_schema": str(SCHEMA), "scope": info.scope,
                    "redacted": "yes" if info.redacted else "no", **info.more}
            db.executemany("INSERT INTO meta VALUES(?, ?)", said.items())
            db.execute("COMMIT")
            # Not before the tables are in the main file: it says what it is from its first instant.
            db.execute("PRAGMA journal_mode=WAL")
            # From the first look on the lock is held that tells readers that somebody writes.
            db.execute("SELECT count(*) FROM meta").fetchone()
            db.execute("PRAGMA synchronous=NORMAL")
            db.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
        except BaseException:
            db.close()
            raise
        return db

    # -- frames --------------------------------------------------------------------------------

    def describe(self, frame: Frame) -> None:
        """The host, from one of its frames. `add` does it by itself."""
        self._described = True
        host = frame.host
        said = {"hostname": host.hostname, "kernel": host.kernel, "machine": host.machine,
                "cpus": str(host.cpus), "boot_wall_ns": str(host.boot_wall_ns),
                "source": frame.health.source}
        with self._transaction():
            self._db.executemany("INSERT OR REPLACE INTO meta VALUES(?, ?)", said.items())

    def add(self, frame: Frame, body: bytes | None = None, report: Report | None = None) -> int:
        """One more frame, safe when this returns; its position. body: its encoding, report: its
        diagnosis, if at hand."""
        if not self._described:
            self.describe(frame)
        try:
            entry = levelled(self._keeper.keep(frame, body), frame, report)
        except (PackError, WireError) as err:
            raise RecordingError(f"{shown(self.path)}: {err}") from None
        self.step = max(self.step, len(entry.data) + 2 * PAGE_SIZE)
        self._reserve(len(entry.data))
        with self._transaction():
            self._insert([entry], 0)
            if report is not None:
                self._judge(frame.clock.wall_ns, report.verdict)
        return entry.at

    def _judge(self, wall_ns: int, verdict: Verdict) -> None:
        """A row for each verdict that names a pipe, from when to when it held."""
        now = (verdict.pipe, verdict.resource, verdict.state) if verdict.pipe in PIPES else None
        if now == self._verdict:
            return
        self._verdict = now
        self._db.execute("UPDATE verdicts SET until_ns = ? WHERE until_ns IS NULL", (wall_ns,))
        if now is not None:
            self._db.execute("INSERT INTO verdicts(wall_ns, pipe, state, line) VALUES(?, ?, ?, ?)",
                             (wall_ns, verdict.pipe, verdict.state, clean(verdict.text, LINE)))

    def put(self, entries: Iterable[Entry]) -> None:
        """All frames of a ring, oldest first, into a recording that has none."""
        entries = list(entries)
        if self.frames or not entries:
            return
        for begin in range(0, len(entries), _BULK):
            part = entries[begin:begin + _BULK]
            self._reserve(sum(len(entry.data) for entry in part))
            with self._transaction():
                self._insert(part, entries[0].at)

    def _insert(self, entries: list[Entry], origin: int) -> None:
        """Rows of entries whose positions begin at `origin`."""
        self._db.executemany("INSERT INTO frames VALUES(?, ?, ?, ?, ?, ?, ?)", (
            (e.at - origin, *e.moment, e.key - origin, e.levels) for e in entries))
        self._db.executemany("INSERT INTO blobs VALUES(?, ?)",
                             ((e.at - origin, e.data) for e in entries))
        self._db.executemany("INSERT INTO probes VALUES(?, ?, ?, ?, ?, ?)", (
            (e.at - origin, e.moment.wall_ns, p.layer, p.name, p.status, p.reason)
            for e in entries for p in e.probes))
        self.frames += len(entries)

    # -- size ----------------------------------------------------------------------------------

    def _pragma(self, name: str) -> int:
        return int(self._db.execute(f"PRAGMA {name}").fetchone()[0])

    @property
    def size(self) -> int:
        """Bytes in use in the file, free pages apart; the WAL's are counted once."""
        return (self._pragma("page_count") - self._pragma("freelist_count")) * PAGE_SIZE

    def trim(self, max_bytes: int | None, keep_ns: int | None) -> None:
        """Forget the oldest groups of frames beyond a size or an age; their room is used again."""
        ask = self._db.execute
        try:
            while True:
                newest = ask("SELECT key, wall_ns FROM frames ORDER BY position DESC LIMIT 1"
                             ).fetchone()
                oldest = ask("SELECT key FROM frames ORDER BY position LIMIT 1").fetchone()
                if newest is None or newest[0] == oldest[0]:
                    return
                last, wall = ask(
                    "SELECT max(position), wall_ns FROM frames WHERE position BETWEEN ? AND ? "
                    "AND key = ?", (oldest[0], oldest[0] + GROUP - 1, oldest[0])).fetchone()
                large = max_bytes is not None and self.size > max_bytes
                if not large and (keep_ns is None or newest[1] - wall <= keep_ns):
                    return
                with self._transaction():
                    for table in ("frames", "blobs"):
                        ask(f"DELETE FROM {table} WHERE position <= ?", (last,))
        except sqlite3.Error as err:
            raise explain(self.path, err) from None

    def _reserve(self, size: int) -> None:
        """Blocks for the main file before anything goes into the WAL: closing needs them."""
        need = self._pragma("page_count") * PAGE_SIZE + size + _MARGIN_BYTES
        if os.fstat(self._fd).st_blocks * 512 >= need:
            return
        if not _allocate(self._fd, need + RESERVE_BYTES):
            raise DiskFull(f"{shown(self.path)}: no space left on the disk")

    # -- the rest ------------------------------------------------------------------------------

    def mark(self, wall_ns: int, note: str = "") -> Mark:
        """Note something about a time of day."""
        with self._transaction():
            return insert_mark(self._db, wall_ns, note)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """All of it or nothing."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
        except sqlite3.Error as err:
            if self._db.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
            raise explain(self.path, err) from None

    def close(self, ended: str = "") -> None:
        """Make it one file. ended: why, for whoever reads it. Twice does no harm.

        Raises RecordingError when it stays in parts (FILE and FILE-wal): it opens like that too.
        """
        if self._closed:
            return
        self._closed = True
        try:
            try:
                self._say_ended(ended)
                # Refused while a reader has it open; then the last one to go leaves one file.
                with contextlib.suppress(sqlite3.OperationalError):
                    self._db.execute("PRAGMA busy_timeout=200")
                    self._db.execute("PRAGMA journal_mode=DELETE")
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            finally:
                self._db.close()
        except sqlite3.Error as err:
            raise explain(self.path, err) from None
        finally:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, os.fstat(self._fd).st_size)  # what was reserved
            os.close(self._fd)

    def discard(self) -> None:
        """After `close`: take away a file that holds nothing."""
        with contextlib.suppress(OSError):
            os.unlink(self.path)

    def _say_ended(self, ended: str) -> None:
        """On a full disk this too may fail, and does no harm."""
        with contextlib.suppress(sqlite3.Error), self._db:
            self._db.execute("INSERT OR REPLACE INTO meta VALUES('ended', ?)", (ended or "yes",))

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None,
                 trace: TracebackType | None) -> None:
        try:
            self.close()
        except RecordingError:
            if err is None:
                raise


def insert_mark(db: sqlite3.Connection, wall_ns: int, note: str) -> Mark:
    """Into the table of a recording, in the transaction under way."""
    mark = make_mark(0, wall_ns, note)
    number = db.execute("INSERT INTO marks(wall_ns, note) VALUES(?, ?)",
                        (mark.wall_ns, mark.note)).lastrowid
    return mark._replace(id=number or 0)


def _allocate(fd: int, size: int) -> bool:
    """Blocks up to `size` without a change of the file's size. False: the disk is full.

    Where a filesystem cannot do that, a full disk is noticed when it is written to.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fallocate(fd, _KEEP_SIZE, ctypes.c_long(0), ctypes.c_long(size)) == 0:
        return True
    return ctypes.get_errno() not in (errno.ENOSPC, errno.EDQUOT)
