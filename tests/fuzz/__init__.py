"""Fuzzing: what anybody can press, write, send or be named, by hypothesis.

In the test suite the examples are the same each time and few. `make fuzz` runs the same tests with
others, for as long as it is told (tests/fuzz/__main__.py).
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# How many examples `make fuzz` takes for one of the suite's; unset in the suite.
TIMES = int(os.environ.get("KTOP_FUZZ_TIMES") or 0)


def bounded(examples: int) -> settings:
    """That many examples in the suite, always the same ones; under `make fuzz` more, and others."""
    return settings(
        max_examples=examples * max(1, TIMES), deadline=None, derandomize=not TIMES, database=None,
        print_blob=bool(TIMES),
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow,
                               HealthCheck.data_too_large, HealthCheck.filter_too_much])
