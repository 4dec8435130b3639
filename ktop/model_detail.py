"""One process in full, on request. Conventions: ktop/model.py.

All of it is what /proc/PID said at the tick, but for parts that are dear: those are read in turns,
and say how old they are.
"""

from __future__ import annotations

from ktop.parts import Part

DESCRIPTORS_PER_FRAME = 1000
THREADS_PER_FRAME = 1000
UNLIMITED = -1  # a resource limit of none (RLIM_INFINITY)


class ResourceLimit(Part):
    """One of RLIMIT_*, by the name /proc/PID/limits has. soft, hard: UNLIMITED, or in `unit`.

    used: as much of it the process takes now, where that is known; of `processes` and `signals` it
    is not: the kernel counts them by user.
    """

    name: str
    soft: int | None
    hard: int | None
    unit: str = ""
    used: int | None = None


class Descriptor(Part):
    """One open descriptor.

    kind: file, directory, device, terminal, socket, pipe, memfd, or an anonymous inode's own name
    (eventfd, eventpoll, inotify, bpf-map...). what: path, or address and peer, or `pipe 1234`.
    inode: of sockets and pipes. flags: O_* names and access mode. position_bytes: of files.
    note: what an anonymous inode says of itself (eventfd-count, the descriptors epoll waits for).
    """

    fd: int
    kind: str
    what: str
    flags: str = ""
    position_bytes: int | None = None
    inode: int | None = None
    deleted: bool = False
    note: str = ""


class ThreadDetail(Part):
    """Where one thread is. age_ns: how long before the frame this was read.

    wchan: the kernel function it sleeps in. syscall: the one it is in, by name; `running` while it
    runs. stack: kernel functions, innermost first; empty when not readable (Detail.reasons).
    """

    tid: int
    comm: str
    state: str
    wchan: str | None = None
    syscall: str | None = None
    stack: list[str] = []
    age_ns: int = 0


class Memory(Part):
    """/proc/PID/status and smaps_rollup, bytes.

    rss = anon + file + shmem. swap: swapped-out anonymous pages. pss: its share of pages in common
    with others, read rarely (`pss_age_ns`), and not of big processes: it holds their memory map.
    peak: the most it was ever resident (VmHWM).
    """

    virtual_bytes: int | None = None
    rss_bytes: int | None = None
    anon_bytes: int | None = None
    file_bytes: int | None = None
    shmem_bytes: int | None = None
    swap_bytes: int | None = None
    locked_bytes: int | None = None
    peak_bytes: int | None = None
    page_tables_bytes: int | None = None
    pss_bytes: int | None = None
    pss_age_ns: int = 0
    oom_score: int | None = None
    oom_score_adj: int | None = None


class Credentials(Part):
    """Whose rights it has. uids, gids: real, effective, saved, file system. groups: supplementary.

    effective: capabilities by name (capabilities(7)); None unknown. all_effective: all there are.
    seccomp: `none`, `strict` or `filter`; filters: how many.
    """

    uids: list[int] = []
    gids: list[int] = []
    groups: list[int] = []
    effective: list[str] | None = None
    all_effective: bool = False
    seccomp: str | None = None
    filters: int | None = None
    no_new_privs: bool | None = None


class Scheduling(Part):
    """policy: SCHED_* name. priority: of the realtime policies. cpus: as `0-3,8`, allowed ones.

    io_class: of ioprio_get(2): none, realtime, best-effort, idle.
    """

    policy: str | None = None
    priority: int | None = None
    nice: int | None = None
    cpus: str | None = None
    io_class: str | None = None
    io_level: int | None = None


class IoCounters(Part):
    """/proc/PID/io, since the process began. chars: by read and write syscalls of any kind of
    file; bytes: of block devices; cancelled: written to the cache and taken back."""

    read_chars: int | None = None
    write_chars: int | None = None
    read_calls: int | None = None
    write_calls: int | None = None
    read_bytes: int | None = None
    write_bytes: int | None = None
    cancelled_bytes: int | None = None


class Namespace(Part):
    """kind: as /proc/PID/ns names it. shared: it is ktop's own too; None: that is unknown."""

    kind: str
    inode: int
    shared: bool | None = None


class Ended(Part):
    """Its last words. at_wall_ns: None when the exit itself was not seen. code: exit status, None
    when a signal ended it or it is not known; signal: its name; cpu_ns: in all."""

    at_wall_ns: int | None = None
    code: int | None = None
    signal: str | None = None
    core_dumped: bool = False
    lifetime_ns: int | None = None
    cpu_ns: int | None = None


class Detail(Part):
    """What /proc says of the process that is looked at.

    start_boottime_ns: with pid its identity; None when there was never such a process. ended: it
    has; all else is as last read. reused: the number is now another process's. args: the command
    line, by argument; args_cut: bytes of it left out. cgroups: (controllers, path) of every
    hierarchy, `unified` for v2. descriptors_cut: as many more. user_names, group_names: of the
    numbers in credentials. reasons: why something is unknown, by the name of its part. cost_ns:
    CPU time of this look.
    """

    pid: int
    start_boottime_ns: int | None = None
    comm: str = ""
    state: str = "?"
    exe: str | None = None
    cwd: str | None = None
    root: str | None = None
    args: list[str] = []
    args_cut: int = 0
    ended: Ended | None = None
    reused: bool = False
    credentials: Credentials | None = None
    user_names: dict[int, str] = {}
    group_names: dict[int, str] = {}
    cgroups: list[tuple[str, str]] = []
    namespaces: list[Namespace] = []
    limits: list[ResourceLimit] = []
    memory: Memory | None = None
    scheduling: Scheduling | None = None
    io: IoCounters | None = None
    descriptors: list[Descriptor] = []
    descriptors_total: int | None = None
    descriptors_cut: int = 0
    threads: list[ThreadDetail] = []
    threads_total: int | None = None
    reasons: dict[str, str] = {}
    cost_ns: int = 0
