"""Scheduler: how long threads wait for a CPU, on which one, who waits, and who is held back."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Container

from ktop import format as fmt
from ktop import hist, theme
from ktop.model import OFF_CPU, Frame, Hist
from ktop.panes.base import column_help, paragraph, why_missing
from ktop.panes.sched_columns import cgroup_columns, cpu_columns, waiter_columns
from ktop.panes.views import ViewPane, chart_span, view_keys
from ktop.widgets.bars import KINDS, ValueBars, legend
from ktop.widgets.heatmap import Heatmap
from ktop.widgets.histogram import Histogram
from ktop.widgets.strips import Line, Piece, Rule, cut
from ktop.widgets.table import VirtualTable

VIEWS = {"overview": ("hist", "heat"), "cpus": ("cpus",), "waiters": ("waiters",),
         "cgroups": ("cgroups",), "offcpu": ("offcpu",)}
_CPU_ROWS = 8  # at most, beside everything else
_LATENCY = "Run queue latency"
_OFF_CPU_HELP = {
    "disk": "uninterruptible, waiting for a block device (iowait)",
    "uninterruptible": "state D for another reason", "io": "waiting in a file system call",
    "network": "waiting in a socket call", "lock": "waiting for a lock (futex, flock)",
    "sleep": "by choice: timers, polling, waiting for children or work",
    "stopped": "by a signal or a debugger", "other": "none of these"}


class SchedulerPane(ViewPane):
    """Run queue latency now and over time, CPUs, waiters, cgroups, time off CPU.

    With the cursor on a waiter or a cgroup the histogram is that one's; Escape gives the host's.
    """

    title = "Scheduler"
    key = "5"
    layer = "sched"
    BINDINGS: ClassVar[list[BindingType]] = [
        *view_keys("sched", "Overview, CPUs, waiters, control groups, threads off CPU")]
    views = VIEWS
    big_views: ClassVar = {"overview": ("hist", "heat", "cpus", "offcpu", "waiters", "cgroups"),
                           "waiters": ("hist", "heat", "waiters"),
                           "cgroups": ("hist", "heat", "cgroups")}
    titles: ClassVar = {
        "hist": _LATENCY, "heat": "The last 5 minutes", "cpus": "CPUs",
        "offcpu": "Threads off CPU", "waiters": "Top waiters", "cgroups": "Control groups"}
    groups: ClassVar = {"left": ("hist", "heat"),
                        "right": ("cpus", "offcpu", "waiters", "cgroups")}
    split = ("left", "right")
    subjects = ("waiters", "cgroups")
    followers = ("hist",)
    DEFAULT_CSS = """
    SchedulerPane.-split #left { margin: 0 1 0 0; }
    SchedulerPane #legend { height: 1; }
    """

    def compose(self) -> ComposeResult:
        """A summary, and six sections in two columns."""
        yield Line(id="summary")
        with Container(id="body"):
            with Container(id="left", classes="column"):
                yield self._section("hist", Histogram(id="histogram"))
                yield self._section("heat", Heatmap(id="heatmap"))
            with Container(id="right", classes="column"):
                yield self._section(
                    "cpus", VirtualTable(cpu_columns(), lambda c: c.cpu, frozen=1, sort=None,
                                         id="cpus-table"), Line(id="legend"))
                yield self._section("offcpu", ValueBars(id="offcpu-bars"))
                yield self._section("waiters", VirtualTable(
                    waiter_columns(self.names), lambda p: (p.pid, p.start_boottime_ns), frozen=1,
                    sort="runq", id="waiters-table", empty="nobody waits"))
                yield self._section("cgroups", VirtualTable(
                    cgroup_columns(), lambda g: g.id, frozen=0, sort="cpu", id="cgroups-table",
                    empty="none known"))

    # -- each tick -----------------------------------------------------------------------------

    def _summary(self, frame: Frame) -> list[list[Piece]]:
        """The identity that ties rate and latency to the number of waiting threads."""
        sched, interval = frame.sched, frame.clock.interval_ns
        n = hist.count(sched.runq) if sched.runq else None
        waits = n * 1e9 / interval if n is not None and interval else None
        mean = sched.runq.sum_ns / n if sched.runq and n else None
        return [[
            (" ", "normal"), (fmt.rate(waits), "strong"), (" waits/s ", "dim"),
            (theme.glyphs().times, "dim"), (" ", "dim"),
            (fmt.duration(mean), "strong"), (" mean = ", "dim"),
            (fmt.number(sched.waiting), "strong"), (" waiting   ", "dim"),
            (fmt.rate(sched.switches_per_s), "normal"),
            (" switches/s  ", "dim"), (fmt.rate(sched.migrations_per_s), "normal"),
            (" migrations/s", "dim")]]

    def _show_hist(self, frame: Frame) -> None:
        runq, whose = self._runq(frame)
        interval = frame.clock.interval_ns
        note = ""
        if runq and interval:
            note = f"{fmt.grouped(hist.count(runq))} waits in {fmt.duration(interval)}"
        title = f"{_LATENCY} of {cut(whose, 20)}" if whose else _LATENCY
        self.query_one("#hist-rule", Rule).set(title, note)
        empty = why_missing(frame, "sched_switch")
        if runq is not None or (whose and frame.sched.runq is not None):
            empty = "nothing waited in this interval"
        self.query_one(Histogram).show(runq, empty, of=self._subject)

    def _runq(self, frame: Frame) -> tuple[Hist | None, str]:
        """The histogram in view and whose it is: the host's unless a row is under the cursor."""
        if self._subject is not None:
            section, key = self._subject
            if section == "waiters":
                for p in frame.processes.rows:
                    if (p.pid, p.start_boottime_ns) == key:
                        return p.runq, f"{p.comm} ({p.pid})"
            for group in frame.cgroups:
                if section == "cgroups" and group.id == key:
                    return group.runq, group.name
        return frame.sched.runq, ""

    def _show_heat(self, frame: Frame) -> None:
        heatmap = self.query_one(Heatmap)
        span, when = chart_span(self._history)
        columns = self._history.runq_columns(heatmap.columns, span)
        known = [h for h in columns if h is not None]
        note = ""
        if known:
            p99 = hist.percentile(hist.merge(known), 99)
            note = f"{'host, ' if self._subject else ''}P99 {fmt.duration(p99)}"
        self.query_one("#heat-rule", Rule).set(f"The last {when}", note)
        heatmap.show(columns, span, why_missing(frame, "sched_switch", "no history"))

    def _show_cpus(self, frame: Frame) -> None:
        self._take("cpus", min(len(frame.cpus), _CPU_ROWS) + 3)
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

    def _show_offcpu(self, frame: Frame) -> None:
        off = frame.sched.off_cpu
        empty = why_missing(frame, "sched_switch", "no reasons")
        rows: list[tuple[str, float | None, str, str]] = []
        if off is not None:
            for reason in OFF_CPU:
                mean = off.get(reason)
                # sleepers would dwarf the rest, and they sleep by choice: no bar
                size = None if reason == "sleep" else mean
                rows.append((reason, size, fmt.number(mean), "normal" if size else "dim"))
        self._take("offcpu", len(OFF_CPU) + 1)
        self.query_one("#offcpu-rule", Rule).set(note="mean number of threads" if rows else "")
        self.query_one(ValueBars).show(rows, empty)

    def _show_waiters(self, frame: Frame) -> None:
        selected = self.query_one("#waiters-table", VirtualTable).selected
        # the one under the cursor stays, also while it does not wait
        rows = [p for p in frame.processes.rows if (p.runq_wait_pct or 0) >= 0.05
                or (p.pid, p.start_boottime_ns) == selected]
        known = any(p.runq_wait_pct is not None for p in frame.processes.rows)
        empty = "nobody waits" if known else why_missing(frame, "tasks", "no waits known")
        self._fill("waiters", rows, empty, f"{len(rows)} waited" if rows else "")

    def _show_cgroups(self, frame: Frame) -> None:
        limited = sum(1 for g in frame.cgroups if g.quota_cpus is not None)
        held = sum(1 for g in frame.cgroups if g.throttled_per_s)
        note = f"{limited} with a quota, {held} throttled" if limited else "none has a quota"
        self._fill("cgroups", frame.cgroups, "none known", note if frame.cgroups else "")

    def _take(self, section: str, rows: int) -> None:
        """Sections of known height leave the rest to the others, but fill the screen when alone."""
        rich = self.view == "overview" and self.big
        self._fix_height(section, rows if rich else "1fr")

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


