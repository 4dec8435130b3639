"""The config file: read, refused with one line that names file and key."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ktop import config


def test_limits(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('[limits]\nvda = "3000iops,125MBps"\nsdb = "500iops"\n')
    assert config.limits(file) == ("vda=3000iops,125MBps", "sdb=500iops")
    assert config.limits(tmp_path / "none") == ()


@pytest.mark.parametrize(("text", "said"), [
    (b"[limits\n", "line 1"), (b"limits = 3\n", "limits: expected a table"),
    (b"[limits]\nvda = 3\n", "limits.vda"), (b'[limits]\nvda = "much"\n', "vda=much"),
    (b"\xff", "utf-8")])
def test_a_broken_file_is_one_line(tmp_path: Path, text: bytes, said: str) -> None:
    file = tmp_path / "config.toml"
    file.write_bytes(text)
    with pytest.raises(config.ConfigError) as caught:
        config.limits(file)
    assert said in str(caught.value) and str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root refuses")
def test_root_refuses_a_file_that_others_may_write(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("")
    file.chmod(0o666)
    with pytest.raises(config.ConfigError, match="chmod go-w"):
        config.limits(file)
