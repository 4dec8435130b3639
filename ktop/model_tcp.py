"""Rows of the TCP layer. Conventions: ktop/model.py."""

from __future__ import annotations

from ktop.parts import Part


class Tcp(Part):
    """The TCP layer."""
