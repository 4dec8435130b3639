"""What the small files of /proc/PID say: parsed to the parts of a Detail. No file is read here."""

from __future__ import annotations

import os
from typing import NamedTuple

from ktop.collect.proctext import number
from ktop.model_detail import (
    UNLIMITED,
    Credentials,
    IoCounters,
    Memory,
    ResourceLimit,
    Scheduling,
)
from ktop.text import clean

_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
# include/uapi/linux/capability.h, by number
_CAPABILITIES = """chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap
linux_immutable net_bind_service net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module
sys_rawio sys_chroot sys_ptrace sys_pacct sys_admin sys_boot sys_nice sys_resource sys_time
sys_tty_config mknod lease audit_write audit_control setfcap mac_override mac_admin syslog
wake_alarm block_suspend audit_read perfmon bpf checkpoint_restore"""
CAPABILITIES = tuple(_CAPABILITIES.split())
# include/uapi/linux/sched.h
_POLICIES = {0: "SCHED_OTHER", 1: "SCHED_FIFO", 2: "SCHED_RR", 3: "SCHED_BATCH", 5: "SCHED_IDLE",
             6: "SCHED_DEADLINE", 7: "SCHED_EXT"}
_SECCOMP = {0: "none", 1: "strict", 2: "filter"}
_MEMORY = {"virtual_bytes": "VmSize", "rss_bytes": "VmRSS", "anon_bytes": "RssAnon",
           "file_bytes": "RssFile", "shmem_bytes": "RssShmem", "swap_bytes": "VmSwap",
           "locked_bytes": "VmLck", "peak_bytes": "VmHWM", "page_tables_bytes": "VmPTE"}
_IO = {"read_chars": "rchar", "write_chars": "wchar", "read_calls": "syscr",
       "write_calls": "syscw", "read_bytes": "read_bytes", "write_bytes": "write_bytes",
       "cancelled_bytes": "cancelled_write_bytes"}


class Stat(NamedTuple):
    """/proc/PID/stat. start_ns: since boot, to 10 ms. cpu_ns: user and system, to 10 ms.

    args_bytes: length of the command line. nice, rt_priority, policy: of the main thread.
    """

    comm: str
    state: str
    cpu_ns: int
    nice: int
    threads: int
    start_ns: int
    rt_priority: int
    policy: int
    args_bytes: int


def stat(raw: bytes) -> Stat:
    """The command may hold anything, `)` too: fields are counted from the last one.

    Raises ValueError or IndexError on what is no such file.
    """
    head, _, tail = raw.rpartition(b")")
    fields = tail.split()
    numbers = [int(x) for x in fields[1:]]
    return Stat(comm=clean(head.partition(b"(")[2], 64), state=clean(fields[0], 1),
                cpu_ns=(numbers[10] + numbers[11]) * _TICK_NS, nice=numbers[15],
                threads=numbers[16], start_ns=numbers[18] * _TICK_NS, rt_priority=numbers[36],
                policy=numbers[37], args_bytes=max(0, numbers[45] - numbers[44]))


def fields(raw: bytes) -> dict[str, str]:
    """`Name: value` lines, as in status, io and smaps_rollup."""
    found = {}
    for line in raw.decode("utf-8", "backslashreplace").splitlines():
        name, colon, value = line.partition(":")
        if colon:
            found[name] = value.strip()
    return found


def size(found: dict[str, str], name: str) -> int | None:
    """The first word of a field as a number; `kB` are 1024 bytes."""
    words = found.get(name, "").split()
    value = number(words[0]) if words else None
    return None if value is None else value * (1024 if words[1:] == ["kB"] else 1)


def _count(word: str) -> int | None:
    value = number(word)
    return value if value is not None and value >= 0 else None


def _numbers(found: dict[str, str], name: str) -> list[int]:
    values = map(_count, found.get(name, "").split())
    return [value for value in values if value is not None]


def capabilities(mask: int) -> list[str]:
    """Names of a set; a bit that has none yet is `cap_NN`."""
    return [CAPABILITIES[bit] if bit < len(CAPABILITIES) else f"cap_{bit}"
            for bit in range(mask.bit_length()) if mask >> bit & 1]


def credentials(found: dict[str, str], last_cap: int) -> Credentials:
    """Of /proc/PID/status. last_cap: the highest capability this kernel has."""
    effective = found.get("CapEff")
    mask = int(effective, 16) if effective else None
    mode = size(found, "Seccomp")
    privs = size(found, "NoNewPrivs")
    return Credentials(
        uids=_numbers(found, "Uid"), gids=_numbers(found, "Gid"), groups=_numbers(found, "Groups"),
        effective=None if mask is None else capabilities(mask),
        all_effective=mask == (1 << last_cap + 1) - 1,
        seccomp=None if mode is None else _SECCOMP.get(mode, str(mode)),
        filters=size(found, "Seccomp_filters"),
        no_new_privs=None if privs is None else privs == 1)


def memory(found: dict[str, str]) -> Memory:
    """Of /proc/PID/status. Kernel threads have none of it."""
    part = Memory()
    for field, name in _MEMORY.items():
        setattr(part, field, size(found, name))
    return part


def scheduling(found: dict[str, str], main: Stat) -> Scheduling:
    """Of /proc/PID/status and stat."""
    cpus = found.get("Cpus_allowed_list")
    return Scheduling(
        policy=_POLICIES.get(main.policy, f"policy {main.policy}"), priority=main.rt_priority,
        nice=main.nice, cpus=clean(cpus, 200) if cpus else None)


def io_counters(found: dict[str, str]) -> IoCounters:
    """Of /proc/PID/io."""
    part = IoCounters()
    for field, name in _IO.items():
        setattr(part, field, size(found, name))
    return part


def limits(raw: bytes) -> list[ResourceLimit]:
    """/proc/PID/limits: columns of fixed width, names with spaces in them (fs/proc/base.c)."""
    rows = []
    for line in raw.decode("ascii", "replace").splitlines()[1:]:
        name, words = line[:26].strip(), line[26:].split()
        if len(words) < 2:
            continue
        soft, hard = (UNLIMITED if word == "unlimited" else _count(word)
                      for word in words[:2])
        rows.append(ResourceLimit(clean(name.removeprefix("Max "), 26), soft, hard,
                                  clean(words[2], 16) if len(words) > 2 else ""))
    return rows


def used(name: str, found: dict[str, str], main: Stat, open_files: int | None) -> int | None:
    """How much of a limit is taken, in its unit; None where the kernel does not say."""
    if name == "open files":
        return open_files
    if name == "cpu time":
        return main.cpu_ns // 1_000_000_000
    if name == "pending signals":  # of its user
        return _count(found.get("SigQ", "").partition("/")[0])
    if name == "realtime priority":
        return main.rt_priority
    field = {"data size": "VmData", "stack size": "VmStk", "resident set": "VmRSS",
             "locked memory": "VmLck", "address space": "VmSize"}.get(name)
    return size(found, field) if field else None


def cgroups(raw: bytes) -> list[tuple[str, str]]:
    """/proc/PID/cgroup: (controllers or name=..., path), `unified` for v2's."""
    rows = []
    for line in raw.splitlines():
        parts = line.split(b":", 2)
        if len(parts) == 3:
            rows.append((clean(parts[1], 100) or "unified", clean(parts[2])))
    return rows


def arguments(raw: bytes, most: int = 2000) -> list[str]:
    """The command line by argument, cleaned one by one."""
    words = raw.split(b"\0")
    if words and not words[-1]:
        del words[-1]
    return [clean(word) for word in words[:most]]
