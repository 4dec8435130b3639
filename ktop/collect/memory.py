"""What /proc/meminfo and /proc/vmstat say, read once a tick for all who show some of it."""

from __future__ import annotations

from typing import NamedTuple

from ktop.collect.proctext import figures, read_text

_INFO = ("MemTotal", "MemAvailable", "Swap")
# what lines of /proc/vmstat begin with: reclaim, swap and refaults; what is to be written
_VMSTAT = ("allocstall_", "pgscan_direct ", "pgscan_kswapd ", "pswpin ", "pswpout ",
           "workingset_refault", "oom_kill ", "nr_dirty", "nr_writeback ")


class Memory(NamedTuple):
    """info: bytes, by /proc/meminfo's names. vmstat: events and pages, by /proc/vmstat's. What the
    kernel does not tell is not there.
    """

    info: dict[str, int]
    vmstat: dict[str, int]


def memory() -> Memory:
    """Now."""
    info = figures(read_text("/proc/meminfo"), _INFO)
    return Memory({name: kb * 1024 for name, kb in info.items()},
                  figures(read_text("/proc/vmstat"), _VMSTAT))
