"""What of a frame is compared: kinds of things, who they are, and their figures by field name.

A kind answers for a frame with rows of (key, name, values), or None where nothing is known of it
then. Values are figures or histograms; None is unknown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, NamedTuple

from ktop.model import Frame, Process

LAYERS = ("processes", "sched", "memory", "files", "tcp", "block")
Row = tuple[Any, str, Sequence[Any]]


class View(NamedTuple):
    """A frame, and what its numbers mean. by_pid: both spans are of one boot, so a process is its
    number and start; otherwise it is its command line.
    """

    frame: Frame
    groups: dict[int, str]
    by_pid: bool
    seconds: float

    def group(self, number: int | None) -> str:
        """Path of a control group."""
        return "-" if number is None else self.groups.get(number, str(number))


@dataclass(frozen=True, eq=False)
class Kind:
    """figures: names, in step with a row's values. cut: rows were left out of this frame, so that
    one that is missing may still be there. told: who appeared and who went is worth a line.
    """

    layer: str
    kind: str
    figures: tuple[str, ...]
    rows: Callable[[View], Iterable[Row] | None]
    cut: Callable[[Frame], bool] = lambda frame: False
    told: bool = False


def view(frame: Frame, by_pid: bool) -> View:
    """A frame to be read by kinds."""
    return View(frame, {group.id: group.path for group in frame.cgroups}, by_pid,
                (frame.clock.interval_ns or 0) / 1e9)


def _table(layer: str, kind: str, figures: str, rows: Callable[[Frame], Iterable[Any] | None],
           who: Callable[[Any, View], tuple[Any, str]],
           cut: Callable[[Frame], bool] = lambda frame: False, told: bool = False) -> Kind:
    """A kind whose rows are Parts; figures: paths of fields, the last name of each is its own."""
    paths = figures.split()
    get = attrgetter(*paths)
    alone = len(paths) == 1

    def read(at: View) -> Iterable[Row] | None:
        found = rows(at.frame)
        if found is None:
            return None
        return ((*who(row, at), (get(row),) if alone else get(row)) for row in found)

    return Kind(layer, kind, tuple(path.removeprefix("ops.") for path in paths), read, cut, told)


def _host(layer: str, figures: str, part: Callable[[Frame], Any]) -> Kind:
    """The figures of a whole layer."""
    def rows(frame: Frame) -> list[Any] | None:
        found = part(frame)
        return None if found is None else [found]

    return _table(layer, "", figures, rows, lambda row, at: ("", ""))


def _counted(layer: str, kind: str, figure: str, count: Callable[[View], Counter[str] | None],
             cut: Callable[[Frame], bool]) -> Kind:
    """Events by name, as a rate."""
    def read(at: View) -> Iterable[Row] | None:
        found = count(at)
        if found is None or not at.seconds:
            return None
        return ((name, name, (n / at.seconds,)) for name, n in found.items())

    return Kind(layer, kind, (figure,), read, cut)


# -- processes and the scheduler -------------------------------------------------------------------

def _process(p: Process, at: View) -> tuple[Any, str]:
    if at.by_pid:
        return (p.pid, p.start_boottime_ns), f"{p.pid} {p.comm}"
    return (p.args or p.comm, p.cgroup and at.group(p.cgroup)), p.comm


def _commands(at: View) -> Iterable[Row]:
    sums: dict[str, list[float | None]] = {}
    for p in at.frame.processes.rows:
        found = sums.setdefault(p.comm, [0.0, 0.0, 0.0, 0.0])
        for i, value in enumerate((1, p.cpu_pct, p.runq_wait_pct, p.blocked_pct)):
            held = found[i]
            found[i] = None if value is None or held is None else held + value
    return ((comm, comm, values) for comm, values in sums.items())


def _execs(at: View) -> Counter[str] | None:
    if at.frame.processes.execs_total is None and not at.frame.processes.events:
        return None
    return Counter(f"{e.parent_comm} > {e.comm}" for e in at.frame.processes.events
                   if e.kind == "exec")


def _bad(at: View) -> Counter[str] | None:
    if at.frame.processes.execs_total is None and not at.frame.processes.events:
        return None
    return Counter(
        f"{e.comm} {e.error or e.signal or f'exit {e.code}'}" for e in at.frame.processes.events
        if e.kind == "exec_failed" or (e.kind == "exit" and (e.signal or e.code)))


def _host_processes(at: View) -> Iterable[Row]:
    layer = at.frame.processes
    yield "", "", (len(layer.rows), sum(p.threads for p in layer.rows), layer.forks_per_s,
                   layer.execs_per_s, layer.exits_per_s)


def _states(at: View) -> Iterable[Row] | None:
    off = at.frame.sched.off_cpu
    if off is None:
        return None
    running = [p.cpu_pct for p in at.frame.processes.rows if p.cpu_pct is not None]
    found = {"on CPU": sum(running) / 100, "runnable": at.frame.sched.waiting, **off}
    return ((state, state, (value,)) for state, value in found.items())


def _waits(at: View) -> Iterable[Row] | None:
    known = [p.waits_pct for p in at.frame.processes.rows if p.waits_pct is not None]
    if not known:
        return None
    total: dict[str, float] = {}
    for waits in known:
        for reason, value in waits.items():
            total[reason] = total.get(reason, 0.0) + value / 100
    return ((reason, reason, (value,)) for reason, value in total.items())


_CPU = ("user_pct", "nice_pct", "system_pct", "irq_pct", "softirq_pct", "iowait_pct", "steal_pct",
        "idle_pct")


def _cpus(at: View) -> Iterable[Row] | None:
    cpus = at.frame.cpus
    if not cpus:
        return None
    shares = [[v for c in cpus if (v := getattr(c, name)) is not None] for name in _CPU]
    return [("", "", [sum(found) / len(cpus) if found else None for found in shares])]


def _events_cut(frame: Frame) -> bool:
    return frame.processes.events_cut > 0


_PROCESSES = (
    Kind("processes", "", ("processes", "threads", "forks_per_s", "execs_per_s", "exits_per_s"),
         _host_processes),
    _table("processes", "process",
           "cpu_pct runq_wait_pct blocked_pct rss_bytes read_bytes_per_s write_bytes_per_s "
           "voluntary_per_s involuntary_per_s major_faults_per_s forks_per_s threads runq",
           lambda f: f.processes.rows, _process, told=True),
    Kind("processes", "command", ("processes", "cpu_pct", "runq_wait_pct", "blocked_pct"),
         _commands),
    _counted("processes", "exec", "execs_per_s", _execs, _events_cut),
    _counted("processes", "failed", "failures_per_s", _bad, _events_cut),
    _table("processes", "cgroup", "cpu_pct runq_wait_pct blocked_pct processes throttled_per_s "
           "throttled_pct runq", lambda f: f.cgroups, lambda g, at: (g.path, g.path), told=True),
)
_SCHED = (
    _host("sched", "waiting switches_per_s migrations_per_s runq", lambda f: f.sched),
    Kind("sched", "CPU time", _CPU, _cpus),
    Kind("sched", "thread state", ("threads_mean",), _states),
    Kind("sched", "waits for", ("threads_mean",), _waits),
)
_MEMORY = (
    _host("memory", "memory_available_bytes load1", lambda f: f.host),
    _host("memory", "memory_some_pct memory_full_pct io_some_pct cpu_some_pct "
          "direct_reclaims_per_s scanned_direct_per_s scanned_kswapd_per_s swap_in_per_s "
          "swap_out_per_s refaults_per_s oom_kills_per_s swap_free_bytes", lambda f: f.pressure),
)

# -- files -----------------------------------------------------------------------------------------

_OPS = ("reads_per_s writes_per_s fsyncs_per_s opens_per_s errors_per_s read_bytes_per_s "
        "write_bytes_per_s inside read write fsync")
_OPS_OF = " ".join(f"ops.{name}" for name in _OPS.split())


def _watched(rows: str) -> Callable[[Frame], Iterable[Any] | None]:
    return lambda f: getattr(f.files, rows) if f.files is not None and f.files.watched else None


def _slow(at: View) -> Counter[str] | None:
    if at.frame.files is None or not at.frame.files.watched:
        return None
    return Counter(f"{e.comm} {e.op} {e.path or '-'}" for e in at.frame.files.slow)


def _open_errors(at: View) -> Counter[str] | None:
    if at.frame.files is None or not at.frame.files.watched:
        return None
    return Counter(f"{e.comm} {e.error} {e.path}" for e in at.frame.files.opens if e.error)


_FILES = (
    _host("files", _OPS, lambda f: f.files.host if f.files else None),
    _host("files", "opens_failed_per_s descriptors_host", lambda f: f.files),
    _host("files", "dirty_bytes writeback_bytes", lambda f: f.files.cache if f.files else None),
    _table("files", "file", _OPS_OF, _watched("rows"),
           lambda r, at: ((r.path,) if r.path else (r.dev, r.ino, r.generation),
                          r.path or f"inode {r.ino} on {r.dev}"),
           lambda f: bool(f.files and f.files.rows_cut)),
    _table("files", "filesystem", _OPS_OF, _watched("filesystems"),
           lambda r, at: (r.mount or r.dev, f"{r.mount or r.dev} {r.fstype or ''}".rstrip()),
           told=True),
    _table("files", "process", _OPS_OF, _watched("processes"),
           lambda r, at: ((r.pid, r.comm) if at.by_pid else r.comm,
                          f"{r.pid} {r.comm}" if at.by_pid else r.comm),
           lambda f: bool(f.files and f.files.processes_cut)),
    _counted("files", "slow", "slow_per_s", _slow, lambda f: bool(f.files and f.files.slow_cut)),
    _counted("files", "open failed", "failures_per_s", _open_errors,
             lambda f: bool(f.files and f.files.opens_cut)),
    _table("files", "descriptors", "open", lambda f: f.files.descriptors if f.files else None,
           lambda r, at: ((r.pid, r.comm) if at.by_pid else r.comm,
                          f"{r.pid} {r.comm}" if at.by_pid else r.comm),
           lambda f: bool(f.files and f.files.descriptors_cut)),
)

# -- tcp -------------------------------------------------------------------------------------------


def _peer(r: Any, at: View) -> tuple[Any, str]:
    sign = ">" if r.direction == "out" else "<"
    name = f"{r.comm or '-'} {sign} {r.remote}:{r.port}" if sign == ">" else (
        f"{r.comm or '-'}:{r.port} {sign} {r.remote}")
    return (r.direction, r.comm, r.remote, r.port, at.group(r.cgroup)), name


def _failed(at: View) -> Counter[str] | None:
    if at.frame.tcp is None:
        return None
    return Counter(f"{e.comm or '-'} > {e.remote}:{e.remote_port} {e.result}"
                   for e in at.frame.tcp.events
                   if e.kind == "connect" and e.result not in (None, "ok"))


def _retransmits(at: View) -> Iterable[Row] | None:
    tcp = at.frame.tcp
    if tcp is None:
        return None
    sent, again = tcp.segments_out_per_s, tcp.retrans_per_s
    share = None if sent is None or again is None or not sent else 100 * again / sent
    return [("", "", (share,))]


def _tcp(rows: str) -> Callable[[Frame], Iterable[Any] | None]:
    return lambda f: getattr(f.tcp, rows) if f.tcp is not None else None


_TCP = (
    _host("tcp", "tx_bytes_per_s rx_bytes_per_s connects_per_s connects_failed_per_s "
          "accepts_per_s closes_per_s segments_out_per_s retrans_per_s drops_per_s "
          "resets_sent_per_s resets_received_per_s connections_total rtt connect_latency",
          lambda f: f.tcp),
    Kind("tcp", "", ("retrans_pct",), _retransmits),
    _table("tcp", "peer", "connections tx_bytes_per_s rx_bytes_per_s retrans_per_s retrans_pct "
           "srtt_ns", _tcp("peers"), _peer, lambda f: bool(f.tcp and f.tcp.peers_cut), told=True),
    _counted("tcp", "connect failed", "failures_per_s", _failed,
             lambda f: bool(f.tcp and f.tcp.events_cut)),
    _table("tcp", "listener", "backlog drops_per_s accepts_per_s", _tcp("listeners"),
           lambda r, at: ((r.local, r.local_port), f"{r.comm or '-'} {r.local}:{r.local_port}"),
           lambda f: bool(f.tcp and f.tcp.listeners_cut), told=True),
    _table("tcp", "drop", "per_s", _tcp("drops"),
           lambda r, at: ((r.reason, r.protocol, r.place),
                          f"{r.reason} {r.protocol} {r.place}".rstrip())),
    _table("tcp", "interface", "rx_bytes_per_s tx_bytes_per_s rx_packets_per_s tx_packets_per_s "
           "rx_drops_per_s tx_drops_per_s rx_errors_per_s tx_errors_per_s", _tcp("interfaces"),
           lambda r, at: ((r.netns, r.name), r.name)),
    _table("tcp", "namespace", "sockets time_wait listen_overflows_per_s listen_drops_per_s "
           "conntrack_count conntrack_drops_per_s conntrack_insert_failed_per_s",
           _tcp("namespaces"), lambda r, at: ((r.name, r.id), r.name or f"net:[{r.id}]")),
)

# -- block -----------------------------------------------------------------------------------------


def _operations(at: View) -> Iterable[Row] | None:
    block = at.frame.block
    if block is None:
        return None
    return (((device.name, op.op), f"{device.name} {op.op}",
             (op.per_s, op.bytes_per_s, op.errors_per_s, op.queue, op.device, op.total))
            for device in block.devices for op in device.ops)


_BLOCK = (
    _host("block", "reads_per_s writes_per_s read_bytes_per_s write_bytes_per_s queue concurrency",
          lambda f: f.block),
    _table("block", "device", "reads_per_s writes_per_s discards_per_s flushes_per_s "
           "read_bytes_per_s write_bytes_per_s in_flight util_pct queue read_ns write_ns",
           lambda f: f.block.devices if f.block else None, lambda r, at: (r.name, r.name),
           lambda f: bool(f.block and f.block.devices_cut), told=True),
    Kind("block", "operation", ("per_s", "bytes_per_s", "errors_per_s", "queue", "device", "total"),
         _operations, lambda f: bool(f.block and f.block.devices_cut)),
    _table("block", "process", "reads_per_s writes_per_s others_per_s read_bytes_per_s "
           "write_bytes_per_s latency",
           lambda f: [u for u in f.block.users if u.pid is not None] if f.block else None,
           lambda r, at: ((r.pid, r.comm) if at.by_pid else r.comm,
                          f"{r.pid} {r.comm}" if at.by_pid else r.comm),
           lambda f: bool(f.block and f.block.users_cut)),
    _table("block", "cgroup", "reads_per_s writes_per_s read_bytes_per_s write_bytes_per_s latency",
           lambda f: f.block.groups if f.block else None,
           lambda r, at: (at.group(r.cgroup), at.group(r.cgroup))),
)

KINDS = (*_PROCESSES, *_SCHED, *_MEMORY, *_FILES, *_TCP, *_BLOCK)
