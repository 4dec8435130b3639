"""Memory under pressure. Conventions: ktop/model.py."""

from __future__ import annotations

from ktop.parts import Part


class Pressure(Part):
    """Reclaim, swap and PSI of the host."""
