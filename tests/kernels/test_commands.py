"""The commands as a user runs them, on this kernel."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .test_probes import BLOCKED, started

pytestmark = pytest.mark.kernels


def ktop(*args: str, status: int = 0) -> str:
    done = subprocess.run([sys.executable, "-m", "ktop", *args], capture_output=True, text=True,
                          timeout=400, check=False)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def test_snapshot_has_every_layer() -> None:
    frame = json.loads(ktop("snapshot", "--json"))
    assert frame["health"]["source"] == "bpf"
    for layer in ("files", "tcp", "block"):
        assert frame[layer] is not None
    assert {p["comm"] for p in frame["processes"]["rows"]} >= {"init"} or frame["processes"]["rows"]


def test_record_and_diagnose(tmp_path: Path) -> None:
    """A contended mutex is named live, and again from the recording."""
    mutex = BLOCKED["lock"].replace("time.sleep(60)", "time.sleep(600)")
    session = str(tmp_path / "session.ktop")
    with started(mutex) as p:
        found = json.loads(ktop("diagnose", "--duration", "6", "--pid", str(p.pid), "--json"))
        assert found["verdict"]["pipe"] == "lock", found["verdict"]
        assert found["verdict"]["culprits"][0]["pid"] == p.pid
        ktop("record", "-o", session, "--duration", "8s")
    exported = ktop("export", "--format", "jsonl", session)
    assert len(exported.splitlines()) >= 2
