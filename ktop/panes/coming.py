"""Tabs that are not built yet: one calm screen each that says what will be there."""

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


class FilesPane(ComingPane):
    """Files: not built yet."""

    title = "Files"
    key = "2"
    what = "Who reads and writes which file, and who waits for it."
    points = ("reads and writes by file and process: rate, bytes, latency",
              "opens and failed opens with path and error",
              "the page cache: hits, misses, write-back")


class TcpPane(ComingPane):
    """TCP: not built yet."""

    title = "TCP"
    key = "3"
    what = "Every connection, who owns it and what slows it down."
    points = ("throughput, round-trip time, retransmits, windows",
              "connects and accepts with their latency; resets",
              "drops with their reason, listen queues that overflow")


class BlockPane(ComingPane):
    """Block: not built yet."""

    title = "Block"
    key = "4"
    what = "Every disk: how long requests wait, and how long the device takes."
    points = ("latency histograms of queue and device time, per device",
              "who causes the traffic: process, cgroup",
              "queue depth, merges, errors")


class DiagnosisPane(ComingPane):
    """Diagnosis: not built yet."""

    title = "Diagnosis"
    key = "6"
    layer = "diagnosis"
    what = "Which layer is the narrowest pipe right now, and what is the evidence."
    points = ("one pipe per layer: load, waiting, limit",
              "who is squeezed, and who squeezes",
              "the figures that say so, and the panes that show them")
