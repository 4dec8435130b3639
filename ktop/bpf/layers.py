"""Which layers there are, and which are compiled together.

The first group is small so that the first figures come early; the others follow while ktop runs.
A layer is `<layer>.bpf.c` and the module named here, which has PROBES and DEFINES (what the C side
is told, and asserts). `headers` are prepended to the group's text, `ktop.bpf.h` to all.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from ktop.bpf.probes import Probe


@dataclass(frozen=True)
class Group:
    """Layers that share one compile child and one set of maps.

    on_request: loaded only when somebody asks for what it does, and closed again after.
    """

    headers: tuple[str, ...]
    layers: tuple[str, ...]
    on_request: bool = False


GROUPS = (
    Group(("account.bpf.h",), ("sched", "processes")),
    Group((), ("lifecycle",)),
    Group((), ("block",)),
    Group(("tcp.bpf.h", "tcp_drops.bpf.h", "tcp_dns.bpf.h"), ("tcp",)),
    Group(("files.bpf.h",), ("files",)),
    Group((), ("stacks",), on_request=True),
)
STACKS = next(number for number, group in enumerate(GROUPS) if group.layers == ("stacks",))
# layer -> module:class in ktop.collect, for the layers of the later groups.
LAYER_CLASSES = {
    "files": "ktop.collect.files:FilesLayer",
    "tcp": "ktop.collect.tcp:TcpLayer",
    "block": "ktop.collect.block:BlockLayer",
}
_MODULES = {"sched": "probes", "processes": "probes"}


def _module(layer: str) -> str:
    return "ktop.bpf." + _MODULES.get(layer, f"{layer}_layer")


def probes_of(group: Group) -> list[Probe]:
    """The group's probes, in table order."""
    found: list[Probe] = []
    for module in dict.fromkeys(_module(layer) for layer in group.layers):
        found += importlib.import_module(module).PROBES
    return found


def defines_of(group: Group) -> dict[str, int]:
    """The group's compile-time constants."""
    found: dict[str, int] = dict(importlib.import_module("ktop.bpf.layout").DEFINES)
    for layer in group.layers:
        if layer not in _MODULES:
            found.update(importlib.import_module(_module(layer)).DEFINES)
    return found
