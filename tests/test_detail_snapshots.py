"""How the screen of one process looks on the recorded session, with a look at it put in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace
from textual.pilot import Pilot

from ktop.model_detail import Detail, ThreadDetail
from ktop.screens.detail import ProcessDetail
from tests.session import play, still
from tests.test_detail import make_detail
from tests.test_snapshots import one_place

__all__ = ["one_place"]  # a fixture


def _looked_at(pid: int, start: int, tids: list[int]) -> Detail:
    threads = [ThreadDetail(tid, "api", "S", "do_epoll_wait", "epoll_wait",
                            ["do_epoll_wait", "__x64_sys_epoll_wait", "do_syscall_64"])
               for tid in tids]
    return replace(make_detail(pid), pid=pid, start_boottime_ns=start, comm="api",
                   exe="/usr/bin/python3", cwd="/srv/app",
                   args=["/usr/bin/python3", "/srv/app/api.py"], args_cut=0,
                   user_names={1000: "app"},
                   cgroups=[("unified", "/shop/web")], threads=threads)


@pytest.mark.parametrize(("size", "key"), [((120, 40), "1"), ((80, 24), "1"), ((80, 24), "2")],
                         ids=["120x40-overview", "80x24-overview", "80x24-threads"])
def test_one_process(snap_compare: Callable[..., bool], size: tuple[int, int], key: str) -> None:
    async def look(pilot: Pilot[Any]) -> None:
        app: Any = pilot.app
        await still(pilot)
        whole = app.host.whole
        row = next(p for p in whole.processes.rows if p.comm == "api" and p.threads > 1)
        whole.detail = _looked_at(row.pid, row.start_boottime_ns, [
            t.tid for t in whole.processes.threads if t.pid == row.pid])
        app.open_over(ProcessDetail(row.pid, row.start_boottime_ns, row.comm))
        await pilot.pause()
        await pilot.press(key)
        before, same = "", 0
        for _ in range(100):
            await pilot.pause(0.05)
            screen = app.screen
            now = "\n".join(s.text for s in screen._compositor.render_strips(screen.size))
            before, same = now, same + 1 if now == before else 0
            if same == 6:
                return

    assert snap_compare(play(), terminal_size=size, run_before=look)
