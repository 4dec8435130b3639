"""Arguments and subcommands, nothing else. Heavy modules are imported by those who need them."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from ktop import __version__

if TYPE_CHECKING:
    from ktop.scope import Scope

MIN_INTERVAL, MAX_INTERVAL = 0.1, 60.0
INTERVAL = float("1")  # this very object: nobody asked for another
USAGE_ERROR = 2
# Modules of ktop.commands, in the order of the help.
COMMANDS_APART: tuple[str, ...] = (
    "record", "replay", "diff", "export", "diagnose", "collect", "config", "completions", "manual")
TIMES = ("--span", "--at")  # options whose value may be an offset
COLLECTING = ("snapshot", "doctor", "diagnose", "collect")  # without a process tree
ELSEWHERE = (None, "record")  # commands that can be about another host
EPILOG = """\
Keys: 1-6 panes, Space pause, + - interval, < > sort column, / filter, ? help,
      q quit. What is chosen in it is kept in the file that `ktop config --path` names.
Live kernel figures need root (sudo ktop); without it ktop runs on /proc and says what is missing.
Environment: NO_COLOR, ESCDELAY (ms), KTOP_DEBUG=1 (show tracebacks).
"""


def seconds(text: str) -> float:
    """An interval in seconds, for argparse: 0.1 to 60."""
    try:
        value = float(text.removesuffix("s"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds") from None
    if not MIN_INTERVAL <= value <= MAX_INTERVAL:  # also refuses nan
        raise argparse.ArgumentTypeError(
            f"{text} is not between {MIN_INTERVAL:g} and {MAX_INTERVAL:g} seconds")
    return value


def volume(text: str) -> str:
    """A volume's limits, checked now and read by the collector, for argparse."""
    from ktop.collect.block_limits import parse_limit

    try:
        parse_limit(text)
    except ValueError as err:
        raise argparse.ArgumentTypeError(str(err).removeprefix("--limit ")) from None
    return text


def host(text: str) -> str:
    """A destination for ssh, for argparse."""
    from ktop.remote import check_host

    try:
        return check_host(text)
    except ValueError as err:
        raise argparse.ArgumentTypeError(str(err)) from None


def remote(parser: argparse.ArgumentParser, again: bool = False) -> None:
    """The options that move the collector to another host; `ktop.remote.far_of` reads them."""
    parser.add_argument("--host", type=host, metavar="[USER@]HOST",
                        default=argparse.SUPPRESS if again else None,
                        help="another host, by ssh with your own configuration; ktop must be "
                             "installed there")
    parser.add_argument("--remote-command", metavar="CMD",
                        default=argparse.SUPPRESS if again else "ktop",
                        help="what starts ktop there, e.g. 'sudo ktop' (default ktop)")


def scoped(parser: argparse.ArgumentParser) -> None:
    """The options that narrow everything to a part of the host; `scope_of` reads them."""
    parser.add_argument("--pid", type=int, metavar="N", help="only this process, with its children")
    parser.add_argument("--cgroup", metavar="PATH",
                        help="only this control group, with those below it")
    parser.add_argument("--comm", metavar="RE",
                        help="only processes whose command's name contains this pattern")


def scope_of(args: argparse.Namespace) -> Scope | None:
    """The scope that the options ask for; one line and exit status 2 when they make no sense."""
    if args.pid is None and args.cgroup is None and args.comm is None:
        return None  # the supervisor stays light
    from ktop.scope import parse_scope

    try:
        return parse_scope(args.pid, args.cgroup, args.comm)
    except ValueError as err:
        print(f"ktop: {err}", file=sys.stderr)
        raise SystemExit(USAGE_ERROR) from None


class Parser(argparse.ArgumentParser):
    """argparse, but a mistake costs the user one line and not the whole usage."""

    def error(self, message: str) -> None:  # type: ignore[override]
        """One line on stderr, exit status 2."""
        self.exit(USAGE_ERROR, f"{self.prog}: {message} (try {self.prog} --help)\n")


def sampling(parser: argparse.ArgumentParser, again: bool = False) -> None:
    """`again`: below a subcommand, where a default would undo what stands before the command."""
    parser.add_argument("--interval", type=seconds, metavar="S",
                        default=argparse.SUPPRESS if again else INTERVAL,
                        help="seconds between two samples, 0.1 to 60 (default 1)")
    parser.add_argument("--no-bpf", dest="bpf", action="store_false",
                        default=argparse.SUPPRESS if again else True,
                        help="load nothing into the kernel: psutil and /proc only")


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = Parser(prog="ktop", description="top for the kernel", epilog=EPILOG,
                    formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"ktop {__version__}")
    sampling(parser)
    parser.add_argument("--ascii", action="store_true", default=None,
                        help="ASCII glyphs and borders only (default: by the locale)")
    parser.add_argument("--mouse", action=argparse.BooleanOptionalAction, default=None,
                        help="mouse support (default: on, but off over SSH)")
    parser.add_argument("--limit", type=volume, action="append", default=[], dest="limits",
                        metavar="DEV=LIMITS",
                        help="what a volume or interface is sold as, e.g. vda=3000iops,125MBps")
    scoped(parser)
    remote(parser)
    commands = parser.add_subparsers(dest="command", metavar="command", parser_class=Parser)
    snapshot = commands.add_parser("snapshot", help="one interval of everything, for scripts",
                                   allow_abbrev=False)
    snapshot.add_argument("--json", action="store_true",
                          help="all of it as JSON; without: the busiest processes as text")
    sampling(snapshot, again=True)
    for name in COMMANDS_APART:
        import_module(f"ktop.commands.{name}").add(commands)
    doctor = commands.add_parser("doctor", help="what works here, what does not, and why",
                                 allow_abbrev=False)
    doctor.add_argument("--json", action="store_true", help="as JSON")
    return parser


def _live(args: argparse.Namespace) -> int:
    from ktop import config, launch

    scope = scope_of(args)
    settings = config.go_by()
    chosen = settings.interval_ns if args.interval is INTERVAL else None
    options = launch.Options(
        interval_ns=chosen or round(args.interval * 1e9), bpf=args.bpf,
        ascii=settings.ascii if args.ascii is None else args.ascii,
        mouse=settings.mouse if args.mouse is None else args.mouse, scope=scope,
        limits=(*settings.limits, *args.limits),  # the later word on a device is the last
        settings=settings)
    if args.host is None:
        return launch.run(options)
    from ktop.remote import far_of, live

    return live(far_of(args, options.interval_ns), options)


def _snapshot(args: argparse.Namespace) -> int:
    from ktop.snapshot import main as snapshot

    return snapshot(args.interval, args.bpf, args.json)


def _doctor(args: argparse.Namespace) -> int:
    from ktop.doctor import main as doctor

    return doctor(args.json)


COMMANDS: dict[str | None, Callable[[argparse.Namespace], int]] = {
    None: _live, "snapshot": _snapshot, "doctor": _doctor}


def joined(argv: Sequence[str]) -> list[str]:
    """`--span -10m..-5m` as `--span=-10m..-5m`: argparse would take an offset for an option."""
    found: list[str] = []
    for word in argv:
        if found and found[-1] in TIMES and word[:1] == "-" and word[1:2].isdigit():
            found[-1] += f"={word}"
        else:
            found.append(word)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run ktop with these arguments; the exit status. A traceback never reaches the user."""
    parser = build_parser()
    args = parser.parse_args(joined(sys.argv[1:] if argv is None else argv))
    if argv is None and args.command in COLLECTING:
        from ktop import capabilities

        capabilities.become_collector()
    if args.host is not None and args.command not in ELSEWHERE:
        parser.error(f"--host: ktop {args.command} is about this host or a file")
    try:
        run = COMMANDS.get(args.command)
        if run is None:
            run = import_module(f"ktop.commands.{args.command}").run
        status = run(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader (head, less) has seen enough. Python would complain again while it closes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except Exception as err:
        from ktop import crash

        print(crash.report("ktop", err), file=sys.stderr)
        return 1
    return status
