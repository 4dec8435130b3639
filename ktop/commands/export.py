"""`ktop export FILE`: a recording for other tools, as lines of JSON, CSV or Parquet."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from ktop.recording import Recording

USAGE_ERROR = 2


def add(commands: Any) -> None:
    """The options."""
    from ktop.cli import scoped

    parser = commands.add_parser(
        "export", help="a recording as lines of JSON, CSV or Parquet", allow_abbrev=False,
        description="Names and units are those of ktop's own fields; what is not known is null, "
                    "or an empty cell. Latency histograms have percentiles and their buckets.")
    parser.add_argument("file", metavar="FILE", nargs="?", help="a recording")
    parser.add_argument("--format", choices=("jsonl", "csv", "parquet"), default="jsonl",
                        help="jsonl (default): a row a line, without --table a sample a line; "
                             "parquet needs pyarrow: pip install 'ktop[parquet]'")
    parser.add_argument("--table", metavar="NAME",
                        help="processes, tcp.connections...: what --list shows")
    parser.add_argument("--span", metavar="SPAN",
                        help="23:47-23:50, 23:47:10+30s, -10m..-5m (default: all)")
    parser.add_argument("-o", "--output", metavar="OUT",
                        help="where to (default: standard output); never overwritten")
    parser.add_argument("--list", action="store_true",
                        help="the tables; with --table its columns and their types")
    scoped(parser)


def run(args: argparse.Namespace) -> int:
    """Export; the exit status."""
    from ktop.export import Table, table_of
    from ktop.privileges import drop_privileges
    from ktop.recording import Recording, RecordingError
    from ktop.when import WhenError

    drop_privileges()
    try:
        table: Table | None = table_of(args.table) if args.table is not None else None
    except ValueError as err:
        return _refuse(f"--table: {err}")
    if args.list:
        print("\n".join(_listed(table)))
        return 0
    if args.file is None:
        return _refuse("which recording? ktop export FILE")
    if args.output is None and args.format == "parquet" and os.isatty(1):
        return _refuse("parquet is not for a terminal: -o OUT")
    try:
        with Recording(args.file) as recording:
            return _export(recording, args, table)
    except WhenError as err:
        return _refuse(f"--span: {err} (character {err.at + 1})")
    except RecordingError as err:
        return _refuse(str(err))


def _refuse(problem: str) -> int:
    print(f"ktop export: {problem}", file=sys.stderr)
    return USAGE_ERROR


def _listed(table: Any) -> list[str]:
    from ktop.export import ALIASES, header, kinds, tables

    if table is not None:
        return [f"{name:<44} {kind}" for name, kind in
                zip(header(table), kinds(table), strict=True)]
    short = {long: alias for alias, long in ALIASES.items()}
    return [f"{name:<24} {len(header(found)):>4} columns"
            + (f"  ({short[name]})" if name in short else "") for name, found in tables().items()]


def _export(recording: Recording, args: argparse.Namespace, table: Any) -> int:
    from ktop import compare_spans as spans
    from ktop.export_formats import ExportError, sink
    from ktop.text import clean

    stretch = (spans.parse(args.span, spans.span_of(recording)) if args.span is not None
               else None)
    wanted = (spans.positions(recording, stretch) if stretch is not None
              else range(recording.first, recording.end))
    if not wanted:
        return _refuse("there are no samples in that span")
    try:
        out = _opened(args.output)
    except OSError as err:
        name = clean(os.fsencode(args.output), 200)
        there = isinstance(err, FileExistsError)
        return _refuse(f"{name}: " + ("is already there; ktop never overwrites" if there
                                      else err.strerror or "cannot be written"))
    try:
        into = sink(args.format, out, table)
    except ExportError as err:
        if args.output is not None:
            out.close()
            with suppress(OSError):
                os.unlink(args.output)
        return _refuse(str(err))
    try:
        missing = _write(recording, wanted, into, args)
        into.close()
        out.flush()
        if args.output is not None:
            out.close()
    except BrokenPipeError:
        raise  # whoever reads it has seen enough
    except (OSError, ExportError) as err:
        why = clean(getattr(err, "strerror", None) or str(err), 200)
        print(f"ktop export: {why}; what is there is not whole", file=sys.stderr)
        return 1
    if missing:
        print(f"ktop export: {missing} samples could not be read and are left out",
              file=sys.stderr)
    return 0


def _opened(path: str | None) -> BinaryIO:
    """A new file that only its owner reads: it holds command lines."""
    if path is None:
        return sys.stdout.buffer
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def _write(recording: Recording, wanted: range, into: Any, args: argparse.Namespace) -> int:
    """All samples; how many of them could not be read."""
    from ktop.cli import scope_of
    from ktop.narrow import narrow
    from ktop.scope import Roster

    scope = scope_of(args)
    roster = Roster(scope) if scope else None
    missing = 0
    for at in wanted:
        try:
            frame = recording.frame(at)
        except LookupError:
            missing += 1
            continue
        into.put(narrow(frame, roster.members(frame)) if roster else frame)
    return missing
