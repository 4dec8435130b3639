"""Rows of the files layer. Conventions: ktop/model.py."""

from __future__ import annotations

from ktop.parts import Part


class Files(Part):
    """The files layer."""
