"""Rows of the block layer. Conventions: ktop/model.py."""

from __future__ import annotations

from ktop.parts import Part


class Block(Part):
    """The block layer."""
