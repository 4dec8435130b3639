"""Tables folded by control group: sums and percentiles of a group are those of its rows."""

import pytest

from ktop import hist
from ktop.fold import fold
from ktop.model import Cgroup, Process
from ktop.panes.base import Names
from ktop.panes.groups import Group, GroupTree, latency_of, tree
from ktop.panes.process_columns import process_columns
from ktop.panes.tcp_columns import Spaces, connection_columns
from tests.frames import make_frame
from tests.session import frames as session_frames
from tests.work import counted


def rows_of(*groups):
    return [Process(pid=n, ppid=1, uid=0, comm=f"p{n}", args=None, cgroup=group, state="S",
                    threads=2, start_boottime_ns=n, cpu_pct=10.0)
            for n, group in enumerate(groups, 1)]


def known(*paths):
    return {n: Cgroup(id=n, path=path, name=path.rpartition("/")[2] or "/")
            for n, path in enumerate(paths, 1)}


def shape(groups):
    return [(g.path, g.count, shape(g.below)) for g in groups]


def test_the_tree_has_a_branch_only_where_it_branches():
    groups = known("/", "/a/b/c", "/a/b/d", "/x/y/z")
    found = tree(rows_of(2, 2, 3, 4), groups)
    assert shape(found) == [("/x/y/z", 1, []),
                            ("/a/b", 3, [("/a/b/c", 2, []), ("/a/b/d", 1, [])])]
    with_root = tree(rows_of(1, 2, 3), groups)
    assert [(g.path, g.count) for g in with_root] == [("/", 3)]


def test_rows_of_groups_that_are_gone_are_not_lost():
    found = tree(rows_of(1, 99, None), known("/a"))
    assert {(g.name, g.count) for g in found} == {("a", 1), ("gone: 99", 1), ("unknown", 1)}


def test_totals_are_sums_and_percentiles_are_of_all_rows():
    frame = session_frames()[-1]
    rows = frame.processes.rows
    roots = tree(rows, {g.id: g for g in frame.cgroups})
    total = fold(rows)
    assert sum(g.count for g in roots) == len(rows)
    for field in ("cpu_pct", "threads", "rss_bytes", "read_bytes_per_s", "voluntary_per_s"):
        assert sum(getattr(g.total, field) or 0 for g in roots) == pytest.approx(
            getattr(total, field))
    waits = hist.merge([p.runq for p in rows if p.runq])
    assert hist.count(hist.merge([g.latency for g in roots if g.latency])) == hist.count(waits)


def test_what_is_of_one_row_alone_is_not_the_groups():
    total = fold(rows_of(1, 1))
    assert (total.pid, total.comm, total.state, total.blocked_reason) == (None,) * 4
    assert (total.cpu_pct, total.threads, total.rss_bytes) == (20.0, 4, None)


def test_lines_follow_the_column_and_open_on_request():
    folding = GroupTree()
    folding.groups = known("/a", "/b")
    rows = rows_of(1, 2, 2)
    columns = folding.columns(process_columns(Names(), lambda r: r.comm))
    cpu = next(c for c in columns if c.key == "cpu")

    def shown(descending=True):
        return [line.name if isinstance(line, Group) else line.comm
                for line in folding.lines(rows, lambda r: r.pid, cpu, descending)]

    assert shown() == ["b", "a"]
    assert shown(False) == ["a", "b"]
    folding.toggle(folding.lines(rows, lambda r: r.pid, cpu, True)[0])
    assert shown() == ["b", "p2", "p3", "a"]
    line = folding.lines(rows, lambda r: r.pid, cpu, True)[0]
    texts = {c.key: c.text(line) for c in columns}
    assert texts["cpu"] == "20.0"
    assert texts["rows"] == "2"
    assert texts["pid"] == texts["command"] == texts["age"] == ""
    assert folding.key(line) == ("group", "/b")
    assert folding.key(rows[0]) is None


def test_sums_are_made_again_when_something_has_changed_and_only_then():
    folding = GroupTree()
    folding.groups = known("/a", "/b")
    rows = rows_of(1, 2, 2)

    def lines(some):
        return {line.name: line.total for line in folding.lines(some, lambda r: r.pid, None, True)
                if isinstance(line, Group)}

    first = lines(rows)
    folding.toggle(folding.lines(rows, lambda r: r.pid, None, True)[0])
    folding.groups = dict(folding.groups)
    with counted() as work:
        again = lines(list(rows))
    assert work.lines < 60 and all(again[name] is first[name] for name in first)
    later = rows_of(1, 2, 2)
    later[1].cpu_pct = 50.0
    assert lines(later)["b"].cpu_pct == 60.0
    assert lines(later[:2])["b"].cpu_pct == 50.0
    folding.groups = known("/a", "/c")
    assert set(lines(later[:2])) == {"a", "c"}
    before = lines(later)
    folding.forget()
    assert folding._summed[0] == () and lines(later)["c"] is not before["c"]


def test_every_column_can_say_something_of_every_group():
    frame = session_frames()[-1]
    names, folding = Names(), GroupTree()
    names.learn(frame)
    folding.groups = {g.id: g for g in frame.cgroups}
    for rows, columns in ((frame.processes.rows, process_columns(names, lambda r: r.comm)),
                          (frame.tcp.connections, connection_columns(names, Spaces(names)))):
        made = folding.columns(columns)
        for column in made:
            for line in folding.lines(rows, lambda r: getattr(r, "pid", 0) or 0, column, True):
                assert isinstance(column.text(line), str)
                if column.style:
                    assert isinstance(column.style(line), str)


def test_latency_is_what_the_row_is_about():
    frame = make_frame(3)
    process = next(p for p in frame.processes.rows if p.runq)
    assert latency_of(process) is process.runq
    assert latency_of(object()) is None
