"""A Frame as a scope sees it: pure functions, one module a layer.

Rows are those of the scope, totals are summed anew over them. Shared resources (CPUs, devices,
namespaces) stay as they are; what is not known for a part of the host is None.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from msgspec.structs import replace

from ktop.model import Frame
from ktop.narrow.processes import narrow_host_layers
from ktop.scope import Members

LAYERS = ("files", "tcp", "block")


def narrow(frame: Frame, members: Members) -> Frame:
    """The frame with only what is in the scope. The frame itself is not touched."""
    found = narrow_host_layers(frame, members)
    for name in LAYERS:
        layer = getattr(frame, name)
        if layer is not None and find_spec(f"ktop.narrow.{name}"):
            setattr(found, name, _module(name).narrow(layer, members, frame))
    if frame.stacks is not None:
        stacks = frame.stacks
        found.stacks = replace(
            stacks, stacks=[s for s in stacks.stacks if s.pid in members.pids])
    return found


def _module(name: str) -> Any:
    return import_module(f"ktop.narrow.{name}")
