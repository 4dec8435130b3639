"""One line to type a query into, with what could come next, and mistakes pointed at.

It is fed keys rather than given the focus: the table it is about keeps that, and a key can never
reach something else between two others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from textual import events
from textual.strip import Strip

from ktop.query import MAX_LENGTH, QueryError
from ktop.query_complete import Choice
from ktop.text import clean
from ktop.widgets.strips import Piece, StripWidget, cells, cut, printable, strip

HINT = "Enter keeps it  Esc undoes it  Tab completes  Up earlier ones"
REMEMBERED = 50


@dataclass
class Editor:
    """Text under a cursor. `past`: what was entered before, the oldest first."""

    text: str = ""
    cursor: int = 0
    past: list[str] = field(default_factory=list)
    _back: int = 0  # how far back in the past we are
    _draft: str = ""

    def set(self, text: str, cursor: int | None = None) -> None:
        """Other text; the cursor at its end unless told."""
        self.text = text[:MAX_LENGTH]
        self.cursor = len(self.text) if cursor is None else min(cursor, len(self.text))

    def insert(self, text: str) -> None:
        """Text at the cursor."""
        text = text[:MAX_LENGTH - len(self.text)]
        self.set(self.text[:self.cursor] + text + self.text[self.cursor:],
                 self.cursor + len(text))

    def cut(self, start: int, end: int) -> None:
        """Take text[start:end] out."""
        start, end = max(0, start), min(len(self.text), end)
        self.set(self.text[:start] + self.text[end:], start)

    def word_start(self) -> int:
        """Where the word before the cursor begins."""
        before = self.text[:self.cursor].rstrip()
        return before.rfind(" ") + 1

    def recall(self, step: int) -> None:
        """An earlier (1) or later (-1) entry; past the latest is what was being typed."""
        if not self._back:
            self._draft = self.text
        self._back = max(0, min(self._back + step, len(self.past)))
        self.set(self.past[-self._back] if self._back else self._draft)

    def remember(self) -> None:
        """Keep the text for `recall`."""
        text = self.text.strip()
        if text:
            self.past[:] = [*(p for p in self.past if p != text), text][-REMEMBERED:]
        self._back = 0

    def press(self, key: str) -> bool:
        """An editing key by Textual's name. False: it is none."""
        at, end = self.cursor, len(self.text)
        if key in ("left", "ctrl+b", "right", "ctrl+f", "home", "ctrl+a", "end", "ctrl+e"):
            to = {"left": at - 1, "ctrl+b": at - 1, "right": at + 1, "ctrl+f": at + 1,
                  "home": 0, "ctrl+a": 0}.get(key, end)
            self.cursor = max(0, min(to, end))
            return True
        gone = {"backspace": (at - 1, at), "ctrl+h": (at - 1, at), "delete": (at, at + 1),
                "ctrl+d": (at, at + 1), "ctrl+u": (0, at), "ctrl+k": (at, end),
                "ctrl+w": (self.word_start(), at)}.get(key)
        if gone is None:
            return False
        if gone != (-1, 0):
            self.cut(*gone)
        return True


class Prompt(StripWidget):
    """The two lines at the bottom while a query is typed.

    changed: called with the text after every change. done: called with True for Enter, with False
    for Escape. offer: what could stand at the cursor.
    """

    DEFAULT_CSS = "Prompt { dock: bottom; height: 2; width: 1fr; }"

    def __init__(self, past: list[str], changed: Callable[[str], None],
                 done: Callable[[bool], None],
                 offer: Callable[[str, int], Sequence[Choice]]) -> None:
        super().__init__()
        self.editor = Editor(past=past)
        self.error: QueryError | None = None
        self.counts = ""
        self._changed, self._done, self._offer = changed, done, offer
        self._choices: Sequence[Choice] = ()
        self._chosen: int | None = None  # by Tab
        self._base = ("", 0)  # text and cursor that the choices are for

    def open(self, text: str = "") -> None:
        """Begin, with what is in force."""
        self.editor.set(clean(text, MAX_LENGTH))
        self._edited()

    @property
    def offers(self) -> bool:
        """Whether the word at the cursor could become something else."""
        return bool(self._choices)

    # -- keys ----------------------------------------------------------------------------------

    def take(self, event: events.Key | events.Paste) -> None:
        """Whatever was typed; keys that mean nothing here do nothing."""
        if isinstance(event, events.Paste):
            self.editor.insert(clean(" ".join(event.text.split()), MAX_LENGTH))
            self._edited()
        elif event.key == "enter":
            self.editor.remember()
            self._done(True)
        elif event.key == "escape":
            self._done(False)
        elif event.key in ("tab", "shift+tab"):
            self._complete(1 if event.key == "tab" else -1)
        elif event.key in ("up", "down", "ctrl+p", "ctrl+n"):
            self.editor.recall(1 if event.key in ("up", "ctrl+p") else -1)
            self._edited()
        elif event.key in ("backspace", "ctrl+h") and not self.editor.text:
            self._done(False)
        elif self.editor.press(event.key):
            self._edited()
        elif event.is_printable and event.character:
            self.editor.insert(event.character)
            self._edited()

    def _edited(self) -> None:
        self._chosen = None
        self._base = (self.editor.text, self.editor.cursor)
        self._choices = self._offer(*self._base)
        self._changed(self.editor.text)
        self.repaint()

    def _complete(self, step: int) -> None:
        """The next of what could stand here; the only one is taken for good."""
        count = len(self._choices)
        if not count:
            return
        if self._chosen is None:
            self._chosen = 0 if step > 0 else count - 1
        else:
            self._chosen = (self._chosen + step) % count
        choice = self._choices[self._chosen]
        text, _ = self._base
        put = choice.text + (" " if count == 1 else "")
        self.editor.set(text[:choice.start] + put + text[choice.end:], choice.start + len(put))
        if count == 1:
            self._edited()
            return
        self._changed(self.editor.text)
        self.repaint()

    def show(self, error: QueryError | None, counts: str) -> None:
        """What became of the text: a mistake in it, or how many rows match."""
        self.error, self.counts = error, counts
        self.repaint()

    # -- picture -------------------------------------------------------------------------------

    def lines(self, width: int, height: int) -> list[Strip]:
        """The text, and below it what is wrong or what could come next."""
        right = f"  {self.counts} " if self.counts else " "
        room = max(4, width - 2 - len(right))
        text, cursor = printable(self.editor.text), self.editor.cursor
        start = self._first_shown(text, cursor, room - 1)
        shown = text[start:]
        before, at, after = (shown[:cursor - start], shown[cursor - start:cursor - start + 1],
                             shown[cursor - start + 1:])
        left: list[Piece] = [(" /", "accent"), (before, "strong"),
                             (at if cells(at) else " " + at, "cursor"),
                             (cut(after, room - cells(before) - max(1, cells(at))), "strong")]
        used = sum(cells(piece) for piece, _ in left)
        first = strip([*left, (" " * (width - used - len(right)), "normal"), (right, "dim")], width)
        return [first, self._below(text, start, width)]

    @staticmethod
    def _first_shown(text: str, cursor: int, room: int) -> int:
        """The first character in view, so that the cursor is."""
        start = 0
        while cells(text[start:cursor]) > room - 1:
            start += 1
        return start

    def _below(self, text: str, start: int, width: int) -> Strip:
        error = self.error
        if error is not None and not (error.unfinished and self._choices):
            place = 2 + cells(text[start:max(start, error.at)])
            message = error.message
            # to the left of the caret when there is no room at its right
            if place + 2 + cells(message) > width and place > cells(message) + 1:
                blank = " " * (place - cells(message) - 1)
                return strip([(blank, "normal"), (message, "warn"), (" ^", "bad")], width)
            return strip([(" " * min(place, width - 1), "normal"), ("^", "bad"),
                          (" " + message, "warn")], width)
        if not self._choices:
            return strip([("  " + HINT, "dim")], width)
        return self._offered(width)

    def _offered(self, width: int) -> Strip:
        """Choices from the one that Tab has reached on, and what that one is."""
        chosen = self._chosen or 0
        about = self._choices[chosen].about if self._chosen is not None else "Tab"
        room = max(10, width - min(cells(about) + 3, width // 2))
        first = 0
        while first < chosen and sum(
                cells(c.text) + 2 for c in self._choices[first:chosen + 1]) > room - 2:
            first += 1
        pieces: list[Piece] = [("  ", "normal")]
        used = 2
        for number, choice in enumerate(self._choices[first:], first):
            text = cut(choice.text, room - 4)
            if used + cells(text) + 2 > room:
                break
            pieces += [(text, "cursor" if number == self._chosen else "normal"), ("  ", "normal")]
            used += cells(text) + 2
        about = cut(about, width - used - 1)
        pieces += [(" " * (width - used - cells(about) - 1), "normal"), (about, "dim")]
        return strip(pieces, width)
