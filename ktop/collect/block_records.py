"""What block.bpf.c keeps, as differences from tick to tick, and its slow requests as rows."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from ktop import hist
from ktop.bpf.block_layer import (
    OP_STRUCT,
    OP_TOTALS,
    OPS,
    PROC_STRUCT,
    SLOW_DIVIDED,
    SLOW_OWNED,
    SLOW_STRUCT,
)
from ktop.bpf.layout import HIST_SLOTS, TASK_HIST_SLOTS
from ktop.collect.events import errno_name
from ktop.model_block import OPERATIONS, BlockOp, BlockUser, SlowIo
from ktop.parts import Hist
from ktop.text import comm

_KEY = struct.Struct("@II")
_WHO = struct.Struct("@QII")
_REQUESTS = struct.calcsize("@4Q")  # an entry starts with its numbers of requests
_BORN, _HISTS = 16, 17  # places of born_ns and of the histograms in a block_procs entry
_N = len(OP_TOTALS)
# REQ_* flags: positions in enum req_flag_bits, the same since 4.8 (include/linux/blk_types.h)
_FLAGS = ((11, "sync"), (12, "meta"), (17, "fua"), (19, "ahead"), (20, "background"))
# blk_status_t (since 5.16 the tracepoint's error, before an errno) as block/blk-core.c has it
_STATUS = {1: "EOPNOTSUPP", 2: "ETIMEDOUT", 3: "ENOSPC", 4: "ENOLINK", 5: "EREMOTEIO",
           6: "EBADE", 7: "ENODATA", 8: "EILSEQ", 9: "ENOMEM", 10: "EIO", 12: "EAGAIN",
           13: "EBUSY"}


def op_name(op: int) -> str:
    """`read` for 0; the number where it has no name."""
    return OPS.get(op, f"op {op}")


def op_order(op: str) -> tuple[int, str]:
    """Reads and writes first."""
    return (OPERATIONS.index(op) if op in OPERATIONS else len(OPERATIONS)), op


def error_name(error: int) -> str | None:
    """errno's name of a completion's error; None for none."""
    if not error:
        return None
    return errno_name(error) if error < 0 else _STATUS.get(error, f"status {error}")


class Op(NamedTuple):
    """struct ktop_block_op, totals since it was loaded."""

    totals: tuple[int, ...]
    longest: tuple[int, ...]   # of two ticks: epoch, queue, device, total
    hists: tuple[tuple[int, ...], ...]  # queue, device, total


def decode_op(raw: bytes | memoryview) -> Op:
    """One value of block_ops."""
    v = OP_STRUCT.unpack(raw)
    at = _N + 8
    return Op(v[:_N], v[_N:at], tuple(
        v[at + i * HIST_SLOTS:at + (i + 1) * HIST_SLOTS] for i in range(3)))


_NOTHING = Op((0,) * _N, (0,) * 8, ((0,) * HIST_SLOTS,) * 3)


def _grown(new: Sequence[int], old: Sequence[int], total_ns: int,
           longest: int | None) -> Hist | None:
    if new == old:
        return None
    counts = {i: (a - b) & 0xFFFFFFFF for i, (a, b) in enumerate(zip(new, old, strict=True))
              if a != b}
    if longest is not None and longest < hist.bounds(max(counts))[0]:
        longest = None  # two CPUs wrote at once, or the request ended between the two reads
    return Hist(counts, total_ns, longest)


class Ops:
    """Operations by device."""

    def __init__(self) -> None:
        self._last: dict[bytes, Op] | None = None

    def update(self, found: list[tuple[bytes, memoryview]], epoch: int,
               interval: int | None) -> dict[int, list[BlockOp]]:
        """Rows by MKDEV number, for all operations seen since the start. `epoch`: of the tick that
        ends now."""
        old, self._last = self._last, {key: decode_op(raw) for key, raw in found}
        rows: dict[int, list[BlockOp]] = {}
        if old is None or not interval:
            return rows
        for key, op in self._last.items():
            dev, number = _KEY.unpack(key)
            rows.setdefault(dev, []).append(
                _op_row(op_name(number), op, old.get(key, _NOTHING), epoch, 1e9 / interval))
        for ops in rows.values():
            ops.sort(key=lambda op: op_order(op.op))
        return rows


def _op_row(name: str, new: Op, old: Op, epoch: int, scale: float) -> BlockOp:
    d = dict(zip(OP_TOTALS, (a - b for a, b in zip(new.totals, old.totals, strict=True)),
                 strict=True))
    at = 4 * (epoch & 1)
    seen = new.longest[at] == epoch
    longest = [new.longest[at + 1 + i] if seen else None for i in range(3)]
    queue, device, total = (
        _grown(a, b, d[f"{kind}_ns"], most) for a, b, kind, most in zip(
            new.hists, old.hists, ("queue", "device", "total"), longest, strict=True))
    return BlockOp(
        op=name, per_s=d["requests"] * scale, bytes_per_s=d["bytes"] * scale,
        errors_per_s=d["errors"] * scale, queue=queue, device=device, total=total,
        unstamped_per_s=d["unstamped"] * scale, undivided_per_s=d["undivided"] * scale)


class Users:
    """Requests by process, cgroup and device."""

    def __init__(self) -> None:
        self._last: dict[bytes, bytes] | None = None  # as read: half of what its numbers take
        self.moved: list[bytes] = []  # keys

    def update(self, found: list[tuple[bytes, memoryview]], interval: int | None,
               name_of: Callable[[int], str],
               taken: Iterable[tuple[bytes, bytes]] = ()) -> list[BlockUser]:
        """A row for each whose requests ended in the interval. name_of: a device's name by its
        MKDEV number. taken: entries that a Sweep took out of the map before `found` was read."""
        first, old, self._last = self._last is None, self._last or {}, {}
        changed: list[tuple[bytes, bytes | memoryview, bytes | None]] = []
        for key, raw in taken:
            before = old.pop(key, None)
            if before is None or before[:_REQUESTS] != raw[:_REQUESTS]:
                changed.append((key, raw, before))
        self.moved = []
        for key, value in found:
            before = old.get(key)
            if before is not None and before[:_REQUESTS] == value[:_REQUESTS]:
                self._last[key] = before
                continue
            self._last[key] = bytes(value)
            self.moved.append(key)
            changed.append((key, value, before))
        if first or not interval:
            return []
        return [_user_row(key, PROC_STRUCT.unpack(new),
                          PROC_STRUCT.unpack(before) if before else None, 1e9 / interval, name_of)
                for key, new, before in changed]


def _user_row(key: bytes, new: tuple[int, ...], old: tuple[int, ...] | None,
              scale: float, name_of: Callable[[int], str]) -> BlockUser:
    if old is None or new[_BORN] != old[_BORN] != 0:  # 0: was read while it was being made
        old = (0,) * len(new)  # new, or forgotten and seen again
    cgroup, pid, dev = _WHO.unpack(key)
    d = [a - b for a, b in zip(new[:_BORN], old[:_BORN], strict=True)]
    hists: list[Hist | None] = []
    for i, sum_ns in enumerate((d[8], d[9], d[10] + d[11])):
        at = _HISTS + i * TASK_HIST_SLOTS
        hists.append(_grown(new[at:at + TASK_HIST_SLOTS], old[at:at + TASK_HIST_SLOTS], sum_ns,
                            None))
    name = new[-1]
    return BlockUser(
        cgroup=cgroup, pid=pid, comm=comm(name if isinstance(name, bytes) else b""),
        reads_per_s=d[0] * scale, writes_per_s=d[1] * scale, others_per_s=(d[2] + d[3]) * scale,
        read_bytes_per_s=d[4] * scale, write_bytes_per_s=d[5] * scale,
        read_ns=d[8] / d[0] if d[0] and d[8] else None,
        write_ns=d[9] / d[1] if d[1] and d[9] else None,
        device=name_of(dev), syncs_per_s=d[3] * scale, errors_per_s=sum(d[12:16]) * scale,
        read=hists[0], write=hists[1], other=hists[2], read_errors_per_s=d[12] * scale,
        write_errors_per_s=d[13] * scale, other_bytes_per_s=(d[6] + d[7]) * scale)


def _mean(pairs: list[tuple[float, float | None]]) -> float | None:
    """Mean of latencies weighted by rates; None where none is known."""
    known = [(rate, ns) for rate, ns in pairs if ns is not None]
    weight = sum(rate for rate, _ in known)
    return sum(rate * ns for rate, ns in known) / weight if weight else None


_SUMMED = tuple(name for name in BlockUser.__struct_fields__ if name.endswith("_per_s"))


def together(users: list[BlockUser], pid: int | None, device: str | None = None) -> BlockUser:
    """Several rows by device as one: of a process, or of several in a cgroup. device: of all."""
    first = users[0]
    row = BlockUser(
        cgroup=first.cgroup, pid=pid, comm=first.comm if pid is not None else "", device=device,
        read_ns=_mean([(u.reads_per_s, u.read_ns) for u in users]),
        write_ns=_mean([(u.writes_per_s, u.write_ns) for u in users]))
    for name in _SUMMED:
        setattr(row, name, sum(getattr(u, name) or 0.0 for u in users))
    if device is not None:
        row.read, row.write, row.other = (_merged(
            [getattr(u, name) for u in users]) for name in ("read", "write", "other"))
    else:
        row.latency = _merged([h for u in users for h in (u.read, u.write, u.other)])
    return row


def _merged(hists: list[Hist | None]) -> Hist | None:
    known = [h for h in hists if h is not None]
    return hist.merge(known) if len(known) > 1 else known[0] if known else None


def by_process(rows: list[BlockUser]) -> list[BlockUser]:
    """Rows by device, folded by process and cgroup."""
    found: dict[tuple[int, int | None], list[BlockUser]] = {}
    for row in rows:
        found.setdefault((row.cgroup, row.pid), []).append(row)
    return [together(mine, pid) for (_, pid), mine in found.items()]


def by_cgroup(rows: list[BlockUser]) -> list[BlockUser]:
    """Rows by device, folded by cgroup."""
    found: dict[int, list[BlockUser]] = {}
    for row in rows:
        found.setdefault(row.cgroup, []).append(row)
    return [together(mine, None) for mine in found.values()]


def rest(rows: list[BlockUser], shown: list[BlockUser]) -> list[BlockUser]:
    """Rows by device: those of the users that are shown, the others summed by cgroup."""
    kept = {(u.cgroup, u.pid) for u in shown}
    found = [row for row in rows if (row.cgroup, row.pid) in kept]
    groups: dict[tuple[int, str | None], list[BlockUser]] = {}
    for row in rows:
        if (row.cgroup, row.pid) not in kept:
            groups.setdefault((row.cgroup, row.device), []).append(row)
    return found + [together(mine, None, device) for (_, device), mine in groups.items()]


def slow_row(raw: bytes, wall_offset: int, name_of: Callable[[int], str]) -> SlowIo:
    """One record of the ring. name_of: a device's name by its MKDEV number."""
    (time_ns, queue, device, total, cgroup, sector, dev, part, op, flags, size, pid, error, known,
     name) = SLOW_STRUCT.unpack_from(raw)
    row = SlowIo(
        time_ns=time_ns + wall_offset, device=name_of(dev), op=op_name(op), sector=sector,
        bytes=size, total_ns=total, part=name_of(part) if part != dev else None,
        flags=" ".join(word for bit, word in _FLAGS if flags >> bit & 1), error=error_name(error))
    if known & SLOW_DIVIDED:
        row.queue_ns, row.device_ns = queue, device
    if known & SLOW_OWNED:
        row.pid, row.comm, row.cgroup = pid, comm(name), cgroup
    return row
