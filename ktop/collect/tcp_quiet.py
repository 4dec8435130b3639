"""Namespaces that have listeners and no connection, and in which nothing moves.

The kernel's table of connections is one for all namespaces, and to walk it takes 2 ms where it has
262,144 buckets (a host of 24 GB), in each namespace anew and whether there is a connection or none.
Where there was none, no segment came or went, nothing was opened and as many sockets are in use as
before, there is none now: what was read last stands. That a listener was replaced by another within
a tick, or was given another backlog, is seen a few seconds later there.
"""

from __future__ import annotations

from collections.abc import Container

from ktop.bpf.tcp_layer import SOCK_STRUCT, SockRecord
from ktop.collect.tcp_records import LISTEN

AGAIN_NS = 5_000_000_000
_MOST = 64  # sockets of a namespace that are looked through for connections
Moved = tuple[int | None, ...]


class Quiet:
    """The last reads of quiet namespaces, by their numbers."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[Moved, bytes, int]] = {}  # with when it was read

    def sockets(self, inode: int, moved: Moved, now: int) -> bytes | None:
        """Records as they were read last; None when they have to be read.

        moved: what no connection comes without (tcp_netns.Counters), counted before that.
        """
        kept = self._kept.get(inode)
        if kept is None or kept[0] != moved or now - kept[2] >= AGAIN_NS:
            return None
        return kept[1]

    def keep(self, inode: int, moved: Moved, data: bytes, now: int) -> None:
        """Remember a read, if it was of a quiet namespace. moved: counted before it."""
        self._kept.pop(inode, None)
        records = data[:-SOCK_STRUCT.size]  # the last has no socket, it tells the time of the read
        if None in moved or len(data) > _MOST * SOCK_STRUCT.size:
            return
        if all(SockRecord._make(values).state == LISTEN
               for values in SOCK_STRUCT.iter_unpack(records)):
            self._kept[inode] = moved, records, now

    def forget(self) -> None:
        """Their notes may be others: all are read again."""
        self._kept.clear()

    def only(self, inodes: Container[int]) -> None:
        """The namespaces that there are."""
        self._kept = {inode: kept for inode, kept in self._kept.items() if inode in inodes}
