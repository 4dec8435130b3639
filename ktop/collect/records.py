"""The BPF programs' records as named tuples, in `ktop.bpf.layout`'s order (a test compares)."""

from __future__ import annotations

from typing import NamedTuple


class TaskRecord(NamedTuple):
    """struct ktop_task of processes.bpf.c: one thread. Times in ns, totals since it was forked."""

    tag: int
    pid: int
    tgid: int
    ppid: int
    uid: int
    state: int
    flags: int
    cpu: int
    reason: int
    syscall: int
    threads: int
    forks: int
    comm: bytes
    start_boottime_ns: int
    cgroup: int
    cpu_ns: int
    run_delay_ns: int
    utime_ns: int
    stime_ns: int
    voluntary: int
    involuntary: int
    major_faults: int
    read_bytes: int
    write_bytes: int
    migrations: int
    rss_pages: int
    waiting_ns: int
    off_ns: int
    pend_ns: int
    seen_delay_ns: int
    slept_runnable_ns: int
    slept_disk_ns: int
    slept_uninterruptible_ns: int
    slept_io_ns: int
    slept_network_ns: int
    slept_lock_ns: int
    slept_sleep_ns: int
    slept_stopped_ns: int
    slept_other_ns: int
    wait: int
    waited_disk_ns: int
    waited_memory_ns: int
    waited_fsync_ns: int
    waited_file_ns: int
    waited_file_lock_ns: int
    waited_mutex_ns: int
    waited_socket_ns: int
    waited_reclaim_ns: int
    dead_cpu_ns: int
    dead_utime_ns: int
    dead_stime_ns: int
    dead_voluntary: int
    dead_involuntary: int
    dead_major_faults: int


SLEPT_FIRST = TaskRecord._fields.index("slept_runnable_ns")
SLEPT_END = TaskRecord._fields.index("slept_other_ns") + 1
WAITED_FIRST = TaskRecord._fields.index("waited_disk_ns")
WAITED_END = TaskRecord._fields.index("waited_reclaim_ns") + 1


class EventRecord(NamedTuple):
    """struct ktop_event of ktop.bpf.h. `time_ns` is CLOCK_MONOTONIC; code as the kernel has it."""

    kind: int
    pid: int
    ppid: int
    uid: int
    time_ns: int
    start_boottime_ns: int
    cgroup: int
    code: int
    args_len: int
    cpu_ns: int
    run_delay_ns: int
    lifetime_ns: int
    comm: bytes
    parent_comm: bytes
    filename: bytes
