"""Keys and window sizes in any order, on what was recorded: it may refuse, it may not break."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktop.app import KtopApp
from ktop.sources_replay import ReplaySource
from tests import session
from tests.fuzz import bounded
from tests.fuzz.keyboard import Step, all_keys, run

KEYS = all_keys()
# What is pressed more often: it leads to where the other keys mean something.
LEADING = ["1", "2", "3", "4", "5", "6", "g", "v", "enter", "p", "c", "D", "S", "C", "t", "T",
           "down", "end", "escape", "o", "slash"]
SIZES = st.tuples(st.integers(20, 400), st.integers(5, 120))
SMALL = st.tuples(st.integers(20, 90), st.integers(5, 30))
STEPS = st.lists(st.one_of(
    st.sampled_from(LEADING), st.sampled_from(LEADING), st.sampled_from(KEYS),
    st.sampled_from(KEYS), SMALL, SIZES), min_size=4, max_size=40)
SOURCES: dict[str, Callable[[], KtopApp]] = {
    "session": session.play,
    "session in ASCII": lambda: session.play(ascii_only=True),
    "disk": lambda: session.incident("disk", 85),
    "network": lambda: session.incident("network", 100),
    "beginning": lambda: KtopApp(functools.partial(ReplaySource, session.recorded("disk")))}


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Keys write files: into a directory of the test's own, home as well."""
    with monkeypatch.context() as m:
        m.setenv("HOME", str(tmp_path))
        m.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
        m.chdir(tmp_path)
        yield


@bounded(10)
@given(source=st.sampled_from(sorted(SOURCES)), size=SMALL, steps=STEPS)
def test_any_keys_and_sizes(source: str, size: tuple[int, int], steps: list[Step]) -> None:
    run(SOURCES[source], size, steps)
