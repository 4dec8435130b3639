"""/proc/diskstats and /sys/class/block: which devices there are, what they are, what they do.

Fields: Documentation/admin-guide/iostats.rst, Documentation/ABI/stable/sysfs-block.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from typing import NamedTuple

from ktop.collect.proctext import number, read_text
from ktop.model_block import Device
from ktop.text import clean

SECTOR = 512            # diskstats and size count in these whatever the device's block
RECHECK_NS = 10_000_000_000
MAX_DEVICES = 256       # rows; the busiest
_MEMORY = ("zram", "ram")
_VOLATILE = ("loop", "zram", "nbd")  # what they stand for changes under the same name
_BY_NAME = (*_MEMORY, "loop", "nbd", "sr", "fd")
_MS = 1_000_000


class Stat(NamedTuple):
    """One line of /proc/diskstats; times in ms. Discards since 4.18, flushes since 5.5 (else 0)."""

    reads: int
    read_merges: int
    read_sectors: int
    read_ms: int
    writes: int
    write_merges: int
    write_sectors: int
    write_ms: int
    in_flight: int
    busy_ms: int
    queue_ms: int
    discards: int = 0
    discard_merges: int = 0
    discard_sectors: int = 0
    discard_ms: int = 0
    flushes: int = 0
    flush_ms: int = 0


def parse(text: str) -> dict[str, tuple[int, Stat]]:
    """name -> (MKDEV number, figures)."""
    found = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) < 14:
            continue
        values = words[3:3 + len(Stat._fields)]
        values += ["0"] * (len(Stat._fields) - len(values))
        with contextlib.suppress(ValueError):
            dev = int(words[0]) << 20 | int(words[1])
            found[words[2]] = dev, Stat._make(map(int, values))
    return found


@dataclass
class Known:
    """What does not change from tick to tick."""

    kind: str = "disk"
    what: str = ""
    parent: str | None = None
    slaves: list[str] = field(default_factory=list)
    hidden: bool = False
    iostats: bool = True  # switched off, the kernel counts nothing: that is unknown, not zero
    by_bio: bool = False  # it has no queue of requests: most device mapper, md, zram
    counts: bool = False  # it was seen to count though iostats says off, see Disks.rows
    size_bytes: int | None = None
    rotational: bool | None = None
    scheduler: str | None = None
    checked_ns: int = 0
    seal: str = ""

    @property
    def counted(self) -> bool:
        """Whether its requests go to hardware and are counted nowhere below it."""
        return not (self.kind in ("partition", "loop", "rom", *_MEMORY) or self.slaves
                    or self.hidden)


def _text(path: str) -> str | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return clean(os.read(fd, 4096).strip(), 256)  # sysfs gives a page at most, and at once
    except OSError:
        return None
    finally:
        os.close(fd)


def _names(path: str) -> list[str]:
    try:
        return sorted(clean(name, 64) for name in os.listdir(path))
    except OSError:
        return []


def _kind(base: str, name: str) -> tuple[str, str]:
    """(kind, what it is made of or called)."""
    uuid = _text(f"{base}/dm/uuid")
    if uuid is not None:
        kind = uuid.split("-", 1)[0].lower()
        return (kind if kind in ("lvm", "crypt", "mpath") else "dm"), _text(f"{base}/dm/name") or ""
    level = _text(f"{base}/md/level")
    if level is not None:
        return level or "md", ""
    backing = _text(f"{base}/loop/backing_file")
    if backing is not None:
        return "loop", backing
    prefix = next((p for p in _BY_NAME if name.startswith(p) and name[len(p):].isdigit()), "disk")
    return {"sr": "rom", "fd": "floppy"}.get(prefix, prefix), ""


def _seal(name: str, sys_root: str) -> str:
    """Changes when a loop device gets another file (diskseq since 5.15), a zram its size. Most
    loop devices have none, and stand for nothing: there are eight of them where nobody needs one.
    """
    base = os.path.join(sys_root, name)
    size = _text(base + "/size")
    return "0" if size == "0" else f"{_text(base + '/diskseq')} {size}"


def look(name: str, sys_root: str = "/sys/class/block") -> Known:
    """What sysfs says about a device; blanks where it says nothing."""
    base = os.path.join(sys_root, name.replace("/", "!"))
    size = _text(f"{base}/size")
    sectors = number(size or "")
    known = Known(size_bytes=None if sectors is None else sectors * SECTOR)
    if _text(f"{base}/partition") is not None:
        known.kind = "partition"
        known.parent = clean(os.path.basename(os.path.dirname(os.path.realpath(base))), 64)
        return known
    known.kind, known.what = _kind(base, name)
    known.slaves = _names(f"{base}/slaves")
    known.iostats = _text(f"{base}/queue/iostats") != "0"
    known.by_bio = not os.path.isdir(f"{base}/mq")
    known.hidden = _text(f"{base}/hidden") == "1"
    spins = _text(f"{base}/queue/rotational")
    known.rotational = None if spins is None else spins == "1"
    schedulers = (_text(f"{base}/queue/scheduler") or "").split()
    chosen = [s.strip("[]") for s in schedulers if s.startswith("[")]
    if schedulers:
        known.scheduler = (chosen or schedulers)[0]
    return known


class Disks:
    """Device rows, tick by tick."""

    def __init__(self, proc: str = "/proc/diskstats", sys_root: str = "/sys/class/block") -> None:
        self._proc, self._sys = proc, sys_root
        self._known: dict[str, Known] = {}
        self._last: dict[str, tuple[int, Stat]] = {}
        self._best: dict[str, tuple[float, float]] = {}
        self.cut = 0

    def rows(self, now: int, interval: int | None) -> list[Device]:
        """A row for each device that has a size or has done anything.

        Devices without a queue of requests say on older kernels (6.1, not 6.12) that iostats are
        off, and are counted nevertheless: what moves while they are off is counted.
        """
        found = parse(read_text(self._proc))
        old, self._last = self._last, found
        self._known = {name: known for name, known in self._known.items() if name in found}
        self._best = {name: best for name, best in self._best.items() if name in found}
        rows = []
        for name, (dev, stat) in found.items():
            known = was = self._known.get(name)
            before = old.get(name)
            seal = _seal(name, self._sys) if name.startswith(_VOLATILE) else ""
            if known is None or now - known.checked_ns >= RECHECK_NS or seal != known.seal:
                known = self._known[name] = look(name, self._sys)
                known.checked_ns, known.seal = now, seal
            if known.by_bio and not known.iostats and was is not None and not was.iostats:
                known.counts = was.counts or before not in (None, (dev, stat))
            if not known.size_bytes and (not any(stat) or before == (dev, stat)):
                continue  # nothing behind it: a loop device without a file
            rows.append(self._row(name, dev, stat, known,
                                  before[1] if before and before[0] == dev else None, interval))
        self.cut = max(0, len(rows) - MAX_DEVICES)
        if self.cut:
            rows.sort(key=lambda d: (not d.counted, -(d.util_pct or 0.0), d.dev))
        return rows[:MAX_DEVICES]

    def _row(self, name: str, dev: int, stat: Stat, known: Known, before: Stat | None,
             interval: int | None) -> Device:
        row = Device(
            name=clean(name, 64), dev=dev, kind=known.kind, what=known.what, parent=known.parent,
            slaves=known.slaves, counted=known.counted, size_bytes=known.size_bytes,
            rotational=known.rotational, scheduler=known.scheduler)
        if not (known.iostats or known.counts):
            return row
        row.in_flight = stat.in_flight
        row.best_iops, row.best_bytes_per_s = self._best.get(name, (None, None))
        if before is None or not interval:
            return row
        d = Stat._make(a - b for a, b in zip(stat, before, strict=True))
        if min(d[:8]) < 0:
            return row  # the counters began anew
        scale = 1e9 / interval
        row.reads_per_s, row.writes_per_s = d.reads * scale, d.writes * scale
        row.discards_per_s, row.flushes_per_s = d.discards * scale, d.flushes * scale
        row.merges_per_s = (d.read_merges + d.write_merges + d.discard_merges) * scale
        row.read_bytes_per_s = d.read_sectors * SECTOR * scale
        row.write_bytes_per_s = d.write_sectors * SECTOR * scale
        row.discard_bytes_per_s = d.discard_sectors * SECTOR * scale
        row.util_pct = min(100.0, max(0.0, d.busy_ms * _MS * 100.0 / interval))
        row.queue = max(0.0, d.queue_ms * _MS / interval)
        row.read_ns = d.read_ms * _MS / d.reads if d.reads else None
        row.write_ns = d.write_ms * _MS / d.writes if d.writes else None
        self._note_best(name, row)
        return row

    def _note_best(self, name: str, row: Device) -> None:
        """The most seen so far of what a volume is limited by."""
        iops = (row.reads_per_s or 0.0) + (row.writes_per_s or 0.0)
        rate = (row.read_bytes_per_s or 0.0) + (row.write_bytes_per_s or 0.0)
        best = self._best.get(name, (0.0, 0.0))
        best = self._best[name] = max(best[0], iops), max(best[1], rate)
        row.best_iops, row.best_bytes_per_s = best[0] or None, best[1] or None
