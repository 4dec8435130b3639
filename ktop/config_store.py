"""What the user chose in the UI, written into the config file: nothing else in it is touched.

Runs as the invoking user. tomlkit keeps comments, order and what ktop does not know; it is imported
when there is something to write, not before.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ktop import config
from ktop.config import ConfigError
from ktop.text import clean

# (section, key...) -> value; None takes the key out
Changes = Mapping[tuple[str, ...], Any]


def save(file: Path, changes: Changes) -> None:
    """Write the changes into the file, made when it is not there. ConfigError: one line why not."""
    try:
        target = _target(file)
        text = changed(config.read(target), changes)
        _replace(target, text.encode())
    except OSError as err:
        raise ConfigError(f"not saved: {err.strerror or type(err).__name__} "
                          f"({clean(str(file), 200)})") from None
    except ConfigError as err:
        raise ConfigError(f"not saved: {err} ({clean(str(file), 200)})") from None


def changed(text: str, changes: Changes) -> str:
    """The text of a config file with these changes. ConfigError when it is no TOML."""
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        document = tomlkit.parse(text)
        for where, value in changes.items():
            _put(document, where, value)
        return tomlkit.dumps(document)
    except TOMLKitError as err:
        raise ConfigError(clean(str(err), 200)) from None


def _put(document: Any, where: tuple[str, ...], value: Any) -> None:
    import tomlkit

    *sections, key = where
    table = document
    for number, name in enumerate(sections):
        if name not in table:
            if value is None:
                return
            # `[columns]` by itself would only be a line between two others
            table[name] = tomlkit.table(is_super_table=number + 1 < len(sections))
        table = table[name]
        if not isinstance(table, dict):
            raise ConfigError(f"{'.'.join(sections[:number + 1])} is no table")
    if value is None:
        table.pop(key, None)
    elif isinstance(value, dict):
        inline = tomlkit.inline_table()
        inline.update(value)
        table[key] = inline
    elif table.get(key) != value:
        table[key] = value


def _target(file: Path) -> Path:
    """Where to write: a user's own links are followed, root's into other people's places are not.

    Who may change the directory decides where the file goes, so root writes only where it alone
    may.
    """
    if os.geteuid() != 0:
        return Path(os.path.realpath(file))
    if file.is_symlink():
        raise ConfigError("it is a symbolic link, and this is root")
    folder = file.parent
    while not folder.exists():
        folder = folder.parent
    for place in (folder, *folder.resolve().parents):
        about = os.stat(place)
        open_to_all = about.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if about.st_uid != 0 or (open_to_all and not about.st_mode & stat.S_ISVTX):
            raise ConfigError(f"others than root may change {clean(str(place), 100)}")
    return file


def _replace(file: Path, data: bytes) -> None:
    """Write beside it and rename: there is never half a file. A new one is the user's alone."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        mode = stat.S_IMODE(os.stat(file).st_mode)
    except FileNotFoundError:
        mode = 0o600
    beside = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(beside, flags, 0o600)
    try:
        with open(descriptor, "wb") as f:
            f.write(data)
            f.flush()
            os.fchmod(f.fileno(), mode)
            os.fsync(f.fileno())
        os.replace(beside, file)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise
