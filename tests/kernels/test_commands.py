"""The commands as a user runs them, on this kernel."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .test_probes import BLOCKED, started

pytestmark = pytest.mark.kernels


def ktop(*args: str) -> str:
    done = subprocess.run([sys.executable, "-m", "ktop", *args], capture_output=True, text=True,
                          timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def test_snapshot_has_every_layer() -> None:
    frame = json.loads(ktop("snapshot", "--json"))
    assert frame["health"]["source"] == "bpf", frame["health"]
    missing = [layer for layer in ("files", "tcp", "block") if frame[layer] is None]
    assert not missing
    first = Path("/proc/1/comm").read_text().strip()
    assert [p["comm"] for p in frame["processes"]["rows"] if p["pid"] == 1] == [first]


def test_diagnose() -> None:
    """A contended mutex is named, and whose it is."""
    with started(BLOCKED["lock"].replace("time.sleep(60)", "time.sleep(900)")) as p:
        found = json.loads(ktop("diagnose", "--duration", "6", "--pid", str(p.pid), "--json"))
    assert found["verdict"]["pipe"] == "lock", found["verdict"]
    assert found["verdict"]["culprits"][0]["pid"] == p.pid, found["verdict"]


def test_record_and_diagnose_what_was_recorded(tmp_path: Path) -> None:
    """The same from a recording, in which a process that only sleeps is not said to wait."""
    session = str(tmp_path / "session.ktop")
    with (started(BLOCKED["lock"].replace("time.sleep(60)", "time.sleep(900)")) as p,
          started(BLOCKED["sleep"].replace("time.sleep(60)", "time.sleep(900)")) as idle):
        ktop("record", "-o", session, "--duration", "8s")
        again = ("replay", session, "--diagnose", "--json", "--pid")
        found = json.loads(ktop(*again, str(p.pid)))
        assert found["verdict"]["pipe"] == "lock", found["verdict"]
        assert found["verdict"]["culprits"][0]["pid"] == p.pid, found["verdict"]
        quiet = json.loads(ktop(*again, str(idle.pid)))
        assert (quiet["verdict"]["pipe"], quiet["episodes"]) == ("none", []), quiet["verdict"]
    assert len(ktop("export", "--format", "jsonl", session).splitlines()) >= 2
