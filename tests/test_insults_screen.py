"""Insults to the screen: it is opened and closed for days, and of a host ten times too large."""

from __future__ import annotations

import gc
from collections import Counter

from textual._styles_cache import StylesCache
from textual.widget import Widget

from ktop.app import KtopApp
from tests import session
from tests.test_app import FakeSource, Stage


def held() -> Counter[str]:
    """Widgets, and what they keep of their pictures."""
    gc.collect()
    return Counter(type(o).__name__ for o in gc.get_objects()
                   if isinstance(o, Widget | StylesCache))


async def test_a_screen_that_is_closed_leaves_nothing_in_memory() -> None:
    source = FakeSource()
    app = KtopApp(lambda: source)
    async with app.run_test(size=(120, 40)) as pilot:
        stage = Stage(app, source, pilot)
        await stage.play(*session.frames()[:3])
        steps = (("question_mark", "escape"), ("C", "escape"), ("enter", "escape"),
                 ("colon", "escape"), ("S", "escape"))
        for keys in steps:
            await stage.press(*keys)
        before = held()
        for keys in steps:
            await stage.press(*keys)
        assert held() == before
