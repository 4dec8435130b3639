"""What `make faults` makes of its runs: matrix, medians, misses, the README's table."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from ktop.diagnosis.model import Actor, Finding, Pipe, Report, Verdict
from tests.faults.cases import FAULTS, Case
from tests.faults.healthy import HEALTHY
from tests.faults.matrix import (
    BEGIN,
    END,
    Outcome,
    confusion,
    markdown,
    misses,
    summary,
    write_readme,
)
from tests.faults.run import Result, explain, knows_culprit, right, tight
from tests.faults.stage import Stage


def case(name: str) -> Case:
    return next(c for c in (*FAULTS, *HEALTHY) if c.name == name)


def outcome(name: str, good: bool, named: dict[str, int], at_s: float | None = None,
            why: str = "", culprit: bool | None = True) -> Outcome:
    own = Result(named, at_s, 6.0 if at_s else None, culprit if at_s else None, why)
    return Outcome(case(name), 7, good, own, Result(named), 1.5)


RUNS = [outcome("loss", True, {"none": 2, "tcp": 4}, 3.0),
        outcome("loss", False, {"none": 5, "cpu": 2}, None, "said: cpu"),
        outcome("fork loop", True, {"none": 3, "forks": 3}, 7.0),
        outcome("idle", True, {"none": 12}), outcome("copy", False, {"block": 2}, None, "said: b")]


def test_the_matrix_counts_runs_by_what_was_to_be_named_and_what_was() -> None:
    head, *rows = confusion(RUNS)
    columns = head.split()
    assert columns == ["cpu", "block", "tcp", "forks", "none"]
    found = {row.split()[0]: dict(zip(columns, row.split()[1:], strict=True)) for row in rows}
    assert found["tcp"] == {"cpu": "1", "block": ".", "tcp": "1", "forks": ".", "none": "."}
    assert found["forks"]["forks"] == "1" and found["none"] == {
        "cpu": ".", "block": "1", "tcp": ".", "forks": ".", "none": "1"}
    assert summary(RUNS).startswith("3 of 5 right (2 of 3 faults); named after 5.0 s, dropped "
                                    "after 6.0 s (medians); 1 named later than 5 s")
    assert misses(RUNS) == ["loss (seed 7): expected tcp; said: cpu",
                            "copy (seed 7): expected none; said: b"]


def test_the_table_goes_between_its_markers_and_nowhere_else(tmp_path: Path) -> None:
    file = tmp_path / "README.md"
    file.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_readme(markdown(RUNS, 7), file)
    text = file.read_text()
    assert text.startswith(f"before\n{BEGIN}\n") and text.endswith(f"{END}\nafter\n")
    assert "| loss | tcp | 1/2 | 1/1 | 3.0 | 6.0 |" in text and "old" not in text
    assert "- copy (seed 7): expected none; said: b" in text
    file.write_text("no place")
    with pytest.raises(SystemExit, match="no place for it"):
        write_readme("x", file)


def test_names_are_unique_and_every_pipe_that_can_be_made_has_a_fault() -> None:
    names = [c.name for c in (*FAULTS, *HEALTHY)]
    assert len(set(names)) == len(names)
    assert {pipe for c in FAULTS for pipe in c.expect} == {
        "cpu", "quota", "memory", "file", "block", "tcp", "lock", "upstream"}  # steal cannot be
    assert not any(c.expect or c.finding for c in HEALTHY)


def pipe(name: str, cgroup: str = "/f", resource: str | None = None) -> Pipe:
    return Pipe(name, resource, "saturated", 1.0, since_s=3.0, culprits=[Actor(1, "x", cgroup)])


def test_how_a_report_is_judged() -> None:
    scene = type("S", (), {"culprit": "/f/loud", "resource": "vda"})()
    disk = case("busy disk")
    others = Report(Verdict(), [pipe("cpu", "/elsewhere"), pipe("block", "/f/loud", "vda")])
    assert right(disk, "/f", others) and knows_culprit(disk, scene, "/f", others)
    assert not knows_culprit(disk, scene, "/f", Report(Verdict(), [pipe("block", "/f/x", "vda")]))
    assert [p.pipe for p in tight(case("cpu neighbour"), "/f", others)] == ["cpu", "block"]
    both = case("two at once")
    assert not right(both, "/f", Report(Verdict(), [pipe("lock")]))
    assert right(both, "/f", Report(Verdict(), [pipe("lock"), pipe("quota")]))
    leak = Report(Verdict(), [], [Finding("descriptors", "x opens", 3.0)])
    assert right(case("descriptors"), "/f", leak) and not right(disk, "/f", leak)
    assert explain(disk, "/f", leak) == "said: finding x opens"


def test_a_stage_leaves_a_note_of_what_is_to_be_undone(tmp_path: Path) -> None:
    setting = tmp_path / "setting"
    setting.write_text("20\n")
    stage = Stage(1, disk=str(tmp_path))
    with stage:
        stage.write(str(setting), 5)
        assert setting.read_text() == "5"
        assert (stage.directory / "undo").read_text() == f"echo 20 > {setting}\n"
        stage.declare("ktf0=100pps")
        assert stage.limits["ktf0"].packets_per_s == 100
    assert setting.read_text() == "20\n" and not stage.limits and not stage.directory.exists()
