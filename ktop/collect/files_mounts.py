"""Files layer: what is mounted where, what came and went, flags by name."""

from __future__ import annotations

import re
import select
from typing import BinaryIO, NamedTuple

from ktop.model_files import MountEvent
from ktop.text import clean

# include/uapi/linux/mount.h
_MS = {0: "RDONLY", 1: "NOSUID", 2: "NODEV", 3: "NOEXEC", 4: "SYNCHRONOUS", 5: "REMOUNT",
       6: "MANDLOCK", 7: "DIRSYNC", 8: "NOSYMFOLLOW", 10: "NOATIME", 11: "NODIRATIME", 12: "BIND",
       13: "MOVE", 14: "REC", 15: "SILENT", 17: "UNBINDABLE", 18: "PRIVATE", 19: "SLAVE",
       20: "SHARED", 21: "RELATIME", 24: "STRICTATIME", 25: "LAZYTIME"}
_MNT = {0: "FORCE", 1: "DETACH", 2: "EXPIRE", 3: "NOFOLLOW"}
_ATTR = {0: "RDONLY", 1: "NOSUID", 2: "NODEV", 3: "NOEXEC", 4: "NOATIME", 5: "STRICTATIME",
         7: "NODIRATIME", 20: "IDMAP", 21: "NOSYMFOLLOW"}
_PREFIX = {"mount": ("MS_", _MS), "umount2": ("MNT_", _MNT), "fsmount": ("MOUNT_ATTR_", _ATTR)}
_MAGIC, _MAGIC_MASK = 0xC0ED0000, 0xFFFF0000  # MS_MGC_VAL: ignored by mount(2)
_OCTAL = re.compile(rb"\\([0-7]{3})")


def mount_flags(op: str, flags: int) -> str:
    """Names of the flags of mount, umount2 or fsmount, joined by `|`."""
    prefix, names = _PREFIX.get(op, ("", {}))
    if op == "mount" and flags & _MAGIC_MASK == _MAGIC:
        flags &= ~_MAGIC_MASK
    found = [prefix + names[bit] if bit in names else hex(1 << bit)
             for bit in range(32) if flags >> bit & 1]
    return "|".join(found) if names else ""


class Mounted(NamedTuple):
    """One line of mountinfo."""

    number: int
    dev: str
    root: str
    target: str
    fstype: str
    source: str


def parse(text: bytes) -> list[Mounted]:
    """proc_pid_mountinfo(5); lines that cannot be read are left out."""
    found = []
    for line in text.splitlines():
        head, _, tail = line.partition(b" - ")
        words, rest = head.split(b" "), tail.split(b" ")
        if len(words) < 6 or len(rest) < 2 or not words[0].isdigit():
            continue
        dev, root, target, kind, source = (
            clean(_OCTAL.sub(lambda m: bytes([int(m.group(1), 8)]), raw), 1024)
            for raw in (words[2], words[3], words[4], rest[0], rest[1]))
        found.append(Mounted(int(words[0]), dev, root, target, kind, source))
    return found


class Mountinfo:
    """/proc/self/mountinfo, read again only when the kernel says that it changed (POLLPRI)."""

    def __init__(self) -> None:
        self._mounts: dict[int, Mounted] = {}
        self._poll = select.poll()
        self._file: BinaryIO | None = None
        try:
            self._file = open("/proc/self/mountinfo", "rb")  # noqa: SIM115
            self._mounts = {m.number: m for m in parse(self._file.read())}
        except OSError:
            self.close()
            return
        self._poll.register(self._file, select.POLLPRI | select.POLLERR)

    def changes(self, wall_ns: int) -> list[MountEvent]:
        """What came and went since last time, seen at `wall_ns`."""
        if self._file is None or not self._poll.poll(0):
            return []
        try:
            self._file.seek(0)
            new = {m.number: m for m in parse(self._file.read())}
        except OSError:
            return []
        old, self._mounts = self._mounts, new
        gone = [("unmounted", m) for number, m in old.items() if new.get(number) != m]
        come = [("mounted", m) for number, m in new.items() if old.get(number) != m]
        return [MountEvent(time_ns=wall_ns, op=op, source=m.source, target=m.target,
                           fstype=m.fstype) for op, m in gone + come]

    def by_device(self) -> dict[str, Mounted]:
        """Where each device is mounted: the mount of the whole filesystem before binds of parts."""
        found: dict[str, Mounted] = {}
        for m in self._mounts.values():
            if m.dev not in found or (m.root == "/" and found[m.dev].root != "/"):
                found[m.dev] = m
        return found

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
