"""Opening a recording that anybody may have written, or whose recorder was killed."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import stat
import struct
import tempfile
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from ktop.packing import MAX_BODY
from ktop.recording_schema import APPLICATION_ID, TABLES, VERSION, RecordingError, explain, shown

_MAGIC = b"SQLite format 3\0"
# page size, change counter, pages, user_version, application_id, change counter of the pages
_HEADER = struct.Struct("!16xH6xII28xI4xI20xI4x")
_BESIDE = ("-wal", "-journal")
_DEFENCES = ("trusted_schema=OFF", "cell_size_check=ON", "mmap_size=0", "temp_store=MEMORY",
             "busy_timeout=2000")
_UNREACHABLE = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR,
                sqlite3.SQLITE_PERM)
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)


class Opened(NamedTuple):
    """notes: lines for the user. size: of the file in bytes. copy: where it was copied to."""

    db: sqlite3.Connection
    notes: list[str]
    size: int
    copy: tempfile.TemporaryDirectory[str] | None = None


# What SQLite raises; its message about a damaged schema need not be UTF-8.
FAILURES = (sqlite3.Error, OSError, UnicodeDecodeError)


def problem(path: Path, err: Exception) -> RecordingError:
    """What went wrong with a file that was being read: one of FAILURES."""
    if not isinstance(err, (sqlite3.Error, OSError)):
        return RecordingError(f"{shown(path)}: it is damaged")
    found = explain(path, err)
    code = getattr(err, "sqlite_errorcode", None)
    if code is not None and code & 0xFF in _DAMAGED:
        return RecordingError(f"{found}: it is damaged, or cut off")
    return found


def open_recording(path: Path) -> Opened:
    """A connection for reading, whatever state the file was left in. Raises RecordingError."""
    try:
        size, notes = _identify(path)
        opened = _connect(path, size)
        return opened._replace(notes=notes + opened.notes)
    except FAILURES as err:
        raise problem(path, err) from None


def open_for_marks(path: Path) -> sqlite3.Connection:
    """A connection for writing. Raises RecordingError."""
    try:
        _identify(path)
        return _open(path, "mode=rw")
    except FAILURES as err:
        raise problem(path, err) from None


def _identify(path: Path) -> tuple[int, list[str]]:
    """Is it one of ours, by its first hundred bytes? Its size, and what is wrong with that."""
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise RecordingError(f"{shown(path)}: not a file")
    with open(path, "rb") as file:
        head = file.read(100)
    if not head:
        raise RecordingError(f"{shown(path)}: is empty")
    if len(head) < 100 or not head.startswith(_MAGIC):
        raise RecordingError(f"{shown(path)}: not a ktop recording")
    page, change, pages, version, application, valid_for = _HEADER.unpack_from(head)
    if application != APPLICATION_ID:
        raise RecordingError(f"{shown(path)}: a database, but not a ktop recording")
    if version > VERSION:
        raise RecordingError(f"{shown(path)}: a recording of version {version}; this ktop reads up "
                             f"to version {VERSION}")
    if version < 1:
        raise RecordingError(f"{shown(path)}: a recording of no known version")
    cut = change == valid_for and pages * page > found.st_size and not _size(f"{path}-wal")
    return found.st_size, ["it is cut off"] if cut else []


def _open(path: Path, how: str) -> sqlite3.Connection:
    """A connection with its defences up, to a file with our tables."""
    uri = f"file:{quote(os.fsencode(os.path.abspath(path)))}?{how}"
    db = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    db.text_factory = _text
    try:
        db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_BODY + (1 << 16))
        db.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        for defence in _DEFENCES:
            db.execute(f"PRAGMA {defence}")
        rows = db.execute("SELECT type, name, sql FROM sqlite_schema LIMIT 100").fetchall()
        if {name: sql for kind, name, sql in rows if kind == "table"} != TABLES or any(
                kind not in ("table", "index") for kind, _, _ in rows):
            raise RecordingError(f"{shown(path)}: a recording with tables that are not ktop's")
    except BaseException:
        db.close()
        raise
    return db


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")


def _connect(path: Path, size: int) -> Opened:
    """Read-only; where SQLite cannot put in order what a killed recorder left, a copy."""
    wal = _size(f"{path}-wal")
    try:
        db = _open(path, "mode=ro")
    except sqlite3.OperationalError as err:
        if getattr(err, "sqlite_errorcode", 0) & 0xFF not in _UNREACHABLE:
            raise
        if not wal and not _size(f"{path}-journal"):
            # in WAL mode, on a medium where nothing can be written beside it
            return Opened(_open(path, "mode=ro&immutable=1"), [], size)
        return _copied(path, size + wal)
    notes = []
    if wal:
        db.close()
        if tidied(path):
            notes.append("its recorder was killed: at most its last sample is missing")
        db = _open(path, "mode=ro")
    return Opened(db, notes, size + wal)


def tidied(path: Path) -> bool:
    """Make one file of what a killed recorder, or a reader that came meanwhile, has left.

    False where there is nothing to do, where it is not ours, and while a recorder lives: it holds a
    lock.
    """
    if not os.path.exists(f"{path}-wal") or os.stat(path).st_uid != os.geteuid():
        return False
    with contextlib.suppress(sqlite3.Error, RecordingError), contextlib.closing(
            _open(path, "mode=rw")) as db:
        db.execute("PRAGMA busy_timeout=0")
        db.execute("PRAGMA journal_mode=DELETE")
        return True
    return False


def _copied(path: Path, size: int) -> Opened:
    copy = tempfile.TemporaryDirectory(prefix="ktop-", ignore_cleanup_errors=True)
    try:
        target = Path(copy.name, "recording")
        for suffix in ("", *_BESIDE):
            if os.path.exists(f"{path}{suffix}"):
                shutil.copyfile(f"{path}{suffix}", f"{target}{suffix}")
        note = "its recorder was killed, and nothing can be written beside it: this is a copy"
        return Opened(_open(target, "mode=rw"), [note], size, copy)
    except BaseException:
        copy.cleanup()
        raise


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
