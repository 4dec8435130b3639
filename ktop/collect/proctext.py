"""Small files of /proc, /sys and the control groups, that may be gone the next moment."""

from __future__ import annotations

import os
import re

_CHUNK = 1 << 16
_OCTAL = re.compile(r"\\([0-7]{3})")


def read_text(path: str) -> str:
    """All of a file; empty when it cannot be read. What is no UTF-8 is spelt out."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        chunks = []
        while chunk := os.read(fd, _CHUNK):
            chunks.append(chunk)
        return b"".join(chunks).decode("utf-8", "backslashreplace")
    except OSError:
        return ""
    finally:
        os.close(fd)


def number(text: str) -> int | None:
    """A whole number as the kernel prints it; None for anything else (`²`.isdigit() is true)."""
    text = text.strip()
    digits = text.removeprefix("-")
    return int(text) if digits.isascii() and digits.isdigit() and len(digits) <= 20 else None


def read_number(path: str) -> int | None:
    """The number that a file has; None when it cannot be read or has none."""
    return number(read_text(path))


def unescaped(text: str) -> str:
    """A path as /proc/mounts spells it: blanks, line ends and backslashes are octal there."""
    return _OCTAL.sub(lambda found: chr(int(found.group(1), 8) & 255), text)


def figures(text: str, begins: tuple[str, ...] = ("",)) -> dict[str, int]:
    """The first number behind each line's first word, a colon cut off; other lines are left out.

    begins: only of lines that begin with one of these (/proc/vmstat has 190, a tick needs few).
    """
    found = {}
    for line in text.splitlines():
        if not line.startswith(begins):
            continue
        words = line.split(None, 2)
        value = number(words[1]) if len(words) > 1 else None
        if value is not None:
            found[words[0].removesuffix(":")] = value
    return found
