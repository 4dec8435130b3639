"""Time: rewind, replay, marks, recording from the live UI."""

from __future__ import annotations

from ktop.shell.base import Shell


class Timing(Shell):
    """Its keys."""
