"""Busy but healthy: what must not be called tight."""

from __future__ import annotations

import os

from tests.faults.cases import ADDRESS, Case, Scene, pair
from tests.faults.stage import Stage


def idle(s: Stage) -> Scene:
    return Scene(s.group("idle"))


def one_per_cpu(s: Stage) -> Scene:
    group = s.group("work")
    s.start("spin", os.cpu_count(), group=group)
    return Scene(group)


def web_server(s: Stage) -> Scene:
    group, port = s.group("web"), s.random.randint(2000, 60000)
    s.start("answer", port, 0, 2, group=group, ready=True)
    s.start("ask", "127.0.0.1", port, 6, 18, 50, group=group)  # 6 of 20 ms: a third of one CPU
    return Scene(group)


def database(s: Stage) -> Scene:
    group = s.group("db")
    s.start("committer", "log", s.random.randint(15, 30), group=group)
    s.start("readers", "data", 4, 8192, 25, group=group, ready=True)
    return Scene(group)


def copy(s: Stage) -> Scene:
    group = s.group("copy")
    s.start("copier", "big", 512 << 20, group=group, ready=True)
    return Scene(group)


def compile_(s: Stage) -> Scene:
    group = s.group("build")
    s.start("build", os.cpu_count(), group=group)
    return Scene(group)


def keep_alives(s: Stage) -> Scene:
    group, port = s.group("web"), s.random.randint(2000, 60000)
    s.start("answer", port, 0, group=group, ready=True)
    s.start("ask", "127.0.0.1", port, 1, 200, 900, group=group)
    return Scene(group)


def page_cache(s: Stage) -> Scene:
    group = s.group("read")
    s.start("cached", "file", group=group, ready=True)
    return Scene(group)


def request_response(s: Stage) -> Scene:
    """Clients that wait for short answers a part of the time, and a server that waits for them."""
    a, b, group, port = pair(s)
    s.start("answer", port, 2, netns=b, ready=True, group=group)
    s.start("ask", ADDRESS, port, s.random.randint(2, 8), s.random.randint(8, 20), 20, group=group,
            netns=a)
    return Scene(group)


def thread_pool(s: Stage) -> Scene:
    group = s.group("pool")
    s.start("pool", s.random.randint(4, 16), s.random.randint(50, 150), 2, group=group)
    return Scene(group)


def upload(s: Stage) -> Scene:
    """A stream to a peer that takes it all."""
    a, b, group, port = pair(s)
    s.start("sink", port, netns=b, ready=True)
    s.start("pour", ADDRESS, port, 1, s.random.randint(2, 10), group=group, netns=a)
    return Scene(group)


HEALTHY = (
    Case("idle", idle), Case("one per cpu", one_per_cpu, light=False),
    Case("web server", web_server), Case("database", database), Case("copy", copy),
    Case("compile", compile_, light=False), Case("keep-alives", keep_alives),
    Case("page cache", page_cache), Case("request-response", request_response),
    Case("thread pool", thread_pool), Case("upload", upload),
)
