"""Arguments and paths made unreadable, for a recording that is given away.

Every argument, and every component of a path beyond the first, becomes `#` and eight digits: a hash
with a key of its own for each recording, which is nowhere kept. The same text is the same hash
throughout one recording, so that figures can be told apart and followed; in another it is another.
Names stay: of commands, users, hosts, devices, functions; and addresses.

HIDDEN and OPEN name every field of a frame that holds text; a test fails when one is in neither.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from hashlib import blake2s
from typing import Any, get_type_hints

from ktop import model, model_block, model_detail, model_files, model_pressure, model_stacks
from ktop import model_tcp as tcp
from ktop.model import Frame
from ktop.parts import Part
from ktop.wire import decode_body, encode_body

# What is hidden, by model class and field: the name of the method of Redactor that does it.
HIDDEN: dict[type[Part], dict[str, str]] = {
    model.Process: {"args": "line"},
    model.ProcessEvent: {"args": "line", "filename": "path"},
    model.ProcessFold: {"last_args": "line"},
    model.Cgroup: {"path": "path", "name": "name"},
    model_block.Device: {"what": "path"},  # the file behind a loop device
    model_files.FileRow: {"path": "path"},
    model_files.FileSystem: {"mount": "path", "source": "path"},
    model_files.SlowOp: {"path": "path"},
    model_files.OpenEvent: {"path": "path"},
    model_files.OpenFold: {"path": "path"},
    model_files.MountEvent: {"source": "path", "target": "path"},
    model_pressure.MemoryGroup: {"path": "path"},
    model_pressure.IoLimit: {"path": "path"},
    model_detail.Detail: {"exe": "path", "cwd": "path", "root": "path", "args": "words",
                          "cgroups": "groups"},
    model_detail.Descriptor: {"what": "descriptor"},
}
# What stays as it is: names, addresses, words of the kernel's and of ours.
OPEN: dict[type[Part], tuple[str, ...]] = {
    model.Frame: ("users",),
    model.Host: ("hostname", "kernel", "machine"),
    model.Process: ("comm", "state", "blocked_reason", "off_cpu_pct", "waits_pct"),
    model.Thread: ("comm", "state", "blocked_reason", "off_cpu_pct"),
    model.Sched: ("off_cpu",),
    model.ProcessEvent: ("kind", "comm", "parent_comm", "error", "signal"),
    model.ProcessFold: ("parent_comm", "comm", "last_error"),
    model.Probe: ("name", "layer", "attach", "status", "reason", "shows", "fallback", "blind"),
    model.Health: ("source", "banner", "notes"),
    model_block.Limit: ("device",),
    model_block.BlockOp: ("op",),
    model_block.Device: ("name", "kind", "parent", "slaves", "scheduler"),
    model_block.BlockUser: ("comm", "device"),
    model_block.SlowIo: ("device", "op", "part", "comm", "flags", "error"),
    model_files.FileRow: ("dev", "fstype"),
    model_files.FileProcess: ("comm",),
    model_files.FileUse: ("dev", "comm"),
    model_files.FileShare: ("dev",),
    model_files.FileSystem: ("dev", "fstype"),
    model_files.SlowOp: ("comm", "op", "fstype", "error"),
    model_files.OpenEvent: ("comm", "flags", "error"),
    model_files.OpenFold: ("comm", "error"),
    model_files.Descriptors: ("comm",),
    model_files.MountEvent: ("op", "comm", "fstype", "flags", "error"),
    model_files.Throttled: ("comm",),
    tcp.Connection: ("local", "remote", "state", "comm", "recovery"),
    tcp.Listener: ("local", "comm"),
    tcp.Peer: ("direction", "comm", "remote", "failures", "retrans_kinds"),
    tcp.TcpEvent: ("kind", "local", "remote", "state", "result", "comm", "protocol"),
    tcp.Drop: ("reason", "protocol", "place", "stack", "source", "destination"),
    tcp.Interface: ("name",),
    tcp.Namespace: ("name",),
    tcp.Dns: ("comm", "server", "failures", "last_name"),
    tcp.Tcp: ("totals", "retransmits", "notes"),
    model_stacks.Stack: ("kind", "comm", "state"),
    model_stacks.Stacks: ("state", "names", "reason", "kinds", "event_ns", "notes"),
    model_pressure.IoLimit: ("what",),
    model_detail.ResourceLimit: ("name", "unit"),
    model_detail.Descriptor: ("kind", "flags", "note"),
    model_detail.ThreadDetail: ("comm", "state", "wchan", "syscall", "stack"),
    model_detail.Credentials: ("effective", "seccomp"),
    model_detail.Scheduling: ("policy", "cpus", "io_class"),
    model_detail.Namespace: ("kind",),
    model_detail.Ended: ("signal",),
    model_detail.Detail: ("comm", "state", "user_names", "group_names", "reasons"),
}


class Redactor:
    """Hides what HIDDEN says, with one key."""

    def __init__(self) -> None:
        key = os.urandom(32)

        @lru_cache(maxsize=20_000)
        def token(text: str) -> str:
            return "#" + blake2s(text.encode(), key=key, digest_size=4).hexdigest()

        self._token = token
        self._plans: dict[type, tuple[list[tuple[str, Callable[[Any], Any]]], list[str]]] = {}

    def frame(self, frame: Frame) -> Frame:
        """A copy of a frame without what is hidden."""
        copy = decode_body(encode_body(frame))
        self._hide(copy)
        return copy

    def path(self, text: str) -> str:
        """Its first component, and a hash for each of the others."""
        parts = text.split("/")
        kept = 2 if text.startswith("/") else 1
        return "/".join([*parts[:kept], *(self._token(part) if part else "" for part in
                                          parts[kept:])])

    def line(self, text: str) -> str:
        """A command line: of the command only its path, of the arguments nothing."""
        return " ".join(self.words(text.split(" ")))

    def words(self, found: list[str]) -> list[str]:
        """The same, by argument."""
        if not found:
            return found
        first = self._token(found[0]) if found[0].startswith('"') else self.path(found[0])
        return [first, *(self._token(word) if word else "" for word in found[1:])]

    def name(self, text: str) -> str:
        """What is made of a path."""
        return text if text in ("", "/") else self._token(text)

    def groups(self, found: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """(controllers, path) of control groups."""
        return [(kind, self.path(path)) for kind, path in found]

    def descriptor(self, text: str) -> str:
        """Where a descriptor leads: `/path`, `unix TYPE path LISTEN`, or addresses, which stay."""
        if not text.startswith("unix "):
            return self.path(text) if text.startswith("/") else text
        words = text.split(" ", 2)
        if len(words) < 3:
            return text
        path, listening, _ = words[2].partition(" LISTEN")
        return " ".join([*words[:2], self.path(path) + listening])

    def _hide(self, part: Part) -> None:
        changes, below = self._plan(type(part))
        for name, change in changes:
            value = getattr(part, name)
            if value is not None:
                setattr(part, name, change(value))
        for name in below:
            value = getattr(part, name)
            if isinstance(value, list):
                for item in value:
                    self._hide(item)
            elif value is not None:
                self._hide(value)

    def _plan(self, kind: type[Part]) -> tuple[list[tuple[str, Callable[[Any], Any]]], list[str]]:
        """What to change in a class, and where to go on. Made once for each."""
        if kind not in self._plans:
            changes = [(name, getattr(self, how)) for name, how in HIDDEN.get(kind, {}).items()]
            below = [name for name, parts in parts_below(kind).items()
                     if any(_hides(part) for part in parts)]
            self._plans[kind] = (changes, below)
        return self._plans[kind]


def parts_below(kind: type[Part]) -> dict[str, list[type[Part]]]:
    """Fields of a class that hold Parts, or lists of them: which."""
    found: dict[str, list[type[Part]]] = {}
    for name, hint in get_type_hints(kind).items():
        parts = _parts(hint)
        if parts:
            found[name] = parts
    return found


def _parts(hint: Any) -> list[type[Part]]:
    if isinstance(hint, type) and issubclass(hint, Part):
        return [hint]
    return [part for argument in getattr(hint, "__args__", ()) for part in _parts(argument)]


def _hides(kind: type[Part]) -> bool:
    """Whether there is anything to hide in a class or below it (classes do not go in circles)."""
    return kind in HIDDEN or any(_hides(part) for parts in parts_below(kind).values()
                                 for part in parts)
