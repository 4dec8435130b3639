"""`$XDG_CONFIG_HOME/ktop/config.toml` of the invoking user. So far: what volumes are sold as.

    [limits]
    vda = "3000iops,125MBps"
"""

from __future__ import annotations

import os
import pwd
import stat
import tomllib
from pathlib import Path
from typing import Any

from ktop.text import clean

MAX_BYTES = 1 << 20


class ConfigError(Exception):
    """What is wrong, where: one line."""


def path() -> Path:
    """The file's place: under sudo it is the invoking user's."""
    user = os.environ.get("SUDO_UID", "") if os.geteuid() == 0 else ""
    if user.isdigit():
        try:
            return Path(pwd.getpwuid(int(user)).pw_dir) / ".config/ktop/config.toml"
        except KeyError:
            pass
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return Path(base) / "ktop/config.toml"


def _read(file: Path) -> dict[str, Any]:
    try:
        with open(file, "rb") as f:
            if os.geteuid() == 0 and os.fstat(f.fileno()).st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise ConfigError("group or others may write it, and this is root: chmod go-w")
            return tomllib.loads(f.read(MAX_BYTES).decode())
    except FileNotFoundError:
        return {}
    except OSError as err:
        raise ConfigError(err.strerror or "cannot be read") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        raise ConfigError(clean(str(err), 200)) from None


def limits(file: Path | None = None) -> tuple[str, ...]:
    """Volumes' limits in the form that --limit has. ConfigError names file and key."""
    from ktop.collect.block_limits import parse_limit

    file = file or path()
    try:
        table = _read(file).get("limits", {})
        if not isinstance(table, dict):
            raise ConfigError("limits: expected a table")
        found = []
        for device, value in table.items():
            if not isinstance(value, str):
                raise ConfigError(f"limits.{clean(device, 64)}: expected text like '3000iops'")
            try:
                parse_limit(f"{device}={value}")
            except ValueError as err:
                raise ConfigError(str(err).replace("--limit ", "limits: ", 1)) from None
            found.append(f"{device}={value}")
    except ConfigError as err:
        raise ConfigError(f"{clean(str(file), 200)}: {err}") from None
    return tuple(found)
