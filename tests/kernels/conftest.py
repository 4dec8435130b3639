"""One collector for all; which probes are attached; what each counted, against what truth.

These tests are for the guest: `python -m tests.kernels` sets KTOP_KERNELS there. In a run of the
whole suite they are not collected: it has its own live tests for the kernel that it runs on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ktop.bpf import engine
from ktop.collect.main import Collector, Options
from ktop.model import Frame

from . import machinery, verdicts

RESULT = os.environ.get("KTOP_KERNELS", "")
if RESULT:
    # on an emulated CPU, with others on the real one
    engine.Engine.wait.__defaults__ = (3600.0,)
else:
    collect_ignore_glob = ["test_*.py"]

LAYERS = ("processes", "sched", "files", "tcp", "block")
Proved = Callable[..., None]
_proofs: dict[str, str] = {}
_tried: set[str] = set()
_probes: dict[str, dict[str, str]] = {}
_facts: dict[str, Any] = {}


def note_probes(rows: list[dict[str, str]]) -> None:
    """Keep which probes are attached."""
    kept = ("status", "layer", "attach", "reason", "fallback")
    _probes.update({row["name"]: {key: row[key] for key in kept} for row in rows})


def seen(frame: Frame) -> None:
    """The same, from a frame."""
    note_probes([msgspec.structs.asdict(p) for p in frame.health.probes])


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    """All layers loaded and looked at. Its probes' fates are kept for the table."""
    c = Collector(Options(watch=LAYERS))
    c.start()
    try:
        c.tick()
        c.settle()
        seen(c.tick())
        assert c._late is not None
        _facts.update(c._late.engines[0].loaded.facts)
        yield c
    finally:
        c.close()


@pytest.fixture
def proved() -> Proved:
    """Call it with a probe, what ktop counted and what there was; both must be the same."""

    def note(probe: str, seen: object, truth: object) -> None:
        _tried.add(probe)
        row = _probes.get(probe, {})
        assert row.get("status") == "live", f"{probe}: {row.get('reason') or row}"
        assert seen == truth, f"{probe}: ktop has {seen}, there were {truth}"
        shown = f"{seen}"
        _proofs[probe] = shown if len(shown) < 60 else shown[:57] + "..."

    return note


def count(frame: Frame, per_s: float | None) -> int:
    """A rate back to how many there were. Layers have clocks of their own: a few us apart."""
    assert per_s is not None and frame.clock.interval_ns is not None
    return round(per_s * frame.clock.interval_ns / 1e9)


_outcomes: dict[str, str] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """What was found so far, for whoever booted this kernel: the guest may not reach the end."""
    if not RESULT:
        return
    name = report.nodeid.rpartition("/")[2]
    if report.when == "call" or report.outcome != "passed":
        _outcomes[name] = report.outcome
    Path(RESULT).write_text(json.dumps({
        "kernel": os.uname().release, "probes": _probes, "proved": _proofs,
        "tried": sorted(_tried),
        "bcc": _facts.get("bcc", ""), "outcomes": _outcomes,
        "verdicts": verdicts.ROWS}, indent=1))


@pytest.fixture(scope="session")
def null_disk() -> Iterator[str]:
    """A disk that takes 5 ms a request."""
    with machinery.null_disk() as name:
        yield name


@pytest.fixture(scope="session")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A mounted ext4 with 192 MB."""
    with machinery.ram_disk(tmp_path_factory.mktemp("disk")) as where:
        yield where
