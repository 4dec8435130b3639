"""`ktop snapshot`: one true interval of everything, as JSON or a short text for people."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import msgspec

from ktop import hist
from ktop.collect.main import Collector, Options
from ktop.model import Frame, Hist

_WARM_UP_S = 0.1  # the first read opens the threads' accounts; the interval starts at the second


def as_json(value: Any) -> Any:
    """Structs as objects keyed by field name. A histogram also says its buckets and percentiles."""
    if isinstance(value, Hist):
        buckets = [{"low_ns": hist.bounds(i)[0], "high_ns": hist.bounds(i)[1], "count": n}
                   for i, n in sorted(value.counts.items())]
        found = {f"{name}_ns": ns for name, ns in hist.percentiles(value).items()}
        return {"count": hist.count(value), "sum_ns": value.sum_ns, **found, "buckets": buckets}
    if isinstance(value, msgspec.Struct):
        return {name: as_json(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, dict):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_json(item) for item in value]
    return value


def take(interval_s: float, bpf: bool = True) -> Frame:
    """One frame whose rates are over `interval_s` seconds."""
    collector = Collector(Options(bpf=bpf, watch=("processes",)))
    collector.start()
    try:
        collector.settle()
        time.sleep(_WARM_UP_S)
        collector.tick()
        end = time.monotonic() + interval_s
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.25))
            collector.drain()
        return collector.tick()
    finally:
        collector.close()


def _summary(frame: Frame) -> str:
    """The busiest and the longest waiting processes, for a person without a terminal UI."""
    lines = [f"{frame.host.hostname}  {frame.host.kernel}  {len(frame.processes.rows)} processes"]
    if frame.health.banner:
        lines.append(frame.health.banner)
    if frame.sched.runq is not None:
        p = hist.percentiles(frame.sched.runq)
        shown = "  ".join(f"{k} {v / 1e6:.3f}ms" for k, v in p.items() if v is not None)
        lines.append(f"run queue latency: {hist.count(frame.sched.runq)} waits  {shown}")
    lines.append(f"{'PID':>8} {'CPU%':>6} {'RQW%':>6} {'BLK%':>7} COMMAND")
    top = sorted(frame.processes.rows, key=lambda r: -(r.cpu_pct or 0.0))[:10]
    for r in top:
        figures = " ".join(f"{v:>{w}.1f}" if v is not None else f"{'-':>{w}}" for v, w in (
            (r.cpu_pct, 6), (r.runq_wait_pct, 6), (r.blocked_pct, 7)))
        lines.append(f"{r.pid:>8} {figures} {(r.args or r.comm)[:60]}")
    return "\n".join(lines)


def main(interval_s: float = 1.0, bpf: bool = True, json_output: bool = False) -> int:
    """Print one interval; exit status 0."""
    frame = take(interval_s, bpf)
    if json_output:
        json.dump(as_json(frame), sys.stdout, ensure_ascii=False, indent=1)
        sys.stdout.write("\n")
    else:
        print(_summary(frame))
    return 0
