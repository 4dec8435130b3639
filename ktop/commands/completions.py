"""`ktop completions SHELL`: the script that completes ktop's commands and options there."""

from __future__ import annotations

import argparse
from importlib.resources import files
from typing import Any

SCRIPTS = {"bash": "ktop.bash", "zsh": "_ktop", "fish": "ktop.fish"}  # in ktop/share


def add(commands: Any) -> None:
    """The subcommand's options."""
    parser = commands.add_parser(
        "completions", help="what completes commands and options in bash, zsh or fish",
        allow_abbrev=False,
        description="Prints a script. bash: ktop completions bash > "
                    "~/.local/share/bash-completion/completions/ktop; zsh: into a file _ktop in a "
                    "directory of $fpath; fish: > ~/.config/fish/completions/ktop.fish.")
    parser.add_argument("shell", metavar="SHELL", choices=tuple(SCRIPTS),
                        help=f"{', '.join(SCRIPTS)}")


def run(args: argparse.Namespace) -> int:
    """Print it; exit status 0."""
    script = files("ktop").joinpath("share", SCRIPTS[args.shell])
    print(script.read_text(encoding="utf-8"), end="")
    return 0
