"""Dropped packets: the kernel's names for reasons, and its symbols for stacks."""

from __future__ import annotations

import array
import bisect
import struct
import threading

from ktop.bpf import btf, syscall
from ktop.bpf.engine import Engine
from ktop.bpf.tcp_layer import DROP_KEY, STACK_DEPTH
from ktop.collect.tcp_records import endpoint
from ktop.model_tcp import Drop, TcpEvent
from ktop.text import clean

_KALLSYMS = "/proc/kallsyms"
_FRAMES = 12     # of a stack that are shown
_ROWS = 100
# What the hook itself adds on top of a stack.
_OWN = ("bpf_prog_", "__bpf_trace_", "bpf_trace_run", "__traceiter_", "bpf_get_stackid",
        "__bpf_get_stackid", "stack_map_")


def enum_names(enum: str, prefix: str) -> dict[int, str]:
    """value -> name without its prefix, from the running kernel's BTF; empty without BTF."""
    try:
        found = btf.Btf()
    except btf.BtfError:
        return {}
    try:
        return {value: clean(name.removeprefix(prefix), 64)
                for name, value in found.constants(enum).items()}
    finally:
        found.close()


class Symbols:
    """/proc/kallsyms, read once, in a thread, when first needed: it takes a fifth of a second."""

    def __init__(self) -> None:
        self._addresses: array.array[int] = array.array("Q")
        self._names: list[str] = []
        self._thread: threading.Thread | None = None
        self._ready = False
        self.hidden = False  # every address reads as zero: no CAP_SYSLOG, or kptr_restrict is 2

    def start(self) -> None:
        """Begin to read, if nobody has."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._read, name="kallsyms", daemon=True)
            self._thread.start()

    def wait(self) -> None:
        """Until they are known (tests)."""
        self.start()
        if self._thread is not None:
            self._thread.join()

    def _read(self) -> None:
        try:
            with open(_KALLSYMS, encoding="ascii", errors="replace") as f:
                rows = sorted((int(line[:16], 16), line[19:].split()[0]) for line in f
                              if line[17] in "tTwW")
        except (OSError, ValueError, IndexError):
            rows = []
        self.hidden = not rows or rows[-1][0] == 0
        if not self.hidden:
            self._addresses = array.array("Q", (address for address, _ in rows))
            self._names = [name for _, name in rows]
        self._ready = True

    def name(self, address: int) -> str | None:
        """function+0x12; the address itself when symbols are hidden; None: not known yet."""
        if not self._ready:
            return None
        at = bisect.bisect_right(self._addresses, address) - 1
        if at < 0 or self.hidden:
            return f"{address:#x}"
        return f"{clean(self._names[at], 64)}+{address - self._addresses[at]:#x}"


_Place = tuple[int, int, int, int, int]  # reason, protocol, address, namespace, padding
_VALUE = struct.Struct("@Qq")            # struct ktop_tcp_dropped


class Drops:
    """Counts by reason and place, with stacks."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.reasons = enum_names("skb_drop_reason", "SKB_DROP_REASON_")
        self.symbols = Symbols()
        self._before: dict[_Place, int] = {}
        self._stacks: dict[int, list[int]] = {}
        self._last: dict[tuple[str, str, int], tuple[str, str]] = {}

    def seen(self, event: TcpEvent) -> None:
        """Remember whose packet was dropped last."""
        if len(self._last) > 10 * _ROWS:
            self._last.clear()
        self._last[event.result or "", event.protocol, event.netns] = (
            endpoint(event.remote, event.remote_port), endpoint(event.local, event.local_port))

    def rows(self, interval: int | None, watched: bool) -> list[Drop]:
        """The most frequent, most of this interval first."""
        if "tcp_drops" not in self._engine.loaded.maps:
            return []
        places: dict[_Place, tuple[int, int]] = {}
        for key, value in self._engine.read_hash("tcp_drops"):
            places[DROP_KEY.unpack(key)] = _VALUE.unpack(value)
        before, self._before = self._before, {key: n for key, (n, _) in places.items()}
        keys = sorted(places, key=lambda k: (before.get(k, 0) - places[k][0], -places[k][0], k))
        if keys and watched:
            self.symbols.start()
        return [self._row(key, *places[key], before.get(key, 0), interval)
                for key in keys[:_ROWS]]

    def _row(self, key: _Place, total: int, stack: int, before: int,
             interval: int | None) -> Drop:
        reason, protocol, location, netns, _ = key
        name = self.reasons.get(reason, str(reason) if reason else "unknown")
        row = Drop(name, "udp" if protocol == 17 else "tcp", netns, total=total,
                   place=self.symbols.name(location) or "")
        if interval:
            row.per_s = max(0, total - before) * 1e9 / interval
        row.source, row.destination = self._last.get((name, row.protocol, netns), ("", ""))
        if row.place:
            names = [self.symbols.name(address) or "" for address in self._stack(stack)]
            while names and names[0].startswith(_OWN):
                names.pop(0)
            row.stack = names[:_FRAMES]
        return row

    def _stack(self, number: int) -> list[int]:
        if number < 0:
            return []
        if number not in self._stacks:
            m = self._engine.loaded.maps["tcp_stacks"]
            try:
                raw = syscall.map_lookup(m.fd, struct.pack("@I", number), m.value_size)
            except OSError:
                return []
            self._stacks[number] = [a for a in struct.unpack(f"@{STACK_DEPTH}Q", raw) if a]
        return self._stacks[number]
