"""`make dist`: sdist and wheel, and whether the wheel works where nothing of this checkout is.

Builds both into dist/, the wheel from the sdist; holds it against a wheel made of the tree itself
and against what git tracks; installs it into an empty virtual environment elsewhere and runs ktop
there, live as well when we are root.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
DIST = ROOT / "dist"
INSTALLED = ("share/man/man1/ktop.1", "share/bash-completion/completions/ktop",
             "share/zsh/site-functions/_ktop", "share/fish/vendor_completions.d/ktop.fish")


class Broken(Exception):
    """What is wrong, in one line."""


def run(*command: str | Path, cwd: Path = ROOT, **env: str) -> str:
    """Its output. Raises Broken."""
    clean = {name: value for name, value in os.environ.items()
             if not name.startswith(("PYTHON", "VIRTUAL_ENV", "SUDO_"))}
    done = subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, check=False, timeout=300, env=clean | env)
    if done.returncode:
        tail = (done.stderr or done.stdout).strip()[-2000:]
        raise Broken(f"{' '.join(map(str, command))}: exit status {done.returncode}\n{tail}")
    return done.stdout


def build(*what: str, source: Path, into: Path) -> None:
    """By the same hatchling for all, without an environment of its own."""
    run(sys.executable, "-m", "build", "--no-isolation", *what, "--outdir", into, source)


def contents(wheel: Path) -> dict[str, str]:
    """Its files and the hash of each."""
    with zipfile.ZipFile(wheel) as packed:
        return {name: hashlib.sha256(packed.read(name)).hexdigest() for name in packed.namelist()}


def build_all(temporary: Path) -> Path:
    """The wheel, made of the sdist; what is in neither. Raises Broken."""
    build("--sdist", source=ROOT, into=DIST)
    sdist = max(DIST.glob("*.tar.gz"), key=lambda path: path.stat().st_mtime)
    with tarfile.open(sdist) as packed:
        packed.extractall(temporary, filter="data")
    build("--wheel", source=temporary / sdist.name.removesuffix(".tar.gz"), into=DIST)
    wheel = max(DIST.glob("*.whl"), key=lambda path: path.stat().st_mtime)
    build("--wheel", source=ROOT, into=temporary)
    of_sdist, of_tree = contents(wheel), contents(temporary / wheel.name)
    if differ := [name for name in of_sdist.keys() | of_tree.keys()
                  if of_sdist.get(name) != of_tree.get(name)]:
        raise Broken(f"the wheel made of the sdist is another: {', '.join(sorted(differ))}")
    tracked = (run("git", "-c", "safe.directory=*", "ls-files", "ktop").split()
               if (ROOT / ".git").exists() else [])
    if missing := [name for name in tracked if name not in of_sdist and (ROOT / name).exists()]:
        raise Broken(f"not in the wheel: {', '.join(missing)}")
    if strange := [name for name in of_sdist if name.partition("/")[0] not in (
            "ktop", *(f"{wheel.stem.rsplit('-', 3)[0]}.{kind}" for kind in ("dist-info", "data")))]:
        raise Broken(f"should not be in the wheel: {', '.join(strange)}")
    return wheel


def use(wheel: Path, place: Path) -> list[str]:
    """Install it into an empty environment and run it; what was seen. Raises Broken."""
    venv.create(place / "venv", with_pip=True)
    run(place / "venv/bin/python", "-m", "pip", "install", "-q", "--disable-pip-version-check",
        wheel, cwd=place)
    ktop, seen = place / "venv/bin/ktop", []
    where = run(place / "venv/bin/python", "-c", "import ktop; print(ktop.__file__)", cwd=place)
    if not where.startswith(str(place)):
        raise Broken(f"another ktop was found: {where}")
    if missing := [name for name in INSTALLED if not (place / "venv" / name).is_file()]:
        raise Broken(f"not installed: {', '.join(missing)}")

    def does(*arguments: str | Path, says: str = "") -> str:
        out = run(ktop, *arguments, cwd=place, XDG_CONFIG_HOME=str(place / "config"))
        if says not in out:
            raise Broken(f"ktop {arguments[0]} does not say {says!r} but {out[:500]!r}")
        return out

    seen.append(does("--version", says="ktop ").strip())
    does("completions", "bash", says="_shtab_ktop")
    verdict = does("replay", ROOT / "tests/data/disk.ktop", "--diagnose", says="block ")
    seen.append(f"a recording's verdict in {len(verdict.splitlines())} lines")
    frame = json.loads(does("snapshot", "--json", "--interval", "0.5"))
    live = sum(probe["status"] == "live" for probe in frame["health"]["probes"])
    if os.geteuid() == 0 and os.environ.get("KTOP_REQUIRE_LIVE") == "1" and not live:
        raise Broken(f"root, but nothing is live: {frame['health']}")
    seen.append(f"a snapshot: {len(frame['processes']['rows'])} processes, {live} probes live")
    return seen


def main() -> int:
    """Exit status 0, or 1 with what is wrong."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ktop-dist-") as temporary:
        try:
            wheel = build_all(Path(temporary) / "build")
            print(f"{wheel.relative_to(ROOT)}: {wheel.stat().st_size >> 10} KB, "
                  f"{len(contents(wheel))} files")
            for line in use(wheel, Path(temporary)):
                print(line)
        except Broken as broken:
            print(f"make dist: {broken}", file=sys.stderr)
            return 1
    print(f"{time.monotonic() - begun:.0f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
