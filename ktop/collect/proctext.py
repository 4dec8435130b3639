"""Small files of /proc, /sys and the control groups, that may be gone the next moment."""

from __future__ import annotations

import os

_CHUNK = 1 << 16


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
