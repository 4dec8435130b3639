"""Filter, find, columns, what the config keeps."""

from __future__ import annotations

from ktop.shell.base import Shell


class Finding(Shell):
    """Its keys."""
