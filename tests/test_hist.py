"""Histograms: buckets, percentiles against the samples themselves, merging."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktop import hist
from ktop.bpf.layout import HIST_SLOTS
from ktop.model import Hist

LATENCIES = st.lists(st.integers(0, 1 << 35), min_size=1, max_size=300)


def of(samples: list[int]) -> Hist:
    counts = [0] * HIST_SLOTS
    for ns in samples:
        counts[hist.slot(ns)] += 1
    return hist.from_counts(counts, sum(samples), max(samples))


@given(st.integers(0, (1 << 36) - 1))
def test_a_latency_lies_in_its_bucket(ns: int) -> None:
    low, high = hist.bounds(hist.slot(ns))
    assert low <= ns < high


def test_buckets_join_without_gap_and_the_last_takes_all() -> None:
    for i in range(HIST_SLOTS - 1):
        assert hist.bounds(i)[1] == hist.bounds(i + 1)[0]
    assert hist.slot(1 << 60) == HIST_SLOTS - 1


@given(LATENCIES, st.sampled_from([50.0, 95.0, 99.0, 99.9, 100.0]))
def test_percentile_is_in_the_bucket_of_the_sample(samples: list[int], pct: float) -> None:
    found = hist.percentile(of(samples), pct)
    rank = max(1, -int(-len(samples) * pct // 100))
    exact = sorted(samples)[rank - 1]
    low, high = hist.bounds(hist.slot(exact))
    assert found is not None and low <= found <= high


@given(LATENCIES)
def test_percentiles_rise_and_end_at_the_maximum(samples: list[int]) -> None:
    p = hist.percentiles(of(samples))
    values = [p["p50"], p["p95"], p["p99"], p["p99.9"], p["max"]]
    assert all(a <= b for a, b in itertools.pairwise(values))  # type: ignore[operator]
    assert p["max"] == max(samples)


@given(LATENCIES, LATENCIES)
def test_merging_is_the_histogram_of_all(a: list[int], b: list[int]) -> None:
    assert hist.merge([of(a), of(b)]) == of(a + b)


@given(LATENCIES)
def test_octaves_hold_every_sample_once(samples: list[int]) -> None:
    rows = hist.octaves(of(samples))
    assert sum(n for *_, n in rows) == len(samples)
    for low, high, n in rows:
        assert n == sum(low <= s < high for s in samples)


def test_nothing_is_not_zero() -> None:
    empty = Hist({})
    assert hist.percentile(empty, 99) is None
    assert hist.percentiles(empty) == {"p50": None, "p95": None, "p99": None, "p99.9": None,
                                       "max": None}
    assert hist.octaves(empty) == [] and hist.merge([]) == empty


def test_the_kernel_numbers_buckets_the_same_way() -> None:
    """hist_slot() of ktop.bpf.h, run in Python line by line, agrees at every boundary."""
    source = (Path(hist.__file__).parent / "bpf" / "ktop.bpf.h").read_text()
    body = re.search(r"hist_slot\(u64 ns, const u32 slots\)\n{\n(.*?)\n}", source, re.DOTALL)
    assert body is not None
    steps = re.findall(r"if \(v >> (\d+)\) \{ v >>= (\d+); octave \+= (\d+); \}", body.group(1))
    assert steps == [(n, n, n) for n in ("32", "16", "8", "4", "2")]

    def kernel(ns: int) -> int:
        v, octave = ns >> 10, 0
        if not v:
            return 0
        for shift in (32, 16, 8, 4, 2):
            if v >> shift:
                v >>= shift
                octave += shift
        octave += v >> 1
        return min(1 + (octave << 2) + ((ns >> (octave + 8)) & 3), HIST_SLOTS - 1)

    for i in range(HIST_SLOTS):
        low, high = hist.bounds(i)
        assert kernel(low) == hist.slot(low) == i
        assert kernel(high - 1) == hist.slot(high - 1) == i
    assert kernel(1 << 50) == hist.slot(1 << 50)


@pytest.mark.parametrize(("ns", "bucket"), [(0, 0), (1023, 0), (1024, 1), (1280, 2), (2048, 5)])
def test_known_buckets(ns: int, bucket: int) -> None:
    assert hist.slot(ns) == bucket
