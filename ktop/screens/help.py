"""Dialogs: so far the help."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widgets import Static

from ktop import theme
from ktop.actions import ACTIONS
from ktop.driver import CalmModal
from ktop.query import HELP

KeyLine = tuple[str, str]


def help_page(title: str, about: str, pane_keys: Sequence[KeyLine], notes: Sequence[str],
              everywhere: bool = True) -> Text:
    """The whole help as plain text with styles; nothing in it is markup.

    everywhere: the panes' keys hold here too; a screen above them has its own.
    """
    page = Text()

    def heading(text: str) -> None:
        page.append(f"\n{text}\n" if page else f"{text}\n", theme.style("title"))

    def table(lines: Sequence[KeyLine]) -> None:
        for key, text in lines:
            page.append(f"  {key:<14}", theme.style("accent"))
            page.append(f"{text}\n")

    page.append(f"{title}: keys, and below them what the figures mean\n", theme.style("dim"))
    if pane_keys:
        heading(f"Keys in {title}")
        table(pane_keys)
    if everywhere:
        heading("Keys everywhere")
        table([("1-6", "Show a pane by its number.")]
              + [(action.shown, action.about) for action in ACTIONS
                 if not action.name.startswith("pane(")])
    heading("What / understands")
    page.append(HELP + "\n")
    heading(title)
    page.append(about.strip() + "\n")
    if notes:
        heading("What the figures rest on")
        for note in notes:
            page.append(f"  {note}\n")
    page.append("\n? or Esc closes this.", theme.style("dim"))
    return page


class Help(CalmModal):
    """What the pane shows, and all keys."""

    CSS = """
    Help { align: center middle; background: transparent; }
    Help > VerticalScroll {
        width: 100%; max-width: 84; height: 100%; max-height: 48;
        border: round $secondary; background: ansi_default;
        scrollbar-size-vertical: 1;
    }
    Help Static { width: 1fr; height: auto; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,question_mark,f1,h,q,enter,space", "close", "Close", key_display="Esc"),
        Binding("j", "scroll(1)", show=False), Binding("k", "scroll(-1)", show=False),
        Binding("f10", "app.quit", "Quit", show=False),
        Binding("tab,shift+tab", "nothing", show=False)]

    def __init__(self, page: Text) -> None:
        super().__init__()
        self.page = page

    def compose(self) -> ComposeResult:
        """A box that scrolls."""
        with VerticalScroll():
            yield Static(self.page, markup=False)

    def on_mount(self) -> None:
        """The arrow keys scroll it."""
        self.query_one(VerticalScroll).focus()

    def action_close(self) -> None:
        """Back to the pane."""
        self.dismiss()

    def action_nothing(self) -> None:
        """Panes do not change below a dialog."""

    def action_scroll(self, lines: int) -> None:
        """By line."""
        self.query_one(VerticalScroll).scroll_relative(y=lines, animate=False)
