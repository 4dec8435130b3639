"""A small dialog with one line to fill in, and an error that points at the character."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import Input, Static

from ktop import theme
from ktop.driver import CalmModal
from ktop.widgets.strips import cells, cut

Problem = tuple[str, int]  # what is wrong, at which character


class Question(CalmModal):
    """Asks for a line of text; gives it back when `check` finds nothing wrong, None on Escape."""

    DEFAULT_CSS = """
    Question { align: center middle; background: transparent; }
    Question > Vertical {
        width: 64; max-width: 100%; height: auto; padding: 0 1;
        border: round $secondary; background: ansi_default;
    }
    Question Static { width: 1fr; height: auto; }
    Question Input, Question Input:focus {
        width: 1fr; height: 1; border: none; padding: 0; background: ansi_default;
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "cancel", "Close", key_display="Esc"),
        Binding("f10", "app.quit", "Quit", show=False),
        Binding("tab,shift+tab", "nothing", show=False)]
    LIMIT = 200  # characters

    def __init__(self, title: str, hint: str,
                 check: Callable[[str], Problem | None] = lambda _: None) -> None:
        super().__init__()
        self._title, self._hint, self._check = title, hint, check

    def compose(self) -> ComposeResult:
        """Title, the line, what is wrong with it, what may be typed."""
        with Vertical():
            yield Static(Text(self._title, theme.style("title")))
            field = Input(max_length=self.LIMIT, id="answer", select_on_focus=False)
            field.cursor_blink = False
            yield field
            yield Static(id="problem")
            yield Static(Text(self._hint, theme.style("dim")))

    def on_mount(self) -> None:
        """Ready to type."""
        self.query_one(Input).focus()
        self._say(None)

    def _say(self, problem: Problem | None) -> None:
        line = self.query_one("#problem", Static)
        if problem is None:
            line.update("")
            return
        text, at = problem
        room = max(10, line.size.width or 60)
        before = cells(self.query_one(Input).value[:at])
        lead = " " * min(before, max(0, room - 1)) + theme.glyphs().up
        said = (f"{lead} {text}" if len(lead) + len(text) < room
                else f"{lead}\n{cut(text, room)}")
        line.update(Text(said, theme.style("bad")))

    def on_input_changed(self, _message: Input.Changed) -> None:
        """What was wrong is being mended."""
        self._say(None)

    def on_input_submitted(self, message: Input.Submitted) -> None:
        """Enter."""
        message.stop()
        problem = self._check(message.value)
        if problem is None:
            self.dismiss(message.value)
        else:
            self._say(problem)

    def action_cancel(self) -> None:
        """Back, and nothing happens."""
        self.dismiss(None)

    def action_nothing(self) -> None:
        """Panes do not change below a dialog."""
