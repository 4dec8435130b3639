"""The columns of the Scheduler pane: CPUs, top waiters, cgroups."""

from __future__ import annotations

from ktop import format as fmt
from ktop import hist, theme
from ktop.model import Cgroup, Cpu
from ktop.panes.base import Names, short_command
from ktop.panes.figures import cgroup_column, figure, latency, percentile
from ktop.widgets.bars import KINDS, stacked
from ktop.widgets.columns import Column
from ktop.widgets.strips import Piece


def _share(key: str, title: str, field: str, warn: float, bad: float, text: str) -> Column:
    return figure(key, title, 5, fmt.pct, field, text, (warn, bad))


def _cpu_bar(cpu: Cpu, width: int) -> list[Piece]:
    return stacked([(kind, getattr(cpu, f"{kind}_pct")) for kind in KINDS], width)


def cpu_columns() -> list[Column]:
    """Rows are Cpus."""
    return [
        Column("cpu", "CPU", 4, lambda c: str(c.cpu), sort=lambda c: c.cpu, help="logical CPU"),
        Column("runq", "RUNQ", 5, lambda c: fmt.number(c.runq_len), sort=lambda c: c.runq_len,
               style=lambda c: theme.load(c.runq_len, 2, 4),
               help="mean run queue length, the running thread included (sampled)"),
        Column("wait", "WAIT", 5, lambda c: fmt.number(c.waiting), sort=lambda c: c.waiting,
               style=lambda c: theme.load(c.waiting, 1, 3),
               help="mean number of threads that waited here: waits/s x mean wait"),
        _share("user", "USER%", "user_pct", 1e9, 1e9, "user time, % of that CPU (/proc/stat)"),
        _share("system", "SYS%", "system_pct", 20, 50, "system time"),
        _share("iowait", "IOWT%", "iowait_pct", 20, 40, "idle while a disk request was under way"),
        _share("steal", "STL%", "steal_pct", 5, 10, "taken by the hypervisor"),
        _share("softirq", "SIRQ%", "softirq_pct", 15, 30, "software interrupts: network, timers"),
        _share("irq", "IRQ%", "irq_pct", 5, 15, "hardware interrupts"),
        Column("switches", "SW/s", 6, lambda c: fmt.rate(c.switches_per_s),
               sort=lambda c: c.switches_per_s, help="context switches a second",
               style=lambda c: theme.load(c.switches_per_s, 1e12, 1e12)),
        Column("max", "MAXQ", 5, lambda c: fmt.count(c.runq_len_max),
               sort=lambda c: c.runq_len_max, help="longest queue sampled"),
        Column("bar", "TIME", 16, lambda _: "", "left", draw=_cpu_bar, min_width=14,
               help="the shares as one bar; what is left is idle"),
    ]


def _latencies() -> list[Column]:
    return [
        latency("p99", "P99", lambda r: percentile(r.runq, 99), "99th percentile of its waits"),
        latency("p50", "P50", lambda r: percentile(r.runq, 50), "median of its waits for a CPU"),
        latency("max", "MAX", lambda r: r.runq.max_ns if r.runq else None,
                 "its longest wait, where it is known"),
        Column("waits", "WAITS", 6, lambda r: fmt.count(hist.count(r.runq) if r.runq else None),
               sort=lambda r: hist.count(r.runq) if r.runq else None,
               help="waits that ended in this interval"),
    ]


def _usage() -> list[Column]:
    return [
        Column("runq", "RQW%", 5, lambda r: fmt.pct(r.runq_wait_pct),
               sort=lambda r: r.runq_wait_pct,
               style=lambda r: theme.load(r.runq_wait_pct, 5, 20),
               help="time runnable but waiting for a CPU, % of one thread's wall time"),
        Column("cpu", "CPU%", 5, lambda r: fmt.pct(r.cpu_pct), sort=lambda r: r.cpu_pct,
               style=lambda r: theme.load(r.cpu_pct, 1e9, 1e9), help="CPU time, % of one CPU"),
    ]


def waiter_columns(names: Names) -> list[Column]:
    """Rows are Processes."""
    runq, cpu = _usage()
    p99, p50, longest, waits = _latencies()
    return [
        Column("pid", "PID", 7, lambda p: str(p.pid), sort=lambda p: p.pid, help="process id"),
        runq, p50, p99, cpu, waits, longest,
        cgroup_column(names),
        Column("command", "COMMAND", 16,
               lambda p: f"[{p.comm}]" if p.kernel_thread else short_command(p.args or p.comm),
               "left", sort=lambda p: p.comm.casefold(), min_width=18, help="command line"),
    ]


def throttled_share(group: Cgroup) -> float | None:
    """Periods in which the quota ran out, % of the periods; None without a quota."""
    if group.periods_per_s is None or group.throttled_per_s is None:
        return None
    return 100 * group.throttled_per_s / group.periods_per_s if group.periods_per_s else 0.0


def cgroup_columns() -> list[Column]:
    """Rows are Cgroups."""
    runq, cpu = _usage()
    p99, p50, longest, waits = _latencies()
    return [
        cpu, runq, p99,
        Column("quota", "QUOTA", 5, lambda g: fmt.number(g.quota_cpus),
               sort=lambda g: g.quota_cpus, style=lambda g: theme.load(g.quota_cpus, 1e9, 1e9),
               help="CPUs it may use: cpu.max or cfs_quota_us / cfs_period_us"),
        Column("thr", "THR%", 5, lambda g: fmt.pct(throttled_share(g)), sort=throttled_share,
               style=lambda g: theme.load(throttled_share(g), 1, 25),
               help="periods in which the quota ran out, % of all (cpu.stat)"),
        Column("time", "STOP%", 5, lambda g: fmt.pct(g.throttled_pct),
               sort=lambda g: g.throttled_pct,
               style=lambda g: theme.load(g.throttled_pct, 1, 25),
               help="time throttled, summed over its CPUs, % of wall time"),
        Column("periods", "PER/s", 5, lambda g: fmt.rate(g.periods_per_s),
               sort=lambda g: g.periods_per_s,
               style=lambda g: theme.load(g.periods_per_s, 1e9, 1e9),
               help="quota periods a second in which it ran"),
        Column("throttled", "THR/s", 5, lambda g: fmt.rate(g.throttled_per_s),
               sort=lambda g: g.throttled_per_s,
               style=lambda g: theme.load(g.throttled_per_s, 0.1, 1e9),
               help="throttled periods a second"),
        p50, waits, longest,
        Column("procs", "PROCS", 5, lambda g: fmt.count(g.processes), sort=lambda g: g.processes,
               help="processes in it"),
        Column("name", "CGROUP", 16, lambda g: g.name, "left", sort=lambda g: g.name.casefold(),
               min_width=12, help="container, pod or unit"),
    ]
