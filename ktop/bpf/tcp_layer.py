"""TCP layer: its probes, its records' bytes, what its C side is told.

Runs under the system's python3 too (standard library only).
"""

from __future__ import annotations

from ktop.bpf.probes import Probe

PROBES: tuple[Probe, ...] = ()
DEFINES: dict[str, int] = {}
