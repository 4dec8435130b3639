"""The rooms: who may import whom, and how big a room may get."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "ktop").rglob("*.py"))
MAX_MODULE_LINES, MAX_FUNCTION_LINES = 500, 60


def tracked() -> list[Path]:
    """Files under version control; all text of the tree where there is no git."""
    try:
        names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True,
                               text=True, check=True).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        return [p for p in ROOT.rglob("*.py") if ".venv" not in p.parts]
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def test_import_contracts():
    linter = Path(sys.executable).with_name("lint-imports")
    if not linter.exists():
        pytest.skip("import-linter is not installed")
    done = subprocess.run([linter], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_sizes(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= MAX_MODULE_LINES
    long = {
        node.name: node.end_lineno - node.lineno + 1
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno - node.lineno >= MAX_FUNCTION_LINES
    }
    assert not long


def test_nobody_imports_app():
    importer = re.compile(r"^\s*(from ktop\.app\b|import ktop\.app\b|from ktop import .*\bapp\b)")
    allowed = {"cli.py", "launch.py", "privileges.py", "replay.py", "app.py"}
    guilty = [
        path.name for path in MODULES if path.name not in allowed
        and any(importer.match(line) for line in path.read_text(encoding="utf-8").splitlines())
    ]
    assert not guilty


def test_bcc_is_imported_only_by_the_compile_child():
    importer = re.compile(r"^\s*(import bcc\b|from bcc\b)", re.MULTILINE)
    users = {str(p.relative_to(ROOT / "ktop")) for p in MODULES
             if importer.search(p.read_text(encoding="utf-8"))}
    assert users <= {"bpf/compile.py"}


# Spelled in parts, so that this file does not find itself.
MACHINE_SPECIFIC = re.compile("|".join((
    "/wo" r"rk/(main|shared)", "/op" r"t/(pypi|wheels)", "/ro" r"ot/", r"/ho" r"me/\w+/",
    "-" "-(extra-)?ind" "ex-url", "-" "-find-" "links", r"\.py" "env/")))


def test_no_machine_specific_path():
    guilty = []
    for path in tracked():
        if path.suffix in {".png", ".svg", ".ktop", ".gz", ".zst"}:
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        guilty += [f"{path.relative_to(ROOT)}: {found.group()}"
                   for found in MACHINE_SPECIFIC.finditer(text)]
    assert not guilty
