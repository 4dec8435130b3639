"""The JSON of `ktop diagnose --json` and `ktop replay FILE --diagnose --json`: what is in it.

    python -m ktop.answer > docs/diagnose.schema.json

Stable: fields are only ever added. Made from ktop/diagnosis/model.py, whose parts are arrays on the
wire and objects here.
"""

from __future__ import annotations

import functools
import sys
import types
import typing
from typing import Any

import msgspec

from ktop.diagnosis.model import Finding, Pipe, Report, Verdict
from ktop.model import Health
from ktop.parts import Part
from ktop.snapshot import as_json

if typing.TYPE_CHECKING:
    from ktop.judge import Episode


class Seen(msgspec.Struct):
    """How well it could see. source: bpf or proc. banner: what is missing, in words, or null.

    lost_events: in the last interval. collector_cpu_pct, probes_cpu_pct: of one CPU, null while not
    known. probes_absent: names of probes that could not be had.
    """

    source: str
    banner: str | None
    lost_events: int
    collector_cpu_pct: float | None
    probes_cpu_pct: float | None
    probes_absent: list[str]


@functools.cache
def _object(part: type[Part]) -> type[msgspec.Struct]:
    """The same fields as an object, none of them left out."""
    fields = [(field.name, _plain(field.type)) for field in msgspec.structs.fields(part)]
    return msgspec.defstruct(part.__name__, fields, namespace={"__doc__": part.__doc__})


def _plain(kind: Any) -> Any:
    if isinstance(kind, type) and issubclass(kind, Part):
        return _object(kind)
    if typing.get_origin(kind) is list:
        return list[_plain(typing.get_args(kind)[0])]  # type: ignore[misc]
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return typing.Union[tuple(map(_plain, typing.get_args(kind)))]  # noqa: UP007
    return kind


def answer() -> type[msgspec.Struct]:
    """The whole of it; `episodes` is a recording's only."""
    episode = msgspec.defstruct(
        "Episode", [("from_", float, msgspec.field(name="from")), ("to", float),
                    ("verdict", _object(Verdict))],
        namespace={"__doc__": "A pipe that was tight without a break: seconds since the epoch, "
                              "and the verdict when it stalled most."})
    return msgspec.defstruct("Diagnosis", [
        ("verdict", _object(Verdict)), ("pipes", list[_object(Pipe)]),  # type: ignore[misc]
        ("findings", list[_object(Finding)]), ("health", Seen),  # type: ignore[misc]
        ("episodes", list[episode] | msgspec.UnsetType, msgspec.UNSET)],  # type: ignore[valid-type]
        namespace={"__doc__": "What ktop diagnose --json prints; episodes: of a recording only."})


def report_of(report: Report, health: Health) -> dict[str, Any]:
    """A report as plain objects, with what was seen."""
    seen = Seen(health.source, health.banner, health.lost_events, health.collector_cpu_pct,
                health.probes_cpu_pct, [p.name for p in health.probes if p.status == "absent"])
    return {**{name: as_json(getattr(report, name)) for name in ("verdict", "pipes", "findings")},
            "health": msgspec.structs.asdict(seen)}


def episodes_of(episodes: list[Episode]) -> list[dict[str, Any]]:
    """Each with its span (seconds since the epoch) and the verdict at its worst."""
    return [{"from": e.begin_ns / 1e9, "to": e.end_ns / 1e9, "verdict": as_json(e.worst.verdict)}
            for e in episodes]


def schema() -> str:
    """As a JSON schema."""
    found = msgspec.json.encode(msgspec.json.schema(answer()))
    return msgspec.json.format(found, indent=1).decode() + "\n"


if __name__ == "__main__":
    sys.stdout.write(schema())
