"""Executions and exits: ring buffer records -> the feed."""

from __future__ import annotations

import errno
import os
import signal

from ktop.bpf.layout import EVENT_EXEC, EVENT_EXEC_FAILED, EVENT_STRUCT
from ktop.collect.records import EventRecord
from ktop.model import EVENTS_PER_FRAME, ProcessEvent
from ktop.text import arguments, clean, comm

_KINDS = {EVENT_EXEC: "exec", EVENT_EXEC_FAILED: "exec_failed"}


def errno_name(code: int) -> str:
    """ENOENT for 2; the number where it has no name."""
    return errno.errorcode.get(abs(code), str(abs(code)))


def signal_name(number: int) -> str:
    """SIGKILL for 9; real-time signals as SIGRTMIN+n."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}" if number > signal.SIGRTMIN else str(number)


def decode(raw: bytes, wall_offset_ns: int) -> ProcessEvent:
    """One record as an event. wall_offset_ns: CLOCK_REALTIME - CLOCK_MONOTONIC."""
    r = EventRecord._make(EVENT_STRUCT.unpack_from(raw))
    args = raw[EVENT_STRUCT.size:EVENT_STRUCT.size + r.args_len]
    event = ProcessEvent(
        kind=_KINDS.get(r.kind, "exit"), time_ns=r.time_ns + wall_offset_ns, pid=r.pid,
        ppid=r.ppid, uid=r.uid, comm=comm(r.comm), parent_comm=comm(r.parent_comm),
        cgroup=r.cgroup)
    if event.kind == "exit":
        number = r.code & 0x7F
        event.lifetime_ns, event.cpu_ns = r.lifetime_ns, r.cpu_ns or None
        if number:
            event.signal, event.core_dumped = signal_name(number), bool(r.code & 0x80)
        else:
            event.code = (r.code >> 8) & 0xFF
        return event
    event.args = arguments(args) if args else None
    event.args_cut = max(0, r.args_len - len(args))
    event.filename = clean(r.filename.split(b"\0", 1)[0], 256)
    if event.kind == "exec_failed":
        event.code, event.error = -r.code, errno_name(r.code)
        # comm is still the caller's: what it wanted to become is in the path.
        event.parent_comm = event.comm
        event.comm = clean(os.path.basename(event.filename), 64)
    return event


def feed(events: list[ProcessEvent]) -> tuple[list[ProcessEvent], int]:
    """The newest EVENTS_PER_FRAME, and how many were left out."""
    cut = max(0, len(events) - EVENTS_PER_FRAME)
    return events[cut:], cut
