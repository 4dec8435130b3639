"""The config file: what is good holds, what is broken is named, writing is careful."""

from __future__ import annotations

import importlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ktop import config, config_store
from ktop.config import Columns, ConfigError

FULL = """# mine
[limits]
vda = "3000iops,125MBps"

[keys]
pause = "z"   # as in htop
"processes.threads" = ["H", "f4"]
table.end = "G"

[thresholds]
files_slow = "5ms"
block_slow = "1.5s"

[theme]
name = "contrast"

[ui]
interval = "2s"
ascii = true
mouse = false

[columns.processes-main]
order = ["rss", "cpu"]
hidden = ["majf"]
width = {command = 40}

[sort]
processes-main = "rss desc"
tcp-peers = "remote"
"""


def write(tmp_path: Path, text: str | bytes) -> Path:
    file = tmp_path / "config.toml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def test_all_of_it(tmp_path):
    found = config.load(write(tmp_path, FULL))
    assert found.complaints() == []
    assert found.limits == ("vda=3000iops,125MBps",)
    assert found.keys == {"pause": "z", "processes.threads": "H,f4", "table.end": "G"}
    assert found.thresholds == {"files_slow": 5_000_000, "block_slow": 1_500_000_000}
    assert (found.theme, found.interval_ns, found.ascii, found.mouse) == (
        "contrast", 2_000_000_000, True, False)
    assert found.columns == {"processes-main": Columns(("rss", "cpu"), ("majf",), {"command": 40})}
    assert found.sort == {"processes-main": ("rss", True), "tcp-peers": ("remote", False)}
    assert config.limits(found.file) == found.limits
    lines = FULL.splitlines()
    for key, line in found.lines.items():
        assert key.rpartition(".")[2].split("-")[0] in lines[line - 1]


def test_no_file_is_no_complaint(tmp_path):
    found = config.load(tmp_path / "none.toml")
    assert found == config.Settings(tmp_path / "none.toml")
    assert config.limits(tmp_path / "none.toml") == ()


@pytest.mark.parametrize(("text", "line", "key", "said"), [
    ('a = 1\n', 1, "a", "no such section"),
    ('[limits]\nvda = 3\n', 2, "limits.vda", "3000iops"),
    ('[limits]\nvda = "much"\n', 2, "limits.vda", "much"),
    ('limits = 3\n', 1, "limits", "expected a table"),
    ('[keys]\n\npause = 7\n', 3, "keys.pause", "expected a key"),
    ('[keys]\npause = ["x", 7]\n', 2, "keys.pause", "expected a key"),
    ('[keys]\nprocesses.threads = []\n', 2, "keys.processes.threads", "expected a key"),
    ('[thresholds]\nfiles_slow = 10\n', 2, "thresholds.files_slow", 'like "10ms"'),
    ('[thresholds]\nfile_slow = "1s"\n', 2, "thresholds.file_slow", "files_slow"),
    ('[theme]\nname = "dark"\n', 2, "theme.name", "default, mono, contrast"),
    ('[theme]\ncolor = 1\n', 2, "theme.color", "no such key"),
    ('[ui]\ninterval = "1ms"\n', 2, "ui.interval", "between 0.1s and 60s"),
    ('[ui]\nascii = "yes"\n', 2, "ui.ascii", "true or false"),
    ('[columns]\nx = 1\n', 2, "columns.x", "expected a table"),
    ('[columns.x]\nhidden = "a"\n', 1, "columns.x", "list of columns"),
    ('[columns.x]\nwidth = {a = 0}\n', 1, "columns.x", "from 1 to 200"),
    ('[columns.x]\nhide = ["a"]\n', 1, "columns.x", "no such key: hide"),
    ('[sort]\nx = "a down"\n', 2, "sort.x", "rss desc"),
    ('[[keys]]\n', 1, "keys", "expected a table")])
def test_what_is_broken_is_named_and_the_rest_holds(tmp_path, text, line, key, said):
    found = config.load(write(tmp_path, text + "\n[theme.x]\n" if "theme" in text else
                              text + '\n[theme]\nname = "mono"\n'))
    problem = found.problems[0]
    assert (problem.line, problem.key) == (line, key)
    assert said in problem.text
    assert str(found.file) in found.complaints()[0]
    assert f"line {line}: {key}: " in found.complaints()[0]
    assert "\n" not in found.complaints()[0]
    if "theme" not in text:
        assert len(found.problems) == 1
        assert found.theme == "mono"


@pytest.mark.parametrize(("text", "said"), [
    (b"[limits\n", "line 1"), (b'[theme]\nname = "mono\n', "line 2"), (b"\xff", "utf-8"),
    (b"a = 1\na = 2\n", "line 2"), (b"x" * ((1 << 20) + 1), "bigger")])
def test_a_file_that_is_no_toml_is_one_line_with_defaults(tmp_path, text, said):
    found = config.load(write(tmp_path, text))
    assert len(found.complaints()) == 1
    assert said in found.complaints()[0]
    assert "\n" not in found.complaints()[0]
    assert found.theme == "default"
    with pytest.raises(ConfigError, match=r"config\.toml"):
        config.limits(found.file)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(["[keys]", "[columns.a]", "[sort]", "[ui]", "x", "=", "1", '"a"',
                                 "[", "]", "{", "}", "\n", "'", ".", "inf", "nan", "1979-05-27",
                                 "interval", "name", "[theme]", "order", "\\", "#"]),
                max_size=16).map(" ".join))
def test_no_file_at_all_gives_a_traceback(tmp_path_factory, text):
    file = tmp_path_factory.getbasetemp() / "any.toml"
    file.write_text(text)
    assert all("\n" not in line for line in config.load(file).complaints())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root refuses")
def test_root_refuses_a_file_that_others_may_write(tmp_path):
    file = write(tmp_path, FULL)
    file.chmod(0o666)
    assert "chmod go-w" in config.load(file).complaints()[0]
    assert config.load(file).thresholds == {}
    with pytest.raises(ConfigError, match="chmod go-w"):
        config_store.save(file, {("theme", "name"): "mono"})
    assert file.read_text() == FULL


@pytest.mark.skipif(os.geteuid() != 0, reason="only root refuses")
def test_root_refuses_a_file_that_is_another_users(tmp_path, monkeypatch):
    file = write(tmp_path, FULL)
    os.chown(file, 65534, 65534)
    monkeypatch.delenv("SUDO_UID", raising=False)
    assert config.load(file).unsafe and config.load(file).thresholds == {}
    assert "it is user 65534's, and this is root" in config.load(file).complaints()[0]
    monkeypatch.setenv("SUDO_UID", "65533")
    assert config.load(file).unsafe
    monkeypatch.setenv("SUDO_UID", "65534")  # who called sudo: it is their screen
    assert config.load(file).thresholds and not config.load(file).unsafe


@pytest.mark.skipif(os.geteuid() != 0, reason="only root refuses")
@pytest.mark.parametrize(("mode", "command"), [
    (0o620, []), (0o602, ["diagnose"]), (0o666, ["config"]),
    (0o620, ["replay", "tests/data/network.ktop"]),
    (0o620, ["replay", "tests/data/network.ktop", "--diagnose"])])
def test_root_does_not_start_with_a_file_that_others_may_write(tmp_path, mode, command):
    (tmp_path / "ktop").mkdir()
    file = tmp_path / "ktop/config.toml"
    file.write_text(FULL)
    file.chmod(mode)
    env = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path)}
    env.pop("SUDO_UID", None)
    done = subprocess.run([sys.executable, "-m", "ktop", *command], env=env, capture_output=True,
                          text=True, check=False, stdin=subprocess.DEVNULL, timeout=60)
    assert done.returncode == 2
    said = done.stderr or done.stdout  # `ktop config` answers, it does not complain
    assert "group or others may write it, and this is root: chmod go-w" in said
    if command != ["config"]:
        assert said.count("\n") == 1


def test_what_is_no_file_is_no_config(tmp_path):
    os.mkfifo(tmp_path / "fifo")  # nobody writes: it must not wait for that
    for place in (tmp_path / "fifo", tmp_path):
        assert len(config.load(place).complaints()) == 1


def test_a_broken_file_says_so_on_stderr_before_the_start(tmp_path):
    (tmp_path / "ktop").mkdir()
    (tmp_path / "ktop/config.toml").write_text('[theme]\nname = "blue"\n')
    env = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path)}
    env.pop("SUDO_UID", None)
    done = subprocess.run([sys.executable, "-m", "ktop"], env=env, capture_output=True, text=True,
                          check=False, stdin=subprocess.DEVNULL)
    assert "config.toml: line 2: theme.name: no such theme" in done.stderr
    assert "Traceback" not in done.stderr


# -- writing ---------------------------------------------------------------------------------------


def test_what_is_written_is_read_and_nothing_else_is_touched(tmp_path):
    file = write(tmp_path, FULL)
    config_store.save(file, {("theme", "name"): "mono", ("sort", "files-files"): "reads desc",
                             ("columns", "tcp-peers", "hidden"): ["rtt"],
                             ("columns", "processes-main", "width"): None,
                             ("sort", "nosuch"): None})
    now = config.load(file)
    assert now.complaints() == []
    assert now.theme == "mono"
    assert now.sort["files-files"] == ("reads", True)
    assert now.columns["tcp-peers"].hidden == ("rtt",)
    assert now.columns["processes-main"] == Columns(("rss", "cpu"), ("majf",))
    kept = [line for line in FULL.splitlines() if line and not line.startswith(("name", "width"))]
    written = file.read_text().splitlines()
    assert [line for line in written if line in kept] == kept


def test_a_new_file_is_the_users_alone(tmp_path):
    file = tmp_path / "a/b/config.toml"
    config_store.save(file, {("ui", "interval"): "2s"})
    assert config.load(file).interval_ns == 2_000_000_000
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert os.listdir(file.parent) == ["config.toml"]
    file.chmod(0o640)
    config_store.save(file, {("ui", "interval"): "5s"})
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


@pytest.mark.parametrize("text", ["[broken\n", "theme = 3\n"])
def test_a_broken_file_is_left_as_it_is(tmp_path, text):
    file = write(tmp_path, text)
    with pytest.raises(ConfigError, match="not saved") as caught:
        config_store.save(file, {("theme", "name"): "mono"})
    assert "\n" not in str(caught.value)
    assert file.read_text() == text
    assert os.listdir(tmp_path) == ["config.toml"]


@pytest.mark.skipif(os.geteuid() != 0, reason="of root")
def test_root_writes_only_where_it_alone_may(tmp_path):
    real = write(tmp_path, FULL)
    link = tmp_path / "link.toml"
    link.symlink_to(real)
    with pytest.raises(ConfigError, match="symbolic link"):
        config_store.save(link, {("theme", "name"): "mono"})
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, 65534, 65534)
    with pytest.raises(ConfigError, match="others than root"):
        config_store.save(theirs / "ktop/config.toml", {("theme", "name"): "mono"})
    assert os.listdir(theirs) == []
    assert real.read_text() == FULL


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_a_user_follows_their_own_link_and_cannot_write_elsewhere(tmp_path, monkeypatch):
    """In a child that is nobody: as the UI is after sudo."""
    base = Path(f"/tmp/ktop-test-{os.getpid()}")
    home, dotfiles, foreign = base / "home", base / "dotfiles", base / "foreign"
    for place in (base, home, dotfiles, foreign):
        place.mkdir(mode=0o755)
    for place in (home, dotfiles):
        os.chown(place, 65534, 65534)
    (home / "config.toml").symlink_to(dotfiles / "ktop.toml")
    said = base / "said"
    said.touch()
    said.chmod(0o666)
    importlib.import_module("tomlkit.exceptions")  # the child may not be able to read it
    pid = os.fork()
    if not pid:
        try:
            os.setgid(65534)
            os.setuid(65534)
            config_store.save(home / "config.toml", {("theme", "name"): "mono"})
            try:
                config_store.save(foreign / "config.toml", {("theme", "name"): "mono"})
            except ConfigError as err:
                said.write_text(str(err))
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    monkeypatch.setenv("SUDO_UID", "65534")
    try:
        assert (home / "config.toml").is_symlink()
        assert config.load(dotfiles / "ktop.toml").theme == "mono"
        assert "not saved: Permission denied" in said.read_text()
        assert os.listdir(foreign) == []
    finally:
        for file in (*home.iterdir(), *dotfiles.iterdir(), said):
            file.unlink()
        for place in (home, dotfiles, foreign, base):
            place.rmdir()
