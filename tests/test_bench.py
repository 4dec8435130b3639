"""What `make bench` says about its figures: budgets, the README's section, plots."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench import __main__ as command
from bench import budgets, growth, hooks, slowdown
from bench.common import Missing, Program, Row
from bench.plot import Plot

SWITCH = "context switch, ping-pong on one CPU"


def verdict(budget: budgets.Budget, *rows: Row) -> str:
    return budget.line(list(rows)).split(" | ")[-1].rstrip(" |")


def test_a_budget_against_peers_takes_those_that_are_added_up() -> None:
    half = budgets.Budget("half", SWITCH, 2, budgets.TOGETHER)
    for theirs, said in ((400.0, "ok"), (399.0, "**missed**")):
        row = Row(SWITCH, "ns", [200.0], {"runqlat": [9_000.0], "a + b": [theirs]})
        assert verdict(half, row) == said
    assert verdict(half, Row(SWITCH, "ns", [200.0], {"a": [1.0]})) == "no peer for it starts here"
    assert verdict(half, Row(SWITCH, "ns", "needs root", {})) == "needs root"
    assert verdict(half) == "not measured"


def test_a_budget_of_its_own_is_held_up_to_its_limit() -> None:
    memory = budgets.Budget("memory", "Rss", 100)
    assert verdict(memory, Row("Rss of both", "MB", [90.0, 100.0, 120.0])) == "ok"
    assert verdict(memory, Row("Rss of both", "MB", [101.0])) == "**missed**"


def test_every_budget_names_a_row_that_is_measured() -> None:
    """A row that is renamed would leave its budget unmeasured for good."""
    sources = "\n".join(path.read_text() for path in Path(budgets.__file__).parent.glob("*.py")
                        if path.name != "budgets.py")
    for budget in budgets.BUDGETS:
        assert budget.what.split(",")[0] in sources, budget.what


def test_the_section_is_written_between_its_markers_alone(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{command.BEGIN}\nold\n{command.END}\nafter\n")
    monkeypatch.setattr(command, "ROOT", tmp_path)
    command.write_readme(["new  ", "", "lines"])
    assert readme.read_text() == f"before\n{command.BEGIN}\nnew\n\nlines\n{command.END}\nafter\n"
    readme.write_text("no markers")
    command.write_readme(["new"])
    assert readme.read_text() == "no markers"


def test_the_section_has_budgets_losses_and_reasons() -> None:
    rows = [Row(f"fio, {slowdown.ON}: {slowdown.SLOWER}", "%", [1.0, 2.0, 9.0], {"a + b": [7.0]}),
            Row(SWITCH, "ns", [200.0], {"runqlat": [500.0], "tcptop": "does not start | here"})]
    results = {"slowdown": {"date": "2026-11-23T01:00:00Z", "commit": "abc", "load_before": 0.1,
                            "rows": [vars(row) for row in rows]}}
    text = "\n".join(command.readme("a machine", results, [Path("x/bench-tasks.svg")]))
    assert "| fio | 2.0 |" in text
    assert "commit abc" in text
    assert "screenshots/bench-tasks.svg" in text
    assert "`-`: tcptop: does not start" in text
    assert all(budget.text in text for budget in budgets.BUDGETS)


def test_a_bench_that_cannot_run_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        @staticmethod
        def run(_quick: bool) -> list[Row]:
            raise Missing("fio is not installed")

    monkeypatch.setitem(command.BENCHES, "start", Broken)
    found = command.measure("start", True)
    assert found["rows"][0]["ktop"] == "start: fio is not installed"


def test_plots_are_pictures_of_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "screenshots").mkdir()
    monkeypatch.setattr(growth, "ROOT", tmp_path)
    rows = [Row(f"{part}, {n:,} tasks", growth.UNIT, [n / 100, n / 50, n / 100])
            for part in ("collector", "interface") for n in (100, 10_000)]
    rows.append(Row("collector, 5,000 tasks", growth.UNIT, "refused"))
    peers = [Row("one refresh, 1,000 processes asleep", "ms CPU", [1.0], {"psutil": [50.0]})]
    (written,) = growth.plots(rows, peers)
    root = ElementTree.parse(written).getroot()
    names = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"ktop collector", "ktop interface", "psutil"} <= set(names)
    assert "htop" not in names


def test_a_plot_places_points_by_decades() -> None:
    plot = Plot("<title>", "n", "ms")
    plot.add("line", [(100.0, 10.0), (1.0, 1.0), (10.0, 0.0)])
    assert plot.lines["line"] == [(1.0, 1.0), (100.0, 10.0)]
    assert 'd="M60.0,314.0L510.0,40.0"' in plot.svg()
    assert "<title><title>" not in plot.svg()


def test_a_bench_that_breaks_or_does_not_end_says_so(monkeypatch: pytest.MonkeyPatch,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    class Broken:
        @staticmethod
        def run(_quick: bool) -> list[Row]:
            raise KeyError("nothing there")

    class Endless:
        @staticmethod
        def run(_quick: bool) -> list[Row]:
            while True:
                time.sleep(0.01)

    monkeypatch.setattr(command, "LIMIT_S", 0.1)
    monkeypatch.setattr(command, "BENCHES", {"broken": Broken, "endless": Endless})
    before = signal.getsignal(signal.SIGALRM)
    try:
        (broken,), (endless,) = (command.measure(name, True)["rows"] for name in command.BENCHES)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert broken["ktop"] == "broken broke: KeyError: 'nothing there'"
    assert endless["ktop"] == "endless: broken off after 0.1 s"
    assert "nothing there" in capsys.readouterr().err


def test_a_peer_that_saw_nothing_is_no_peer() -> None:
    ran, idle = {"p": Program("p", 500, 10)}, {"q": Program("q", 0, 0)}
    ours = {"e": Program("e", 1_000, 10)}
    rounds = [{"ktop": ours, "good": ran, "lost": idle}] * 2
    row = hooks.compare("an event", rounds, ("e",), "e", ["good", "lost", "gone"],
                        {"gone": "gone is not installed"})
    assert row.ktop == [100.0, 100.0] and row.peers == {
        "good": [50.0, 50.0], "lost": "lost saw none of it", "gone": "gone is not installed"}


def test_a_figure_below_zero_has_no_ratio() -> None:
    assert command.times(Row("more", "ns", [-3.0, -2.0]), [5.0, 6.0]) == "-"
    assert command.times(Row("more", "ns", [2.0, 2.0]), [4.0, 6.0]) == "2.5x"
