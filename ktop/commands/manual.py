"""`ktop manual`: ktop(1), for where it is not installed among the others."""

from __future__ import annotations

import argparse
from importlib.resources import files
from typing import Any

PAGE = "ktop.1"  # in ktop/share


def add(commands: Any) -> None:
    """The subcommand's options: none."""
    commands.add_parser("manual", help="the manual page, for: ktop manual | man -l -",
                        allow_abbrev=False)


def run(args: argparse.Namespace) -> int:
    """Print it; exit status 0."""
    print(files("ktop").joinpath("share", PAGE).read_text(encoding="utf-8"), end="")
    return 0
