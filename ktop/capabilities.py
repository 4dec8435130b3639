"""What each process may do: a few capabilities for the collector, none for all that draws.

    supervisor  what the collector has, and what it takes to signal and to become others
    collector   COLLECTOR; never more than it was started with
    compile, symbols   children of the collector, with a part of it each
    UI, recorder, ssh's end, readers of files   the invoking user, without any capability

Taken away for good: out of the permitted and the bounding set, and with no_new_privs no program
started later can bring anything back. Runs under the system's python3 too (standard library only).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection
from enum import IntEnum
from typing import Any, NamedTuple

_PR_CAPBSET_READ, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 23, 24, 38
_PR_CAP_AMBIENT, _AMBIENT_RAISE, _AMBIENT_CLEAR_ALL = 47, 2, 4
_VERSION_3 = 0x20080522  # include/uapi/linux/capability.h
_NUMBERS = 64
COLLECTOR_NICE = -10


class Cap(IntEnum):
    """Capabilities by the kernel's numbers (include/uapi/linux/capability.h)."""

    DAC_OVERRIDE = 1
    DAC_READ_SEARCH = 2
    KILL = 5
    SETGID = 6
    SETUID = 7
    SETPCAP = 8
    SYS_PTRACE = 19
    SYS_ADMIN = 21
    SYS_NICE = 23
    SYS_RESOURCE = 24
    SYSLOG = 34
    PERFMON = 38  # 5.8, with BPF: before them it was SYS_ADMIN for all
    BPF = 39

    def __str__(self) -> str:
        return f"CAP_{self.name}"


class Need(NamedTuple):
    """Why the collector has a capability, and what is not seen without it.

    blind: empty when nothing is lost here, or when what is lost says so by itself.
    """

    cap: Cap
    why: str
    blind: str


# Each found by leaving it out: tests/test_live_privileges.py does so again.
NEEDS = (
    Need(Cap.BPF, "load the programs, read their maps", ""),
    Need(Cap.PERFMON, "attach them, let them read the kernel's memory", ""),
    Need(Cap.SYS_PTRACE, "descriptors, I/O counters, namespaces and symbols of other users' "
         "processes in /proc/PID",
         "other users' descriptors, I/O counters, names in stacks and network namespaces"),
    Need(Cap.DAC_READ_SEARCH, "what is its owner's alone: tracefs, /proc/PID/fd, io and stack, "
         "files with symbols, perf maps",
         "other users' descriptors and I/O counters, where their threads wait; probes on tracefs, "
         "unless this is root"),
    Need(Cap.SYS_ADMIN, "enter other network namespaces, kernel stacks in /proc, the programs' "
         "run times, mount a tracefs that is not there; before Linux 5.8 all of BPF",
         "counters and interfaces of other network namespaces, where a thread waits in the kernel, "
         "what the probes cost"),
    # kallsyms_show_value(): since 4.15 perf_event_paranoid has a say as well
    Need(Cap.SYSLOG, "the kernel's addresses, where kptr_restrict or perf_event_paranoid hides "
         "them from others", ""),
    Need(Cap.SYS_RESOURCE, "locked memory for maps, before Linux 5.11", ""),
)
COLLECTOR = frozenset(need.cap for need in NEEDS)
COMPILE = COLLECTOR - {Cap.SYS_PTRACE}
SYMBOLS = frozenset({Cap.SYS_PTRACE, Cap.DAC_READ_SEARCH, Cap.SYSLOG})
# Root without sudo is its own user: its rights to files stay, as uid 0 owns the system's anyway.
FILES = frozenset({Cap.DAC_OVERRIDE, Cap.DAC_READ_SEARCH})
SUPERVISOR = COLLECTOR | FILES | {Cap.KILL, Cap.SETGID, Cap.SETUID, Cap.SETPCAP, Cap.SYS_NICE}


def _libc() -> Any:
    import ctypes

    return ctypes.CDLL(None, use_errno=True)


def prctl(option: int, value: int, more: int = 0) -> int:
    """prctl(2); -1 when the kernel refuses."""
    return int(_libc().prctl(option, value, more, 0, 0))


# -- capabilities ----------------------------------------------------------------------------------


def _capget() -> tuple[int, int]:
    """(effective, permitted) of this thread, as bits."""
    import ctypes

    header, data = (ctypes.c_uint32 * 2)(_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    if _libc().capget(header, data):
        raise OSError(ctypes.get_errno(), "capget")
    return data[0] | data[3] << 32, data[1] | data[4] << 32


def _capset(permitted: int, inheritable: int) -> None:
    """Permitted and effective alike."""
    import ctypes

    low, high = permitted & 0xFFFFFFFF, permitted >> 32
    data = (ctypes.c_uint32 * 6)(low, low, inheritable & 0xFFFFFFFF, high, high, inheritable >> 32)
    if _libc().capset((ctypes.c_uint32 * 2)(_VERSION_3, 0), data):
        raise OSError(ctypes.get_errno(), "capset")


def held() -> frozenset[Cap]:
    """Those of `Cap` that this thread has in effect."""
    effective = _capget()[0]
    return frozenset(cap for cap in Cap if effective >> cap & 1)


def bound(bits: int) -> None:
    """Nothing else can be had by starting a program. Where that may not be said (no CAP_SETPCAP)
    no_new_privs has to do."""
    for number in range(_NUMBERS):
        if not bits >> number & 1 and prctl(_PR_CAPBSET_READ, number) == 1:
            prctl(_PR_CAPBSET_DROP, number)


def keep_only(keep: Collection[Cap], no_new_privs: bool = True) -> None:
    """Give up every capability but these, for good, children's included. OSError if it failed.

    What is kept passes to the programs that are started: to root's by the bounding set, to
    others' as ambient capabilities.
    """
    permitted = _capget()[1]
    bits = permitted & sum(1 << cap for cap in keep)
    if no_new_privs:
        prctl(_PR_SET_NO_NEW_PRIVS, 1)
    bound(bits)
    prctl(_PR_CAP_AMBIENT, _AMBIENT_CLEAR_ALL)  # 4.3, 58319057b784; nothing to clear before
    if os.geteuid() == 0:
        _capset(bits, 0)
        return
    _capset(bits, bits)
    for cap in keep:
        if bits >> cap & 1:
            prctl(_PR_CAP_AMBIENT, _AMBIENT_RAISE, cap)


def become_collector() -> None:
    """Of a process that is ours alone: what a collector may do, and before whom it is scheduled."""
    go_first()
    keep_only(COLLECTOR)


def become_helper(keep: Collection[Cap]) -> None:
    """Of a child that a collector has started: some of its capabilities, nobody's precedence."""
    wait_your_turn()
    keep_only(keep)


def go_first() -> None:
    """Be scheduled before the work that is watched, where that is allowed: on a host with thirty
    runnable threads a CPU a sample is late by seconds, just when it is wanted (atop does the same).
    Whoever chose a priority for ktop keeps it.
    """
    if os.getpriority(os.PRIO_PROCESS, 0) == 0:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, COLLECTOR_NICE)


def wait_your_turn() -> None:
    """As others are scheduled: what a collector starts is work, not watching."""
    if os.getpriority(os.PRIO_PROCESS, 0) < 0:
        os.setpriority(os.PRIO_PROCESS, 0, 0)


def why_no_bpf() -> str | None:
    """Why BPF programs cannot be loaded by this process; None when they may be."""
    have = held()
    if Cap.SYS_ADMIN in have or {Cap.BPF, Cap.PERFMON} <= have:
        return None
    lacking = " and ".join(str(cap) for cap in (Cap.BPF, Cap.PERFMON) if cap not in have)
    if os.geteuid() == 0:
        return f"root, but without {lacking}"
    return "not root" if len(have & {Cap.BPF, Cap.PERFMON}) == 0 else f"not root, and no {lacking}"


def blind() -> list[tuple[Cap, str]]:
    """What a collector with our capabilities does not see, and which one it lacks for that."""
    have = held()
    return [(need.cap, need.blind) for need in NEEDS if need.blind and need.cap not in have]
