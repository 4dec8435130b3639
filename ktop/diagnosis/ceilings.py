"""What was declared (`--limit`, `[limits]`) of interfaces and volumes, and how near it is.

Two limits bound what passes: operations (packets) and bytes a second. The nearer one counts: a
gateway may be out of packets at a hundredth of its bandwidth. Near alone stalls nobody, so it is a
finding; who waits there too has it in the evidence of the pipe.
"""

from __future__ import annotations

from dataclasses import dataclass

from ktop.diagnosis.look import Look
from ktop.diagnosis.model import Evidence, Finding
from ktop.model_block import Device
from ktop.model_tcp import Interface


@dataclass(frozen=True)
class Use:
    """How much of one declared limit is used. name: device or interface. unit: `packets`,
    `operations` or `bytes`; value and limit are a second. other_pct: of the other limit."""

    name: str
    unit: str
    value: float
    limit: float
    source: str
    other_pct: float | None = None

    @property
    def pct(self) -> float:
        """Used, % of the limit."""
        return 100 * self.value / self.limit

    def evidence(self) -> Evidence:
        """As a line of evidence."""
        return Evidence(f"{self.unit} of {self.name}, of the declared limit", self.value, "/s",
                        f"{self.source}; --limit", self.limit)


def _nearer(name: str, source: str, figures: list[tuple[str, float | None, float | None]],
            ) -> Use | None:
    """The one of (unit, value, limit) of which most is used."""
    known = sorted(((value / limit, unit, value, limit) for unit, value, limit in figures
                    if value is not None and limit), reverse=True)
    if not known:
        return None
    _, unit, value, limit = known[0]
    return Use(name, unit, value, limit, source, 100 * known[1][0] if len(known) > 1 else None)


def _most(*values: float | None) -> float | None:
    return max((v for v in values if v is not None), default=None)


def of_interface(row: Interface) -> Use | None:
    """Of an interface: its busier direction. None: nothing was declared, or nothing is known."""
    if row.limit is None:
        return None
    return _nearer(row.name, "/proc/net/dev", [
        ("packets", _most(row.rx_packets_per_s, row.tx_packets_per_s), row.limit.packets_per_s),
        ("bytes", _most(row.rx_bytes_per_s, row.tx_bytes_per_s), row.limit.bytes_per_s)])


def of_device(row: Device) -> Use | None:
    """Of a volume: reads and writes together."""
    if row.limit is None or row.reads_per_s is None or row.writes_per_s is None:
        return None
    moved = (row.read_bytes_per_s or 0.0) + (row.write_bytes_per_s or 0.0)
    return _nearer(row.name, "/proc/diskstats", [
        ("operations", row.reads_per_s + row.writes_per_s, row.limit.iops),
        ("bytes", moved, row.limit.bytes_per_s)])


def interfaces(look: Look) -> list[Use]:
    """Declared interfaces of the scope's network namespaces, the nearest to its limit first."""
    tcp = look.frame.tcp
    if tcp is None:
        return []
    mine = {n.id for n in tcp.namespaces if look.members is None or any(
        look.members.has(None, group) for group in {n.cgroup, *n.cgroups} if group is not None)}
    found = [use for row in tcp.interfaces
             if row.netns in mine and (use := of_interface(row)) is not None]
    return sorted(found, key=lambda use: (-use.pct, use.name))


def _devices(look: Look) -> list[Use]:
    block = look.frame.block
    if block is None:
        return []
    users = {u.device for u in block.by_device if look.inside(u.pid, u.cgroup)}
    return [use for row in block.devices if (look.members is None or row.name in users)
            and (use := of_device(row)) is not None]


def ceilings(look: Look) -> list[tuple[str, Finding]]:
    """Declared limits of which most is used."""
    found = []
    for use in [*interfaces(look), *_devices(look)]:
        if use.pct < look.limits.ceiling_pct:
            continue
        other = f" (the other limit: {use.other_pct:.0f}%)" if use.other_pct is not None else ""
        found.append((f"ceiling {use.name} {use.unit}", Finding(
            "ceiling", f"{use.name} uses {use.pct:.0f}% of the {use.unit} a second that were "
            f"declared for it{other}", 0.0, [],
            [use.evidence(), Evidence("of the declared limit", use.pct, "%", "--limit, [limits]",
                                      look.limits.ceiling_pct)],
            "sar -n DEV 1" if use.unit == "packets" else "iostat -xz 1; sar -n DEV 1",
            f"fewer and larger {use.unit}" if use.unit != "bytes" else "less, or a bigger one")))
    return found
