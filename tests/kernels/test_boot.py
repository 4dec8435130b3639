"""The quickest check: each program compiles without headers, passes the verifier, attaches."""

from __future__ import annotations

import pytest

from ktop import doctor

from .conftest import note_probes

pytestmark = pytest.mark.kernels


def test_every_probe_is_live() -> None:
    found = doctor.examine()
    note_probes(found["probes"])
    assert found["status"] == 0, found["checks"]
    headers = [note for note in found["notes"] if "kernel headers" in note]
    assert not headers, headers  # from BTF, and from nothing else
    missing = {p["name"]: p["reason"] for p in found["probes"] if p["status"] != "live"}
    assert not missing
