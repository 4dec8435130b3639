"""Files layer: open descriptors of every process, how they grow, and how far the limit is."""

from __future__ import annotations

import os
import resource
from collections import deque
from collections.abc import Iterable
from heapq import nlargest
from itertools import pairwise
from operator import itemgetter
from typing import NamedTuple

from ktop.bpf.files_layer import FD_WORDS, FDS_STRUCT
from ktop.model import Process
from ktop.model_files import Descriptors
from ktop.text import comm

SECOND = 1_000_000_000
EVERY_NS = 1 * SECOND
_MANY = 2000  # processes from which every second sample is enough: 2 us each
WINDOW_NS = 300 * SECOND
GROWTH_NS, STEADY_NS = 5 * SECOND, 15 * SECOND  # from which growth, or a leak, is spoken of
_WINDOWS = (WINDOW_NS, 60 * SECOND, 20 * SECOND)
_YOUNG_NS = 2 * SECOND  # while it starts a process closes what it opens, and leaks nothing yet
_MOVES = 6              # so often it went up, at the least, in a longer window
_QUIET_NS = 5 * SECOND  # without growth: it has stopped
_STEPS = 4              # so many steps up in a row, and even ones, are a leak before STEADY_NS
_UNEVEN = 2             # a step of more than twice the mean (and one) is a burst
_INFINITY = (1 << 64) - 1
_CHANGES = 128  # of one process remembered; beyond it every second one goes
_LISTED = 500   # processes whose descriptors are counted by listing them, where there is no BPF


class FdRecord(NamedTuple):
    """struct fs_fds. jiffies: of the kernel, at now_ns."""

    tgid: int
    fds: int
    max_fds: int
    pad: int
    limit: int
    start_boottime_ns: int
    cgroup: int
    now_ns: int
    jiffies: int
    comm: bytes


class Track:
    """The count of one process over the window, as the moments at which it changed.

    fell_ns: when it last went down, None for never (its first moments apart). recent: the last
    samples, changed or not.
    """

    __slots__ = ("changes", "fell_ns", "first_ns", "recent")

    def __init__(self, now: int, count: int) -> None:
        self.first_ns = now
        self.changes = [(now, count)]
        self.fell_ns: int | None = None
        self.recent: deque[tuple[int, int]] = deque([(now, count)], _STEPS + 2)

    def add(self, now: int, count: int) -> None:
        """One more sample."""
        if count < self.changes[-1][1]:
            if now - self.first_ns > _YOUNG_NS:
                self.fell_ns = now
            self.recent.clear()
        self.recent.append((now, count))
        if self.changes[-1][1] == count:
            return
        self.changes.append((now, count))
        oldest = now - WINDOW_NS
        while len(self.changes) > 1 and self.changes[1][0] <= oldest:
            del self.changes[0]
        if len(self.changes) > _CHANGES:
            del self.changes[1:-1:2]

    def at(self, when: int) -> int:
        """The count at that time."""
        found = self.changes[0][1]
        for time_ns, count in self.changes:
            if time_ns > when:
                break
            found = count
        return found

    def growth(self, now: int) -> tuple[float | None, int, bool]:
        """(per minute, over how many ns, steady); see model_files.Descriptors.

        Steady in all that is known of it; or, where it has never gone down, lately: a process
        that has run for hours may begin to leak.
        """
        known = min(WINDOW_NS, now - self.first_ns)
        if len(self.changes) == 1:  # as of nearly all
            return (None if known < GROWTH_NS else 0.0), known, False
        falling = self.fell_ns is not None and now - self.fell_ns < WINDOW_NS
        for window in dict.fromkeys(min(known, w) for w in _WINDOWS):
            if self._rises(now, window):
                return self._per_min(now, window), window, True
            if falling:
                break
        if not falling and (window := self._steps()):
            return self._per_min(now, window), window, True
        return (None if known < GROWTH_NS else self._per_min(now, known)), known, False

    def _per_min(self, now: int, window: int) -> float:
        return (self.changes[-1][1] - self.at(now - window)) * 60 * SECOND / window

    def _rises(self, now: int, window: int) -> bool:
        """Whether it went up in each third of a window, and is at its most now."""
        pace = window // len(self.changes)  # a leak that has stopped is none
        if (window < STEADY_NS or len(self.changes) == 1
                or now - self.changes[-1][0] > max(_QUIET_NS, 2 * pace)):
            return False
        a, b, c, d = (self.at(now - window + window * i // 3) for i in range(4))
        after = [count for time_ns, count in self.changes if time_ns > now - window]
        if not a < b < c < d or d < max(after) or len(after) < _MOVES:
            return False
        # Lately begun, or a start that ebbs away?
        return window >= _WINDOWS[1] or max(b - a, c - b, d - c) <= (
            _UNEVEN * min(b - a, c - b, d - c) + 1)

    def _steps(self) -> int:
        """How long it has gone up step by step, ns; 0: it has not, or in bursts."""
        samples = list(self.recent)
        ups = [b[1] - a[1] for a, b in pairwise(samples)]
        if sum(up > 0 for up in ups) < _STEPS or not ups[-1]:
            return 0
        if max(ups) > _UNEVEN * sum(ups) / len(ups) + 1:
            return 0
        return samples[-1][0] - samples[0][0]


def left_ns(count: int, limit: int | None, per_min: float | None) -> int | None:
    """Until `count` reaches `limit` at this pace."""
    if limit is None or per_min is None or per_min <= 0:
        return None
    return max(0, round((limit - count) / per_min * 60 * SECOND))


def decode(raw: bytes) -> list[FdRecord]:
    """What one run of the iterator wrote."""
    return [FdRecord._make(r) for r in FDS_STRUCT.iter_unpack(raw)]


def count_in_proc(pid: int) -> int | None:
    """Descriptors of a process from /proc: st_size has their number since 6.2 (f1f1f2569901)."""
    path = f"/proc/{pid}/fd"
    try:
        return os.stat(path).st_size or len(os.listdir(path))
    except OSError:
        return None


def from_proc(processes: Iterable[Process], now: int) -> list[FdRecord]:
    """The same without BPF."""
    found = []
    for p in list(processes)[:_LISTED]:
        count = count_in_proc(p.pid)
        if count is None or p.kernel_thread:
            continue
        try:
            limit = resource.prlimit(p.pid, resource.RLIMIT_NOFILE)[0]
        except OSError:
            limit = resource.RLIM_INFINITY
        found.append(FdRecord(
            p.pid, count, count, 0, _INFINITY if limit == resource.RLIM_INFINITY else limit,
            p.start_boottime_ns, p.cgroup or 0, now, 0, p.comm.encode()))
    return found


class DescriptorTable:
    """Samples every few seconds -> rows."""

    def __init__(self) -> None:
        self._tracks: dict[tuple[int, int], Track] = {}
        self._records: list[FdRecord] = []
        self._rows: tuple[list[Descriptors], int] = ([], 0)
        self._due = 0
        self._first: tuple[int, int] | None = None  # (now_ns, jiffies)
        self.hz: float | None = None

    def due(self, now: int) -> bool:
        """Whether it is time for a sample."""
        return now >= self._due

    def sample(self, records: list[FdRecord], now: int, most: int) -> None:
        """Take one sample of every process."""
        self._due = now + EVERY_NS * (2 if len(records) > _MANY else 1) - EVERY_NS // 10
        tracks: dict[tuple[int, int], Track] = {}
        for r in records:
            key = (r.tgid, r.start_boottime_ns)
            track = self._tracks.get(key)
            if track is None:
                track = Track(now, r.fds)
            else:
                track.add(now, r.fds)
            tracks[key] = track
        self._tracks, self._records = tracks, records
        self._clock()
        self._rows = self._make(now, most)

    def _clock(self) -> None:
        """The kernel's HZ, from two readings of its jiffies."""
        if not self._records or not self._records[0].jiffies:
            return
        now, jiffies = self._records[0].now_ns, self._records[0].jiffies
        if self._first is None:
            self._first = (now, jiffies)
        elif now - self._first[0] > SECOND:
            rate = (jiffies - self._first[1]) * SECOND / (now - self._first[0])
            self.hz = min((24, 48, 64, 100, 128, 200, 250, 300, 500, 512, 1000, 1024, 1200),
                          key=lambda hz: abs(hz - rate) / hz)

    def _make(self, now: int, most: int) -> tuple[list[Descriptors], int]:
        found = []
        for r in self._records:
            if not r.fds:
                continue  # kernel threads
            count = r.fds
            if r.max_fds > FD_WORDS * 64:
                count = count_in_proc(r.tgid) or count
            growth, window, steady = self._tracks[r.tgid, r.start_boottime_ns].growth(now)
            limit = None if r.limit == _INFINITY else r.limit
            found.append((steady, count / limit if limit else 0.0, count, r, limit, growth, window))
        kept = found if len(found) <= most else nlargest(most, found, key=itemgetter(0, 1, 2))
        return [Descriptors(
            pid=r.tgid, comm=comm(r.comm), cgroup=r.cgroup or None, open=count, limit=limit,
            growth_per_min=growth, window_ns=window, steady=steady,
            left_ns=left_ns(count, limit, growth) if steady else None)
            for steady, _, count, r, limit, growth, window in kept], len(found) - len(kept)

    def rows(self) -> tuple[list[Descriptors], int]:
        """The rows of the last sample, and how many more there are."""
        return self._rows


def host_descriptors() -> tuple[int | None, int | None]:
    """Open files of the whole host and their limit (/proc/sys/fs/file-nr)."""
    try:
        with open("/proc/sys/fs/file-nr", encoding="ascii") as f:
            allocated, _, most = f.read().split()
        return int(allocated), int(most)
    except (OSError, ValueError):
        return None, None
