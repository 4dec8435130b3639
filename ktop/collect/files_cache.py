"""Files layer: how much of the page cache is dirty, and who has to wait for that."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterable, Mapping

from ktop.bpf.files_layer import PAUSE_STRUCT
from ktop.model_files import PageCache, Throttled
from ktop.text import comm

_PAGE = resource.getpagesize()
_WANTED = {"nr_dirty": "dirty_bytes", "nr_writeback": "writeback_bytes",
           "nr_dirty_threshold": "threshold_bytes",
           "nr_dirty_background_threshold": "background_bytes"}


def page_cache(vmstat: Mapping[str, int]) -> PageCache:
    """From /proc/vmstat, pages as bytes; what is not there is None."""
    cache = PageCache()
    for name, field in _WANTED.items():
        if name in vmstat:
            setattr(cache, field, vmstat[name] * _PAGE)
    return cache


class Pauses:
    """Differences of the `fs_pauses` map from tick to tick."""

    def __init__(self) -> None:
        self._before: dict[bytes, tuple[int, int]] = {}

    def update(self, entries: Iterable[tuple[bytes, bytes | memoryview]], interval_ns: int | None,
               hz: float | None) -> list[Throttled]:
        """Who was paused since last time, longest first. hz: of the kernel's jiffies."""
        new: dict[bytes, tuple[int, int]] = {}
        found = []
        for key, raw in entries:
            pauses, jiffies, cgroup, name = PAUSE_STRUCT.unpack(raw)
            new[key] = (pauses, jiffies)
            before = self._before.get(key, (0, 0))
            if pauses < before[0]:
                before = (0, 0)
            if pauses == before[0] or not interval_ns:
                continue
            share = (jiffies - before[1]) / hz * 1e11 / interval_ns if hz else None
            found.append(Throttled(
                pid=int.from_bytes(key, sys.byteorder), comm=comm(name), cgroup=cgroup,
                pauses_per_s=(pauses - before[0]) * 1e9 / interval_ns, pause_pct=share))
        self._before = new
        found.sort(key=lambda t: (-(t.pause_pct or 0), t.pid))
        return found
