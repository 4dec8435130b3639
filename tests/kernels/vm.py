"""One boot: QEMU by software emulation, this machine's files under an overlay that is thrown away.

The guest may write anywhere and all of it is lost, except in `share` (/run/share there). Its
command runs as root in the caller's directory; cgroup v2, tracefs, debugfs and bpffs are mounted;
there is no network card, no terminal, no udev.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.kernels import archive

CMDLINE = ("console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable no_timer_check nowatchdog "
           "psi=1")
NO_RESULT, TIMED_OUT = 125, 124
# What of this process's environment the guest's command has, besides what it is given.
KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "COLUMNS")


def _serve(source: str, tag: str, work: Path, cache: str, remount: str) -> subprocess.Popen[bytes]:
    """virtiofsd for a directory, in a mount namespace of its own."""
    view = work / tag
    view.mkdir()
    script = (f"mount --rbind {shlex.quote(source)} {view}; {remount} {view}; "
              f"exec {archive.virtiofsd()} --socket-path={view}.sock "
              f"-o source={view},cache={cache},sandbox=chroot,log_level=warn 2>{view}.log")
    return subprocess.Popen(["unshare", "-m", "sh", "-ec", script], stdin=subprocess.DEVNULL)


# The guest's clock by its own instructions, 500 million a second: however busy this machine is, the
# guest's CPU seems equally fast to it, and what it waits for takes as long as it should. It costs
# half as much again, and there is one CPU.
STEADY = ["-accel", "tcg,thread=single", "-icount", "shift=1,sleep=on"]


def _command(tree: Path, work: Path, cpus: int, memory: str, steady: bool) -> list[str]:
    binary, firmware = archive.qemu()
    command = [
        "setpriv", "--pdeathsig", "KILL", binary,
        *(STEADY if steady else ("-accel", "tcg,thread=multi")),
        "-M", "q35,memory-backend=mem", "-m", memory,
        "-object", f"memory-backend-memfd,id=mem,size={memory},share=on",
        "-smp", str(cpus), "-cpu", "max,la57=off", "-nodefaults", "-display", "none",
        "-no-reboot", "-serial", f"file:{work}/console.log", "-kernel", f"{tree}/vmlinux",
        "-initrd", f"{tree}/initrd", "-append", CMDLINE]
    for directory in firmware:
        command += ["-L", directory]
    for tag in ("tree", "share"):
        command += ["-chardev", f"socket,id={tag},path={work}/{tag}.sock",
                    "-device", f"vhost-user-fs-pci,chardev={tag},tag={tag},queue-size=1024"]
    return command


@contextlib.contextmanager
def _machine(tree: Path, share: Path, cpus: int, memory: str,
             steady: bool) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """QEMU and what it needs; all of it ends with the block."""
    work = Path(tempfile.mkdtemp(prefix="ktop-kernels-"))
    started: list[subprocess.Popen[bytes]] = []
    try:
        started.append(_serve("/", "tree", work, "always", "mount -o remount,bind,ro"))
        started.append(_serve(str(share), "share", work, "auto", ":"))
        for daemon, tag in zip(started, ("tree", "share"), strict=True):
            while not (work / f"{tag}.sock").exists():
                if daemon.poll() is not None:
                    raise archive.Unavailable(
                        f"virtiofsd: {(work / f'{tag}.log').read_text().strip()[-300:]}")
                time.sleep(0.01)
        started.append(subprocess.Popen(_command(tree, work, cpus, memory, steady),
                                        stdin=subprocess.DEVNULL))
        yield started[-1], work
    finally:
        for process in reversed(started):
            process.kill()
            process.wait()
        for path in work.iterdir():  # not rmtree, lest a bind mount be there
            path.rmdir() if path.is_dir() else path.unlink()
        work.rmdir()


class Tail:
    """Prints what is added to a file."""

    def __init__(self, path: Path, prefix: str) -> None:
        self._path, self._prefix, self._offset, self._rest = path, prefix, 0, ""

    def show(self, last: bool = False) -> None:
        """Whole lines that are new; at the last also one that has no end."""
        with contextlib.suppress(FileNotFoundError), self._path.open("rb") as f:
            f.seek(self._offset)
            new = f.read()
            self._offset += len(new)
            *lines, self._rest = (self._rest + new.decode("utf-8", "replace")).split("\n")
            for line in [*lines, *([self._rest] if last and self._rest else [])]:
                print(f"{self._prefix}{line}", flush=True)


def boot(release: str, command: str, share: Path, *, cpus: int = 1, memory: str = "2G",
         timeout_s: float = 900.0, prefix: str = "", steady: bool = False) -> int:
    """Run a shell command in a kernel: its exit status, TIMED_OUT, or NO_RESULT with the console.

    share: a directory that it may write to, /run/share there; what it had in it before stays.
    steady: its clock goes by what its CPU does, not by this machine's.
    """
    tree = archive.kernel(release)
    exports = {name: os.environ[name] for name in KEPT if name in os.environ}
    (share / "env").write_text("".join(
        f"{k}={shlex.quote(str(v))}\n" for k, v in (("TREE", tree), ("CWD", os.getcwd()))))
    (share / "command").write_text("".join(
        f"export {k}={shlex.quote(v)}\n" for k, v in exports.items()) + command + "\n")
    for name in ("output", "status"):
        (share / name).unlink(missing_ok=True)
    tail = Tail(share / "output", prefix)
    end = time.monotonic() + timeout_s
    with _machine(tree, share, cpus, memory, steady) as (machine, work):
        while machine.poll() is None and time.monotonic() < end:
            tail.show()
            time.sleep(0.2)
        timed_out = machine.poll() is None
        tail.show(last=True)
        with contextlib.suppress(FileNotFoundError, ValueError):
            return int((share / "status").read_text())
        shutil.copy(work / "console.log", share / "console.log")
        console = (work / "console.log").read_text(errors="replace").splitlines()
        if timed_out:
            print(f"{prefix}no result after {timeout_s:.0f} s", file=sys.stderr)
            return TIMED_OUT
        print(*(f"{prefix}console: {line}" for line in console[-40:]), sep="\n", file=sys.stderr)
        return NO_RESULT
