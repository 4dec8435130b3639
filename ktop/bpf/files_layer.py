"""Files layer: its probes, its records' bytes, what its C side is told.

Runs under the system's python3 too (standard library only).
"""

from __future__ import annotations

from ktop.bpf.layout import packer
from ktop.bpf.probes import Probe

_TAX = ("while attached every syscall of the host costs about 130 ns more, a read or write of a "
        "file 800 ns (bench/files.py)")

PROBES: tuple[Probe, ...] = (
    Probe("fs_enter", "files", "tp", "sys_enter",
          "which file a read, write, fsync or open is about, and when it began",
          "none",
          "mmap, io_uring, sendfile, splice, copy_file_range, msync; 32-bit processes", _TAX),
    Probe("fs_exit", "files", "tp", "sys_exit",
          "reads, writes, fsyncs and opens by file and process with bytes, latency and errors; "
          "slow operations; opens with path and errno; mounts",
          "none", "as fs_enter; a syscall entered before somebody looked", _TAX),
    Probe("fs_throttle", "files", "tp", "balance_dirty_pages",
          "who is made to wait because too much is dirty",
          "none: only how much is dirty, from /proc/vmstat",
          "nothing"),
    Probe("fs_fds", "files", "iter", "task",
          "open descriptors and their limit of every process",
          "entries of /proc/PID/fd (stat(2) gives their number since 6.2), limit by prlimit(2)",
          "descriptors past the 65,536th of one process"),
)

# What a syscall means to the C side (enum fs_what), in its order.
OPS = ("none", "read", "write", "fsync", "open", "openat", "openat2", "creat", "mount", "umount",
       "fsopen", "fsmount", "move_mount")
SYSCALLS = {
    "read": "read", "pread64": "read", "readv": "read", "preadv": "read", "preadv2": "read",
    "write": "write", "pwrite64": "write", "writev": "write", "pwritev": "write",
    "pwritev2": "write",
    "fsync": "fsync", "fdatasync": "fsync", "sync_file_range": "fsync",
    "open": "open", "openat": "openat", "openat2": "openat2", "creat": "creat",
    "mount": "mount", "umount2": "umount", "fsopen": "fsopen", "fsmount": "fsmount",
    "move_mount": "move_mount",
}

# Totals since the programs were loaded, summed over CPUs (enum fs_counter).
COUNTERS = ("lost", "opens", "opens_failed", "opens_shown", "slow", "slow_cut", "uses",
            "names_cut", "shares")

KEY = (("ino", "Q"), ("dev", "I"), ("generation", "I"))
USE = (("file", "16s"), ("tgid", "I"), ("pad", "I"))  # a file, and a process that uses it
SHARE = (("tgid", "I"), ("dev", "I"))                 # a process on a filesystem
STAT = (("n", "4Q"), ("errors", "4Q"), ("ns", "4Q"), ("bytes", "2Q"), ("longest", "4Q"),
        ("longest_before", "4Q"), ("epoch", "I"), ("epoch_before", "I"), ("born", "I"),
        ("pad", "I"), ("cgroup", "Q"), ("comm", "16s"))
EVENT_NAME, EVENT_SLOW, EVENT_OPEN, EVENT_MOUNT = 1, 2, 3, 4
EVENT = (("kind", "I"), ("tgid", "I"), ("time_ns", "Q"), ("cgroup", "Q"), ("latency_ns", "Q"),
         ("ret", "q"), ("file", "16s"), ("fold", "Q"), ("flags", "I"), ("nr", "I"),
         ("base_whole", "I"), ("text_len", "I"), ("comm", "16s"), ("fstype", "32s"))
OPEN_KEY = (("hash", "Q"), ("comm", "16s"), ("error", "i"), ("pad", "I"))
OPEN_FOLD = (("count", "Q"), ("last_ns", "Q"), ("first_ns", "Q"), ("cgroup", "Q"), ("tgid", "I"),
             ("named", "I"), ("shared", "I"), ("pad", "I"))
PAUSE = (("pauses", "Q"), ("jiffies", "Q"), ("cgroup", "Q"), ("comm", "16s"))
CONFIG = (("threshold_ns", "Q"), ("since_ns", "Q"), ("epoch", "I"), ("pad", "I"))
FDS = (("tgid", "I"), ("fds", "I"), ("max_fds", "I"), ("pad", "I"), ("limit", "Q"),
       ("start_boottime_ns", "Q"), ("cgroup", "Q"), ("now_ns", "Q"), ("jiffies", "Q"),
       ("comm", "16s"))

KEY_STRUCT, STAT_STRUCT, EVENT_STRUCT = packer(KEY), packer(STAT), packer(EVENT)
USE_STRUCT, SHARE_STRUCT = packer(USE), packer(SHARE)
OPEN_KEY_STRUCT, OPEN_FOLD_STRUCT = packer(OPEN_KEY), packer(OPEN_FOLD)
PAUSE_STRUCT, CONFIG_STRUCT, FDS_STRUCT = packer(PAUSE), packer(CONFIG), packer(FDS)

TEXT = 768        # bytes of a path as it was asked for; a third of it for each text of a mount
USES = 12_288     # pairs of a file and a process counted at once
HISTS = 2_048     # of them with latency histograms
SHARES = 3_072    # pairs of a process and a filesystem, all with histograms
NAMED = 10_240    # files whose path was sent in the last seconds
FOLDS = 8_192     # distinct (command, path, errno) of opens
FD_WORDS = 1_024  # words of 64 descriptors counted per process

DEFINES: dict[str, int] = {
    "KTOP_FS_TEXT": TEXT,
    "KTOP_FS_BASE": 3_840,       # bytes of names from a dentry to the root, with 256 to spare
    "KTOP_FS_DEPTH": 32,         # names, and mounts crossed on the way
    "KTOP_FS_USES": USES,
    "KTOP_FS_HISTS": HISTS,
    "KTOP_FS_SHARES": SHARES,
    "KTOP_FS_NAMED": NAMED,
    "KTOP_FS_FOLDS": FOLDS,
    "KTOP_FS_FD_WORDS": FD_WORDS,
    "KTOP_FS_RING_PAGES": 1_024,  # 4 MiB
    # events per 100 ms on the whole host: file names, slow operations, opens, new folds of opens
    "KTOP_FS_NAMES": 300,
    "KTOP_FS_SLOW": 100,
    "KTOP_FS_FEED": 100,
    "KTOP_FS_NEW_FOLDS": 200,
    "KTOP_FS_STAT_SIZE": STAT_STRUCT.size,
    "KTOP_FS_EVENT_SIZE": EVENT_STRUCT.size,
    "KTOP_FS_FDS_SIZE": FDS_STRUCT.size,
}
