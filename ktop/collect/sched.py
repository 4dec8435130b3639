"""Scheduler layer: per-CPU histograms and samples -> Sched and Cpu rows."""

from __future__ import annotations

import struct
import time
from typing import NamedTuple

from ktop import hist
from ktop.bpf.engine import Engine
from ktop.bpf.layout import HIST_SLOTS, RUNQLEN_SLOTS
from ktop.bpf.probes import RUNQLEN_HZ
from ktop.model import Cpu, Sched

_CPU = struct.Struct(f"@QQQ{HIST_SLOTS}Q{RUNQLEN_SLOTS}Q")


class CpuRecord(NamedTuple):
    """struct ktop_cpu of sched.bpf.c, totals since it was loaded."""

    switches: int
    waits: int
    wait_ns: int
    hist: tuple[int, ...]
    runqlen: tuple[int, ...]


def decode(raw: bytes | memoryview) -> CpuRecord:
    """One CPU's value of the `cpus` map."""
    v = _CPU.unpack(raw)
    return CpuRecord(v[0], v[1], v[2], v[3:3 + HIST_SLOTS], v[3 + HIST_SLOTS:])


def _grown(new: tuple[int, ...], old: tuple[int, ...]) -> list[int]:
    return [a - b for a, b in zip(new, old, strict=True)]


class SchedLayer:
    """Differences of the per-CPU values from tick to tick."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._raw: list[memoryview] = []
        self._longest_ns: int | None = None
        self._read_ns = 0
        self._last: tuple[int, list[CpuRecord]] | None = None
        self._epoch = 0

    def sample(self) -> None:
        """Read the kernel. A busy host may stop us between two reads of a tick, so that each
        layer's rates are over the time between its own reads."""
        if "cpus" in self._engine.loaded.maps:
            self._read_ns = time.monotonic_ns()
            self._raw = self._engine.read_percpu("cpus")
            self._longest_ns = self._longest()

    def update(self, cpus: list[Cpu]) -> Sched:
        """The host's scheduler since the sample before; completes the CPU rows."""
        if not self._raw:
            return Sched()
        new = [decode(raw) for raw in self._raw]
        last, self._last = self._last, (self._read_ns, new)
        if last is None or self._read_ns <= last[0]:
            return Sched()
        return self._difference(new, last[1], self._longest_ns, cpus, self._read_ns - last[0])

    def _longest(self) -> int | None:
        """Longest wait since the last call, ns; None when all were under a microsecond."""
        parity = self._epoch & 1
        self._epoch += 1
        self._engine.write_u32("epoch", self._epoch)  # from now on the other one is in use
        found = max(struct.unpack("@Q", raw)[0]
                    for raw in self._engine.read_percpu("longest_wait", parity))
        self._engine.clear_percpu("longest_wait", parity)
        return found or None

    def _difference(self, new: list[CpuRecord], old: list[CpuRecord], longest: int | None,
                    cpus: list[Cpu], interval: int) -> Sched:
        live, sampled = self._engine.live("sched_switch"), self._engine.live("runqlen")
        lengths: dict[int, int] = {}
        for row in cpus:
            if row.cpu >= len(new):
                continue
            a, b = new[row.cpu], old[row.cpu]
            if live:
                row.switches_per_s = (a.switches - b.switches) * 1e9 / interval
                row.waiting = (a.wait_ns - b.wait_ns) / interval
            if sampled:
                self._lengths(row, _grown(a.runqlen, b.runqlen), interval, lengths)
        sched = Sched(runq_len=lengths)
        if live:
            counts = [sum(column) for column in zip(
                *(_grown(a.hist, b.hist) for a, b in zip(new, old, strict=True)), strict=True)]
            waited = sum(a.wait_ns - b.wait_ns for a, b in zip(new, old, strict=True))
            sched.runq = hist.from_counts(counts, waited, longest)
            sched.waiting = waited / interval
            sched.switches_per_s = sum(
                a.switches - b.switches for a, b in zip(new, old, strict=True)) * 1e9 / interval
        return sched

    @staticmethod
    def _lengths(row: Cpu, samples: list[int], interval: int, lengths: dict[int, int]) -> None:
        # A busy CPU always takes its sampling interrupt; an idle one may sleep through it (seen
        # on guests), so samples that did not come are samples of an empty queue.
        samples[0] += max(0, RUNQLEN_HZ * interval // 1_000_000_000 - sum(samples))
        row.runq_samples = sum(samples)
        if not row.runq_samples:
            return
        row.runq_len = sum(i * n for i, n in enumerate(samples)) / row.runq_samples
        row.runq_len_max = max(i for i, n in enumerate(samples) if n)
        for i, n in enumerate(samples):
            if n:
                lengths[i] = lengths.get(i, 0) + n

