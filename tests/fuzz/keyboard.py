"""Keys and window sizes to the real application, one after the other; what breaks it, and when."""

from __future__ import annotations

import asyncio
import traceback
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

from textual import events
from textual.keys import _character_to_key, _get_unicode_name_from_key
from textual.pilot import Pilot

from ktop import keymap, theme
from ktop.app import KtopApp
from ktop.panes import PANES

Step = str | tuple[int, int]  # a key as Textual names it, or columns and lines
# They end the program or stop it.
LEAVING = {"q", "f10", "ctrl+q", "ctrl+c", "ctrl+z"}
# Of Textual's own widgets, and of text fields.
OTHERS = ["up", "down", "left", "right", "home", "end", "pageup", "pagedown", "enter", "escape",
          "backspace", "delete", "tab", "shift+tab", "space", "ctrl+a", "ctrl+e", "ctrl+u",
          "ctrl+k", "ctrl+w", "f1", "f2", "f6", "x", "a", "5", ">", "(", '"', "~", "é", "数"]
TOGETHER = 4  # so many steps come before the picture has caught up


class Broken(AssertionError):
    """The application ended: after which steps, and how."""


def all_keys() -> list[str]:
    """Every key that anything in ktop is bound to, by what the program itself says."""
    import ktop.screens.columns
    import ktop.screens.compare
    import ktop.screens.detail
    import ktop.screens.detail_pane
    import ktop.screens.flame
    import ktop.screens.help
    import ktop.screens.mark
    import ktop.widgets.flame
    from ktop.app import MainScreen

    screens: list[type[Any]] = [MainScreen, *(
        found for module in (
            ktop.screens.columns, ktop.screens.compare, ktop.screens.detail,
            ktop.screens.detail_pane, ktop.screens.flame, ktop.screens.help, ktop.screens.mark,
            ktop.widgets.flame)
        for found in vars(module).values()
        if isinstance(found, type) and "BINDINGS" in vars(found))]
    known = keymap.keys_now([make() for make in PANES])
    keys = {key for names in known.values() for key in names}
    keys |= {binding.key for binding in keymap.bindings_of(screens)}
    return sorted((keys | set(OTHERS)) - LEAVING)


async def send(pilot: Pilot[Any], step: Step) -> None:
    """One step, as the terminal's driver would; without waiting for the picture."""
    app = pilot.app
    if isinstance(step, tuple):
        await pilot.resize_terminal(*step)
        return
    key = _character_to_key(step) if len(step) == 1 and not step.isalnum() else step
    try:
        char = unicodedata.lookup(_get_unicode_name_from_key(key))
    except KeyError:
        char = step if len(step) == 1 else None
    event = events.Key(key, char)
    event.set_sender(app)
    assert app._driver is not None
    app._driver.send_message(event)
    for _ in range(3):
        await asyncio.sleep(0)
    await pilot._wait_for_screen()


def picture(app: KtopApp) -> str:
    """What is on the screen. It draws every line of it, in view or behind a dialog."""
    screen = app.screen
    return "\n".join(strip.text for strip in screen._compositor.render_strips(screen.size))


async def play(make: Callable[[], KtopApp], size: tuple[int, int], steps: Sequence[Step],
               feed: Callable[[KtopApp, int], None] = lambda app, number: None) -> None:
    """Do all of it. Raises Broken with the steps so far and the traceback.

    feed: called before each step with its number: frames arrive in between.
    """
    app = make()
    done = 0
    try:
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            for number, step in enumerate(steps):
                feed(app, number)
                await send(pilot, step)
                done = number + 1
                if app._exception is not None:
                    break
                if app.return_code == 0:  # Quit in the list of commands
                    return
                assert app.return_code is None, f"it left by itself: {app.return_code}"
                if done % TOGETHER == 0 or done == len(steps):
                    await pilot.pause()
                    picture(app)
    except Exception as err:
        told = "".join(traceback.format_exception(err))
        raise Broken(f"size {size}, steps {list(steps[:done + 1])}\n{told}") from None
    finally:
        theme.use_ascii(False)


def run(make: Callable[[], KtopApp], size: tuple[int, int], steps: Sequence[Step],
        feed: Callable[[KtopApp, int], None] = lambda app, number: None) -> None:
    """`play` on a loop of its own."""
    asyncio.run(play(make, size, steps, feed))
