"""The kernel matrix's own parts: what is chosen, what is packed, what the table says."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest
from test_headers import Blob, needs_libbpf

from ktop.bpf import btf, compile, headers
from tests.kernels import archive, table, verdicts, vm

NAMES = [f"linux-image-{name}" for name in (
    "6.1.0-9-amd64", "6.1.0-56-amd64", "6.1.0-57-cloud-amd64", "6.1.0-57-rt-amd64", "6.1-amd64",
    "6.12.117+deb13-amd64", "6.12.117+deb13-amd64-unsigned", "7.3.4+deb13-amd64",
    "7.4~rc2-amd64", "5.10.0-46-amd64", "amd64")]


@pytest.mark.parametrize(("spec", "release"), [
    ("6.1", "6.1.0-56-amd64"), ("6.12", "6.12.117+deb13-amd64"), ("5.10", "5.10.0-46-amd64"),
    ("newest", "7.3.4+deb13-amd64"), ("6.1.0-9-amd64", "6.1.0-9-amd64"), ("5.1", None)])
def test_the_newest_stock_kernel_that_fits(spec: str, release: str | None) -> None:
    assert archive.choose(NAMES, spec) == release


def test_the_archive_is_the_one_that_apt_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    def sources(uris: str) -> None:
        monkeypatch.setattr(archive.subprocess, "run", lambda *_, **__: (
            subprocess.CompletedProcess([], 0, uris, "")))

    sources("http://mirror.example/debian/\nhttp://mirror.example/debian-security/\n")
    assert archive.mirrors() == ("http://mirror.example/debian/",
                                 "http://mirror.example/debian-security/")
    sources("http://mirror.example/ubuntu/\n")
    with pytest.raises(archive.Unavailable, match="no Debian archive"):
        archive.mirrors()


def test_the_first_files_of_a_guest_are_an_archive_that_cpio_reads(tmp_path: Path) -> None:
    packed = archive.cpio([("bin", 0o40755, b""), ("bin/busybox", 0o100755, b"x" * 7),
                           ("bin/sh", 0o120777, b"busybox")])
    assert len(packed) % 4 == 0
    head, names = 0, {}
    while True:  # cpio(5), "New ASCII Format"
        assert packed[head:head + 6] == b"070701"
        fields = [int(packed[head + 6 + i * 8:head + 14 + i * 8], 16) for i in range(13)]
        name = packed[head + 110:head + 110 + fields[11] - 1].decode()
        data = (head + 110 + fields[11] + 3) & ~3
        if name == "TRAILER!!!":
            break
        names[name] = (fields[1], packed[data:data + fields[6]])
        head = (data + fields[6] + 3) & ~3
    assert names == {"bin": (0o40755, b""), "bin/busybox": (0o100755, b"x" * 7),
                     "bin/sh": (0o120777, b"busybox")}


def test_output_is_shown_in_whole_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "output"
    tail = vm.Tail(out, "6.1: ")
    tail.show()
    out.write_text("one\ntw")
    tail.show()
    with out.open("a") as f:
        f.write("o\nthree")
    tail.show()
    assert capsys.readouterr().out == "6.1: one\n6.1: two\n"
    tail.show(last=True)
    assert capsys.readouterr().out == "6.1: three\n"


def result(kernel: str, **statuses: str) -> table.Result:
    return {"kernel": kernel, "proved": {"tasks": "7"}, "exit": 0, "probes": {
        name: {"status": status, "layer": "tcp" if name.startswith("tcp") else "processes",
               "attach": f"raw_tp/{name}", "reason": "invalid func", "fallback": "the connector"}
        for name, status in statuses.items()}}


def test_the_table_says_live_only_of_what_was_proved(tmp_path: Path) -> None:
    results = [result("5.10", tcp_fds="fallback", tasks="live", old="live"),
               result("7.3", tcp_fds="live", tasks="live")]
    lines = table.text(results).splitlines()
    assert lines[0] == "| probe | at | 5.10 | 7.3 |"
    assert "| `tasks` | raw_tp/tasks | live | live |" in lines
    assert "| `old` | raw_tp/old | attached | - |" in lines
    assert "| `tcp_fds` | raw_tp/tcp_fds | fallback | attached |" in lines
    assert lines[-1] == "- `tcp_fds` on 5.10: invalid func; in its place: the connector"
    readme = tmp_path / "README.md"
    readme.write_text(f"# before\n{table.BEGIN}\n\n{table.END}\nafter\n")
    table.write(readme, results)
    once = readme.read_text()
    assert "make kernels" in once and once.startswith("# before\n") and once.endswith("\nafter\n")
    table.write(readme, results)
    assert readme.read_text() == once
    readme.write_text("no marks")
    with pytest.raises(SystemExit, match="kernels"):
        table.write(readme, results)


def ran(kernel: str, outcomes: dict[str, str], **more: object) -> table.Result:
    return {**result(kernel, tasks="live"), "spec": kernel[:4], "outcomes": outcomes,
            "runs": dict.fromkeys(("probes",), "2026-01-01"), **more}


def test_a_result_keeps_what_earlier_runs_of_other_checks_found(tmp_path: Path) -> None:
    probes = {"test_probes.py::test_forks": "passed", "test_probes.py::test_dns": "failed"}
    faults = {"test_faults.py::test_netem_loss[loss]": "passed"}
    table.keep(tmp_path, ran("5.10.0-46", probes))
    table.keep(tmp_path, ran("6.1.0-56", {}, spec="6.1", exit=table.FAILED))
    table.keep(tmp_path, ran("5.10.0-46", faults, probes={}, proved={},
                             runs={"faults": "2026-01-02"}))
    table.keep(tmp_path, ran("5.10.0-46", {}, exit=vm.TIMED_OUT))  # tells nothing
    kept, other = table.load(tmp_path)
    assert other["kernel"] == "6.1.0-56" and kept["proved"] == {"tasks": "7"}
    assert kept["outcomes"] == {**probes, **faults}
    assert kept["runs"] == {"probes": "2026-01-01", "faults": "2026-01-02"}
    text = table.text([kept, other])
    assert "netem" not in text  # faults have a table of their own (verdicts.py)
    assert "- failed on 5.10.0-46: dns\n" in text
    forks = {"test_probes.py::test_forks": "failed"}
    table.keep(tmp_path, ran("5.10.0-46", forks, tried=["tasks"], proved={}, only="forks"))
    kept = table.load(tmp_path)[0]  # one test again: what it proved before no longer holds
    assert kept["outcomes"] == {**probes, **forks, **faults} and kept["proved"] == {}
    table.keep(tmp_path, ran("5.10.0-47", faults))  # another kernel: nothing of the old one holds
    assert table.load(tmp_path)[0]["outcomes"] == faults


def test_what_was_said_of_faults_is_a_table_and_is_kept(tmp_path: Path) -> None:
    good = {"expected": "tcp", "named": "tcp", "culprit": "10.0.0.1:80 by the path", "after": 4,
            "quiet": 8, "dropped": 5, "why": ""}
    bad = {"expected": "block", "why": "said nothing"}
    table.keep(tmp_path, ran("5.10.0-46", {}, verdicts={"loss": good}))
    table.keep(tmp_path, ran("5.10.0-46", {}, verdicts={"delay": bad}))
    table.keep(tmp_path, ran("6.1.0-56", {}, spec="6.1", verdicts={"loss": good}))
    text = verdicts.text(table.load(tmp_path))
    assert "| loss | tcp | `tcp`, 10.0.0.1:80 by the path; after 4, dropped after 5 |" in text
    assert "| delay | block | **wrong**: said nothing | - |" in text
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{verdicts.BEGIN}{verdicts.END}\nafter\n")
    verdicts.write(readme, table.load(tmp_path))
    once = readme.read_text()
    verdicts.write(readme, table.load(tmp_path))
    assert readme.read_text() == once and text in once and once.endswith("-->\nafter\n")
    verdicts.write(readme, [])  # no faults were made: what is there stays
    assert readme.read_text() == once


def test_what_a_kernel_has_no_helper_for_is_not_compiled() -> None:
    text = "#ifdef KTOP_TASK_STORAGE\na.task_storage_get()\n#endif\nbpf_get_current_task_btf()"
    current, storage = "BPF_FUNC_get_current_task_btf", "BPF_FUNC_task_storage_get"
    best, typed, plain = ("KTOP_TYPED", "KTOP_TASK_STORAGE"), ("KTOP_TYPED",), ()
    assert compile.flavours(text, {current, storage}) == [best, typed, plain]
    assert compile.flavours(text, {current}) == [typed, plain]
    assert compile.flavours(text, {}) == [plain]
    assert compile.flavours("int f(void) {}", {}) == [typed, plain]


@needs_libbpf
def test_helpers_are_asked_of_btf() -> None:
    """What a kernel before 5.15 lacks is done by hand there (ktop.bpf.h): by feature."""
    blob = Blob()
    blob.add("bpf_func_id", btf.KIND_ENUM, 4, 1,
             struct.pack("=Ii", blob.name("BPF_FUNC_task_pt_regs"), 175))
    want = headers.wanted("/* @kernel\n * helper task_pt_regs sock_from_file\n */")
    text = headers.kernel_header(btf.Btf(blob.build()), want).text
    assert "#define KTOP_HELPER_task_pt_regs 1" in text and "sock_from_file" not in text
