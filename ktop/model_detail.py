"""One process in full, on request. Conventions: ktop/model.py."""

from __future__ import annotations

from ktop.parts import Part


class Detail(Part):
    """What /proc says of the process that is looked at."""

    pid: int
