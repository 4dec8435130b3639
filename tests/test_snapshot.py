"""`ktop snapshot`: one true interval as JSON, keys as in the model, units in the names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import msgspec
import pytest

from ktop import model, snapshot
from ktop.model import Frame
from tests.frames import bare_frame, make_frame
from tests.livekit import child, spin

CPU = min(os.sched_getaffinity(0))


def run(*args: str) -> Any:
    done = subprocess.run([sys.executable, "-m", "ktop", "snapshot", "--json", *args],
                          capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_field_is_there_under_its_own_name() -> None:
    found = snapshot.as_json(make_frame(seq=3, processes=5))
    assert list(found) == list(Frame.__struct_fields__)
    assert list(found["processes"]["rows"][0]) == list(model.Process.__struct_fields__)
    assert json.loads(json.dumps(found)) == found


def test_a_histogram_says_its_buckets_and_percentiles() -> None:
    found = snapshot.as_json(make_frame(seq=3)).get("sched")["runq"]
    assert {"count", "sum_ns", "p50_ns", "p99_ns", "p99.9_ns", "max_ns", "buckets"} <= found.keys()
    assert sum(b["count"] for b in found["buckets"]) == found["count"]
    assert all(b["low_ns"] < b["high_ns"] for b in found["buckets"])


def test_the_unknown_is_null() -> None:
    found = snapshot.as_json(bare_frame())
    assert found["sched"]["runq"] is None
    assert all(row["blocked_pct"] is None for row in found["processes"]["rows"])


def test_numbers_carry_their_unit() -> None:
    """A float field that is a rate, a share, a time or a size says so."""
    plain = {"load1", "load5", "load15", "execs_per_min", "quota_cpus", "runq_len", "waiting"}
    for part in (model.Process, model.Thread, model.Cgroup, model.Cpu, model.Sched, model.Host):
        for info in msgspec.structs.fields(part):
            kind = str(info.type)
            if "float" in kind and "dict" not in kind and info.name not in plain:
                assert info.name.endswith(("_pct", "_per_s", "_ns", "_bytes")), (part, info.name)


@pytest.mark.live
def test_one_true_interval() -> None:
    with child(spin, CPU) as pid:
        found = run("--interval", "0.5")
    assert found["clock"]["interval_ns"] >= 0.49e9  # what was asked for, more on a busy machine
    row = next(r for r in found["processes"]["rows"] if r["pid"] == pid)
    assert row["cpu_pct"] > 20 and row["blocked_pct"] == pytest.approx(0, abs=5)
    assert found["sched"]["runq"]["count"] > 0
    assert found["health"]["source"] == "bpf"
    assert found["processes"]["execs_per_s"] is not None
    for layer in ("files", "tcp", "block"):
        assert found[layer] is not None


def test_without_bpf_too() -> None:
    found = run("--interval", "0.2", "--no-bpf")
    assert found["health"]["source"] == "procfs" and found["health"]["banner"]
    assert found["clock"]["interval_ns"] is not None
