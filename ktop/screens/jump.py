"""Where to? A time of day or an offset."""

from __future__ import annotations

from ktop import when
from ktop.screens.question import Problem, Question


class Jump(Question):
    """Asks for a time; gives back its text, which `when.parse` understands for this span."""

    def __init__(self, span: when.Span) -> None:
        day = not when.same_day(span.first_ns, span.last_ns)
        super().__init__(
            "Go to a time",
            f"From {when.clock(span.first_ns, day)} to {when.clock(span.last_ns, day)}; "
            f"here it is {when.clock(span.here_ns, day)}.\n"
            "23:47  23:47:10  2026-11-22 23:47  -10m  +30s  start  end\n"
            "Enter goes, Esc closes.", self._problem)
        self._span = span

    def _problem(self, text: str) -> Problem | None:
        try:
            when.parse(text, self._span)
        except when.WhenError as err:
            return str(err), err.at
        return None
