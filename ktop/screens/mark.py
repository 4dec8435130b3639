"""A note for this moment."""

from __future__ import annotations

from ktop import when
from ktop.screens.question import Question


class Note(Question):
    """Asks for the note of a mark. An empty one is fine: the time alone says something."""

    def __init__(self, wall_ns: int, kept: str) -> None:
        super().__init__(f"Mark {when.clock(wall_ns)}",
                         f"A note (or none). {kept}\nEnter marks, Esc closes.")
