"""`ktop collect`: the collector between standard input and output, for a ktop elsewhere."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

USAGE_ERROR = 2


def add(commands: Any) -> None:
    """The options."""
    from ktop.cli import sampling
    from ktop.commands.record import layers

    parser = commands.add_parser(
        "collect", help="frames as a stream on standard output, for a ktop elsewhere",
        allow_abbrev=False,
        description="What ktop --host runs at the other end of ssh. Also for pipes: "
                    "ssh HOST ktop collect | ktop replay -. Ends when standard input ends.")
    parser.add_argument("--watch", type=layers, default=(), metavar="A,B",
                        help="layers whose probes on demand are attached from the start")
    parser.add_argument("--packed", action="store_true",
                        help="compressed, and no more on its way than the reader keeps up with: "
                             "for a reader that answers, as ktop --host does")
    sampling(parser, again=True)


def run(args: argparse.Namespace) -> int:
    """Collect until standard input ends; the exit status."""
    if os.isatty(1):
        print("ktop collect: this writes binary frames, not for a terminal: ktop --host HOST shows "
              "them, and so does ktop collect | ktop replay -", file=sys.stderr)
        return USAGE_ERROR
    from ktop.collect.main import Options
    from ktop.remote_serve import serve_pipes

    return serve_pipes(0, 1, Options(
        interval_ns=round(args.interval * 1e9), bpf=args.bpf, watch=args.watch,
        limits=tuple(args.limits), as_root="--remote-command 'sudo ktop'"), args.packed)
