"""Network namespaces: which there are, entering them, and the counters each keeps for itself.

Held by number only, never by an open descriptor between ticks: that would keep a dead container's
namespace alive. A namespace is entered through one of its processes, or its name in /run/netns.
"""

from __future__ import annotations

import contextlib
import ctypes as ct
import errno
import itertools
import os
from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

from ktop.collect.proctext import number, read_number, read_text
from ktop.model import Process
from ktop.model_tcp import Interface, Namespace
from ktop.text import clean

MAX_NAMESPACES = 128      # read per tick
MAX_INTERFACES = 256      # per namespace
MAX_GROUPS = 256          # control groups named of one
_CLONE_NEWNET = 0x40000000
_NAMED = "/run/netns"     # ip-netns(8)
_NEW_PER_TICK = 5_000     # processes asked for their namespace in one tick
_YOUNG_NS = 5_000_000_000  # a process may still be moving into its namespace
_AGAIN, _TURNS = 100, 20  # older processes asked again, in turn: so many a tick, in as many ticks

_libc = ct.CDLL(None, use_errno=True)


def _setns(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWNET):
        code = ct.get_errno()
        raise OSError(code, os.strerror(code))


def _inode(path: str) -> int | None:
    try:
        return os.stat(path).st_ino
    except OSError:
        return None


class Namespaces:
    """The namespaces of the host's processes, and of /run/netns."""

    def __init__(self) -> None:
        self.refused: str | None = None                   # why others cannot be entered
        self._returns = False                             # our own was entered: there is a way back
        try:
            self._own_fd = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            self.own = os.fstat(self._own_fd).st_ino
        except OSError as err:  # a kernel without CONFIG_NET_NS, or no /proc
            self._own_fd, self.own = -1, 0
            self.refused = f"network namespaces: {err.strerror}"
        self._of: dict[int, tuple[int, int]] = {}         # pid -> (start, namespace)
        self._members: dict[int, set[int]] = {}           # namespace -> pids
        self._names: dict[int, str] = {}
        self._alive: dict[int, int] = {}                  # pid -> start, of the discovery before
        self._asked: set[int] = set()                     # young, or not known yet
        self._turn = 0

    def discover(self, rows: list[Process], boot_now: int, ask_all: bool = False) -> None:
        """Learn where the processes are. boot_now: CLOCK_BOOTTIME in ns."""
        alive = {row.pid: row.start_boottime_ns for row in rows if not row.kernel_thread}
        for pid in self._of.keys() - alive.keys():
            self._forget(pid)
        if alive != self._alive:
            self._asked.update(pid for pid, _ in alive.items() - self._alive.items())
            self._asked &= alive.keys()
            self._alive = alive
        pids = list(alive)
        ask = (pids if ask_all else [*self._asked])[:_NEW_PER_TICK]
        if pids:
            self._turn %= len(pids)
            share = min(_AGAIN, -(-len(pids) // _TURNS))
            ask += pids[self._turn:self._turn + share]
            self._turn += share
        for pid in ask:
            inode = _inode(f"/proc/{pid}/ns/net")
            if inode is None:
                continue
            if boot_now - alive[pid] >= _YOUNG_NS:
                self._asked.discard(pid)
            if self._of.get(pid) != (alive[pid], inode):
                self._forget(pid)
                self._of[pid] = (alive[pid], inode)
                self._members.setdefault(inode, set()).add(pid)
        self._names = dict(self._named())

    def _forget(self, pid: int) -> None:
        _, inode = self._of.pop(pid, (0, 0))
        members = self._members.get(inode)
        if members is not None:
            members.discard(pid)
            if not members:
                del self._members[inode]

    @staticmethod
    def _named() -> Iterator[tuple[int, str]]:
        try:
            names = sorted(os.listdir(_NAMED))[:MAX_NAMESPACES]
        except OSError:
            return
        for name in names:
            inode = _inode(os.path.join(_NAMED, name))
            if inode is not None:
                yield inode, name

    def known(self) -> tuple[list[int], int]:
        """(namespaces to read, own first; how many are left out)."""
        others = sorted((self._members.keys() | self._names.keys()) - {self.own},
                        key=lambda n: (-len(self._members.get(n, ())), n))
        if self.refused:
            return [self.own], len(others)
        found = [self.own, *others]
        return found[:MAX_NAMESPACES], max(0, len(found) - MAX_NAMESPACES)

    def row(self, inode: int, cgroup: Callable[[int], int | None]) -> Namespace:
        """A namespace's row, without figures yet."""
        members = self._members.get(inode, set())
        name = "host" if inode == self.own else clean(self._names.get(inode, ""), 64)
        groups = {group for group in set(map(cgroup, members)) if group is not None}
        return Namespace(inode, name, inode == self.own, processes=len(members),
                         cgroup=cgroup(min(members)) if members else None,
                         cgroups=sorted(groups)[:MAX_GROUPS])

    def _paths(self, inode: int) -> Iterator[str]:
        if inode in self._names:
            yield os.path.join(_NAMED, self._names[inode])
        for pid in sorted(self._members.get(inode, ()))[:8]:
            yield f"/proc/{pid}/ns/net"

    @contextlib.contextmanager
    def inside(self, inode: int) -> Iterator[bool]:
        """Run the block in that namespace; False when it cannot be entered (it may be gone)."""
        if inode == self.own:
            yield True
            return
        entered = self._enter(inode)
        try:
            yield entered
        finally:
            if entered:
                _setns(self._own_fd)

    def _enter(self, inode: int) -> bool:
        for path in self._paths(inode):
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                continue
            try:
                if os.fstat(fd).st_ino != inode:
                    continue
                if not self._can_return():
                    return False
                _setns(fd)
            except OSError as err:
                if err.errno == errno.EPERM:
                    self.refused = "other network namespaces: not permitted"
                return False
            finally:
                os.close(fd)
            return True
        return False

    def _can_return(self) -> bool:
        """Never go where no way leads back from: what /proc gave as our own must be a namespace."""
        try:
            if not self._returns:
                _setns(self._own_fd)
                self._returns = True
        except OSError as err:
            why = "not permitted" if err.errno == errno.EPERM else err.strerror
            self.refused = f"other network namespaces: {why}"
        return self._returns

    def close(self) -> None:
        """Let go of our own namespace's descriptor."""
        if self._own_fd >= 0:
            os.close(self._own_fd)


# -- what a namespace counts for itself, read while inside it --------------------------------------

_NET = "/proc/thread-self/net/"
_CONNTRACK = "/proc/sys/net/netfilter/nf_conntrack_"


class Counters(NamedTuple):
    """Totals of one namespace; None where the kernel does not tell."""

    out_segs: int | None
    retrans_segs: int | None
    listen_overflows: int | None
    listen_drops: int | None
    time_wait: int | None
    conntrack_count: int | None
    conntrack_max: int | None
    insert_failed: int | None
    conntrack_drops: int | None


def named_pairs(text: str, section: str, wanted: Collection[str]) -> dict[str, int]:
    """Those figures of one section of /proc/net/snmp or netstat (130 in all that are wanted by
    nobody): a line of names, one of values."""
    lines = [line.split()[1:] for line in text.splitlines() if line.startswith(section + ":")]
    if len(lines) != 2:
        return {}
    values = {name: number(text) for name, text in zip(*lines, strict=False) if name in wanted}
    return {name: value for name, value in values.items() if value is not None}


def conntrack_stat(text: str) -> dict[str, int]:
    """/proc/net/stat/nf_conntrack: hexadecimal, a line per CPU; sums by the header's names."""
    lines = [line.split() for line in text.splitlines()]
    if len(lines) < 2:
        return {}
    found: dict[str, int] = dict.fromkeys(lines[0], 0)
    try:
        for line in lines[1:]:
            for name, value in zip(lines[0], line, strict=False):
                found[name] += int(value, 16)
    except ValueError:  # a sum of a part of the CPUs is no figure
        return {}
    return found


def read_counters() -> Counters:
    """The counters of the namespace we are in."""
    tcp = named_pairs(read_text(_NET + "snmp"), "Tcp", ("OutSegs", "RetransSegs"))
    ext = named_pairs(read_text(_NET + "netstat"), "TcpExt", ("ListenOverflows", "ListenDrops"))
    words = next((line.split() for line in read_text(_NET + "sockstat").splitlines()
                  if line.startswith("TCP:")), [])
    tw = next((number(value) for name, value in itertools.pairwise(words) if name == "tw"), None)
    limit = read_number(_CONNTRACK + "max")
    track = conntrack_stat(read_text(_NET + "stat/nf_conntrack")) if limit is not None else {}
    drops = (track["drop"] + track.get("early_drop", 0)) if "drop" in track else None
    return Counters(
        tcp.get("OutSegs"), tcp.get("RetransSegs"), ext.get("ListenOverflows"),
        ext.get("ListenDrops"), tw,
        read_number(_CONNTRACK + "count"), limit, track.get("insert_failed"), drops)


class InterfaceTotals(NamedTuple):
    """/proc/net/dev of one interface."""

    rx_bytes: int
    rx_packets: int
    rx_errors: int
    rx_drops: int
    tx_bytes: int
    tx_packets: int
    tx_errors: int
    tx_drops: int


def interfaces(text: str) -> dict[str, InterfaceTotals]:
    """The lines of /proc/net/dev."""
    found = {}
    for line in text.splitlines()[2:2 + MAX_INTERFACES]:
        name, _, rest = line.rpartition(":")
        v = [n for n in map(number, rest.split()) if n is not None]
        if len(v) >= 16:  # eight figures each way
            found[name.strip()] = InterfaceTotals(v[0], v[1], v[2], v[3], v[8], v[9], v[10], v[11])
    return found


def read_interfaces() -> dict[str, InterfaceTotals]:
    """The interfaces of the namespace we are in."""
    return interfaces(read_text(_NET + "dev"))


def rate(new: int | None, old: int | None, interval: int | None) -> float | None:
    """Growth a second; None when either is unknown."""
    if new is None or old is None or not interval:
        return None
    return max(0, new - old) * 1e9 / interval


class Rates:
    """Turns totals of one tick into rows with rates against the tick before."""

    def __init__(self) -> None:
        self._counters: dict[int, Counters] = {}
        self._interfaces: dict[tuple[int, str], InterfaceTotals] = {}
        self._new_counters: dict[int, Counters] = {}
        self._new_interfaces: dict[tuple[int, str], InterfaceTotals] = {}

    def namespace(self, row: Namespace, now: Counters, interval: int | None) -> None:
        """Complete a namespace's row."""
        old = self._counters.get(row.id)
        self._new_counters[row.id] = now

        def per_s(name: str) -> float | None:
            return rate(getattr(now, name), getattr(old, name), interval) if old else None
        row.time_wait = now.time_wait
        row.segments_out_per_s = per_s("out_segs")
        row.retrans_total, row.retrans_per_s = now.retrans_segs, per_s("retrans_segs")
        row.listen_overflows_total = now.listen_overflows
        row.listen_overflows_per_s = per_s("listen_overflows")
        row.listen_drops_total, row.listen_drops_per_s = now.listen_drops, per_s("listen_drops")
        row.conntrack_count, row.conntrack_max = now.conntrack_count, now.conntrack_max
        row.conntrack_insert_failed_total = now.insert_failed
        row.conntrack_insert_failed_per_s = per_s("insert_failed")
        row.conntrack_drops_total = now.conntrack_drops
        row.conntrack_drops_per_s = per_s("conntrack_drops")

    def interface(self, netns: int, name: str, now: InterfaceTotals,
                  interval: int | None) -> Interface:
        """An interface's row."""
        old = self._interfaces.get((netns, name))
        self._new_interfaces[netns, name] = now
        row = Interface(netns, clean(name, 32), drops_total=now.rx_drops + now.tx_drops,
                        errors_total=now.rx_errors + now.tx_errors)
        if old is not None:
            for field in InterfaceTotals._fields:
                setattr(row, f"{field}_per_s",
                        rate(getattr(now, field), getattr(old, field), interval))
        return row

    def turn(self) -> None:
        """The tick is over: what was read is what the next is compared with."""
        self._counters, self._new_counters = self._new_counters, {}
        self._interfaces, self._new_interfaces = self._new_interfaces, {}
