"""A Frame as a scope sees it: pure functions, one module a layer.

Rows are those of the scope, totals are summed anew over them. Shared resources (CPUs, devices,
namespaces) stay as they are; what is not known for a part of the host is None.
"""

from __future__ import annotations

from msgspec.structs import replace

from ktop.model import Frame
from ktop.narrow import block, files, tcp
from ktop.narrow.processes import narrow_host_layers, narrow_notes
from ktop.scope import Members


def narrow(frame: Frame, members: Members) -> Frame:
    """The frame with only what is in the scope. The frame itself is not touched."""
    found = narrow_host_layers(frame, members)
    if frame.files is not None:
        found.files = files.narrow(frame.files, members, frame)
    if frame.tcp is not None:
        found.tcp = tcp.narrow(frame.tcp, members, frame)
    if frame.block is not None:
        found.block = block.narrow(frame.block, members, frame)
    if frame.stacks is not None:
        found.stacks = replace(frame.stacks, stacks=[
            stack for stack in frame.stacks.stacks if stack.pid in members.pids])
    return found


def notes(frame: Frame, members: Members, layer: str) -> list[str]:
    """What of a layer's figures is not the scope's alone, or not known for it, in words."""
    if layer == "files" and frame.files is not None:
        return files.notes(frame.files, members)
    if layer == "tcp" and frame.tcp is not None:
        return tcp.notes(frame.tcp, members)
    if layer == "block" and frame.block is not None:
        return block.notes(frame.block, members)
    return narrow_notes(layer)
