"""`ktop config`: where the file is, what is wrong in it, and what it may say."""

from __future__ import annotations

import argparse
import json
from typing import Any


def add(commands: Any) -> None:
    """The subcommand's options."""
    parser = commands.add_parser(
        "config", help="where the config file is, whether it is good, what it may say",
        allow_abbrev=False)
    parser.add_argument("--path", action="store_true", help="print the file's place and no more")


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # the same in TOML


def everything() -> list[str]:
    """A config file with all that it may say, commented out, as far as ktop knows it beforehand."""
    from ktop.config import THEMES
    from ktop.config_thresholds import THRESHOLDS
    from ktop.keymap import action_names, keys_now
    from ktop.panes import PANES

    lines = ["[limits]                        # what volumes are sold as",
             '# vda = "3000iops,125MBps"', "", "[thresholds]"]
    lines += [f"# {name} = {known.example}{' ' * max(1, 18 - len(name))}# {known.about}"
              for name, known in THRESHOLDS.items()]
    lines += ["", "[theme]", f"# name = {_quoted(THEMES[0])}{' ' * 11}# {', '.join(THEMES)}", "",
              "[ui]", '# interval = "1s"', "# ascii = true", "# mouse = false", "",
              "[keys]                          # one key, or a list"]
    known = keys_now([kind() for kind in PANES])
    names: dict[str, str] = {}
    for name, ident in action_names().items():
        names.setdefault(ident, name)
    for ident, keys in known.items():
        shown = sorted(keys)
        value = _quoted(shown[0]) if len(shown) == 1 else f"[{', '.join(map(_quoted, shown))}]"
        name = names.get(ident, ident)
        lines.append(f"# {name if name.replace('_', '').isalnum() else _quoted(name)} = {value}")
    lines += ["", "# columns and sorting are written by the UI (C, < >), by table:",
              "# [columns.processes-main]", '# hidden = ["majf"]', "# width = {command = 40}",
              '# order = ["rss", "cpu"]', "# [sort]", '# processes-main = "rss desc"']
    return lines


def run(args: argparse.Namespace) -> int:
    """Exit status 0, or 2 when something in the file is wrong."""
    from ktop import config

    settings = config.load()
    if args.path:
        print(settings.file)
        return 0
    from dataclasses import replace

    from ktop.keymap import keymap
    from ktop.panes import PANES

    problems, _ = keymap(settings, [kind() for kind in PANES])
    settings = replace(settings, problems=(*settings.problems, *problems))
    print(f"# {settings.file}" + ("" if settings.file.exists() else " (there is none)"))
    for line in settings.complaints():
        print(f"# wrong: {line.removeprefix(str(settings.file) + ': ')}")
    print("\n".join(everything()))
    return 2 if settings.problems else 0
