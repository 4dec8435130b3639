"""The panes inside a small app: what an engineer reads at each size, and what the keys do."""

import pytest
from rich.cells import cell_len
from textual.app import App

from ktop import theme
from ktop.history import History
from ktop.panes import PANES, Pane, ProcessesPane, SchedulerPane
from ktop.panes.base import Names, short_command, why_missing
from ktop.panes.process_columns import event_text, process_columns
from ktop.panes.sched import VIEWS
from ktop.widgets.table import VirtualTable
from tests.frames import HOSTILE, bare_frame, make_frame, make_process, stream

SIZES = [(80, 24), (120, 40), (170, 45)]
RESERVED = set("pcg/nNRwtT[]bmkj")


@pytest.fixture(autouse=True)
def _glyphs():
    theme.use_ascii(False)
    theme.use_color(True)
    yield
    theme.use_ascii(False)
    theme.use_color(True)


class PaneApp(App):
    def __init__(self, pane):
        super().__init__()
        self.pane = pane()
        self.history = History()

    def compose(self):
        yield self.pane

    def on_mount(self):
        self.theme = theme.THEME

    async def feed(self, pilot, frames):
        for frame in frames:
            self.history.add(frame)
        self.pane.show(frame, self.history)
        self.pane.focus_main()
        await pilot.pause()
        # charts learn their width from the first layout
        self.pane.show(frame, self.history)
        await pilot.pause()


def picture(app):
    return ["".join(segment.text for segment in line)
            for line in app.screen._compositor.render_strips()]


def text(app):
    return "\n".join(picture(app))


# -- the contract ----------------------------------------------------------------------------------


def test_tabs_are_in_order_with_their_digits():
    assert [pane.title for pane in PANES] == ["Processes", "Files", "TCP", "Block", "Scheduler",
                                              "Diagnosis"]
    assert [pane.key for pane in PANES] == list("123456")


@pytest.mark.parametrize("pane", PANES)
def test_every_pane_explains_itself_and_its_keys(pane):
    assert issubclass(pane, Pane)
    help_text = pane().help_text()
    assert len(help_text) > 40
    assert max(map(len, help_text.splitlines())) <= 76
    keys = [*pane.__dict__.get("BINDINGS", []), *VirtualTable.BINDINGS]
    assert all(binding.id and binding.description for binding in keys)
    assert not RESERVED & {binding.key for binding in keys}


@pytest.mark.parametrize("pane", [ProcessesPane, SchedulerPane])
async def test_every_column_is_in_the_help(pane):
    app = PaneApp(pane)
    async with app.run_test(size=(80, 24)):
        words = app.pane.help_text().split("\n")
        for table in app.pane.query(VirtualTable):
            for column in table.columns:
                assert column.help
                assert any(line.startswith(f"  {column.title}") for line in words), column.title


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("pane", PANES)
@pytest.mark.parametrize("frames", [stream(4), [bare_frame()], stream(2, processes=0, events=0),
                                    stream(3, busy=0.0, absent=("sched_switch", "tasks"))],
                         ids=["busy", "bare", "empty", "idle"])
async def test_every_frame_fits_every_size(pane, size, frames):
    app = PaneApp(pane)
    async with app.run_test(size=size) as pilot:
        await app.feed(pilot, frames)
        lines = picture(app)
        assert len(lines) == size[1]
        assert {cell_len(line) for line in lines} == {size[0]}
        assert not any(c in line for line in lines for c in "\x1b\n\x07\u202e")


@pytest.mark.parametrize("pane", PANES)
async def test_ascii_is_ascii(pane):
    theme.use_ascii(True)
    app = PaneApp(pane)
    async with app.run_test(size=(120, 40)) as pilot:
        await app.feed(pilot, stream(40))
        assert text(app).isascii()


@pytest.mark.parametrize("pane", [ProcessesPane, SchedulerPane])
async def test_no_color_is_no_color(pane):
    theme.use_color(False)
    app = PaneApp(pane)
    async with app.run_test(size=(120, 40)) as pilot:
        await app.feed(pilot, stream(40))
        styles = {segment.style for line in app.screen._compositor.render_strips()
                  for segment in line if segment.style and segment.style.color}
        assert all(style.color.is_default for style in styles)


@pytest.mark.parametrize("pane", [ProcessesPane, SchedulerPane])
async def test_the_same_frame_again_paints_nothing(pane, monkeypatch):
    app = PaneApp(pane)
    async with app.run_test(size=(120, 40)) as pilot:
        frames = stream(5)
        await app.feed(pilot, frames)
        dirty = []
        monkeypatch.setattr("textual.widget.Widget.refresh",
                            lambda self, *regions, **_: dirty.append((self, regions)))
        app.pane.show(frames[-1], app.history)
        assert dirty == []


# -- why something is missing ----------------------------------------------------------------------


def test_why_missing():
    assert why_missing(make_frame(2, absent=("sched_switch",)), "sched_switch") == (
        "no histogram: probe sched_switch absent: EPERM: lockdown: integrity")
    assert "one full interval" in why_missing(make_frame(1), "sched_switch")
    frame = make_frame(2)
    frame.health.source, frame.health.probes = "procfs", []
    assert "without BPF" in why_missing(frame, "sched_switch")
    frame = make_frame(2, absent=("sched_switch",))
    probe = next(p for p in frame.health.probes if p.name == "sched_switch")
    probe.status, probe.fallback = "fallback", "means from run_delay"
    assert why_missing(frame, "sched_switch").endswith("instead: means from run_delay")


def test_a_command_loses_its_directory_only():
    assert short_command("/usr/bin/python3 /srv/a b") == "python3 /srv/a b"
    assert short_command("./run") == "run"
    assert short_command("nginx: worker /x") == "nginx: worker /x"
    assert short_command("[/]") == "[/]"
    assert short_command("/") == "/"
    assert short_command("") == ""


# -- processes -------------------------------------------------------------------------------------


async def test_processes_at_80_columns_show_what_matters_most():
    app = PaneApp(ProcessesPane)
    async with app.run_test(size=(80, 24)) as pilot:
        await app.feed(pilot, stream(3))
        lines = picture(app)
        assert lines[1].split() == ["PID", "USER", "S", "▼CPU%", "RQW%", "BLK%", "WHY", "RSS",
                                    "COMMAND", "›"]
        assert "50 tasks" in lines[0]
        assert "0 lost" in lines[0]
        cpu = [float(line.split()[3]) for line in lines[2:10]]
        assert cpu == sorted(cpu, reverse=True)
        rule = next(i for i, line in enumerate(lines) if "Executions and exits" in line)
        assert 13 <= rule <= 17  # the feed takes a third


async def test_processes_show_more_where_there_is_room():
    app = PaneApp(ProcessesPane)
    async with app.run_test(size=(120, 40)) as pilot:
        await app.feed(pilot, stream(3))
        header = picture(app)[1]
        assert all(name in header for name in ("VCSW/s", "ICSW/s", "THR", "RD/s", "WR/s"))


async def test_every_process_column_can_be_reached():
    app = PaneApp(ProcessesPane)
    async with app.run_test(size=(80, 24)) as pilot:
        await app.feed(pilot, stream(3))
        for _ in range(20):
            await pilot.press("right")
        assert all(name in picture(app)[1]
                   for name in ("PID", "AGE", "CGROUP", "FORK/s", "EXEC/s", "COMMAND"))


async def test_threads_unfold_below_their_process_and_fold_again():
    app = PaneApp(ProcessesPane)
    async with app.run_test(size=(120, 40)) as pilot:
        await app.feed(pilot, stream(3))
        table = app.pane.query_one("#main", VirtualTable)
        folded = len(table.rows)
        await pilot.press("H")
        assert len(table.rows) == folded + len(stream(3)[-1].processes.threads)
        assert "├╴java" in text(app)
        assert "└╴java-7" in text(app)
        line = next(line for line in picture(app) if "└╴java-7" in line)
        assert "-" not in line.partition("└")[0]  # its process has the figure: not unknown
        parents = [getattr(row, "pid", 0) for row in table.rows]
        assert parents == [p for i, p in enumerate(parents)
                           if i == 0 or p == parents[i - 1] or p not in parents[:i]]
        await pilot.press("H")
        assert len(table.rows) == folded


async def test_a_kernel_thread_is_in_brackets_and_unknown_is_a_dash():
    app = PaneApp(ProcessesPane)
    async with app.run_test(size=(80, 24)) as pilot:
        await app.feed(pilot, stream(2))
        await pilot.press("end")
        command = app.pane.query_one("#main", VirtualTable).columns[-1].text
        rows = stream(2)[-1].processes.rows
        assert all(command(row).startswith("[kworker") for row in rows if row.kernel_thread)
        await app.feed(pilot, [bare_frame(9)])
        assert picture(app)[2].split() == ["1", "-", "S", "-", "-", "-", "-", "-", "task-0"]


async def test_a_pid_used_again_is_another_process():
    app = PaneApp(ProcessesPane)
    async with app.run_test(size=(80, 24)) as pilot:
        await app.feed(pilot, stream(2))
        await pilot.press("down")
        table = app.pane.query_one("#main", VirtualTable)
        pid, start, _ = table.selected
        frame = make_frame(3)
        next(p for p in frame.processes.rows if p.pid == pid).start_boottime_ns += 5
        await app.feed(pilot, [frame])
        assert table.selected != (pid, start + 5, 0)


async def test_the_side_goes_from_feed_to_folded_to_hidden():
    app = PaneApp(ProcessesPane)
    async with app.run_test(size=(120, 40)) as pilot:
        await app.feed(pilot, stream(3))
        assert "FAIL ENOENT" in text(app)
        assert "SIGSEGV" in text(app)
        await pilot.press("e")
        assert "EXEC/m" in text(app)
        assert app.pane.query_one("#folded", VirtualTable).rows[0].execs_per_min == 45
        await pilot.press("e")
        await pilot.pause()
        assert "Executions" not in text(app)
        assert app.pane.query_one("#main").size.height > 35
        await pilot.press("e")
        await pilot.pause()
        assert "FAIL ENOENT" in text(app)


async def test_focus_moves_to_the_side_and_back():
    app = PaneApp(ProcessesPane)
    async with app.run_test(size=(120, 40)) as pilot:
        await app.feed(pilot, stream(3))
        await pilot.press("o")
        assert app.focused.id == "feed"
        await pilot.press("e")
        assert app.focused.id == "folded"
        await pilot.press("e")
        await pilot.pause()
        assert app.focused.id == "main"
        await pilot.press("o")
        assert app.focused.id == "main"


async def test_the_side_is_beside_on_wide_screens():
    app = PaneApp(ProcessesPane)
    async with app.run_test(size=(170, 40)) as pilot:
        await app.feed(pilot, stream(3))
        assert app.pane.query_one("#side").region.x > 80
        await pilot.resize_terminal(100, 30)
        await pilot.pause()
        assert app.pane.query_one("#side").region.x == 0


async def test_the_feed_keeps_what_happened_while_the_pane_was_hidden():
    app = PaneApp(ProcessesPane)
    async with app.run_test(size=(120, 40)) as pilot:
        for frame in stream(10):
            app.history.add(frame)
        await app.feed(pilot, [make_frame(11)])
        assert len(app.pane.query_one("#feed", VirtualTable).rows) == 66


async def test_the_feed_says_why_it_is_empty():
    app = PaneApp(ProcessesPane)
    async with app.run_test(size=(80, 24)) as pilot:
        await app.feed(pilot, [bare_frame()])
        assert "no executions: probe process_exec absent: EPERM: not root" in text(app)


def test_only_what_waits_for_a_device_is_alarming():
    row = make_process(1)
    style = next(c for c in process_columns(Names(), str) if c.key == "blocked").style
    row.blocked_pct, row.off_cpu_pct = 100.0, {"lock": 100.0}
    assert style(row) == "normal"
    row.off_cpu_pct = {"disk": 70.0}
    assert style(row) == "bad"
    row.off_cpu_pct, row.state, row.blocked_reason = None, "D", "iowait"
    assert style(row) == "bad"
    row.blocked_pct = None
    assert style(row) == "dim"


def test_events_read_without_colour():
    texts = {event_text(event)[0] for event in make_frame(2).processes.events}
    assert texts == {"exec", "FAIL ENOENT", "exit 127", "exit 0", "SIGSEGV core"}


async def test_hostile_text_is_shown_as_it_stands():
    app = PaneApp(ProcessesPane)
    async with app.run_test(size=(170, 45)) as pilot:
        frame = make_frame(2, processes=len(HOSTILE), events=0)
        for row, name in zip(frame.processes.rows, HOSTILE, strict=True):
            row.comm, row.args, row.kernel_thread = name, name, False
        await app.feed(pilot, [frame])
        shown = text(app)
        assert all(name in shown for name in HOSTILE)


# -- scheduler -------------------------------------------------------------------------------------


async def test_the_scheduler_is_on_one_screen_where_it_fits():
    app = PaneApp(SchedulerPane)
    async with app.run_test(size=(120, 40)) as pilot:
        await app.feed(pilot, stream(62, cpus=4))
        shown = text(app)
        for title in ("Run queue latency", "The last 5 minutes", "CPUs", "Threads off CPU",
                      "Top waiters", "Control groups"):
            assert title in shown
        for figure in ("P50", "P95", "P99", "P99.9", "max", "waits/s ×", "switches/s",
                       "migrations/s", "kafka-0", "uninterruptible", "now"):
            assert figure in shown


async def test_views_one_after_the_other():
    app = PaneApp(SchedulerPane)
    titles = {"overview": "Run queue latency", "cpus": "CPUs", "waiters": "Top waiters",
              "cgroups": "Control groups", "offcpu": "Threads off CPU"}
    async with app.run_test(size=(80, 24)) as pilot:
        await app.feed(pilot, stream(20))
        for view in [*VIEWS, "overview"]:
            assert app.pane.view == view
            shown = text(app)
            assert titles[view] in shown
            assert not any(f"─ {t} ─" in shown for v, t in titles.items() if v != view)
            await pilot.press("v")
            await pilot.pause()


async def test_rate_times_latency_is_what_waits():
    app = PaneApp(SchedulerPane)
    async with app.run_test(size=(80, 24)) as pilot:
        frame = make_frame(2)
        await app.feed(pilot, [frame])
        line = picture(app)[0]
        assert f"= {frame.sched.waiting:.2f} waiting" in line
        assert line.rstrip().endswith("migrations/s")


async def test_an_absent_probe_is_named_on_the_pane():
    app = PaneApp(SchedulerPane)
    async with app.run_test(size=(120, 40)) as pilot:
        await app.feed(pilot, stream(5, absent=("sched_switch",)))
        shown = text(app)
        assert "no histogram: probe sched_switch absent: EPERM" in shown
        assert "- waits/s × - mean = - waiting" in shown
        assert "no reasons: probe sched_switch absent" in shown


async def test_the_first_minute_is_shown_large():
    app = PaneApp(SchedulerPane)
    async with app.run_test(size=(80, 24)) as pilot:
        await app.feed(pilot, stream(20))
        assert "The last minute" in text(app)
        assert "-15s" in text(app)
        await app.feed(pilot, stream(62)[20:])
        assert "The last 5 minutes" in text(app)
        assert "-4m" in text(app)


async def test_throttling_and_waiters():
    app = PaneApp(SchedulerPane)
    async with app.run_test(size=(120, 40)) as pilot:
        frame = make_frame(3)
        await app.feed(pilot, [frame])
        line = next(line for line in picture(app) if "kafka-0" in line)
        assert "1.50" in line
        assert "30.0" in line
        waiters = app.pane.query_one("#waiters-table", VirtualTable).rows
        assert waiters == sorted(waiters, key=lambda p: -p.runq_wait_pct)
        assert all(p.runq_wait_pct > 0 for p in waiters)


async def test_the_histogram_follows_the_cursor():
    app = PaneApp(SchedulerPane)
    async with app.run_test(size=(120, 40)) as pilot:
        await app.feed(pilot, stream(3))
        await pilot.press("o", "down")
        await pilot.pause()
        table = app.pane.query_one("#waiters-table", VirtualTable)
        waiter = table.selected_row
        assert f"Run queue latency of {waiter.comm} ({waiter.pid})" in text(app)
        calm = make_frame(4)
        for row in calm.processes.rows:
            row.runq_wait_pct, row.runq = 0.0, None
        await app.feed(pilot, [calm])
        assert [row.pid for row in table.rows] == [waiter.pid]
        assert "nothing waited in this interval" in text(app)
        app.pane.query_one("#waiters-table").focus()
        await pilot.press("escape")
        await pilot.pause()
        assert "Run queue latency ─" in text(app)


async def test_many_cpus_scroll():
    app = PaneApp(SchedulerPane)
    async with app.run_test(size=(120, 40)) as pilot:
        await app.feed(pilot, stream(2, cpus=128))
        assert app.pane.query_one("#cpus").size.height == 11
        await pilot.press("v", "end")
        await pilot.pause()
        assert any(line.split()[:2] == ["▸", "127"] for line in picture(app))


async def test_focus_goes_round_the_tables_and_survives_a_resize():
    app = PaneApp(SchedulerPane)
    async with app.run_test(size=(120, 40)) as pilot:
        await app.feed(pilot, stream(3))
        seen = []
        for _ in range(4):
            seen.append(app.focused.id)
            await pilot.press("o")
        assert seen == ["cpus-table", "waiters-table", "cgroups-table", "cpus-table"]
        await pilot.resize_terminal(80, 24)
        await pilot.pause()
        assert app.focused is app.pane
        await pilot.press("v")
        await pilot.pause()
        assert app.focused.id == "cpus-table"
