"""Which processes are asked for their network namespace, and how often: a stat(2) each."""

import os
import subprocess

import pytest

from ktop.collect import tcp_netns
from ktop.collect.proctext import figures
from ktop.collect.tcp_netns import Namespaces
from tests.frames import SECOND, make_process

NOW = 1_000 * SECOND


@pytest.fixture
def asked(monkeypatch):
    """pid -> inode as the kernel would say, and who was asked."""
    truth, said = {}, []

    def inode(path):
        parts = path.split("/")
        if parts[1] != "proc":
            return None
        said.append(int(parts[2]))
        return truth.get(int(parts[2]))

    monkeypatch.setattr(tcp_netns, "_inode", inode)
    return truth, said


def rows(count, start=0):
    found = []
    for number in range(count):
        row = make_process(number)
        row.pid, row.start_boottime_ns, row.kernel_thread = number + 10, start, False
        found.append(row)
    return found


def known(truth, count):
    """So many processes, all of one namespace, and who has not asked yet."""
    found = rows(count)
    truth.update((row.pid, 7) for row in found)
    return found, Namespaces()


def look(spaces, found, said, now=NOW):
    said.clear()
    spaces.discover(found, now)
    return sorted(said)


def test_who_is_known_is_asked_again_in_turn_only(asked):
    truth, said = asked
    found, spaces = known(truth, 100)
    assert set(look(spaces, found, said)) == {row.pid for row in found}
    again = [look(spaces, found, said) for _ in range(20)]
    assert sorted(pid for pids in again for pid in pids) == sorted(row.pid for row in found)
    truth[15] = 8  # setns(2)
    for _ in range(20):
        look(spaces, found, said)
    assert spaces.known()[0][1:] == [7, 8]
    spaces.close()


def test_the_young_the_unknown_and_a_number_used_again_are_asked_each_time(asked):
    truth, said = asked
    found, spaces = known(truth, 100)
    del truth[20]  # not to be read
    found[3].start_boottime_ns = NOW - SECOND
    for _ in range(3):
        assert {13, 20} <= set(look(spaces, found, said))
    look(spaces, found, said, NOW + 10 * SECOND)  # 13 is old now
    truth[20] = 7
    look(spaces, found, said, NOW + 10 * SECOND)
    counts = [look(spaces, found, said, NOW + 10 * SECOND) for _ in range(20)]
    assert sum(map(len, counts)) == 100  # each once: nobody is left over
    found[50].start_boottime_ns = 5
    truth[60] = 9
    assert 60 in look(spaces, found, said)
    assert 9 in spaces.known()[0]
    gone = found[:50] + found[51:]
    look(spaces, gone, said)
    assert 9 not in spaces.known()[0]
    spaces.close()


def test_a_namespace_knows_its_groups(asked):
    truth, said = asked
    found, spaces = known(truth, 4)
    look(spaces, found, said)
    row = spaces.row(7, {10: 3, 11: None, 12: 3, 13: 2}.get)
    assert (row.processes, row.cgroup, row.cgroups) == (4, 3, [2, 3])
    spaces.close()


def test_figures_of_some_lines_are_those_of_all():
    text = "nr_free 1\nnr_dirty 2\nMemTotal:  3 kB\nnr_dirty_threshold 4\nx y\nnr_dirty\n"
    assert figures(text) == {"nr_free": 1, "nr_dirty": 2, "MemTotal": 3, "nr_dirty_threshold": 4}
    assert figures(text, ("nr_dirty", "Mem")) == {
        "nr_dirty": 2, "MemTotal": 3, "nr_dirty_threshold": 4}


@pytest.mark.skipif(os.geteuid() != 0, reason="enters a namespace: root")
def test_no_namespace_is_entered_where_no_way_leads_back(tmp_path):
    name = f"ktopback{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        spaces = Namespaces()
        here = spaces.own
        spaces.discover([], NOW)
        (other,) = (inode for inode, called in spaces._names.items() if called == name)
        with spaces.inside(other) as entered:
            assert entered and os.stat("/proc/thread-self/ns/net").st_ino == other
        assert os.stat("/proc/thread-self/ns/net").st_ino == here and spaces.refused is None
        spaces.close()

        spaces = Namespaces()  # of a /proc that lies about our own
        os.close(spaces._own_fd)
        (tmp_path / "net").touch()
        spaces._own_fd = os.open(tmp_path / "net", os.O_RDONLY)
        spaces.discover([], NOW)
        with spaces.inside(other) as entered:
            assert not entered and os.stat("/proc/thread-self/ns/net").st_ino == here
        assert spaces.refused == "other network namespaces: Invalid argument"
        assert spaces.known()[0] == [spaces.own]
        spaces.close()
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)
