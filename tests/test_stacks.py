"""Stacks without a kernel: the tree that is made of them, and its folded form."""

from __future__ import annotations

import itertools
import re

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ktop import flame as fl
from ktop.flame import Flame, folded, layout, top_stacks
from ktop.model import Stacks
from ktop.model_stacks import Stack
from ktop.widgets.flame import row_strip
from tests.stacks import MS, made, many, recorded
from tests.work import counted

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


def test_a_big_host_is_built_in_slices() -> None:
    work, slices = Flame("cpu").work(many()), []
    done = object()
    while True:
        with counted() as slice_:
            if next(work, done) is done:
                break
        slices.append(slice_.lines)
    assert len(slices) == 40 and max(slices) < 100_000


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
