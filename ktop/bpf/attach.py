"""Attaching one loaded program: by the compile child, and by the collector for those on demand."""

from __future__ import annotations

import ctypes as ct
import os
from collections.abc import Callable

from ktop.bpf import syscall
from ktop.bpf.probes import TRACEFS, Probe


def mount_tracefs() -> str | None:
    """Mount tracefs where the kernel documents it if it is not there; a note for the user if so."""
    if os.path.exists(os.path.join(TRACEFS, "events")):
        return None
    libc = ct.CDLL(None, use_errno=True)
    if libc.mount(b"tracefs", TRACEFS.encode(), b"tracefs", 0, None):
        raise OSError(ct.get_errno(), os.strerror(ct.get_errno()), TRACEFS)
    return f"tracefs was not mounted: mounted at {TRACEFS}"


def attach(probe: Probe, program: int, typed: bool, map_fd: Callable[[str], int]) -> list[int]:
    """The fds that hold the program attached; closing them detaches it. Raises OSError.

    map_fd: the descriptor of a map of the program's, by name.
    """
    if probe.kind == "iter":
        return [syscall.iter_link(program, map_fd(probe.over) if probe.over else None)]
    if probe.kind == "tp":
        return [syscall.raw_tracepoint_open(program, None if typed else probe.target)]
    if probe.kind == "clock":
        return syscall.attach_cpu_clock(program, int(probe.target))
    return [syscall.attach_tracepoint(program, TRACEFS, probe.target)]
