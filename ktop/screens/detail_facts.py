"""One process's facts as lines of name and value: identity, rights, memory, limits. Pure."""

from __future__ import annotations

import time
from dataclasses import dataclass

from ktop import format as fmt
from ktop import hist
from ktop.model import Frame, Process
from ktop.model_detail import UNLIMITED, Credentials, Detail, Memory, ResourceLimit
from ktop.panes.base import Names
from ktop.screens.detail_state import Life
from ktop.widgets.strips import cells

_SIZES = (("resident", "rss_bytes"), ("anon", "anon_bytes"), ("file", "file_bytes"),
          ("shmem", "shmem_bytes"), ("swapped", "swap_bytes"), ("locked", "locked_bytes"),
          ("peak", "peak_bytes"), ("virtual", "virtual_bytes"),
          ("page tables", "page_tables_bytes"))


@dataclass(frozen=True)
class Fact:
    """One line. `at` is its place: the identity of the row. name is empty in what goes on."""

    at: int
    name: str
    text: str
    style: str = "normal"


class Facts:
    """Collects lines, wrapped to a width."""

    def __init__(self, width: int) -> None:
        self._width = max(20, width)
        self.rows: list[Fact] = []

    def add(self, name: str, text: str | None, why: str = "", style: str = "normal") -> None:
        """A value; unknown (None) is `-` and why."""
        if text is None:
            text, style = f"-  ({why})" if why else "-", "dim"
        for line in wrap(text, self._width):
            self.rows.append(Fact(len(self.rows), name, line, style))
            name = ""


def wrap(text: str, width: int) -> list[str]:
    """Lines of at most `width` cells, cut after a space where there is one, else anywhere."""
    lines: list[str] = []
    while cells(text) > width:
        end, used, space = 0, 0, 0
        for char in text:
            used += cells(char)
            if used > width:
                break
            end += 1
            if char == " ":
                space = end
        end = space if space > width // 2 else max(1, end)
        lines.append(text[:end].rstrip())
        text = text[end:]
    return [*lines, text]


def _as_of(life: Life) -> str:
    """What to say of facts that are not of this frame."""
    return f"{life.no_detail}; as of {fmt.clock_time(life.detail_wall_ns)}"


def names_of(numbers: list[int], names: dict[int, str]) -> str:
    """`0 root`, each number once."""
    return ", ".join(f"{n} {names[n]}" if n in names and names[n] != str(n) else str(n)
                     for n in dict.fromkeys(numbers))


def _family(parents: list[Process]) -> str | None:
    return " < ".join(f"{p.comm} {p.pid}" for p in parents) or None


def _waits(found: dict[str, float]) -> str:
    """What it waited for, finer than its states, % of one thread's wall time; the worst first."""
    worst = sorted(found.items(), key=lambda item: -item[1])
    return "  ".join(f"{name.replace('_', ' ')} {fmt.pct(pct)}%" for name, pct in worst if pct > 0)


def _lag(row: Process) -> str:
    if row.runq is None:
        return "it did not wait in this interval"
    values = hist.percentiles(row.runq)
    return "  ".join(f"{name.upper() if name != 'max' else name} {fmt.duration(value)}"
                     for name, value in values.items())


def overview(life: Life, frame: Frame, names: Names, parents: list[Process],
             width: int) -> list[Fact]:
    """Who it is: what the frame has of every process, and what was asked about this one."""
    facts, row, detail = Facts(width), life.row, life.detail
    why = life.no_detail
    if detail is not None and life.detail_wall_ns is not None:
        facts.add("note", _as_of(life), style="dim")
    if life.ended is not None:
        facts.add("ended", _end(life))
    elif row is not None:
        facts.add("run queue", _lag(row))
        if row.waits_pct:
            facts.add("waits for", _waits(row.waits_pct))
    facts.add("arguments", _arguments(life), "a kernel thread has none"
              if row and row.kernel_thread else why, "strong")
    for name in ("exe", "cwd", "root"):
        missing = detail.reasons.get(name, "") if detail else why
        facts.add(name, getattr(detail, name) if detail else None, "a kernel thread has none"
                  if name == "exe" and row and row.kernel_thread else missing)
    if row is not None:
        begun = frame.host.boot_wall_ns + row.start_boottime_ns
        age = frame.host.uptime_ns - row.start_boottime_ns
        facts.add("started", f"{_date(begun)} {fmt.clock_time(begun)}, {fmt.age(age)} ago"
                  if age >= 0 else None)
    ppid = row.ppid if row else life.last.ppid if life.last else None
    facts.add("parents", _family(parents), "" if ppid is None else
              f"process {ppid}, which is not in the table" if ppid else "the kernel started it")
    group = row.cgroup if row else life.last.cgroup if life.last else None
    facts.add("cgroup", _group(group, frame, names))
    _owner(facts, life, names)
    _more(facts, detail, why)
    return facts.rows


def _end(life: Life) -> str:
    ended = life.ended
    if ended is None or ended.lifetime_ns is None:
        return "how long it lived is not known"
    return (f"it lived {fmt.duration(ended.lifetime_ns)} and took "
            f"{fmt.duration(ended.cpu_ns)} of CPU time")


def _arguments(life: Life) -> str | None:
    """As looked at, else as the frame has them, else as its events."""
    detail = life.detail
    if detail is not None and detail.args:
        cut = f" (+{fmt.size(detail.args_cut)} cut)" if detail.args_cut else ""
        return " ".join(_quoted(arg) for arg in detail.args) + cut
    return (life.row.args if life.row else None) or life.args or None


def _quoted(arg: str) -> str:
    return f'"{arg}"' if " " in arg or not arg else arg


def _date(wall_ns: int) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(wall_ns // 1_000_000_000))


def _group(number: int | None, frame: Frame, names: Names) -> str | None:
    group = next((g for g in frame.cgroups if g.id == number), None)
    if group is None:
        return None if number is None else names.cgroup(number)
    return group.path if group.name in ("/", group.path) else f"{group.path} ({group.name})"


def _owner(facts: Facts, life: Life, names: Names) -> None:
    detail = life.detail
    if detail is None or detail.credentials is None:
        known = life.row or life.last
        facts.add("user", names.user(known.uid) if known else None, life.no_detail)
        return
    rights = detail.credentials
    facts.add("user", names_of(rights.uids, detail.user_names))
    facts.add("group", names_of([*rights.gids, *rights.groups], detail.group_names))


def _more(facts: Facts, detail: Detail | None, why: str) -> None:
    memory = detail.memory if detail else None
    if detail is None or memory is None:
        facts.add("memory", None, why)
        return
    facts.add("memory", memory_text(memory, detail.reasons))
    facts.add("oom", f"score {memory.oom_score}, adjusted by {memory.oom_score_adj}"
              if memory.oom_score is not None else None, detail.reasons.get("oom_score", ""))
    io = detail.io
    facts.add("I/O since start", None if io is None else
              f"read {fmt.size(io.read_chars)} in {fmt.count(io.read_calls)} calls, "
              f"{fmt.size(io.read_bytes)} from devices; wrote {fmt.size(io.write_chars)} in "
              f"{fmt.count(io.write_calls)} calls, {fmt.size(io.write_bytes)} to devices, "
              f"{fmt.size(io.cancelled_bytes)} taken back", detail.reasons.get("io", ""))
    plan = detail.scheduling
    if plan is not None:
        level = f" {plan.io_level}" if plan.io_class not in (None, "none", "idle") else ""
        facts.add("scheduling", f"{plan.policy}"
                  + (f" priority {plan.priority}" if plan.priority else "")
                  + f", nice {plan.nice}, CPUs {plan.cpus or '-'}, "
                  f"I/O class {plan.io_class or '-'}{level}")


def memory_text(memory: Memory, reasons: dict[str, str]) -> str:
    """`resident 12M  anon 3M ...  pss 2M (8s ago)`."""
    parts = [f"{name} {fmt.size(getattr(memory, field))}" for name, field in _SIZES
             if getattr(memory, field) is not None]
    if memory.pss_bytes is not None:
        parts.append(f"pss {fmt.size(memory.pss_bytes)} ({fmt.age(memory.pss_age_ns)} ago)")
    elif "pss" in reasons:
        parts.append(f"pss - ({reasons['pss']})")
    return "  ".join(parts) or "none: a kernel thread"


def rights(life: Life, width: int) -> list[Fact]:
    """What it may do and where it lives: capabilities, seccomp, namespaces, cgroups."""
    facts, detail = Facts(width), life.detail
    if detail is None:
        facts.add("rights", None, life.no_detail)
        return facts.rows
    found = detail.credentials or Credentials()
    why = detail.reasons.get("status", life.no_detail)
    facts.add("capabilities", None if found.effective is None else
              "all" if found.all_effective else " ".join(found.effective) or "none", why)
    facts.add("no new privs", {True: "yes", False: "no", None: None}[found.no_new_privs],
              "older kernel")
    filters = f" ({found.filters} filters)" if found.filters else ""
    facts.add("seccomp", None if found.seccomp is None else found.seccomp + filters, why)
    if len(found.uids) == 4:
        facts.add("user ids", "real {}, effective {}, saved {}, fs {}".format(*found.uids))
    if len(found.gids) == 4:
        facts.add("group ids", "real {}, effective {}, saved {}, fs {}".format(*found.gids))
    own = [n for n in detail.namespaces if n.shared is False]
    facts.add("namespaces", ", ".join(f"{n.kind} {n.inode}" for n in own) + " of its own"
              if own else "the same as ktop's" if detail.namespaces else None,
              detail.reasons.get("namespaces", ""))
    for controllers, path in detail.cgroups:
        facts.add(f"cg {controllers}", path)
    return facts.rows


def limit_text(limit: ResourceLimit, value: int | None) -> str:
    """A limit in its unit: 8.0M, 20000, unlimited."""
    if value is None:
        return "-"
    if value == UNLIMITED:
        return "unlimited"
    if limit.unit == "bytes":
        return fmt.size(value)
    if limit.unit == "us":
        return fmt.duration(value * 1000)
    return f"{fmt.count(value)}s" if limit.unit == "seconds" else fmt.count(value)


def limit_share(limit: ResourceLimit) -> float | None:
    """% of the soft limit in use; None where either is unknown or there is none."""
    if limit.used is None or limit.soft is None or limit.soft <= 0:
        return None
    return 100.0 * limit.used / limit.soft
