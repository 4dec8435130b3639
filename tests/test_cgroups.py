"""Names of cgroups, and which hierarchy counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from ktop.collect.cgroups import Cgroups, find_hierarchy, name_of
from tests.frames import make_frame

ID = "0123456789abcdef" * 4
POD = "1a2b3c4d-0000-1111-2222-333344445555"


@pytest.mark.parametrize(("path", "name"), [
    ("/", "/"),
    ("/system.slice/nginx.service", "nginx.service"),
    (f"/docker/{ID}", "docker:0123456789ab"),
    (f"/system.slice/docker-{ID}.scope", "docker:0123456789ab"),
    (f"/machine.slice/libpod-{ID}.scope", "podman:0123456789ab"),
    ("/kubepods.slice/kubepods-burstable.slice/"
     f"kubepods-burstable-pod{POD.replace('-', '_')}.slice/"
     f"cri-containerd-{ID}.scope", "pod 1a2b3c4d/0123456789ab"),
    (f"/kubepods/besteffort/pod{POD}/{ID}", "pod 1a2b3c4d/0123456789ab"),
    (f"/kubepods/besteffort/pod{POD}", "pod 1a2b3c4d"),
    (f"/kubepods.slice/crio-{ID}.scope", "cri-o:0123456789ab"),
    ("/user.slice/user-1000.slice/session-2.scope", "session-2.scope"),
])
def test_names(path: str, name: str) -> None:
    assert name_of(path) == name


def test_hierarchies(tmp_path: Path) -> None:
    unified, cpu = tmp_path / "unified", tmp_path / "cpu"
    unified.mkdir()
    mounts = tmp_path / "mounts"

    def find(*lines: str, controllers: str = "") -> tuple[str, bool] | None:
        (unified / "cgroup.controllers").write_text(controllers)
        mounts.write_text("".join(line + "\n" for line in lines))
        found = find_hierarchy(str(mounts))
        return (found.root, found.v1) if found else None

    v2, v1 = f"cgroup2 {unified} cgroup2 rw 0 0", f"cgroup {cpu} cgroup rw,cpu,cpuacct 0 0"
    assert find(v2, controllers="cpu memory") == (str(unified), False)
    assert find(v2, v1, controllers="cpu") == (str(unified), False)
    assert find(v2, v1) == (str(cpu), True)
    assert find(v2) == (str(unified), False)
    assert find("proc /proc proc rw 0 0") is None


def test_sums_follow_changes() -> None:
    """Adding, changing and taking out processes leaves what a fresh sum would give."""
    rows = make_frame(seq=1, processes=200).processes.rows
    groups = Cgroups(None)
    groups.apply([(None, row) for row in rows])
    groups.apply([(row, None) for row in rows[:100]])
    groups.apply([(row, row) for row in rows[100:150]])
    found = {g.id: g for g in groups.rows({}, 0, 1)}
    left = [r for r in rows[100:] if r.cgroup is not None]
    assert sum(g.processes for g in found.values()) == len(left)
    for group in found.values():
        cpu = sum(r.cpu_pct or 0 for r in left if r.cgroup == group.id)
        assert (group.cpu_pct or 0) == pytest.approx(cpu, abs=1e-5)
    groups.apply([(row, None) for row in left])
    assert groups.rows({}, 0, 1) == []
