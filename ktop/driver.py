"""Everything that leans on Textual's inside (8.2.8), in one place: driver, screen, app base class.

What it adds to Textual's own: a slow link does not stop the loop (nothing is drawn while the last
picture is still on its way), a terminal that went away ends the app instead of making it spin,
signals end or suspend it with the terminal restored, and a storm of resizes is drawn once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import re
import select
import signal
import sys
import termios
import threading
import tty
from codecs import getincrementaldecoder
from collections.abc import Iterator
from threading import Event
from typing import Any

from rich.cells import cell_len
from rich.color import ColorSystem
from textual import constants
from textual._compositor import ChopsUpdate, LayoutUpdate
from textual._styles_cache import StylesCache
from textual._xterm_parser import XTermParser
from textual.app import App
from textual.command import CommandPalette
from textual.drivers.linux_driver import LinuxDriver
from textual.screen import ModalScreen, Screen
from textual.strip import Strip

from ktop import terminal
from ktop.cells import Cells, goto

RESIZE_QUIET_S = 0.06
RESIZE_LIMIT_S = 0.3
CLOSE_S = 1.0
# Mouse pointer shapes; kitty's key stack popped, on which we never pushed (a shell may have).
UNWANTED = ("\x1b]22;", "\x1b[<u")
# Before all is drawn anew on a terminal that somebody else wrote on: character set, scroll region,
# origin, insert mode, line wrap, style.
DRAW_RESET = "\x0f\x1b(B\x1b[r\x1b[?6l\x1b[4l\x1b[?7l\x1b[m"
SYNC_START, SYNC_END = "\x1b[?2026h", "\x1b[?2026l"

# Cached, but no @classmethod: the cache would keep the pictures of 1,024 widgets long closed.
StylesCache.get_inner_outer = classmethod(  # type: ignore[assignment]
    StylesCache.__dict__["get_inner_outer"])

_ASCII = str.maketrans({
    **dict.fromkeys("─━═╌╍┄┅┈┉╴╶╸╺▔▁⎺⎽", "-"), **dict.fromkeys("│┃║╎╏┆┇┊┋▏▕▎▌▍▐", "|"),
    **dict.fromkeys("┌┐└┘├┤┬┴┼┏┓┗┛┣┫┳┻╋╭╮╰╯╔╗╚╝╠╣╦╩╬", "+"), **dict.fromkeys("█▇▆▅▄▊▉", "#"),
    **dict.fromkeys("▃▂▀▒▓", "="), "░": ".", "…": "~", "·": ".", "•": "*", "●": "*", "→": ">",
    "←": "<", "▲": "^", "▼": "v", "▶": ">", "◀": "<", "▸": ">", "▾": "v", "µ": "u", "–": "-",
    "—": "-", "×": "x", "∞": "8", "≤": "<", "≥": ">", "❯": ">", "➤": ">", "🔎": "? ", "⌕": "?"})
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")


def to_ascii(text: str) -> str:
    """The same picture in ASCII, cell for cell: what has no likeness becomes a question mark."""
    if text.isascii():
        return text
    return _NOT_ASCII.sub(lambda match: "?" * cell_len(match.group()), text.translate(_ASCII))


class _Output:
    """What the writer thread writes to: the descriptor itself, and a count of what is under way."""

    def __init__(self, descriptor: int, ascii_only: bool) -> None:
        self._descriptor = descriptor
        self._ascii = ascii_only
        self.queued = 0  # by the loop's thread
        self.written = 0  # by the writer's
        self.gone = False

    def write(self, text: str) -> None:
        """Write all of it. A terminal that is gone takes everything."""
        data = memoryview((to_ascii(text) if self._ascii else text).encode("utf-8", "replace"))
        try:
            while data and not self.gone:
                try:
                    data = data[os.write(self._descriptor, data):]
                except BlockingIOError:  # a shell left the terminal non-blocking
                    select.select([], [self._descriptor], [], 1)
        except OSError:
            self.gone = True
        self.written += 1

    def flush(self) -> None:
        """Nothing is kept back."""

    def fileno(self) -> int:
        """The terminal."""
        return self._descriptor


class _ExitEvent(Event):
    """The event that ends the input thread, with a pipe so that it need not look at a clock."""

    def __init__(self) -> None:
        super().__init__()
        self.wake, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def set(self) -> None:
        """Set it, and wake the thread."""
        super().set()
        with contextlib.suppress(OSError):
            os.write(self._write, b"x")

    def clear(self) -> None:
        """Ready for the next thread."""
        super().clear()
        with contextlib.suppress(BlockingIOError):
            while os.read(self.wake, 64):
                pass


class KtopDriver(LinuxDriver):
    """LinuxDriver that never blocks, never spins and always leaves the terminal as it was."""

    ascii_only = False

    def __init__(self, app: App[Any], **options: Any) -> None:
        super().__init__(app, **options)
        self._output = _Output(sys.__stderr__.fileno(), self.ascii_only)  # type: ignore[union-attr]
        self._file: Any = self._output
        self.exit_event = _ExitEvent()
        self._resumed = False
        self._resize_began: float | None = None
        self._resize_timer: asyncio.TimerHandle | None = None
        loop = self._loop
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
            loop.add_signal_handler(number, self._leave, 128 + number)
        loop.add_signal_handler(signal.SIGTSTP, self._suspend)
        loop.add_signal_handler(signal.SIGCONT, self._continued)

    # -- output --------------------------------------------------------------------------------

    def write(self, data: str) -> None:
        """Queue it. When even the queue is full (never in calm drawing) drop it after a while."""
        assert self._writer_thread is not None
        if data.startswith(UNWANTED):
            return
        self._output.queued += 1
        try:
            self._writer_thread._queue.put(data, timeout=CLOSE_S)
        except queue.Full:
            self._output.queued -= 1
            self._forget()

    def _forget(self) -> None:
        """The terminal may show anything: the next picture is written as a whole."""
        if isinstance(self._app, TerminalApp):
            self._app.cells.forget()

    @property
    def busy(self) -> bool:
        """Not now: the last picture is still on its way, or a resize is."""
        return self._resize_began is not None or self._output.written < self._output.queued

    def close(self) -> None:
        """End the writer, but do not wait for a terminal that does not take its bytes."""
        thread = self._writer_thread
        if thread is None:
            return
        with contextlib.suppress(queue.Full):
            thread._queue.put(None, timeout=CLOSE_S)
        thread.join(CLOSE_S)
        if thread.is_alive():
            self._abandon(thread)
        self._output.queued = self._output.written

    def _abandon(self, thread: Any) -> None:
        """A stalled link: throw away what it has not taken, and put it right in as few bytes."""
        self._output.gone = True
        for _ in range(50):
            with contextlib.suppress(termios.error):
                termios.tcflush(self._output.fileno(), termios.TCOFLUSH)
            with contextlib.suppress(queue.Full):
                thread._queue.put_nowait(None)
            thread.join(0.02)
            if not thread.is_alive():
                break
        terminal.restore(self.attrs_before, self.fileno)

    # -- input ---------------------------------------------------------------------------------

    def run_input_thread(self) -> None:
        """Turn bytes into events until told to stop, or until the terminal is gone.

        Sleeps without a clock unless half an escape sequence is waiting for its rest (ESCDELAY).
        """
        parser = XTermParser(self._debug)
        decode = getincrementaldecoder("utf-8")("replace").decode
        wake = self.exit_event.wake  # type: ignore[attr-defined]
        while not self.exit_event.is_set():
            wait = None if parser._timeout_time is None else 0.02
            ready, _, _ = select.select([self.fileno, wake], [], [], wait)
            if self.fileno in ready:
                try:
                    data = os.read(self.fileno, 4096)
                except (BlockingIOError, InterruptedError):
                    continue
                except OSError:
                    data = b""
                if not data:
                    self._loop.call_soon_threadsafe(self._leave, 128 + signal.SIGHUP)
                    return
                for event in parser.feed(decode(data)):
                    self.process_message(event)
            for event in parser.tick():
                self.process_message(event)

    def _leave(self, status: int) -> None:
        """End the app. What follows restores the terminal as far as there is one."""
        if self._app._exit:  # told twice: something hangs, the supervisor restores the rest
            return
        self._app.exit(return_code=status)

    # -- size ----------------------------------------------------------------------------------

    def _get_terminal_size(self) -> tuple[int, int]:
        """From the terminal alone: COLUMNS and LINES in the environment do not follow a resize."""
        for descriptor in (self.fileno, self._output.fileno()):
            with contextlib.suppress(OSError):
                columns, lines = os.get_terminal_size(descriptor)
                if columns and lines:
                    return columns, lines
        return 80, 24

    def _resized(self) -> None:
        """Wait until the window keeps still, but not for ever."""
        now = self._loop.time()
        if self._resize_began is None:
            self._resize_began = now
        if self._resize_timer is not None:
            self._resize_timer.cancel()
        quiet = min(RESIZE_QUIET_S, max(0.0, self._resize_began + RESIZE_LIMIT_S - now))
        self._resize_timer = self._loop.call_later(quiet, self._resize_over)

    def _resize_over(self) -> None:
        from textual.events import Resize
        from textual.geometry import Size

        self._resize_began = self._resize_timer = None
        size = Size(*self._get_terminal_size())
        if size == self._app.size:  # back where it was, but the terminal may have garbled it
            self._forget()
            self._app.refresh(layout=True)
        self.send_message(Resize(size, size))

    def _query_in_band_window_resize(self) -> None:
        """SIGWINCH says the same everywhere."""

    def _request_terminal_sync_mode_support(self) -> None:
        """Consoles that do not parse the query print its last letter."""
        if os.environ.get("TERM", "") not in ("linux", "vt100", "vt220", "ansi"):
            super()._request_terminal_sync_mode_support()

    # -- start, stop, suspend ------------------------------------------------------------------

    def start_application_mode(self) -> None:
        """Take the terminal. In the background that has to wait for the shell's `fg`."""
        while not self._in_foreground():
            self._stop()
        setattr(constants, "DISABLE_KITTY_KEY", True)  # noqa: B010 - it is marked Final
        self._output.gone = False
        self._forget()
        super().start_application_mode()  # type: ignore[no-untyped-call]
        self._loop.add_signal_handler(signal.SIGWINCH, self._resized)

    def _suspend(self) -> None:
        """Give the terminal back and stop, until we are continued in the foreground."""
        self.suspend_application_mode()
        self._stop()
        self.start_application_mode()
        self._app.post_message(self.SignalResume())

    def _stop(self) -> None:
        # To this thread: a stop sent to the process might be taken by another a moment later.
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
        self._resumed = True

    def _in_foreground(self) -> bool:
        try:
            return os.tcgetpgrp(self.fileno) == os.getpgrp()
        except OSError:  # no terminal any more: the end of input will tell
            return True

    def _continued(self) -> None:
        """SIGCONT: somebody else may have used the terminal, so set it up and draw it all again."""
        if self._app._exit or self.attrs_before is None:
            return
        if self._resumed:
            self._resumed = False
            return  # from our own suspension: all of this has just been done
        with contextlib.suppress(termios.error):
            attributes = termios.tcgetattr(self.fileno)
            attributes[tty.LFLAG] = self._patch_lflag(attributes[tty.LFLAG])
            attributes[tty.IFLAG] = self._patch_iflag(attributes[tty.IFLAG])
            attributes[tty.CC][termios.VMIN] = 1
            termios.tcsetattr(self.fileno, termios.TCSANOW, attributes)
        self.write("\x1b[?1049h\x1b[?25l\x1b[?1004h")
        self._enable_mouse_support()
        self._enable_bracketed_paste()
        self._disable_line_wrap()
        self._forget()
        self._app.refresh(layout=True)
        self._resized()


class CalmScreen(Screen[Any]):
    """A screen that draws only when the terminal has taken the last picture; the newest wins."""

    _owes_refresh = False

    def _terminal_busy(self) -> bool:
        return bool(getattr(self.app._driver, "busy", False))

    def _on_timer_update(self) -> None:
        if self._terminal_busy() or (self._owes_refresh and self.app._batch_count):
            return  # the timer goes on, so this is asked again
        if self._owes_refresh:
            self._owes_refresh = False
            # a refresh forgets who is dirty, and some are since the one that is owed
            self._compositor.update_widgets(self._dirty_widgets)
            self._compositor_refresh()
        super()._on_timer_update()

    def _compositor_refresh(self) -> None:
        if self._terminal_busy():
            self._owes_refresh = True  # dirty regions stay noted in the compositor
            self._update_timer.resume()
            return
        super()._compositor_refresh()


class CalmModal(ModalScreen[Any], CalmScreen):
    """The same for dialogs."""


class CalmPalette(CommandPalette, CalmScreen):
    """The same for the command palette."""


Placed = tuple[int, int, Strip, int]  # column, line, strip, its cells at most


def placed(update: ChopsUpdate | LayoutUpdate) -> Iterator[Placed]:
    """The strips of an update, where they belong: what its render_segments would write."""
    if isinstance(update, LayoutUpdate):
        for y, strips in enumerate(update.strips, update.region.y):
            x = update.region.x
            for strip in strips:
                yield x, y, strip, strip.cell_length
                x += strip.cell_length
        return
    for y, x1, x2 in update.spans:
        for end, (x, chop) in zip(update.chop_ends[y], update.chops[y].items(), strict=False):
            if chop is not None and x < x2 and end > x1:
                yield x, y, chop, min(end, x2) - x


def pieces(strip: Strip, colors: ColorSystem) -> list[tuple[str, str]]:
    """(text, SGR parameters) of a strip, the parameters as Textual makes and keeps them."""
    found = []
    for text, style, _ in strip._segments:
        sgr = "" if style is None else style._ansi
        found.append((text, Strip.render_ansi(style, colors) if sgr is None else sgr))
    return found


class TerminalApp(App[None]):
    """App that writes only cells that changed, prints no tracebacks, captures nothing needless."""

    def __init__(self, ascii_only: bool = False) -> None:
        KtopDriver.ascii_only = ascii_only
        self.cells = Cells()
        self._cursor_shown_at: tuple[int, int] | None = None
        # ansi_color now and not by the theme later: NO_COLOR's filter is chosen in here
        super().__init__(driver_class=KtopDriver, ansi_color=True)
        self.animation_level = "none"

    def get_default_screen(self) -> Screen[Any]:
        """Ours."""
        return CalmScreen(id="_default")

    @property
    def terminal_busy(self) -> bool:
        """Drawing now would only queue."""
        return bool(getattr(self._driver, "busy", False))

    def _display(self, screen: Screen[Any], renderable: Any) -> None:
        """Write what differs from what the terminal shows, and nothing when nothing does."""
        shows = self._running and not self._closed and not self.is_headless and not self.is_inline
        if renderable is None or self._batch_count or not shows or self._driver is None:
            super()._display(screen, renderable)
        elif not isinstance(renderable, ChopsUpdate | LayoutUpdate):
            super()._display(screen, renderable)
            self.cells.forget()
        else:
            try:
                sequence = self._difference(screen, renderable)
            except Exception as error:
                self._handle_exception(error)
            else:
                if sequence:
                    self._driver.write(SYNC_START + sequence + SYNC_END if self._sync_available
                                       else sequence)
                    self._driver.flush()
            self.post_display_hook()

    def _difference(self, screen: Screen[Any], update: ChopsUpdate | LayoutUpdate) -> str:
        """From what the terminal shows to this picture."""
        cells = self.cells
        cells.resize(*self.size)
        start = ""
        if not cells.known:
            start = DRAW_RESET
            if isinstance(update, ChopsUpdate):  # a part is not enough
                update = screen._compositor.render_update(  # type: ignore[assignment]
                    full=True, screen_stack=self._background_screens)
        colors = self.console._color_system or ColorSystem.TRUECOLOR
        for x, y, strip, limit in placed(update):
            cells.put(x, y, pieces(strip, colors), limit)
        sequence = start + cells.update()
        cursor = screen.outer_size.clamp_offset(self.cursor_position)
        if sequence or cursor != self._cursor_shown_at:
            sequence += goto(*cursor)
        self._cursor_shown_at = self._previous_cursor_position = cursor
        return sequence

    def redraw(self) -> None:
        """Draw all of it again, whatever the terminal shows."""
        self.cells.forget()
        self.screen.refresh(layout=True)

    @property
    def failure(self) -> Exception | None:
        """What broke the app, None when nothing did."""
        return self._exception

    def panic(self, *renderables: Any) -> None:
        """End. The one line about it is written by whoever started us."""
        self._return_code = self._return_code or 1
        self._close_messages_no_wait()

    def _fatal_error(self) -> None:
        self._close_messages_no_wait()
