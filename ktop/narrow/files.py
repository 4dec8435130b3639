"""Files as a scope sees them.

Summed anew: totals, files (by what the scope's processes did with them), filesystems. Kept as they
are, because everybody shares them: what is dirty and its thresholds, the host's open files and
their limit, what was cut or dropped. Unknown: how many operations were slow since the start.
Changes of mounts that nobody is known for are left out.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from ktop.model import Frame
from ktop.model_files import (
    FileOps,
    FileRow,
    Files,
    FileShare,
    FileSystem,
    FileUse,
    OpenFold,
    PageCache,
)
from ktop.narrow.rules import Within, merged, total, within
from ktop.scope import Members

_RATES = tuple(name for name in FileOps.__struct_fields__ if name.endswith("_per_s"))
_NOTHING = FileOps(**dict.fromkeys((*_RATES, "inside"), 0.0))  # type: ignore[arg-type]


def narrow(layer: Files, members: Members, frame: Frame) -> Files:
    """The layer with only what the scope's processes did. Nothing passed in is changed."""
    has = within(members)
    found = replace(
        layer, processes=[p for p in layer.processes if has(p.pid, p.cgroup)],
        slow=[op for op in layer.slow if has(op.pid, op.cgroup)], slow_total=None,
        opens=[e for e in layer.opens if has(e.pid, e.cgroup)],
        descriptors=[d for d in layer.descriptors if has(d.pid, d.cgroup)],
        mounts=[m for m in layer.mounts if m.pid is not None and has(m.pid, m.cgroup)],
        cache=_cache(layer.cache, has), unowned_per_s=None)
    if not layer.owned:
        return _older(found, layer)
    counted = layer.host is not None and layer.host.reads_per_s is not None
    shares = [s for s in layer.shares if has(s.pid, s.cgroup)]
    found.shares = shares
    found.host = add(s.ops for s in shares) if counted else layer.host
    found.processes_cut = layer.processes_cut if any(s.pid is None for s in shares) else 0
    found.opens_failed_per_s = total(
        s.ops.errors_per_s for s in shares if s.dev is None) if counted else None
    found.uses = [u for u in layer.uses if has(u.pid, u.cgroup)]
    found.rows = _rows(layer, found.uses)
    told = total(_done(u.ops) for u in found.uses) or 0.0
    done = total(_done(s.ops) for s in shares if s.dev is not None) or 0.0
    whole = told >= done - 1e-6 * (1.0 + done)
    found.rows_cut, found.uses_cut = (0, 0) if whole else (layer.rows_cut or 1, layer.uses_cut or 1)
    found.filesystems = _filesystems(layer, shares)
    found.folds = [f for f in (_fold(f, members, has) for f in layer.folds) if f is not None]
    return found


def _older(found: Files, layer: Files) -> Files:
    """From a recording that does not say who used which file: processes, and their sum."""
    known = layer.watched and not layer.processes_cut
    found.host = add(p.ops for p in found.processes) if known else None
    found.opens_failed_per_s = None
    found.rows, found.filesystems, found.folds = [], [], []
    found.rows_cut = found.folds_cut = 0
    return found


def _cache(cache: PageCache | None, has: Within) -> PageCache | None:
    return cache if cache is None else replace(
        cache, throttled=[t for t in cache.throttled if has(t.pid, t.cgroup)])


def _done(ops: FileOps) -> float:
    return sum(rate or 0.0 for rate in (
        ops.reads_per_s, ops.writes_per_s, ops.fsyncs_per_s, ops.opens_per_s))


def add(found: Iterable[FileOps]) -> FileOps:
    """Several operations' figures as one; of none at all it is nothing."""
    ops = list(found)
    if len(ops) < 2:
        return ops[0] if ops else replace(_NOTHING)
    return FileOps(
        **{name: total(getattr(o, name) for o in ops) for name in _RATES},
        read=merged(o.read for o in ops), write=merged(o.write for o in ops),
        fsync=merged(o.fsync for o in ops), inside=total(o.inside for o in ops))


def _rows(layer: Files, uses: list[FileUse]) -> list[FileRow]:
    """Files by what these uses did; where they are is in the host's rows, as far as these go."""
    known = {(row.dev, row.ino, row.generation): row for row in layer.rows}
    types = {f.dev: f.fstype for f in layer.filesystems}
    files: dict[tuple[str, int, int], list[FileOps]] = {}
    for use in uses:
        files.setdefault((use.dev, use.ino, use.generation), []).append(use.ops)
    rows = []
    for key, ops in files.items():
        row = known.get(key)
        rows.append(replace(row, ops=add(ops)) if row is not None else FileRow(
            None, key[0], key[1], add(ops), types.get(key[0]), generation=key[2]))
    rows.sort(key=lambda row: -(row.ops.inside or 0.0))
    return rows


def _filesystems(layer: Files, shares: list[FileShare]) -> list[FileSystem]:
    known = {f.dev: f for f in layer.filesystems}
    found: dict[str, list[FileOps]] = {}
    for share in shares:
        if share.dev is not None:
            found.setdefault(share.dev, []).append(share.ops)
    return [replace(known[dev], ops=add(ops)) if dev in known else FileSystem(dev, add(ops))
            for dev, ops in found.items()]


def _fold(fold: OpenFold, members: Members, has: Within) -> OpenFold | None:
    """A fold is of one cgroup; of a process only if nobody else is in it is its count known."""
    if not has(fold.pid, fold.cgroup):
        return None
    if members.cgroups is None and fold.shared:
        return replace(fold, count=None, per_min=None)
    return fold


def notes(layer: Files, members: Members) -> list[str]:
    """What is not the scope's own, in words for the help."""
    found = ["Dirty pages and their thresholds, the number of the host's open files and what was "
             "left out are the whole host's."]
    if not layer.owned:
        return [*found, "This recording does not say which process used which file: files, "
                "filesystems and folded opens are not known for a part of the host."]
    if members.cgroups is None:
        found.append("An open that other processes of the same command and control group make too "
                     "is counted for all of them together: its number is not known for one.")
        if layer.processes_cut:
            found.append(f"{layer.processes_cut} less busy processes are not told apart: theirs is "
                         "missing.")
    if layer.uses_cut:
        found.append("Of the files only the busiest are told by process; totals and filesystems "
                     "are whole.")
    return found
