"""ktop replay: the command line, streams from a pipe, and the terminal around it."""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ktop import wire
from ktop.cli import build_parser
from ktop.commands.replay import speed
from ktop.model import Frame
from ktop.recording import Writer
from ktop.sources import ENDED, LIVE
from ktop.sources_replay import PipeSource
from tests import session
from tests.frames import make_frame
from tests.ptyshell import PtyShell, environment


def ktop(*arguments: str, stdin: Any = subprocess.DEVNULL) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "ktop", *arguments], capture_output=True,
                          text=True, timeout=60, check=False, stdin=stdin,
                          start_new_session=True)


@pytest.fixture(scope="module")
def session_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recorded") / "session.ktop"
    with Writer(path) as writer:
        for frame in session.frames():
            writer.add(frame)
    return path


# -- the command line --------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "value"), [
    ("1", 1.0), ("4x", 4.0), ("1/4", 0.25), ("0.5", 0.5), ("64", 64.0)])
def test_speeds(text: str, value: float) -> None:
    assert speed(text) == value


@pytest.mark.parametrize("text", ["", "0", "65", "nan", "1/0", "fast", "-2", "1/8"])
def test_no_speeds(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        speed(text)


def test_what_stands_before_the_command_counts() -> None:
    parser = build_parser()
    assert parser.parse_args(["--ascii", "replay", "f"]).ascii
    assert parser.parse_args(["replay", "f", "--ascii"]).ascii
    assert parser.parse_args(["replay", "f"]).ascii is None


@pytest.mark.parametrize(("content", "says"), [
    (None, "No such file"), (b"", "empty"), (b"hello", "recording"),
    (b"SQLite format 3\0" + bytes(200), "recording"),
    (random.Random(5).randbytes(9000), "recording")],
    ids=["missing", "empty", "text", "header", "noise"])
def test_bad_files_are_one_line(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "x.ktop"
    if content is not None:
        path.write_bytes(content)
    done = ktop("replay", str(path))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("ktop replay: ")
    assert done.stderr.count("\n") == 1
    assert says in done.stderr


def test_a_file_without_samples_is_one_line(tmp_path: Path) -> None:
    Writer(tmp_path / "x.ktop").close()
    done = ktop("replay", str(tmp_path / "x.ktop"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "holds no sample" in done.stderr


@pytest.mark.parametrize(("arguments", "says"), [
    (["--at", "25:00"], "25 is more than 23 (character 1)"),
    (["--at", "soon"], "expected a time"), (["--speed", "0"], "not between 1/4 and 64"),
    ([], "not a terminal")])
def test_bad_arguments_are_one_line(session_file: Path, arguments: list[str], says: str) -> None:
    done = ktop("replay", str(session_file), *arguments)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert says in done.stderr


def test_a_stream_without_a_terminal_is_one_line() -> None:
    done = ktop("replay", "-")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "terminal" in done.stderr


# -- streams -----------------------------------------------------------------------------------


class Heard:
    """What a source says."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.states: list[str] = []

    async def of(self, source: PipeSource) -> Heard:
        bodies: list[bytes] = []

        def arrived(frames: list[Frame]) -> None:
            self.frames += frames
            bodies.extend(source.bodies)
            assert len(bodies) == len(self.frames)

        source.start(arrived, lambda: self.states.append(source.state))
        for _ in range(500):
            if source.state == ENDED:
                break
            await asyncio.sleep(0.01)
        source.close()
        return self


async def test_pipe_from_a_process() -> None:
    frames = session.frames()[:5]
    read, write = os.pipe()
    data = wire.encode_hello() + b"".join(wire.encode_frame(frame) for frame in frames)

    def writing() -> None:
        with open(write, "wb") as pipe:
            pipe.write(data)

    writer = asyncio.get_running_loop().run_in_executor(None, writing)
    heard = await Heard().of(PipeSource(read))
    await writer
    assert heard.frames == frames
    assert heard.states == [LIVE, ENDED]


async def test_plain_file_and_last_words(tmp_path: Path) -> None:
    path = tmp_path / "stream"
    path.write_bytes(wire.encode_frame(make_frame(1)) + wire.encode_error("out of luck"))
    source = PipeSource(os.open(path, os.O_RDONLY))
    heard = await Heard().of(source)
    assert len(heard.frames) == 1
    assert source.reason == "the stream has ended: out of luck"
    assert not source.restart()


async def test_no_stream_of_ktop(tmp_path: Path) -> None:
    path = tmp_path / "stream"
    path.write_bytes(b"root:x:0:0:root:/root:/bin/bash\n")
    source = PipeSource(os.open(path, os.O_RDONLY))
    await Heard().of(source)
    assert source.state == ENDED
    assert source.reason == "not a ktop stream"


async def test_text_of_a_stranger_is_made_harmless(tmp_path: Path) -> None:
    frame = make_frame(1)
    frame.host.hostname = "web\x1b]0;owned\x07"
    path = tmp_path / "stream"
    path.write_bytes(wire.encode_frame(frame))
    heard = await Heard().of(PipeSource(os.open(path, os.O_RDONLY)))
    assert "\x1b" not in heard.frames[0].host.hostname


# -- on a terminal -----------------------------------------------------------------------------


def test_a_recording_on_a_terminal(session_file: Path) -> None:
    command = [sys.executable, "-m", "ktop", "replay", str(session_file), "--at", "+20s"]
    with PtyShell(command, env=environment(TZ="UTC")) as shell:
        shell.until("PAUSED")
        shell.until("COMMAND")
        shell.send("0")
        shell.until("END")
        shell.send("q")
        assert shell.wait() == 0
        assert shell.attributes() == shell.before


def test_a_stream_on_a_terminal(tmp_path: Path) -> None:
    """Frames from standard input, keys from the terminal."""
    stream = tmp_path / "stream"
    stream.write_bytes(wire.encode_hello() + b"".join(
        wire.encode_frame(frame) for frame in session.frames()[:8]))
    command = ["sh", "-c", f'(cat "{stream}"; sleep 2) | "{sys.executable}" -m ktop replay -']
    with PtyShell(command, env=environment(TZ="UTC")) as shell:
        shell.until("COMMAND")
        shell.until("the stream has ended")
        shell.send("T")
        shell.until("PAST")
        shell.send("q")
        assert shell.wait() == 0
        assert shell.attributes() == shell.before
