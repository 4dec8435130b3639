"""Set-up, as far as it can be tested without making a second environment."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def make(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    # The tests themselves may run below `make test`: this make is nobody's child.
    environ = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    return subprocess.run(["make", *args], cwd=ROOT, capture_output=True, text=True, check=False,
                          stdin=subprocess.DEVNULL, env=environ | env)


def test_help_is_the_default_and_lists_the_targets():
    text = make().stdout
    assert text == make("help").stdout
    for target in ("setup", "run", "test", "check", "bench", "clean"):
        assert f"make {target}" in text


@pytest.mark.skipif(not (ROOT / ".venv/.made-dev").exists(), reason="not set up by make")
def test_setup_with_nothing_to_do_does_nothing():
    # A dry PATH without pip or apt would fail if it did anything; the stamp must stay as it is.
    stamp = ROOT / ".venv/.made-dev"
    before = stamp.stat().st_mtime_ns
    done = make("setup-dev", "RUN_PACKAGES=", "TEST_PACKAGES=")
    if "installing" in done.stdout:
        pytest.skip("pyproject.toml has changed since the last set-up")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert stamp.stat().st_mtime_ns == before


@pytest.mark.skipif(not Path("/usr/bin/dpkg-query").exists(), reason="no dpkg")
def test_a_missing_package_names_the_command_and_setup_goes_on(tmp_path):
    # `sudo` and apt-get are stand-ins that refuse: what remains is the message.
    for name in ("sudo", "apt-get"):
        tool = tmp_path / name
        tool.write_text("#!/bin/sh\nexit 1\n")
        tool.chmod(0o755)
    done = make("setup", "RUN_PACKAGES=ktop-no-such-package",
                PATH=f"{tmp_path}:{os.environ['PATH']}", TMPDIR=str(tmp_path))
    assert "apt-get install -y --no-install-recommends ktop-no-such-package" in done.stderr
    assert "going on without ktop-no-such-package" in done.stderr
    assert done.returncode == 0


def test_no_dependency_is_called_bcc():
    # `bcc` on PyPI is an unrelated crystal-lattice package.
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    assert not [name for name in names if name.lower().startswith(("bcc", "bpfcc"))]


def test_every_bpf_program_says_its_licence_and_its_text_is_here():
    # and the kernel is told the same: its tracing helpers are for GPL-compatible programs only
    from ktop.bpf import syscall

    sources = sorted((ROOT / "ktop/bpf").glob("*.bpf.*"))
    assert len(sources) > 8
    for path in sources:
        first = path.read_text(encoding="ascii").split("\n", 1)[0]
        assert first == "/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */", path.name
    for name in ("GPL-2.0-only", "BSD-2-Clause"):
        assert (ROOT / f"LICENSES/{name}.txt").stat().st_size > 1000
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="ascii")
    assert b"Dual BSD/GPL" in syscall.prog_load.__code__.co_consts


def test_what_the_systems_python_runs_is_for_old_ones_too():
    # bcc belongs to /usr/bin/python3: 3.9 in RHEL 9, 3.10 in Ubuntu 22.04
    names = ("compile", "attach", "btf", "headers", "layers", "layout", "probes", "syscall",
             "*_layer")
    sources = [path for name in names for path in (ROOT / "ktop/bpf").glob(f"{name}.py")]
    assert len(sources) > 10
    for path in sources:
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text, path.name, feature_version=(3, 9))
        hinted = any(getattr(node, "annotation", None) or getattr(node, "returns", None)
                     for node in ast.walk(tree))
        assert "from __future__ import annotations" in text or not hinted, path.name
        for word in ("slots=True", "strict=", "import tomllib"):
            assert word not in text, path.name


def test_ci_script_is_executable_bash():
    script = ROOT / ".ci/run"
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0


def test_bpf_sources_lie_beside_the_modules_that_are_installed():
    code = "import ktop.bpf, pathlib; print(pathlib.Path(ktop.bpf.__file__).parent)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = {p.name for p in Path(done.stdout.strip()).glob("*.bpf.*")}
    assert {"ktop.bpf.h", "sched.bpf.c", "processes.bpf.c"} <= found
