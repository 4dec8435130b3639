"""Man page and shell completions, made of the parser and the tables of keys: `make man`.

`python -m ktop.manual` writes them into ktop/share, from where they are installed and where
`ktop completions` finds them. They are kept in the repository: tests say when they are out of date.
The completions are made by shtab, which only this needs.
"""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from textual.binding import Binding

from ktop import __version__, actions, cli
from ktop.commands.completions import SCRIPTS
from ktop.commands.manual import PAGE

SHARE = Path(__file__).parent / "share"
LINE = 60  # of the page's source: escapes make some longer
RELEASED = "2026-11-23"  # of this version; the page is the same on every machine
FILES = ("FILE", "OUT", "A", "B")  # metavars whose values are files
_NAMED = {"left_parenthesis": "(", "right_parenthesis": ")"}

ABOUT = """\
ktop says which layer of a Linux host is the narrowest pipe right now, who is squeezed and who
squeezes, and on what evidence. Processes, files, TCP, block I/O and the scheduler stand side by
side, each fed by BPF programs, on one clock, attributed to process and control group.

What is unknown shows as -, never as 0. The key ? says in every pane what each figure means, in
which unit, from which kernel field, and what cannot be seen.

Live figures of the kernel need root and the distribution's python3-bpfcc (python3-bcc); without
them ktop runs on /proc alone and says what is missing: see ktop doctor."""
STATUSES = [
    ("0", "It did what it was asked for."),
    ("1", "It failed on the way; doctor: it works, but without BPF."),
    ("2", "The command line, a file or the host does not allow it: one line on standard error says "
          "why; doctor: it does not work here; config: something in the file is wrong."),
    ("10", "diagnose --exit-code: a pipe is tight."),
    ("130", "Interrupted."),
    ("141", "Whoever read its output has gone.")]
VARIABLES = [
    ("NO_COLOR", "No colours: nothing is said by colour alone."),
    ("ESCDELAY", "How long a lone Esc waits for the rest of a key, in ms."),
    ("KTOP_DEBUG", "1: a mistake of ktop's own shows its traceback."),
    ("XDG_CONFIG_HOME", "Where ktop/config.toml is; ~/.config without it.")]
EXAMPLES = [
    ("sudo ktop", "Live."),
    ("sudo ktop --cgroup /system.slice/postgresql.service", "Live, one service and no more."),
    ("sudo ktop diagnose --json --exit-code", "For a script: exit status 10 when a pipe is tight."),
    ("sudo ktop record -o night.ktop --duration 8h --max-size 1G", "Without a screen."),
    ("ktop replay night.ktop --at 23:47:10", "Any moment of it, as if it were live."),
    ("ktop replay night.ktop --diagnose", "When was what tight."),
    ("ktop --host admin@web1 --remote-command 'sudo ktop'", "Another host, by ssh.")]


# -- what there is ---------------------------------------------------------------------------------


def keys_by_place() -> dict[str, list[tuple[str, str]]]:
    """Every key and what it does, by where it does it; as made, whatever the config says."""
    from ktop.keymap import bindings_of
    from ktop.panes import PANES
    from ktop.screens.compare import CompareScreen
    from ktop.screens.detail import ProcessDetail
    from ktop.screens.detail_pane import DetailPane
    from ktop.screens.flame import FlameScreen
    from ktop.widgets.flame import Icicle
    from ktop.widgets.table import VirtualTable

    found = {"Everywhere": [(action.shown, action.about) for action in actions.ACTIONS],
             "In a table": _told(bindings_of([VirtualTable]))}
    found |= {f"In {pane.title}": _told(bindings_of([pane])) for pane in PANES}
    found["In one process (Enter)"] = _told(bindings_of([DetailPane, ProcessDetail]))
    found["In stacks (S)"] = _told(bindings_of([FlameScreen, Icicle]))
    found["In a comparison (D)"] = _told(bindings_of([CompareScreen]))
    return found


def _told(bindings: Iterable[Binding]) -> list[tuple[str, str]]:
    """Those that are described, the keys of one action together."""
    from ktop.keymap import key_shown

    found: dict[str, tuple[str, list[str]]] = {}
    for binding in bindings:
        if binding.description:
            text = (binding.tooltip or binding.description).rstrip(".") + "."
            if binding.description == "View" and "," in text:  # a list of them
                text = f"The next view of: {text[:1].lower()}{text[1:]}"
            shown = _NAMED.get(binding.key) or key_shown(binding.key)
            found.setdefault(binding.action, (text, []))[1].append(shown)
    return [(" ".join(dict.fromkeys(keys)), text) for text, keys in found.values()]


def commands_of(parser: argparse.ArgumentParser) -> dict[str, tuple[str, argparse.ArgumentParser]]:
    """Subcommands -> (one line about it, its parser), in the order of the help."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            lines = {a.dest: a.help or "" for a in action._choices_actions}
            return {name: (lines[name], made) for name, made in action.choices.items()}
    return {}


def _options(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for action in parser._actions
            if not isinstance(action, argparse._SubParsersAction | argparse._HelpAction)]


# -- the page --------------------------------------------------------------------------------------


def roff(text: str, width: int = 0) -> str:
    """Plain text for troff: nothing in it is a command. width: broken into lines before that."""
    if width:
        text = "\n".join(textwrap.wrap(text, width, break_on_hyphens=False))
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("~", "\\(ti").replace("^", "\\(ha")
    text = text.replace("'", "\\(aq").replace("`", "\\(ga")
    return "\n".join("\\&" + line if line[:1] == "." else line for line in text.split("\n"))


def _paragraphs(text: str) -> Iterator[str]:
    for n, part in enumerate(re.split(r"\n\s*\n", text.strip())):
        if n:
            yield ".PP"
        yield roff(part, LINE)


def _entries(lines: Iterable[tuple[str, str]]) -> Iterator[str]:
    for name, text in lines:
        yield ".TP"
        yield f".B {roff(name)}"
        yield roff(text, LINE)


def _option(action: argparse.Action) -> Iterator[str]:
    value = str(action.metavar or "|".join(map(str, action.choices or ())))
    names = ", ".join(f"\\fB{roff(name)}\\fR" for name in action.option_strings)
    yield ".TP"
    yield " ".join(part for part in (names, f"\\fI{roff(value)}\\fR" if value else "") if part)
    yield roff((action.help or "").replace("%%", "%"), LINE)


def _command(name: str, line: str, parser: argparse.ArgumentParser,
             everywhere: set[tuple[str, ...]]) -> Iterator[str]:
    own = [action for action in _options(parser)
           if tuple(action.option_strings) not in everywhere or not action.option_strings]
    shared = [action.option_strings[0] for action in _options(parser) if action not in own]
    values = [str(action.metavar) if action.nargs is None else f"[{action.metavar}]"
              for action in own if not action.option_strings]
    yield f".SS {roff(' '.join(['ktop', name, *values]))}"
    yield from _paragraphs(line[:1].upper() + line[1:] + ".")
    if parser.description:
        yield ".PP"
        yield from _paragraphs(parser.description)
    for action in own:
        yield from _option(action)
    if shared:
        yield ".PP"
        yield roff(f"Also: {', '.join(shared)}, as above.", LINE)


def page() -> str:
    """ktop(1), with the macros of man(7)."""
    from ktop.query import HELP

    parser = cli.build_parser()
    options = _options(parser)
    everywhere = {tuple(action.option_strings) for action in options}
    lines = [f'.TH KTOP 1 {RELEASED} "ktop {__version__}" "User Commands"',
             ".SH NAME", f"ktop \\- {roff(parser.description or '')}",
             ".SH SYNOPSIS", ".B ktop", "[options] [command [options]]",
             ".SH DESCRIPTION", *_paragraphs(ABOUT), ".SH OPTIONS"]
    for action in options:
        lines += _option(action)
    lines.append(".SH COMMANDS")
    for name, (about, made) in commands_of(parser).items():
        lines += _command(name, about, made, everywhere)
    lines += [".SH KEYS", "Changed in the config file, under [keys]; ktop config lists the names."]
    for place, known in keys_by_place().items():
        lines += [f".SS {roff(place)}", *_entries(known)]
    lines += [".SH FILTER", "What / understands:", ".PP", ".nf", roff(HELP), ".fi",
              ".SH EXIT STATUS", *_entries(STATUSES),
              ".SH ENVIRONMENT", *_entries(VARIABLES),
              ".SH FILES", *_entries([("~/.config/ktop/config.toml", "Keys, thresholds, limits of "
                                       "volumes, theme, columns; ktop config says what it may "
                                       "hold. Never read by root when others may write it.")]),
              ".SH EXAMPLES", *_entries(EXAMPLES),
              ".SH SEE ALSO", ".BR top (1),", ".BR perf (1),", ".BR bpf (2)"]
    return "\n".join(lines) + "\n"


# -- completions -----------------------------------------------------------------------------------


def completion(shell: str) -> str:
    """The script for this shell."""
    import shtab

    parser = cli.build_parser()
    for about, made in commands_of(parser).values():
        made.description = about  # shtab would show the whole of it
        _complete_files(made)
    _complete_files(parser)
    return str(shtab.complete(parser, shell)).rstrip() + "\n"


def _complete_files(parser: argparse.ArgumentParser) -> None:
    import shtab

    for action in _options(parser):
        if action.metavar in FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]


def made() -> dict[str, str]:
    """Every file of ktop/share that is made here, by its name."""
    return {PAGE: page(), **{name: completion(shell) for shell, name in SCRIPTS.items()}}


def main(argv: Sequence[str] | None = None) -> int:
    """Write them."""
    argparse.ArgumentParser(prog="python -m ktop.manual", description=__doc__).parse_args(argv)
    SHARE.mkdir(exist_ok=True)
    for name, text in made().items():
        (SHARE / name).write_text(text, encoding="utf-8")
        print(SHARE / name)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
