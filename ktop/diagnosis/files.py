"""Pipe `file`: fsync, writers that are paused, file locks, and slow filesystems."""

from __future__ import annotations

from ktop import hist
from ktop.diagnosis.look import Look, Waiter, set_percentiles
from ktop.diagnosis.model import Evidence, Pipe
from ktop.model import Hist
from ktop.model_files import FileSystem


class FilePipes:
    """Knows which locks are ever got: one that nobody has got for long is a stand-by's."""

    def __init__(self) -> None:
        self._moved: dict[int, int] = {}  # pid -> when a thread of it last went on

    def measure(self, look: Look) -> list[Pipe]:
        """A pipe for each of the four; behind a full device a fsync is the device's (`block`)."""
        if not look.tracked:
            return [Pipe("file", state="blind", why_blind="no accounts of waiting threads")]
        pipes = [pipe for pipe in (self._fsync(look), self._dirty(look), self._locks(look),
                                   self._slow(look)) if pipe.state != "ok"]
        if pipes:
            return pipes
        quiet = Pipe("file", stalled=sum(
            look.sum(kind) for kind in ("fsync", "dirty", "file_lock", "file"))
            if not look.fsync_is_disk else look.sum("dirty") + look.sum("file"))
        self._rates(look, quiet)
        return [quiet]

    @staticmethod
    def _rates(look: Look, pipe: Pipe) -> None:
        host = look.frame.files.host if look.frame.files is not None else None
        if host is None:
            return
        known = [v for v in (host.reads_per_s, host.writes_per_s, host.fsyncs_per_s)
                 if v is not None]
        pipe.rate_per_s = sum(known) if known else None
        if host.read_bytes_per_s is not None and host.write_bytes_per_s is not None:
            pipe.throughput_bytes_per_s = host.read_bytes_per_s + host.write_bytes_per_s
            if pipe.rate_per_s:
                pipe.mean_size_bytes = pipe.throughput_bytes_per_s / pipe.rate_per_s
        pipe.errors_per_s, pipe.concurrency = host.errors_per_s, host.inside

    def _fsync(self, look: Look) -> Pipe:
        """Synchronous commits: a thread that does little else, or one that is slow."""
        t = look.limits
        stalled = look.sum("fsync")
        pipe = Pipe("file", "fsync", stalled=stalled)
        if look.fsync_is_disk or stalled < t.fsync_slow_stalled:
            return pipe
        files = look.frame.files
        histogram = _fsyncs(look)
        set_percentiles(pipe, histogram)
        bound = [w for w in look.waiters.values()
                 if w.fsync >= t.fsync_bound and w.fsync >= t.fsync_bound_share * _doing(w)]
        slow = (pipe.p99_ns or 0.0) >= t.fsync_ns
        if not bound and not slow:
            return pipe
        pipe.state, pipe.confidence = "waiting", 0.85
        if files is not None and files.host is not None:
            pipe.rate_per_s = files.host.fsyncs_per_s
        pipe.victims = look.victims("fsync")
        pipe.culprits = pipe.victims  # nobody else is in their way
        pipe.evidence = [Evidence("threads in fsync", stalled, "threads", "accounts",
                                  t.fsync_bound)]
        if pipe.p99_ns is not None:
            pipe.evidence.append(Evidence("fsync, P99", pipe.p99_ns / 1e6, "ms",
                                          "entry to exit of the syscall", t.fsync_ns / 1e6))
        if pipe.rate_per_s is not None:
            pipe.evidence.append(Evidence("fsyncs", pipe.rate_per_s, "/s", "syscalls"))
        pipe.check = "strace -c -f -e fsync,fdatasync -p PID; biosnoop (flushes)"
        pipe.next = ("commit more at once (group commit, batches), move the log to a device that "
                     "flushes faster, or sync less often")
        return pipe

    @staticmethod
    def _dirty(look: Look) -> Pipe:
        """Writers that balance_dirty_pages() pauses."""
        t, stalled = look.limits, look.sum("dirty")
        pipe = Pipe("file", "dirty pages", stalled=stalled)
        if stalled < t.dirty_stalled:
            return pipe
        pipe.state, pipe.confidence = "saturated", 0.9
        pipe.victims = look.victims("dirty")
        pipe.culprits = pipe.victims
        pipe.evidence = [Evidence("writers paused", stalled, "threads", "balance_dirty_pages",
                                  t.dirty_stalled)]
        cache = look.frame.files.cache if look.frame.files is not None else None
        if cache is not None and cache.dirty_bytes is not None:
            pipe.evidence.append(Evidence(
                "dirty pages, of the threshold", cache.dirty_bytes / (1 << 20), "MiB",
                "/proc/vmstat nr_dirty",
                cache.threshold_bytes / (1 << 20) if cache.threshold_bytes else None))
        pipe.check = "grep -E 'nr_dirty|nr_writeback' /proc/vmstat"
        pipe.next = "write less at once, or bring it to the disk sooner (vm.dirty_background_bytes)"
        return pipe

    def _locks(self, look: Look) -> Pipe:
        """flock and fcntl locks that somebody waits for and that do change hands."""
        t, now = look.limits, look.frame.clock.monotonic_ns
        waiting = [w for w in look.waiters.values() if w.file_lock > 0.02]
        for w in waiting:
            if w.process.voluntary_per_s or w.process.pid not in self._moved:
                self._moved[w.process.pid] = now if w.process.voluntary_per_s else 0
        self._moved = {w.process.pid: self._moved[w.process.pid] for w in waiting}
        live = {pid for pid, at in self._moved.items() if now - at < t.file_lock_idle_s * 1e9}
        stalled = sum(w.file_lock for w in waiting if w.process.pid in live)
        pipe = Pipe("file", "file locks", stalled=stalled)
        if stalled < t.file_lock_stalled:
            return pipe
        pipe.state, pipe.confidence = "contended", 0.9
        pipe.victims = look.longest(lambda w: w.file_lock * (w.process.pid in live))
        pipe.culprits = pipe.victims  # each is in the way of the others
        turns = sum(w.process.voluntary_per_s or 0.0 for w in waiting)
        pipe.rate_per_s = turns
        pipe.evidence = [
            Evidence("threads that wait for a file lock", stalled, "threads", "flock, fcntl",
                     t.file_lock_stalled),
            Evidence("times they went on", turns, "/s", "voluntary switches")]
        pipe.check = "cat /proc/locks  (lines with ->)"
        pipe.next = "hold the file's lock for less, or lock something smaller than the whole file"
        return pipe

    def _slow(self, look: Look) -> Pipe:
        """Waits in syscalls on files that no device explains: inode locks, FUSE, network mounts."""
        t = look.limits
        slow = _slow_mount(look)
        # A read through the page cache of a network filesystem waits in iowait, as for a disk.
        remote = slow is not None and (slow.fstype or "").startswith(("fuse", "nfs", "cifs", "9p"))
        stalled = look.sum("file") + (_unexplained(look) if remote else 0.0)
        pipe = Pipe("file", "file operations", stalled=stalled)
        if stalled < t.file_stalled:
            return pipe
        pipe.state, pipe.confidence = "contended", 0.7
        pipe.victims = look.victims("file", "disk") if remote else look.victims("file")
        pipe.culprits = [] if remote else pipe.victims
        pipe.evidence = [Evidence("threads that wait in operations on files, not for a disk",
                                  stalled, "threads", "accounts", t.file_stalled)]
        pipe.check = "cat /proc/PID/stack of a waiting thread"
        pipe.next = "fewer writers to one file or directory at a time"
        if slow is not None:
            pipe.resource = slow.mount or f"{slow.fstype} {slow.dev}"
            pipe.state, pipe.confidence = "waiting" if remote else "contended", 0.85
            pipe.evidence.append(Evidence(f"mean of an operation on {slow.fstype}",
                                          _mean_ns(slow) / 1e6, "ms", "entry to exit of the "
                                          "syscalls", t.slow_op_ns / 1e6))
            if remote:
                pipe.next = "look at the server or daemon behind this mount"
        return pipe


def _doing(w: Waiter) -> float:
    """What a process does when it has a CPU to do it: all but sleep and run queues, in threads."""
    p = w.process
    off = sum(pct for name, pct in (p.off_cpu_pct or {}).items()
              if name not in ("sleep", "stopped", "other"))
    # Threads parked at a futex do nothing; a lock they fight for is another pipe's.
    return ((p.cpu_pct or 0.0) + off) / 100 - w.futex - w.socket


def _fsyncs(look: Look) -> Hist | None:
    """Latency of the fsyncs of the scope."""
    files = look.frame.files
    if files is None:
        return None
    if look.members is None:
        return files.host.fsync if files.host is not None else None
    found = [p.ops.fsync for p in files.processes
             if p.ops.fsync is not None and look.inside(p.pid, p.cgroup)]
    return hist.merge(found) if found else None


def _mean_ns(row: FileSystem) -> float:
    found = [h for h in (row.ops.read, row.ops.write, row.ops.fsync) if h is not None]
    n = sum(hist.count(h) for h in found)
    return sum(h.sum_ns for h in found) / n if n else 0.0


def _slow_mount(look: Look) -> FileSystem | None:
    """The filesystem with the most threads inside slow operations; None when none is slow."""
    files = look.frame.files
    rows = [row for row in (files.filesystems if files is not None else ())
            if (row.ops.inside or 0.0) >= 0.2 and _mean_ns(row) >= look.limits.slow_op_ns]
    return max(rows, key=lambda r: (r.ops.inside or 0.0, r.dev), default=None)


def _unexplained(look: Look) -> float:
    """Waits in iowait beyond the requests that all devices have under way."""
    block = look.frame.block
    under_way = sum(d.queue or 0.0 for d in block.devices if d.parent is None) if block else 0.0
    return max(0.0, look.sum("disk") - under_way)
