"""Synthetic Frames for tests: deterministic, rich enough for every pane, no kernel anywhere.

`make_frame()` is one tick, `stream(n)` the ticks of one quiet-then-busy host in order,
`bare_frame()` what arrives when nothing could be measured (first sample, no BPF). The text in them
went through `ktop.text.clean`, as the contract promises, but began as hostile as it comes.
"""

from __future__ import annotations

import random

from ktop import hist, text
from ktop.model import (
    EVENTS_PER_FRAME,
    OFF_CPU,
    SCHEMA,
    Cgroup,
    Clock,
    Cpu,
    Frame,
    Health,
    Hist,
    Host,
    Probe,
    Process,
    Processes,
    ProcessEvent,
    ProcessFold,
    Sched,
    Thread,
)

SECOND = 1_000_000_000
WALL0 = 1_770_000_000 * SECOND  # 2026-02-02 02:40:00 UTC
UPTIME0 = 90_061 * SECOND  # a day, an hour, a minute and a second
USERS = {0: "root", 33: "www-data", 999: "postgres", 1000: "anna", 65534: "nobody"}
HOSTILE = [
    text.clean(b"\x1b[31mred\x1b[0m"),
    text.clean(b"[bold]not markup[/bold]"),
    text.clean(b"new\nline\ttab"),
    text.clean(b"\xff\xfebad utf8"),
    text.clean("rtl\u202eexe.txt"),
    "数据库服务器",
    "日本語プロセス",
    "[/]",
    "[@click=app.bell]x[/]",
]
_COMMANDS = [
    ("postgres", "postgres: writer process", 999, 2),
    ("nginx", "nginx: worker process", 33, 3),
    ("python3", "/usr/bin/python3 /srv/app/worker.py --queue default --concurrency 8", 1000, 4),
    ("java", "java -Xmx4g -jar /opt/kafka/kafka.jar server.properties", 1000, 5),
    ("sshd", "sshd: anna [priv]", 0, 1),
    ("bash", "-bash", 1000, 1),
    ("redis-server", "redis-server 127.0.0.1:6379", 65534, 6),
    ("cron", "/usr/sbin/cron -f", 0, 1),
]
_CGROUPS = [
    (1, "/", "/"),
    (2, "/system.slice/postgresql.service", "postgresql"),
    (3, "/system.slice/nginx.service", "nginx"),
    (4, "/system.slice/docker-4f2a9c.scope", "docker:web-worker"),
    (5, "/kubepods/burstable/pod1/kafka", "kafka-0"),
    (6, "/user.slice/user-1000.slice", text.clean(b"evil\x1b]0;pwn\x07[red]")),
]
_WHY = ["epoll_wait", "futex", "read", "nanosleep", "poll", "select", "wait4", "recvfrom"]


def make_hist(samples: int = 2000, center_ns: float = 12_000, tail: float = 0.01,
              seed: int = 1) -> Hist:
    """A latency histogram: log-normal around `center_ns`, a share `tail` 200 times slower."""
    rng = random.Random(seed)
    counts: dict[int, int] = {}
    total = longest = 0
    drawn = min(samples, 2000)
    for _ in range(drawn):
        ns = int(rng.lognormvariate(0.0, 1.1) * center_ns)
        if rng.random() < tail:
            ns *= 200
        slot = hist.slot(ns)
        counts[slot] = counts.get(slot, 0) + max(1, samples // drawn)
        total += ns * max(1, samples // drawn)
        longest = max(longest, ns)
    return Hist(counts, total, longest)


def make_process(index: int, seq: int = 1, busy: float = 1.0) -> Process:
    """The index-th process of the synthetic host; the same identity in every frame."""
    rng = random.Random(f"{index}/{seq}")
    pid = 1 if index == 0 else 100 + index * 3
    if index == 0:
        comm, args, uid, cgroup = "systemd", "/sbin/init splash", 0, 1
    elif index % 11 == 5:
        comm, args, uid, cgroup = f"kworker/{index % 2}:{index}", None, 0, None
    elif index % 17 == 7:
        comm, args, uid, cgroup = HOSTILE[index % len(HOSTILE)], None, 1000, 6
        args = f"{comm} --name {comm}"
    else:
        comm, args, uid, cgroup = _COMMANDS[index % len(_COMMANDS)]
    hot = index in (3, 10, 21)
    cpu = (rng.uniform(30, 95) if hot else rng.choice([0, 0, 0, 0, rng.uniform(0, 4)])) * busy
    blocked = rng.uniform(20, 90) * busy if index in (1, 9) else 0.0
    return Process(
        pid=pid, ppid=2 if args is None else 1, uid=uid, comm=comm, args=args, cgroup=cgroup,
        state="D" if blocked > 60 else "R" if cpu > 40 else "I" if args is None else "S",
        threads=8 if index % 8 == 3 else 1, start_boottime_ns=(index + 1) * 7 * SECOND,
        kernel_thread=args is None, cpu_pct=cpu, user_pct=cpu * 0.7, system_pct=cpu * 0.3,
        runq_wait_pct=cpu * rng.uniform(0.05, 0.3) if cpu else 0.0,
        blocked_pct=blocked, blocked_reason=("iowait" if blocked else _WHY[index % len(_WHY)]),
        off_cpu_pct={"sleep": max(0.0, 100 - cpu - blocked), "disk": blocked},
        voluntary_per_s=rng.choice([0.0, 3.0, 120.0]) * busy,
        involuntary_per_s=cpu * 3, migrations_per_s=cpu / 10,
        rss_bytes=0 if args is None else (index % 40 + 1) * 7_345_678,
        major_faults_per_s=2.0 if index == 9 else 0.0,
        read_bytes_per_s=4_200_000.0 * busy if index == 9 else 0.0,
        write_bytes_per_s=880_000.0 * busy if index in (1, 9) else 0.0,
        forks_per_s=0.75 if index == 8 else 0.0, execs_per_s=0.75 if index == 8 else 0.0,
        runq=make_hist(400, 9_000 + cpu * 900, 0.02, seed=index) if cpu else None)


def make_threads(rows: list[Process]) -> list[Thread]:
    """The threads of every row that has more than one."""
    return [
        Thread(tid=p.pid + i, pid=p.pid, comm=p.comm if i == 0 else f"{p.comm[:9]}-{i}",
               state=p.state if i == 0 else "S", cpu=i % 2,
               cpu_pct=None if p.cpu_pct is None else p.cpu_pct / (2 ** (i + 1)),
               runq_wait_pct=p.runq_wait_pct if i == 0 else 0.0, blocked_pct=0.0,
               blocked_reason=None if i == 0 else "futex", voluntary_per_s=1.0,
               involuntary_per_s=0.0)
        for p in rows if p.threads > 1 for i in range(p.threads)]


def make_events(seq: int, number: int = 6) -> list[ProcessEvent]:
    """Executions and exits of one tick: a health check, a failed exec, a signal, hostile text."""
    base = WALL0 + seq * SECOND
    pid = 50_000 + seq * 10
    common = {"uid": 0, "parent_comm": "cron", "cgroup": 1}
    events = [
        ProcessEvent("exec", base - 9 * SECOND // 10, pid, 124, comm="sh", **common,
                     args="/bin/sh -c \"/usr/local/bin/healthcheck --all\"", filename="/bin/sh"),
        ProcessEvent("exec_failed", base - 8 * SECOND // 10, pid + 1, pid, comm="sh", **common,
                     args="/opt/old/check-disk", filename="/opt/old/check-disk", code=2,
                     error="ENOENT"),
        ProcessEvent("exit", base - 7 * SECOND // 10, pid + 1, pid, comm="sh", **common, code=127,
                     lifetime_ns=1_400_000, cpu_ns=900_000, args="/opt/old/check-disk"),
        ProcessEvent("exit", base - 5 * SECOND // 10, pid, 124, comm="sh", **common, code=0,
                     lifetime_ns=402_000_000, cpu_ns=3_000_000, args="/bin/sh -c healthcheck"),
        ProcessEvent("exit", base - 3 * SECOND // 10, pid + 2, 1, uid=1000, comm="worker",
                     parent_comm="systemd", cgroup=4, signal="SIGSEGV", core_dumped=seq % 2 == 0,
                     lifetime_ns=75 * SECOND, cpu_ns=60 * SECOND, args=None),
        ProcessEvent("exec", base - SECOND // 10, pid + 3, 1, uid=1000, comm=HOSTILE[0],
                     parent_comm=HOSTILE[5], cgroup=6, args=" ".join(HOSTILE), args_cut=12),
    ]
    while len(events) < min(number, EVENTS_PER_FRAME):
        i = len(events)
        events.append(ProcessEvent("exec", base - SECOND // 10 + i, pid + i, 124, comm="date",
                                   **common, args=f"date +%s {i}", filename="/bin/date"))
    return events[:number]


def make_folds() -> list[ProcessFold]:
    """The folded view of a minute."""
    minute = 60 * SECOND
    return [
        ProcessFold("cron", "healthcheck", 1, minute, 45, 0, 45, 0, 45.0, 310_000_000,
                    18 * SECOND, None, "/usr/local/bin/healthcheck --all"),
        ProcessFold("cron", "sh", 1, minute, 45, 45, 45, 45, 45.0, 90_000_000, 60_000_000, "ENOENT",
                    "/opt/old/check-disk"),
        ProcessFold("systemd", "worker", 4, minute, 1, 0, 1, 1, 1.0, 60 * SECOND, 75 * SECOND,
                    "SIGSEGV", "/srv/app/worker --once"),
        ProcessFold(HOSTILE[6], HOSTILE[0], 6, minute, 2, 0, 0, 0, 2.0, 0, 0, None, HOSTILE[1]),
    ]


def make_cgroups(rows: list[Process], seq: int = 1) -> list[Cgroup]:
    """Control groups with their sums; kafka-0 has a quota and is throttled."""
    groups = []
    for number, path, name in _CGROUPS:
        mine = [p for p in rows if p.cgroup == number]
        tight = number == 5
        groups.append(Cgroup(
            id=number, path=path, name=name, processes=len(mine),
            threads=sum(p.threads for p in mine), cpu_pct=sum(p.cpu_pct or 0.0 for p in mine),
            runq_wait_pct=sum(p.runq_wait_pct or 0.0 for p in mine),
            blocked_pct=sum(p.blocked_pct or 0.0 for p in mine),
            quota_cpus=1.5 if tight else None, periods_per_s=10.0 if tight else None,
            throttled_per_s=3.0 + seq % 3 if tight else None,
            throttled_pct=42.0 if tight else None,
            runq=make_hist(300, 11_000, 0.02, seed=number) if mine else None))
    return groups


def make_cpus(cpus: int, seq: int = 1, busy: float = 1.0) -> list[Cpu]:
    """Per-CPU shares of time that add up to 100 %."""
    rows = []
    for i in range(cpus):
        rng = random.Random(f"cpu{i}/{seq}")
        user, system = rng.uniform(20, 55) * busy, rng.uniform(5, 20) * busy
        irq, soft, wait, steal = 0.5 * busy, 3.0 * busy, 6.0 * busy * (i == 0), 2.0 * busy
        rows.append(Cpu(
            cpu=i, user_pct=user, system_pct=system, nice_pct=0.0, irq_pct=irq, softirq_pct=soft,
            iowait_pct=wait, steal_pct=steal,
            idle_pct=max(0.0, 100 - user - system - irq - soft - wait - steal),
            runq_len=rng.uniform(0.1, 2.4) * busy, runq_len_max=int(1 + 4 * busy),
            runq_samples=99, waiting=rng.uniform(0, 0.8) * busy,
            switches_per_s=rng.uniform(800, 5200) * busy))
    return rows


def make_probes(absent: tuple[str, ...] = ()) -> list[Probe]:
    """The foundation's probes; those named in `absent` were refused by the kernel."""
    names = [("tasks", "processes"), ("process_exec", "processes"), ("process_exit", "processes"),
             ("exec_failed", "processes"), ("sched_switch", "sched"), ("runqlen", "sched")]
    return [
        Probe(name, layer, f"tp/{name}", "absent", reason="EPERM: lockdown: integrity",
              shows=f"what {name} shows", blind="everything")
        if name in absent else
        Probe(name, layer, f"tp/{name}", "live", shows=f"what {name} shows",
              run_ns=4_600_000, runs=100_000)
        for name, layer in names]


def make_frame(seq: int = 1, processes: int = 50, cpus: int = 2, busy: float = 1.0,
               events: int = 6, absent: tuple[str, ...] = ()) -> Frame:
    """One complete tick. `busy` 0.0 is an idle host, 1.0 a loaded one; `absent` probes to miss."""
    rows = [make_process(i, seq, busy) for i in range(processes)]
    no_sched = "sched_switch" in absent
    runq = make_hist(4000, 8_000 + 40_000 * busy * (seq % 30) / 30, 0.01 + 0.02 * busy, seed=seq)
    return Frame(
        schema=SCHEMA, seq=seq,
        clock=Clock(WALL0 + seq * SECOND, UPTIME0 + seq * SECOND, SECOND if seq > 1 else None),
        host=Host("db-1", "6.18.0-generic", "x86_64", cpus, WALL0 - UPTIME0,
                  UPTIME0 + seq * SECOND, 8 << 30, 3 << 30, 1.52, 0.97, 0.51),
        processes=Processes(
            rows=rows, threads=make_threads(rows), events=make_events(seq, events),
            folds=make_folds(), forks_total=900 * seq, execs_total=800 * seq,
            execs_failed_total=45 * seq, exits_total=899 * seq, forks_per_s=3.0, execs_per_s=2.0,
            exits_per_s=3.0),
        sched=Sched(
            runq=None if no_sched else runq,
            runq_len={0: 60, 1: 90, 2: 30, 3: 12, 5: 2} if busy else {0: 190, 1: 4},
            waiting=None if no_sched else runq.sum_ns / SECOND,
            switches_per_s=None if no_sched else 200 + 6200.0 * busy,
            migrations_per_s=None if no_sched else 140.0 * busy,
            off_cpu=None if no_sched else
            {reason: (2.5 * busy) / (i + 1) if reason != "sleep" else 88.0
             for i, reason in enumerate(OFF_CPU)}),
        cpus=make_cpus(cpus, seq, busy), cgroups=make_cgroups(rows, seq), users=dict(USERS),
        health=Health(
            source="bpf", banner="sched_switch: EPERM: lockdown" if no_sched else None,
            probes=make_probes(absent), collector_cpu_pct=0.8, collector_rss_bytes=31 << 20,
            tick_ns=4_300_000, probes_cpu_pct=0.21, probes_estimated=True, map_bytes=3 << 20))


def bare_frame(seq: int = 1, processes: int = 5) -> Frame:
    """What a host says that cannot be measured: every optional figure is None."""
    rows = [Process(pid=i + 1, ppid=0, uid=None, comm=f"task-{i}", args=None, cgroup=None,
                    state="S", threads=1, start_boottime_ns=i * SECOND) for i in range(processes)]
    return Frame(
        schema=SCHEMA, seq=seq, clock=Clock(WALL0 + seq * SECOND, UPTIME0 + seq * SECOND),
        host=Host("bare", "5.4.0", "aarch64", 2, WALL0 - UPTIME0, UPTIME0 + seq * SECOND),
        processes=Processes(rows=rows), sched=Sched(), cpus=[Cpu(0), Cpu(1)],
        cgroups=[Cgroup(1, "/", "/")], users={},
        health=Health(
            source="procfs", banner="no BPF: not root; run: sudo ktop",
            probes=[Probe(name, layer, f"tp/{name}", "absent", reason="EPERM: not root")
                    for name, layer in (("sched_switch", "sched"), ("tasks", "processes"),
                                        ("process_exec", "processes"))]))


def stream(n: int, processes: int = 50, cpus: int = 2, **kwargs: object) -> list[Frame]:
    """`n` consecutive ticks of one host."""
    return [make_frame(seq, processes, cpus, **kwargs)  # type: ignore[arg-type]
            for seq in range(1, n + 1)]
