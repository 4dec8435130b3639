"""The programs' maps -> stacks with names. Sums only grow; names follow as the child finds them."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

from ktop.bpf import syscall
from ktop.bpf.engine import Engine
from ktop.bpf.stacks_layer import (
    ABSENCE_STRUCT,
    COUNTERS,
    DEPTH,
    HZ,
    KEY_STRUCT,
    KINDS,
    LOST,
    NONE,
    STACK_STRUCT,
    SUM_STRUCT,
    SUMS,
    TRACES,
    UNSEEN,
)
from ktop.collect.stacks_symbols import KERNEL, UNKNOWN, Symbols
from ktop.model_stacks import Stack
from ktop.text import comm

NO_NAMES = {LOST: "[stack lost]", UNSEEN: "[user stack not seen]"}
DEEPER = "[deeper]"  # the outermost frames did not fit
# Innermost frames that are our own presence at the tracepoint, not the thread's doing.
_OURS = ("bpf_prog_", "bpf_trace_run", "__bpf_trace_", "__traceiter_", "bpf_get_stack",
         "trace_call_bpf", "perf_trace_run_bpf", "__perf_event_task_sched")
OURS_WITHIN = 8  # frames; the program's own has no name where bpf_jit_kallsyms is off
# Every stack that blocked ends in these: they say nothing.
_SWITCHING = ("__schedule_[k]", "schedule_[k]")


def state_letter(bits: int) -> str:
    """Of task_struct.__state, as ps(1) has it (fs/proc/array.c)."""
    if bits & 2:
        return "D"
    for bit, letter in ((4, "T"), (8, "t"), (1, "S"), (0x40, "P")):
        if bits & bit:
            return letter
    return "S" if bits else "R"


class _Trace:
    """One kernel or user stack of one process: addresses innermost first, names when known."""

    __slots__ = ("addresses", "names", "pid")

    def __init__(self, pid: int, addresses: list[int]) -> None:
        self.pid = pid
        # All but the innermost are return addresses: the call is before them.
        self.addresses = addresses[:1] + [a - 1 for a in addresses[1:]]
        self.names: list[int] | None = None


class _Row:
    """One sum of the programs. index: of its Stack, -1 until all its functions have names.

    samples, ns: what it has had so far. base: the part of it whose entry has been deleted to make
    room. more, more_ns: what is under way.
    """

    __slots__ = ("base", "comm", "index", "kind", "more", "more_ns", "ns", "pid", "samples",
                 "state", "traces")

    def __init__(self, raw: bytes) -> None:
        kernel, user, self.pid, kind_state, name = KEY_STRUCT.unpack(raw)
        self.kind = KINDS[kind_state & 0xFF]
        self.state = state_letter(kind_state >> 8) if self.kind == "off" else ""
        self.comm = comm(name)
        self.traces = (user, kernel)
        self.samples = self.ns = self.more = self.more_ns = 0
        self.base = (0, 0)
        self.index = -1

    def set(self, samples: int, ns: int) -> bool:
        """The entry's sums; whether they are others than before."""
        samples, ns = samples + self.base[0], ns + self.base[1]
        changed = (self.samples, self.ns) != (samples, ns)
        self.samples, self.ns = samples, ns
        return changed

    def set_more(self, more: int, ns: int) -> bool:
        """What is under way and not in the sum yet."""
        changed = (self.more, self.more_ns) != (more, ns)
        self.more, self.more_ns = more, ns
        return changed


class _Group:
    """Rows whose functions have the same names, whatever the addresses: one Stack."""

    __slots__ = ("names", "rows")

    def __init__(self, names: list[int]) -> None:
        self.names = names
        self.rows: list[_Row] = []

    def stack(self) -> Stack:
        """Their sum."""
        first = self.rows[0]
        samples = sum(row.samples + row.more for row in self.rows)
        ns = (samples * 1_000_000_000 // HZ if first.kind == "cpu" else
              sum(row.ns + row.more_ns for row in self.rows))
        return Stack(first.kind, first.pid, first.comm, self.names, samples, ns, first.state)


class Table:
    """All stacks of one run. `stacks` and `names` only grow at their ends."""

    def __init__(self, symbols: Symbols) -> None:
        self._symbols = symbols
        self._rows: dict[bytes, _Row] = {}
        self._under_way: set[bytes] = set()
        self._unnamed: list[_Row] = []
        self._traces: dict[tuple[int, int], _Trace] = {}
        self._in_kernel: set[int] = set()  # traces whose entries are there
        self._index: dict[str, int] = {}
        self._groups: list[_Group] = []
        self._group_of: dict[tuple[object, ...], int] = {}
        self.names: list[str] = []
        self.stacks: list[Stack] = []
        self.lost = dict.fromkeys(COUNTERS, 0)

    @property
    def naming(self) -> int:
        """Stacks whose names are not known yet."""
        return len(self._unnamed)

    def read(self, engine: Engine, now_ns: int) -> None:
        """Take the sums as they are; now_ns: CLOCK_MONOTONIC, for what is under way."""
        entries = engine.read_hash("stacks_sums")
        changed = {key for key, value in entries
                   if self._row(engine, key).set(*SUM_STRUCT.unpack(value))}
        if len(entries) > SUMS // 2:
            changed |= self._free_sums(engine, {key for key, _ in entries} - changed)
        if len(self._in_kernel) > TRACES // 2:
            self._free_traces(engine)
        under_way: dict[bytes, tuple[int, int]] = {}
        for key, ns in self._absences(engine, now_ns):
            count, before = under_way.get(key, (0, 0))
            under_way[key] = count + 1, before + ns
        changed |= {key for key in self._under_way | under_way.keys()
                    if self._row(engine, key).set_more(*under_way.get(key, (0, 0)))}
        self._under_way = set(under_way)
        for at in {self._rows[key].index for key in changed} - {-1}:
            self.stacks[at] = self._groups[at].stack()
        for at, name in enumerate(COUNTERS):
            self.lost[name] = sum(int.from_bytes(raw, sys.byteorder)
                                  for raw in engine.read_percpu("stacks_counters", at))
        self.name()

    def _free_sums(self, engine: Engine, keys: set[bytes]) -> set[bytes]:
        """Sums that rest go on here: a busy host finds new stacks all the time. Those that had
        changed in the meantime."""
        fd = engine.loaded.maps["stacks_sums"].fd
        changed: set[bytes] = set()
        with contextlib.suppress(OSError):  # before 5.14 there is no way to take and delete
            for key in keys:
                row = self._rows[key]
                samples, ns = SUM_STRUCT.unpack(syscall.map_take(fd, key, SUM_STRUCT.size))
                if row.set(samples, ns):
                    changed.add(key)
                row.base = row.samples, row.ns
        return changed

    def _free_traces(self, engine: Engine) -> None:
        """Stacks that are known here need not be kept there; they keep their hash."""
        fd = engine.loaded.maps["stacks_traces"].fd
        for trace in self._in_kernel:
            with contextlib.suppress(OSError):
                syscall.map_delete(fd, trace.to_bytes(8, sys.byteorder))
        self._in_kernel = set()

    def _absences(self, engine: Engine, now_ns: int) -> Iterator[tuple[bytes, int]]:
        """Time blocked that is in no sum yet: of sleepers, and of those that run since."""
        for tid, raw in engine.read_hash("stacks_threads"):
            off_ns, pend_ns, delay_ns, key = ABSENCE_STRUCT.unpack(raw)
            if off_ns:
                yield key, max(0, now_ns - off_ns)
            elif pend_ns:
                waited = _run_delay(int.from_bytes(tid, sys.byteorder))
                yield key, max(0, pend_ns - max(0, (waited or delay_ns) - delay_ns))

    def _row(self, engine: Engine, key: bytes) -> _Row:
        row = self._rows.get(key)
        if row is None:
            row = self._rows[key] = _Row(key)
            self._unnamed.append(row)
            for trace, pid in zip(row.traces, (row.pid, KERNEL), strict=True):
                if trace not in (NONE, LOST, UNSEEN) and (pid, trace) not in self._traces:
                    self._learn(engine, pid, trace)
        return row

    def _learn(self, engine: Engine, pid: int, trace: int) -> None:
        """The addresses of a stack, and the question for their names."""
        addresses: list[int] = []
        with contextlib.suppress(OSError):
            n, *ips = STACK_STRUCT.unpack(syscall.map_lookup(
                engine.loaded.maps["stacks_traces"].fd, trace.to_bytes(8, sys.byteorder),
                STACK_STRUCT.size))
            addresses = ips[:n]
            self._in_kernel.add(trace)
        found = self._traces[pid, trace] = _Trace(pid, addresses)
        self._symbols.ask(pid, found.addresses)

    def name(self) -> None:
        """Stacks whose functions all have names by now are told."""
        waiting: list[_Row] = []
        for row in self._unnamed:
            names = self._names_of(row)
            if names is None:
                waiting.append(row)
            else:
                self._tell(row, names)
        self._unnamed = waiting

    def _tell(self, row: _Row, names: list[int]) -> None:
        key = (row.kind, row.pid, row.comm, row.state, *names)
        at = self._group_of.setdefault(key, len(self._groups))
        if at == len(self._groups):
            self._groups.append(_Group(names))
        row.index = at
        group = self._groups[at]
        group.rows.append(row)
        self.stacks[at:at + 1] = [group.stack()]

    def _names_of(self, row: _Row) -> list[int] | None:
        """Outermost first: the user's part, then the kernel's; None: not known yet."""
        found: list[int] = []
        for trace, pid in zip(row.traces, (row.pid, KERNEL), strict=True):
            if trace in NO_NAMES:
                found.append(self._number(NO_NAMES[trace]))
            elif trace != NONE:
                names = self._resolve(self._traces[pid, trace])
                if names is None:
                    return None
                found += names
        if row.kind == "off":
            while len(found) > 1 and self.names[found[-1]] in _SWITCHING:
                found.pop()
        return found or [self._number(UNKNOWN)]

    def _resolve(self, trace: _Trace) -> list[int] | None:
        if trace.names is None:
            names: list[str] = []
            for address in trace.addresses:
                name = self._symbols.name(trace.pid, address)
                if name is None:
                    return None
                if name != UNKNOWN or names[-1:] != [UNKNOWN]:  # a run of them is one
                    names.append(name)
            if trace.pid == KERNEL:
                ours = [at for at, name in enumerate(names[:OURS_WITHIN])
                        if name.startswith(_OURS)]
                del names[:ours[-1] + 1 if ours else 0]
            if len(trace.addresses) == DEPTH:
                names.append(DEEPER)
            trace.names = [self._number(name) for name in reversed(names)]
        return trace.names

    def _number(self, name: str) -> int:
        at = self._index.get(name)
        if at is None:
            at = self._index[name] = len(self.names)
            self.names.append(name)
        return at


def _run_delay(tid: int) -> int | None:
    """sched_info.run_delay of a thread, ns: the second figure of its schedstat."""
    try:
        fd = os.open(f"/proc/{tid}/schedstat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return int(os.read(fd, 128).split()[1])
    except (OSError, ValueError, IndexError):
        return None
    finally:
        os.close(fd)
