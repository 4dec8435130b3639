"""What every row of a Frame is made of."""

from __future__ import annotations

import msgspec

SCHEMA = 1


class Part(msgspec.Struct, array_like=True, gc=False):
    """Base of everything in a Frame: travels as an array, is never part of a reference cycle."""


class Hist(Part):
    """Latency histogram: `counts[bucket]` samples (buckets: ktop/hist.py), their sum and max.

    `max_ns` is None where only the buckets are known.
    """

    counts: dict[int, int]
    sum_ns: int = 0
    max_ns: int | None = None
