"""What a recording is: one SQLite file, its tables, its version, its errors.

A file of a newer version is refused; older ones will be read by their own list of statements.
Writer and reader compare the statements of sqlite_schema with these, letter by letter: a table that
is a view, or has a trigger, is not one of ours.
"""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ktop.text import clean

if TYPE_CHECKING:  # the live UI knows the errors, but opens no recording
    import sqlite3

APPLICATION_ID = 0x6B746F70  # "ktop"
VERSION = 1
PAGE_SIZE = 4096
_SQLITE_FULL = 13  # https://www.sqlite.org/rescode.html#full
# position: from 0, one for each frame. key: position of the keyframe it is packed against.
# Times in ns as in ktop.model.Clock. levels: ktop.levels.encode. blobs.data: ktop.packing.
# Frames are two tables so that 86,400 of them are known without a look at their blobs.
TABLES = {
    "meta": "CREATE TABLE meta(name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    "frames": "CREATE TABLE frames(position INTEGER PRIMARY KEY, wall_ns INTEGER NOT NULL, "
              "monotonic_ns INTEGER NOT NULL, interval_ns INTEGER, gap_ns INTEGER NOT NULL, "
              "key INTEGER NOT NULL, levels BLOB NOT NULL)",
    "blobs": "CREATE TABLE blobs(position INTEGER PRIMARY KEY, data BLOB NOT NULL)",
    "marks": "CREATE TABLE marks(id INTEGER PRIMARY KEY, wall_ns INTEGER NOT NULL, "
             "note TEXT NOT NULL)",
    # of the diagnosis: from when to when (NULL: not over) which pipe was in which state
    "verdicts": "CREATE TABLE verdicts(id INTEGER PRIMARY KEY, wall_ns INTEGER NOT NULL, "
                "until_ns INTEGER, pipe TEXT NOT NULL, state TEXT NOT NULL, line TEXT NOT NULL)",
    # each change of a probe's status
    "probes": "CREATE TABLE probes(position INTEGER NOT NULL, wall_ns INTEGER NOT NULL, "
              "layer TEXT NOT NULL, name TEXT NOT NULL, status TEXT NOT NULL, "
              "reason TEXT NOT NULL)",
}


class RecordingError(Exception):
    """One line: what is wrong, and where."""


class FrameError(RecordingError, LookupError):
    """One frame of a recording cannot be had; its neighbours can."""


class DiskFull(RecordingError):
    """No room for more; what was written before is whole."""


def default_name(hostname: str, wall_ns: int) -> str:
    """ktop-HOST-YYYYmmdd-HHMMSS.ktop, in local time."""
    host = "".join(c if c.isalnum() or c in "-_." else "_" for c in hostname)[:64] or "host"
    return f"ktop-{host}-{time.strftime('%Y%m%d-%H%M%S', time.localtime(wall_ns // 10**9))}.ktop"


def shown(path: Path) -> str:
    """A path in a message."""
    return clean(os.fsencode(path), 200)


def explain(path: Path, err: sqlite3.Error | OSError) -> RecordingError:
    """What SQLite or the system says, as one line."""
    if isinstance(err, OSError):
        if err.errno in (errno.ENOSPC, errno.EDQUOT):
            return DiskFull(f"{shown(path)}: {err.strerror}")
        return RecordingError(f"{shown(path)}: {err.strerror or err}")
    code = getattr(err, "sqlite_errorcode", None)
    if code is not None and code & 0xFF == _SQLITE_FULL:
        return DiskFull(f"{shown(path)}: no space left on the disk")
    return RecordingError(f"{shown(path)}: {clean(str(err), 200)}")
