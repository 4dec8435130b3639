"""Who may do what, without BPF: capabilities given up, files of their owner alone, no shells.

What needs the kernel's own word is in tests/test_live_privileges.py.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import ktop
from ktop import capabilities
from ktop.capabilities import COLLECTOR, COMPILE, FILES, NEEDS, SYMBOLS, Cap
from ktop.privileges import drop_privileges
from tests.ptyshell import FAKE, ROOT, PtyShell, children, environment, until
from tests.test_recording import public  # noqa: F401
from tests.timekit import record

PACKAGE = Path(ktop.__file__).parent
UNIT = Path(ROOT) / "packaging/ktop-record.service"
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root has something to give up")


def fields(pid: int | str) -> dict[str, str]:
    """/proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def bits(pid: int | str, name: str) -> int:
    return int(fields(pid)[name], 16)


def mask(caps: frozenset[Cap]) -> int:
    return sum(1 << cap for cap in caps)


def in_child(work: Callable[[], str]) -> str:
    """What `work` says in a process of its own, which has nothing to lose."""
    inward, outward = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            said = work()
        except BaseException as err:
            said = f"{type(err).__name__}: {err}"
        os.write(outward, said.encode())
        os._exit(0)
    os.close(outward)
    with open(inward) as f:
        said = f.read()
    os.waitpid(pid, 0)
    return said


def status_now() -> str:
    found = fields("self")
    return " ".join(found[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb",
                                             "NoNewPrivs"))


ZERO = "0" * 16


# -- what is given up ------------------------------------------------------------------------------


@AS_ROOT
def test_what_is_not_kept_is_gone_from_every_set_and_from_what_is_started() -> None:
    import ctypes  # noqa: F401 - it could not be read any more

    before = bits("self", "CapPrm")

    def work() -> str:
        capabilities.keep_only(COLLECTOR)
        started = subprocess.run(["/bin/cat", "/proc/self/status"], capture_output=True, text=True,
                                 check=True).stdout
        return status_now() + " " + re.findall(r"CapEff:\s*(\w+)", started)[0]

    kept = f"{before & mask(COLLECTOR):016x}"
    assert in_child(work) == f"{ZERO} {kept} {kept} {kept} {ZERO} 1 {kept}"
    assert bits("self", "CapPrm") == before


@AS_ROOT
def test_another_user_than_root_passes_on_what_it_keeps() -> None:
    """A service with capabilities: its compile child has them too, its recorder none."""
    import ctypes

    kept = f"{bits('self', 'CapPrm') & mask(SYMBOLS):016x}"

    def work(keep: frozenset[Cap]) -> str:
        capabilities.keep_only(COLLECTOR | {Cap.SETUID, Cap.SETGID, Cap.SETPCAP})
        capabilities.prctl(8, 1)  # PR_SET_KEEPCAPS
        ctypes.CDLL(None)
        os.setgroups([]), os.setresgid(65534, 65534, 65534), os.setresuid(65534, 65534, 65534)
        capabilities.keep_only(keep)
        return subprocess.run(["/bin/cat", "/proc/self/status"], capture_output=True, text=True,
                              check=True).stdout

    started = re.findall(r"Cap(?:Prm|Eff|Amb):\s*(\w+)", in_child(lambda: work(SYMBOLS)))
    assert started == [kept] * 3
    assert set(re.findall(r"Cap(?:Prm|Eff|Amb):\s*(\w+)",
                          in_child(lambda: work(frozenset())))) == {ZERO}


@AS_ROOT
def test_the_invoking_user_is_left_with_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_UID", "65534")
    monkeypatch.setenv("SUDO_GID", "65534")

    def work() -> str:
        drop_privileges()
        try:
            os.setresuid(0, 0, 0)
        except PermissionError:
            return f"{os.getresuid()} {status_now()}"
        return "root again"

    assert in_child(work) == f"(65534, 65534, 65534) {' '.join([ZERO] * 5)} 1"


BELOW_ROOT = """
import asyncio, sys
import ktop.app
ktop.app.preload()
assert "textual.pilot" in sys.modules
from tests.frames import make_frame
from tests.test_app import FakeSource

class Unreadable:
    def find_spec(self, name, path=None, target=None):
        asked.append(name)
        raise ModuleNotFoundError(name)

async def main():
    source = FakeSource()
    app = ktop.app.KtopApp(lambda: source)
    sys.meta_path.insert(0, Unreadable())
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.pause()
        source.play(make_frame())
        for key in "1 2 3 4 5 6 1 enter escape question_mark escape C escape".split():
            await pilot.press(key)

asked = []
try:
    asyncio.run(main())
finally:
    print(*asked)
"""


def test_what_the_user_cannot_read_is_imported_before() -> None:
    """ktop installed below /root, by who called sudo: nothing can be imported after the change."""
    done = subprocess.run([sys.executable, "-c", BELOW_ROOT], cwd=ROOT, capture_output=True,
                          text=True, check=False, stdin=subprocess.DEVNULL)
    assert (done.stdout.split(), done.returncode) == ([], 0), done.stderr


@AS_ROOT
def test_root_without_sudo_keeps_its_rights_to_files_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUDO_UID", raising=False)

    def work() -> str:
        drop_privileges()
        return status_now()

    kept = f"{bits('self', 'CapPrm') & mask(FILES):016x}"
    assert in_child(work) == f"{ZERO} {kept} {kept} {kept} {ZERO} 1"


@AS_ROOT
def test_why_there_is_no_bpf(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(*caps: Cap) -> Callable[[], str]:
        def work() -> str:
            capabilities.keep_only(COLLECTOR - set(caps))
            return f"{capabilities.why_no_bpf()}"
        return work

    assert capabilities.why_no_bpf() is None
    # SYS_ADMIN alone, and the two without it, are enough
    assert in_child(lacking(Cap.BPF, Cap.PERFMON)) == in_child(lacking(Cap.SYS_ADMIN)) == "None"
    assert in_child(lacking(Cap.BPF, Cap.SYS_ADMIN)) == "root, but without CAP_BPF"
    monkeypatch.setenv("SUDO_UID", "65534")

    def as_nobody() -> str:
        drop_privileges()
        return f"{capabilities.why_no_bpf()} {len(capabilities.blind())}"
    assert in_child(as_nobody) == f"not root {sum(bool(need.blind) for need in NEEDS)}"


def test_a_child_is_given_no_more_than_the_collector_has() -> None:
    assert COMPILE < COLLECTOR and SYMBOLS < COLLECTOR
    assert Cap.BPF not in SYMBOLS and Cap.SYS_ADMIN not in SYMBOLS


@AS_ROOT
def test_every_process_of_a_session_under_sudo() -> None:
    """The tree as it runs: supervisor, collector (a fake one: root until it chooses), UI."""
    with PtyShell(FAKE, env=environment(SUDO_UID="65534", SUDO_GID="65534")) as shell:
        shell.until("LIVE")
        assert bits(shell.pid, "CapEff") & ~mask(capabilities.SUPERVISOR) == 0
        assert bits(shell.pid, "CapBnd") & ~mask(capabilities.SUPERVISOR) == 0
        users = [pid for pid in children(shell.pid) if fields(pid)["Uid"].startswith("65534")]
        assert len(users) == 1
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert bits(users[0], name) == 0
        assert fields(users[0])["NoNewPrivs"] == "1"
        # nothing that another user could connect to
        sockets = {os.readlink(f"/proc/{pid}/fd/{fd}").removeprefix("socket:").strip("[]")
                   for pid in (shell.pid, *children(shell.pid))
                   for fd in os.listdir(f"/proc/{pid}/fd")
                   if os.path.islink(f"/proc/{pid}/fd/{fd}")}
        named = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
        assert not [words for words in named if len(words) > 7 and words[6] in sockets]
        shell.send("q")
        assert shell.wait() == 0


@AS_ROOT
def test_the_real_collector_and_recorder(public: Path) -> None:  # noqa: F811
    os.chmod(public, 0o777)
    process = subprocess.Popen(
        [sys.executable, "-m", "ktop", "record", "--no-bpf", "--interval", "0.2", "-o",
         str(public / "a.ktop")], cwd=ROOT, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
        env={**os.environ, "SUDO_UID": "65534", "SUDO_GID": "65534"})
    try:
        until((public / "a.ktop").exists, "it records")
        until(lambda: len(children(process.pid)) == 2, "both children")
        users = {fields(pid)["Uid"].split()[0]: pid for pid in children(process.pid)}
        assert users.keys() == {"0", "65534"}
        had = bits("self", "CapPrm")
        until(lambda: os.getpriority(os.PRIO_PROCESS, users["0"]) == capabilities.COLLECTOR_NICE,
              "it goes first")
        assert os.getpriority(os.PRIO_PROCESS, users["65534"]) == 0
        for pid, keep in ((process.pid, capabilities.SUPERVISOR), (users["0"], COLLECTOR),
                          (users["65534"], frozenset())):
            kept = had & mask(keep)
            until(lambda pid=pid, kept=kept: bits(pid, "CapEff") == kept, "no more than it needs")
            assert bits(pid, "CapBnd") == bits(pid, "CapPrm") == kept
            assert fields(pid)["NoNewPrivs"] == str(int(pid != process.pid))
    finally:
        process.terminate()
        process.wait(60)


@AS_ROOT
def test_a_command_without_a_process_tree_is_a_collector() -> None:
    process = subprocess.Popen([sys.executable, "-m", "ktop", "collect", "--no-bpf"], cwd=ROOT,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None and process.stdout.read(1)
        assert bits(process.pid, "CapEff") == bits("self", "CapPrm") & mask(COLLECTOR)
    finally:
        process.kill()
        process.communicate()


@AS_ROOT
def test_who_chose_a_priority_keeps_it() -> None:
    code = ("import os; os.nice(5); from ktop import capabilities as c; c.go_first()\n"
            "chosen = os.nice(0); os.setpriority(os.PRIO_PROCESS, 0, 0); c.go_first()\n"
            "first = os.nice(0); c.wait_your_turn(); print(chosen, first, os.nice(0))")
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
    assert said.stdout.split() == [b"5", b"-10", b"0"]


# -- files -----------------------------------------------------------------------------------------


@pytest.fixture
def no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def modes(place: Path) -> dict[str, int]:
    return {file.name: stat.S_IMODE(file.stat().st_mode) for file in place.iterdir()}


def test_a_recording_is_its_owners_alone_whatever_the_umask(tmp_path: Path,
                                                            no_umask: None) -> None:
    from ktop.recording_writer import Info, Writer
    from tests import session

    writer = Writer(tmp_path / "open.ktop", Info())
    for frame in session.frames()[:3]:
        writer.add(frame)
    while_open = modes(tmp_path)
    assert any(name.endswith("-wal") for name in while_open)
    writer.close("")
    record(tmp_path / "closed.ktop", session.frames()[:3])
    found = {**while_open, **modes(tmp_path)}
    assert {"open.ktop", "closed.ktop"} <= set(found)
    assert set(found.values()) == {0o600}


def test_exports_and_crash_reports_too(tmp_path: Path, no_umask: None,
                                       monkeypatch: pytest.MonkeyPatch) -> None:
    from ktop import crash

    out = tmp_path / "out"
    out.mkdir()
    subprocess.run([sys.executable, "-m", "ktop", "export", "tests/data/network.ktop", "--table",
                    "tcp.namespaces", "--format", "csv", "-o", str(out / "a.csv")],
                   cwd=ROOT, check=True, stdin=subprocess.DEVNULL)
    monkeypatch.delenv("KTOP_DEBUG", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(out))
    crash.report("ktop", ValueError("x"))
    assert len(modes(out)) == 2
    assert set(modes(out).values()) == {0o600}


# -- no shell --------------------------------------------------------------------------------------

SHELLS = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput",
          "asyncio.create_subprocess_shell", "pty.spawn"}
STARTERS = {"subprocess.Popen", "subprocess.run", "subprocess.call", "subprocess.check_call",
            "subprocess.check_output", "asyncio.create_subprocess_exec"}


def starts(text: str) -> Iterator[tuple[int, str, ast.Call]]:
    """Every call that starts a program: line, name, call."""
    if not re.search(r"subprocess|popen|system\(|\bpty\b|os\.(exec|spawn|posix)", text, re.I):
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            name = ast.unparse(node.func)
            if (name in SHELLS | STARTERS or re.match(r"os\.(exec|spawn|posix_spawn)", name)
                    or name in ("Popen", "system", "popen")):
                yield node.lineno, name, node


def sins(text: str) -> list[str]:
    """Calls through a shell, and of programs that are not the first word of a list."""
    found = []
    for line, name, call in starts(text):
        keywords = {k.arg: k.value for k in call.keywords}
        shell = keywords.get("shell")
        if name not in STARTERS:
            found.append(f"{line}: {name}")
        elif shell is not None and not (isinstance(shell, ast.Constant) and shell.value is False):
            found.append(f"{line}: shell=")
        elif not call.args or isinstance(call.args[0], ast.Constant | ast.JoinedStr | ast.BinOp):
            found.append(f"{line}: one string")
    return found


def test_no_shell_is_ever_run() -> None:
    texts = {path: path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}
    where = {path: found for path, text in texts.items() if (found := list(starts(text)))}
    assert {path: sins(texts[path]) for path in where if sins(texts[path])} == {}
    # All that is ever started: the two children under the system's python, and the user's ssh. None
    # is given a name that came from the kernel: what they are asked goes over a socket.
    assert sorted(str(path.relative_to(PACKAGE)) for path in where) == [
        "bpf/engine.py", "collect/stacks_symbols.py", "remote.py"]


@pytest.mark.parametrize("text", [
    "os.system(f'kill {comm}')", "os.popen('ls')", "subprocess.run(f'ls {path}', shell=True)",
    "subprocess.run(['ls'], shell=wanted)", "subprocess.Popen('ls ' + path)",
    "subprocess.check_output('ls')", "os.execvp(comm, [])", "from os import system; system(comm)"])
def test_a_shell_would_be_seen(text: str) -> None:
    assert len(sins(text)) == 1


def test_words_for_the_shell_at_the_far_end_of_ssh_are_quoted() -> None:
    from ktop.remote import Far

    words = Far("web1", "sudo ktop", limits=("a=1iops; reboot",)).words()
    assert words == ["sudo ktop", "--limit 'a=1iops; reboot' collect --packed --interval 1"]


# -- the service -----------------------------------------------------------------------------------


def unit() -> dict[str, str]:
    return dict(line.split("=", 1) for line in UNIT.read_text().splitlines()
                if "=" in line and not line.startswith("#"))


def service_capabilities() -> frozenset[Cap]:
    return frozenset(Cap[name.removeprefix("CAP_")]
                     for name in unit()["AmbientCapabilities"].split())


def test_the_service_has_what_the_collector_needs_but_not_almost_root() -> None:
    said = unit()
    assert service_capabilities() == COLLECTOR - {Cap.SYS_ADMIN}
    assert said["CapabilityBoundingSet"] == said["AmbientCapabilities"]
    assert said["NoNewPrivileges"] == "yes" and said["UMask"] == "0077"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")
def test_systemd_takes_the_service(tmp_path: Path) -> None:
    text = UNIT.read_text().replace("/usr/local/bin/ktop", "/bin/true")
    (tmp_path / UNIT.name).write_text(text)
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", str(tmp_path / UNIT.name)],
                          capture_output=True, text=True, check=False)
    said = [line for line in done.stderr.splitlines() if UNIT.name in line]
    assert said == []
    assert done.returncode == 0 or not said  # other units of the host are not ours


def test_the_readme_names_every_capability() -> None:
    text = (Path(ROOT) / "README.md").read_text(encoding="utf-8")
    told = text.partition("<!-- begin: privileges -->")[2].partition("<!-- end: privileges -->")[0]
    assert [cap for cap in Cap if not re.search(rf"\b(CAP_)?{cap.name}\b", told)] == []
    recipe = re.findall(r"setcap (\S+)\+ep", told)
    assert [{name.upper() for name in words.split(",")} for words in recipe] == [
        {str(cap) for cap in service_capabilities()}]
