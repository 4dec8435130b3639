"""What one column of the timeline is made of: how much was held up at each pipe, in one tick.

One unit for all: the mean number of threads held up (stalled seconds a second). Small enough to be
kept beside every frame of a recording, so that a timeline of 24 hours decodes no frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import msgspec

from ktop.diagnosis.model import Report
from ktop.model import WAITS, Frame
from ktop.model_tcp import Connection
from ktop.parts import Part

# By this name in the verdict too; `uninterruptible` is what no pipe has claimed.
PIPES = ("cpu", "quota", "steal", "memory", "file", "block", "tcp", "lock", "upstream",
         "uninterruptible")
TIGHT = ("errors", "saturated", "contended", "waiting")  # states of a pipe that is named
LEAST = 0.05  # mean number held up below which nothing is said to be
MILLI = 1000
_MOST = 1e12  # threads held up; thousandths of it fit into 64 bits
_WORDS = ("pipe", "state")
# What of Process.waits_pct is whose. `socket` is none's: who waits for an answer is often idle.
_CLAIMS = {"memory": ("memory", "reclaim"), "file": ("fsync", "file", "file_lock"),
           "block": ("disk",), "lock": ("mutex",)}


class Levels(Part):
    """Mean number held up at each pipe, in one tick; to a thousandth, None is unknown.

    cpu: threads waiting for a CPU (Sched.waiting) beyond those that a quota holds. quota: run
    queues throttled (cpu.stat, throttled time / time). steal: CPUs' worth taken by the hypervisor.
    memory: reclaiming, or waiting for it (Process.waits_pct `reclaim`, `memory`). file: in fsync,
    for a file or its lock. block: for a device. lock: for a futex that says it is contended.
    tcp: connections that repair a loss, or have data and no window. uninterruptible: in state D
    for a reason that is none of these. upstream: None unless the diagnosis says.
    pipe, state: of the verdict; None where there was none made.
    """

    cpu: float | None = None
    quota: float | None = None
    steal: float | None = None
    memory: float | None = None
    file: float | None = None
    block: float | None = None
    tcp: float | None = None
    lock: float | None = None
    upstream: float | None = None
    uninterruptible: float | None = None
    pipe: str | None = None
    state: str | None = None


@runtime_checkable
class Levelled(Protocol):
    """A Track (ktop.lens) that keeps the levels of its frames beside them."""

    def levels(self, begin: int, end: int) -> Sequence[Levels | None]:
        """Those of the positions begin to end - 1; None where a frame has none or is damaged."""


def levels(frame: Frame, report: Report | None = None) -> Levels:
    """Those of a frame, from what it says itself, and what the diagnosis made of it.

    Without an interval nothing is known.
    """
    if frame.clock.interval_ns is None:
        return Levels()
    throttled = [g.throttled_pct for g in frame.cgroups if g.throttled_pct is not None]
    stolen = [c.steal_pct for c in frame.cpus if c.steal_pct is not None]
    quota = sum(throttled) / 100 if throttled else None
    waiting = frame.sched.waiting
    found = Levels(
        cpu=None if waiting is None else _milli(max(0.0, waiting - (quota or 0.0))),
        quota=_milli(quota), steal=_milli(sum(stolen) / 100 if stolen else None),
        tcp=None if frame.tcp is None else float(sum(map(_held_up, frame.tcp.connections))))
    for pipe, value in _waits(frame).items():
        setattr(found, pipe, _milli(value))
    if report is not None:
        _told(found, report)
    return found


def _told(found: Levels, report: Report) -> None:
    """The diagnosis knows better what is a stall: of each pipe its tightest resource."""
    said: dict[str, float] = {}
    for pipe in report.pipes:
        if pipe.stalled is not None:
            said[pipe.pipe] = max(said.get(pipe.pipe, 0.0), pipe.stalled)
    for name, value in said.items():
        if name in PIPES:
            setattr(found, name, _milli(value))
    found.pipe, found.state = report.verdict.pipe, report.verdict.state


def _waits(frame: Frame) -> dict[str, float]:
    """Pipes that threads off CPU waited for. Older recordings do not tell memory, file and lock."""
    off = frame.sched.off_cpu
    if not off:
        return {}
    stuck = off.get("uninterruptible", 0.0)
    told = [p.waits_pct for p in frame.processes.rows if p.waits_pct is not None]
    if not told:
        return {"block": off.get("disk", 0.0), "uninterruptible": stuck}
    by = dict.fromkeys(WAITS, 0.0)
    for waits in told:
        for name, value in waits.items():
            by[name] = by.get(name, 0.0) + value / 100
    found = {pipe: sum(by[name] for name in names) for pipe, names in _CLAIMS.items()}
    return {**found, "uninterruptible": max(0.0, stuck - found["memory"] - found["file"])}


def _milli(value: float | None) -> float | None:
    """As a recording keeps it, so that live and replay show the same."""
    return None if value is None else round(max(-_MOST, min(_MOST, value)) * MILLI) / MILLI


def _held_up(connection: Connection) -> bool:
    return connection.recovery is not None or (
        connection.zero_window and connection.unsent_bytes > 0)


def worst(found: Levels | None) -> tuple[str, float] | None:
    """Pipe that held up most and how much; None when nothing did. The verdict goes before."""
    if found is None:
        return None
    if tight(found) and found.pipe is not None:
        return found.pipe, getattr(found, found.pipe) or LEAST
    most, at = LEAST, ""
    for pipe in PIPES:
        value = getattr(found, pipe)
        if value is not None and value >= most:
            most, at = value, pipe
    return (at, most) if at else None


def tight(found: Levels | None) -> bool:
    """Whether the verdict of that moment named a pipe."""
    return found is not None and found.pipe in PIPES and found.state in TIGHT


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[int | str | None])


def encode(found: Levels) -> bytes:
    """About 20 bytes for a recording: thousandths, as whole numbers."""
    figures = [None if (value := getattr(found, pipe)) is None else round(value * MILLI)
               for pipe in PIPES]
    return _encoder.encode([*figures, found.pipe, found.state])


def decode(data: bytes) -> Levels | None:
    """What `encode` wrote, also with more fields; None when it is something else."""
    try:
        values = _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    found = Levels()
    for name, value in zip(found.__struct_fields__, values, strict=False):
        if isinstance(value, str) != (name in _WORDS) and value is not None:
            return None
        setattr(found, name, value / MILLI if isinstance(value, int) else value)
    return found
