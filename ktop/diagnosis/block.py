"""Pipe `block`: one for each device that threads wait for.

A device is not full because it is busy: one reader keeps it 100% busy by itself. It is tight when
several threads wait and requests queue; when a thread waits behind the requests of others; when it
fails requests; when threads wait though the device has hardly any request of theirs (a limit above
it holds them back); when it is a mapping that keeps requests itself; when a declared limit is
reached; or when some requests take many times what most take, and that is what a thread waits for,
though nothing queues.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ktop import hist
from ktop.diagnosis.look import MOST, Look, Waiter, set_percentiles
from ktop.diagnosis.model import Actor, Evidence, Pipe
from ktop.diagnosis.thresholds import Thresholds
from ktop.model import Hist
from ktop.model_block import BlockUser, Device
from ktop.model_pressure import IoLimit

_DIRT_S = 20.0  # dirty pages are written back within half a minute (vm.dirty_expire_centisecs)
_CHECK = "iostat -xz 1  (aqu-sz, await; %util says little); biolatency -D"


@dataclass
class _Disk:
    """A device, who waits for it, and mean requests under way by who sent them.

    kept: of a mapping (dm, md), those under way that are not with the devices below it.
    """

    device: Device
    under_way: float = 0.0
    kept: float = 0.0
    background: float = 0.0  # of it by kernel threads
    by_pid: dict[int, float] = field(default_factory=dict)
    rates: dict[int, BlockUser] = field(default_factory=dict)
    disk: dict[int, float] = field(default_factory=dict)   # pid -> task-seconds a second
    fsync: dict[int, float] = field(default_factory=dict)

    @property
    def waiting(self) -> float:
        return sum(self.disk.values())


class BlockPipes:
    """Remembers who dirtied pages: a kernel thread's writes are theirs."""

    def __init__(self) -> None:
        self._dirt: dict[int, float] = {}  # pid -> bytes a second, fading

    def measure(self, look: Look) -> list[Pipe]:
        """One pipe for each device that somebody in the scope waits for, or that is in use."""
        block = look.frame.block
        if block is None or not look.tracked:
            why = "its probes are not loaded yet" if block is None else "no accounts of threads"
            return [Pipe("block", state="blind", why_blind=why)]
        self._remember(look)
        disks = {d.name: _Disk(d) for d in block.devices if d.parent is None}
        self._users(look, disks)
        _place(look, disks)
        pipes = [pipe for disk in disks.values() if (pipe := self._one(look, disk)) is not None]
        return pipes or [Pipe("block", stalled=0.0)]

    def _remember(self, look: Look) -> None:
        keep = max(0.0, 1.0 - look.seconds / _DIRT_S)
        faded = {pid: rate * keep for pid, rate in self._dirt.items() if rate * keep > 1024}
        for p in look.by_pid.values():
            if p.write_bytes_per_s and not p.kernel_thread:
                faded[p.pid] = faded.get(p.pid, 0.0) + p.write_bytes_per_s * (1 - keep)
        self._dirt = faded

    def _users(self, look: Look, disks: dict[str, _Disk]) -> None:
        """Requests under way, by process; those of kernel threads go to who dirtied the pages."""
        block = look.frame.block
        assert block is not None
        only = max(disks.values(), key=lambda d: d.device.queue or 0.0, default=None)
        for user in block.by_device if block.owned else block.users:
            disk = disks.get(user.device) if user.device is not None else only
            if disk is None or user.pid is None:
                continue
            under_way = _under_way(user, look.seconds)
            process = look.by_pid.get(user.pid)
            if process is not None and process.kernel_thread:
                disk.background += under_way
                continue
            disk.by_pid[user.pid] = disk.by_pid.get(user.pid, 0.0) + under_way
            disk.rates[user.pid] = user
        total = sum(self._dirt.values())
        for disk in disks.values():
            for pid, rate in self._dirt.items() if disk.background else ():
                disk.by_pid[pid] = disk.by_pid.get(pid, 0.0) + disk.background * rate / total
            d = disk.device
            disk.under_way = d.queue if d.queue is not None else d.concurrency or 0.0
        _mappings(look, disks)

    def _one(self, look: Look, disk: _Disk) -> Pipe | None:
        d = disk.device
        stalled = disk.waiting
        if stalled < 0.005 and not disk.under_way:
            return None
        pipe = Pipe("block", d.name, stalled=stalled, utilisation_pct=d.util_pct,
                    concurrency=disk.under_way)
        _figures(pipe, d)
        for rule in (_errors, _limited, _held, _kept, _full, _behind, _declared, _tail):
            if rule(look, disk, pipe):
                break
        else:
            return pipe
        if any(disk.fsync.values()) and pipe.state in ("saturated", "contended", "errors"):
            look.fsync_is_disk = True
            pipe.stalled = stalled + sum(disk.fsync.values())
        pipe.victims = pipe.victims or look.longest(
            lambda w: disk.disk.get(w.process.pid, 0.0) + disk.fsync.get(w.process.pid, 0.0))
        pipe.culprits = pipe.culprits or _culprits(look, disk)
        _latency(look, pipe)
        pipe.check = _CHECK
        return pipe


def _under_way(user: BlockUser, seconds: float) -> float:
    """Mean number of a user's requests under way (rate x latency)."""
    if user.device is not None and seconds:
        found = [h.sum_ns for h in (user.read, user.write, user.other) if h is not None]
        return sum(found) / 1e9 / seconds
    return (user.reads_per_s * (user.read_ns or 0) + user.writes_per_s * (user.write_ns or 0)) / 1e9


def _mappings(look: Look, disks: dict[str, _Disk]) -> None:
    """Mappings that keep each request for long before (or after) the devices below have it."""
    block = look.frame.block
    assert block is not None
    queues = {d.name: d.queue or 0.0 for d in block.devices}
    for disk in disks.values():
        d = disk.device
        below = [queues[name] for name in d.slaves if name in queues]
        kept = disk.under_way - sum(below) if below else 0.0
        per_s = (d.reads_per_s or 0.0) + (d.writes_per_s or 0.0)
        if kept > 0 and kept * 1e9 >= look.limits.slow_op_ns * per_s:
            disk.kept = kept


def _place(look: Look, disks: dict[str, _Disk]) -> None:
    """Which device each thread waits for: where its requests are; else the most used. What a
    mapping keeps has no requests yet, and later they are of its kernel threads."""
    block = look.frame.block
    assert block is not None
    rows: dict[int, list[tuple[str, float]]] = {}
    for user in block.by_device:
        if user.pid in look.waiters and user.device in disks:
            amount = _under_way(user, look.seconds) + 1e-6 * (
                user.reads_per_s + user.writes_per_s + user.others_per_s)
            rows.setdefault(user.pid, []).append((user.device, amount))
    counted = [d for d in disks.values() if d.device.counted] or list(disks.values())
    counted += [d for d in disks.values() if d.kept and d not in counted]
    busiest = max(counted, key=lambda d: (d.kept or d.under_way, d.device.name), default=None)
    for w in look.waiters.values():
        if not w.disk and not w.fsync:
            continue
        pid = w.process.pid
        where = [(name, n) for name, n in rows.get(pid, ()) if n] or (
            [(busiest.device.name, 1.0)] if busiest is not None else [])
        total = sum(n for _, n in where)
        for name, n in where:
            disks[name].disk[pid] = w.disk * n / total
            disks[name].fsync[pid] = w.fsync * n / total


def _figures(pipe: Pipe, d: Device) -> None:
    rates = [v for v in (d.reads_per_s, d.writes_per_s, d.discards_per_s) if v is not None]
    sizes = [v for v in (d.read_bytes_per_s, d.write_bytes_per_s) if v is not None]
    pipe.rate_per_s = sum(rates) if rates else None
    pipe.throughput_bytes_per_s = sum(sizes) if sizes else None
    if pipe.rate_per_s and pipe.throughput_bytes_per_s is not None:
        pipe.mean_size_bytes = pipe.throughput_bytes_per_s / pipe.rate_per_s
    pipe.errors_per_s = sum(op.errors_per_s for op in d.ops)
    totals = [op.total for op in d.ops if op.total is not None and op.op != "flush"]
    set_percentiles(pipe, hist.merge(totals) if totals else None)
    if d.limit is not None:
        parts = [100 * (pipe.rate_per_s or 0.0) / d.limit.iops if d.limit.iops else 0.0,
                 100 * (pipe.throughput_bytes_per_s or 0.0) / d.limit.bytes_per_s
                 if d.limit.bytes_per_s else 0.0]
        pipe.headroom_pct = max(0.0, 100 - max(parts))


def _latency(look: Look, pipe: Pipe) -> None:
    """Evidence that every kind of tightness has."""
    if pipe.p99_ns is not None and pipe.p50_ns is not None:
        pipe.evidence.append(Evidence("requests, P99", pipe.p99_ns / 1e6, "ms",
                                      "block_rq_complete, queue and device",
                                      look.limits.tail_ratio * pipe.p50_ns / 1e6))
    fsyncs = look.frame.files.host if look.frame.files is not None else None
    p99 = hist.percentile(fsyncs.fsync, 99) if fsyncs is not None and fsyncs.fsync else None
    if p99 is not None and look.fsync_is_disk:
        pipe.evidence.append(Evidence("fsync, P99", p99 / 1e6, "ms", "entry to exit of the syscall",
                                      look.limits.fsync_ns / 1e6))


def _queue(disk: _Disk, reference: float) -> Evidence:
    return Evidence("requests under way", disk.under_way, "requests",
                    "/proc/diskstats, time in queue", reference)


def _waiters(stalled: float, reference: float) -> Evidence:
    return Evidence("threads that wait for it", stalled, "threads", "accounts, iowait and fsync",
                    reference)


def _culprits(look: Look, disk: _Disk) -> list[Actor]:
    """Whose requests fill the device, the pages they dirtied included."""
    total = sum(disk.by_pid.values())
    found = sorted(disk.by_pid.items(), key=lambda pair: (-pair[1], pair[0]))[:MOST]
    actors = []
    for pid, n in found:
        if total and n / total >= 0.02:
            user = disk.rates.get(pid)
            actors.append(look.actor_of(pid, user.comm if user else None,
                                        user.cgroup if user else None, n / total))
    return actors


# -- the rules: each says whether it applies, and then completes the pipe --------------------------


def _errors(look: Look, disk: _Disk, pipe: Pipe) -> bool:
    """Requests fail."""
    if not pipe.errors_per_s:
        return False
    pipe.state, pipe.confidence = "errors", 0.95
    pipe.evidence = [Evidence("requests that failed", pipe.errors_per_s, "/s",
                              "block_rq_complete", 0.0)]
    pipe.next = "look at the kernel's log and the device's health (dmesg, smartctl)"
    return True


def _rate_of(limit: IoLimit, users: Iterable[BlockUser]) -> float:
    name = {"reads": "reads_per_s", "writes": "writes_per_s", "read bytes": "read_bytes_per_s",
            "write bytes": "write_bytes_per_s"}[limit.what]
    return float(sum(getattr(user, name) for user in users))


def _limited(look: Look, disk: _Disk, pipe: Pipe) -> bool:
    """A limit of a control group on this device is reached by those who wait."""
    t, pressure = look.limits, look.frame.pressure
    for limit in pressure.io_limits if pressure is not None else ():
        if limit.dev != disk.device.dev:
            continue
        waiting = sum(disk.disk.get(pid, 0.0) + disk.fsync.get(pid, 0.0) for pid in limit.pids)
        used = _rate_of(limit, (disk.rates[pid] for pid in limit.pids if pid in disk.rates))
        theirs = disk.background + sum(disk.by_pid.get(pid, 0.0) for pid in limit.pids)
        near = 100 * used / limit.per_s >= t.limit_near_pct - 15  # an interval is never exact
        if waiting < t.held_stalled or not (near or theirs <= t.held_share * waiting):
            continue
        pipe.state, pipe.confidence = "saturated", 0.95
        pipe.headroom_pct = max(0.0, 100 - 100 * used / limit.per_s)
        pipe.stalled = max(pipe.stalled or 0.0, waiting)
        pipe.evidence = [
            _waiters(waiting, t.held_stalled),
            Evidence(f"{limit.what} of {limit.path}, of its limit", used, "/s",
                     "block requests; blkio.throttle or io.max", limit.per_s),
            _queue(disk, t.queue_depth)]
        pipe.victims = look.longest(lambda w, pids=frozenset(limit.pids): (  # type: ignore[misc]
            disk.disk.get(w.process.pid, 0.0) if w.process.pid in pids else 0.0))
        pipe.culprits = pipe.victims
        small = limit.what in ("reads", "writes")
        pipe.next = ("fewer and larger requests, or a higher limit on operations" if small
                     else "a higher limit on bytes, or less to read and write")
        return True
    return False


def _held(look: Look, disk: _Disk, pipe: Pipe) -> bool:
    """Threads wait, and the device has hardly any request of theirs: they are held above it."""
    t = look.limits
    own = [pid for pid, stalled in disk.disk.items() if stalled > 0.05 and pid in disk.rates]
    waiting = sum(disk.disk[pid] for pid in own)
    theirs = disk.background + sum(disk.by_pid.get(pid, 0.0) for pid in own)
    if waiting < t.held_stalled or theirs > t.held_share * waiting:
        return False
    pipe.state, pipe.confidence = "saturated", 0.7
    pipe.evidence = [
        _waiters(waiting, t.held_stalled),
        Evidence("requests of theirs under way", theirs, "requests", "rate x latency", waiting)]
    pipe.culprits = pipe.victims = look.longest(lambda w: disk.disk.get(w.process.pid, 0.0))
    pipe.next = ("something above the device holds requests back: a limit (io.max, "
                 "blkio.throttle), io.cost, or write-back throttling")
    return True


def _kept(look: Look, disk: _Disk, pipe: Pipe) -> bool:
    """Threads wait for a mapping that keeps their requests, not for the devices below it."""
    t, d = look.limits, disk.device
    if disk.waiting < t.held_stalled or disk.kept < (1 - t.held_share) * disk.waiting:
        return False
    pipe.state, pipe.confidence = "saturated", 0.8
    below = ", ".join(d.slaves)
    pipe.evidence = [
        _waiters(disk.waiting, t.held_stalled),
        Evidence(f"requests that the mapping keeps, not {below}", disk.kept, "requests",
                 "/proc/diskstats, time in queue of both", disk.under_way)]
    if pipe.rate_per_s:
        pipe.evidence.append(Evidence("for each request", 1e3 * disk.kept / pipe.rate_per_s, "ms",
                                      "kept / rate", t.slow_op_ns / 1e6))
    pipe.culprits = pipe.victims = look.longest(lambda w: disk.disk.get(w.process.pid, 0.0))
    pipe.next = (f"look at the mapping {d.what or d.name} (dmsetup status, table): its cache, its "
                 f"encryption, its pool; {below} is not what is slow")
    return True


def _full(look: Look, disk: _Disk, pipe: Pipe) -> bool:
    """Several threads wait, and requests queue."""
    t, d = look.limits, disk.device
    waiting = disk.waiting + sum(disk.fsync.values())
    if waiting < t.block_stalled or disk.under_way < t.queue_depth:
        return False
    pipe.state, pipe.confidence = "saturated", 0.9
    pipe.evidence = [_waiters(waiting, t.block_stalled), _queue(disk, t.queue_depth)]
    best = d.best_iops or 0.0
    if best and pipe.rate_per_s is not None:
        pipe.evidence.append(Evidence("operations, of the most seen", pipe.rate_per_s, "/s",
                                      "/proc/diskstats", best))
    pipe.next = "fewer requests at once, larger ones, or a faster volume"
    return True


def _behind(look: Look, disk: _Disk, pipe: Pipe) -> bool:
    """A thread waits behind the requests of others."""
    t = look.limits
    total = sum(disk.by_pid.values())
    found: list[Waiter] = []
    for w in look.waiters.values():
        pid = w.process.pid
        stalled = disk.disk.get(pid, 0.0) + disk.fsync.get(pid, 0.0)
        others = total - disk.by_pid.get(pid, 0.0)
        if (stalled >= t.block_victim and others >= t.block_behind_queue
                and disk.by_pid.get(pid, 0.0) < t.block_own_share * total):
            found.append(w)
    if not found:
        return False
    pids = {w.process.pid for w in found}
    pipe.state, pipe.confidence = "contended", 0.85
    if disk.under_way >= t.queue_depth:
        pipe.state = "saturated"
    pipe.victims = look.longest(lambda w: (
        disk.disk.get(w.process.pid, 0.0) + disk.fsync.get(w.process.pid, 0.0))
        if w.process.pid in pids else 0.0)
    pipe.culprits = [a for a in _culprits(look, disk) if a.pid not in pids]
    waiting = sum(disk.disk.get(pid, 0.0) + disk.fsync.get(pid, 0.0) for pid in pids)
    pipe.evidence = [
        _waiters(waiting, t.block_victim), _queue(disk, t.queue_depth),
        Evidence("requests of others that they wait behind",
                 total - sum(disk.by_pid.get(pid, 0.0) for pid in pids), "requests",
                 "rate x latency of each process", t.block_behind_queue)]
    pipe.next = "limit the culprit's I/O (io.max, ionice), or give the victim a device of its own"
    return True


def _declared(look: Look, disk: _Disk, pipe: Pipe) -> bool:
    """What the volume is sold as is reached, and somebody waits."""
    t, limit = look.limits, disk.device.limit
    waiting = disk.waiting + sum(disk.fsync.values())
    if limit is None or pipe.headroom_pct is None or waiting < t.held_stalled:
        return False
    if pipe.headroom_pct > 100 - t.limit_near_pct:
        return False
    pipe.state, pipe.confidence = "saturated", 0.9
    pipe.evidence = [_waiters(waiting, t.held_stalled)]
    if limit.iops:
        pipe.evidence.append(Evidence("operations, of the volume's limit", pipe.rate_per_s or 0.0,
                                      "/s", "/proc/diskstats; --limit", limit.iops))
    if limit.bytes_per_s:
        pipe.evidence.append(Evidence("bytes, of the volume's limit",
                                      pipe.throughput_bytes_per_s or 0.0, "/s",
                                      "/proc/diskstats; --limit", limit.bytes_per_s))
    pipe.next = "a bigger volume, or larger and fewer requests"
    return True


def _tail(look: Look, disk: _Disk, pipe: Pipe) -> bool:
    """Most requests are quick, a few are not, and those few are most of what somebody waits for."""
    t = look.limits
    found: list[tuple[float, float, Waiter]] = []
    slow_s = 0.0
    for w in look.waiters.values():
        pid = w.process.pid
        user, stalled = disk.rates.get(pid), disk.disk.get(pid, 0.0) + disk.fsync.get(pid, 0.0)
        if user is None or stalled < t.tail_stalled:
            continue
        own = hist.merge(h for h in (user.read, user.write, user.other) if h is not None)
        tail = _long(own, t)
        if tail is None:
            continue
        slow_s += tail[1] / 1e9 / look.seconds
        found.append((stalled, tail[0], w))
    others = disk.under_way - sum(disk.by_pid.get(w.process.pid, 0.0) for _, _, w in found)
    if not found or max(others, disk.background) >= t.block_behind_queue / 2:
        return False
    pids = {w.process.pid for _, _, w in found}
    pipe.state, pipe.confidence = "contended", 0.7
    pipe.stalled = sum(stalled for stalled, _, _ in found)
    pipe.victims = pipe.culprits = look.longest(lambda w: (
        disk.disk.get(w.process.pid, 0.0) + disk.fsync.get(w.process.pid, 0.0))
        if w.process.pid in pids else 0.0)
    worst = max(p99 for _, p99, _ in found)
    pipe.evidence = [
        _waiters(pipe.stalled, t.tail_stalled),
        Evidence("requests of theirs, P99", worst / 1e6, "ms", "block_rq_complete",
                 t.tail_ns / 1e6),
        Evidence("in such long requests", slow_s, "requests", "time in them, a second",
                 t.tail_share * pipe.stalled)]
    pipe.next = ("the device itself is slow now and then, though nothing queues: its flushes, its "
                 "cache, a volume's credits, or what lies behind it")
    return True


def _long(own: Hist, t: Thresholds) -> tuple[float, float] | None:
    """(P99, ns in long requests) when the long ones stand apart and are most of the time."""
    median, p99 = hist.percentile(own, 50), hist.percentile(own, 99)
    if median is None or p99 is None or hist.count(own) < t.tail_samples:
        return None
    least = max(t.tail_ns, t.tail_ratio * median)
    counts = {i: n for i, n in own.counts.items() if hist.bounds(i)[1] > least}
    total, long = hist.midpoint_sum(own.counts), hist.midpoint_sum(counts)
    if p99 < least or not total or long < t.tail_share * total:
        return None
    return p99, float(long)
