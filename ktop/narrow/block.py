"""Block devices as a scope sees them.

Summed anew: operations, bytes, latency (total only) and concurrency of the devices that the scope
used. Kept, because the device is shared: utilisation, its queue, requests under way, limits and the
most it has done. Unknown: queue and device time apart, merges, whole flushes of the device.
Partitions and what lies on a disk are not told apart: requests are of the disk.
"""

from __future__ import annotations

from msgspec.structs import replace

from ktop.model import Frame
from ktop.model_block import Block, BlockOp, BlockUser, Device
from ktop.narrow.rules import merged, total, within
from ktop.scope import Members


def narrow(layer: Block, members: Members, frame: Frame) -> Block:
    """The layer with only the requests that the scope's processes submitted."""
    has = within(members)
    users = [u for u in layer.users if has(u.pid, u.cgroup)]
    found = replace(
        layer, users=users, slow=[e for e in layer.slow if has(e.pid, e.cgroup)],
        unowned_per_s=None, queue=None)
    if not layer.owned:
        return _older(found, layer, members)
    rows = [u for u in layer.by_device if has(u.pid, u.cgroup)]
    found.by_device = rows
    found.users_cut = layer.users_cut if any(u.pid is None for u in rows) else 0
    found.groups = [g for g in layer.groups if members.has_group(g.cgroup)] if (
        members.cgroups is not None) else _groups(rows)
    by_name: dict[str | None, list[BlockUser]] = {}
    for row in rows:
        by_name.setdefault(row.device, []).append(row)
    interval = frame.clock.interval_ns
    found.devices = [_device(device, by_name[device.name], interval) for device in layer.devices
                     if device.name in by_name]
    found.devices_cut = 0
    _totals(found, layer)
    return found


def _older(found: Block, layer: Block, members: Members) -> Block:
    """From a recording that does not say which device a process used: users, and their sum."""
    whole = not layer.users_cut and layer.reads_per_s is not None
    found.devices, found.devices_cut, found.concurrency = [], 0, None
    found.groups = [g for g in layer.groups if members.has_group(g.cgroup)]
    for name in ("reads_per_s", "writes_per_s", "read_bytes_per_s", "write_bytes_per_s"):
        setattr(found, name, sum(getattr(u, name) for u in found.users) if whole else None)
    return found


def _rate(rows: list[BlockUser], name: str) -> float:
    return sum(getattr(row, name) or 0.0 for row in rows)


def _mean(rows: list[BlockUser], which: str) -> float | None:
    """Mean total latency, ns, weighted by how many there were."""
    pairs = [(getattr(row, f"{which}s_per_s"), getattr(row, f"{which}_ns")) for row in rows]
    known = [(rate, ns) for rate, ns in pairs if ns is not None]
    weight = sum(rate for rate, _ in known)
    return sum(rate * ns for rate, ns in known) / weight if weight else None


def _groups(rows: list[BlockUser]) -> list[BlockUser]:
    """By control group, all devices together."""
    found: dict[int, list[BlockUser]] = {}
    for row in rows:
        found.setdefault(row.cgroup, []).append(row)
    return [BlockUser(
        cgroup=cgroup, reads_per_s=_rate(mine, "reads_per_s"),
        writes_per_s=_rate(mine, "writes_per_s"), others_per_s=_rate(mine, "others_per_s"),
        read_bytes_per_s=_rate(mine, "read_bytes_per_s"),
        write_bytes_per_s=_rate(mine, "write_bytes_per_s"), read_ns=_mean(mine, "read"),
        write_ns=_mean(mine, "write"), syncs_per_s=_rate(mine, "syncs_per_s"),
        errors_per_s=_rate(mine, "errors_per_s"),
        latency=merged(h for u in mine for h in (u.read, u.write, u.other)))
        for cgroup, mine in found.items()]


def _ops(rows: list[BlockUser]) -> list[BlockOp]:
    """Operations on one device; those that are neither read nor write in one line."""
    errors = _rate(rows, "errors_per_s")
    reads, writes = _rate(rows, "read_errors_per_s"), _rate(rows, "write_errors_per_s")
    others, syncs = _rate(rows, "others_per_s"), _rate(rows, "syncs_per_s")
    found = [
        BlockOp("read", _rate(rows, "reads_per_s"), _rate(rows, "read_bytes_per_s"), reads,
                total=merged(u.read for u in rows)),
        BlockOp("write", _rate(rows, "writes_per_s"), _rate(rows, "write_bytes_per_s"), writes,
                total=merged(u.write for u in rows)),
        BlockOp("sync" if others == syncs else "other", others, _rate(rows, "other_bytes_per_s"),
                max(0.0, errors - reads - writes), total=merged(u.other for u in rows))]
    for op in found:
        op.unstamped_per_s = 0.0 if op.total else op.per_s
        op.undivided_per_s = op.per_s - op.unstamped_per_s
    return [op for op in found if op.per_s]


def _device(device: Device, rows: list[BlockUser], interval_ns: int | None) -> Device:
    ops = _ops(rows)
    spent = sum(op.total.sum_ns for op in ops if op.total)
    return replace(
        device, ops=ops, reads_per_s=_rate(rows, "reads_per_s"),
        # the kernel's counters, which the device has otherwise, take a sync for a write
        writes_per_s=_rate(rows, "writes_per_s") + _rate(rows, "syncs_per_s"),
        read_bytes_per_s=_rate(rows, "read_bytes_per_s"),
        write_bytes_per_s=_rate(rows, "write_bytes_per_s"), read_ns=_mean(rows, "read"),
        write_ns=_mean(rows, "write"), concurrency=spent / interval_ns if interval_ns else None,
        discards_per_s=None, flushes_per_s=None, merges_per_s=None, discard_bytes_per_s=None)


def _totals(found: Block, layer: Block) -> None:
    """Sums over the devices that are counted, as the host's."""
    counted = [d for d in found.devices if d.counted]
    for name in ("reads_per_s", "writes_per_s", "read_bytes_per_s", "write_bytes_per_s",
                 "concurrency"):
        known = getattr(layer, name) is not None
        setattr(found, name, total(getattr(d, name) for d in counted) if known else None)




def notes(layer: Block, members: Members) -> list[str]:
    """What is not the scope's own, in words for the help."""
    found = ["Utilisation, queue, requests under way, limits and the most seen are the whole "
             "device's; rates, latency and concurrency are those of the scope's requests.",
             "Partitions are not told apart: requests are of the disk."]
    if layer.writeback_owner is False:
        found.append("On cgroup v1 what the kernel writes back later is the kernel thread's, not "
                     "of who wrote it.")
    if not layer.owned:
        found.append("This recording does not say which device a process used.")
    elif members.cgroups is None and layer.users_cut:
        found.append(f"{layer.users_cut} less busy processes are not told apart: theirs is "
                     "missing.")
    return found
