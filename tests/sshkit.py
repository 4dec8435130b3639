"""A real sshd of our own on a free port of 127.0.0.1, with its own keys; a slow link; fake sshs."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.ptyshell import ROOT

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"
HERE = f"env -C {shlex.quote(str(ROOT))} {shlex.quote(sys.executable)} -m ktop"
# Between ssh and sshd: so many bytes a second toward us.
THROTTLE = """
import os, select, socket, sys, time
port, rate = int(sys.argv[1]), float(sys.argv[2])
s = socket.create_connection(("127.0.0.1", port))
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
free = time.monotonic()
while True:
    now = time.monotonic()
    wait = [0] + ([s] if now >= free else [])
    ready, _, _ = select.select(wait, [], [], None if now >= free else free - now)
    if 0 in ready:
        data = os.read(0, 65536)
        if not data:
            break
        s.sendall(data)
    if s in ready:
        data = s.recv(4096)
        if not data:
            break
        os.write(1, data)
        free = max(free, now) + len(data) / rate
"""


def why_not() -> str | None:
    """Why there can be no sshd here; None when there can."""
    if not Path(SSHD).exists() or shutil.which("ssh") is None:
        return "no sshd here: apt-get install openssh-server"
    if os.geteuid() == 0 and not Path("/run").is_dir():
        return "no /run"
    return None


class Sshd:
    """One server. `bin`: a directory for PATH whose ssh knows the host `far`, and `slow`."""

    def __init__(self, home: Path, rate: int) -> None:
        self.home = home
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        for name in ("host", "user", "stranger"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", home / name],
                           check=True)
        (home / "throttle.py").write_text(THROTTLE)
        (home / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {home}/host\nPidFile none\n"
            f"AuthorizedKeysFile {home}/user.pub\nUsePAM no\nStrictModes no\n"
            "PermitRootLogin yes\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n")
        host_key = (home / "host.pub").read_text().split(" ", 2)[:2]
        (home / "known").write_text(f"[127.0.0.1]:{self.port} {' '.join(host_key)}\n")
        user_key = (home / "stranger.pub").read_text().split(" ", 2)[:2]
        (home / "wrong").write_text(f"[127.0.0.1]:{self.port} {' '.join(user_key)}\n")
        every = (f"HostName 127.0.0.1\nPort {self.port}\nIdentitiesOnly yes\n"
                 "StrictHostKeyChecking yes\n")
        known, key = f"UserKnownHostsFile {home}/known\n", f"IdentityFile {home}/user\n"
        (home / "ssh_config").write_text(
            f"Host slow\nProxyCommand {sys.executable} {home}/throttle.py %p {rate}\n"
            f"Host far slow\n{every}{known}{key}"
            f"Host nokey\n{every}{known}IdentityFile {home}/stranger\n"
            f"Host changed\n{every}UserKnownHostsFile {home}/wrong\n{key}"
            f"Host closed\n{every.replace(str(self.port), '1')}{known}{key}")
        self.bin = fake_ssh(home / "bin",
                            f"exec {shutil.which('ssh')} -F {home}/ssh_config \"$@\"")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Listen."""
        self.process = subprocess.Popen([SSHD, "-D", "-e", "-f", self.home / "sshd_config"],
                                        stderr=(self.home / "log").open("wb"))
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            time.sleep(0.05)
        raise AssertionError((self.home / "log").read_text())

    def sessions(self) -> list[int]:
        """Processes of the connections it serves."""
        import psutil

        assert self.process is not None
        return [p.pid for p in psutil.Process(self.process.pid).children(recursive=True)
                if p.name().startswith("sshd")]

    def stop(self) -> None:
        """No more connections."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait()


@contextlib.contextmanager
def sshd(home: Path, rate: int = 100_000) -> Iterator[Sshd]:
    """A server that runs. rate: bytes a second of the link to `slow`."""
    separation = Path("/run/sshd")
    made = os.geteuid() == 0 and not separation.exists()
    if made:
        separation.mkdir(mode=0o755)
    found = Sshd(home, rate)
    try:
        found.start()
        yield found
    finally:
        found.stop()
        if made:
            with contextlib.suppress(OSError):
                separation.rmdir()


def fake_ssh(folder: Path, script: str) -> Path:
    """A directory for PATH with an `ssh` that is this shell script."""
    folder.mkdir(exist_ok=True)
    path = folder / "ssh"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return folder
