"""`ktop record`: a session into a file, without a screen."""

from __future__ import annotations

import argparse
import re
from typing import Any

LAYERS = ("processes", "sched", "files", "tcp", "block")
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_UNITS_BYTES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
LEAST_BYTES = 1 << 20


def duration(text: str) -> int:
    """A time as 90, 10m or 1h30m, in ns, for argparse."""
    if not re.fullmatch(r"\d+(\.\d+)?|(\d+(\.\d+)?[smhd])+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 90s, 10m, 1h30m or 2d")
    parts = re.findall(r"([\d.]+)([smhd]?)", text)
    found = sum(float(number) * _UNITS_S[unit or "s"] for number, unit in parts)
    if not 1 <= found <= 10 * 365 * 86400:
        raise argparse.ArgumentTypeError(f"{text} is not between a second and ten years")
    return round(found * 1e9)


def size(text: str) -> int:
    """A size as 500M or 1G (powers of 1024), in bytes, for argparse."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT])(?:i?B)?", text, re.IGNORECASE)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 500M or 1G")
    found = float(match[1]) * _UNITS_BYTES[match[2].upper()]
    if not LEAST_BYTES <= found <= 1 << 50:
        raise argparse.ArgumentTypeError(f"{text} is not between 1M and 1024T")
    return round(found)


def layers(text: str) -> tuple[str, ...]:
    """Names of layers, separated by commas, for argparse."""
    found = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if unknown := [name for name in found if name not in LAYERS]:
        raise argparse.ArgumentTypeError(
            f"no layer is called {unknown[0]}: {', '.join(LAYERS)}")
    return found


def add(commands: Any) -> None:
    """The options."""
    from ktop.cli import remote, sampling, scoped

    parser = commands.add_parser(
        "record", help="record a session into a file, for ktop replay", allow_abbrev=False,
        description="Record until told to end (Ctrl-C, SIGTERM), into one file that opens whatever "
                    "happens to the recorder. It holds command lines and paths: mode 0600.")
    parser.add_argument("-o", "--output", metavar="FILE",
                        help="where to (default: ktop-HOST-DATE-TIME.ktop here); never overwritten")
    parser.add_argument("--duration", type=duration, metavar="TIME", help="end after 10m, 1h30m")
    parser.add_argument("--max-size", type=size, metavar="SIZE",
                        help="end at 500M, 1G; with --keep: forget the oldest instead")
    parser.add_argument("--keep", type=duration, metavar="TIME",
                        help="keep only the last 24h, 7d")
    parser.add_argument("--layers", type=layers, default=LAYERS, metavar="A,B",
                        help="layers whose probes on demand are attached: "
                             f"{','.join(LAYERS)} (default: all); the others are recorded with "
                             "what is always on")
    parser.add_argument("--redact", action="store_true",
                        help="hash arguments, and paths beyond their first component")
    sampling(parser, again=True)
    scoped(parser)
    remote(parser, again=True)


def run(args: argparse.Namespace) -> int:
    """Record; the exit status."""
    from ktop.cli import scope_of
    from ktop.recorder import Order, record
    from ktop.remote import far_of

    interval_ns = round(args.interval * 1e9)
    return record(Order(
        interval_ns=interval_ns, bpf=args.bpf, limits=tuple(args.limits),
        output=args.output, duration_ns=args.duration, max_bytes=args.max_size, keep_ns=args.keep,
        layers=args.layers, redact=args.redact, scope=scope_of(args),
        far=far_of(args, interval_ns) if args.host else None))
