"""A PostgreSQL cluster of our own: in a temporary directory, as another user, on a Unix socket
alone, gone afterwards. The distribution's own cluster is not touched."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.common import Missing, cpu_ns, end, tree

SCALE, CLIENTS = 2, 4
_OPTIONS = ("-c", "listen_addresses=", "-c", "shared_buffers=64MB", "-c", "autovacuum=off",
            "-c", "fsync=off")  # the disk is what fio is for


def _binaries() -> Path:
    """Where Debian, RHEL or the PATH has initdb."""
    found = shutil.which("initdb")
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or (
        [Path(found)] if found else [])
    if not places:
        raise Missing("postgresql is not installed")
    return places[-1].parent


def _user() -> pwd.struct_passwd:
    """PostgreSQL refuses root."""
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise Missing("no user to run PostgreSQL as")


class Cluster:
    """A running server."""

    def __init__(self, binaries: Path, place: str, user: pwd.struct_passwd) -> None:
        self._bin, self._place, self._user = binaries, place, user
        self.server: subprocess.Popen[bytes] | None = None

    def _start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [self._bin / name, *arguments], user=self._user.pw_uid, group=self._user.pw_gid,
            extra_groups=[], cwd=self._place, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, env={"PATH": "/usr/bin:/bin", "LC_ALL": "C",
                                           "PGHOST": self._place, "PGUSER": "bench"})

    def run(self, name: str, *arguments: str) -> str:
        """One of its programs, to the end."""
        process = self._start(name, *arguments)
        said = process.communicate(timeout=120)[0].decode("utf-8", "replace")
        if process.returncode:
            raise Missing(f"{name} failed: {(said.strip().splitlines() or ['?'])[-1][:80]}")
        return said

    def start(self) -> None:
        """Make the cluster, start the server, fill the tables."""
        data = f"{self._place}/data"
        self.run("initdb", "-D", data, "-U", "bench", "-A", "trust", "--no-sync", "-E", "UTF8")
        self.server = self._start("postgres", "-D", data, "-k", self._place, *_OPTIONS)
        for _ in range(600):
            with contextlib.suppress(Missing):
                self.run("pg_isready", "-q", "-t", "1")
                break
            if self.server.poll() is not None:
                raise Missing("postgres does not start here")
        self.run("createdb", "bench")
        self.run("pgbench", "-i", "-q", "-s", str(SCALE), "bench")

    def rate(self, cpu: int, count: int, *arguments: str) -> float:
        """Transactions for a CPU second of the server and pgbench, all on one CPU; of `count`."""
        assert self.server is not None
        for pid in tree(self.server.pid):
            for task in os.listdir(f"/proc/{pid}/task"):
                with contextlib.suppress(ProcessLookupError):
                    os.sched_setaffinity(int(task), {cpu})
        known = tree(self.server.pid)
        before = self._used_ns(known)
        process = self._start("pgbench", "-n", "-c", str(CLIENTS), "-t", str(count // CLIENTS),
                              *arguments, "bench")
        os.sched_setaffinity(process.pid, {cpu})
        said = process.communicate(timeout=120)[0]
        if process.returncode:
            raise Missing(f"pgbench failed: {said[-80:]!r}")
        for _ in range(500):  # until the server has reaped who served it
            if len(tree(self.server.pid)) <= len(known):
                break
            time.sleep(0.01)
        return count // CLIENTS * CLIENTS / ((self._used_ns(known) - before) / 1e9)

    def _used_ns(self, known: list[int]) -> int:
        """CPU of the server with those who served and have ended, and of our own ended children."""
        assert self.server is not None
        stat = Path(f"/proc/{self.server.pid}/stat").read_text(encoding="ascii")
        ended = sum(int(word) for word in stat.rpartition(")")[2].split()[13:15])  # cutime, cstime
        times = os.times()
        return cpu_ns(known) + round(1e9 * (ended / os.sysconf("SC_CLK_TCK")
                                            + times.children_user + times.children_system))

    def close(self) -> None:
        """Fast shutdown."""
        if self.server is not None:
            end(self.server, signal.SIGINT, 20.0)
            assert self.server.stdout
            self.server.stdout.close()


@contextlib.contextmanager
def cluster() -> Iterator[Cluster]:
    """A server with pgbench's tables in it."""
    if os.geteuid() != 0:
        raise Missing("needs root, to run PostgreSQL as another user")
    binaries, user = _binaries(), _user()
    with tempfile.TemporaryDirectory(prefix="ktop-bench-pg-", dir="/tmp") as place:
        os.chown(place, user.pw_uid, user.pw_gid)
        one = Cluster(binaries, place, user)
        try:
            one.start()
            yield one
        finally:
            one.close()
