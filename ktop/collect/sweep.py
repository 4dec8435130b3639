"""Takes out of a map of the kernel what has not moved for a while.

A map of who did something fills with those that are long gone, up to its bound, and every read
copies them all: 3,000 processes that wrote to a disk once cost as much as all the rest of a sample.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from ktop.bpf import syscall
from ktop.bpf.engine import Engine

AGE = 64       # reads without moving
_AT_ONCE = 64  # entries taken before one read: about half a millisecond


class Sweep:
    """Of one hash map. Before 5.14 (3e87f192b405) the kernel cannot read an entry and take it out
    in one step; then none is taken, and the map's own bound holds."""

    def __init__(self, engine: Engine, name: str) -> None:
        self._map = engine.loaded.maps[name]
        self._moved: set[bytes] = set()
        self._idle: list[bytes] = []
        self._reads = 0

    def take(self) -> list[tuple[bytes, bytes]]:
        """(key, value) of some that have not moved for AGE reads: gone from the map by now, with
        what they counted until then. To be called before a read, so that who comes back is new."""
        found = []
        for _ in range(min(_AT_ONCE, len(self._idle))):
            key = self._idle.pop()
            if key in self._moved:
                continue
            try:
                found.append((key, syscall.map_take(self._map.fd, key, self._map.value_size)))
            except FileNotFoundError:
                pass  # had to give way to another
            except OSError:
                self._idle.clear()
                break
        return found

    def note(self, there: Collection[bytes], moved: Iterable[bytes]) -> None:
        """What a read has found: all keys, and those whose value was not as in the read before."""
        self._moved.update(moved)
        self._reads += 1
        if self._reads % AGE == 0:
            self._idle = [key for key in there if key not in self._moved]
            self._moved = set()
