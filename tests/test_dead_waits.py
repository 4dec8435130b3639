"""Waits of ended threads: each told once, whichever of the two reads sees its end first."""

from __future__ import annotations

import struct
import sys

from ktop.bpf.layout import TASK_HIST_SLOTS
from ktop.collect.dead_waits import DeadWaits


def slots(**counts: int) -> tuple[int, ...]:
    return tuple(counts.get(f"s{i}", 0) for i in range(TASK_HIST_SLOTS))


def table(**cgroups: dict[str, int]) -> dict[bytes, bytes]:
    """dead_hists with an entry for each `c<id>`."""
    return {int(name[1:]).to_bytes(8, sys.byteorder):
            struct.pack(f"@{TASK_HIST_SLOTS}I", *slots(**counts))
            for name, counts in cgroups.items()}


def test_what_has_grown() -> None:
    dead = DeadWaits()
    assert dead.update(table(c1={"s0": 5}, c2={"s3": 1}), [], []) == {1: {0: 5}, 2: {3: 1}}
    assert dead.update(table(c2={"s3": 1}, c1={"s0": 7, "s9": 1}), [], []) == {1: {0: 2, 9: 1}}
    assert dead.update(table(c1={"s0": 7, "s9": 1}, c2={"s3": 1}), [], []) == {}


def test_what_rows_have_told_is_not_told_again() -> None:
    dead = DeadWaits()
    dead.update(table(c1={"s0": 100}), [], [])
    told = [(1, slots(s0=7)), (1, slots(s0=2, s4=1))]
    assert dead.update(table(c1={"s0": 110, "s4": 2}), [], told) == {1: {0: 1, 4: 1}}


def test_who_ends_between_the_reads_is_in_the_table_at_the_next() -> None:
    dead = DeadWaits()
    dead.update(table(c1={"s0": 100}), [], [])
    # the first is in the table, the second is not yet
    assert dead.update(table(c1={"s0": 103}), [], [(1, slots(s0=3)), (1, slots(s0=40))]) == {}
    assert dead.update(table(c1={"s0": 144}), [], []) == {1: {0: 1}}


def test_what_never_comes_is_forgotten() -> None:
    """The entry was given up for another cgroup's, or the thread had none."""
    dead = DeadWaits()
    dead.update(table(c1={"s0": 100}), [], [(1, slots(s0=40))])
    assert dead.update(table(c2={"s0": 1}), [], []) == {2: {0: 1}}
    assert dead.update(table(c1={"s0": 9}), [], []) == {1: {0: 9}}


def test_an_entry_taken_out_of_the_map_starts_anew() -> None:
    dead = DeadWaits()
    dead.update(table(c1={"s0": 100}), [], [])
    assert dead.update(table(), list(table(c1={"s0": 100}).items()), []) == {}
    assert dead.update(table(c1={"s0": 5}), [], []) == {1: {0: 5}}
    # it moved just before it was taken, and again before the read
    assert dead.update(table(c1={"s0": 1}), list(table(c1={"s0": 7}).items()), []) == {1: {0: 3}}
    assert dead.update(table(c1={"s0": 2}), [], []) == {1: {0: 1}}
