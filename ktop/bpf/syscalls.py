"""What a thread that sleeps in a syscall is waiting for, by the syscall's name.

Sleeping by choice (waiting for work, time or children) is no stall; the rest is. read(2) and its
like may wait for a pipe, a socket or a terminal: that is `io`, not the network. Disk waits never
come here: they are uninterruptible.
"""

from __future__ import annotations

from ktop.bpf.layout import REASONS

_SLEEP = """epoll_wait epoll_pwait epoll_pwait2 poll ppoll select pselect6 nanosleep clock_nanosleep
pause wait4 waitid rt_sigsuspend rt_sigtimedwait restart_syscall accept accept4 io_getevents
io_pgetevents io_uring_enter msgrcv mq_timedreceive sched_yield inotify_add_watch exit exit_group"""
_LOCK = """futex futex_waitv futex_wait futex_requeue flock semop semtimedop fcntl"""
_NETWORK = """connect sendto recvfrom sendmsg recvmsg sendmmsg recvmmsg sendfile shutdown"""
_IO = """read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 splice tee
vmsplice copy_file_range open openat openat2 close fsync fdatasync sync sync_file_range syncfs
getdents getdents64 stat fstat lstat newfstatat statx rename unlink unlinkat mkdir truncate
ftruncate ioctl msgsnd mq_timedsend getrandom"""

# What kind of thing a syscall is about (enum ktop_class), the high half of `code_of`: syncing, a
# path, a descriptor of any kind, a file lock, a futex, a socket.
CLASSES = ("none", "fsync", "path", "fd", "lock", "futex", "socket")
_CLASS_OF = {name: CLASSES.index(what) for what, names in (
    ("fsync", "fsync fdatasync sync syncfs sync_file_range msync"),
    ("path", """open openat openat2 creat stat lstat fstat newfstatat statx rename renameat
     renameat2 unlink unlinkat mkdir mkdirat rmdir link linkat symlink symlinkat readlink readlinkat
     truncate ftruncate fallocate access faccessat faccessat2 chmod fchmod fchmodat chown fchown
     lchown fchownat utimensat getdents getdents64 statfs fstatfs copy_file_range execve execveat
     chdir"""),
    ("fd", """read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 splice
     sendfile close ioctl"""),
    ("lock", "flock fcntl"),
    ("futex", "futex"),
    ("socket", "connect sendto recvfrom sendmsg recvmsg sendmmsg recvmmsg shutdown"),
) for name in names.split()}

_BY_NAME = {name: REASONS.index(reason)
            for reason, names in (("sleep", _SLEEP), ("lock", _LOCK), ("network", _NETWORK),
                                  ("io", _IO))
            for name in names.split()}


def code_of(name: str) -> int:
    """A syscall's byte in the map `syscall_reason`."""
    return reason_of(name) | _CLASS_OF.get(name, 0) << 4


def reason_of(name: str) -> int:
    """Index into layout.REASONS; `other` for a syscall that is not listed."""
    return _BY_NAME.get(name, REASONS.index("other"))
