"""What may leave the machine of a recorded session: the rows of our own workload, nothing else.

Rows are kept by process (our tree, followed through all frames), and where there is none by the
workload's command names, ports, paths and network namespaces. Totals, histograms and CPUs stay as
they were measured.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import msgspec

from ktop.model import Block, Files, Frame, Processes, Tcp
from tests.session_load import PORTS, ROLES

FORBIDDEN = ("/root", "/work", "/tmp/", "process_api", "firecracker", ".pyenv")
ADDRESS = re.compile(r"127\.[0-9.]+|::1|10\.77\.0\.\d+|0\.0\.0\.0|::|")
PUBLIC = ("/srv/", "/etc/", "/usr/", "/lib/", "/lib64/", "/proc/", "/dev/", "/sys/",
          "/opt/old/", "./")
GENERIC = re.compile(r"kworker/.*|ksoftirqd/\d+|jbd2/.*|rcu_preempt|migration/\d+|kswapd\d+")
KERNEL_THREADS = 8
EVENTS = 24  # of each kind a frame, the newest
Row = TypeVar("Row")


def texts(thing: Any) -> Iterable[str]:
    """Every string in it, however deep."""
    if isinstance(thing, msgspec.Struct):
        thing = msgspec.to_builtins(thing)
    if isinstance(thing, str):
        yield thing
    elif isinstance(thing, dict):
        for key, value in thing.items():
            yield from texts(key)
            yield from texts(value)
    elif isinstance(thing, list | tuple):
        for value in thing:
            yield from texts(value)


def rewritten(thing: Any, change: Callable[[str], str]) -> Any:
    """The same with every string changed."""
    if isinstance(thing, str):
        return change(thing)
    if isinstance(thing, dict):
        return {rewritten(k, change): rewritten(v, change) for k, v in thing.items()}
    if isinstance(thing, list | tuple):
        return [rewritten(value, change) for value in thing]
    return thing


class Filter:
    """For one session. roots: our processes; data: their directory; netns: their namespaces;
    roles, ports: how they are called and where they listen."""

    def __init__(self, frames: list[Frame], roots: Iterable[int], data: str,
                 netns: Iterable[int], roles: Iterable[str] = ROLES,
                 ports: frozenset[int] = PORTS) -> None:
        self.data, self.netns = data, set(netns)
        self.roles, self.ports = frozenset(roles), ports
        self.roots = set(roots)
        self.pids = set(roots)
        self._follow(frames)
        self.kernel = self._kernel_threads(frames)
        self.cgroups = {group.id for frame in frames for group in frame.cgroups
                        if group.path == "/" or group.path.startswith("/shop")}

    def _follow(self, frames: list[Frame]) -> None:
        """The tree below the roots."""
        pairs = {(row.pid, row.ppid) for frame in frames for row in frame.processes.rows}
        pairs |= {(event.pid, event.ppid) for frame in frames for event in frame.processes.events}
        before = -1
        while before != len(self.pids):
            before = len(self.pids)
            self.pids |= {pid for pid, parent in pairs if parent in self.pids}

    def _kernel_threads(self, frames: list[Frame]) -> set[int]:
        """The handful that did most."""
        used: dict[int, float] = {}
        for frame in frames:
            for row in frame.processes.rows:
                if row.kernel_thread and GENERIC.fullmatch(row.comm):
                    used[row.pid] = used.get(row.pid, 0.0) + (row.cpu_pct or 0.0)
        return set(sorted(used, key=lambda pid: -used[pid])[:KERNEL_THREADS])

    def __call__(self, frame: Frame) -> Frame:
        """What may be shown of it."""
        text: Any = rewritten(msgspec.to_builtins(frame), self._text)
        frame = msgspec.convert(text, Frame)
        frame.host.hostname, frame.host.kernel = "db1", "6.18.0"
        frame.users = {uid: name for uid, name in frame.users.items() if uid == 0}
        frame.cgroups = [group for group in frame.cgroups if group.id in self.cgroups]
        self._processes(frame.processes)
        if frame.files is not None:
            self._files(frame.files)
        if frame.tcp is not None:
            self._tcp(frame.tcp)
        if frame.block is not None:
            self._block(frame.block)
        if frame.stacks is not None:
            frame.stacks.stacks = self._ours(frame.stacks.stacks)
        if frame.detail is not None:
            self._detail(frame)
        if frame.pressure is not None:
            for name in ("groups", "io_limits"):
                rows = getattr(frame.pressure, name)
                setattr(frame.pressure, name,
                        [row for row in rows if self.pids.intersection(row.pids)])
        return frame

    def _detail(self, frame: Frame) -> None:
        """Of ours only; hierarchies that we did not put it into say where this machine runs us."""
        detail = frame.detail
        assert detail is not None
        if detail.pid not in self.pids:
            frame.detail = None
            return
        detail.cgroups = [(name, path if path.startswith("/shop") else "/")
                          for name, path in detail.cgroups]

    def _text(self, text: str) -> str:
        text = text.replace(f"{self.data}/app", "/srv/app").replace(self.data, "/srv/data")
        return text.replace("/usr/bin/python3 -Es ", "/usr/bin/python3 ")

    def _ours(self, rows: Iterable[Row]) -> list[Row]:
        return [row for row in rows if row.pid in self.pids]  # type: ignore[attr-defined]

    def _anyones(self, rows: Iterable[Row]) -> list[Row]:
        """Those of kernel threads with common names too."""
        return [row for row in rows if row.pid in self.pids  # type: ignore[attr-defined]
                or GENERIC.fullmatch(row.comm or "-")]       # type: ignore[attr-defined]

    def _processes(self, layer: Processes) -> None:
        layer.rows = [row for row in layer.rows if row.pid in self.pids | self.kernel]
        for row in layer.rows:
            if row.pid in self.roots:
                row.ppid = 1
        layer.threads = self._ours(layer.threads)
        mine = self._ours(layer.events)
        layer.events = mine[-EVENTS:]
        layer.events_cut += len(mine) - len(layer.events)
        layer.folds = [fold for fold in layer.folds if fold.parent_comm in self.roles]

    def _files(self, layer: Files) -> None:
        layer.rows = [row for row in layer.rows if (row.path or "").startswith("/srv/")]
        devices = {row.dev for row in layer.rows}
        layer.processes = self._ours(layer.processes)
        layer.uses = self._ours(layer.uses)
        layer.shares = self._ours(layer.shares)
        layer.filesystems = [fs for fs in layer.filesystems if fs.dev in devices]
        layer.slow = [op for op in self._ours(layer.slow)
                      if (op.path or "./").startswith(PUBLIC)][-EVENTS:]
        mine = [op for op in self._ours(layer.opens) if op.path.startswith(PUBLIC)]
        layer.opens = mine[-EVENTS:]
        layer.opens_cut += len(mine) - len(layer.opens)
        layer.folds = [fold for fold in self._ours(layer.folds)
                       if fold.path is not None and fold.path.startswith(PUBLIC)]
        layer.descriptors = self._ours(layer.descriptors)
        layer.mounts = self._ours(layer.mounts)
        if layer.cache is not None:
            layer.cache.throttled = self._ours(layer.cache.throttled)

    def _mine(self, row: Any) -> bool:
        """A row of two addresses."""
        if not all(ADDRESS.fullmatch(address) for address in (row.local, row.remote)):
            return False
        if row.pid is not None:
            return row.pid in self.pids
        return row.netns in self.netns or bool(self.ports & {row.local_port, row.remote_port})

    def _tcp(self, layer: Tcp) -> None:
        layer.connections = [row for row in layer.connections if self._mine(row)]
        layer.listeners = [row for row in layer.listeners if row.pid in self.pids]
        layer.peers = [row for row in layer.peers
                       if row.comm in self.roles and row.port in self.ports]
        mine = [row for row in layer.events if self._mine(row)]
        layer.events = mine[-EVENTS:]
        layer.events_cut += len(mine) - len(layer.events)
        layer.owners = self._ours(layer.owners)
        layer.drops = [row for row in layer.drops if self._dropped(row)]
        layer.interfaces = [row for row in layer.interfaces
                            if row.netns in self.netns or row.name == "lo"]
        layer.namespaces = [row for row in layer.namespaces if row.own or row.id in self.netns]
        layer.dns = [row for row in layer.dns if row.netns in self.netns]
        layer.notes = [note for note in layer.notes if "namespace" not in note]

    def _dropped(self, row: Any) -> bool:
        ends = [text.rpartition(":") for text in (row.source, row.destination) if text]
        return all(ADDRESS.fullmatch(end[0].strip("[]")) for end in ends) and (
            row.netns in self.netns or any(end[2] in map(str, self.ports) for end in ends))

    def _block(self, layer: Block) -> None:
        layer.devices = [row for row in layer.devices if row.kind in ("disk", "partition")]
        layer.users = self._anyones(layer.users)
        layer.by_device = self._anyones(layer.by_device)
        layer.groups = [row for row in layer.groups if row.cgroup in self.cgroups]
        mine = self._anyones(layer.slow)
        layer.slow = mine[-EVENTS:]
        layer.slow_cut += len(mine) - len(layer.slow)
