"""ktop export: what is read back is what the frames hold."""

from __future__ import annotations

import csv
import io
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ktop import export, hist
from ktop.export import header, kinds, rows, table_of, tables
from ktop.recording import Writer
from ktop.snapshot import as_json
from tests import session
from tests.frames import bare_frame
from tests.ptyshell import ROOT, environment

KTOP = [sys.executable, "-m", "ktop", "export"]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "a.ktop"
    with Writer(path) as writer:
        for frame in session.frames():
            writer.add(frame)
    return path


def run(*arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*KTOP, *arguments], cwd=ROOT, env=environment(), capture_output=True,
                          stdin=subprocess.DEVNULL, timeout=120, check=False)


def test_every_list_of_the_frame_is_a_table() -> None:
    names = list(tables())
    assert names[0] == "frames"
    for wanted in ("processes", "processes.threads", "processes.events", "cpus", "cgroups", "files",
                   "files.slow", "tcp.connections", "tcp.peers", "block.devices", "block.users"):
        assert wanted in names
    for table in tables().values():
        assert len(set(header(table))) == len(header(table)) == len(kinds(table))
    assert table_of("tcp") is table_of("tcp.connections")
    with pytest.raises(ValueError, match="no table"):
        table_of("nonsense")


def test_no_figure_of_the_model_is_left_out() -> None:
    """Each leaf of a frame's JSON is in a column of some table."""
    frame = session.frames()[-1]
    plain = as_json(frame)
    for table in tables().values():
        found = plain
        for name in table.path:
            found = found[name] if found is not None else None
        for row, shown in zip([plain] if not table.path else found or [],
                              rows(table, frame), strict=True):
            cells = dict(zip(header(table), shown, strict=True))
            for name, value in row.items():
                if name in cells:
                    assert cells[name] == value, (table.name, name)
                elif isinstance(value, dict) and "buckets" in value:
                    assert cells[f"{name}.buckets"] == value["buckets"]
                    assert cells[f"{name}.p99_ns"] == value["p99_ns"]
                    assert cells[f"{name}.p99_9_ns"] == value["p99.9_ns"]
                elif value is None:
                    assert not any(cell for key, cell in cells.items()
                                   if key.startswith(name + "."))
                elif isinstance(value, dict):
                    assert any(key.startswith(name + ".") for key in cells), (table.name, name)
                else:
                    assert not table.path and isinstance(value, list), (table.name, name)


def test_what_is_not_known_is_null() -> None:
    shown = dict(zip(header(table_of("processes")),
                     next(rows(table_of("processes"), bare_frame())), strict=True))
    assert shown["pid"] == 1 and shown["cpu_pct"] is None and shown["runq.p99_ns"] is None
    assert list(rows(table_of("tcp"), bare_frame())) == []


def test_time_is_exact() -> None:
    assert export.time_text(1_795_377_657_865_792_280) == "2026-11-22T20:00:57.865792280Z"


def test_jsonl_frames(recorded: Path) -> None:
    done = run(recorded)
    assert (done.returncode, done.stderr) == (0, b"")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == 42
    for line, frame in zip(found, session.frames(), strict=True):
        line.pop("time")
        assert line == json.loads(json.dumps(as_json(frame)))


def test_jsonl_and_csv_rows(recorded: Path) -> None:
    table = table_of("block.users")
    wanted = [row for frame in session.frames() for row in rows(table, frame)]
    assert wanted
    names = header(table)
    lines = run(recorded, "--table", "block.users").stdout.splitlines()
    assert [json.loads(line) for line in lines] == [
        json.loads(json.dumps(dict(zip(names, row, strict=True)))) for row in wanted]
    text = run(recorded, "--table", "block.users", "--format", "csv").stdout.decode()
    found = list(csv.DictReader(io.StringIO(text, newline="")))
    assert list(found[0]) == names and len(found) == len(wanted)
    for cells, row in zip(found, wanted, strict=True):
        for name, kind, value in zip(names, kinds(table), row, strict=True):
            if value is None:
                assert cells[name] == ""
            elif kind == "json":
                assert json.loads(cells[name]) == json.loads(json.dumps(value))
            elif kind == "float":
                assert float(cells[name]) == value
            else:
                assert cells[name] == str(value)


@pytest.mark.parametrize("name", ["processes", "tcp.connections", "files.folds", "block.devices"])
def test_parquet(recorded: Path, tmp_path: Path, name: str,
                 monkeypatch: pytest.MonkeyPatch) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    from ktop import export_formats

    monkeypatch.setattr(export_formats, "BATCH_ROWS", 100)  # several row groups
    table = table_of(name)
    with (tmp_path / "a.parquet").open("wb") as out:
        sink = export_formats.sink("parquet", out, table)
        for frame in session.frames():
            sink.put(frame)
        sink.close()
    found = parquet.read_table(tmp_path / "a.parquet").to_pylist()
    wanted = [row for frame in session.frames() for row in rows(table, frame)]
    assert len(found) == len(wanted)
    for cells, row in zip(found, wanted, strict=True):
        for name_, kind, value in zip(header(table), kinds(table), row, strict=True):
            held = cells[name_]
            if kind == "json" and value is not None:
                assert json.loads(held) == json.loads(json.dumps(value))
            else:
                assert held == value


def test_percentiles_are_those_of_the_histogram() -> None:
    frame = session.frames()[-1]
    table = table_of("processes")
    for row, shown in zip(frame.processes.rows, rows(table, frame), strict=True):
        cells = dict(zip(header(table), shown, strict=True))
        if row.runq is not None:
            assert cells["runq.count"] == hist.count(row.runq)
            assert cells["runq.max_ns"] is row.runq.max_ns or (
                type(cells["runq.max_ns"]) is int and cells["runq.max_ns"] == row.runq.max_ns)
            assert cells["runq.p99_9_ns"] == hist.percentile(row.runq, 99.9)
            assert sum(b["count"] for b in cells["runq.buckets"]) == cells["runq.count"]


def test_without_pyarrow_it_is_one_line(recorded: Path, tmp_path: Path) -> None:
    (tmp_path / "pyarrow.py").write_text("raise ImportError('not here')")
    done = subprocess.run(
        [*KTOP, recorded, "--format", "parquet", "--table", "tcp", "-o", tmp_path / "o"], cwd=ROOT,
        env=environment(PYTHONPATH=f"{tmp_path}:{ROOT}"), capture_output=True, timeout=60,
        check=False)
    assert done.returncode == 2
    assert b"ktop[parquet]" in done.stderr and done.stderr.count(b"\n") == 1
    assert not (tmp_path / "o").exists()


def test_a_span(recorded: Path) -> None:
    done = run(recorded, "--span=-10s..end", "--table", "frames")
    assert 9 <= len(done.stdout.splitlines()) <= 11


def test_a_file_is_private_and_never_overwritten(recorded: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.csv"
    assert run(recorded, "--table", "cpus", "--format", "csv", "-o", out).returncode == 0
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    before = out.read_bytes()
    done = run(recorded, "--table", "tcp", "--format", "csv", "-o", out)
    assert done.returncode == 2 and b"never overwrites" in done.stderr
    assert out.read_bytes() == before


@pytest.mark.parametrize("arguments", [
    ["--format", "csv"], ["--table", "nonsense"], ["--span", "soon"], ["--span", "99:99-99:99"],
    ["--format", "xml"], ["-o", "/no/such/dir/x"], ["--span", "23:00..22:00x"]])
def test_bad_input_is_one_line(recorded: Path, arguments: list[str]) -> None:
    done = run(recorded, *arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"ktop export") and done.stderr.count(b"\n") == 1


def test_no_recording_is_one_line(tmp_path: Path) -> None:
    for path in (tmp_path / "none", Path("/etc/passwd"), Path("/dev/null")):
        done = run(path)
        assert done.returncode == 2 and done.stderr.count(b"\n") == 1
    assert run().returncode == 2


def test_list() -> None:
    assert b"tcp.connections" in run("--list").stdout
    assert b"runq.p99_9_ns" in run("--list", "--table", "processes").stdout


def test_a_reader_that_leaves_is_no_error(recorded: Path) -> None:
    done = subprocess.run(["sh", "-c", f"{sys.executable} -m ktop export {recorded} | head -1"],
                          cwd=ROOT, env=environment(), capture_output=True, timeout=60, check=True)
    assert done.stdout.count(b"\n") == 1 and done.stderr == b""


def test_memory_does_not_grow_with_the_recording(tmp_path: Path) -> None:
    """Two lengths, one peak."""
    frames = session.frames()
    peaks = []
    for rounds in (1, 12):
        path = tmp_path / f"{rounds}.ktop"
        with Writer(path) as writer:
            for n in range(rounds):
                for frame in frames:
                    frame.clock.wall_ns += n
                    writer.add(frame)
        # not ru_maxrss: that begins with what the forking pytest had
        code = ("import re, sys\nfrom ktop.cli import main\nmain(sys.argv[1:])\n"
                "status = open('/proc/self/status').read()\n"
                "print(re.search(r'VmHWM:\\s+(\\d+)', status)[1], file=sys.stderr)")
        done = subprocess.run([sys.executable, "-c", code, "export", path], cwd=ROOT,
                              env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                              timeout=120, check=True)
        peaks.append(int(done.stderr))
    assert peaks[1] < peaks[0] * 1.3
    assert os.listdir(tmp_path) and peaks[1] < 200_000
