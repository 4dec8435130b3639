"""Every number that diagnosis judges by, with its source. The only place for them.

The config file may have others: `diagnosis_cpu_stalled = 0.8` in its section [thresholds].

`stalled` figures are task-seconds a second. A figure without a published source says what it means.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace


@dataclass(frozen=True)
class Thresholds:
    """What counts. Fields are in the units that their names end with."""

    # -- hysteresis: named after about 3 s, dropped after about 6 s (issue: 5 s and 10 s) ----------
    smooth_s: float = 1.5       # time constant of the means that stalls are judged by
    name_s: float = 2.0         # so long must a pipe have stood out
    hold_s: float = 3.0         # more does not count
    fade: float = 0.6           # a second that does not stand out takes away so much of one
    finding_s: float = 2.5      # so long must a finding last, but for those of many seconds
    finding_keep_s: float = 2.0  # and goes so long after that

    # -- weights of the ranking: errors that stall, then saturation, then the rest (USE method) ----
    weight_errors: float = 3.0
    weight_saturated: float = 1.5
    weight_contended: float = 1.2
    weight_waiting: float = 0.7
    error_floor: float = 0.5    # an error counts as so much of a stall, however short it was

    # -- who ---------------------------------------------------------------------------------------
    culprit_share: float = 0.05  # of what is used; less is nobody's fault
    culprit_most: float = 0.5    # who uses more than all others waits for itself

    # -- cpu ---------------------------------------------------------------------------------------
    cpu_stalled: float = 0.5             # half a thread always waits
    cpu_waiting_per_cpu: float = 0.4     # PSI users alert at 30-60% of `some`
    cpu_waiting_one_cpu: float = 0.9     # one CPU has a waiter at all times (pinned threads)
    cpu_tail_stalled: float = 0.2        # less is enough when the waits are long:
    cpu_tail_ns: float = 10e6            # incidents with a P99 of 5-15 and 30-50 ms (SCENARIOS.md)
    cpu_busy_pct: float = 70.0           # "CPU at 70% and P99 five times P50" (SCENARIOS.md)
    runq_reference: float = 2.0          # run queue > 2-3 per CPU (SCENARIOS.md)
    steal_pct: float = 5.0               # steal > 5% (SCENARIOS.md)
    switches_per_cpu: float = 50_000.0   # switches/s per core (SCENARIOS.md)

    # -- quota -------------------------------------------------------------------------------------
    quota_stalled: float = 0.1           # a tenth of a thread is held back
    quota_periods_pct: float = 10.0      # of periods; CPUThrottlingHigh of Kubernetes: 25%
    quota_burst_ms: float = 100.0        # held back so long within a moment; "200-300 ms each time
    quota_burst_every_s: float = 60.0    # every 15 s" (SCENARIOS.md): two within so long

    # -- memory ------------------------------------------------------------------------------------
    memory_stalled: float = 0.15         # PSI `some` over 10-15% is felt; oomd acts at 60% for 30 s
    memory_reference_pct: float = 10.0
    refault_share: float = 0.3           # of what is read: what was thrown away a moment ago

    # -- block -------------------------------------------------------------------------------------
    queue_depth: float = 4.0             # > 4 on a small cloud volume (SCENARIOS.md)
    block_stalled: float = 1.8           # about two threads wait on one device at all times
    block_victim: float = 0.25           # a quarter of one thread, behind the requests of another
    block_own_share: float = 0.5         # whose own requests are the smaller part
    block_behind_queue: float = 2.0      # others' requests under way (netdata, USE: avgqu-sz > 1)
    held_stalled: float = 0.4            # threads wait, and the device has no requests of theirs
    held_share: float = 0.35             # of the wait that their requests account for
    limit_near_pct: float = 80.0         # of a limit (PCP pmie 85%, USE 60-70%)
    tail_ratio: float = 10.0             # P99 > 10 x median (SCENARIOS.md)
    tail_ns: float = 20e6                # and long enough to be felt ("2% of writes over 50 ms")
    tail_share: float = 0.5              # of the time in requests is time in such long ones
    tail_samples: float = 50.0           # requests before a tail is spoken of
    tail_stalled: float = 0.25           # a quarter of one thread's time
    ceiling_pct: float = 70.0            # of a declared limit ("packets > 70%", SCENARIOS.md)

    # -- file --------------------------------------------------------------------------------------
    fsync_bound: float = 0.4             # nearly half of a thread's time, and
    fsync_bound_share: float = 0.5       # half of what that process does while it has a CPU
    fsync_slow_stalled: float = 0.2      # less is enough when fsyncs are slow:
    fsync_ns: float = 10e6               # P99 > 10 ms (etcd's reference, SCENARIOS.md)
    dirty_stalled: float = 0.3           # writers paused by balance_dirty_pages()
    file_lock_stalled: float = 0.7       # flock and fcntl: a thread waits most of the time
    file_stalled: float = 0.5            # other waits in syscalls on files
    slow_op_ns: float = 10e6             # mean of a file operation on a slow mount
    file_lock_idle_s: float = 10.0       # a lock that nobody has got for so long is a stand-by's

    # -- tcp ---------------------------------------------------------------------------------------
    tcp_stalled: float = 0.3
    retrans_pct: float = 1.0             # of the segments; 0.1% is common, 1% is felt
    retrans_per_s: float = 1.0
    dsack_pct: float = 20.0              # of what was sent again: late then, not lost (at least)
    connect_wait_ns: float = 300e6       # longer than a handshake around the world
    queue_delay_ns: float = 5e6          # srtt above its minimum while data is queued (CoDel: 5 ms)
    queue_ratio: float = 3.0
    queue_socket_ns: float = 50e6        # or so long in the socket, where the link's own queue is
    queue_socket_rtt_ns: float = 1e6     # held short (TCP small queues): srtt above that, and
    queue_socket_ratio: float = 10.0     # so many times its least
    connect_failures_per_s: float = 0.5
    connect_failures_share: float = 0.3
    drops_per_s: float = 0.5             # by a firewall; others are shown only
    conntrack_pct: float = 95.0

    # -- lock --------------------------------------------------------------------------------------
    mutex_stalled: float = 0.8           # nearly one thread waits for a contended mutex, always
    futex_stalled: float = 1.5           # futexes of unknown kind: only with the signs of a lock:
    futex_turns_per_s: float = 10.0      # each of its threads waits again and again,
    futex_waiting_pct: float = 50.0      # for most of its time,
    futex_idle_per_s: float = 2.0        # all other threads do nothing,
    futex_one: float = 0.1               # and one at a time is not waiting, give or take so much

    # -- upstream ----------------------------------------------------------------------------------
    upstream_stalled: float = 0.5
    upstream_wait_ms: float = 20.0       # an answer that takes less is not slow (zones: 0.5-2 ms)
    upstream_forget_ms: float = 30e3     # subscriptions and long polls wait by choice
    upstream_rtts: float = 4.0
    upstream_busy_pct: float = 50.0      # a server on this host that works is not the wait's cause
    upstream_share: float = 0.6          # most of a thread's wall time, in answers however short,
    upstream_alone: float = 0.7          # or of a connection's, where no thread is seen to wait
    upstream_most: float = 1.3           # more requests than one at a time: nobody waits for each
    upstream_local_ns: float = 0.3e6     # on this host less is wakeups (0.1-0.5 ms in a zone)

    # -- findings ----------------------------------------------------------------------------------
    forks_per_s: float = 2.5             # "200 short processes a minute" is 3.3 (SCENARIOS.md)
    fork_lifetime_ns: float = 100e6      # of what is started: shells, helpers, health checks,
    fork_cpu_ns: float = 25e6            # which do little (an interpreter's start: 10-20 ms),
    fork_share: float = 0.5              # and no less than all else that is started: no compile
    missing_per_s: float = 20.0          # opens of what is not there, by one command
    missing_share: float = 0.5           # and most of its opens fail
    fd_left_s: float = 6 * 3600.0        # or a growth_per_min of
    fd_growth_per_min: float = 5.0


DEFAULT = Thresholds()
PREFIX = "diagnosis_"  # of their names in the config file's [thresholds]
NAMES = tuple(PREFIX + f.name for f in fields(Thresholds))


def chosen(found: Mapping[str, float]) -> Thresholds:
    """The defaults but for what `found` has under the names of the config file."""
    return replace(DEFAULT, **{name.removeprefix(PREFIX): value for name, value in found.items()
                               if name in NAMES})
