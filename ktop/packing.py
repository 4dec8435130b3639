"""Frames as few bytes: zstandard over their msgpack bodies, each against the keyframe before it.

Neighbouring frames are nearly alike, so the first of every GROUP serves as a raw-content dictionary
for those after it: any frame is read with its keyframe and itself. Level and group are measured
(bench/recording.py): on 300 processes under load, level 6 saves 8% for 2.5 times the CPU time,
longer groups nothing, and a chain (each frame against the one before) a tenth.

Where the bytes are (320 processes under the load of bench/recording.py, 45 KB a frame; each left
out in turn): files 62% (files 18%, their use by process 13%, opens 6%, folded opens 6%), processes
30% (run queue histograms 8%, cpu_pct, runq_wait_pct and off_cpu_pct 3% each), TCP 4%, block 2%.

Tried and left out. Generic, on the recorded session: rates as whole deltas wherever that is exact
to the bit (9% smaller, for 2.5 ms a frame), columns instead of rows (nothing), level 19 (5%), a
group as one stream (7%, at level 19 12%, by xz 19%); without a single float it would be 44%
smaller. By what the tables mean, on that load, each on top of those before: operations on files as
counts (1.14x), a file's as those of its only user (1.05x), sums of run queue histograms from their
buckets (1.01x), times of tasks as ns of their own interval (1.08x), time off CPU as what remains
(1.02x), windows as when they began and rates a minute from them (1.04x), times of events as
differences (1.01x), rows by identity (0.98x), events as columns (1.00x). All that gains is 1.4x,
with a chain and level 12 1.5x, for eight recipes which know every table, are to be exact for ever,
and make each frame a walk through its group.

Reading believes nothing: the size a blob claims is checked before memory is taken for it, zstandard
stops at that size, and its checksum tells a damaged blob.
"""

from __future__ import annotations

from typing import NamedTuple

import zstandard

GROUP = 16
LEVEL = 3       # in memory, where the UI packs
FILE_LEVEL = 6  # in a file, which is written by a process or a thread of its own
# A frame of 60,000 processes. What hostile msgpack makes of a body is up to 50 times its size.
MAX_BODY = 16 << 20
_WINDOW_MAX = 64 << 20


class PackError(Exception):
    """A blob that cannot be read, or a body that is too large to pack. One line."""


class Packed(NamedTuple):
    """A packed frame. key: it stands for itself; otherwise the last key before it is needed."""

    key: bool
    data: bytes


def _dictionary(key: bytes) -> zstandard.ZstdCompressionDict:
    return zstandard.ZstdCompressionDict(key, dict_type=zstandard.DICT_TYPE_RAWCONTENT)


class Packer:
    """Packs the bodies of one session, in order."""

    def __init__(self, group: int = GROUP, level: int = LEVEL) -> None:
        self._group, self._level = group, level
        self._alone = zstandard.ZstdCompressor(level=level, write_checksum=True)
        self._against = self._alone
        self._left = 0

    def pack(self, body: bytes) -> Packed:
        """One more frame's body (ktop.wire.encode_body)."""
        if len(body) > MAX_BODY:
            raise PackError(f"a frame of {len(body) >> 20} MB: at most {MAX_BODY >> 20}")
        if self._left:
            self._left -= 1
            return Packed(False, self._against.compress(body))
        self._left = self._group - 1
        self._against = zstandard.ZstdCompressor(
            level=self._level, write_checksum=True, dict_data=_dictionary(body))
        return Packed(True, self._alone.compress(body))


def body_size(data: bytes) -> int:
    """What a blob says its body takes. Raises PackError when that is too much, or not said."""
    try:
        found = zstandard.get_frame_parameters(data)
    except zstandard.ZstdError:
        raise PackError("it is not packed as ktop packs") from None
    if not 0 < found.content_size <= MAX_BODY:  # unknown is 2^64 - 1
        raise PackError("it claims to be larger than a frame can be")
    return found.content_size


class Unpacker:
    """Reads blobs against one keyframe, or keyframes themselves."""

    def __init__(self, key: bytes | None = None) -> None:
        """key: the body of the keyframe; None to read a keyframe."""
        if key is None:
            self._zstd = zstandard.ZstdDecompressor(max_window_size=_WINDOW_MAX)
        else:
            self._zstd = zstandard.ZstdDecompressor(dict_data=_dictionary(key),
                                                    max_window_size=_WINDOW_MAX)

    def unpack(self, data: bytes) -> bytes:
        """The body. Raises PackError on a blob that is damaged, or is a bomb."""
        body_size(data)
        try:
            return self._zstd.decompress(data, allow_extra_data=False)
        except (zstandard.ZstdError, MemoryError):
            raise PackError("it is damaged") from None
