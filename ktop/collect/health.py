"""What ktop costs and what it rests on."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Sequence

from ktop import capabilities
from ktop.bpf import syscall
from ktop.bpf.engine import Engine, probe_table
from ktop.bpf.layers import GROUPS
from ktop.collect.proctext import number, read_text
from ktop.model import Health, Probe

# The kernel's run-time statistics cost two clock reads per program run: on one tick in ten.
_STATS_EVERY = 10
# For so many ticks it is said that probes were detached.
_NEWS_TICKS = 10


def _absent(reason: str) -> list[Probe]:
    """Every probe, where BPF is refused."""
    found = []
    for group in range(len(GROUPS)):
        engine = Engine(group=group)
        engine.loaded.fatal = reason
        found += [Probe(**row) for row in probe_table(engine)]  # type: ignore[arg-type]
    return found


def _rss_bytes() -> int | None:
    """Our own resident memory, from /proc/self/statm."""
    words = read_text("/proc/self/statm").split()
    pages = number(words[1]) if len(words) > 1 else None
    return None if pages is None else pages * resource.getpagesize()


class HealthLayer:
    """The collector's own account.

    engines: every one that is loaded; more join while ktop runs. fallback: the line that says that
    there is no BPF; reason: why not.
    """

    def __init__(self, engines: list[Engine], fallback: str | None = None,
                 reason: str = "") -> None:
        self._engines, self._fallback = engines, fallback
        self._absent = _absent(reason) if fallback is not None else []
        self._blind = capabilities.blind() if fallback is None else []
        self._last: tuple[int, float] | None = None
        self._tick = 0
        self._stats_fd = -1
        self._before: dict[str, tuple[int, int]] = {}
        self._stats_since = 0
        self._probes_pct: float | None = None
        self._map_bytes: int | None = None
        self._sampled: dict[str, tuple[int, int]] = {}
        self._rows: list[Probe] = []  # as long as they fare as they did
        self._fates: Sequence[tuple[object, ...]] = ()
        self._rows_sampled = self._sampled
        self._detached: dict[str, int] = {}  # by somebody else, and attached again: at which tick

    def tend(self) -> None:
        """Before a tick reads: what somebody else has detached is attached again, and said."""
        for engine in self._engines:
            for name, why in engine.tend().items():
                if not why:  # else it is among those that are missing
                    self._detached[name] = self._tick

    def update(self, tick_ns: int | None) -> Health:
        """The account of the interval; tick_ns is the CPU time of the tick before."""
        now = time.monotonic_ns()
        used = resource.getrusage(resource.RUSAGE_SELF)
        cpu = used.ru_utime + used.ru_stime
        health = Health(source="bpf" if self._engines else "procfs", tick_ns=tick_ns,
                        banner=self._banner(),
                        probes=self._absent,
                        notes=[n for e in self._engines for n in e.loaded.facts.get("notes", [])])
        health.notes += [f"without {cap} it does not see {what}" for cap, what in self._blind]
        if self._last is not None and now > self._last[0]:
            health.collector_cpu_pct = (cpu - self._last[1]) * 1e11 / (now - self._last[0])
        self._last = (now, cpu)
        health.collector_rss_bytes = _rss_bytes()
        if self._engines:
            self._probes(health, now)
        return health

    def _banner(self) -> str | None:
        """One line when something is missing."""
        if self._fallback is not None:
            return self._fallback
        news = sorted(name for name, tick in self._detached.items()
                      if self._tick - tick < _NEWS_TICKS)
        if news:
            return f"detached by somebody else, and attached again: {', '.join(news)}"
        missing = [name for e in self._engines for name, why in e.loaded.reasons.items() if why]
        broken = [e.loaded.fatal for e in self._engines if e.loaded.fatal]
        if broken:
            return f"a whole group of probes is missing: {broken[0]}"
        if missing:
            return f"some probes are missing: {', '.join(missing)} (ktop doctor says why)"
        if self._blind:
            caps = ", ".join(str(cap) for cap, _ in self._blind)
            return f"some figures are missing: no {caps} (ktop doctor says which)"
        return None

    def _probes(self, health: Health, now: int) -> None:
        self._sample(now)
        fates = [(e.loaded.fatal, *e.loaded.reasons.items(), *map(len, e.loaded.probes.values()))
                 for e in self._engines]
        if fates != self._fates or self._rows_sampled is not self._sampled:
            self._fates, self._rows_sampled = fates, self._sampled
            self._rows = [Probe(**row)  # type: ignore[arg-type]
                          for engine in self._engines for row in probe_table(engine)]
            for probe in self._rows:
                probe.run_ns, probe.runs = self._sampled.get(probe.name, (None, None))
        health.probes = self._rows
        health.probes_cpu_pct, health.probes_estimated = self._probes_pct, True
        if self._tick % _STATS_EVERY == 1:
            sizes = [engine.map_bytes() for engine in self._engines]
            self._map_bytes = sum(n for n in sizes if n is not None) if None not in sizes else None
        health.map_bytes = self._map_bytes

    def _sample(self, now: int) -> None:
        """Statistics on for one tick in ten; what they say stands for the other nine."""
        if self._stats_fd >= 0:
            times = self._run_times()
            # An iterator runs inside our own read(2): it is in the collector's CPU time already.
            iterators = {p.name for e in self._engines for p in e.table if p.kind == "iter"}
            spent = sum(ns - self._before.get(name, (0, 0))[0] for name, (ns, _) in times.items()
                        if name not in iterators)
            self._probes_pct = spent * 100.0 / max(1, now - self._stats_since)
            self._sampled = times
            self._end_sample()
        elif self._tick % _STATS_EVERY == 0:
            try:
                self._stats_fd = syscall.enable_run_stats()  # 5.8, d46edd671a14
                self._before = self._run_times()
                self._stats_since = now
            except OSError:
                self._probes_pct = None
        self._tick += 1

    def _run_times(self) -> dict[str, tuple[int, int]]:
        found: dict[str, tuple[int, int]] = {}
        for engine in self._engines:
            found.update(engine.run_times())
        return found

    def _end_sample(self) -> None:
        if self._stats_fd >= 0:
            os.close(self._stats_fd)
            self._stats_fd = -1

    def close(self) -> None:
        """Switch statistics off."""
        self._end_sample()
