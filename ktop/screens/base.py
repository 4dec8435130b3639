"""A screen above the panes that follows the frames as a pane does."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType

from ktop.driver import CalmModal
from ktop.history import History
from ktop.model import Frame
from ktop.scope import HOST, Scope


class FrameScreen(CalmModal):
    """Gets every tick while it is on top, narrowed to its own scope.

    scope: set before it is pushed. wanted_layers: those whose on-demand probes it wants (`watch`,
    as the wire calls it, is a method of Textual's). The app opens it (Shell.open_over).
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("t", "app.time_step(1)", show=False), Binding("T", "app.time_step(-1)", show=False),
        Binding("left_square_bracket", "app.time_minutes(-1)", show=False),
        Binding("right_square_bracket", "app.time_minutes(1)", show=False),
        Binding("b", "app.time_jump", show=False), Binding("0", "app.time_now", show=False)]
    scope: Scope = HOST
    wanted_layers: ClassVar[tuple[str, ...]] = ()

    def show(self, frame: Frame, history: History, host: Frame) -> None:
        """This tick, and at once on being shown: `frame` and `history` are of the scope."""
        raise NotImplementedError
