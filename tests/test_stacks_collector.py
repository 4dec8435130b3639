"""What the collector makes of stacks: names, sums, losses, requests. Without a kernel."""

from __future__ import annotations

import itertools
import os
from typing import Any, ClassVar

import msgspec
import pytest

from ktop.bpf import stacks_layer as layer
from ktop.bpf import symbols
from ktop.bpf.symbols import module_of
from ktop.collect import stacks as collect
from ktop.collect import stacks_table
from ktop.collect.stacks_symbols import Symbols, shown
from ktop.collect.stacks_table import Table, state_letter
from ktop.model import SCHEMA, Stacks
from ktop.wire import Control, Profile, encode_control
from tests.stacks import frame_with

# -- what the collector makes ----------------------------------------------------------------------


class FakeEngine:
    """Maps as the programs would fill them."""

    def __init__(self) -> None:
        self.maps: dict[str, dict[bytes, bytes]] = {
            "stacks_sums": {}, "stacks_threads": {}, "stacks_traces": {}}
        self.counters = [0, 0, 0]
        fd = itertools.count(100)
        self.by_fd: dict[int, str] = {}
        self.loaded = self
        for name in self.maps:
            self.by_fd[next(fd)] = name

    def fd_of(self, name: str) -> int:
        return next(fd for fd, other in self.by_fd.items() if other == name)

    def trace(self, number: int, *ips: int) -> int:
        self.maps["stacks_traces"][number.to_bytes(8, "little")] = layer.STACK_STRUCT.pack(
            len(ips), *ips, *([0] * (layer.DEPTH - len(ips))))
        return number

    def read_hash(self, name: str) -> list[tuple[bytes, memoryview]]:
        return [(k, memoryview(v)) for k, v in self.maps[name].items()]

    def read_percpu(self, name: str, at: int) -> list[memoryview]:
        return [memoryview(self.counters[at].to_bytes(8, "little"))] * 2

    def sum(self, key: bytes, samples: int, ns: int) -> None:
        self.maps["stacks_sums"][key] = layer.SUM_STRUCT.pack(samples, ns)


class FakeMaps(dict[str, Any]):
    def __init__(self, engine: FakeEngine) -> None:
        super().__init__({name: type("M", (), {"fd": engine.fd_of(name)})
                          for name in engine.by_fd.values()})


class KnownSymbols(Symbols):
    """Names at once, or when told."""

    def __init__(self, names: dict[tuple[int, int], str]) -> None:
        super().__init__()
        self.known = names
        self.asked: list[tuple[int, int]] = []

    def name(self, pid: int, address: int) -> str | None:
        return self.known.get((pid, address))

    def ask(self, pid: int, addresses: Any) -> None:
        self.asked += [(pid, a) for a in addresses]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    found = FakeEngine()
    data = found.maps
    found.maps = data
    monkeypatch.setattr(stacks_table.syscall, "map_lookup",
                        lambda fd, key, size: data[found.by_fd[fd]][key])
    monkeypatch.setattr(stacks_table.syscall, "map_take",
                        lambda fd, key, size: data[found.by_fd[fd]].pop(key))
    monkeypatch.setattr(stacks_table.syscall, "map_delete",
                        lambda fd, key: data[found.by_fd[fd]].pop(key))
    found.loaded = type("L", (), {"maps": FakeMaps(found)})  # type: ignore[assignment]
    return found


def key(kernel: int, user: int, pid: int = 7, kind: int = 0, state: int = 0,
        comm: bytes = b"web") -> bytes:
    return layer.KEY_STRUCT.pack(kernel, user, pid, kind | state << 8, comm)


def test_stacks_are_told_when_all_their_names_are_known(engine: Any) -> None:
    known = KnownSymbols({(0, 50): "vfs_read_[k]", (0, 59): "do_syscall_64_[k]"})
    table = Table(known)
    engine.sum(key(engine.trace(11, 50, 60), engine.trace(12, 500, 601)), 3, 0)
    table.read(engine, 0)
    # all but the innermost are addresses to return to
    assert known.asked == [(7, 500), (7, 600), (0, 50), (0, 59)]
    assert table.stacks == [] and table.naming == 1
    known.known |= {(7, 500): "parse", (7, 600): "main"}
    engine.sum(key(11, 12), 4, 0)
    table.read(engine, 0)
    assert table.naming == 0
    (stack,) = table.stacks
    assert [table.names[at] for at in stack.names] == [
        "main", "parse", "do_syscall_64_[k]", "vfs_read_[k]"]
    assert (stack.samples, stack.ns) == (4, 4 * 1_000_000_000 // layer.HZ)


def test_same_names_are_one_stack_and_ours_are_left_out(engine: Any) -> None:
    known = KnownSymbols({(0, 0): "[unknown]_[k]", (0, 1): "bpf_trace_run4_[k]",
                            (0, 19): "__schedule_[k]", (0, 29): "schedule_[k]",
                            (0, 39): "do_nanosleep_[k]", (7, 5): "nap", (7, 6): "nap"})
    table = Table(known)
    off = {"kind": 1, "state": 1}
    kernel = engine.trace(21, 0, 2, 20, 30, 40)
    engine.sum(key(kernel, engine.trace(22, 5), **off), 1, 100)
    engine.sum(key(kernel, engine.trace(23, 6), **off), 2, 200)
    table.read(engine, 0)
    (stack,) = table.stacks
    assert [table.names[at] for at in stack.names] == ["nap", "do_nanosleep_[k]"]
    assert (stack.samples, stack.ns, stack.state) == (3, 300, "S")
    engine.sum(key(kernel, 23, **off), 4, 500)
    table.read(engine, 0)
    assert (table.stacks[0].samples, table.stacks[0].ns) == (5, 600)
    assert stack.ns == 300  # a frame that was made keeps what it said


def test_what_is_under_way_counts_until_it_is_in_the_sums(
        engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table(KnownSymbols({(0, 1): "pipe_read_[k]"}))
    monkeypatch.setattr(stacks_table, "_run_delay", lambda tid: 1_000 + tid)
    one = key(engine.trace(31, 1), layer.UNSEEN, kind=1, state=2)
    threads = engine.maps["stacks_threads"]
    tid = (30).to_bytes(4, "little")
    threads[tid] = layer.ABSENCE_STRUCT.pack(5_000, 0, 0, one)
    table.read(engine, 9_000)
    (stack,) = table.stacks
    assert (stack.samples, stack.ns, stack.state) == (1, 4_000, "D")
    assert [table.names[at] for at in stack.names] == ["[user stack not seen]", "pipe_read_[k]"]
    threads[tid] = layer.ABSENCE_STRUCT.pack(0, 4_500, 1_000, one)  # runs again, after a wait of 30
    table.read(engine, 20_000)
    assert table.stacks[0].ns == 4_470
    del threads[tid]
    engine.sum(one, 1, 4_470)
    table.read(engine, 30_000)
    assert (table.stacks[0].samples, table.stacks[0].ns) == (1, 4_470)


def test_lost_and_cut_stacks_are_named_so(engine: Any) -> None:
    deep = engine.trace(41, *range(1_000, 1_000 + layer.DEPTH))
    known = KnownSymbols({(7, a): "again" for a in range(900, 1_200)})
    table = Table(known)
    engine.sum(key(layer.LOST, deep), 1, 0)
    engine.sum(key(layer.NONE, layer.NONE), 1, 0)
    engine.counters = [3, 2, 1]
    table.read(engine, 0)
    texts = [[table.names[at] for at in s.names] for s in table.stacks]
    assert texts[0][0] == "[deeper]" and texts[0][-1] == "[stack lost]"
    assert len(texts[0]) == layer.DEPTH + 2 and texts[1] == ["[unknown]"]
    assert table.lost == {"traces": 6, "sums": 4, "threads": 2}  # of two CPUs


def test_full_tables_are_emptied_and_nothing_counts_twice(
        engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacks_table, "SUMS", 2)
    monkeypatch.setattr(stacks_table, "TRACES", 2)
    table = Table(KnownSymbols({(7, a): f"f{a}" for a in range(10)}))
    for n in range(3):
        engine.sum(key(0, engine.trace(50 + n, n)), 10 + n, 0)
    table.read(engine, 0)
    assert not engine.maps["stacks_traces"] and len(engine.maps["stacks_sums"]) == 3
    table.read(engine, 0)  # now they rest
    assert not engine.maps["stacks_sums"]
    engine.sum(key(0, 51), 5, 0)
    engine.trace(51, 1)
    table.read(engine, 0)
    assert [s.samples for s in table.stacks] == [10, 16, 12]


def test_names_are_harmless() -> None:
    assert shown("core::fmt::write::h0123456789abcdef", False) == "core::fmt::write"
    assert shown("\x1b[2Jx\n", False) == "\\e[2Jx\\n" and shown("vfs_read", True) == "vfs_read_[k]"
    assert shown("", False) == "[unknown]" and len(shown("x" * 900, False)) == 200
    assert module_of("/usr/lib/libc.so.6") == "[libc.so.6]" and module_of("[vdso]") == "[vdso]"
    assert module_of("/app/x (deleted)") == "[x]" and module_of("/tmp/perf-12.map") == "[unknown]"
    assert module_of("[anon:jit]") == "[unknown]" == module_of("")


def test_states_are_those_of_ps() -> None:
    assert [state_letter(bits) for bits in (1, 2, 0x102, 4, 8)] == ["S", "D", "D", "T", "t"]


def test_without_bpf_it_says_why_and_forgets_when_told() -> None:
    one = collect.StacksLayer({}, [], lambda group: None, "not root")
    one.request(Profile(pids=[7], seconds=3))
    frame = frame_with(None)
    one.update(frame)
    assert frame.stacks is not None and frame.stacks.state == "failed"
    assert frame.stacks.reason == "not root" and frame.stacks.pids == [7]
    one.request(Profile(seconds=0))
    one.update(frame)
    assert frame.stacks is None


@pytest.mark.parametrize("wish", [Profile(pids=[-1], seconds=1), Profile(pids=[1 << 40], seconds=1),
                                  Profile(cgroups=[0], seconds=1)])
def test_a_request_that_makes_no_sense_is_refused(wish: Profile) -> None:
    one = collect.StacksLayer({}, [], lambda group: None)
    one.request(wish)
    frame = frame_with(None)
    one.update(frame)
    assert frame.stacks is not None and "positive number" in frame.stacks.reason
    one.request(Profile(seconds=float("nan")))
    one.update(frame)
    assert frame.stacks is None


def test_a_process_that_has_ended_is_named_by_another_with_the_same_file() -> None:
    """The symbols child, with a library that knows one live process only."""
    class Lib:
        asked: ClassVar[list[int]] = []

        def bcc_symcache_new(self, pid: int, option: object) -> int:
            return pid

        def bcc_symcache_resolve(self, cache: Any, address: Any, symbol: Any) -> int:
            self.asked.append(cache.value)
            if cache.value != os.getpid():
                return -1
            symbol._obj.name = b"known"
            return 0

        def bcc_symcache_refresh(self, cache: object) -> None:
            pass

        def bcc_symbol_free_demangle_name(self, symbol: object) -> None:
            pass

    names = symbols.Names(Lib())  # type: ignore[arg-type]
    mine = symbols.Maps(os.getpid())
    low = next(span for span in mine._spans if span[3][2])[0]
    assert mine.address(*mine.find(low + 5)) == low + 5  # type: ignore[misc]
    gone = 1 << 30
    asked = {"id": 1, "pid": gone, "addrs": [low + 5]}
    assert names.answer(asked, symbols.Maps(gone))["names"] == ["[unknown]"]
    assert names.answer({**asked, "pid": os.getpid(), "addrs": []}, mine)["names"] == []
    assert names.answer(asked, mine)["names"] == ["known"]
    Lib.asked.clear()
    assert names.answer(asked, symbols.Maps(gone))["names"] == ["known"] and not Lib.asked
    assert symbols.Names(None).answer({**asked, "pid": os.getpid()}, mine)["note"]


def test_a_kernel_that_refuses_ends_the_run_and_not_the_collector(
        monkeypatch: pytest.MonkeyPatch) -> None:
    freed: list[str] = []

    class Refusing(collect.Engine):
        def start(self) -> None:
            self.loaded.maps = {}

        def poll(self) -> bool:
            return True

        def attach_only(self, names: object) -> None:
            raise PermissionError(1, "Operation not permitted")

        def close(self) -> None:
            freed.append("closed")

    monkeypatch.setattr(collect, "Engine", Refusing)
    monkeypatch.setattr(collect.syscall, "map_update", lambda *args: None)
    one = collect.StacksLayer({}, [], lambda group: None)
    one.request(Profile(seconds=3))
    assert one._run is not None and one._run.engine is not None
    one._run.engine.loaded.maps = dict.fromkeys(  # type: ignore[assignment]
        ("stacks_config", "stacks_pids", "stacks_cgroups"), type("M", (), {"fd": -1}))
    frame = frame_with(None)
    one.drain()
    one.update(frame)
    assert frame.stacks is not None and frame.stacks.state == "failed"
    assert frame.stacks.reason == "the kernel refused: Operation not permitted"
    assert freed == ["closed"]


def test_an_old_result_leaves_the_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nothing(collect.Engine):
        def start(self) -> None:
            self.loaded.fatal = "no compiler"

    monkeypatch.setattr(collect, "Engine", Nothing)
    one = collect.StacksLayer({}, [], lambda group: None)
    one.request(Profile(seconds=3))
    frame = frame_with(None)
    one.update(frame)
    assert frame.stacks is not None and frame.stacks.reason == "no compiler"
    monkeypatch.setattr(collect, "KEEP_S", -1.0)
    frame.stacks = None
    one.update(frame)
    assert frame.stacks is None
    one.close()


def test_old_recordings_and_old_controls_stay_readable() -> None:
    old = msgspec.msgpack.encode(["running", 5, 6, 7, [1], [], 49, ["f"],
                                  [["cpu", 1, "x", [0], 2, 3]], ""])
    stacks = msgspec.msgpack.decode(old, type=Stacks)
    assert stacks.stacks[0].state == "" and stacks.kinds == [] and stacks.cpu_pct is None
    plain = msgspec.msgpack.encode({"profile": {"pids": [3], "seconds": 2.0}})
    control = msgspec.msgpack.decode(plain, type=Control)
    assert control.profile == Profile(pids=[3], seconds=2.0) and not control.profile.children
    assert encode_control(Control(profile=Profile(seconds=0)))
    assert SCHEMA == 1
