"""The recent past: bounded, gaps stay gaps, columns stand still between ticks."""

from ktop import hist
from ktop.history import History
from tests.frames import SECOND, make_frame, stream


def fill(history, frames):
    for frame in frames:
        history.add(frame)
    return history


def test_it_is_bounded():
    history = fill(History(span_ns=10 * SECOND, events=20), stream(60, processes=3))
    assert len(history.ticks) == 11
    assert len(history.events()) == 20


def test_events_are_newest_first_with_an_identity_that_lasts():
    history = fill(History(events=8), stream(1))
    before = {item.serial: item.event for item in history.events()}
    history.add(make_frame(2))
    after = history.events()
    assert [item.serial for item in after] == sorted((i.serial for i in after), reverse=True)
    assert all(before[i.serial] is i.event for i in after if i.serial in before)


def test_an_exit_shows_the_command_line_of_its_execution():
    frame = make_frame(2)
    executed, ended = (e for e in frame.processes.events if e.pid == 50_020)
    ended.args = None
    history = fill(History(), [frame])
    shown = next(i for i in history.events() if i.event is ended)
    assert shown.args == executed.args


def test_the_same_frame_twice_counts_once():
    history = History()
    frame = make_frame(2)
    history.add(frame)
    history.add(frame)
    assert len(history.ticks) == 1
    assert len(history.events()) == 6


def test_an_older_frame_starts_afresh():
    history = fill(History(), stream(5))
    history.add(make_frame(2))
    assert len(history.ticks) == 1


def test_columns_hold_every_sample_once():
    history = fill(History(), stream(60))
    columns = history.runq_columns(100, 100 * SECOND)
    known = [h for h in columns if h]
    assert len(known) == 59  # the first frame has no interval
    assert sum(map(hist.count, known)) == sum(hist.count(t.runq) for t in list(history.ticks)[1:])
    assert columns[-1] is not None
    assert columns[0] is None


def test_missing_ticks_are_a_gap_not_zero():
    frames = stream(30)
    history = fill(History(), frames[:10] + frames[20:])
    columns = history.runq_columns(30, 30 * SECOND)
    assert [c is None for c in columns[-20:]] == [True] * 10 + [False] * 10


def test_a_suspend_is_a_gap():
    history = fill(History(), stream(5))
    frame = make_frame(6)
    frame.clock.gap_ns = 20 * SECOND
    history.add(frame)
    columns = history.runq_columns(30, 30 * SECOND)
    assert columns[-1] is not None
    assert all(c is None for c in columns[-21:-1])


def test_a_long_interval_fills_all_the_columns_it_speaks_for():
    history = History()
    for seq in (1, 11, 21):
        frame = make_frame(seq)
        frame.clock.interval_ns = 10 * SECOND
        history.add(frame)
    assert all(c is not None for c in history.runq_columns(20, 20 * SECOND))


def test_a_tick_changes_no_column_but_the_newest():
    history = fill(History(), stream(59))
    one = history.runq_columns(20, 60 * SECOND)
    history.add(make_frame(60))
    two = history.runq_columns(20, 60 * SECOND)
    assert two[:-1] == one[:-1] or two[:-1] == one[1:]


def test_interval_without_histogram_is_a_gap():
    history = fill(History(), stream(5, absent=("sched_switch",)))
    assert history.runq_columns(5, 5 * SECOND) == [None] * 5


def test_nothing_yet():
    assert History().runq_columns(3, SECOND) == [None] * 3
    assert History().newest is None
