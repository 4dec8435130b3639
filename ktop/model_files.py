"""Rows of the files layer. Conventions: ktop/model.py."""

from __future__ import annotations

from ktop.parts import Hist, Part, Real

OPERATIONS = ("read", "write", "fsync", "open")
ROWS_PER_FRAME = 500    # files, processes, folds: as many rows of each as a frame holds
EVENTS_PER_FRAME = 300  # slow operations, opens, mounts: as many of each


class FileOps(Part):
    """What was done in one interval, from entry to exit of the syscalls.

    read: read pread64 readv preadv preadv2; write: their likes; fsync: fsync fdatasync
    sync_file_range; open: open openat openat2 creat. errors: those that failed, EAGAIN apart.
    read, write, fsync: latency. A histogram is None where nothing ran or none was kept (only the
    2,048 files and processes used last have one). inside: mean number of
    threads inside these syscalls (rate x mean latency).
    """

    reads_per_s: Real | None = None
    writes_per_s: Real | None = None
    fsyncs_per_s: Real | None = None
    opens_per_s: Real | None = None
    errors_per_s: Real | None = None
    read_bytes_per_s: Real | None = None
    write_bytes_per_s: Real | None = None
    read: Hist | None = None
    write: Hist | None = None
    fsync: Hist | None = None
    inside: Real | None = None


class FileRow(Part):
    """One regular file that was used in this interval. Identity: (dev, ino, generation).

    path: as the mount namespace of the process that used it has it; None: used, but its path was
    not fetched (too many new files at once). whole: False when the path is the end of one that is
    deeper than 32 names. fstype: super_block.s_type, `.subtype` for FUSE. dev: "major:minor".
    """

    path: str | None
    dev: str
    ino: int
    ops: FileOps
    fstype: str | None = None
    deleted: bool = False
    whole: bool = True
    generation: int = 0


class FileProcess(Part):
    """One process (tgid), all its files together. Its opens count also what is no regular file."""

    pid: int
    comm: str
    ops: FileOps
    cgroup: int | None = None


class FileUse(Part):
    """What one process did with one regular file in this interval: `FileRow` by process.

    comm, cgroup: of the process, which may have ended by now.
    """

    pid: int
    dev: str
    ino: int
    generation: int
    ops: FileOps
    comm: str = ""
    cgroup: int | None = None


class FileShare(Part):
    """What one process did on one filesystem: summed by pid they are `processes`, by dev
    `filesystems`, all of them the host's total but for `unowned_per_s`.

    pid None: the processes of that cgroup that are not in `processes` (processes_cut), together.
    dev None: opens that failed, or of what is no regular file.
    """

    pid: int | None
    cgroup: int | None
    dev: str | None
    ops: FileOps


class FileSystem(Part):
    """One filesystem (super_block.s_dev) on which regular files were used in this interval.

    mount: where it is mounted in ktop's own mount namespace, source: of what; None: not there.
    """

    dev: str
    ops: FileOps
    fstype: str | None = None
    mount: str | None = None
    source: str | None = None


class SlowOp(Part):
    """One read, write or fsync that took at least the threshold. op: the syscall's name.

    bytes: what it returned; None for fsyncs and failures. error: errno's name.
    """

    time_ns: int
    pid: int
    comm: str
    cgroup: int
    op: str
    latency_ns: int
    path: str | None = None
    fstype: str | None = None
    bytes: int | None = None
    error: str | None = None


class OpenEvent(Part):
    """One open: fd or error (errno's name), flags (O_* names).

    path: as asked for; a relative one is joined to its directory (the working directory or dirfd)
    as far as that is known, else it begins with `./`.
    """

    time_ns: int
    pid: int
    comm: str
    cgroup: int
    path: str
    flags: str
    fd: int | None = None
    error: str | None = None


class OpenFold(Part):
    """Opens by (command, path, error, cgroup) within the last minute.

    path is None while no open of it could be shown. pid: of the last one. fold: number of the path
    in its cgroup. shared: other processes than `pid` are in the count. count, per_min: None where
    only a part of those processes is looked at: their share is not known.
    """

    comm: str
    path: str | None
    error: str | None
    count: int | None
    per_min: Real | None
    pid: int
    fold: int = 0
    cgroup: int | None = None
    shared: bool = False


class Descriptors(Part):
    """Open descriptors of a process. limit: RLIMIT_NOFILE, soft.

    growth_per_min: over `window_ns`, None while that is too short. steady: it went up in every
    third of the window and never fell back, or in even steps lately: a leak. left_ns: until the
    limit, if it goes on.
    """

    pid: int
    comm: str
    cgroup: int | None
    open: int
    limit: int | None
    growth_per_min: Real | None = None
    window_ns: int = 0
    steady: bool = False
    left_ns: int | None = None


class MountEvent(Part):
    """A mount syscall with who made it, or (pid None) a change seen in /proc/self/mountinfo.

    op: the syscall, or `mounted`, `unmounted`. flags: MS_*, MNT_* or MOUNT_ATTR_* names.
    """

    time_ns: int
    op: str
    pid: int | None = None
    comm: str | None = None
    cgroup: int | None = None
    source: str | None = None
    target: str | None = None
    fstype: str | None = None
    flags: str = ""
    error: str | None = None


class Throttled(Part):
    """A process that balance_dirty_pages() made wait in this interval. pause_pct: of wall time."""

    pid: int
    comm: str
    cgroup: int | None
    pauses_per_s: Real
    pause_pct: Real | None = None


class PageCache(Part):
    """nr_dirty, nr_writeback and the thresholds above which writers are slowed down and writeback
    begins (/proc/vmstat, pages to bytes)."""

    dirty_bytes: int | None = None
    writeback_bytes: int | None = None
    threshold_bytes: int | None = None
    background_bytes: int | None = None
    throttled: list[Throttled] = []


class Files(Part):
    """The files layer.

    watched: the syscall probes are attached; without them rows, processes, filesystems, slow, opens
    and folds are empty and mounts are those of mountinfo. host: all of it together.
    *_cut: as many more were there and are not in this frame. slow_total: since the start, exact.
    files_dropped: pairs of a file and a process whose counts had to go (least recently used) since
    the start. threshold_ns: what counts as slow. descriptors_host, descriptors_max:
    /proc/sys/fs/file-nr.
    uses: rows by process, those on which most time was spent; `uses_cut` more. shares: processes by
    filesystem, all of them. owned: uses, shares and the folds' cgroups are told (older recordings
    have none). unowned_per_s: operations of the host that are in no share (their process's counts
    had to go).
    """

    watched: bool = False
    threshold_ns: int = 0
    host: FileOps | None = None
    rows: list[FileRow] = []
    rows_cut: int = 0
    processes: list[FileProcess] = []
    processes_cut: int = 0
    filesystems: list[FileSystem] = []
    slow: list[SlowOp] = []
    slow_cut: int = 0
    slow_total: int | None = 0
    opens: list[OpenEvent] = []
    opens_cut: int = 0
    opens_failed_per_s: Real | None = None
    folds: list[OpenFold] = []
    folds_cut: int = 0
    descriptors: list[Descriptors] = []
    descriptors_cut: int = 0
    descriptors_host: int | None = None
    descriptors_max: int | None = None
    mounts: list[MountEvent] = []
    cache: PageCache | None = None
    files_dropped: int = 0
    owned: bool = False
    uses: list[FileUse] = []
    uses_cut: int = 0
    shares: list[FileShare] = []
    unowned_per_s: Real | None = None
