"""One process in full: parsers, thread states as bars, alive and ended, every key of its screen."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from ktop import theme
from ktop.bpf.layout import REASONS
from ktop.collect import detail_proc as proc
from ktop.collect.detail import DetailReader
from ktop.collect.detail_fds import inet_line, kind_of, unix_line
from ktop.collect.detail_threads import stack_names, syscall_name
from ktop.collect.mourned import Mourned
from ktop.history import History
from ktop.model import Frame, Hist, ProcessEvent, Thread
from ktop.model_detail import (
    UNLIMITED,
    Credentials,
    Descriptor,
    Detail,
    Ended,
    Memory,
    Namespace,
    ResourceLimit,
    Scheduling,
    ThreadDetail,
)
from ktop.panes.base import Names
from ktop.screens.detail_facts import Facts, limit_share, limit_text, overview, wrap
from ktop.screens.detail_state import Observer, Who, end_text, states_of
from ktop.widgets.state_bars import STATES, cells_of, figure_lines, state_columns, timeline_lines
from ktop.widgets.strips import cells
from tests.frames import HOSTILE, SECOND, WALL0, make_frame, make_hist

# -- parsers -----------------------------------------------------------------------------------

STAT = (b"77 (a) b (c) R 1 77 77 0 -1 4194304 5 0 0 0 250 50 0 0 25 5 7 0 123456 8192 10 "
        + b"0 " * 14 + b"17 3 40 1 0 0 0 0 0 0 1000 1064 0 0 0\n")


def test_digits_that_are_no_number() -> None:
    """`²`.isdigit() is true; int() refuses it, two signs, and more digits than any number has."""
    for lie in ("²", "--5", "9" * 5000):
        found = {"VmRSS": f"{lie} kB", "SigQ": f"{lie}/5", "Uid": f"{lie} 1 {lie} 3"}
        assert proc.size(found, "VmRSS") is None
        proc.credentials(found, 40)
        (row,) = proc.limits(f"head\n{'Max open files':26}{lie} unlimited files".encode())
        assert (row.soft, row.hard) == (None, UNLIMITED)
        assert kind_of(f"socket:[{lie}]".encode())[2] is None


def test_stat_of_a_command_with_brackets_and_spaces() -> None:
    fields = proc.stat(STAT)
    assert (fields.comm, fields.state, fields.threads) == ("a) b (c", "R", 7)
    assert (fields.cpu_ns, fields.nice, fields.start_ns) == (3 * SECOND, 5, 1234_560_000_000)


def test_our_own_stat_and_status() -> None:
    with open("/proc/self/stat", "rb") as f:
        main = proc.stat(f.read())
    with open("/proc/self/status", "rb") as f:
        found = proc.fields(f.read())
    assert main.policy == os.sched_getscheduler(0)
    rights = proc.credentials(found, 40)
    assert rights.uids == [*os.getresuid(), os.geteuid()]
    assert rights.gids == [*os.getresgid(), os.getegid()]
    assert sorted(rights.groups) == sorted(os.getgroups())
    plan = proc.scheduling(found, main)
    assert plan.policy == "SCHED_OTHER" and plan.nice == os.getpriority(os.PRIO_PROCESS, 0)
    memory = proc.memory(found)
    assert memory.rss_bytes == (memory.anon_bytes or 0) + (memory.file_bytes or 0) + (
        memory.shmem_bytes or 0)


@pytest.mark.parametrize("raw", [b"", b"77", b"77 (x", b"77 (x) R", b"\xff" * 30])
def test_a_stat_that_is_none(raw: bytes) -> None:
    with pytest.raises((ValueError, IndexError)):
        proc.stat(raw)


def test_limits() -> None:
    text = (b"Limit                     Soft Limit           Hard Limit           Units     \n"
            b"Max cpu time              unlimited            unlimited            seconds   \n"
            b"Max open files            1024                 4096                 files     \n"
            b"Max nice priority         0                    0                    \n\n")
    assert proc.limits(text) == [
        ResourceLimit("cpu time", UNLIMITED, UNLIMITED, "seconds"),
        ResourceLimit("open files", 1024, 4096, "files"), ResourceLimit("nice priority", 0, 0)]
    files = ResourceLimit("open files", 1024, 4096, "files", 512)
    assert limit_share(files) == 50 and limit_text(files, files.soft) == "1024"
    assert limit_text(files, UNLIMITED) == "unlimited" and limit_text(files, None) == "-"
    assert limit_share(ResourceLimit("x", UNLIMITED, UNLIMITED, "", 5)) is None
    assert limit_share(ResourceLimit("x", 0, 0, "", 5)) is None


def test_capabilities_by_name() -> None:
    assert proc.capabilities(0) == []
    assert proc.capabilities(1 << 21 | 1 << 0) == ["chown", "sys_admin"]
    assert proc.capabilities(1 << 40) == ["checkpoint_restore"]
    assert proc.capabilities(1 << 62) == ["cap_62"]
    status = proc.fields(b"CapEff:\t000001ffffffffff\nSeccomp:\t2\nNoNewPrivs:\t1\n")
    rights = proc.credentials(status, 40)
    assert rights.all_effective and rights.seccomp == "filter" and rights.no_new_privs is True
    assert proc.credentials({}, 40).effective is None


def test_cgroups_of_both_versions() -> None:
    assert proc.cgroups(b"2:cpu,cpuacct:/a:b\n1:name=systemd:/\n0::/user.slice\nx\n") == [
        ("cpu,cpuacct", "/a:b"), ("name=systemd", "/"), ("unified", "/user.slice")]


@pytest.mark.parametrize(("target", "kind", "what", "inode"), [
    (b"socket:[12]", "socket", "socket 12", 12), (b"pipe:[7]", "pipe", "pipe 7", 7),
    (b"anon_inode:[eventfd]", "eventfd", "", None), (b"anon_inode:inotify", "inotify", "", None),
    (b"anon_inode:bpf-map", "bpf-map", "", None), (b"/memfd:x", "memfd", "x", None),
    (b"/dev/pts/3", "terminal", "/dev/pts/3", None), (b"/dev/null", "device", "/dev/null", None),
    (b"/dev/shm/a", "file", "/dev/shm/a", None), (b"/a\x1b[1m\n", "file", "/a\\e[1m\\n", None),
    (b"socket:[x]", "socket", "socket x", None)])
def test_what_a_descriptor_is(target: bytes, kind: str, what: str, inode: int | None) -> None:
    assert kind_of(target) == (kind, what, inode)


def test_socket_lines() -> None:
    line = "0: 0100007F:1F90 00000000:0000 0A 0:0 00:0 00000000 0 0 646 1 000000007dc52195 100"
    assert inet_line("tcp", line.split()) == (646, "tcp 127.0.0.1:8080 LISTEN")
    mapped = "0000000000000000FFFF00000100007F"
    tcp6 = f"0: {mapped}:1F90 {mapped}:C350 01 0:0 0:0 0 0 0 9 1".split()
    assert inet_line("tcp6", tcp6) == (9, "tcp6 127.0.0.1:8080 -> 127.0.0.1:50000 ESTAB")
    loop = "00000000000000000000000001000000"
    assert inet_line("udp6", f"0: {loop}:0035 {'0' * 32}:0000 07 0:0 0:0 0 0 0 5 1".split()) == (
        5, "udp6 [::1]:53")
    line = "0: 00000002 00000000 00010000 0001 01 77 /run/a\x1b.sock"
    assert unix_line(line.split(None, 7)) == (77, "unix stream /run/a\\e.sock LISTEN")
    with pytest.raises((ValueError, IndexError)):
        inet_line("tcp", ["0:", "zz:1", "00000000:0000", "0A", *"123456"])


def test_stack_and_syscall() -> None:
    raw = b"[<0>] futex_wait+0x11/0x22\n[<0>] do_syscall_64+0x1/0x2\n"
    assert stack_names(raw) == ["futex_wait", "do_syscall_64"]
    names = {202: "futex"}
    assert syscall_name(b"202 0x1 0x2\n", names) == "futex"
    assert syscall_name(b"running\n", names) == "running"
    assert syscall_name(b"-1 0x1 0x2\n", names) == "none"
    assert syscall_name(b"999 0x1\n", names) == "syscall 999"
    for lie in (b"", b"--5", "²".encode(), b"9" * 5000):
        assert syscall_name(lie, names) is None


def test_another_pid_namespace_is_noticed() -> None:
    """The kernel's number is not /proc's: nothing of the wrong process is shown."""
    reader = DetailReader()
    try:
        frame = make_frame(2)
        frame.processes.rows[3].pid = os.getpid()
        reader.ask(os.getpid())
        for _ in range(2):
            found = reader.update(frame)
            assert found is not None and found.exe is None and not found.descriptors
            assert "namespace" in found.reasons["exe"] and found.ended is None
        frame.processes.rows[3].pid = 4_194_302
        reader.ask(os.getpid() + 0)
        reader.ask(0)
        assert reader.update(frame) is None
        reader.ask(os.getpid())
        found = reader.update(frame)  # no row: /proc is all there is
        assert found is not None and found.exe == os.readlink("/proc/self/exe")
    finally:
        reader.close()


# -- what ended threads did --------------------------------------------------------------------


class _Record:
    def __init__(self, pid: int, start: int) -> None:
        self.pid, self.start_boottime_ns = pid, start


def test_ended_threads_are_counted_once() -> None:
    mourned = Mourned(None)  # type: ignore[arg-type]
    whole = [100] * len(REASONS)
    record: Any = _Record(5, 1)
    # gone from the iterator first, its account a tick later
    assert sum(mourned.settle([], [(record, [40] * len(REASONS))])) == 0
    mourned._found[5, 1] = whole
    assert mourned.settle([], []) == [60] * len(REASONS)
    assert sum(mourned.settle([], [])) == 0
    # its account first, and the thread still in the iterator
    mourned._found[6, 2] = whole
    assert sum(mourned.settle([(6, 2)], [])) == 0
    other: Any = _Record(6, 2)
    assert mourned.settle([], [(other, [100] * len(REASONS))]) == [0] * len(REASONS)
    # born and ended between two ticks: all of it
    mourned._found[7, 3] = whole
    assert mourned.settle([], []) == whole
    # an account that never comes is not waited for
    mourned.settle([], [(record, whole)])
    for _ in range(5):
        mourned.settle([], [])
    assert not mourned._known


# -- states as bars ----------------------------------------------------------------------------

shares = st.dictionaries(st.sampled_from(STATES), st.floats(0.001, 500), min_size=1)


@given(shares, st.integers(1, 200), st.floats(1, 3))
def test_a_bar_is_as_long_as_its_sum(states: dict[str, float], width: int, more: float) -> None:
    total = sum(states.values())
    found = cells_of(states, total * more, width)
    assert len(found) == max(1, round(width / more)) or abs(len(found) - width / more) <= 1
    if len(found) >= 2 * len(STATES):
        for state, value in states.items():
            exact = value / total * len(found)
            # a cell may go to a state that would have none
            assert found.count(state) >= exact - 1 - len(STATES)
            assert found.count(state) <= exact + 1
            if value >= 0.01 * total:
                assert state in found


@pytest.mark.parametrize("ascii_only", [False, True])
def test_states_are_told_apart_without_colour(ascii_only: bool) -> None:
    try:
        theme.use_ascii(ascii_only)
        glyphs = [theme.glyphs().states[state] for state in STATES]
    finally:
        theme.use_ascii(False)
    assert len(set(glyphs)) == len(STATES) and " " not in glyphs
    assert all(len(glyph) == 1 and (not ascii_only or glyph.isascii()) for glyph in glyphs)


def _filled(*ticks: tuple[int, float, float]) -> History:
    """A history of (interval, threads on CPU, asleep)."""
    history = History()
    at = 100 * SECOND
    for seq, (interval, cpu, sleep) in enumerate(ticks, 1):
        frame = make_frame(seq, processes=1)
        at += interval
        frame.clock.monotonic_ns, frame.clock.interval_ns = at, interval
        row = frame.processes.rows[0]
        row.cpu_pct, row.runq_wait_pct = cpu * 100, 0.0
        frame.sched.off_cpu = {"sleep": sleep}
        history.add(frame)
    return history


def test_columns_are_means_by_overlap() -> None:
    history = _filled((SECOND, 1, 0), (SECOND, 0, 1), (2 * SECOND, 0.5, 0.5))
    found = state_columns(history, 2, 4 * SECOND)
    for column in found:
        assert column is not None
        assert column["cpu"] == pytest.approx(0.5) and column["sleep"] == pytest.approx(0.5)
    fine = state_columns(history, 4, 4 * SECOND)
    assert [round(c["cpu"], 2) for c in fine if c] == [1, 0, 0.5, 0.5]
    wide = state_columns(history, 8, 8 * SECOND)
    assert wide[:4] == [None] * 4 and all(c is not None for c in wide[4:])
    assert state_columns(History(), 3, SECOND) == [None] * 3
    assert state_columns(history, 0, SECOND) == []


def test_picture_and_figures_have_all_that_is_known() -> None:
    states = {"cpu": 1.0, "disk": 0.5, "sleep": 2.5}
    lines = [x.text for x in figure_lines(states, 4, 40, 14, "")]
    assert any("on CPU" in x and "25.0%" in x and "1.00" in x for x in lines)
    assert "100.0%" in lines[-1] and "4.00" in lines[-1] and "4 now" in lines[-1]
    small = [x.text for x in figure_lines(states, 4, 40, 6, "")]
    assert len(small) == 5 and any("disk" in x for x in small) and not any("lock" in x
                                                                           for x in small)
    drawn = [x.text for x in timeline_lines([None, states], SECOND, 12, 8, frozenset(), "none")]
    column = [x[8] for x in drawn[:6]]  # the newest, from the top
    assert column.count("·") in (3, 4) and column.count("D") == 1 and "█" in column
    without = [x.text for x in timeline_lines([None, states], SECOND, 12, 8,
                                              frozenset({"sleep"}), "none")]
    assert [x[8] for x in without[:6]].count("█") == 4
    assert "nothing here" in timeline_lines([None], SECOND, 30, 8, frozenset(), "nothing here")[
        0].text
    assert "nothing here" in figure_lines(None, None, 30, 8, "nothing here")[0].text


# -- alive, ended, reused ----------------------------------------------------------------------

PID = 109  # index 3 of the synthetic host: 8 threads


def exit_event(frame: Frame, pid: int, start: int, **how: Any) -> ProcessEvent:
    begun = frame.host.boot_wall_ns + start
    return ProcessEvent("exit", frame.clock.wall_ns, pid, 1, uid=1000, comm="python3",
                        parent_comm="systemd", cgroup=4, cpu_ns=5 * SECOND,
                        lifetime_ns=frame.clock.wall_ns - begun, **how)


def without(frame: Frame, pid: int) -> Frame:
    frame.processes.rows = [p for p in frame.processes.rows if p.pid != pid]
    frame.processes.threads = [t for t in frame.processes.threads if t.pid != pid]
    return frame


def start_of(pid: int) -> int:
    return next(p for p in make_frame(1).processes.rows if p.pid == pid).start_boottime_ns


def make_detail(pid: int = PID) -> Detail:
    """A look at a process that chose its words badly."""
    return Detail(
        pid, start_of(pid) if pid == PID else None, HOSTILE[0], "S", exe=HOSTILE[2],
        cwd=HOSTILE[3], root="/", args=[*HOSTILE, "x" * 500], args_cut=70_000,
        credentials=Credentials([1000] * 4, [1000] * 4, [4, 27], ["net_raw"], False, "filter", 2,
                                True),
        user_names={1000: HOSTILE[1]}, group_names={1000: "anna", 4: "adm"},
        cgroups=[("cpu", HOSTILE[7]), ("unified", "/")],
        namespaces=[Namespace("net", 4026531840, False), Namespace("pid", 4026531836, True)],
        limits=[ResourceLimit("open files", 1024, 4096, "files", 1000),
                ResourceLimit("stack size", 8 << 20, UNLIMITED, "bytes", 132 << 10)],
        memory=Memory(1 << 30, 80 << 20, 60 << 20, 20 << 20, 0, 0, 0, 90 << 20, 1 << 20, 70 << 20,
                      8 * SECOND, 666, 0),
        scheduling=Scheduling("SCHED_OTHER", 0, 0, "0-1", "none", 0),
        descriptors=[Descriptor(0, "device", "/dev/null", "O_RDONLY", 0),
                     Descriptor(3, "file", "/var/log/" + HOSTILE[4], "O_WRONLY|O_APPEND", 5 << 20,
                                deleted=True),
                     Descriptor(4, "socket", "tcp 10.0.0.1:1 -> 10.0.0.2:2 ESTAB", "O_RDWR",
                                inode=9)],
        descriptors_total=3,
        threads=[ThreadDetail(PID, "python3", "S", "futex_do_wait", "futex",
                              ["futex_do_wait", "__futex_wait", "do_futex"])],
        threads_total=8, reasons={"syscall": "Operation not permitted"}, cost_ns=4_000_000)


def test_a_process_that_ends_stays() -> None:
    watcher, history = Observer(Who(PID, start_of(PID), "python3")), History()
    alive, gone = make_frame(2), without(make_frame(3), PID)
    history.add(alive)
    life = watcher.look(alive, history)
    assert life.alive and life.row is not None and end_text(life) == ""
    assert states_of(alive, life.row) is not None
    history.add(gone)
    life = watcher.look(gone, history)
    assert life.word == "GONE" and "not seen" in end_text(life) and life.row is not None
    gone.processes.events.append(exit_event(gone, PID, start_of(PID), code=3))
    later = History()
    later.add(gone)
    life = watcher.look(gone, later)
    assert life.word == "ENDED" and "exit 3" in end_text(life)
    assert watcher.look(alive, history).alive  # back in time


def test_a_zombie_is_shown_as_it_was() -> None:
    watcher, history = Observer(Who(PID, start_of(PID), "java")), History()
    before = watcher.look(make_frame(2), history).row
    frame = make_frame(3)
    row = next(p for p in frame.processes.rows if p.pid == PID)
    row.state, row.threads, row.rss_bytes = "Z", 1, 0
    life = watcher.look(frame, history)
    assert life.word == "ENDED" and life.row is before


@pytest.mark.parametrize(("how", "text"), [
    ({"code": 0}, "exit 0"), ({"signal": "SIGKILL"}, "SIGKILL"),
    ({"signal": "SIGSEGV", "core_dumped": True}, "SIGSEGV, core dumped")])
def test_how_it_ended(how: dict[str, Any], text: str) -> None:
    frame = without(make_frame(3), PID)
    frame.processes.events = [exit_event(frame, PID, start_of(PID), **how)]
    history = History()
    history.add(frame)
    assert text in end_text(Observer(Who(PID, start_of(PID), "x")).look(frame, history))


def test_a_number_that_is_used_again_is_another_process() -> None:
    who = Who(PID, start_of(PID) + 500 * SECOND, "x")
    frame, history = make_frame(2), History()
    frame.processes.events = [exit_event(frame, PID, start_of(PID), code=9)]
    history.add(frame)
    life = Observer(who).look(frame, history)
    assert life.row is None and life.ended is None and life.word == "GONE"
    other = Detail(PID, start_of(PID), "python3", args=["not", "ours"])
    assert Observer(who).look(replace(frame, detail=other), history).detail is None
    reused = Detail(PID, who.start_boottime_ns, "x", ended=Ended(), reused=True)
    found = Observer(who).look(replace(frame, detail=reused), history).detail
    assert found is not None and found.reused


def test_before_it_began() -> None:
    frame = make_frame(2)
    later = Who(4242, frame.host.uptime_ns + SECOND, "x")
    life = Observer(later).look(frame, History())
    assert life.word == "NOT BEGUN" and "NOT BEGUN" in end_text(life)


def test_detail_that_is_not_of_this_frame() -> None:
    watcher, history = Observer(Who(PID, start_of(PID), "x")), History()
    assert watcher.look(make_frame(2), history).no_detail == "asking"
    for seq in range(3, 6):
        life = watcher.look(make_frame(seq), history)
    assert life.detail is None and life.no_detail == "not looked at while this was taken"
    frame = make_frame(6)
    frame.detail = make_detail()
    life = watcher.look(frame, history)
    assert life.detail is frame.detail and life.detail_wall_ns is None and not life.no_detail
    life = watcher.look(make_frame(5), history)
    assert life.detail is frame.detail and life.detail_wall_ns == frame.clock.wall_ns


@given(st.text(max_size=300), st.integers(5, 60))
def test_wrapped_text_is_whole(text: str, width: int) -> None:
    from ktop.text import clean

    text = clean(text)
    lines = wrap(text, width)
    assert all(cells(line) <= max(width, 2) for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_waits_and_run_queue_are_facts() -> None:
    frame, history = make_frame(2), History()
    row = next(p for p in frame.processes.rows if p.pid == PID)
    row.waits_pct = {"mutex": 1.0, "file_lock": 30.5, "disk": 0.0}
    life = Observer(Who(PID, row.start_boottime_ns, "x")).look(frame, history)
    facts = {f.name: f.text for f in overview(life, frame, Names(), [], 60) if f.name}
    assert facts["waits for"] == "file lock 30.5%  mutex 1.0%"
    assert "P99" in facts["run queue"] and facts["parents"].startswith("-  (process 1, which")
    row.runq = None
    facts = {f.name: f.text for f in overview(life, frame, Names(), [], 60) if f.name}
    assert "did not wait" in facts["run queue"]


def test_a_fact_that_is_unknown_says_why() -> None:
    facts = Facts(40)
    facts.add("exe", None, "Permission denied")
    facts.add("args", "x " * 40)
    assert facts.rows[0].text == "-  (Permission denied)"
    assert [f.name for f in facts.rows[1:3]] == ["args", ""]
    assert [f.at for f in facts.rows] == list(range(len(facts.rows)))


def test_states_need_an_interval_and_an_account() -> None:
    frame = make_frame(1)
    assert states_of(frame, frame.processes.rows[3]) is None
    frame = make_frame(2)
    row = frame.processes.rows[3]
    found = states_of(frame, row)
    assert found is not None and found["cpu"] == pytest.approx((row.cpu_pct or 0) / 100)
    assert states_of(frame, replace(row, off_cpu_pct=None)) is None
    assert states_of(frame, None) is None


def test_wire_and_old_frames() -> None:
    """Detail travels; a thread of a recording from before it had states is read as unknown."""
    import msgspec

    packed = msgspec.msgpack.encode(make_detail())
    assert msgspec.msgpack.decode(packed, type=Detail) == make_detail()
    old = msgspec.msgpack.encode([1, 1, "x", "S", 0])
    assert msgspec.msgpack.decode(old, type=Thread).off_cpu_pct is None
    assert isinstance(make_hist(), Hist) and WALL0
