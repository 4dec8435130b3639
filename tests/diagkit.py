"""Frames for the tests of diagnosis: a quiet host, to which a test adds its trouble."""

from __future__ import annotations

from collections.abc import Callable

from ktop import hist
from ktop.diagnosis.engine import Diagnosis
from ktop.diagnosis.model import Report
from ktop.model import (
    SCHEMA,
    Block,
    Cgroup,
    Clock,
    Cpu,
    Files,
    Frame,
    Health,
    Hist,
    Host,
    Pressure,
    Process,
    Processes,
    Sched,
    Tcp,
)
from ktop.model_block import Device
from ktop.model_files import FileOps
from ktop.model_tcp import Connection
from ktop.scope import Members

SECOND = 1_000_000_000
Trouble = Callable[[Frame], None]


def process(pid: int, comm: str = "work", cgroup: int = 2, **figures: object) -> Process:
    """A process that does nothing but what is said."""
    row = Process(pid=pid, ppid=1, uid=0, comm=comm, args=comm, cgroup=cgroup, state="S",
                  threads=1, start_boottime_ns=pid, cpu_pct=0.0, runq_wait_pct=0.0,
                  blocked_pct=0.0, off_cpu_pct={}, waits_pct={}, voluntary_per_s=0.0,
                  involuntary_per_s=0.0)
    for name, value in figures.items():
        setattr(row, name, value)
    return row


def sleeper(pid: int, **figures: object) -> Process:
    """A process that sleeps by choice."""
    return process(pid, "daemon", off_cpu_pct={"sleep": 100.0}, **figures)


def latency(ns: float, n: int = 100) -> Hist:
    """So many samples of about that latency."""
    return Hist({hist.slot(int(ns)): n}, int(ns) * n)


def frame(seq: int, *rows: Process) -> Frame:
    """A quiet host of two CPUs with one disk, at second `seq`."""
    return Frame(
        schema=SCHEMA, seq=seq,
        clock=Clock(seq * SECOND, seq * SECOND, SECOND if seq > 1 else None),
        host=Host("h", "6", "x86_64", 2, 0, seq * SECOND, 8 << 30, 4 << 30),
        processes=Processes(rows=[sleeper(10), sleeper(11), *rows]),
        sched=Sched(runq=latency(5_000), waiting=0.0, switches_per_s=500.0),
        cpus=[Cpu(i, user_pct=5.0, idle_pct=95.0, iowait_pct=0.0, steal_pct=0.0, waiting=0.0,
                  switches_per_s=250.0) for i in range(2)],
        cgroups=[Cgroup(1, "/", "/"), Cgroup(2, "/app", "app"), Cgroup(3, "/loud", "loud")],
        users={}, health=Health("bpf"),
        files=Files(watched=True, host=FileOps(1.0, 1.0, 0.0)),
        tcp=Tcp(connections_total=0, segments_out_per_s=0.0),
        block=Block(devices=[disk()], owned=True), pressure=Pressure())


def disk(**figures: object) -> Device:
    """The disk, idle but for what is said."""
    row = Device("vda", 254 << 20, counted=True, reads_per_s=0.0, writes_per_s=0.0,
                 read_bytes_per_s=0.0, write_bytes_per_s=0.0, util_pct=0.0, queue=0.0)
    for name, value in figures.items():
        setattr(row, name, value)
    return row


def connection(number: int, remote: str = "10.0.0.2", port: int = 5432, pid: int = 100,
               **figures: object) -> Connection:
    """An established connection that we made and that was answered."""
    row = Connection(number, 1, "10.0.0.1", 40_000 + number, remote, port, "ESTAB", active=True,
                     pid=pid, comm="client", cgroup=2, age_ns=60 * SECOND, tx_bytes=1000,
                     rx_bytes=1000, tx_bytes_per_s=100.0, rx_bytes_per_s=100.0, srtt_ns=500_000,
                     min_rtt_ns=400_000, rto_ns=200_000_000, segments_out_per_s=10.0,
                     retrans_per_s=0.0, sent_ago_ms=60, received_ago_ms=55)
    for name, value in figures.items():
        setattr(row, name, value)
    return row


def watch(trouble: Trouble, seconds: int = 8, members: Members | None = None,
          diagnosis: Diagnosis | None = None, first: int = 1) -> Report:
    """The report after so many seconds of trouble."""
    diagnosis = diagnosis or Diagnosis()
    report = None
    for seq in range(first, first + seconds):
        f = frame(seq)
        trouble(f)
        report = diagnosis.update(f, members)
    assert report is not None
    return report


def add(f: Frame, *rows: object) -> None:
    """More processes."""
    f.processes.rows += rows  # type: ignore[arg-type]


def verdict(report: Report) -> tuple[str, str]:
    """(pipe, state)."""
    return report.verdict.pipe, report.verdict.state


def crowded(f: Frame) -> None:
    """More that want a CPU than there are."""
    for cpu in f.cpus:
        cpu.idle_pct, cpu.waiting = 0.0, 1.0
    add(f, process(100, "victim", cpu_pct=40.0, runq_wait_pct=60.0),
        *(process(200 + i, "loud", 3, cpu_pct=40.0, runq_wait_pct=47.0) for i in range(3)))
