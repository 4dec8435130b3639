"""The collector at the other end of ssh: a real sshd, a slow link, and everything that can fail."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ktop import remote
from ktop.model import Frame
from ktop.recording import Recording
from ktop.remote import Far, RemoteError, check_host, connect
from ktop.remote_relay import Relay
from ktop.remote_wire import PACKED, Packing, Unpacking
from ktop.wire import (
    GREETING,
    HELLO,
    Control,
    Reader,
    WireError,
    encode_body,
    encode_control,
    encode_hello,
    message,
)
from tests import session, sshkit
from tests.frames import stream
from tests.ptyshell import ROOT, PtyShell, alive, environment, until

KTOP = [sys.executable, "-m", "ktop"]
THERE = ["--remote-command", sshkit.HERE]


# -- the packed stream -----------------------------------------------------------------------------

def test_what_is_packed_comes_out() -> None:
    packing, unpacking = Packing(), Unpacking(encode_hello())
    frames = session.frames()
    packed = [packing.message(encode_body(frame)) for frame in frames]
    reader, found = Reader(), []
    for data in packed:  # in pieces, as a link brings them
        for at in range(0, len(data), 1000):
            unpacking.feed(data[at:at + 1000])
            while (came := unpacking.next()) is not None:
                assert came.frame
                found += reader.feed(came.data)
    assert found == frames
    plain = sum(len(encode_body(frame)) for frame in frames)
    assert sum(map(len, packed)) < plain / 3


@pytest.mark.parametrize(("data", "why"), [
    (message(PACKED, b"\x00garbage"), "damaged"), (b"GET / HTTP/1.1\r\n", "not a ktop stream"),
    (b"P\xff\xff\xff\xff", "not a ktop stream"),
    (message(HELLO, b"ssh-2.0"), "not a ktop stream"),
    (message(HELLO, GREETING + b"version 9.9.0; schema 77"), "ktop 9.9.0 .* schema 77")])
def test_broken_streams(data: bytes, why: str) -> None:
    unpacking = Unpacking(data)
    with pytest.raises(WireError, match=why):
        unpacking.next()


def test_a_bomb_is_not_unpacked() -> None:
    import zstandard

    bomb = zstandard.ZstdCompressor(level=19).compress(b"\0" * (200 << 20))
    assert len(bomb) < 1 << 16
    unpacking = Unpacking(message(PACKED, bomb))
    with pytest.raises(WireError, match="larger than a frame"):
        unpacking.next()


@pytest.mark.parametrize("host", ["", "-oProxyCommand=id", "a b", "a\nb", "\x1b[2J"])
def test_what_is_no_host(host: str) -> None:
    with pytest.raises(ValueError, match="no host"):
        check_host(host)


def test_what_runs_there_is_quoted() -> None:
    far = Far("web1", "sudo ktop", 250_000_000, False, ("vda=3000iops; rm -rf /",))
    assert far.words() == ["sudo ktop", "--limit 'vda=3000iops; rm -rf /' collect --packed "
                                        "--interval 0.25 --no-bpf"]


# -- the far end -----------------------------------------------------------------------------------

def collect(*options: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*KTOP, "collect", "--no-bpf", "--interval", "0.1", *options],
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)


def frames_of(process: subprocess.Popen[bytes], reader: Reader, number: int) -> list[Frame]:
    assert process.stdout is not None
    found: list[Frame] = []
    while len(found) < number:
        data = os.read(process.stdout.fileno(), 1 << 18)
        assert data
        found += [m for m in reader.feed(data) if isinstance(m, Frame)]
    return found


def test_collect_speaks_the_wire_and_ends_with_its_input() -> None:
    with collect() as process:
        assert process.stdin is not None
        reader = Reader()
        first = frames_of(process, reader, 3)
        assert [frame.seq for frame in first] == [1, 2, 3]
        process.stdin.write(encode_control(Control(interval_ns=60_000_000_000)))
        process.stdin.close()
        assert process.wait(20) == 0


def test_packed_sends_no_more_than_is_answered() -> None:
    with collect("--packed") as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(encode_control(Control(got=0)))
        process.stdin.flush()
        unpacking, reader, got = Unpacking(), Reader(), 0
        until_silent = time.monotonic() + 60
        os.set_blocking(process.stdout.fileno(), False)
        last: Frame | None = None
        sent = 0
        while time.monotonic() < until_silent:
            data = process.stdout.read() or b""
            sent += len(data)
            unpacking.feed(data)
            while (came := unpacking.next()) is not None:
                until_silent = time.monotonic() + 2
                got += 1
                last = next(m for m in reader.feed(came.data) if isinstance(m, Frame))
            time.sleep(0.05)
        assert last is not None and last.seq == got  # the first few, then nothing
        assert sent < 128 << 10
        process.stdin.write(encode_control(Control(got=got)))
        process.stdin.flush()
        end = time.monotonic() + 20
        newest = None
        while newest is None and time.monotonic() < end:
            unpacking.feed(process.stdout.read() or b"")
            while (came := unpacking.next()) is not None:
                newest = next(m for m in reader.feed(came.data) if isinstance(m, Frame))
            time.sleep(0.02)
        assert newest is not None
        # the newest one, and the others are counted
        assert newest.seq > last.seq + 2  # a loaded machine makes few in two seconds
        assert newest.health.skipped_frames >= newest.seq - last.seq - 3
        assert time.time_ns() - newest.clock.wall_ns < 3_000_000_000
        process.stdin.close()


def test_without_root_it_says_what_would_help(monkeypatch: pytest.MonkeyPatch) -> None:
    from ktop import capabilities
    from ktop.collect import main

    monkeypatch.setattr(capabilities, "held", frozenset)
    monkeypatch.setattr(capabilities.os, "geteuid", lambda: 1000)
    collector = main.Collector(main.Options(as_root="--remote-command 'sudo ktop'"))
    collector.start()
    try:
        banner = collector.tick().health.banner or ""
    finally:
        collector.close()
    assert "not root: --remote-command 'sudo ktop' shows everything" in banner


def test_collect_is_not_for_terminals() -> None:
    with PtyShell([*KTOP, "collect"]) as shell:
        assert shell.wait() == 2
        assert b"binary frames" in shell.output


def test_collect_into_a_pipe_that_closes_is_quiet() -> None:
    done = subprocess.run(
        ["sh", "-c", f"sleep 5 | {shlex.join(KTOP)} collect --no-bpf --interval 0.1 | head -c 99"],
        cwd=ROOT, capture_output=True, timeout=60, check=False)
    assert len(done.stdout) == 99 and done.stderr == b""


# -- what can fail before it starts ----------------------------------------------------------------

@pytest.mark.parametrize(("script", "why"), [
    ("echo 'sh: 1: ktop: not found' >&2; exit 127", "'ktop' is not there.*--remote-command"),
    ("echo 'Host key verification failed.' >&2; exit 255", "^Host key verification failed."),
    ("printf 'x\\nweb1: Permission denied \\033[31m(publickey).\\n' >&2; exit 255",
     r"Permission denied \\e\[31m"),
    ("echo \"ktop: argument command: invalid choice: 'collect'\" >&2; exit 2", "too old"),
    ("echo 'ktop: no /proc' >&2; exit 1", "exit status 1 .ktop: no /proc"),
    ("exit 0", "exit status 0"),
    ("yes hello", "no ktop.*login shell"),
])
def test_no_connection_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str,
                                   why: str) -> None:
    folder = sshkit.fake_ssh(tmp_path / "bin", script)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    with pytest.raises(RemoteError, match=why) as found:
        connect(Far("web1"))
    assert "\n" not in str(found.value) and "\x1b" not in str(found.value)


def test_no_ssh_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RemoteError, match="not installed"):
        connect(Far("web1"))


def test_a_talkative_login_shell_is_passed_over(tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    folder = sshkit.fake_ssh(tmp_path / "bin", f"echo Welcome; cd {shlex.quote(str(ROOT))}; "
                             f"exec {shlex.join(KTOP)} collect --packed --no-bpf")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    link = connect(Far("web1"))
    assert link.begin.startswith(b"H") and GREETING in link.begin
    link.close()


def test_a_failure_ends_ktop_with_status_2(tmp_path: Path) -> None:
    folder = sshkit.fake_ssh(tmp_path / "bin", "echo 'No route to host' >&2; exit 255")
    env = environment(PATH=f"{folder}:{os.environ['PATH']}")
    with PtyShell([*KTOP, "--host", "web1"], env=env) as shell:
        assert shell.wait() == 2
        assert shell.output.strip() == b"ktop: web1: No route to host"


def test_another_schema_is_named(tmp_path: Path) -> None:
    body = (GREETING + b"version 7.0.0; schema 99").decode()
    folder = sshkit.fake_ssh(
        tmp_path / "bin", f"printf 'H\\000\\000\\000\\{len(body):o}{body}'; sleep 30")
    env = environment(PATH=f"{folder}:{os.environ['PATH']}")
    with PtyShell([*KTOP, "--host", "web1"], env=env, columns=200) as shell:
        assert shell.wait() == 2
        assert b"ktop 7.0.0 with frames of schema 99" in shell.output
        assert shell.output.count(b"\n") == 1


def test_ctrl_c_while_it_connects(tmp_path: Path) -> None:
    folder = sshkit.fake_ssh(tmp_path / "bin", "echo $$ >$PIDS; exec sleep 60")
    env = environment(PATH=f"{folder}:{os.environ['PATH']}", PIDS=str(tmp_path / "pid"))
    with PtyShell([*KTOP, "--host", "web1"], env=env) as shell:
        until((tmp_path / "pid").exists, "ssh")
        until(lambda: bool((tmp_path / "pid").read_text().strip()), "its pid")
        time.sleep(0.3)
        shell.send("\x03")
        assert shell.wait() == 130
        pid = int((tmp_path / "pid").read_text())
        until(lambda: not alive(pid), "ssh is gone")


# -- a real sshd -----------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sshkit.Sshd]:
    if reason := sshkit.why_not():
        pytest.skip(reason)
    with sshkit.sshd(tmp_path_factory.mktemp("sshd"), rate=30_000) as found:
        yield found


def env_of(server: sshkit.Sshd) -> dict[str, str]:
    return environment(PATH=f"{server.bin}:{os.environ['PATH']}")


def test_live_over_ssh_lost_and_connected_again(server: sshkit.Sshd) -> None:
    command = [*KTOP, "--host", "far", "--no-bpf", "--interval", "0.5", *THERE]
    with PtyShell(command, columns=160, env=env_of(server)) as shell:
        shell.until("LIVE")
        shell.until(socket.gethostname())
        for pid in server.sessions():
            os.kill(pid, 9)
        shell.until("DEAD")
        shell.until("far: the connection is lost")
        assert "COMMAND" in shell.text  # the last picture stays
        shell.send("r")
        shell.until("LIVE")
        until(lambda: bool(server.sessions()), "a session")
        shell.send("q")
        assert shell.wait() == 0
        assert shell.attributes() == shell.before
    until(lambda: not server.sessions(), "the far collector has gone")


def test_recorded_over_ssh(server: sshkit.Sshd, tmp_path: Path) -> None:
    done = subprocess.run(
        [*KTOP, "record", "--host", "far", "--no-bpf", "--interval", "0.2", "--duration", "2s",
         "-o", tmp_path / "a.ktop", *THERE], env=env_of(server), stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    with Recording(tmp_path / "a.ktop") as recording:
        assert recording.end >= 2
        assert recording.frame(1).health.source == "procfs"
    until(lambda: not server.sessions(), "the far collector has gone")
    done = subprocess.run([*KTOP, "--host", "nokey", "record", *THERE], env=env_of(server),
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
                          check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("ktop: nokey: ") and done.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == ["a.ktop"]


@pytest.mark.parametrize(("host", "why"), [
    ("nokey", b"Permission denied (publickey)"), ("changed", b"Host key verification failed"),
    ("closed", b"Connection refused")])
def test_ssh_itself_fails(server: sshkit.Sshd, host: str, why: bytes) -> None:
    with PtyShell([*KTOP, "--host", host, *THERE], columns=160, env=env_of(server)) as shell:
        assert shell.wait() == 2
        assert why in shell.output
        assert shell.output.count(b"\n") == 1


def test_not_there_over_ssh(server: sshkit.Sshd) -> None:
    command = [*KTOP, "--host", "far", "--remote-command", "/no/such/ktop"]
    with PtyShell(command, columns=160, env=env_of(server)) as shell:
        assert shell.wait() == 2
        assert b"'/no/such/ktop' is not there" in shell.output


def test_a_slow_link_shows_what_is_new(server: sshkit.Sshd,
                                       monkeypatch: pytest.MonkeyPatch) -> None:
    """30 KB/s, ten frames a second: what arrives is recent, and what did not fit is counted."""
    monkeypatch.setenv("PATH", f"{server.bin}:{os.environ['PATH']}")
    link = connect(Far("slow", sshkit.HERE, 100_000_000, False))
    ours, theirs = socket.socketpair()
    relay = Relay(theirs, link.inward, link.outward, link.begin)
    thread = threading.Thread(target=relay.run)
    thread.start()
    reader, late, last = Reader(), [], None
    end = time.monotonic() + 6
    while time.monotonic() < end:
        for found in reader.feed(ours.recv(1 << 18)):
            if isinstance(found, Frame):
                late.append(time.time_ns() - found.clock.wall_ns)
                last = found
    ours.close()
    thread.join(10)
    link.close()
    assert last is not None and len(late) > 3
    assert last.seq - len(late) <= last.health.skipped_frames + 2
    late.sort()
    assert late[len(late) // 2] < 2_000_000_000
    assert late[-1] < 5_000_000_000  # ssh's and the sockets' buffers would hold minutes


def test_text_of_another_host_is_made_harmless(monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    from ktop.launch import Options, Session
    from ktop.sources import LiveSource
    from ktop.wire import encode_frame

    frame = stream(1, processes=3)[0]
    frame.processes.rows[0].comm = "evil\x1b]52;c;x\x07"

    async def first() -> Frame:
        ours, theirs = socket.socketpair()
        control, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        source = LiveSource(Session(Options(host="web1"), ours, os.memfd_create("log"), control))
        got: list[Frame] = []
        source.start(got.extend, lambda: None)
        theirs.sendall(encode_frame(frame))
        while not got:
            await asyncio.sleep(0.01)
        source.close()
        theirs.close()
        other.close()
        return got[0]

    assert asyncio.run(first()).processes.rows[0].comm == "evil\\e]52;c;x\\x07"


def test_ssh_runs_as_the_invoking_user(monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with tempfile.TemporaryDirectory() as home:
        os.chmod(home, 0o755)
        _as_the_invoking_user(Path(home), monkeypatch)


def _as_the_invoking_user(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = sshkit.fake_ssh(home / "bin", "echo \"$(id -u) $(id -g) $HOME\" >&2; exit 255")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("SUDO_UID", "65534")
    monkeypatch.setenv("SUDO_GID", "65534")
    with pytest.raises(RemoteError, match=r"^65534 65534 /nonexistent"):
        connect(Far("web1"))
    assert remote.last_line(-1) == ""
