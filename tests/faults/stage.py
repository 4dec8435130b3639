"""Where a fault happens: control groups, processes, namespaces; all of it goes with the stage."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ktop.collect.block_limits import parse_limit
from ktop.model_block import Limit

LOADS = Path(__file__).with_name("loads.py")
PREFIX = "ktopfault"   # of directories and control groups, followed by the run's pid
NETNS = "ktf"
UNDO = "undo"          # in the stage's directory: what a killed run has left to be undone


def run(command: str, check: bool = True) -> str:
    """A command's output."""
    return subprocess.run(command.split(), check=check, capture_output=True, text=True).stdout


def sweep(where: str = "/var/tmp") -> None:
    """Undo what runs that were killed have left."""
    for directory in Path(where).glob(f"{PREFIX}*"):
        if not _dead(directory.name):
            continue
        with contextlib.suppress(OSError):
            for command in reversed((directory / UNDO).read_text().splitlines()):
                subprocess.run(["sh", "-c", command], check=False, capture_output=True)
        shutil.rmtree(directory, ignore_errors=True)
    for root in set(_controllers().values()):
        for top in Path(root).glob(f"{PREFIX}*"):
            if _dead(top.name):
                for group in [*sorted(top.glob("**/"), reverse=True), top]:
                    with contextlib.suppress(OSError):
                        group.rmdir()


def lacking() -> str:
    """Why the faults cannot be made here; empty when they can."""
    if os.geteuid() != 0:
        return "root is needed: control groups, namespaces, devices"
    missing = {"cpu", "memory", "blkio"} - _controllers().keys()
    if missing:
        return f"the faults are made with control groups v1; not mounted: {', '.join(missing)}"
    tools = [name for name in ("ip", "tc", "iptables", "nsenter", "losetup", "mkswap", "gcc")
             if shutil.which(name) is None]
    return f"not installed: {', '.join(tools)}" if tools else ""


def _dead(name: str) -> bool:
    """Whether the run whose directory or group this is has gone."""
    pid = name.removeprefix(PREFIX).partition("-")[0]
    return pid.isdigit() and not os.path.exists(f"/proc/{pid}")


def _controllers() -> dict[str, str]:
    """Controller -> where its hierarchy is mounted; v2 under `unified`."""
    found = {}
    for line in Path("/proc/mounts").read_text().splitlines():
        words = line.split()
        if words[2] == "cgroup":
            found |= {name: words[1] for name in words[3].split(",")
                      if name in ("cpu", "memory", "blkio")}
        elif words[2] == "cgroup2":
            found["unified"] = words[1]
    return found


class Stage:
    """Use as a context manager; everything that was made through it is undone in reverse order."""

    def __init__(self, seed: int, hurry: bool = False, disk: str | None = None,
                 limits: dict[str, Limit] | None = None) -> None:
        """limits: those that the collector has, to declare more there."""
        self.hurry = hurry
        self.limits = limits if limits is not None else {}
        self.random = random.Random(seed)
        self.base = f"/{PREFIX}{os.getpid()}"
        self._roots = _controllers()
        self._groups: list[str] = []
        self._children: list[subprocess.Popen[bytes]] = []
        self._undo = contextlib.ExitStack()
        self.directory = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-",
                                               dir=disk or "/var/tmp"))
        self._undo.callback(shutil.rmtree, self.directory, ignore_errors=True)

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        for group in reversed(self._groups):
            for _ in range(50):
                try:
                    os.rmdir(group)
                    break
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.05)
        self._undo.close()

    def stop(self) -> None:
        """End the fault: its processes, and what runs below them."""
        for child in self._children:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
        for child in self._children:
            child.wait()
        self._children = []

    def broken(self) -> str:
        """The last words of a process of the fault that has ended by itself; empty: none has."""
        if all(child.poll() is None for child in self._children):
            return ""
        lines = (self.directory / "stderr").read_text(errors="replace").strip().splitlines()
        return f"a load has ended by itself: {lines[-1] if lines else 'without a word'}"

    def root(self, controller: str) -> str:
        """Where a controller's groups are."""
        return self._roots.get(controller, self._roots.get("unified", ""))

    def group(self, name: str = "", **settings: str) -> str:
        """A control group of all controllers: its path. settings: `cpu_cfs_quota_us="20000"`."""
        path = f"{self.base}/{name}" if name else self.base
        for controller in ("cpu", "memory", "blkio"):
            parts = [self.base] if name else []
            for part in (*parts, path):
                directory = self.root(controller) + part
                if not os.path.isdir(directory):
                    os.mkdir(directory)
                    self._groups.append(directory)
        for name_, value in settings.items():
            controller, _, rest = name_.partition("_")
            Path(f"{self.root(controller)}{path}/{controller}.{rest}").write_text(value)
        return path

    def start(self, role: str, *args: object, group: str | None = None, netns: str = "",
              ready: bool = False) -> int:
        """A role of loads.py in a group (and a network namespace): its pid. ready: wait for its
        word."""
        command = [sys.executable, "-I", str(LOADS), role, *map(str, args)]
        files = [f"{self.root(c)}{group}/cgroup.procs" for c in ("cpu", "memory", "blkio")
                 ] if group is not None else []
        environment = {**os.environ, "LOAD_GROUPS": ":".join(dict.fromkeys(files)),
                       "LOAD_HURRY": "1" if self.hurry else ""}
        if netns:
            # Not ip netns exec, which mounts another /sys: there are no control groups in it.
            command = ["nsenter", f"--net=/run/netns/{netns}", *command]
        return self._spawn(command, ready, environment)

    def command(self, command: list[str]) -> int:
        """Any other program that says a line when it is ready."""
        return self._spawn(command, True)

    def _spawn(self, command: list[str], ready: bool,
               environment: dict[str, str] | None = None) -> int:
        with open(self.directory / "stderr", "ab") as errors:
            child = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE,
                                     stderr=errors, stdin=subprocess.DEVNULL, cwd=self.directory,
                                     env=environment)
        self._children.append(child)
        if ready:
            assert child.stdout is not None
            child.stdout.readline()
        return child.pid

    def undo(self, command: str) -> None:
        """A shell command to run when the stage goes, or when the next run finds it undone."""
        with open(self.directory / UNDO, "a", encoding="utf-8") as f:
            f.write(command + "\n")
        self._undo.callback(subprocess.run, ["sh", "-c", command], check=False,
                            capture_output=True)

    def write(self, path: str, value: object) -> None:
        """A setting of the kernel; what it was comes back."""
        before = Path(path).read_text().strip()
        self.undo(f"echo {before} > {path}")
        Path(path).write_text(str(value))

    def declare(self, text: str) -> None:
        """A limit as --limit has it."""
        limit = parse_limit(text)
        self.limits[limit.device] = limit
        self._undo.callback(self.limits.pop, limit.device, None)

    def loop(self, file: Path) -> str:
        """A loop device on a file: its path."""
        device = run(f"losetup -f --show {file}").strip()
        self.undo(f"losetup -d {device}")
        return device

    def namespaces(self) -> tuple[str, str]:
        """Two network namespaces joined by a veth pair: 10.78.0.1 and 10.78.0.2."""
        a, b = f"{NETNS}{os.getpid()}a", f"{NETNS}{os.getpid()}b"
        for name in (a, b):
            run(f"ip netns add {name}")
            self.undo(f"ip netns del {name}")
            run(f"ip -n {name} link set lo up")
        run(f"ip link add ktf0 netns {a} type veth peer name ktf1 netns {b}")
        for name, device, address in ((a, "ktf0", "10.78.0.1"), (b, "ktf1", "10.78.0.2")):
            run(f"ip -n {name} addr add {address}/24 dev {device}")
            run(f"ip -n {name} link set {device} up")
        return a, b

    def device(self) -> str:
        """major:minor of the disk that the stage's directory is on."""
        dev = os.stat(self.directory).st_dev
        return f"{os.major(dev)}:{os.minor(dev)}"
