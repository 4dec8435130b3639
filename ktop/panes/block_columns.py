"""The columns of the Block pane: devices, operations, submitters, cgroups, slow requests."""

from __future__ import annotations

from collections.abc import Callable

from ktop import format as fmt
from ktop import hist, theme
from ktop.history_feeds import Fed
from ktop.model import Hist
from ktop.model_block import BlockOp, BlockUser, Device, SlowIo
from ktop.panes.base import Names
from ktop.panes.figures import (
    NEVER,
    cgroup_column,
    figure,
    latency,
    latency_style,
    percentile,
)
from ktop.widgets.columns import Column


def _rate(key: str, title: str, field: str, text: str, width: int = 5) -> Column:
    return figure(key, title, width, fmt.rate, field, text)


def _bytes(key: str, title: str, field: str, text: str) -> Column:
    return figure(key, title, 5, fmt.size, field, text)


def of_op(device: Device, name: str) -> BlockOp | None:
    """One operation's row of a device."""
    return next((op for op in device.ops if op.op == name), None)


def _op_p99(name: str) -> Callable[[Device], float | None]:
    def get(device: Device) -> float | None:
        op = of_op(device, name)
        return percentile(op.total, 99) if op else None
    return get


def share(now: float | None, most: float | None) -> float | None:
    """`now` as % of `most`; None where either is unknown."""
    return 100.0 * now / most if now is not None and most else None


def total_rates(device: Device) -> tuple[float | None, float | None]:
    """(operations, bytes) a second, reads and writes: what a volume is limited by."""
    if device.reads_per_s is None or device.writes_per_s is None:
        return None, None
    return (device.reads_per_s + device.writes_per_s,
            (device.read_bytes_per_s or 0.0) + (device.write_bytes_per_s or 0.0))


def headroom(device: Device) -> float | None:
    """% used of the declared limit that is nearer; None without one."""
    if device.limit is None:
        return None
    iops, rate = total_rates(device)
    known = [s for s in (share(iops, device.limit.iops), share(rate, device.limit.bytes_per_s))
             if s is not None]
    return max(known) if known else None


def _what(device: Device) -> str:
    below = f"on {', '.join(device.slaves)}" if device.slaves else ""
    return " ".join(x for x in (device.kind, device.what, below) if x)


def device_columns(name: Callable[[Device], str]) -> list[Column]:
    """Rows are Devices; `name` draws the branch of a partition."""
    return [
        Column("name", "DEVICE", 11, name, "left", sort=lambda d: d.name,
               style=lambda d: "strong" if d.counted else "normal",
               help="block device; partitions below their disk. Bold: it is in the totals"),
        _rate("reads", "R/s", "reads_per_s", "reads completed a second (/proc/diskstats)"),
        _rate("writes", "W/s", "writes_per_s", "writes completed a second, flushes included"),
        _bytes("rbytes", "RD/s", "read_bytes_per_s", "bytes read a second"),
        _bytes("wbytes", "WR/s", "write_bytes_per_s", "bytes written a second"),
        Column("util", "UTIL%", 6, lambda d: fmt.pct(d.util_pct), sort=lambda d: d.util_pct,
               style=lambda d: theme.load(d.util_pct, 1e9, 1e9),
               help="time with a request under way, % (io_ticks). 100 is not full: many devices "
                    "serve many requests at a time"),
        Column("queue", "QUEUE", 5, lambda d: fmt.number(d.queue), sort=lambda d: d.queue,
               style=lambda d: theme.load(d.queue, 4, 16, 0.005),
               help="mean number of requests under way (time_in_queue / interval); over 4 on a "
                    "small cloud volume and over 16 on a big one is worth a look"),
        latency("rp99", "R P99", _op_p99("read"),
                 "99th percentile of reads, queue and device time"),
        latency("wp99", "W P99", _op_p99("write"), "99th percentile of writes"),
        Column("limit", "LIM%", 4, lambda d: fmt.pct(headroom(d)), sort=headroom,
               style=lambda d: theme.load(headroom(d), 70, 90),
               help="use of the declared limit that is nearer (--limit)"),
        Column("flight", "NOW", 4, lambda d: fmt.count(d.in_flight), sort=lambda d: d.in_flight,
               style=lambda d: theme.load(d.in_flight, NEVER, NEVER),
               help="requests under way at the moment of the tick"),
        _rate("discards", "DISC/s", "discards_per_s", "discards a second", 6),
        _rate("flushes", "FLSH/s", "flushes_per_s", "cache flushes a second", 6),
        _rate("merges", "MRG/s", "merges_per_s", "requests merged into others a second"),
        latency("rmean", "R MEAN", lambda d: d.read_ns, "mean of reads (diskstats, ms exact)"),
        latency("wmean", "W MEAN", lambda d: d.write_ns, "mean of writes"),
        Column("size", "SIZE", 5, lambda d: fmt.size(d.size_bytes), sort=lambda d: d.size_bytes,
               kind="bytes",
               style=lambda _: "dim", help="capacity"),
        Column("sched", "SCHED", 11, lambda d: d.scheduler or "-", "left",
               sort=lambda d: d.scheduler, style=lambda _: "dim", help="I/O scheduler"),
        Column("spins", "ROT", 3,
               lambda d: "-" if d.rotational is None else "yes" if d.rotational else "no", "left",
               sort=lambda d: d.rotational, style=lambda _: "dim",
               help="whether it says that it rotates"),
        Column("what", "WHAT", 8, _what, "left", sort=lambda d: d.kind,
               style=lambda _: "dim", min_width=6,
               help="disk, partition, loop (and its file), mapping (its name, and the devices "
                    "it lies on), md level"),
    ]


def _mean(op: BlockOp, kind: str) -> float | None:
    h: Hist | None = getattr(op, kind)
    n = hist.count(h) if h else 0
    return h.sum_ns / n if h and n else None


def _parts(op: BlockOp) -> str:
    if op.device is None or op.queue is None:
        return fmt.duration(_mean(op, "total"))
    return f"{fmt.duration(_mean(op, 'queue'))}+{fmt.duration(_mean(op, 'device'))}"


def _pct(kind: str, pct: float) -> Callable[[BlockOp], float | None]:
    return lambda op: percentile(getattr(op, kind), pct)


def _longest(kind: str) -> Callable[[BlockOp], float | None]:
    def get(op: BlockOp) -> float | None:
        h: Hist | None = getattr(op, kind)
        return h.max_ns if h else None
    return get


def op_columns() -> list[Column]:
    """Rows are BlockOps of one device."""
    return [
        Column("op", "OP", 8, lambda o: o.op, "left", style=lambda _: "strong",
               help="operation. flush: the device empties its write cache. sync: a request that "
                    "is only a flush, as an fsync without data (diskstats: a write)"),
        _rate("per_s", "IO/s", "per_s", "requests completed a second (block_rq_complete)"),
        latency("q50", "Q P50", _pct("queue", 50),
                 "median queue time: from the request's start to its issue to the device"),
        latency("q99", "Q P99", _pct("queue", 99), "its 99th percentile"),
        latency("d50", "D P50", _pct("device", 50),
                 "median device time: from the issue to the completion"),
        latency("d95", "D P95", _pct("device", 95), "its 95th percentile"),
        latency("d99", "D P99", _pct("device", 99), "its 99th percentile"),
        latency("d999", "DP99.9", _pct("device", 99.9), "its 99.9th percentile"),
        latency("dmax", "D MAX", _longest("device"), "the longest device time"),
        _bytes("bytes", "B/s", "bytes_per_s", "bytes a second"),
        Column("size", "SIZE", 5,
               lambda o: fmt.size(o.bytes_per_s / o.per_s if o.per_s else None),
               sort=lambda o: o.bytes_per_s / o.per_s if o.per_s else None,
               style=lambda _: "normal", help="mean size: IO/s x SIZE = B/s"),
        latency("q95", "Q P95", _pct("queue", 95), "95th percentile of the queue time"),
        latency("q999", "QP99.9", _pct("queue", 99.9), "its 99.9th percentile"),
        latency("qmax", "Q MAX", _longest("queue"), "the longest queue time"),
        latency("t99", "T P99", _pct("total", 99), "99th percentile of queue and device time"),
        latency("tmax", "T MAX", _longest("total"), "the longest in all"),
        Column("errors", "ERR/s", 5, lambda o: fmt.rate(o.errors_per_s),
               sort=lambda o: o.errors_per_s, style=lambda o: theme.load(o.errors_per_s, 0, 0),
               help="requests that failed a second"),
        Column("mean", "MEAN Q+D", 11, _parts, "left",
               sort=lambda o: _mean(o, "total"), min_width=9,
               help="mean queue time + mean device time"),
    ]


def _user_rates() -> list[Column]:
    return [
        _rate("reads", "R/s", "reads_per_s", "its reads that ended, a second"),
        _rate("writes", "W/s", "writes_per_s", "its writes that ended, a second"),
        _bytes("rbytes", "RD/s", "read_bytes_per_s", "bytes read a second"),
        _bytes("wbytes", "WR/s", "write_bytes_per_s", "bytes written a second"),
        latency("p99", "P99", lambda u: percentile(u.latency, 99),
                 "99th percentile of its requests, queue and device time"),
        latency("p50", "P50", lambda u: percentile(u.latency, 50), "median of its requests"),
        latency("rmean", "R MEAN", lambda u: u.read_ns, "mean latency of its reads"),
        latency("wmean", "W MEAN", lambda u: u.write_ns, "mean latency of its writes"),
        _rate("others", "OTH/s", "others_per_s", "discards, flushes and others a second"),
        Column("all", "IO/s", 5, lambda u: fmt.rate(every(u)), sort=every,
               style=lambda _: "normal", help="all of its requests a second"),
    ]


def every(user: BlockUser) -> float:
    """All requests a second."""
    return user.reads_per_s + user.writes_per_s + user.others_per_s


def user_columns(names: Names) -> list[Column]:
    """Rows are BlockUsers with a pid."""
    return [
        Column("pid", "PID", 7, lambda u: str(u.pid), sort=lambda u: u.pid,
               help="process that submitted the requests"),
        *_user_rates(),
        cgroup_column(names),
        Column("command", "COMMAND", 14, lambda u: u.comm or "-", "left",
               sort=lambda u: u.comm.casefold(), min_width=12,
               help="command; kworker: write-back and other work of the kernel's own threads"),
    ]


def group_columns(names: Names) -> list[Column]:
    """Rows are BlockUsers that are whole cgroups."""
    return [
        *_user_rates(),
        cgroup_column(names, 16, min_width=12),
    ]


def slow_columns(names: Names) -> list[Column]:
    """The feed's columns. Rows are Fed SlowIos."""
    def note(event: Fed[SlowIo]) -> str:
        return " ".join(x for x in (event.event.error or "", event.event.flags) if x)

    def time(key: str, title: str, field: str, text: str) -> Column:
        return Column(key, title, 6, lambda e: fmt.duration(getattr(e.event, field)),
                      style=lambda e: latency_style(getattr(e.event, field)), help=text,
                      kind="ns", value=lambda e: getattr(e.event, field))

    return [
        Column("time", "TIME", 8, lambda e: fmt.clock_time(e.event.time_ns), "left",
               style=lambda _: "dim", help="time of day at which it ended"),
        Column("device", "DEVICE", 8, lambda e: e.event.part or e.event.device, "left",
               help="disk, or the partition it was sent to"),
        Column("op", "OP", 7, lambda e: e.event.op, "left", help="operation"),
        time("queue", "QUEUE", "queue_ns", "time before it was issued to the device"),
        time("dev", "DEV", "device_ns", "time in the device"),
        Column("command", "COMMAND", 12, lambda e: e.event.comm or "-", "left",
               style=lambda e: "normal" if e.event.comm else "dim",
               help="who submitted it; `-` for a flush, which many may wait for"),
        Column("pid", "PID", 7, lambda e: "-" if e.event.pid is None else str(e.event.pid),
               help="its process id"),
        Column("bytes", "BYTES", 5, lambda e: fmt.size(e.event.bytes), help="size",
               kind="bytes", value=lambda e: e.event.bytes),
        time("total", "TOTAL", "total_ns", "queue and device time"),
        Column("cgroup", "CGROUP", 14, lambda e: names.cgroup(e.event.cgroup), "left",
               help="container, pod or unit"),
        Column("sector", "SECTOR", 11, lambda e: str(e.event.sector), style=lambda _: "dim",
               help="where on the disk, in units of 512 bytes"),
        Column("note", "NOTE", 10, note, "left", min_width=6,
               style=lambda e: "bad" if e.event.error else "dim",
               help="error, and flags: sync (somebody waits), meta (of the file system), ahead "
                    "(read-ahead), fua (past the cache), background (write-back)"),
    ]
