"""The heaviest stacks of one process, on CPU and blocked, as rows of a table."""

from __future__ import annotations

from dataclasses import dataclass

from ktop import format as fmt
from ktop.flame import TopStack, top_stacks
from ktop.model import Frame
from ktop.widgets.columns import Column, Key

MOST = 50  # of each kind
HOW = "S takes stacks of it: on CPU 49 times a second, and what it is blocked in"
_KINDS = {"cpu": "on CPU", "off": "blocked"}


@dataclass(frozen=True)
class StackRow:
    """One stack. kind: `cpu` or `off`."""

    kind: str
    stack: TopStack


def stack_rows(frame: Frame, pid: int) -> list[StackRow]:
    """Those on CPU first, the heaviest of each kind first."""
    return [StackRow(kind, stack) for kind in _KINDS
            for stack in top_stacks(frame.stacks, pid, kind, MOST)]


def stack_key(row: StackRow) -> Key:
    """A stack's identity."""
    return row.kind, row.stack.comm, row.stack.state, tuple(row.stack.names)


def stack_note(frame: Frame) -> str:
    """Since when, and at what price."""
    found = frame.stacks
    if found is None:
        return ""
    note = f"{found.state}, {fmt.duration(found.elapsed_ns)}"
    return note if found.cpu_pct is None else f"{note}, takes {fmt.pct(found.cpu_pct)}% of a CPU"


def why_none(frame: Frame) -> str:
    """What to say where there are no stacks."""
    found = frame.stacks
    if found is None:
        return HOW
    if found.state == "failed":
        return f"no stacks: {found.reason}"
    return "none of it so far" if found.state in ("running", "loading") else f"none of it. {HOW}"


def stack_columns() -> list[Column]:
    """Rows are StackRows."""
    return [
        Column("kind", "KIND", 7, lambda r: _KINDS[r.kind], "left", sort=lambda r: r.kind,
               help="on CPU: sampled there; blocked: from leaving the CPU to its wakeup"),
        Column("time", "TIME", 6, lambda r: fmt.duration(r.stack.ns), sort=lambda r: r.stack.ns,
               kind="ns", style=lambda _: "strong",
               help="CPU time it stands for (samples / rate), or time blocked in it"),
        Column("share", "%", 5, lambda r: fmt.pct(r.stack.pct), sort=lambda r: r.stack.pct,
               help="of all of its kind"),
        Column("count", "SEEN", 5, lambda r: fmt.count(r.stack.samples),
               sort=lambda r: r.stack.samples, help="samples, or times blocked"),
        Column("state", "S", 1, lambda r: r.stack.state, "left", sort=lambda r: r.stack.state,
               help="of a blocked thread: S, D, T"),
        Column("thread", "THREAD", 12, lambda r: r.stack.comm, "left",
               sort=lambda r: r.stack.comm, help="name of the thread"),
        Column("stack", "INNERMOST FIRST", 30, lambda r: " < ".join(reversed(r.stack.names)),
               "left", min_width=24, help="the function it was in, then what called it"),
    ]
