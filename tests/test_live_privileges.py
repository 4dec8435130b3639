"""What each capability of the collector is for, found by leaving it out, on this kernel."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec  # noqa: F401 - `readable` looks where it is
import pytest

from ktop import capabilities
from ktop.bpf import syscall
from ktop.bpf.engine import Engine
from ktop.bpf.layers import GROUPS
from ktop.bpf.symbols import Kernel
from ktop.capabilities import COLLECTOR, COMPILE, SYMBOLS, Cap
from ktop.collect.main import Collector
from ktop.collect.stacks_symbols import KERNEL, Symbols, settle
from ktop.model import Frame
from ktop.recording import Recording
from tests.livekit import child, collecting
from tests.ptyshell import ROOT, children, until
from tests.test_privileges import bits, fields, in_child, mask, service_capabilities
from tests.test_recording import public  # noqa: F401

pytestmark = pytest.mark.live
SYSTEM_PYTHON = "/usr/bin/python3"
CLONE_NEWNET = 0x40000000
RETURN_0 = bytes([0xb7, *[0] * 7, 0x95, *[0] * 7])  # r0 = 0; exit


@pytest.fixture(scope="module")
def other() -> Iterator[int]:
    """Another user's process, in a network namespace of its own, where it listens."""
    def work() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.unshare(CLONE_NEWNET) == 0
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        listener = socket.socket()
        listener.bind(("0.0.0.0", 0))
        listener.listen()
        listener.set_inheritable(True)
        # a fresh program: whose /proc is its user's again, and not root's (PR_SET_DUMPABLE)
        os.execv("/bin/sleep", ["sleep", "1000"])

    with child(work) as pid:
        until(lambda: fields(pid)["Name"] == "sleep", "another user's program")
        yield pid


def seen(frame: Frame, pid: int) -> set[str]:
    """Which of the things that need a capability this frame has."""
    found = set()
    if frame.tcp is not None:
        spaces = {row.netns for row in frame.tcp.listeners if row.pid == pid}
        if spaces:
            found.add("sockets")
        if any(row.netns in spaces for row in frame.tcp.interfaces):
            found.add("namespaces")
    detail = frame.detail
    if detail is not None:
        if detail.io is not None and detail.io.read_calls is not None:
            found.add("io")
        if any(row.what for row in detail.descriptors):
            found.add("descriptors")
        if any(row.stack for row in detail.threads):
            found.add("stack")
    return found


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    """Loaded by root; the tests fork it, and take away."""
    with collecting() as found:
        yield found


def without(collector: Collector, pid: int, missing: frozenset[Cap],
            expected: set[str]) -> set[str]:
    """What a collector sees that has all but these; `expected` is waited for."""
    def work() -> str:
        capabilities.keep_only(COLLECTOR - missing)
        collector.look_at(pid)
        found: set[str] = set()
        with contextlib.suppress(PermissionError):
            os.close(syscall.enable_run_stats())
            found.add("cost")
        for _ in range(40):
            done = expected <= found
            found |= seen(collector.tick(), pid)
            if done:  # and one sample more, for what should not come
                break
            time.sleep(0.05)
        told = sorted(str(cap) for cap, _ in capabilities.blind())
        return " ".join([*sorted(found), *told, "."])

    said = in_child(work)
    assert said.endswith("."), said
    return set(said.split()) - {"."}


EVERYTHING = {"cost", "namespaces", "sockets", "io", "descriptors", "stack"}


@pytest.mark.parametrize(("missing", "lost"), [
    ((), set()),
    ((Cap.SYS_PTRACE,), {"namespaces", "io", "descriptors", "stack"}),
    ((Cap.DAC_READ_SEARCH,), {"io", "descriptors", "stack"}),
    ((Cap.SYS_ADMIN,), {"namespaces", "stack", "cost"}),
], ids=lambda value: "-".join(sorted(map(str, value))) or "nothing")
def test_each_capability_is_for_something(collector: Collector, other: int,
                                          missing: tuple[Cap, ...], lost: set[str]) -> None:
    found = without(collector, other, frozenset(missing), EVERYTHING - lost)
    assert found == (EVERYTHING - lost) | {str(cap) for cap in missing}  # what it lacks it knows


@pytest.mark.parametrize("missing", [(), (Cap.BPF,), (Cap.PERFMON,)],
                         ids=lambda value: "-".join(map(str, value)) or "nothing")
def test_without_these_nothing_is_loaded(missing: tuple[Cap, ...]) -> None:
    """SYS_ADMIN stands for both, so it has to go too."""
    def work() -> str:
        capabilities.keep_only(COLLECTOR - {*missing, Cap.SYS_ADMIN})
        said = capabilities.why_no_bpf() or "may"
        try:
            syscall.prog_load(RETURN_0, "nothing", syscall.PROG_RAW_TRACEPOINT)
        except OSError as err:
            return f"{said}: {errno.errorcode[err.errno or 0]}"
        return f"{said}: loaded"

    assert in_child(work) == (
        f"root, but without {missing[0]}: EPERM" if missing else "may: loaded")


@pytest.mark.parametrize("missing", [(), (Cap.SYSLOG,)], ids=["with SYSLOG", "without"])
def test_the_kernels_names_need_syslog_where_it_hides_its_addresses(missing: tuple[Cap, ...]
                                                                    ) -> None:
    """As this host is set; what it says is kallsyms_show_value() of the kernel."""
    restrict, paranoid = (int(Path(f"/proc/sys/kernel/{name}").read_text())
                          for name in ("kptr_restrict", "perf_event_paranoid"))
    may = bits("self", "CapPrm") & mask(SYMBOLS - set(missing)) & mask(frozenset({Cap.SYSLOG}))
    shown = (restrict == 0 and paranoid <= 1) or (restrict < 2 and may != 0)

    def named() -> str:
        capabilities.keep_only(SYMBOLS - set(missing))
        kernel = Kernel()
        kernel.name(1)
        return kernel.note or "names"

    assert in_child(named).split(":")[0] == ("names" if shown else "no kernel names")


def test_the_compile_child_has_its_own_and_is_gone_after_the_hand_over() -> None:
    engine = Engine(group=next(number for number, group in enumerate(GROUPS)
                               if group.layers == ("lifecycle",)))
    engine.start()
    try:
        assert engine._child is not None
        pid, kept = engine._child.pid, bits("self", "CapPrm") & mask(COMPILE)
        # nobody has waited for it yet: also when it has ended, it can still be read what it was
        until(lambda: bits(pid, "CapEff") == kept, "no more than it needs")
        assert bits(pid, "CapPrm") == bits(pid, "CapBnd") == kept
        assert bits(pid, "CapInh") == bits(pid, "CapAmb") == 0
        assert fields(pid)["NoNewPrivs"] == "1"
        loaded = engine.wait()
        assert loaded.fatal is None and loaded.maps and loaded.probes
        assert not Path(f"/proc/{pid}").exists()
    finally:
        engine.close()


def test_the_reader_of_symbols_can_load_no_bpf() -> None:
    found = Symbols()
    try:
        found.ask(KERNEL, [1])
        settle(found, 60)
        assert found._child is not None
        pid = found._child.pid
        assert bits(pid, "CapEff") == bits("self", "CapPrm") & mask(SYMBOLS)
        assert bits(pid, "CapBnd") == bits(pid, "CapPrm") == bits(pid, "CapEff")
        assert fields(pid)["NoNewPrivs"] == "1"
    finally:
        found.close()


# -- the service -----------------------------------------------------------------------------------


def readable() -> list[str] | None:
    """A python, and where its modules are, that another user than root can read; None: none is."""
    places = [str(Path(ROOT))]
    for name in ("msgspec", "zstandard", "psutil"):
        places.append(str(Path(sys.modules[name].__file__ or "").parent.parent))
    version = subprocess.run([SYSTEM_PYTHON, "-c", "import sys; print(*sys.version_info[:2])"],
                             capture_output=True, text=True, check=True).stdout.split()
    if version != [str(part) for part in sys.version_info[:2]]:
        return None
    for place in places:
        if any(not part.stat().st_mode & 0o005 for part in (Path(place), *Path(place).parents)):
            return None
    return list(dict.fromkeys(places))


def as_nobody(caps: str) -> list[str]:
    """ktop as another user, with these capabilities and no more."""
    return ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", f"--inh-caps={caps}",
            f"--ambient-caps={caps}", f"--bounding-set={caps}", "--no-new-privs",
            SYSTEM_PYTHON, "-B", "-m", "ktop"]


def settings() -> dict[str, Any]:
    """Environment and place of such a process."""
    places = readable()
    if places is None:
        pytest.skip("no python here with ktop's modules that another user can read")
    return {"cwd": "/", "umask": 0, "env": {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent",
                                            "PYTHONPATH": ":".join(places)}}


@contextlib.contextmanager
def service(file: Path) -> Iterator[subprocess.Popen[str]]:
    """`ktop record` as systemd would start it: another user, the unit's capabilities."""
    wanted = [f"+{cap.name.lower()}" for cap in sorted(service_capabilities())
              if bits("self", "CapPrm") >> cap & 1]
    process = subprocess.Popen(
        [*as_nobody(",".join(["-all", *wanted])), "record", "-o", str(file), "--interval", "0.2"],
        stderr=subprocess.PIPE, text=True, **settings())
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_the_service_records_as_a_user_with_its_capabilities(public: Path) -> None:  # noqa: F811
    os.chown(public, 65534, 65534)
    file = public / "a.ktop"

    def whole() -> bool:
        if not file.exists():
            return False
        with contextlib.suppress(Exception), Recording(file) as recording:
            frame = recording.frame(recording.end - 1)
            return frame.files is not None and frame.tcp is not None and frame.block is not None
        return False

    with service(file) as process:
        until(whole, "every layer is recorded", 120)
        kept = bits("self", "CapPrm") & mask(service_capabilities())
        family = {pid: bits(pid, "CapEff") for pid in children(process.pid)}
        assert bits(process.pid, "CapEff") == kept
        assert sorted(family.values()) == [0, kept]  # recorder, collector
        for pid in (process.pid, *family):
            assert fields(pid)["Uid"].split() == ["65534"] * 4
            assert fields(pid)["NoNewPrivs"] == "1"
            assert bits(pid, "CapPrm") == bits(pid, "CapEff")
        process.terminate()
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
    assert {f.name: (f.stat().st_uid, f.stat().st_mode & 0o777) for f in public.iterdir()} == {
        "a.ktop": (65534, 0o600)}
    with Recording(file) as recording:
        health = recording.frame(recording.end - 1).health
    assert health.source == "bpf"
    assert [p.name for p in health.probes if p.status not in ("live", "off")] == []
    assert health.banner == "some figures are missing: no CAP_SYS_ADMIN (ktop doctor says which)"


def test_a_user_without_anything_sees_what_proc_has_and_every_probe_says_why() -> None:
    done = subprocess.run([*as_nobody("-all"), "snapshot", "--json", "--interval", "0.1"],
                          capture_output=True, text=True, check=False, **settings())
    assert done.returncode == 0, done.stderr
    frame = json.loads(done.stdout)
    health = frame["health"]
    why = "not root: sudo ktop shows everything"
    assert health["source"] == "procfs" and f"no BPF: {why}" in health["banner"]
    assert len(health["probes"]) > 20
    assert {(p["status"], p["reason"]) for p in health["probes"]} == {
        ("absent", why), ("fallback", why)}
    assert 1 in {p["pid"] for p in frame["processes"]["rows"]}
    assert all(frame[layer] is not None for layer in ("files", "tcp", "block"))
    assert len(frame["cpus"]) == os.cpu_count() and frame["block"]["devices"]
