"""The keys that the config gives to actions: names checked, clashes found, footer and help told."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from textual.binding import Binding
from textual.dom import DOMNode
from textual.keys import KEY_TO_UNICODE_NAME, Keys, _character_to_key, format_key

from ktop import actions
from ktop.config import Problem, Settings
from ktop.widgets.flame import Icicle
from ktop.widgets.table import VirtualTable

_ALIASES = {"esc": "escape", "pgup": "pageup", "pgdn": "pagedown", "del": "delete",
            "return": "enter", "ins": "insert", "spacebar": "space"}
_MODIFIERS = ("ctrl", "shift", "alt")
_NAMED = {key.value for key in Keys} | set(KEY_TO_UNICODE_NAME) | {
    "slash", "backslash", "at", "minus", "plus", "underscore", "comma", "colon", "semicolon",
    "apostrophe", "asterisk", "ampersand", "tilde", "space"}
_RESERVED = ("ctrl+c", "ctrl+z")
# the table's own names for what the shell does as well: one wish is for both
_TWINS = {"ktop.sort(1)": "table.sort_next", "ktop.sort(-1)": "table.sort_previous",
          "ktop.invert": "table.invert"}


def key_name(text: str) -> str | None:
    """Textual's name of a key that somebody wrote: `/`, `S`, `f5`, `Ctrl-F`, `pgup`. None: none."""
    if len(text) == 1:
        return _character_to_key(text) if text.isprintable() else None
    *modifiers, base = [part for part in re.split(r"[+-]", text) if part] or [text]
    modifiers = sorted(m.lower() for m in modifiers)
    if any(m not in _MODIFIERS for m in modifiers):
        return None
    if len(base) == 1:
        if modifiers == ["shift"] and base.isalpha():
            return base.upper()
        name = base.lower() if base.isalpha() else _character_to_key(base)
    else:
        name = _ALIASES.get(base.lower(), base.lower())
        if name not in _NAMED:
            return None
    return "+".join([*modifiers, name])


def key_shown(name: str) -> str:
    """A key as people write it."""
    *modifiers, base = name.split("+")
    short = {"escape": "Esc", "pageup": "PgUp", "pagedown": "PgDn", "delete": "Del"}
    if len(base) > 1 and base not in short:
        shown = format_key(base)
        base = shown if len(shown) == 1 and shown.isascii() else base.capitalize()
    else:
        base = short.get(base, base.upper() if modifiers else base)
    return "-".join([*(m.capitalize() for m in modifiers), base])


def slug(label: str) -> str:
    """An action's label as a name in the config: `Sort next` is sort_next."""
    return re.sub(r"\W+", "_", label.lower()).strip("_")


def action_names() -> dict[str, str]:
    """The shell's actions by the names that the config may use -> binding id."""
    found: dict[str, str] = {}
    for action in actions.ACTIONS:
        ident = f"ktop.{action.name}"
        for name in (slug(action.label), action.name, ident):
            found.setdefault(name, ident)
    return found


def bindings_of(kinds: Iterable[type[DOMNode]]) -> list[Binding]:
    """What these classes answer to, a binding for each key; inherited, too, but not Textual's."""
    return [binding for kind in kinds for base in kind.__mro__
            if base.__module__.startswith("ktop.")
            for made in base.__dict__.get("BINDINGS", ()) if isinstance(made, Binding)
            for binding in Binding.make_bindings([made])]


def keys_now(panes: Sequence[DOMNode]) -> dict[str, set[str]]:
    """Every binding that has an id, and its keys as they were made."""
    from ktop.screens.detail_pane import DetailPane
    from ktop.screens.flame import FlameScreen

    found: dict[str, set[str]] = {}
    own = [*actions.bindings(), *bindings_of([*map(type, panes), VirtualTable, DetailPane,
                                              FlameScreen, Icicle])]
    for binding in Binding.make_bindings(own):
        if binding.id:
            found.setdefault(binding.id, set()).add(binding.key)
    return found


def _same_place(one: str, other: str) -> bool:
    """Whether both can be meant by one key press.

    Panes are never in view together, and the shell's keys do not reach the screen of stacks, whose
    picture is `flame`. (The screen of one process has keys of the shell's for the same things.)
    """
    first, second = one.partition(".")[0], other.partition(".")[0]
    stacks = {"stacks", "flame"}
    if {first, second} & stacks:
        return {first, second} <= stacks
    return first == second or {first, second} & {"ktop", "table"} != set()


def _read(settings: Settings, known: dict[str, set[str]]) -> tuple[dict[str, str], list[Problem]]:
    """Wishes by binding id, keys comma-separated; what cannot be."""
    names = {**action_names(), **{ident: ident for ident in known}}
    wishes: dict[str, str] = {}
    problems: list[Problem] = []
    for name, keys in settings.keys.items():
        line = settings.lines.get(f"keys.{name}", 0)

        def complain(said: str, name: str = name, line: int = line) -> None:
            problems.append(Problem(f"keys.{name}", said, line))

        ident = names.get(name) or names.get(name.removeprefix("ktop."))
        if ident is None:
            near = get_close_matches(name, names, 2, 0.5)
            complain("no such action" + (f"; is it {' or '.join(near)}?" if near else ""))
            continue
        found = {key: key_name(key) for key in keys.split(",")}
        if broken := [key for key, made in found.items() if made is None]:
            complain(f"{broken[0]} is no key")
        elif set(found.values()) == known.get(ident, set()):
            continue  # as it is made
        elif taken := [key for key, made in found.items() if made in _RESERVED]:
            complain(f"{taken[0]} always does what it does")
        else:
            wishes[ident] = ",".join(made for made in found.values() if made)
    return wishes, problems


def keymap(settings: Settings, panes: Sequence[DOMNode]) -> tuple[list[Problem], dict[str, str]]:
    """(what is wrong in [keys], the keys for App.set_keymap); footer and help show the new ones."""
    if not settings.keys:
        return [], {}
    known = keys_now(panes)
    wishes, problems = _read(settings, known)
    names = {ident: name for name, ident in reversed(action_names().items())}
    written = {(action_names().get(name) or action_names().get(name.removeprefix("ktop."), name)):
               name for name in settings.keys}
    for ident in list(wishes):
        now = known | {other: set(keys.split(",")) for other, keys in wishes.items()}
        for key in wishes[ident].split(","):
            other = next((o for o, keys in now.items() if o != ident and key in keys
                          and _same_place(o, ident) and _TWINS.get(ident) != o), None)
            if other is not None:
                name = written.get(ident, ident)
                problems.append(Problem(
                    f"keys.{name}", f"{key_shown(key)} is {names.get(other, other)} already",
                    settings.lines.get(f"keys.{name}", 0)))
                del wishes[ident]
                break
    for ident in list(wishes):
        if ident in _TWINS:
            wishes[_TWINS[ident]] = wishes[ident]
    actions.rebind({ident.removeprefix("ktop."): " ".join(map(key_shown, keys.split(",")))
                    for ident, keys in wishes.items() if ident.startswith("ktop.")})
    return problems, wishes
