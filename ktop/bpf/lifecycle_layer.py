"""Processes layer, second part: the probes of executions and exits.

Runs under the system's python3 too (standard library only).
"""

from __future__ import annotations

from ktop.bpf.layout import ARGS_MAX
from ktop.bpf.probes import Probe

_SYSCALL_TAX = "costs every syscall of the host about 70 ns while attached"

PROBES = (
    Probe("process_exec", "processes", "tp", "sched_process_exec",
          "executions with their arguments",
          "none",
          f"a command line past {ARGS_MAX} bytes"),
    Probe("process_exit", "processes", "tp", "sched_process_exit",
          "exits with code or signal, lifetime, CPU time",
          "none", "nothing"),
    Probe("exec_failed", "processes", "tracepoint", "syscalls/sys_exit_execve",
          "executions that failed, with errno",
          "none", "arguments past the 32nd; on machines other than x86 all arguments",
          _SYSCALL_TAX),
    Probe("execat_failed", "processes", "tracepoint", "syscalls/sys_exit_execveat",
          "the same for execveat(2)", "none", "as exec_failed", _SYSCALL_TAX),
)
DEFINES: dict[str, int] = {}
