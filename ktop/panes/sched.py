"""Scheduler: how long threads wait for a CPU, on which one, who waits, and who is held back."""

from __future__ import annotations

from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container

from ktop import format as fmt
from ktop import hist, theme
from ktop.history import History
from ktop.model import OFF_CPU, Frame, Hist
from ktop.panes.base import Names, Pane, column_help, in_view, paragraph, why_missing
from ktop.panes.sched_columns import cgroup_columns, cpu_columns, waiter_columns
from ktop.widgets.bars import KINDS, ValueBars, legend
from ktop.widgets.columns import Key
from ktop.widgets.heatmap import Heatmap
from ktop.widgets.histogram import Histogram
from ktop.widgets.strips import Line, Piece, Rule, cut
from ktop.widgets.table import VirtualTable

WIDE, HIGH = 120, 32  # size of the pane from which everything is on one screen
MINUTE_NS = 60_000_000_000
SPAN_NS = 5 * MINUTE_NS
VIEWS = ("overview", "cpus", "waiters", "cgroups", "offcpu")
_BIG_SECTIONS = {"overview": ("hist", "heat", "cpus", "offcpu", "waiters", "cgroups"),
                 "waiters": ("hist", "heat", "waiters"), "cgroups": ("hist", "heat", "cgroups")}
_VIEW_SECTIONS = {"overview": ("hist", "heat"), "cpus": ("cpus",), "waiters": ("waiters",),
                  "cgroups": ("cgroups",), "offcpu": ("offcpu",)}
_SECTIONS = ("hist", "heat", "cpus", "offcpu", "waiters", "cgroups")
_LEFT = ("hist", "heat")
_CPU_ROWS = 8  # at most, beside everything else
_TITLES = {"hist": "Run queue latency", "heat": "The last 5 minutes", "cpus": "CPUs",
           "waiters": "Top waiters", "cgroups": "Control groups", "offcpu": "Threads off CPU"}
_OFF_CPU_HELP = {
    "disk": "uninterruptible, waiting for a block device (iowait)",
    "uninterruptible": "state D for another reason", "io": "waiting in a file system call",
    "network": "waiting in a socket call", "lock": "waiting for a lock (futex, flock)",
    "sleep": "by choice: timers, polling, waiting for children or work",
    "stopped": "by a signal or a debugger", "other": "none of these"}


class SchedulerPane(Pane):
    """Run queue latency now and over time, CPUs, waiters, cgroups, time off CPU.

    With the cursor on a waiter or a cgroup the histogram is that one's; Escape gives the host's.
    """

    title = "Scheduler"
    key = "5"
    layer = "sched"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("v", "view", "View", id="sched.view",
                tooltip="Overview, CPUs, waiters, control groups, threads off CPU"),
        Binding("o", "other", "Other part", id="sched.other",
                tooltip="Move the focus to the next table"),
    ]
    DEFAULT_CSS = """
    SchedulerPane #body { layout: horizontal; width: 1fr; height: 1fr; }
    SchedulerPane .column { layout: vertical; width: 1fr; height: 1fr; }
    SchedulerPane.-split #left { margin: 0 1 0 0; }
    SchedulerPane .section { layout: vertical; width: 1fr; height: 1fr; }
    SchedulerPane #legend { height: 1; }
    """

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.names = Names()
        self.view = "overview"
        self._subject: tuple[str, Key] | None = None  # table and identity of whose histogram it is
        self._frame: Frame | None = None
        self._history: History | None = None

    def compose(self) -> ComposeResult:
        """A summary, and six sections in two columns."""
        yield Line(id="summary")
        with Container(id="body"):
            with Container(id="left", classes="column"):
                with Container(id="hist", classes="section"):
                    yield Rule(_TITLES["hist"], id="hist-rule")
                    yield Histogram(id="histogram")
                with Container(id="heat", classes="section"):
                    yield Rule(_TITLES["heat"], id="heat-rule")
                    yield Heatmap(id="heatmap")
            with Container(id="right", classes="column"):
                with Container(id="cpus", classes="section"):
                    yield Rule(_TITLES["cpus"], id="cpus-rule")
                    yield VirtualTable(cpu_columns(), lambda c: c.cpu, frozen=1, sort=None,
                                       id="cpus-table")
                    yield Line(id="legend")
                with Container(id="offcpu", classes="section"):
                    yield Rule(_TITLES["offcpu"], id="offcpu-rule")
                    yield ValueBars(id="offcpu-bars")
                with Container(id="waiters", classes="section"):
                    yield Rule(_TITLES["waiters"], id="waiters-rule")
                    yield VirtualTable(waiter_columns(self.names),
                                       lambda p: (p.pid, p.start_boottime_ns), frozen=1,
                                       sort="runq", id="waiters-table", empty="nobody waits")
                with Container(id="cgroups", classes="section"):
                    yield Rule(_TITLES["cgroups"], id="cgroups-rule")
                    yield VirtualTable(cgroup_columns(), lambda g: g.id, frozen=0, sort="cpu",
                                       id="cgroups-table", empty="none known")

    # -- each tick -----------------------------------------------------------------------------

    def show(self, frame: Frame, history: History) -> None:
        """This tick's scheduler: only what is in view is worked out."""
        self._frame, self._history = frame, history
        self.names.learn(frame)
        self.query_one("#summary", Line).set(self._summary(frame))
        for section in _SECTIONS:
            if self.query_one(f"#{section}").display:
                getattr(self, f"_show_{section}")(frame, history)

    def _summary(self, frame: Frame) -> list[Piece]:
        """The identity that ties rate and latency to the number of waiting threads."""
        sched, interval = frame.sched, frame.clock.interval_ns
        n = hist.count(sched.runq) if sched.runq else None
        waits = n * 1e9 / interval if n is not None and interval else None
        mean = sched.runq.sum_ns / n if sched.runq and n else None
        return [
            (" ", "normal"), (fmt.rate(waits), "strong"), (" waits/s ", "dim"),
            (theme.glyphs().times, "dim"), (" ", "dim"),
            (fmt.duration(mean), "strong"), (" mean = ", "dim"),
            (fmt.number(sched.waiting), "strong"), (" waiting   ", "dim"),
             (fmt.rate(sched.switches_per_s), "normal"),
            (" switches/s  ", "dim"), (fmt.rate(sched.migrations_per_s), "normal"),
            (" migrations/s", "dim")]

    def _show_hist(self, frame: Frame, _history: History) -> None:
        runq, whose = self._runq(frame)
        interval = frame.clock.interval_ns
        note = ""
        if runq and interval:
            note = f"{fmt.grouped(hist.count(runq))} waits in {fmt.duration(interval)}"
        title = f"{_TITLES['hist']} of {cut(whose, 20)}" if whose else _TITLES["hist"]
        self.query_one("#hist-rule", Rule).set(title, note)
        empty = why_missing(frame, "sched_switch")
        if runq is not None or (whose and frame.sched.runq is not None):
            empty = "nothing waited in this interval"
        self.query_one(Histogram).show(runq, empty, of=self._subject)

    def _runq(self, frame: Frame) -> tuple[Hist | None, str]:
        """The histogram in view and whose it is: the host's unless a row is under the cursor."""
        if self._subject is not None:
            table, key = self._subject
            if table == "waiters-table":
                for p in frame.processes.rows:
                    if (p.pid, p.start_boottime_ns) == key:
                        return p.runq, f"{p.comm} ({p.pid})"
            for group in frame.cgroups:
                if table == "cgroups-table" and group.id == key:
                    return group.runq, group.name
        return frame.sched.runq, ""

    def on_virtual_table_highlighted(self, message: VirtualTable.Highlighted) -> None:
        """The histogram follows the cursor."""
        table = str(message.table.id)
        if table not in ("waiters-table", "cgroups-table"):
            return
        if message.key is not None:
            self._subject = (table, message.key)
        elif self._subject is not None and self._subject[0] == table:
            self._subject = None
        if self._frame is not None and self._history is not None:
            self._show_hist(self._frame, self._history)

    def _show_heat(self, frame: Frame, history: History) -> None:
        heatmap = self.query_one(Heatmap)
        # the first minute is shown large: in an incident nobody waits for five
        ticks = history.ticks
        young = not ticks or ticks[-1].at_ns - ticks[0].at_ns < MINUTE_NS
        span = MINUTE_NS if young else SPAN_NS
        columns = history.runq_columns(heatmap.columns, span)
        known = [h for h in columns if h is not None]
        note = ""
        if known:
            p99 = hist.percentile(hist.merge(known), 99)
            note = f"{'host, ' if self._subject else ''}P99 {fmt.duration(p99)}"
        self.query_one("#heat-rule", Rule).set(
            "The last minute" if young else _TITLES["heat"], note)
        heatmap.show(columns, span, why_missing(frame, "sched_switch", "no history"))

    def _show_cpus(self, frame: Frame, _history: History) -> None:
        self._fix_height("cpus", min(len(frame.cpus), _CPU_ROWS) + 3)
        self.query_one("#cpus-rule", Rule).set(note=self._queue_note(frame))
        self.query_one("#cpus-table", VirtualTable).set_rows(frame.cpus)
        used: list[str] = [k for k in KINDS if k in ("user", "system") or any(
            getattr(c, f"{k}_pct") for c in frame.cpus)]
        self.query_one("#legend", Line).set(legend(used))

    def _queue_note(self, frame: Frame) -> str:
        lengths = frame.sched.runq_len
        samples = sum(lengths.values())
        if not samples:
            known = [c.runq_len for c in frame.cpus if c.runq_len is not None]
            if not known:
                return why_missing(frame, "runqlen", "no queue lengths")
            return f"mean queue {fmt.number(sum(known) / len(known))} (computed)"
        mean = sum(length * n for length, n in lengths.items()) / samples
        return f"queue length: mean {fmt.number(mean)}, longest {max(lengths)}"

    def _show_offcpu(self, frame: Frame, _history: History) -> None:
        off = frame.sched.off_cpu
        empty = why_missing(frame, "sched_switch", "no reasons")
        rows: list[tuple[str, float | None, str, str]] = []
        if off is not None:
            for reason in OFF_CPU:
                mean = off.get(reason)
                # sleepers would dwarf the rest, and they sleep by choice: no bar
                size = None if reason == "sleep" else mean
                rows.append((reason, size, fmt.number(mean), "normal" if size else "dim"))
        self._fix_height("offcpu", len(OFF_CPU) + 1)
        self.query_one("#offcpu-rule", Rule).set(note="mean number of threads" if rows else "")
        self.query_one(ValueBars).show(rows, empty)

    def _show_waiters(self, frame: Frame, _history: History) -> None:
        table = self.query_one("#waiters-table", VirtualTable)
        # the one under the cursor stays, also while it does not wait
        rows = [p for p in frame.processes.rows if (p.runq_wait_pct or 0) >= 0.05
                or (p.pid, p.start_boottime_ns) == table.selected]
        known = any(p.runq_wait_pct is not None for p in frame.processes.rows)
        table.empty = "nobody waits" if known else why_missing(frame, "tasks", "no waits known")
        self.query_one("#waiters-rule", Rule).set(note=f"{len(rows)} waited" if rows else "")
        table.set_rows(rows)

    def _show_cgroups(self, frame: Frame, _history: History) -> None:
        limited = sum(1 for g in frame.cgroups if g.quota_cpus is not None)
        held = sum(1 for g in frame.cgroups if g.throttled_per_s)
        note = f"{limited} with a quota, {held} throttled" if limited else "none has a quota"
        self.query_one("#cgroups-rule", Rule).set(note=note if frame.cgroups else "")
        self.query_one("#cgroups-table", VirtualTable).set_rows(frame.cgroups)

    # -- layout --------------------------------------------------------------------------------

    @property
    def big(self) -> bool:
        """There is room for two columns of sections."""
        return self.size.width >= WIDE and self.size.height >= HIGH

    @property
    def rich(self) -> bool:
        """Everything fits on one screen, and is asked for."""
        return self.view == "overview" and self.big

    def on_resize(self, _event: events.Resize) -> None:
        """Another size may have room for more, or less."""
        self._arrange()

    def _arrange(self) -> None:
        shown = _VIEW_SECTIONS[self.view]
        if self.big:
            shown = _BIG_SECTIONS.get(self.view, shown)
        for section in _SECTIONS:
            self.query_one(f"#{section}").display = section in shown
        left = any(s in shown for s in _LEFT)
        right = any(s not in _LEFT for s in shown)
        self.query_one("#left").display = left
        self.query_one("#right").display = right
        self.set_class(left and right, "-split")
        if self._frame is not None and self._history is not None:
            # sizes are known after the layout: the charts ask for their width
            self.call_after_refresh(self.show, self._frame, self._history)
        if self.is_attached and self.has_focus_within:
            focused = self.screen.focused
            if focused is None or not in_view(focused, self):
                self.focus_main()

    def _fix_height(self, section: str, rows: int) -> None:
        """Sections of known height leave the rest to the others, but fill the screen when alone."""
        widget = self.query_one(f"#{section}")
        wanted: int | str = rows if self.rich else "1fr"
        if getattr(widget, "_ktop_height", None) != wanted:
            widget._ktop_height = wanted  # type: ignore[attr-defined]
            widget.styles.height = wanted

    # -- keys ----------------------------------------------------------------------------------

    def action_view(self) -> None:
        """The next view."""
        self.view = VIEWS[(VIEWS.index(self.view) + 1) % len(VIEWS)]
        self._arrange()
        self.focus_main()

    def action_other(self) -> None:
        """The next table in view."""
        tables = self.tables()
        if tables:
            at = next((i for i, table in enumerate(tables) if table.has_focus), -1)
            tables[(at + 1) % len(tables)].focus()

    def on_descendant_focus(self) -> None:
        """The rules say where the focus is."""
        self._rules()

    def on_descendant_blur(self) -> None:
        """The rules say where the focus is."""
        self._rules()

    def _rules(self) -> None:
        for section in ("cpus", "waiters", "cgroups"):
            focused = self.query_one(f"#{section}-table", VirtualTable).has_focus
            self.query_one(f"#{section}-rule", Rule).set(active=focused)

    # -- help ----------------------------------------------------------------------------------

    def help_text(self) -> str:
        """What every figure of this pane means."""
        reasons = "\n".join(f"  {name:<16}{text}" for name, text in _OFF_CPU_HELP.items())
        return "\n".join([
            paragraph("""Run queue latency: from runnable to running, once per time slice
                (sched_switch and the kernel's own sched_info.run_delay). Percentiles come from
                the histogram shown, exact to a quarter of an octave. waits/s x mean wait = threads
                waiting on average. A wait that has not ended is counted when it ends. In the
                picture of the last minutes a denser shade is more waits, by logarithm; where the
                line below it breaks, nothing was measured. With the cursor on a waiter or a
                control group the histogram is that one's; Escape goes back to the host's."""),
            "", "CPUs (shares of that CPU's time: /proc/stat)", column_help(cpu_columns()),
            "", "Top waiters", column_help(waiter_columns(self.names)),
            "", "Control groups (sums over their own processes)", column_help(cgroup_columns()),
            "", "Threads off CPU, by reason (mean number of threads)", reasons,
        ])


