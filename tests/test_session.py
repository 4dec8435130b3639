"""The recorded session holds what the snapshots need, and nothing of the machine it is from."""

from __future__ import annotations

import ast
import inspect
import re
from types import ModuleType

import pytest

from ktop.text import clean
from tests import incident_load, session_load
from tests.session import FILE, frames, play
from tests.session_filter import ADDRESS, FORBIDDEN, texts
from tests.session_load import ROLES

LOOKS_LIKE_ADDRESS = re.compile(r"\b\d+\.\d+\.\d+\.\d+\b")


def test_nothing_of_the_machine_is_in_it() -> None:
    found = set(texts(frames()))
    assert not [text for text in found if any(word in text for word in FORBIDDEN)]
    assert not [text for text in found if text != clean(text) or not text.isprintable()]
    assert not [text for text in found
                for address in LOOKS_LIKE_ADDRESS.findall(text) if not ADDRESS.fullmatch(address)]
    for frame in frames():
        assert (frame.host.hostname, frame.host.kernel) == ("db1", "6.18.0")
        assert frame.users == {0: "root"}


def test_only_our_workload_is_in_it() -> None:
    kernel: set[str] = set()
    ours: set[str] = set()
    for frame in frames():
        for row in frame.processes.rows:
            (kernel if row.kernel_thread else ours).add(row.comm)
        assert {f.parent_comm for f in frame.processes.folds} <= set(ROLES)
        assert {g.path for g in frame.cgroups} <= {"/", "/shop", *(
            f"/shop/{name}" for name in ("batch", "web", "db"))}
    commands = {"date", "grep", "sh", "sleep", "healthcheck", "python3", "taskset", "ip"}
    assert ours <= set(ROLES) | commands
    assert len(kernel) <= 8


def test_every_layer_has_something_to_show() -> None:
    played = frames()
    assert FILE.stat().st_size < 600_000
    assert len(played) >= 40
    assert [f.seq for f in played] == list(range(played[0].seq, played[0].seq + len(played)))
    last = played[-1]
    assert last.files and last.tcp and last.block
    assert last.processes.events and last.processes.folds and last.processes.threads
    assert any(group.throttled_per_s for group in last.cgroups)
    assert any(row.ops.fsyncs_per_s for row in last.files.rows)
    assert any(fold.error == "ENOENT" for fold in last.files.folds)
    assert any(row.steady for row in last.files.descriptors)
    assert any(row.retrans_per_s for row in last.tcp.connections)
    assert any(peer.failures.get("ECONNREFUSED") for peer in last.tcp.peers)
    assert any(row.backlog > row.backlog_max for row in last.tcp.listeners)
    assert any(row.reason == "NETFILTER_DROP" for row in last.tcp.drops)
    assert any(op.device for device in last.block.devices for op in device.ops)
    assert any(frame.block and frame.block.slow for frame in played)


async def test_the_app_plays_it() -> None:
    app = play()
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.pause()
        assert app.frame is not None and app.frame.seq == frames()[-1].seq
        assert len(app.history.ticks) == len(frames())


@pytest.mark.parametrize("load", [session_load, incident_load], ids=lambda load: load.__name__)
def test_the_loads_call_functions_that_exist(load: ModuleType) -> None:
    """A role that dies at its start is a load that nobody misses: `socket.createserver`."""
    for node in ast.walk(ast.parse(inspect.getsource(load))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = getattr(load, node.value.id, None)
            assert not inspect.ismodule(module) or hasattr(module, node.attr), ast.unparse(node)
