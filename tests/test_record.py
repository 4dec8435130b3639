"""`ktop record`: what it is asked for, how it ends, whose the file is."""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from ktop.commands import record as command
from ktop.model import Frame
from ktop.recorder import Order, Progress, Recorder
from ktop.recording import Recording
from ktop.scope import Scope
from ktop.sources import ENDED, LIVE, STARTING, Changed, Frames
from ktop.wire import Control, encode_body
from tests import session
from tests.frames import SECOND, stream
from tests.test_recording import beside, public  # noqa: F401
from tests.test_recording_crash import ROOT, small  # noqa: F401

KTOP = [sys.executable, "-m", "ktop", "record"]


class Script:
    """A source that does as it is told: frames, `dead`, `stop`, one a millisecond."""

    def __init__(self, steps: list[Frame | str]) -> None:
        self.state, self.reason = STARTING, ""
        self.bodies: list[bytes] = []
        self.steps = iter(steps)
        self.asked: list[Control] = []
        self.restarts = 0

    def start(self, frames: Frames, changed: Changed) -> None:
        self._frames, self._changed = frames, changed
        self._next()

    def _next(self) -> None:
        step = next(self.steps, "end")
        if isinstance(step, Frame):
            self.state = LIVE
            self.bodies = [encode_body(step)]
            self._frames([step])
        elif step == "dead":
            self.state, self.reason = ENDED, "killed by SIGKILL"
            self._changed()
        elif step == "end":
            os.kill(os.getpid(), signal.SIGTERM)
            return
        asyncio.get_running_loop().call_later(0.001, self._next)

    def ask(self, control: Control) -> None:
        self.asked.append(control)

    def restart(self) -> bool:
        self.restarts += 1
        self.state = STARTING
        return True

    def close(self) -> None:
        self.steps = iter(())
        self._next = lambda: None  # type: ignore[method-assign]


def recorded(order: Order, steps: list) -> tuple[int, str, Script]:
    """Exit status, what was said, and the source."""
    said = io.StringIO()
    source = Script(steps)

    async def main() -> int:
        return await Recorder(order, Progress(said)).run(lambda: source)

    return asyncio.run(main()), said.getvalue(), source


def test_frames_go_into_the_file_until_a_signal(tmp_path):
    frames = session.frames()
    path = tmp_path / "a.ktop"
    status, said, source = recorded(Order(output=str(path), layers=("files", "tcp")), [*frames])
    assert status == 0 and source.asked == [Control(watch=["files", "tcp"])]
    with Recording(path) as recording:
        assert [recording.frame(at) for at in range(recording.end)] == frames
        assert recording.about["ended"] == "SIGTERM" and recording.about["layers"] == "files,tcp"
    lines = said.splitlines()
    assert lines[0] == f"recording to {path}"
    banners = [f.health.banner for f in frames if f.health.banner]
    assert lines[-1].startswith(f"{path}: 00:00:0") and "42 samples" in lines[-1]
    assert len(lines) == 2 + (1 if banners else 0)
    assert beside(path) == ["a.ktop"]


def test_it_ends_when_the_time_is_over(tmp_path):
    status, *_ = recorded(Order(output=str(tmp_path / "a.ktop"), duration_ns=SECOND),
                          [*stream(1), *["wait"] * 5000])
    assert status == 0
    with Recording(tmp_path / "a.ktop") as recording:
        assert recording.about["ended"] == "the time is over"


def test_it_ends_at_its_size(tmp_path):
    path = tmp_path / "a.ktop"
    status, *_ = recorded(Order(output=str(path), max_bytes=1 << 20), session.frames() * 10)
    assert status == 0 and 0.8 * 2**20 < path.stat().st_size <= 1 << 20
    with Recording(path) as recording:
        assert recording.about["ended"] == "it has reached 1.0M"
        assert 50 < recording.end < 400


def test_a_window_slides(tmp_path):
    path = tmp_path / "a.ktop"
    frames = stream(120, processes=5)
    recorded(Order(output=str(path), keep_ns=30 * SECOND), [*frames])
    with Recording(path) as recording:
        assert recording.end == 120 and 70 <= recording.first <= 90
        assert recording.frame(recording.first) == frames[recording.first]


def test_a_collector_that_dies_is_started_again(tmp_path):
    frames = stream(6, processes=3)
    again = stream(4, processes=3)
    path = tmp_path / "a.ktop"
    status, said, source = recorded(Order(output=str(path)), [*frames, "dead", *again])
    assert status == 0 and source.restarts == 1
    assert "the collector has ended (killed by SIGKILL); another one is started" in said
    with Recording(path) as recording:
        assert recording.end == 10
    status, said, source = recorded(Order(output=str(tmp_path / "b.ktop")),
                                    [frames[0], "dead", "dead", "dead", "dead", "wait"])
    assert status == 1 and source.restarts == 3
    assert "ktop: the collector has ended (killed by SIGKILL)" in said
    with Recording(tmp_path / "b.ktop") as recording:
        assert recording.end == 1 and "collector has ended" in recording.about["ended"]


def test_a_scope_and_redaction(tmp_path):
    frames = session.frames()
    row = next(p for p in frames[-1].processes.rows if p.args and " " in p.args)
    order = Order(output=str(tmp_path / "a.ktop"), redact=True, scope=Scope(pid=row.pid))
    recorded(order, [*frames])
    with Recording(tmp_path / "a.ktop") as recording:
        assert recording.about["scope"] == str(row.pid) and recording.about["redacted"] == "yes"
        found = recording.frame(41).processes.rows
        assert row.pid in {p.pid for p in found} and len(found) < 10
        mine = next(p for p in found if p.pid == row.pid)
        assert mine.cpu_pct == row.cpu_pct and "#" in (mine.args or "")
    word = row.args.split(" ")[-1].encode()
    assert word not in (tmp_path / "a.ktop").read_bytes()


def test_losses_are_said(tmp_path):
    frames = stream(3, processes=2)
    frames[1].health.lost_total, frames[2].health.lost_total = 5, 7
    frames[2].health.skipped_frames = 2
    again = stream(2, processes=2)
    again[1].health.lost_total = 1
    _, said, _ = recorded(Order(output=str(tmp_path / "a.ktop")), [*frames])
    assert "lost 7 events, 2 samples" in said
    _, said, _ = recorded(Order(output=str(tmp_path / "b.ktop")), [*frames, "dead", *again])
    assert "lost 8 events" in said


def test_nothing_comes(tmp_path):
    status, said, _ = recorded(Order(output=str(tmp_path / "a.ktop")), [])
    assert status == 1 and "nothing is recorded" in said
    assert os.listdir(tmp_path) == []
    status, said, _ = recorded(Order(output=str(tmp_path / "no" / "a.ktop")), [])
    assert (status, said) == (2, f"ktop: {tmp_path}/no/a.ktop: No such file or directory\n")


def test_arguments():
    assert command.duration("90") == command.duration("1m30s") == 90 * SECOND
    assert command.duration("1.5h") == 5400 * SECOND
    assert command.size("1G") == 1 << 30 and command.size("1.5MiB") == 3 << 19
    assert command.layers("tcp, block,tcp") == ("tcp", "block")
    for convert, texts in ((command.duration, ("", "x", "10x", "0", "-1", "1m 2s", "99999d")),
                           (command.size, ("", "1", "1X", "1K", "-1G")),
                           (command.layers, ("cpu", "tcp,cpu"))):
        for text in texts:
            with pytest.raises(argparse.ArgumentTypeError):
                convert(text)


# -- the real thing ------------------------------------------------------------------------------


def start(path: Path, *options: str, **kwargs: object) -> subprocess.Popen[str]:
    return subprocess.Popen([*KTOP, "-o", str(path), *options], stderr=subprocess.PIPE,
                            stdin=subprocess.DEVNULL, text=True,
                            **kwargs)  # type: ignore[call-overload]


def until(path: Path, samples: int) -> None:
    """Wait until the recorder has written so many."""
    for _ in range(200):
        if path.exists():
            try:
                with Recording(path) as recording:
                    if recording.end >= samples:
                        return
            except Exception:  # it has just begun
                pass
        time.sleep(0.1)
    raise TimeoutError


def recorder_of(process: subprocess.Popen[str], path: Path) -> psutil.Process:
    """The child that holds the file."""
    return next(child for child in psutil.Process(process.pid).children()
                if any(file.path == str(path) for file in child.open_files()))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_it_well(tmp_path, number):
    path = tmp_path / "a.ktop"
    process = start(path, "--no-bpf", "--interval", "0.1")
    until(path, 5)
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 0, said
    assert beside(path) == ["a.ktop"]
    assert re.search(r"a\.ktop: 00:00:\d\d  \d+ samples", said.splitlines()[-1])
    with Recording(path) as recording:
        assert recording.about["ended"] == signal.Signals(number).name and not recording.notes
        assert "started with --no-bpf" in said
        assert recording.frame(4).processes.rows


def test_a_recorder_that_is_killed_loses_the_last_interval_at_most(tmp_path):
    path = tmp_path / "a.ktop"
    process = start(path, "--no-bpf", "--interval", "0.2")
    try:
        until(path, 5)
        recorder_of(process, path).kill()
        at = time.time_ns()
    finally:
        _, said = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGKILL and "recorder was ended by SIGKILL" in said
    with Recording(path) as recording:
        assert "killed" in recording.notes[0]
        assert at - recording.moment(recording.end - 1).wall_ns < 0.2e9 + 0.8e9  # this is loaded
        assert recording.frame(recording.end - 1).processes.rows


@ROOT
def test_a_full_disk_ends_it_with_one_line(small):  # noqa: F811
    path = small / "a.ktop"
    process = start(path, "--no-bpf", "--interval", "0.1")
    until(path, 2)
    (small / "other").write_bytes(bytes(1 << 20))
    try:
        with open(small / "rest", "wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
    except OSError:
        pass
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"ktop: {path}: no space left on the disk" in said.lower().replace("device", "the disk")
    assert beside(path) == ["a.ktop", "other", "rest"]
    with Recording(path) as recording:
        assert recording.end >= 2
        recording.frame(recording.end - 1)


@ROOT
def test_under_sudo_the_file_is_the_users(public):  # noqa: F811
    os.chmod(public, 0o777)
    path = public / "a.ktop"
    process = start(path, "--no-bpf", "--interval", "0.1", "--duration", "1s",
                    env={**os.environ, "SUDO_UID": "65534", "SUDO_GID": "65534"})
    _, said = process.communicate(timeout=30)
    assert process.returncode == 0, said
    found = path.stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (65534, 65534, 0o600)


@pytest.mark.live
def test_every_layer_is_recorded(tmp_path):
    path = tmp_path / "a.ktop"
    process = start(path)

    def whole(frame: Frame) -> bool:
        return (frame.files is not None and frame.files.watched and frame.tcp is not None
                and frame.block is not None)

    try:
        for samples in range(3, 60):
            until(path, samples)
            with Recording(path) as recording:
                if whole(recording.frame(recording.end - 1)):
                    break
    finally:
        process.terminate()
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    with Recording(path) as recording:
        frame = recording.frame(recording.end - 1)
        assert frame.health.source == "bpf" and whole(frame)
        fared = {(p.layer, p.name): p.status for p in recording.probes()}
        assert {status for (layer, _), status in fared.items()
                if layer in command.LAYERS} <= {"live", "fallback", "absent"}
