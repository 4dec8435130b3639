"""The palette and the glyphs: the one place that knows what good, bad and hot look like.

Styles use the 16 ANSI colours' normal half only (bright ones are lost on the Linux console), and
attributes (bold, dim, underline, reverse) carry every meaning that a colour carries, so that the
picture reads the same with NO_COLOR. `use_ascii` and `use_color` are called once, at the start;
`use_theme` also later: everything that is drawn has to be drawn again then.

Themes: `default`, the terminal's own colours; `mono`, no colour at all; `contrast`, nothing dim and
nothing blue, what alarms on a ground of its own.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from rich.style import Style

THEMES = ("default", "mono", "contrast")  # as in ktop/config.py, which must stay light
THEME = "ansi-dark"  # Textual's theme whose colours are the terminal's own


@dataclass(frozen=True)
class Glyphs:
    """Every character that is drawn and is not data. `eighths` and `shades` go from empty to full.

    bar: a full cell. mark: points at a row. up, down: sort direction. more_left, more_right:
    columns beyond the edge. branch, last: a child's line in a tree. stack: cells of a stacked bar.
    idle, gap, flag: in the timeline, nothing held up, nothing measured, a mark of the user's.
    states: cells of a bar of thread states, told apart without colour.
    """

    ascii: bool
    bar: str
    eighths: str
    levels: str
    shades: str
    rule: str
    pipe: str
    tick: str
    mark: str
    point: str
    up: str
    down: str
    more_left: str
    more_right: str
    branch: str
    last: str
    ellipsis: str
    times: str
    dot: str
    stack: dict[str, str]
    idle: str
    gap: str
    flag: str
    states: dict[str, str]


# of thread states: letters say what they stand for
_LETTERS = {"disk": "D", "uninterruptible": "U", "io": "i", "network": "n", "lock": "L",
            "stopped": "T", "other": "?"}
UNICODE = Glyphs(
    ascii=False, bar="█", eighths=" ▏▎▍▌▋▊▉█", levels="▁▂▃▄▅▆▇█", shades=" ░░▒▒▓▓██", rule="─",
    pipe="│", tick="┴", mark="▸", point="◂", up="▲", down="▼", more_left="‹", more_right="›",
    branch="├╴", last="└╴", ellipsis="…", times="×", dot="·",
    stack={"user": "█", "nice": "▇", "system": "▓", "irq": "i", "softirq": "f", "iowait": "░",
           "steal": "x"},
    idle="·", gap="┊", flag="◆", states={"cpu": "█", "runq": "▒", **_LETTERS, "sleep": "·"})
ASCII = Glyphs(
    ascii=True, bar="#", eighths="  ......##", levels=".,:;-=+#", shades=" .:-=+*#%@",
    rule="-", pipe="|", tick="+", mark=">", point="<", up="^", down="v", more_left="<",
    more_right=">", branch="|-", last="`-", ellipsis="~", times="x", dot=".",
    stack={"user": "U", "nice": "N", "system": "S", "irq": "i", "softirq": "f", "iowait": "w",
           "steal": "x"},
    idle="_", gap="|", flag="*", states={"cpu": "#", "runq": "=", **_LETTERS, "sleep": "."})

# name: (foreground, attributes)
_PALETTE: dict[str, tuple[str | None, str]] = {
    "normal": (None, ""),
    "strong": (None, "bold"),
    "dim": (None, "dim"),
    "title": ("cyan", "bold"),
    "rule": (None, "dim"),
    "header": (None, "bold"),
    "sorted": ("cyan", "bold underline"),
    "good": ("green", ""),
    "warn": ("yellow", "bold"),
    "bad": ("red", "bold underline"),
    "accent": ("cyan", ""),
    "cursor": (None, "reverse"),
    "bar": ("cyan", ""),
    "bar.mark": ("yellow", "bold"),
    "user": ("green", ""),
    "nice": ("blue", ""),
    "system": ("cyan", ""),
    "irq": ("yellow", ""),
    "softirq": ("yellow", ""),
    "iowait": ("magenta", ""),
    "steal": ("red", "bold"),
    "state.cpu": ("green", ""),
    "state.runq": ("yellow", "bold"),
    "state.disk": ("magenta", "bold"),
    "state.uninterruptible": ("red", "bold"),
    "state.io": ("magenta", ""),
    "state.network": ("cyan", ""),
    "state.lock": ("blue", "bold"),
    "state.sleep": (None, "dim"),
    "state.stopped": ("yellow", ""),
    "state.other": (None, ""),
    # one per shade, from rare to frequent; the shade alone already says the order. No red: what
    # is frequent is not bad
    "heat0": (None, ""),
    "heat1": ("blue", ""),
    "heat2": ("blue", ""),
    "heat3": ("blue", ""),
    "heat4": ("cyan", ""),
    "heat5": ("cyan", ""),
    "heat6": ("cyan", ""),
    "heat7": ("cyan", ""),
    "heat8": ("green", ""),
    # walls of the pipes: how thick they are says it too
    "pipe.free": (None, "dim"),
    "pipe.some": ("cyan", ""),
    "pipe.tight": ("yellow", "bold"),
    "pipe.worst": ("red", "bold"),
    # boxes of an icicle; filled, so that widths are seen at a glance
    "flame.top": (None, "reverse"),
    "flame.user": ("green", "reverse"),
    "flame.kernel": ("cyan", "reverse"),
    "flame.unknown": ("blue", "reverse"),
    "flame.match": ("yellow", "reverse bold"),
    "flame.cursor": (None, "bold"),
}
HEAT_LEVELS = 9
_CONTRAST: dict[str, tuple[str | None, str]] = {
    "title": (None, "bold underline"),
    "header": (None, "bold underline"),
    "sorted": (None, "bold reverse"),
    "good": ("green", "bold"),
    "warn": ("yellow", "bold reverse"),
    "bad": ("red", "bold underline reverse"),
    "accent": (None, "bold"),
    "bar": (None, "bold"),
}


def _contrasted(name: str, fg: str | None, attributes: str) -> tuple[str | None, str]:
    """A style as it is in `contrast`: dim is hard to read, and so is blue on black."""
    if name in _CONTRAST:
        return _CONTRAST[name]
    return {"blue": "cyan"}.get(fg or "", fg), attributes.replace("dim", "")


def _build(color: bool, theme: str = "default") -> dict[str, Style]:
    palette = _PALETTE
    if theme == "contrast":
        palette = {name: _contrasted(name, *style) for name, style in _PALETTE.items()}
    return {name: Style.parse(f"{attributes} {(fg or '') if color else ''}".strip() or "none")
            for name, (fg, attributes) in palette.items()}


class _Current:
    """What is in force in this process. wanted: colour, where the theme has any. look: another
    object whenever styles or glyphs are others."""

    glyphs: Glyphs = UNICODE
    theme: str = "default"
    wanted: bool = "NO_COLOR" not in os.environ
    styles: dict[str, Style] = _build(wanted)
    look: object = object()


def use_ascii(on: bool) -> None:
    """Draw with ASCII characters only, for locales and terminals that know no others."""
    _Current.glyphs = ASCII if on else UNICODE
    _Current.look = object()


def use_color(on: bool) -> None:
    """False: no colour at all, attributes stay (https://no-color.org)."""
    _Current.wanted = on
    _Current.styles = _build(color_on(), _Current.theme)
    _Current.look = object()


def use_theme(name: str) -> None:
    """One of THEMES; an unknown name is a KeyError."""
    if name not in THEMES:
        raise KeyError(name)
    _Current.theme = name
    _Current.styles = _build(color_on(), name)
    _Current.look = object()


def current() -> str:
    """The name of the theme in force."""
    return _Current.theme


def textual_themes() -> list[Any]:
    """The same for what Textual itself draws: borders, scrollbars, text fields. First the default.

    Their names are THEME, and for the others `ktop-` and the theme's.
    """
    from dataclasses import replace as changed

    from textual.theme import BUILTIN_THEMES

    plain = BUILTIN_THEMES[THEME]
    grey: dict[str, Any] = dict.fromkeys(
        ("primary", "secondary", "warning", "error", "success", "accent"), "ansi_default")
    variables = {**plain.variables, "input-selection-background": "ansi_white",
                 "screen-selection-background": "ansi_white", "input-cursor-foreground":
                 "ansi_white", "border-blurred": "ansi_default"}
    return [plain, *(changed(plain, name=f"ktop-{name}", variables=variables, **grey)
                     for name in THEMES[1:])]


def glyphs() -> Glyphs:
    """The glyphs in force."""
    return _Current.glyphs


def style(name: str) -> Style:
    """The style of a semantic name; an unknown name is a KeyError."""
    return _Current.styles[name]


def look() -> object:
    """Of the styles and glyphs in force: another object when these are others."""
    return _Current.look


def color_on() -> bool:
    """Whether colours are in force."""
    return _Current.wanted and _Current.theme != "mono"


def load(value: float | None, warn: float, bad: float, quiet: float = 0.05) -> str:
    """Style name for a figure: dim when unknown or under `quiet`, then normal, warn, bad."""
    if value is None or value < quiet:
        return "dim"
    if value >= bad:
        return "bad"
    return "warn" if value >= warn else "normal"
