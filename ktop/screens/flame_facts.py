"""What the flame screen says in words: target, price, losses, the selected function. Pure."""

from __future__ import annotations

from ktop import format as fmt
from ktop.flame import Flame, Node
from ktop.model_stacks import Stacks
from ktop.scope import Scope
from ktop.text import clean
from ktop.widgets.header import small_pct
from ktop.widgets.strips import Piece

KIND_NAMES = {"cpu": "on CPU", "off": "off CPU"}
SEP: Piece = ("  ", "normal")
ABOUT = {
    "cpu": "on CPU: what runs, sampled on every CPU",
    "off": "off CPU: what blocks, from the switch away to the wakeup (waiting for a CPU left out)",
}
HELP = """\
On CPU: a sample of the stack on every CPU, 49 times a second (perf's cpu-clock). A sample stands
for 1/49 s of CPU time. The idle task is left out.

Off CPU: the time from a thread's switch away to its wakeup, by the stack that blocked. What has
not ended yet counts as far as it goes. Waiting for a CPU is not blocked time: a thread that is
preempted is left out, and the run queue's wait (sched_info.run_delay) is taken off. The switch's
own functions (schedule, __schedule) are not shown, nor are idle kernel threads (state I). Threads
that slept when one began to look have their kernel stack only: [user stack not seen].

A box is a function; those below it are what it called, its width is its share of the time. The
free part below a box is its own time. Boxes too narrow to be seen are dots: zoom in.
Kernel functions end in _[k] and have a dotted edge; a name in brackets is a module whose function
has no symbol; [unknown] is code in no file and in no JIT's map (/tmp/perf-PID.map), or several
such in a row.

User stacks are walked by frame pointers. Code built without them (much of libc, most of Debian
before trixie) loses callers: the function that called it is skipped, or the stack ends there, or
begins with a wrong address. Build with -fno-omit-frame-pointer; python -X perf, node
--perf-basic-prof and java -XX:+PreserveFramePointer with a perf map agent make theirs walkable.
At most 127 functions of each part are kept: [deeper] stands for those above.

lost: stacks, sums or threads that did not fit into the kernel's tables. cost: of the programs, by
the kernel's own statistics, on for one second in ten: share of a CPU, and time for each sample or
context switch. Nothing is loaded before S or after the end; then the result stays in the samples
(and in a recording) for a minute.
"""


def target_text(scope: Scope, stacks: Stacks | None) -> str:
    """Whose stacks."""
    if scope:
        return clean(scope.crumbs()[-1], 60)
    if stacks is None or not (stacks.pids or stacks.cgroups):
        return "whole host"
    kind, ids = ("process", stacks.pids) if stacks.pids else ("control group", stacks.cgroups)
    more = f" and {len(ids) - 1} more" if len(ids) > 1 else ""
    return f"{kind} {ids[0]}{more}"


def title(scope: Scope, stacks: Stacks | None, kind: str, recorded: bool) -> list[Piece]:
    """` Stacks of 4711 nginx   [on CPU]  off CPU   running 12 of 30 s`."""
    pieces: list[Piece] = [(" Stacks of ", "dim"), (target_text(scope, stacks), "title"),
                           ("   ", "normal")]
    for name, words in KIND_NAMES.items():
        pieces.append((f" {words} ", "cursor" if name == kind else "dim"))
        pieces.append((" ", "normal"))
    word, style = state_word(stacks, recorded)
    return [*pieces, ("  " + word, style)]


def state_word(stacks: Stacks | None, recorded: bool) -> tuple[str, str]:
    """What is going on, and the style to say it in."""
    if stacks is None:
        return ("none in this sample" if recorded else "asked for"), "dim"
    elapsed, limit = stacks.elapsed_ns / 1e9, stacks.limit_ns / 1e9
    if stacks.state == "running":
        return f"running {elapsed:.0f} of {limit:.0f} s", "good"
    if stacks.state == "loading":
        return "loading the programs", "dim"
    if stacks.state == "failed":
        return "failed", "bad"
    return f"ended after {elapsed:.1f} s", "normal"


def facts(stacks: Stacks | None, flame: Flame) -> list[list[Piece]]:
    """Two lines: how much was seen and what is missing; what it costs."""
    if stacks is None or stacks.state in ("loading", "failed"):
        return [[], []]
    root, kind = flame.root, flame.kind
    seen: list[Piece] = [(" ", "normal"), (fmt.grouped(root.samples), "strong")]
    if kind == "cpu":
        seen += [(f" samples at {stacks.hz} Hz", "dim"), SEP, (fmt.duration(root.total), "strong"),
                 (" of CPU time", "dim")]
    else:
        seen += [(" times blocked", "dim"), SEP, (fmt.duration(root.total), "strong"),
                 (" in all", "dim"), SEP,
                 (fmt.duration(root.stuck), "warn" if root.stuck else "normal"),
                 (" uninterruptible", "dim")]
    if stacks.naming:
        seen += [SEP, (f"naming {stacks.naming} stacks", "warn")]
    lost = stacks.lost_traces + stacks.lost_sums + stacks.lost_threads
    seen += [SEP, ("lost ", "dim"), (fmt.count(lost), "bad" if lost else "normal")]
    return [seen, _price(stacks, kind)]


def _price(stacks: Stacks, kind: str) -> list[Piece]:
    each = "sample" if kind == "cpu" else "switch"
    alive = stacks.state == "running"
    pieces: list[Piece] = [
        (" cost ", "dim"), (small_pct(stacks.cpu_pct), "normal"),
        (" of a CPU" + (", " if kind in stacks.event_ns else ""), "dim")]
    if kind in stacks.event_ns:
        pieces += [(fmt.duration(stacks.event_ns[kind]), "normal"), (f" a {each}", "dim")]
    pieces += [SEP, (fmt.size(stacks.map_bytes), "normal"),
               (" of kernel memory" if alive else " of kernel memory, given back", "dim")]
    problem = stacks.reason or (stacks.notes[0] if stacks.notes else "")
    if kind not in stacks.kinds and stacks.kinds and not problem:
        problem = f"{KIND_NAMES[kind]} was not asked for"
    if problem:
        pieces = [(" ! ", "warn"), (problem, "warn"), SEP, *pieces]
    return pieces


def selected_lines(node: Node, flame: Flame, matches: frozenset[str], wanted: str,
                   share: float) -> list[list[Piece]]:
    """The function in full, then its figures."""
    whole = flame.root.total or 1
    what = ("everything" if not node.depth else "command" if node.depth == 1 else
            "kernel" if node.kernel else "user")
    name: list[Piece] = [(" ", "normal"), (node.name, "strong"), (f"   {what}", "dim")]
    if wanted:
        found = f"{len(matches)} functions contain" if len(matches) != 1 else "1 function contains"
        name += [SEP, (f"  {found} \"{wanted}\": ", "dim"),
                 (fmt.pct(share) + "%", "warn" if matches else "dim"), (" of the time", "dim")]
    figures: list[Piece] = [
        (" total ", "dim"), (fmt.pct(100 * node.total / whole) + "%", "strong"),
        (f" {fmt.duration(node.total)}", "normal"), SEP,
        ("self ", "dim"), (fmt.pct(100 * node.own / whole) + "%", "strong"),
        (f" {fmt.duration(node.own)}", "normal"), SEP,
        ("samples " if flame.kind == "cpu" else "times ", "dim"),
        (fmt.grouped(node.samples), "normal"), (" self ", "dim"),
        (fmt.grouped(node.own_samples), "normal")]
    if flame.kind == "off" and node.samples:
        figures += [SEP, ("mean ", "dim"), (fmt.duration(node.total / node.samples), "normal")]
        if node.stuck:
            figures += [SEP, ("state D ", "dim"),
                        (fmt.pct(100 * node.stuck / (node.total or 1)) + "%", "warn")]
    return [name, figures]


def empty_text(stacks: Stacks | None, kind: str, following: bool, recorded: bool) -> str:
    """Why there is nothing to draw."""
    if recorded and stacks is None:
        return ("No stacks in this sample of the recording.\n"
                "A recording holds those that were taken (S) while it was made, and for a minute\n"
                "after.")
    if not following and not recorded and (stacks is None or stacks.state != "ended"):
        return "The picture stands still: Space lets it go on."
    if stacks is None:
        return "Stacks have been asked for; the next sample will tell."
    if stacks.state == "failed":
        return f"It cannot be done here: {stacks.reason}"
    if stacks.state == "loading":
        return "The programs are being compiled and loaded: half a second, where nothing else runs."
    if stacks.kinds and kind not in stacks.kinds:
        return f"{KIND_NAMES[kind].capitalize()} was not asked for."
    if stacks.naming:
        return "The functions are being named."
    if kind == "cpu":
        return ("No sample so far: nothing of the target was on a CPU when one was taken.\n"
                "o shows what it waits for.")
    return "Nothing has blocked so far."
