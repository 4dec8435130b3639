"""`ktop replay FILE`: a recording in the UI, with nothing of the kernel and no root; `-`: a stream.

Under sudo it becomes the invoking user before it opens the file, as the live UI does.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ktop.launch import Session
    from ktop.recording import Recording

USAGE_ERROR = 2


def speed(text: str) -> float:
    """How fast to play, as 4, 4x or 1/4, for argparse."""
    number, slash, divisor = text.strip().removesuffix("x").partition("/")
    try:
        value = float(number) / (float(divisor) if slash else 1.0)
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a speed such as 4 or 1/4") from None
    if not 0.25 <= value <= 64:  # also refuses nan
        raise argparse.ArgumentTypeError(f"{text} is not between 1/4 and 64")
    return value


def add(commands: Any) -> None:
    """The options."""
    from ktop.cli import scoped

    parser = commands.add_parser(
        "replay", help="show a recording as if it were live", allow_abbrev=False,
        description="Every pane, scope and histogram as live, at any moment of a recording. "
                    "Plays from the beginning; with --at it stands still there. Space plays and "
                    "pauses, t T step, [ ] a minute, b goes to a time, + - speed, m marks.")
    parser.add_argument("file", metavar="FILE",
                        help="made by ktop record, or by R or w in ktop; -: frames from standard "
                             "input, as `ktop collect` writes them")
    parser.add_argument("--at", metavar="TIME",
                        help="begin at 23:47:10, '2026-11-22 23:47', +10m or -10m (from the end)")
    parser.add_argument("--speed", type=speed, default=1.0, metavar="N",
                        help="1/4 to 64 times as fast (default 1)")
    parser.add_argument("--ascii", action="store_true", default=argparse.SUPPRESS,
                        help="ASCII glyphs and borders only (default: by the locale)")
    parser.add_argument("--mouse", action=argparse.BooleanOptionalAction,
                        default=argparse.SUPPRESS,
                        help="mouse support (default: on, but off over SSH)")
    parser.add_argument("--diagnose", action="store_true",
                        help="no screen: what was tight from when to when, and at its worst")
    parser.add_argument("--span", metavar="SPAN",
                        help="with --diagnose: of 23:47-23:50, 23:47:10+30s or -10m..-5m only")
    parser.add_argument("--json", action="store_true", help="with --diagnose: as JSON")
    scoped(parser)


def run(args: argparse.Namespace) -> int:
    """Show it; the exit status."""
    if args.diagnose:
        from ktop.judge import main as judge

        return judge(args)
    if args.span is not None or args.json:
        return _refuse("--span and --json go with --diagnose")
    from ktop import config, launch, terminal
    from ktop.cli import scope_of
    from ktop.privileges import drop_privileges

    settings = config.go_by()
    narrow = settings.ascii if args.ascii is None else args.ascii
    options = launch.Options(
        ascii=terminal.ascii_only() if narrow is None else narrow,
        mouse=settings.mouse if args.mouse is None else args.mouse, scope=scope_of(args),
        settings=settings)
    if args.file == "-":
        return _stream(args, options)
    drop_privileges()
    from ktop.recording import Recording, RecordingError

    try:
        recording = Recording(args.file)
        problem = _problem(recording, args.at)
        recording.close()  # SQLite's connections must not cross the fork
    except RecordingError as err:
        problem = str(err)
    if problem := problem or terminal.refusal() or "":
        return _refuse(problem)
    return launch.run(options, None, lambda session: _show(session, args))


def _refuse(problem: str) -> int:
    print(f"ktop replay: {problem}", file=sys.stderr)
    return USAGE_ERROR


def _problem(recording: Recording, at: str | None) -> str:
    from ktop import when

    if at is not None:
        try:
            _start(recording, at)
        except when.WhenError as err:
            return f"--at {at!r}: {err} (character {err.at + 1})"
    return ""


def _start(recording: Recording, at: str) -> int:
    """The wall-clock time that --at means. `+10m` is from the beginning, `-10m` from the end."""
    from ktop import when

    first = recording.moment(recording.first).wall_ns
    last = recording.moment(recording.end - 1).wall_ns
    return when.parse(at, when.Span(first, last, first if at.strip()[:1] == "+" else last))


def _show(session: Session, args: argparse.Namespace) -> int:
    """The UI process."""
    from ktop.app import KtopApp, show
    from ktop.recording import Recording
    from ktop.scope import HOST
    from ktop.sources_replay import ReplaySource

    recording = Recording(args.file)
    source = ReplaySource(recording, None if args.at is None else _start(recording, args.at),
                          args.speed, recording.notes)
    return show(KtopApp(lambda: source, ascii_only=bool(session.options.ascii),
                        scope=session.options.scope or HOST), session.options)


def _stream(args: argparse.Namespace, options: Any) -> int:
    """Frames from standard input; keys from the terminal."""
    from ktop import launch, terminal
    from ktop.privileges import drop_privileges

    if args.at is not None:
        return _refuse("--at: a stream has no past to go to")
    if os.isatty(0):
        return _refuse("-: standard input is the terminal: pipe a stream into it")
    stream = os.dup(0)
    try:
        keys = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
    except OSError:
        return _refuse("-: there is no terminal to read keys from")
    os.dup2(keys, 0)
    os.close(keys)
    if problem := terminal.refusal():
        return _refuse(problem)
    drop_privileges()

    def show_stream(session: Session) -> int:
        from ktop.app import KtopApp, show
        from ktop.scope import HOST
        from ktop.sources_replay import PipeSource

        return show(KtopApp(lambda: PipeSource(stream), ascii_only=bool(session.options.ascii),
                            scope=session.options.scope or HOST), session.options)

    return launch.run(options, None, show_stream)
