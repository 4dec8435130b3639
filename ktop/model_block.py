"""Rows of the block layer. Conventions: ktop/model.py."""

from __future__ import annotations

from ktop.parts import Hist, Part, Real

# Operations as enum req_op names them (include/linux/blk_types.h), in the order panes show them.
# `sync`: a request that carries nothing but a flush, as an fsync without data sends it; the
# kernel's own counters have it under writes. `flush`: what the device itself executes for it.
OPERATIONS = ("read", "write", "discard", "flush", "sync")


class Limit(Part):
    """What a volume is sold as: operations and bytes a second, None where nothing was said.

    Of a network interface: packets and bytes a second, in each direction.
    """

    device: str
    iops: Real | None = None
    bytes_per_s: Real | None = None
    packets_per_s: Real | None = None


class BlockOp(Part):
    """One operation on one device, over the interval, from block_rq_complete.

    queue: from the request's allocation to its issue to the device (start_time_ns to
    io_start_time_ns). device: from there to its completion. total: both. None where no request of
    this operation ended in the interval, or its times are not known.
    unstamped_per_s: requests of which no time is known (iostats off).
    undivided_per_s: requests of which only the total is known.
    """

    op: str
    per_s: Real
    bytes_per_s: Real
    errors_per_s: Real = 0.0
    queue: Hist | None = None
    device: Hist | None = None
    total: Hist | None = None
    unstamped_per_s: Real = 0.0
    undivided_per_s: Real = 0.0


class Device(Part):
    """A block device. Rates, times and in_flight: /proc/diskstats; None while the device's
    queue/iostats is off and nothing of it moves.

    kind: disk, partition, loop, dm (or lvm, crypt, mpath), md (or its level), zram, ram, nbd, rom.
    what: the name a mapping goes by, the file behind a loop device. parent: the disk of a
    partition. slaves: the devices a stacked one lies on. counted: it is in the layer's totals:
    disks that lie on no other device, no loop devices, nothing in memory.
    util_pct: % of time with a request under way (io_ticks). Not how full a device is that serves
    many at a time. queue: mean number under way (time_in_queue / interval).
    concurrency: the same from our own sums: rate x mean total latency (Little).
    in_flight: requests under way at the tick. read_ns, write_ns: mean total latency.
    best_iops, best_bytes_per_s: the most seen in one interval since ktop started.
    """

    name: str
    dev: int
    kind: str = "disk"
    what: str = ""
    parent: str | None = None
    slaves: list[str] = []
    counted: bool = False
    size_bytes: int | None = None
    rotational: bool | None = None
    scheduler: str | None = None
    reads_per_s: Real | None = None
    writes_per_s: Real | None = None
    discards_per_s: Real | None = None
    flushes_per_s: Real | None = None
    merges_per_s: Real | None = None
    read_bytes_per_s: Real | None = None
    write_bytes_per_s: Real | None = None
    discard_bytes_per_s: Real | None = None
    in_flight: int | None = None
    util_pct: Real | None = None
    queue: Real | None = None
    concurrency: Real | None = None
    read_ns: Real | None = None
    write_ns: Real | None = None
    ops: list[BlockOp] = []
    limit: Limit | None = None
    best_iops: Real | None = None
    best_bytes_per_s: Real | None = None


class BlockUser(Part):
    """Requests by who submitted them: a process in a cgroup, or (pid None) a whole cgroup.

    Counted when they end. A kernel thread that writes back is itself on cgroup v1; on v2 the
    cgroup is the one that dirtied the pages. others_per_s: discards, flushes and the like;
    syncs_per_s: those of them that are `sync`, which the kernel's counters have under writes.
    latency: total, of all its requests.
    device: the disk they went to (`Block.by_device`); None: all of them together. read, write,
    other: latency by operation, in the rows by device only. errors_per_s: of all operations.
    """

    cgroup: int
    pid: int | None = None
    comm: str = ""
    reads_per_s: Real = 0.0
    writes_per_s: Real = 0.0
    others_per_s: Real = 0.0
    read_bytes_per_s: Real = 0.0
    write_bytes_per_s: Real = 0.0
    read_ns: Real | None = None
    write_ns: Real | None = None
    latency: Hist | None = None
    device: str | None = None
    syncs_per_s: Real | None = None
    errors_per_s: Real | None = None
    read: Hist | None = None
    write: Hist | None = None
    other: Hist | None = None
    read_errors_per_s: Real | None = None
    write_errors_per_s: Real | None = None
    other_bytes_per_s: Real | None = None


class SlowIo(Part):
    """One request that took `Block.slow_ns` or more, or failed.

    time_ns: when it ended. device: the disk; part: the partition, where it was sent to one.
    sector: of 512 bytes, on the disk. flags: of sync, meta, ahead, fua, background. pid None: not
    known who. queue_ns, device_ns None: only the total is known. error: errno's name.
    """

    time_ns: int
    device: str
    op: str
    sector: int
    bytes: int
    total_ns: int
    part: str | None = None
    queue_ns: int | None = None
    device_ns: int | None = None
    pid: int | None = None
    comm: str = ""
    cgroup: int | None = None
    flags: str = ""
    error: str | None = None


class Block(Part):
    """The block layer. Totals are sums over the counted devices, from /proc/diskstats.

    slow: newest last, at most SLOW_PER_FRAME; slow_cut more happened. devices_cut, users_cut:
    rows left out (the least busy). unowned_per_s: requests whose submitter is not known.
    unseen_pct: requests of the counted devices that the kernel's counters have and the program at
    block_rq_complete was not run for (seen in bursts on some kernels; a few are the tick's edges).
    writeback_owner: whether the kernel says whose pages a kernel thread writes back (cgroup v2).
    by_device: users by the disk they used, all of them: those that are not in `users` (users_cut)
    summed by cgroup, pid None. owned: by_device is told (older recordings have none).
    """

    devices: list[Device] = []
    users: list[BlockUser] = []
    groups: list[BlockUser] = []
    slow: list[SlowIo] = []
    slow_ns: int = 0
    slow_cut: int = 0
    devices_cut: int = 0
    users_cut: int = 0
    reads_per_s: Real | None = None
    writes_per_s: Real | None = None
    read_bytes_per_s: Real | None = None
    write_bytes_per_s: Real | None = None
    queue: Real | None = None
    concurrency: Real | None = None
    unowned_per_s: Real | None = None
    untracked_total: int = 0
    writeback_owner: bool | None = None
    unseen_pct: Real | None = None
    owned: bool = False
    by_device: list[BlockUser] = []


SLOW_PER_FRAME = 500
