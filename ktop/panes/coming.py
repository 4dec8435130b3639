"""A tab that is not built yet: one calm screen that says what will be there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual.app import ComposeResult

from ktop.history import History
from ktop.model import Frame
from ktop.panes.base import Pane
from ktop.widgets.strips import Line, Piece


class ComingPane(Pane):
    """Says what will be here. It has nothing to show each tick."""

    what: ClassVar[str] = ""
    points: ClassVar[Iterable[str]] = ()
    DEFAULT_CSS = """
    ComingPane Line { height: 1fr; }
    """

    def compose(self) -> ComposeResult:
        """One block of text."""
        yield Line(id="coming")

    def on_mount(self) -> None:
        """The text never changes."""
        content: list[list[Piece]] = [[], [("   " + self.title, "title")], [],
                                      [("   " + self.what, "normal")], []]
        content += [[("   - ", "dim"), (point, "normal")] for point in self.points]
        content += [[], [("   Not built yet.", "dim")]]
        self.query_one("#coming", Line).set(*content)

    def show(self, frame: Frame, history: History) -> None:
        """Nothing to show."""

    def help_text(self) -> str:
        """The same text."""
        points = "\n".join(f"  - {point}" for point in self.points)
        return f"{self.title}: not built yet.\n\n{self.what}\n\n{points}"


class DiagnosisPane(ComingPane):
    """Diagnosis: not built yet."""

    title = "Diagnosis"
    key = "6"
    layer = "diagnosis"
    what = "Which layer is the narrowest pipe right now, and what is the evidence."
    points = ("one pipe per layer: load, waiting, limit",
              "who is squeezed, and who squeezes",
              "the figures that say so, and the panes that show them")
