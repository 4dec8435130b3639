"""The engine on this kernel: nothing stays behind, refusals are told, hostile names tamed."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ktop import wire
from ktop.bpf import layout, syscall
from ktop.bpf.engine import Engine, probe_table
from ktop.bpf.layers import GROUPS
from ktop.bpf.layout import COUNTERS, LIFE_COUNTERS
from ktop.bpf.ringbuf import RingBuffer
from ktop.bpf.tcp_layer import COUNTERS as TCP_COUNTERS
from ktop.collect.records import EventRecord, TaskRecord
from ktop.model import WAITS, Frame
from tests.livekit import collecting, left_of, programs_of, row

pytestmark = pytest.mark.live
LIFECYCLE = next(i for i, g in enumerate(GROUPS) if g.layers == ("lifecycle",))
_COLLECTOR = ("import socket, sys\n"
              "from ktop.collect.main import Options, serve\n"
              "sys.exit(serve(socket.socket(fileno=int(sys.argv[1])), Options()))")


def start_collector() -> tuple[subprocess.Popen[bytes], socket.socket]:
    ours, theirs = socket.socketpair()
    p = subprocess.Popen([sys.executable, "-c", _COLLECTOR, str(theirs.fileno())],
                         pass_fds=(theirs.fileno(),))
    theirs.close()
    ours.settimeout(60)
    return p, ours


def frames(sock: socket.socket, n: int) -> list[Frame]:
    reader, found = wire.Reader(), []
    while len(found) < n:
        data = sock.recv(1 << 16)
        assert data, "the collector has gone"
        found += [m for m in reader.feed(data) if isinstance(m, Frame)]
    return found


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, None])
def test_nothing_stays_behind_however_it_ends(number: signal.Signals | None) -> None:
    p, sock = start_collector()
    with sock:
        frames(sock, 4)
        programs = programs_of(p.pid)
        assert len(programs) >= 4
        if number is not None:
            p.send_signal(number)
    assert p.wait(20) == (-number if number is not None else 0)
    assert left_of(programs) == set()


def test_killed_compile_child_is_no_catastrophe() -> None:
    engine = Engine()
    engine.start()
    assert engine._child is not None
    tree = Path(engine._tree)
    assert tree.is_dir()
    engine._child.kill()
    loaded = engine.wait()
    assert not tree.exists()
    assert loaded.fatal
    assert {r["status"] for r in probe_table(engine)} <= {"fallback", "absent"}
    assert programs_of(os.getpid()) == set()
    engine.close()


def test_a_refused_probe_is_reported_and_the_rest_go_on() -> None:
    with collecting(skip=("sched_switch", "runqlen")) as collector:
        time.sleep(0.2)
        frame = collector.tick()
    probes = {p.name: p for p in frame.health.probes}
    assert probes["sched_switch"].status == "fallback"
    assert probes["sched_switch"].reason == "switched off" and probes["sched_switch"].fallback
    assert probes["tasks"].status == "live"
    assert frame.health.banner and "sched_switch" in frame.health.banner
    assert frame.sched.runq is None and frame.sched.off_cpu is None
    assert frame.sched.switches_per_s is not None and frame.sched.waiting is not None  # stand-ins
    assert all(c.runq_len is None and c.switches_per_s is None for c in frame.cpus)
    mine = row(frame, os.getpid())
    assert mine.blocked_pct is None and mine.runq_wait_pct is not None


def test_the_verifiers_last_word_is_told() -> None:
    with pytest.raises(syscall.LoadError) as caught:
        syscall.prog_load(b"\x95" + bytes(7), "bad", syscall.PROG_RAW_TRACEPOINT)  # r0 never set
    assert "R0 !read_ok" in caught.value.log


def test_records_match_the_layout() -> None:
    names = []
    for name, fmt in layout.TASK:
        names += [name] * int(fmt[:-1] if fmt[:-1].isdigit() and fmt[-1] == "Q" else 1)
    assert len(TaskRecord._fields) == len(names)
    assert [f for f in TaskRecord._fields if not f.startswith(("slept_", "waited_"))] == [
        n for n in names if not n.startswith(("slept", "waited"))]
    assert tuple(f[7:-3] for f in TaskRecord._fields if f.startswith("waited_")) == layout.WAITS
    assert layout.WAITS == WAITS
    assert EventRecord._fields == tuple(name for name, _ in layout.EVENT)


def test_ring_overflow_is_counted() -> None:
    """Far more events than the ring holds, and nobody drains: read + lost = all."""
    engine = Engine({"ring_pages": 4}, LIFECYCLE)
    engine.start()
    engine.wait()
    try:
        ring_map = engine.loaded.maps["events"]
        assert ring_map.max_entries == 4 * os.sysconf("SC_PAGESIZE")
        ring = RingBuffer(ring_map.fd, ring_map.max_entries)
        for _ in range(200):
            subprocess.run(["/bin/true"], check=False)

        def counter(name: str) -> int:
            index = layout.LIFE_COUNTERS.index(name)
            return sum(int.from_bytes(raw, sys.byteorder)
                       for raw in engine.read_percpu("life_counters", index))

        got = len(ring.drain())
        total = counter("execs") + counter("exits")
        assert total >= 400 and counter("lost_events") > 0
        assert got + counter("lost_events") == total
        ring.close()
    finally:
        engine.close()


HOSTILE = b"\x1b]0;pwn\x07\xff[re"


def test_hostile_names_are_tamed_at_the_border() -> None:
    code = ("import ctypes, sys, time\n"
            "ctypes.CDLL(None).prctl(15, bytes.fromhex(sys.argv[1]), 0, 0, 0)\n"
            "print(flush=True); time.sleep(60)")
    group = Path("/sys/fs/cgroup/cpu") / "ktop-\x1b[31m\n[b]evil[/b]"
    has_group = (group.parent / "cpu.cfs_quota_us").exists()
    p = subprocess.Popen([b"\x1b[2J[red]\n\xfe\xff", "-I", "-c", code, HOSTILE.hex(),
                          "\u202egnp.exe"], executable=sys.executable, stdout=subprocess.PIPE)
    try:
        assert p.stdout is not None
        p.stdout.readline()
        if has_group:
            group.mkdir(exist_ok=True)
            (group / "cgroup.procs").write_text(str(p.pid))
        with collecting() as collector:
            frame = collector.tick()
        process = row(frame, p.pid)
        texts = [process.comm, process.args or "",
                 *(t for g in frame.cgroups for t in (g.path, g.name))]
        assert process.comm == "\\e]0;pwn\\x07\\xff[re"
        assert (process.args or "").startswith("\\e[2J[red]\\n\\xfe\\xff -I")
        assert "\\u202e" in (process.args or "")
        if has_group:
            assert any("ktop-\\e[31m\\n[b]evil[/b]" in t for t in texts)
        for text in texts:
            assert text.isprintable(), repr(text)
    finally:
        p.kill()
        p.wait()
        if has_group:
            for _ in range(50):
                try:
                    group.rmdir()
                    break
                except OSError:
                    time.sleep(0.05)


def test_slow_reader_gets_the_newest_and_memory_stays_bounded() -> None:
    p, sock = start_collector()
    with sock:
        frames(sock, 2)
        sock.sendall(wire.encode_control(wire.Control(interval_ns=100_000_000)))
        time.sleep(4)  # nobody reads
        late = frames(sock, 40)
    p.wait(20)
    assert late[-1].health.skipped_frames > 0 or late[-1].seq - late[0].seq >= 39
    gaps = [b.seq - a.seq for a, b in itertools.pairwise(late)]
    assert all(g >= 1 for g in gaps)


def test_interval_and_watch_are_obeyed() -> None:
    p, sock = start_collector()
    with sock:
        frames(sock, 1)
        control = wire.Control(interval_ns=200_000_000, watch=["processes"])
        sock.sendall(wire.encode_control(control))
        statuses: dict[str, str] = {}
        while statuses.get("exec_failed") != "live":  # it follows the first frames
            found = frames(sock, 8)
            statuses = {x.name: x.status for x in found[-1].health.probes}
            assert found[-1].seq < 300
        assert found[-1].clock.interval_ns == pytest.approx(200_000_000, rel=0.3)
        sock.sendall(wire.encode_control(wire.Control(watch=[])))
        frames(sock, 3)
        statuses = {x.name: x.status for x in frames(sock, 2)[-1].health.probes}
        assert statuses["exec_failed"] == "off"
    p.wait(20)


def test_counters_in_one_read_are_those_of_each_element() -> None:
    """Per-CPU arrays have batches since 5.13; they only grow, so one lies between two others."""
    with collecting() as collector:
        assert collector._late is not None
        read = 0
        for engine in collector._late.engines:
            for name, names in (("counters", COUNTERS), ("life_counters", LIFE_COUNTERS),
                                ("tcp_counters", TCP_COUNTERS)):
                if name not in engine.loaded.maps:
                    continue
                batched = engine._batched
                engine._batched = False
                before = engine.read_counters(name, names)
                engine._batched = batched
                at_once = engine.read_counters(name, names)
                batched, engine._batched = engine._batched, False
                after = engine.read_counters(name, names)
                engine._batched = batched
                assert list(at_once) == list(names)
                assert all(before[n] <= at_once[n] <= after[n] for n in names), name
                read += 1
        assert read == 3


def test_without_batches_each_element_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(524, "ENOTSUPP")

    with collecting() as collector:
        engine = next(e for e in collector._late.engines  # type: ignore[union-attr]
                      if "counters" in e.loaded.maps)
        first = engine.read_counters("counters", COUNTERS)
        monkeypatch.setattr(syscall, "map_lookup_batch", refused)
        second = engine.read_counters("counters", COUNTERS)
        assert not engine._batched and second["forks"] >= first["forks"]
