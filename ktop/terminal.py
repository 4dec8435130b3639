"""The terminal without Textual: may we use it, what can it show, how is it put right again.

Only cheap imports here: the supervisor needs this before anything else is there.
"""

from __future__ import annotations

import contextlib
import os
import signal
import termios
from typing import Any

# Everything that the UI, or a library under it, may have switched on. The kitty keyboard stack is
# kept per screen, so popping it comes before leaving the alternate one. Each is harmless when
# nothing was on: 1049l brings the cursor back to where it was saved.
RESET = (
    "\x18"  # CAN ends a sequence that was cut off half-way
    "\x1b[?2026l"  # synchronized output: nothing shows while it is on
    "\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?1015l\x1b[?1016l"  # mouse
    "\x1b[?2004l\x1b[?1004l\x1b[?2048l"  # bracketed paste, focus reports, in-band resize
    "\x1b[<u"  # kitty keyboard
    "\x1b[?7h\x1b[0m"  # line wrap on, plain text
    "\x1b[?1049l\x1b[?25h"  # main screen, cursor visible
)
WRITE_LIMIT_S = 2


def refusal() -> str | None:
    """Why the live UI cannot run on this terminal, or None when it can."""
    for descriptor, name in ((0, "standard input"), (1, "standard output")):
        if not os.isatty(descriptor):
            return f"{name} is not a terminal (for scripts: ktop snapshot --json)"
    term = os.environ.get("TERM", "")
    if term in ("", "dumb", "unknown"):
        return f"TERM={term or '(unset)'}: this terminal cannot show a full-screen program"
    return None


def _initial_environment() -> dict[str, str]:
    """The environment as it was given to us.

    Python itself sets LC_CTYPE=C.UTF-8 when it starts in the C locale (PEP 538), whatever the
    terminal understands, so os.environ does not tell.
    """
    try:
        with open("/proc/self/environ", "rb") as file:
            raw = file.read()
    except OSError:
        return dict(os.environ)
    pairs = (entry.partition(b"=") for entry in raw.split(b"\0") if entry)
    return {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}


def ascii_only(environment: dict[str, str] | None = None) -> bool:
    """True when the locale does not promise UTF-8."""
    variables = _initial_environment() if environment is None else environment
    for name in ("LC_ALL", "LC_CTYPE", "LANG"):
        if value := variables.get(name):
            return "utf8" not in value.lower().replace("-", "")
    return True


def mouse_wanted(asked: bool | None) -> bool:
    """Mouse reports flood a slow link, so over SSH they are off unless asked for."""
    if asked is not None:
        return asked
    return not (os.environ.get("SSH_CONNECTION") or os.environ.get("SSH_TTY"))


def attributes(descriptor: int = 0) -> list[Any] | None:
    """The terminal's settings, None when there is no terminal (any more)."""
    try:
        return termios.tcgetattr(descriptor)
    except termios.error:
        return None


def restore(saved: list[Any] | None, descriptor: int = 0) -> None:
    """Put the terminal right after a UI that could not do it itself.

    A terminal that does not take output (a stalled link) must not hold us: an alarm ends the wait.
    """
    def give_up(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, WRITE_LIMIT_S)
    try:
        with contextlib.suppress(termios.error):
            if saved is not None:
                # What was typed at a UI that is gone is not meant for the shell.
                termios.tcflush(descriptor, termios.TCIFLUSH)
                termios.tcsetattr(descriptor, termios.TCSANOW, saved)
        with contextlib.suppress(termios.error):
            # Half a picture that a stalled link has not taken would be in the way for ever.
            termios.tcflush(1, termios.TCOFLUSH)
        data = RESET.encode()
        with contextlib.suppress(OSError):  # TimeoutError is one of them
            while data:
                data = data[os.write(1, data):]
    except TimeoutError:
        pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
