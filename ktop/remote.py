"""The collector at the other end of ssh: `ktop --host`, `ktop record --host`.

ssh is the user's own, with their keys and configuration, also under sudo. It is connected while the
terminal is still free, so that it can ask for a password or about a host's key; from the first
bytes of the stream on it is the collector's process that looks after it. Nothing listens anywhere.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from typing import IO, NamedTuple

from ktop import terminal
from ktop.launch import Collect, Interface, Options, interface_live, run
from ktop.privileges import die_with_parent, drop_privileges, invoking_user
from ktop.remote_relay import Relay
from ktop.text import clean
from ktop.wire import GREETING, HEADER, WireError, check_hello, encode_error

USAGE_ERROR = 2
NOISE = 64 << 10  # bytes that a login shell may write before the stream begins
CHUNK = 1 << 16
NOT_FOUND, SSH_FAILED = 127, 255
# The user's configuration holds but for what a stream of frames must not have: forwarded ports, a
# terminal, another command. A dead connection is noticed after half a minute.
SSH = ("ssh", "-T", "-o", "ClearAllForwardings=yes", "-o", "RemoteCommand=none",
       "-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=3")
SSH_ALONE = ("-o", "BatchMode=yes")  # nobody can be asked any more


class RemoteError(Exception):
    """Why there is no collector. One line, without the host's name."""


class Far(NamedTuple):
    """Where to collect, and how. command: shell words that start ktop there."""

    host: str
    command: str = "ktop"
    interval_ns: int = 1_000_000_000
    bpf: bool = True
    limits: tuple[str, ...] = ()

    def words(self) -> list[str]:
        """What is run there, quoted for the shell there."""
        wanted = ["collect", "--packed", "--interval", f"{self.interval_ns / 1e9:g}"]
        wanted += [] if self.bpf else ["--no-bpf"]
        before = [word for limit in self.limits for word in ("--limit", limit)]
        return [self.command, shlex.join([*before, *wanted])]


class Link(NamedTuple):
    """ssh, connected. begin: what of the stream was read already. errors: its stderr.

    process: a pidfd.
    """

    process: int
    inward: int
    outward: int
    errors: int
    begin: bytes

    def close(self) -> None:
        """Let go of our descriptors; ssh sees the end of its input."""
        for descriptor in (self.process, self.inward, self.outward, self.errors):
            with suppress(OSError):
                os.close(descriptor)


def far_of(args: argparse.Namespace, interval_ns: int) -> Far:
    """What the command line asks for (ktop.cli.remote). Limits in our own configuration are of
    volumes here.
    """
    return Far(args.host, args.remote_command, interval_ns, args.bpf, tuple(args.limits))


def check_host(host: str) -> str:
    """A destination for ssh. ValueError when it could be an option, or is none."""
    if not host or host.startswith("-") or not host.isprintable() or " " in host:
        raise ValueError(f"{clean(host, 60)!r} is no host: USER@HOST, or a name of your ssh "
                         "configuration")
    return host


def connect(far: Far, alone: bool = False) -> Link:
    """Start the collector there and wait for its first bytes. alone: nobody can be asked.

    Raises RemoteError. Ctrl-C while it asks for a password ends it.
    """
    argv = [*SSH, *(SSH_ALONE if alone else ()), "--", far.host, *far.words()]
    with tempfile.TemporaryFile() as errors:
        process = _start(argv, errors)
        assert process.stdin is not None and process.stdout is not None
        try:
            begin = _first_bytes(process.stdout.fileno())
        except BaseException:
            process.terminate()
            process.wait()
            raise
        if begin is None:
            process.stdin.close()
            status = process.wait()
            raise RemoteError(_why(far, status, last_line(errors.fileno())))
        return Link(os.pidfd_open(process.pid), os.dup(process.stdout.fileno()),
                    os.dup(process.stdin.fileno()), os.dup(errors.fileno()), begin)


def _start(argv: list[str], errors: IO[bytes]) -> subprocess.Popen[bytes]:
    """ssh as the invoking user, deaf to Ctrl-C but while it reads a password."""
    user = invoking_user()
    identity: dict[str, object] = {}
    if user is not None:
        identity = {"user": user.pw_uid, "group": user.pw_gid,
                    "extra_groups": os.getgrouplist(user.pw_name, user.pw_gid),
                    "env": {**os.environ, "HOME": user.pw_dir, "USER": user.pw_name,
                            "LOGNAME": user.pw_name}}
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, bufsize=0,
            **identity)
    except OSError as err:
        raise RemoteError("ssh is not installed here" if isinstance(err, FileNotFoundError)
                          else f"ssh cannot be started: {err.strerror}") from None
    finally:
        signal.signal(signal.SIGINT, before)


def _first_bytes(inward: int) -> bytes | None:
    """The stream from its hello on, behind whatever a login shell says; None when it ends first."""
    found = b""
    while len(found) < NOISE:
        data = os.read(inward, CHUNK)
        if not data:
            return None
        found += data
        at = found.find(GREETING) - HEADER.size
        if at >= 0 and _greeted(found[at:]):
            return found[at:]
    raise RemoteError("what answers there is no ktop (its login shell may be talking: it must "
                      "write nothing to standard output)")


def _greeted(stream: bytes) -> bool:
    """Whether the hello is whole. Raises RemoteError when it is of another version."""
    end = HEADER.size + HEADER.unpack_from(stream)[1]
    if len(stream) < end < NOISE:
        return False
    try:
        check_hello(stream[HEADER.size:end])
    except WireError as err:
        raise RemoteError(str(err)) from None
    return True


def last_line(errors: int) -> str:
    """The last line that ssh, or what it ran, wrote to stderr; harmless."""
    with suppress(OSError):
        size = os.fstat(errors).st_size
        tail = os.pread(errors, 4096, max(0, size - 4096))
        lines = [line for line in tail.splitlines() if line.strip()]
        return clean(lines[-1].strip(), 250) if lines else ""
    return ""


def _why(far: Far, status: int, said: str) -> str:
    """Why no stream came, in one line."""
    behind = f" ({said})" if said else ""
    if status == SSH_FAILED:
        return said or "ssh could not connect"
    if status == NOT_FOUND:
        return (f"{clean(far.command, 60)!r} is not there{behind}; install ktop there, or say "
                "where it is with --remote-command")
    if "invalid choice" in said or "unrecognized arguments" in said:
        return f"its ktop is too old to be a collector{behind}; install the same version there"
    return f"the collector there ended with exit status {status}{behind}"


class RemoteCollector:
    """A collector for the Supervisor (ktop.launch): the process that holds ssh's other end.

    The first one takes over the link that was made; each later one connects anew.
    """

    def __init__(self, far: Far, link: Link) -> None:
        self._far = far
        self._link: Link | None = link

    def handed_over(self) -> None:
        """In the parent: the link is the child's alone now."""
        if self._link is not None:
            self._link.close()
            self._link = None

    def __call__(self, sock: socket.socket, _options: Options) -> int:
        """Run until either end goes; the exit status."""
        parent = os.getppid()
        drop_privileges(starts_programs=True)  # what comes from elsewhere is not read as root
        die_with_parent(parent)
        try:
            link = self._link or connect(self._far, alone=True)
        except RemoteError as err:
            return _fail(sock, f"{self._far.host}: {err}")
        relay = Relay(sock, link.inward, link.outward, link.begin)
        why = relay.run()
        self._end(link)
        if why is None:
            return 0
        said = last_line(link.errors)
        return _fail(sock, f"{self._far.host}: {why}{': ' + said if said else ''}")

    @staticmethod
    def _end(link: Link) -> None:
        """The far collector sees the end of its stream; an ssh that does not end is ended."""
        import select

        os.close(link.outward)
        os.close(link.inward)
        for number in (0, signal.SIGTERM, signal.SIGKILL):
            if number:
                with suppress(OSError):
                    signal.pidfd_send_signal(link.process, number)
            if select.select([link.process], [], [], 1.0)[0]:
                return


def _fail(sock: socket.socket, text: str) -> int:
    """Last words: to the reader, and to the log."""
    print(text, file=sys.stderr, flush=True)
    with suppress(OSError):
        sock.settimeout(1.0)
        sock.sendall(encode_error(text))
    return 1


def begin(far: Far) -> RemoteCollector | None:
    """Connect while the terminal is free; None when that failed, which was said in one line."""
    try:
        return RemoteCollector(far, connect(far))
    except RemoteError as err:
        print(f"ktop: {far.host}: {err}", file=sys.stderr)
        return None


def live(far: Far, options: Options, interface: Interface = interface_live) -> int:
    """A live session of another host; the exit status."""
    if problem := terminal.refusal():
        print(f"ktop: {problem}", file=sys.stderr)
        return USAGE_ERROR
    collect: Collect | None = begin(far)
    if collect is None:
        return USAGE_ERROR
    return run(options._replace(host=far.host), collect, interface)


