"""Stacks without a kernel: the tree, the icicle, the screen's keys, what the collector makes."""

from __future__ import annotations

import itertools
import os
import random
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from textual.pilot import Pilot

from ktop import flame as fl
from ktop import theme
from ktop.bpf import stacks_layer as layer
from ktop.bpf import symbols
from ktop.bpf.symbols import module_of
from ktop.collect import stacks as collect
from ktop.collect import stacks_table
from ktop.collect.stacks_symbols import Symbols, shown
from ktop.collect.stacks_table import Table, state_letter
from ktop.driver import TerminalApp
from ktop.flame import Flame, folded, layout, top_stacks
from ktop.history import History
from ktop.model import SCHEMA, Frame, Stacks
from ktop.model_stacks import Stack
from ktop.panes.base import Pane
from ktop.scope import HOST, Scope
from ktop.screens.flame import FlameScreen, write_new
from ktop.widgets.flame import Icicle, row_strip
from ktop.widgets.header import Keys
from ktop.widgets.table import VirtualTable
from ktop.wire import Control, Profile, encode_control
from tests.stacks import MS, frame_with, made, recorded, show

# -- the tree --------------------------------------------------------------------------------------


def built(stacks: Stacks, kind: str = "cpu") -> Flame:
    flame = Flame(kind)
    for _ in flame.work(stacks):
        pass
    return flame


@st.composite
def some_stacks(draw: st.DrawFn) -> Stacks:
    names = [f"f{i}" for i in range(6)]
    rows = draw(st.lists(st.tuples(
        st.sampled_from(["cpu", "off"]), st.sampled_from(["a", "b"]), st.integers(1, 3),
        st.lists(st.integers(0, 5), min_size=1, max_size=7), st.integers(1, 10 ** 9)), max_size=30))
    return Stacks("running", 1, names=names, stacks=[
        Stack(kind, pid, comm, at, 1, ns, "D" if ns % 2 else "S")
        for kind, comm, pid, at, ns in rows])


@given(some_stacks())
@settings(max_examples=150, deadline=None)
def test_the_tree_is_the_sum_of_its_stacks(stacks: Stacks) -> None:
    flame = built(stacks)
    mine = [s for s in stacks.stacks if s.kind == "cpu"]
    assert flame.root.total == sum(s.ns for s in mine)
    assert flame.root.samples == len(mine)
    assert flame.root.stuck == sum(s.ns for s in mine if s.state == "D")
    todo = [flame.root]
    while todo:
        node = todo.pop()
        assert node.total == node.own + sum(c.total for c in node.children.values())
        prefix = tuple(node.path())
        assert node.total == sum(s.ns for s in mine if (
            s.comm, *(stacks.names[at] for at in s.names))[:len(prefix)] == prefix)
        todo += node.children.values()
    for function in flame.functions():
        assert function.own == sum(
            s.ns for s in mine if stacks.names[s.names[-1]] == function.name)
        assert function.total == sum(
            s.ns for s in mine if function.name in {stacks.names[at] for at in s.names})


@given(some_stacks(), st.integers(1, 5), st.integers(0, 20))
@settings(max_examples=100, deadline=None)
def test_kept_up_to_date_it_is_the_same_as_built_anew(
        stacks: Stacks, times: int, cut: int) -> None:
    first = msgspec.structs.replace(stacks, stacks=stacks.stacks[:cut])
    later = msgspec.structs.replace(stacks, stacks=[
        msgspec.structs.replace(s, ns=s.ns * times - times, samples=times)
        for s in stacks.stacks])
    flame = built(first)
    root = flame.root
    for _ in flame.work(later):
        pass
    assert flame.root is root  # nothing was thrown away
    anew = built(later)
    assert sorted(flame.functions(), key=lambda f: f.name) == sorted(
        anew.functions(), key=lambda f: f.name)
    assert [(n.name, n.total) for n in walk(flame)] == [(n.name, n.total) for n in walk(anew)]


def walk(flame: Flame) -> list[fl.Node]:
    found, todo = [], [flame.root]
    while todo:
        node = todo.pop()
        found.append(node)
        todo += node.callees()
    return found


def test_another_run_or_a_filtered_one_begins_anew() -> None:
    flame = built(made())
    other = made()
    other.stacks = other.stacks[2:]
    for _ in flame.work(other):
        pass
    assert flame.root.total == sum(s.ns for s in other.stacks if s.kind == "cpu")
    for _ in flame.work(msgspec.structs.replace(made(2), started_ns=5)):
        pass
    assert flame.root.total == built(made(2)).root.total


def many(n: int = 8_000) -> Stacks:
    rng = random.Random(7)
    names = [f"function_{i}" for i in range(3_000)]
    return Stacks("running", 1, names=names, kinds=["cpu", "off"], stacks=[
        Stack(rng.choice(["cpu", "off"]), i % 500, f"comm{i % 40}",
              [i % 40, *(rng.randrange(3_000) for _ in range(rng.randrange(5, 40)))], 1 + i % 9,
              rng.randrange(1, 10 ** 8)) for i in range(n)])


def test_a_big_host_is_built_in_slices() -> None:
    stacks, slices = many(), []
    began = time.process_time()
    for _ in Flame("cpu").work(stacks):
        slices.append(time.process_time() - began)
        began = time.process_time()
    assert len(slices) == 40
    assert sorted(slices)[len(slices) // 2] < 0.01


def test_boxes_tile_their_callers() -> None:
    for width, stacks in itertools.product((1, 7, 80, 200), (made(), recorded(), many(500))):
        flame = built(stacks)
        rows = layout(flame.root, width, 60)
        assert rows[0][0].right == width
        for above, row in itertools.pairwise(rows):
            assert all(a.right <= b.left for a, b in itertools.pairwise(row))
            spans = {b.node: b for b in above if b.node}
            for box in row:
                assert box.right > box.left
                if box.node is not None and box.node.parent is not None:
                    caller = spans[box.node.parent]
                    assert caller.left <= box.left and box.right <= caller.right
                    exact = box.node.total / caller.node.total * (  # type: ignore[union-attr]
                        caller.right - caller.left)
                    assert abs(box.right - box.left - exact) <= 1
        for row in rows:
            assert row_strip(row, width, None, frozenset()).cell_length == width


def test_finding() -> None:
    flame = built(made())
    assert flame.matching("READ") == {"vfs_read_[k]"}
    assert flame.matching("web") == {"web"} and flame.matching("") == frozenset()
    assert flame.share(frozenset({"vfs_read_[k]"})) == pytest.approx(25.0)
    assert flame.share(frozenset({"web"})) == pytest.approx(75.0)
    assert [n.path() for n in flame.heaviest(frozenset({"main"}))] == [
        ["web", "main"], ["cron", "main"]]


def test_folded_is_what_flamegraph_reads() -> None:
    stacks = recorded()
    for kind in ("cpu", "off"):
        lines = folded(stacks, kind).splitlines()
        assert all(re.fullmatch(r"[^;]+(;[^;]+)+ [0-9]+", line) for line in lines)
        total = sum(int(line.rpartition(" ")[2]) for line in lines)
        mine = [s for s in stacks.stacks if s.kind == kind]
        if kind == "cpu":
            assert total == sum(s.samples for s in mine)
        else:
            assert total == pytest.approx(sum(s.ns for s in mine) / 1000, abs=len(mine))
        assert lines == sorted(lines, key=lambda x: (-int(x.rpartition(" ")[2]),
                                                     x.rpartition(" ")[0]))
    odd = Stacks("ended", 1, names=["a;b c"], stacks=[Stack("cpu", 1, "x;y", [0], 2, 1),
                                                      Stack("cpu", 2, "x;y", [0], 3, 1)])
    assert folded(odd, "cpu") == "x:y;a:b c 5\n"


def test_the_heaviest_stacks_of_a_process() -> None:
    found = top_stacks(made(), 7, "cpu", 2)
    assert [t.names[-1] for t in found] == ["parse", "render"]
    assert found[0].pct == pytest.approx(100 * 30 / 45) and found[0].ns == 30 * MS
    assert top_stacks(made(), 7, "off", 5)[0].state == "D"
    assert top_stacks(None, 7, "cpu", 2) == [] and top_stacks(made(), 99, "cpu", 2) == []
    assert len(top_stacks(made(), None, "cpu", 9)) == 4


def test_the_recorded_run_is_the_shop() -> None:
    stacks = recorded()
    assert stacks.state == "ended" and not stacks.naming and stacks.lost_traces == 0
    assert {s.comm for s in stacks.stacks} == {"shop", "shop-mailer"}
    functions = {f.name: f for f in built(stacks).functions()}
    total = built(stacks).root.total
    assert functions["serve_request"].total > 0.8 * total
    assert functions["longest_match"].total > functions["escape_html"].total


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


# -- the screen ------------------------------------------------------------------------------------


class Host(TerminalApp):
    """An app that has nothing but what is put on top of it."""

    def __init__(self, ascii_only: bool = False) -> None:
        super().__init__(ascii_only)
        self.theme = theme.THEME
        self.asked: list[Profile] = []
        self.following, self.replaying, self.pauses = True, False, 0

    def on_pane_ask(self, message: Pane.Ask) -> None:
        assert message.wish.profile is not None
        self.asked.append(message.wish.profile)

    def action_pause(self) -> None:
        self.pauses += 1


def text_of(pilot: Pilot[Any]) -> list[str]:
    screen = pilot.app.screen
    return [strip.text.rstrip() for strip in screen._compositor.render_strips(screen.size)]


async def settled(pilot: Pilot[Any], screen: FlameScreen) -> None:
    for _ in range(200):
        await pilot.pause(0.01)
        if screen._building is None:
            await pilot.pause()
            return
    raise TimeoutError


def give(screen: FlameScreen, stacks: Stacks | None) -> Frame:
    frame = frame_with(stacks)
    screen.show(frame, History(), frame)
    return frame


async def test_walking_and_zooming_by_keys() -> None:
    app = Host()
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await show(app, made())
        await settled(pilot, screen)
        icicle = screen.query_one(Icicle)
        steps = {"down": ["web"], "left": ["web"], "right": ["cron"], "up": [], "end": [
            "web", "main", "serve", "parse"], "right ": ["web", "main", "serve", "render"]}
        for press, path in steps.items():
            await pilot.press(press.strip())
            assert icicle.selected.path() == path, press
        await pilot.press("up", "down")
        assert icicle.selected.name == "render"  # the way one came
        await pilot.press("up", "enter")
        assert icicle.root.name == "serve" and len(layout(icicle.root, 80, 9)[0]) == 1
        assert any("zoomed: web > main > serve" in line for line in text_of(pilot))
        await pilot.press("up")
        assert icicle.selected.name == "serve"  # the picture ends there
        await pilot.press("backspace", "up", "up", "up", "up")
        assert icicle.root.name == "all" and icicle.selected.name == "all"
        await pilot.press("down", "home")
        assert icicle.selected.name == "all"
        await pilot.press("j", "k", "x")
        assert app.screen is screen


async def test_figures_of_the_selected_function() -> None:
    app = Host()
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await show(app, made())
        await settled(pilot, screen)
        await pilot.press("down", "down", "down")
        lines = text_of(pilot)
        assert " serve   user" in lines[-4]
        assert "total 75.0% 45ms  self 8.3% 5.0ms  samples 9 self 3" in lines[-3]
        assert "12 samples at 49 Hz  60ms of CPU time  lost 0" in lines[1]
        assert "cost 0.12% of a CPU, 2.1us a sample" in lines[2]
        assert "running 1 of 30 s" in lines[0]
        await pilot.press("o", "end")
        await settled(pilot, screen)
        lines = text_of(pilot)
        assert "mean 50ms  state D 100%" in lines[-3] and "1.5us a switch" in lines[2]
        assert "150ms uninterruptible" in lines[1]
        await pilot.press("tab")
        await settled(pilot, screen)
        assert screen.kind == "cpu"


async def test_find_next_and_the_table() -> None:
    app = Host()
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await show(app, made())
        await settled(pilot, screen)
        icicle = screen.query_one(Icicle)
        await pilot.press("slash", *"MAIN", "enter")
        await pilot.pause()
        assert icicle.selected.path() == ["web", "main"]
        assert any("*main" in line for line in text_of(pilot))
        await pilot.press("n")
        assert icicle.selected.path() == ["cron", "main"]
        await pilot.press("N")
        assert icicle.selected.path() == ["web", "main"]
        await pilot.press("slash", *"nowhere", "enter")
        await pilot.pause()
        assert any("no function contains \"nowhere\"" in line for line in text_of(pilot))
        await pilot.press("slash", "enter")
        await pilot.pause()
        assert not icicle.matches
        await pilot.press("n")
        assert any("nothing is marked" in line for line in text_of(pilot))
        await pilot.press("v")
        await pilot.pause()
        table = screen.query_one(VirtualTable)
        assert table.has_focus and not icicle.region.area and table.region.area
        assert [f.name for f in table.rows][:3] == ["parse", "vfs_read_[k]", "render"]
        await pilot.press("down", "down", "enter")
        await pilot.pause()
        assert icicle.has_focus and icicle.selected.path() == ["cron", "main", "do_syscall_64_[k]",
                                                               "vfs_read_[k]"]
        await pilot.press("slash", "escape")
        await pilot.pause()
        assert app.screen is screen


async def test_stop_start_pause_help_and_close() -> None:
    app = Host()
    async with app.run_test(size=(120, 40)) as pilot:
        mine = [msgspec.structs.replace(made(n, state), pids=[7], children=True)
                for n, state in ((1, "running"), (2, "ended"), (3, "running"))]
        screen = await show(app, mine[0], Scope(pid=7, name="web"))
        await settled(pilot, screen)
        assert app.asked == []  # there were stacks of the same target
        assert "Stop" in text_of(pilot)[-1] and "7 web" in text_of(pilot)[0]
        await pilot.press("s")
        assert app.asked[-1] == Profile(pids=[7], seconds=0.0, children=True)
        give(screen, mine[1])
        await settled(pilot, screen)
        assert "s Start" in text_of(pilot)[-1] and "ended after 2.0 s" in text_of(pilot)[0]
        await pilot.press("s")
        assert app.asked[-1].seconds == 30.0
        await pilot.press("space")
        assert app.pauses == 1
        await pilot.press("question_mark")
        await pilot.pause()
        assert any("folded form" in line for line in text_of(pilot))
        await pilot.press("escape")
        await pilot.pause()
        give(screen, mine[2])
        await pilot.press("q")
        await pilot.pause()
        assert app.asked[-1].seconds == 0.0 and app.screen is not screen  # what runs is ended


async def test_it_asks_once_and_keeps_what_it_has() -> None:
    app = Host()
    async with app.run_test(size=(80, 24)) as pilot:
        screen = FlameScreen(HOST, [], [4, 5])
        await app.push_screen(screen)
        for _ in range(3):
            give(screen, None)
            await pilot.pause()
        give(screen, made())  # somebody else's: of the whole host
        await pilot.pause()
        assert app.asked == [Profile(cgroups=[4, 5], seconds=30.0)]
        assert any("have been asked for" in line for line in text_of(pilot))
        for state in ("loading", "failed"):
            give(screen, Stacks(state, 1, cgroups=[4, 5], reason="EPERM: lockdown"))
            await settled(pilot, screen)
        assert any("EPERM: lockdown" in line for line in text_of(pilot))
        mine = msgspec.structs.replace(made(1, "ended"), cgroups=[5, 4])
        give(screen, mine)
        await settled(pilot, screen)
        give(screen, None)
        await pilot.pause()
        assert screen.stacks == mine
        assert screen.query_one(Icicle).flame.root.total == 60 * MS


async def test_a_recording_shows_what_its_frames_hold() -> None:
    app = Host()
    app.replaying = True
    async with app.run_test(size=(80, 24)) as pilot:
        screen = FlameScreen(Scope(pid=3), [3], [])
        await app.push_screen(screen)
        give(screen, None)
        await pilot.pause()
        assert any("No stacks in this sample" in line for line in text_of(pilot))
        give(screen, recorded())
        await settled(pilot, screen)
        assert any("serve_request" in line for line in text_of(pilot))
        await pilot.press("s")
        assert app.asked == [] and any("nothing can be taken" in x for x in text_of(pilot))
        give(screen, None)  # another position
        await settled(pilot, screen)
        assert any("No stacks in this sample" in line for line in text_of(pilot))
        app.replaying, app.following = False, False
        give(screen, None)
        await pilot.pause()
        assert any("Space lets it go on" in line for line in text_of(pilot))


async def test_written_out_for_the_owner_only_and_over_nothing(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    app = Host()
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await show(app, recorded())
        await settled(pilot, screen)
        await pilot.press("w", "w", "o")
        await settled(pilot, screen)
        await pilot.press("w")
        assert any("stacks (microseconds) written to ktop-off-" in x for x in text_of(pilot))
        tmp_path.chmod(0o500)
        monkeypatch.setattr(os, "open", refuse)
        await pilot.press("w")
        monkeypatch.undo()
        assert any("not written: Permission denied" in x for x in text_of(pilot))
    tmp_path.chmod(0o700)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 3 and files[0].name.endswith("-2.folded")
    assert all(f.stat().st_mode & 0o777 == 0o600 for f in files)
    assert files[1].read_text() == folded(recorded(), "cpu") == files[0].read_text()
    (tmp_path / "x.folded").symlink_to(tmp_path / "elsewhere")
    assert write_new(tmp_path, "x", ".folded", "y").name == "x-2.folded"
    assert not (tmp_path / "elsewhere").exists()


def refuse(*args: object, **kwargs: object) -> int:
    raise PermissionError(13, "Permission denied")


async def test_nothing_to_write_is_said() -> None:
    app = Host()
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await show(app, Stacks("running", 1, kinds=["cpu", "off"]))
        await settled(pilot, screen)
        await pilot.press("w")
        assert any("no stacks to write" in line for line in text_of(pilot))
        assert any("No sample so far" in line for line in text_of(pilot))


async def test_an_unchanged_picture_is_not_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    app = Host()
    async with app.run_test(size=(120, 40)) as pilot:
        screen = await show(app, recorded())
        await settled(pilot, screen)
        drawn: Counter[str] = Counter()
        for widget in screen.query("*"):
            def refresh(*args: Any, _name: str = type(widget).__name__, **kwargs: Any) -> Any:
                drawn[_name] += 1
            monkeypatch.setattr(widget, "refresh", refresh)
        for _ in range(3):
            give(screen, recorded())
            await settled(pilot, screen)
        assert drawn == {}
        await pilot.press("down")
        assert drawn["Icicle"] == 1


@pytest.mark.parametrize("ascii_only", [False, True])
@pytest.mark.parametrize("size", [(120, 40), (80, 24), (40, 10), (10, 3)])
async def test_every_size_and_glyphs(size: tuple[int, int], ascii_only: bool) -> None:
    theme.use_ascii(ascii_only)
    try:
        app = Host(ascii_only)
        async with app.run_test(size=size) as pilot:
            screen = await show(app, recorded())
            await settled(pilot, screen)
            await pilot.press("end", "enter", "o")
            await settled(pilot, screen)
            await pilot.press("end", "v", "down", "enter", "backspace", "home")
            await settled(pilot, screen)
            lines = text_of(pilot)
            assert all(len(line) <= size[0] for line in lines)
            if ascii_only:
                assert "\n".join(lines).isascii()
            if size[0] >= 80:
                assert "Esc Close" in lines[-1] and screen.query_one(Keys).hints
                kernel, user = (":", "|") if ascii_only else ("┊", "▏")
                text = "\n".join(lines)
                assert kernel + "vfs_read_[k]" in text and user + "take_job" in text
    finally:
        theme.use_ascii(False)


async def test_keys_are_not_kept_waiting_by_a_big_host() -> None:
    app = Host()
    stacks = many()
    async with app.run_test(size=(120, 40)) as pilot:
        screen = FlameScreen(HOST, [], [])
        await app.push_screen(screen)
        began = time.process_time()
        give(screen, stacks)
        assert time.process_time() - began < 0.03  # a slice, and the lines around
        await settled(pilot, screen)
        assert screen.flame.root.total == sum(s.ns for s in stacks.stacks if s.kind == "cpu")
