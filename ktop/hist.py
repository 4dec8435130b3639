"""Latency histograms: merge, difference, percentiles. Pure functions over `model.Hist`.

Buckets are those of `ktop.bpf.h`: bucket 0 holds everything under 1,024 ns; above that each octave
[2^k, 2^(k+1)) ns is cut into four equal parts. A percentile is interpolated inside its bucket: it
is off by at most a quarter of an octave, and always lies in the bucket that the histogram shows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

from ktop.bpf.layout import HIST_SHIFT, HIST_SLOTS, HIST_SUB
from ktop.model import Hist

_PARTS = 1 << HIST_SUB
PERCENTILES = (50.0, 95.0, 99.0, 99.9)


def slot(ns: int) -> int:
    """Bucket of a latency in ns, as hist_slot() in ktop.bpf.h numbers them."""
    if ns < 1 << HIST_SHIFT:
        return 0
    octave = ns.bit_length() - 1 - HIST_SHIFT
    part = (ns >> (octave + HIST_SHIFT - HIST_SUB)) & (_PARTS - 1)
    return min(1 + octave * _PARTS + part, HIST_SLOTS - 1)


def bounds(index: int) -> tuple[int, int]:
    """[low, high) of a bucket in ns."""
    if index <= 0:
        return 0, 1 << HIST_SHIFT
    octave, part = divmod(index - 1, _PARTS)
    width = 1 << (octave + HIST_SHIFT - HIST_SUB)
    low = (_PARTS + part) * width
    return low, low + width


@lru_cache(HIST_SLOTS)
def _ends(index: int) -> int:
    return sum(bounds(index))


def midpoint_sum(counts: dict[int, int]) -> int:
    """Estimate of the samples' sum in ns where only the buckets are known."""
    return sum(n * _ends(i) // 2 for i, n in counts.items())


def from_counts(counts: Sequence[int], sum_ns: int = 0, max_ns: int | None = None) -> Hist:
    """A Hist from a dense array of bucket counts."""
    return Hist({i: n for i, n in enumerate(counts) if n > 0}, sum_ns, max_ns)


def merge(hists: Iterable[Hist]) -> Hist:
    """The histogram of all samples together."""
    counts: dict[int, int] = {}
    total, longest = 0, None
    for h in hists:
        total += h.sum_ns
        if h.max_ns is not None:
            longest = h.max_ns if longest is None else max(longest, h.max_ns)
        for i, n in h.counts.items():
            counts[i] = counts.get(i, 0) + n
    return Hist(counts, total, longest)


def count(h: Hist) -> int:
    """Number of samples."""
    return sum(h.counts.values())


def percentile(h: Hist, pct: float) -> float | None:
    """Latency in ns that `pct` percent of the samples do not exceed; None without samples."""
    total = count(h)
    if not total:
        return None
    rank, seen = total * pct / 100.0, 0
    for index in sorted(h.counts):
        n = h.counts[index]
        if seen + n >= rank:
            low, high = bounds(index)
            value = low + (high - low) * max(0.0, rank - seen) / n
            known = h.max_ns is not None and h.max_ns >= low
            return min(value, float(h.max_ns or 0)) if known else value
        seen += n
    return float(bounds(max(h.counts))[1])


def percentiles(h: Hist) -> dict[str, float | None]:
    """P50, P95, P99, P99.9 and the maximum, in ns."""
    found = {f"p{pct:g}": percentile(h, pct) for pct in PERCENTILES}
    found["max"] = float(h.max_ns) if h.max_ns is not None else None
    return found


def octaves(h: Hist) -> list[tuple[int, int, int]]:
    """(low ns, high ns, samples) per octave, from the first to the last that has any."""
    if not h.counts:
        return []
    rows: dict[int, int] = {}
    for index, n in h.counts.items():
        octave = 0 if index <= 0 else 1 + (index - 1) // _PARTS
        rows[octave] = rows.get(octave, 0) + n
    return [(0 if o == 0 else 1 << (o - 1 + HIST_SHIFT), 1 << (o + HIST_SHIFT), rows.get(o, 0))
            for o in range(min(rows), max(rows) + 1)]
