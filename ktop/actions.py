"""The one table of actions: bindings, footer, help and palette are all made of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from textual.binding import Binding


@dataclass(frozen=True)
class Action:
    """One thing that the shell can do.

    keys: Textual's names, comma-separated. shown: the keys as people write them. label: a word or
    two, for footer and palette. about: one sentence, for help and palette. footer: 0 never, else
    the lower the number the longer it stays when there is little room.
    """

    name: str
    keys: str
    shown: str
    label: str
    about: str
    footer: int = 0
    priority: bool = False


ACTIONS = [
    *(Action(f"pane({n})", str(n), str(n), title, f"Show the {title} pane.")
      for n, title in enumerate(
          ("Processes", "Files", "TCP", "Block", "Scheduler", "Diagnosis"), 1)),
    Action("pane_step(1)", "tab", "Tab", "Next pane", "Show the next pane."),
    Action("pane_step(-1)", "shift+tab", "Shift+Tab", "Previous pane", "Show the pane before."),
    Action("pause", "space", "Space", "Pause",
           "Hold the picture still; samples go on being taken. In the past and in a replay: play, "
           "pause.", 3),
    Action("interval(1)", "plus,equals_sign", "+", "Slower",
           "A longer interval between samples; in the past and in a replay: play faster."),
    Action("interval(-1)", "minus", "-", "Faster",
           "A shorter interval between samples; in the past and in a replay: play slower."),
    Action("sort(1)", "greater_than_sign,f6", "> F6", "Sort next", "Sort by the next column."),
    Action("sort(-1)", "less_than_sign", "<", "Sort previous", "Sort by the column before."),
    Action("invert", "I", "I", "Invert", "The other direction of sorting."),
    Action("sort_column('CPU%')", "P", "P", "Sort by CPU", "Most CPU time first, as in top."),
    Action("sort_column('RSS')", "M", "M", "Sort by memory", "Most memory first, as in top."),
    Action("scope_process", "p", "p", "This process",
           "Show nothing but this process; again: without or with its children.", 8),
    Action("scope_cgroup", "c", "c", "This cgroup",
           "Show nothing but this control group and those below it.", 9),
    Action("scope_up", "backspace", "Backspace", "Wider",
           "One step up: from the process to its control group, to the host."),
    Action("group", "g", "g F5", "By cgroup",
           "Fold the tables by control group, with totals and percentiles; unfold them.", 10),
    Action("stacks", "S", "S", "Stacks",
           "Sample the stacks of the scope, or of the process under the cursor."),
    Action("compare", "D", "D", "Compare",
           "The minute before against the last minute: what grew, what shrank, who is new."),
    Action("find", "slash", "/ F3 F4", "Find",
           "Show only rows that match: words, or what is true of them (cpu > 5 and comm ~ pg).",
           3, priority=True),
    Action("find_next(1)", "n", "n", "Next match", "To the next row that matches."),
    Action("find_next(-1)", "N", "N", "Previous match", "To the row before that matches."),
    Action("find_user", "u", "u", "User", "Show only rows of a user: begins such a filter."),
    Action("time_step(1)", "t", "t", "Next sample", "One sample on, in the past or a recording."),
    Action("time_step(-1)", "T", "T", "Sample before",
           "One sample back: into the past that is in memory, also while live."),
    Action("time_minutes(-1)", "left_square_bracket", "[", "Minute back", "A minute back."),
    Action("time_minutes(1)", "right_square_bracket", "]", "Minute on", "A minute on."),
    Action("time_jump", "b", "b", "Go to time",
           "To a time of day (23:47:10, with a date before it) or by an offset (-10m, +30s)."),
    Action("time_now", "0", "0 End", "Now",
           "Back to what is newest: live again, or the end of a recording."),
    Action("time_end", "end", "End", "To the end", "The same, when the table's cursor is at its "
           "end or there is none.", priority=True),
    Action("timeline", "z", "z", "Timeline",
           "Show the timeline, look closer (an hour, ten minutes, one), put it away."),
    Action("mark", "m", "m", "Mark", "Note something about the moment in view."),
    Action("save", "w", "w", "Save the past", "Write what is in memory to a file."),
    Action("record", "R", "R", "Record", "Begin to record into a file, or end it."),
    Action("columns", "C", "C F2", "Columns",
           "Which columns the table has, how wide, in what order."),
    Action("help", "question_mark,f1,h", "? F1 h", "Help", "What this pane shows, and all keys.",
           1),
    Action("command_palette", "colon,ctrl+p", ": Ctrl-P", "Commands", "Find an action by name.",
           4),
    Action("restart", "r", "r", "Restart collector",
           "Start a new collector after one has ended."),
    Action("redraw", "ctrl+l", "Ctrl-L", "Redraw", "Draw the whole screen again."),
    Action("suspend_process", "ctrl+z", "Ctrl-Z", "Suspend", "Back to the shell; fg returns.",
           priority=True),
    Action("quit", "q,f10,ctrl+q", "q F10 Ctrl-C", "Quit", "Leave ktop.", 2),
]
# Keys that htop's users have in their fingers. They have no ids: a key in the config comes first.
ALIASES = {"f2": "columns", "f3,f4": "find", "f5": "group", "f7,f8,f9": "only_looks"}
# Two keys that are one thing in the footer: what people look for is the pair.
PAIRS = [("+ -", "Interval", 5), ("< >", "Sort", 6), ("1-6", "Panes", 7)]
_PAIRED = {"interval(1)": "Interval", "interval(-1)": "Interval", "sort(1)": "Sort",
           "sort(-1)": "Sort", **{f"pane({n})": "Panes" for n in range(1, 7)}}
_MADE, _MADE_PAIRS = tuple(ACTIONS), tuple(PAIRS)


def rebind(shown: Mapping[str, str]) -> None:
    """What footer, help and palette call the keys of actions, by name; the others as made.

    The keys themselves are changed by App.set_keymap.
    """
    ACTIONS[:] = [replace(a, shown=shown.get(a.name, a.shown)) for a in _MADE]
    moved = {_PAIRED.get(name) for name in shown}
    PAIRS[:] = [pair for pair in _MADE_PAIRS if pair[1] not in moved]


def bindings() -> list[Binding]:
    """The table as Textual wants it."""
    made = [Binding(action.keys, action.name, action.label, show=False, tooltip=action.about,
                    key_display=action.shown, priority=action.priority, id=f"ktop.{action.name}")
            for action in ACTIONS]
    return made + [Binding(keys, name, show=False) for keys, name in ALIASES.items()]
