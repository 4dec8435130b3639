"""`$XDG_CONFIG_HOME/ktop/config.toml` of the invoking user, read. Written by ktop/config_store.py.

    [limits]                        what volumes and network interfaces are sold as
    vda = "3000iops,125MBps"
    eth0 = "100kpps,1Gbit/s"
    [keys]                          an action's keys: one, or a list; the names are in the help
    pause = "z"
    [thresholds]                    ktop/config_thresholds.py
    files_slow = "5ms"
    [theme]
    name = "contrast"               default, mono, contrast
    [ui]
    interval = "2s"
    ascii = true
    mouse = false
    [columns.processes-main]        of a table: order, hidden, width = {command = 40}
    hidden = ["majf"]
    [sort]
    processes-main = "rss desc"

What is broken is left out, named with its line and key, and everything else holds. Light: the
supervisor reads it before anything is drawn.
"""

from __future__ import annotations

import os
import pwd
import re
import stat
import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ktop.config_thresholds import THRESHOLDS, duration
from ktop.text import clean

MAX_BYTES = 1 << 20
THEMES = ("default", "mono", "contrast")
INTERVAL_NS = (100_000_000, 60_000_000_000)


class ConfigError(Exception):
    """What is wrong, where: one line."""


class Unsafe(ConfigError):
    """Root must not go by what others may have written."""


@dataclass(frozen=True)
class Problem:
    """Something in the file that was left out. line: 0 when it is the file as a whole."""

    key: str
    text: str
    line: int = 0

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line else ""
        return f"{where}{self.key + ': ' if self.key else ''}{self.text}"


@dataclass(frozen=True)
class Columns:
    """What is chosen of a table's columns, by their keys."""

    order: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    width: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Settings:
    """What the file says. None, or nothing: it does not say.

    keys: Textual's key names, comma-separated, by the name of the action as it was written.
    sort: column and whether from the largest, by table. thresholds: by name, in their own unit.
    lines: where each key is. unsafe: others may have written it and this is root, who goes by none
    of it and does not start.
    """

    file: Path
    limits: tuple[str, ...] = ()
    keys: Mapping[str, str] = field(default_factory=dict)
    thresholds: Mapping[str, float] = field(default_factory=dict)
    theme: str = "default"
    interval_ns: int | None = None
    ascii: bool | None = None
    mouse: bool | None = None
    columns: Mapping[str, Columns] = field(default_factory=dict)
    sort: Mapping[str, tuple[str, bool]] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    lines: Mapping[str, int] = field(default_factory=dict)
    unsafe: bool = False

    def complaints(self) -> list[str]:
        """The problems, a line each, with the file's name."""
        return [f"{clean(str(self.file), 200)}: {problem}" for problem in self.problems]


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


# -- checks ----------------------------------------------------------------------------------------
# Each takes the key (without its section) and the value; ValueError says what is wrong with it.


def _limit(device: str, value: object) -> str:
    from ktop.collect.block_limits import parse_limit

    if not isinstance(value, str):
        raise ValueError('expected text like "3000iops,125MBps"')
    try:
        parse_limit(f"{device}={value}")
    except ValueError as err:
        raise ValueError(str(err).removeprefix("--limit ")) from None
    return f"{device}={value}"


def _key(_name: str, value: object) -> str:
    keys = [key.strip() for key in (value if isinstance(value, list) else [value])
            if isinstance(key, str)]
    if not keys or not all(keys) or (isinstance(value, list) and len(keys) < len(value)):
        raise ValueError('expected a key like "f5" or a list of keys')
    return ",".join("comma" if key == "," else key for key in keys)


def _threshold(name: str, value: object) -> float:
    known = THRESHOLDS.get(name)
    if known is None:
        raise ValueError(f"no such threshold ({', '.join(THRESHOLDS)})")
    return known.check(value)


def _theme(name: str, value: object) -> str:
    if name != "name":
        raise ValueError("no such key (name)")
    if value not in THEMES:
        raise ValueError(f"no such theme ({', '.join(THEMES)})")
    return str(value)


def _ui(name: str, value: object) -> int | bool:
    if name == "interval":
        ns = duration(value)
        if not INTERVAL_NS[0] <= ns <= INTERVAL_NS[1]:
            raise ValueError("not between 0.1s and 60s")
        return ns
    if name not in ("ascii", "mouse"):
        raise ValueError("no such key (interval, ascii, mouse)")
    if not isinstance(value, bool):
        raise ValueError("expected true or false")
    return value


def _columns(_table: str, value: object) -> Columns:
    if not isinstance(value, dict):
        raise ValueError("expected a table with order, hidden or width")
    if unknown := set(value) - {"order", "hidden", "width"}:
        raise ValueError(f"no such key: {clean(sorted(unknown)[0], 40)} (order, hidden, width)")
    for name in ("order", "hidden"):
        names = value.get(name, [])
        if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
            raise ValueError(f"{name}: expected a list of columns")
    width = value.get("width", {})
    if not isinstance(width, dict) or not all(
            isinstance(n, int) and not isinstance(n, bool) and 0 < n <= 200
            for n in width.values()):
        raise ValueError("width: expected a width from 1 to 200 for each column")
    return Columns(tuple(value.get("order", ())), tuple(value.get("hidden", ())), width)


def _sort(_table: str, value: object) -> tuple[str, bool]:
    words = value.split() if isinstance(value, str) else []
    if len(words) not in (1, 2) or words[1:] not in ([], ["asc"], ["desc"]):
        raise ValueError('expected a column like "rss desc" or "command asc"')
    return words[0], words[1:] == ["desc"]


CHECKS: dict[str, Callable[[str, object], Any]] = {
    "limits": _limit, "keys": _key, "thresholds": _threshold, "theme": _theme, "ui": _ui,
    "columns": _columns, "sort": _sort}


# -- reading ---------------------------------------------------------------------------------------


def read(file: Path) -> str:
    """The file's text, "" when there is none. ConfigError when it cannot or must not be read."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a fifo hangs none
        with open(descriptor, "rb") as f:
            about = os.fstat(descriptor)
            if not stat.S_ISREG(about.st_mode):
                raise ConfigError("no ordinary file")
            if os.geteuid() == 0:
                _check_whose(about)
            data = f.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ConfigError(f"bigger than {MAX_BYTES} bytes")
        return data.decode()
    except FileNotFoundError:
        return ""
    except OSError as err:
        raise ConfigError(err.strerror or "cannot be read") from None
    except UnicodeDecodeError as err:
        raise ConfigError(clean(str(err), 200)) from None


def _check_whose(about: os.stat_result) -> None:
    """For root: the file is root's, or of who called sudo, and nobody else may write it."""
    user = os.environ.get("SUDO_UID", "")
    if about.st_uid and str(about.st_uid) != user:
        raise Unsafe(f"it is user {about.st_uid}'s, and this is root: chown it")
    if about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise Unsafe("group or others may write it, and this is root: chmod go-w")


_HEADER = re.compile(r"\s*\[+\s*([^\]#]+?)\s*\]+")
_PART = r"""(?:[\w-]+|"[^"]*"|'[^']*')"""
_ASSIGN = re.compile(rf"\s*({_PART}(?:\s*\.\s*{_PART})*)\s*=")


def find_lines(text: str) -> dict[str, int]:
    """The line of every `section.key`, from 1, as far as a look at each line can tell."""
    section, found = "", dict[str, int]()
    for number, line in enumerate(text.splitlines(), 1):
        if match := _HEADER.match(line):
            section = _bare(match[1])
            found.setdefault(section, number)
        elif match := _ASSIGN.match(line):
            key = _bare(match[1])
            found.setdefault(f"{section}.{key}" if section else key, number)
    return found


def _bare(name: str) -> str:
    return re.sub(r"\s*\.\s*", ".", name.strip()).replace('"', "").replace("'", "")


def _line(lines: Mapping[str, int], key: str) -> int:
    """Of the key, or of what it is in."""
    while key and key not in lines:
        key = key.rpartition(".")[0]
    return lines.get(key, 0)


def _entries(section: str, table: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Keys and values of a section. Names of actions have points in them."""
    if section != "keys":
        return list(table.items())
    found: list[tuple[str, Any]] = []
    for name, value in table.items():
        if isinstance(value, dict):
            found += [(f"{name}.{rest}", v) for rest, v in _entries(section, value)]
        else:
            found.append((name, value))
    return found


def go_by() -> Settings:
    """What a command goes by, read while it is still root; what is wrong in the file is told.

    Exits with status 2 where root must not go by it.
    """
    settings = load()
    for line in settings.complaints():
        print(f"ktop: {line}" if settings.unsafe else f"ktop: {line}; left out", file=sys.stderr)
    if settings.unsafe:
        raise SystemExit(2)
    return settings


def load(file: Path | None = None) -> Settings:
    """All that the file says, with what is wrong in it. Never raises."""
    file = file or path()
    try:
        text = read(file)
        tables = tomllib.loads(text)
    except ConfigError as err:
        return Settings(file, problems=(Problem("", str(err)),), unsafe=isinstance(err, Unsafe))
    except (tomllib.TOMLDecodeError, RecursionError) as err:
        return Settings(file, problems=(Problem("", clean(str(err) or "nested too deep", 200)),))
    lines = find_lines(text)
    problems: list[Problem] = []
    good: dict[str, dict[str, Any]] = {section: {} for section in CHECKS}

    def complain(key: str, said: str) -> None:
        problems.append(Problem(clean(key, 80), clean(said, 200), _line(lines, key)))

    for section, table in tables.items():
        if section not in CHECKS:
            complain(section, f"no such section ({', '.join(CHECKS)})")
        elif not isinstance(table, dict):
            complain(section, "expected a table")
        else:
            for name, value in _entries(section, table):
                try:
                    good[section][name] = CHECKS[section](name, value)
                except ValueError as err:
                    complain(f"{section}.{name}", str(err))
    return Settings(
        file, tuple(good["limits"].values()), good["keys"], good["thresholds"],
        good["theme"].get("name", "default"), good["ui"].get("interval"), good["ui"].get("ascii"),
        good["ui"].get("mouse"), good["columns"], good["sort"], tuple(problems), lines)


def limits(file: Path | None = None) -> tuple[str, ...]:
    """Volumes' limits in the form that --limit has. ConfigError names file, line and key."""
    settings = load(file)
    for problem, line in zip(settings.problems, settings.complaints(), strict=True):
        if not problem.key or problem.key.partition(".")[0] == "limits":
            raise ConfigError(line)
    return settings.limits
