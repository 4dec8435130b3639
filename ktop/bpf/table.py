"""What one reading of a hash map gave: bytes, cut into keys, values and columns on demand.

A map of ten thousand entries is read every tick; most have not changed. A column of one field is
cut out at C speed, so that Python touches only the entries that it tells have changed.
"""

from __future__ import annotations

import struct
from typing import Literal, NamedTuple


class Table(NamedTuple):
    """Entries side by side, in no order."""

    keys: bytes
    values: bytes
    entries: int
    key_size: int
    value_size: int

    def key(self, i: int) -> bytes:
        """Key of an entry."""
        return self.keys[i * self.key_size:(i + 1) * self.key_size]

    def value(self, i: int) -> bytes:
        """Value of an entry."""
        return self.values[i * self.value_size:(i + 1) * self.value_size]

    def column(self, offset: int, fmt: Literal["I", "Q"]) -> list[int]:
        """A field of all values: at `offset` bytes, an aligned native integer."""
        view = memoryview(self.values).cast(fmt)
        found: list[int] = view[offset // view.itemsize::self.value_size // view.itemsize].tolist()
        return found

    def items(self) -> dict[bytes, bytes]:
        """Values by key."""
        return dict(zip(_cut(self.keys, self.key_size), _cut(self.values, self.value_size),
                        strict=True))

    def key_set(self) -> set[bytes]:
        """All keys."""
        return set(_cut(self.keys, self.key_size))


def _cut(data: bytes, size: int) -> list[bytes]:
    return [piece for (piece,) in struct.iter_unpack(f"{size}s", data)]
