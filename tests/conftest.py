"""What all tests share: when a test marked `live` runs, is skipped, or must not be skipped."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ktop.collect.main import Collector

SYSTEM_PYTHON = "/usr/bin/python3"


@pytest.fixture(scope="session", autouse=True)
def nobodys_config(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What a ktop under test keeps is not the user's, nor is what it finds."""
    os.environ["XDG_CONFIG_HOME"] = str(tmp_path_factory.mktemp("config"))


@pytest.fixture(autouse=True)
def fresh_config(nobodys_config: None) -> None:
    """Nor the test's before."""
    shutil.rmtree(Path(os.environ["XDG_CONFIG_HOME"]) / "ktop", ignore_errors=True)


@pytest.fixture(scope="module")
def collector(request: pytest.FixtureRequest) -> Iterator[Collector]:
    """One for all tests of a module, as the module's COLLECTING starts it."""
    with request.module.COLLECTING() as one:
        yield one


@functools.cache
def why_not_live() -> str | None:
    """Why BPF programs cannot be loaded here; None when they can."""
    if os.geteuid() != 0:
        return "live: needs root"
    try:
        found = subprocess.run(
            [SYSTEM_PYTHON, "-c", "import bcc; bcc.BPF"],
            capture_output=True, text=True, timeout=60, check=False)
    except OSError as err:
        return f"live: {SYSTEM_PYTHON}: {err.strerror}"
    if found.returncode:
        last = (found.stderr.strip().splitlines() or ["no message"])[-1]
        return f"live: {SYSTEM_PYTHON} has no bcc ({last}): apt-get install python3-bpfcc"
    return None


def live_required() -> bool:
    """.ci/run sets it: a live test that cannot run is an error there."""
    return os.environ.get("KTOP_REQUIRE_LIVE") == "1"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("live") is None:
        return
    reason = why_not_live()
    if reason and live_required():
        pytest.fail(f"{reason}, and KTOP_REQUIRE_LIVE=1", pytrace=False)
    if reason:
        pytest.skip(reason)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line on whether real BPF was tested: a green run without it must not look whole."""
    reason = why_not_live()
    if reason:
        terminalreporter.write_line(f"live tests did not run: {reason}", yellow=True)
