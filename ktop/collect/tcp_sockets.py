"""How sockets are read: those of all namespaces at once, or each namespace's in turn.

The kernel's table of connections is one for all namespaces, and to walk it takes 2 ms where it has
262,144 buckets (a host of 24 GB), in each namespace anew, however few connections there are. But
each socket that has a note can be found by that. A walk gives a note to every socket that it
meets, and what is opened later gets one with its first change of state; so a namespace is walked
when it is new, and then only now and then.
"""

from __future__ import annotations

from collections.abc import Collection

from ktop.bpf.engine import Engine
from ktop.bpf.tcp_layer import SOCK_STRUCT

AGAIN = 60     # samples between two walks of a namespace
_HOPS = 400_000  # sockets passed over in the time of a walk: 4 ns each, measured with 17,327
_A_READ = (1 << 15) // SOCK_STRUCT.size  # sockets of one read(2), which passes over those before


class Sockets:
    """Reads the records of sockets, tick by tick. Raises OSError where the kernel refuses.

    cpus: possible ones; the lists that sockets with notes are in are as many (bpf_local_storage).
    """

    def __init__(self, engine: Engine, cpus: int) -> None:
        self._engine, self._cpus = engine, cpus
        self._walked: set[int] = set()
        self._no_note = 0
        self._most = 0    # records of the last tick
        self._count = 0   # of this one
        self._turn = 0

    def begin(self, namespaces: Collection[int], no_note: int) -> bytes:
        """A tick: every socket that has a note. no_note: how many could not be given one."""
        self._turn += 1
        self._most, self._count = self._count, 0
        self._walked &= set(namespaces)
        whole = no_note == self._no_note and self._engine.live("tcp_state")
        self._no_note = no_note
        if not whole or not self._engine.live("tcp_noted") or self._dear(len(namespaces)):
            self._walked.clear()
        if not self._walked:
            return b""
        try:
            return self._read("tcp_noted")
        except OSError:
            self._walked.clear()
            raise

    def _dear(self, namespaces: int) -> bool:
        """Whether all at once costs more than the walks: lists are short, or many."""
        passed = self._most * self._most // (2 * _A_READ * self._cpus)
        return passed > namespaces * _HOPS

    def walk(self, inode: int, position: int) -> bytes:
        """Those of the namespace that we are in, when it is due; position: among all."""
        if not self._engine.live("tcp_socks") or (
                inode in self._walked and (self._turn - position) % AGAIN):
            return b""
        data = self._read("tcp_socks")
        self._walked.add(inode)
        return data

    def _read(self, probe: str) -> bytes:
        data = self._engine.read_iter(probe)
        self._count += len(data) // SOCK_STRUCT.size
        return data
