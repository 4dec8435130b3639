"""Call stacks: their probes, their records' bytes, what their C side is told.

Runs under the system's python3 too (standard library only).
"""

from __future__ import annotations

from ktop.bpf.layout import packer
from ktop.bpf.probes import Probe

HZ = 49             # not a divisor of what programs do by the clock (10 ms ticks, 50 or 60 Hz)
DEPTH = 127         # /proc/sys/kernel/perf_event_max_stack: the helper's own limit
TRACES = 8_192      # distinct stacks, kernel and user apart
SUMS = 16_384       # distinct (process, command, state, stacks)
THREADS = 16_384    # threads timed at once
TARGETS = 16_384    # processes, or control groups, of a target

STACK = (("n", "Q"), ("ip", f"{DEPTH}Q"))
KEY = (("kernel", "Q"), ("user", "Q"), ("tgid", "I"), ("kind_state", "I"), ("comm", "16s"))
SUM = (("samples", "Q"), ("ns", "Q"))
ABSENCE = (("off_ns", "Q"), ("pend_ns", "Q"), ("run_delay_ns", "Q"), ("key", "40s"))
CONFIG = (("flags", "I"), ("only", "I"))
STACK_STRUCT, KEY_STRUCT, SUM_STRUCT = packer(STACK), packer(KEY), packer(SUM)
ABSENCE_STRUCT, CONFIG_STRUCT = packer(ABSENCE), packer(CONFIG)

KINDS = ("cpu", "off")  # enum in stacks.bpf.c
NONE, LOST, UNSEEN = 0, 1, 2  # stacks without a hash
CONFIG_PIDS, CONFIG_CGROUPS, CONFIG_CHILDREN = 1, 2, 4
# Since the programs were loaded, summed over CPUs (enum ktop_stack_counter).
COUNTERS = ("traces", "sums", "threads")

_ASKED = "loaded while stacks are taken (S)"
_FRAMES = ("functions that keep no frame pointer, and often their callers; frames past the "
           f"{DEPTH}th")

PROBES: tuple[Probe, ...] = (
    Probe("stacks_profile", "stacks", "clock", str(HZ),
          "what is on the CPU, by kernel and user stack", "none",
          _FRAMES + "; what runs with interrupts off is charged to where they come on", _ASKED),
    Probe("stacks_switch", "stacks", "tp", "sched_switch",
          "time blocked, by the stack that blocked", "none", _FRAMES, _ASKED),
    Probe("stacks_fork", "stacks", "tp", "sched_process_fork",
          "processes that the target starts meanwhile", "none: only those there at the start",
          "nothing", _ASKED),
    Probe("stacks_blocked", "stacks", "iter", "task",
          "what was blocked already when one began to look, by kernel stack",
          "none: such threads count from the next time they block", "their user stack", _ASKED),
)
# Which probes a kind of stacks needs.
PROBES_OF = {"cpu": ("stacks_profile", "stacks_fork"),
             "off": ("stacks_switch", "stacks_fork", "stacks_blocked")}

DEFINES: dict[str, int] = {
    "KTOP_STACK_DEPTH": DEPTH,
    "KTOP_STACK_TRACES": TRACES,
    "KTOP_STACK_SUMS": SUMS,
    "KTOP_STACK_THREADS": THREADS,
    "KTOP_STACK_TARGETS": TARGETS,
    "KTOP_STACK_SIZE": STACK_STRUCT.size,
    "KTOP_STACK_KEY_SIZE": KEY_STRUCT.size,
    "KTOP_STACK_ABSENCE_SIZE": ABSENCE_STRUCT.size,
}
