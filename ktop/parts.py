"""What every row of a Frame is made of."""

from __future__ import annotations

from typing import Annotated

import msgspec

from ktop.bpf.layout import HIST_SLOTS

SCHEMA = 1
# Bounds of what comes from a file or another host: beyond them it is no frame (ktop.wire).
Time = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]  # ns; of the clock until 2116
Bucket = Annotated[int, msgspec.Meta(ge=0, lt=HIST_SLOTS)]
Real = Annotated[float, msgspec.Meta(ge=-1e30, le=1e30)]  # no NaN, no infinity
Samples = Annotated[int, msgspec.Meta(ge=0)]


class Part(msgspec.Struct, array_like=True, gc=False):
    """Base of everything in a Frame: travels as an array, is never part of a reference cycle."""


class Hist(Part):
    """Latency histogram: `counts[bucket]` samples (buckets: ktop/hist.py), their sum and max.

    `max_ns` is None where only the buckets are known.
    """

    counts: dict[Bucket, Samples]
    sum_ns: int = 0
    max_ns: int | None = None
