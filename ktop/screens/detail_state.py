"""What frames say of one process: is it alive, how did it end, its states, its family. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from ktop import format as fmt
from ktop.history import History
from ktop.model import Frame, Process, ProcessEvent, Thread
from ktop.model_detail import Detail, Ended

_SAME_START_NS = 1_000_000_000  # clocks by which two sources know a start differ less than this
_DEAD = ("Z", "X")


@dataclass(frozen=True)
class Who:
    """The process that is looked at. start_boottime_ns None: of one that had ended already."""

    pid: int
    start_boottime_ns: int | None
    name: str

    def is_row(self, row: Process) -> bool:
        """Whether a row is of this process and not of another that has its number."""
        return row.pid == self.pid and (
            self.start_boottime_ns is None
            or abs(row.start_boottime_ns - self.start_boottime_ns) < _SAME_START_NS)

    def is_event(self, event: ProcessEvent, boot_wall_ns: int) -> bool:
        """Whether an execution or exit is this process's own."""
        if event.pid != self.pid:
            return False
        if self.start_boottime_ns is None:
            return True
        begun = boot_wall_ns + self.start_boottime_ns
        if event.lifetime_ns is not None:
            return abs(event.time_ns - event.lifetime_ns - begun) < 2 * _SAME_START_NS
        return event.time_ns >= begun - _SAME_START_NS


@dataclass
class Life:
    """One process at one frame: its row now, or the last one known.

    word: alive, ENDED, NOT BEGUN (the frame is from before it), GONE (nothing says how it ended).
    last: its exit, args its command line, as far as its events say. detail: of this frame; else
    the last one known, `detail_wall_ns` then says from when.
    """

    who: Who
    row: Process | None = None
    threads: list[Thread] = field(default_factory=list)
    word: str = "alive"
    ended: Ended | None = None
    last: ProcessEvent | None = None
    args: str | None = None
    detail: Detail | None = None
    detail_wall_ns: int | None = None
    no_detail: str = ""

    @property
    def alive(self) -> bool:
        """Whether it was when the frame was taken."""
        return self.word == "alive"


class Observer:
    """Follows one process through frames, in whatever order they come."""

    def __init__(self, who: Who) -> None:
        self.who = who
        self._last: tuple[Process, list[Thread]] | None = None
        self._detail: tuple[Detail, int] | None = None
        self._ended: Ended | None = None
        self._waited: tuple[int, int] = (0, 0)  # seq of the newest frame, how many without detail

    def look(self, frame: Frame, history: History) -> Life:
        """What this frame says."""
        row = next((p for p in frame.processes.rows if self.who.is_row(p)), None)
        if row is not None:
            if self.who.start_boottime_ns is None and row.state not in _DEAD:
                self.who = Who(self.who.pid, row.start_boottime_ns, self.who.name)
            threads = [t for t in frame.processes.threads if t.pid == row.pid]
            if row.state not in _DEAD or self._last is None:  # a zombie has nothing of what it was
                self._last = row, threads
        life = Life(self.who, *(self._last or (None, [])))
        self._find_detail(life, frame)
        self._find_end(life, frame, history, row)
        return life

    def remember(self, frame: Frame) -> bool:
        """Take its last row from an earlier frame, where it had ended before it was looked at."""
        row = next((p for p in frame.processes.rows if self.who.is_row(p)), None)
        if row is None or self._last is not None:
            return False
        self._last = row, [t for t in frame.processes.threads if t.pid == row.pid]
        return True

    def _find_detail(self, life: Life, frame: Frame) -> None:
        found = frame.detail
        if found is not None and found.pid == self.who.pid and self._same(found):
            if found.comm or found.ended is None:
                self._detail = found, frame.clock.wall_ns
            if found.ended is not None:
                self._ended = found.ended
            life.detail = self._detail[0] if self._detail else None
            life.no_detail = "" if self._detail else "it had ended before it was looked at"
            return
        seq, waited = self._waited
        self._waited = frame.seq, waited + (frame.seq != seq)
        if self._detail is not None:
            life.detail, life.detail_wall_ns = self._detail
        life.no_detail = ("asking" if self._waited[1] <= 2 and not self._detail
                          else "not looked at while this was taken")

    def _same(self, found: Detail) -> bool:
        start = self.who.start_boottime_ns
        return (start is None or found.start_boottime_ns is None
                or abs(found.start_boottime_ns - start) < _SAME_START_NS)

    def _find_end(self, life: Life, frame: Frame, history: History, row: Process | None) -> None:
        if row is not None and row.state not in _DEAD:
            return
        start = self.who.start_boottime_ns
        if row is None and start is not None and start > frame.host.uptime_ns:
            life.word = "NOT BEGUN"
            return
        boot = frame.host.boot_wall_ns
        fed = next((fed for fed in history.events() if fed.event.kind == "exit"
                    and self.who.is_event(fed.event, boot)), None)
        if fed is not None:
            event = life.last = fed.event
            life.args = fed.args
            self._ended = Ended(event.time_ns, event.code, event.signal, event.core_dumped,
                                event.lifetime_ns, event.cpu_ns)
        life.ended = self._ended
        known = life.ended is not None and life.ended.at_wall_ns is not None
        life.word = "ENDED" if known or row is not None else "GONE"


def end_text(life: Life) -> str:
    """`ENDED exit 3 at 12:30:01`, `ENDED SIGKILL`; "" while it lives."""
    if life.alive or life.word == "NOT BEGUN":
        return "" if life.alive else "NOT BEGUN at this time"
    ended = life.ended
    if ended is None or ended.at_wall_ns is None:
        return f"{life.word}: how it ended was not seen"
    how = ended.signal or ("exit -" if ended.code is None else f"exit {ended.code}")
    core = ", core dumped" if ended.core_dumped else ""
    return f"{life.word} {how}{core} at {fmt.clock_time(ended.at_wall_ns)}"


def states_of(frame: Frame, row: Process | None) -> dict[str, float] | None:
    """Mean number of its threads by state in this interval; None where it is not known.

    As the history's ticks have it, so that figures and picture are the same.
    """
    if row is None or frame.clock.interval_ns is None or row.cpu_pct is None:
        return None
    if row.off_cpu_pct is None:
        return None
    return {"cpu": row.cpu_pct / 100, "runq": (row.runq_wait_pct or 0.0) / 100,
            **{name: pct / 100 for name, pct in row.off_cpu_pct.items()}}


def thread_states(thread: Thread | Process) -> dict[str, float] | None:
    """Shares (1 is all the time) of one thread's interval by state."""
    off = getattr(thread, "off_cpu_pct", None)
    if thread.cpu_pct is None or off is None:
        return None
    return {"cpu": thread.cpu_pct / 100, "runq": (thread.runq_wait_pct or 0.0) / 100,
            **{name: pct / 100 for name, pct in off.items()}}


def ancestors(host: Frame, life: Life) -> list[Process]:
    """Its parent, the parent's parent and so on, as far as they live."""
    by_pid = {p.pid: p for p in host.processes.rows}
    found: list[Process] = []
    ppid = life.row.ppid if life.row else life.last.ppid if life.last else 0
    while (above := by_pid.get(ppid)) is not None and above not in found:
        found.append(above)
        ppid = above.ppid
    return found


def children(host: Frame, pid: int) -> list[Process]:
    """The processes whose parent it is."""
    return [p for p in host.processes.rows if p.ppid == pid]
