"""The filter grammar: what it reads, what it says about mistakes, what it matches."""

from __future__ import annotations

import contextlib
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ktop import query
from ktop.model import Process, Thread
from ktop.model_tcp import Connection
from ktop.panes.base import Names
from ktop.panes.process_columns import process_columns
from ktop.panes.tcp_columns import Spaces, connection_columns
from ktop.query import And, Compare, Not, Or, Query, QueryError, Search, Unknown, parse
from ktop.query_complete import complete
from ktop.query_match import SlowPattern, Vocabulary, compile, figure
from ktop.widgets.columns import Column


def process(pid: int, **fields: object) -> Process:
    given = {"ppid": 1, "uid": 0, "comm": f"proc{pid}", "args": None, "cgroup": None, "state": "S",
             "threads": 1, "start_boottime_ns": 0, **fields}
    return Process(pid=pid, **given)


PROCESSES = [
    process(1, comm="systemd", cpu_pct=0.1, rss_bytes=12 << 20),
    process(22, comm="postgres", args="postgres: checkpointer", cpu_pct=12.0, rss_bytes=900 << 20,
            state="D", blocked_reason="fsync", runq_wait_pct=None),
    process(33, comm="pg_dump", args="pg_dump -Fc db", cpu_pct=60.0, rss_bytes=50_000_000,
            state="R", start_boottime_ns=5 * 10**9),
    process(4044, comm="kworker/0:1", kernel_thread=True, cpu_pct=None, state="I"),
]
NAMES = Names()
COLUMNS = process_columns(NAMES, lambda r: (getattr(r, "args", None) or r.comm))
WORDS = Vocabulary(COLUMNS, {Process})
CONNECTIONS = [
    Connection(1, 1, "10.0.0.1", 22, "10.0.0.9", 40022, "ESTAB", srtt_ns=500_000,
               retrans_pct=0.0, sent_ago_ms=3000, comm="sshd", pid=9),
    Connection(2, 1, "10.0.0.1", 40000, "10.1.0.5", 5432, "ESTAB", active=True,
               srtt_ns=25_000_000, retrans_pct=None, tx_bytes=10_000, tx_bytes_per_s=2048.0),
    Connection(3, 1, "10.0.0.1", 40001, "10.1.0.6", 5432, "SYN_SENT", active=True,
               retrans_pct=35.0, retrans_total=12, zero_window=True),
]
NET = Vocabulary(connection_columns(NAMES, Spaces(NAMES)), {Connection})


def hits(text: str, rows=PROCESSES, vocabulary: Vocabulary = WORDS) -> list[int]:
    return [getattr(row, "pid", None) or row.id
            for row in compile(parse(text), vocabulary).keep(rows)]


def links(text: str) -> list[int]:
    return [row.id for row in compile(parse(text), NET).keep(CONNECTIONS)]


# -- the grammar -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "term"), [
    ("", None), ("  ", None), ("postgres", Search("postgres")), ('"a b"', Search("a b")),
    ("/usr/bin", Search("/usr/bin")), ("10.0.0.1:80", Search("10.0.0.1:80")),
    ("cpu>5", Compare("cpu", ">", "5")), ("cpu == 5", Compare("cpu", "=", "5")),
    ("rtt > 20 ms", Compare("rtt", ">", "20ms")), ("TX/s >= 1MiB", Compare("TX/s", ">=", "1MiB")),
    ("a b", And((Search("a"), Search("b")))),
    ("a or b c", Or((Search("a"), And((Search("b"), Search("c")))))),
    ("a AND (b and c)", And((Search("a"), Search("b"), Search("c")))),
    ("not a or b", Or((Not(Search("a")), Search("b")))), ("!a", Not(Search("a"))),
    ("a && b || c", Or((And((Search("a"), Search("b"))), Search("c")))),
    ("cpu = -", Unknown("cpu")), ("cpu != -", Unknown("cpu", True)),
    ("cpu is unknown", Unknown("cpu")), ("cpu is not unknown", Unknown("cpu", True)),
    ("what is this", And((Search("what"), Search("is"), Search("this")))),
    ("comm ~ pg_(a|b)", Compare("comm", "~", "pg_(a|b)")),
    ("(comm ~ pg)", Compare("comm", "~", "pg")),
    (r'comm ~ "\d+\"x\\"', Compare("comm", "~", '\\d+"x\\', True)),
    ("path = '/a b'", Compare("path", "=", "/a b", True)),
])
def test_what_it_reads(text, term):
    assert parse(text) == Query(term)
    assert parse(str(parse(text))) == Query(term)


@pytest.mark.parametrize(("text", "at", "said"), [
    ("cpu >", 5, "value is missing"), ("cpu > and x", 6, ""), ("> 5", 0, "field is missing"),
    ("(a", 0, "not closed"), ("a)", 1, "no parenthesis"), ('comm = "x', 7, "not closed"),
    ("a or", 4, "at the end"), ("a and and b", 6, "before and"), ("cpu >> 5", 5, "no operator"),
    ('"cpu" > 5', 6, ""), ("x = a(", 4, "parenthesis"), ('""', 0, "nothing"),
    ("x" * 501, 500, "longer"), ("(" * 60 + "a" + ")" * 60, 40, "parentheses"),
    ("not " * 60 + "a", 240, "not")])
def test_a_mistake_is_pointed_at(text, at, said):
    try:
        parse(text)
    except QueryError as err:
        assert said in err.message
        assert 0 <= err.at <= len(text)
        if said:
            assert err.at == at
    else:
        assert said == ""  # `and` as a value is a value


_word = st.text("abz09_./%:-[]+µ数", min_size=1, max_size=6)
_free = st.text(min_size=1, max_size=8)
_name = st.text("abcxyz_./%", min_size=1, max_size=6).filter(
    lambda t: t.lower() not in ("and", "or", "not"))
_plain_value = _word.filter(lambda t: query.value(t) == t)
_terms = st.recursive(
    st.one_of(
        _free.map(Search),
        st.builds(Compare, _name, st.sampled_from(query.OPERATORS), _free, st.just(True)),
        st.builds(Compare, _name, st.sampled_from(query.OPERATORS), _plain_value),
        st.builds(Unknown, _name, st.booleans())),
    lambda inner: st.one_of(
        inner.map(Not),
        st.lists(inner.filter(lambda t: not isinstance(t, And)), min_size=2, max_size=3).map(
            lambda ts: And(tuple(ts))),
        st.lists(inner.filter(lambda t: not isinstance(t, Or)), min_size=2, max_size=3).map(
            lambda ts: Or(tuple(ts)))),
    max_leaves=8)


@settings(max_examples=400, deadline=None)
@given(_terms)
def test_the_text_of_a_query_is_the_query(term):
    asked = Query(term)
    if len(str(asked)) <= query.MAX_LENGTH:
        assert parse(str(asked)) == asked


_bits = st.sampled_from(["cpu", "rtt", "comm", "nosuch", " ", "and", "or", "not", "(", ")", ">",
                         "<=", "=", "~", "!~", "!", "5", "20ms", "1.5MiB", '"', "'", "\\", "[", "*",
                         "+", "{9}", "?", "is", "unknown", "-", "x", "\n", "é", "\ud800"])


@settings(max_examples=600, deadline=None)
@given(st.one_of(st.text(max_size=40), st.lists(_bits, max_size=14).map("".join),
                 st.lists(_bits, max_size=14).map(" ".join)), st.integers(0, 40))
def test_no_text_at_all_gives_a_traceback(text, cursor):
    for vocabulary, rows in ((WORDS, PROCESSES), (NET, CONNECTIONS)):
        complete(text, min(cursor, len(text)), vocabulary, rows)
        try:
            asked = parse(text)
            assert parse(str(asked)) == asked or len(str(asked)) > query.MAX_LENGTH
            compile(asked, vocabulary).keep(rows)
        except QueryError as err:
            assert err.message
            assert "\n" not in err.message
            assert 0 <= err.at <= len(text)
        except SlowPattern:
            pass


# -- what it means ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "pids"), [
    ("", [1, 22, 33, 4044]), ("cpu > 5", [22, 33]), ("cpu > 5%", [22, 33]), ("CPU% <= 12", [1, 22]),
    ('cpu > 5 and comm ~ "postgres|pg_.*"', [22, 33]), ("comm ~ PG", []), ("comm ~ ^pg", [33]),
    ("comm !~ pg", [1, 22, 4044]), ("POSTGRES", [22]), ("checkp", [22]), ("not postgres", [1, 33,
                                                                                          4044]),
    ("state = d", [22]), ("state = D", [22]), ('state != "S"', [22, 33, 4044]), ("pid = 33", [33]),
    ("404", [4044]), ("rss > 100MiB", [22]), ("rss > 48M", [22]), ("rss >= 50MB", [22, 33]),
    ("rss > 50000KB", [22]), ("rss_bytes > 0", [1, 22, 33]), ("mem > 100M", [22]),
    ("cpu = -", [4044]), ("cpu is known", [1, 22, 33]), ("not cpu > 5", [1]),
    ("cpu != 12", [1, 33]), ("cpu = 12.0", [22]), ("blocked_reason = fsync", [22]),
    ("why = fsync", [22]),
    ("kernel_thread = yes", [4044]), ("kernel_thread = false", [1, 22, 33]), ("comm < m", [4044]),
    ("not (cpu > 5 or state = I)", [1]), ("not (cpu > 5 and rss > 1GiB)", [1, 22, 33]),
    ("runq_wait_pct is unknown", [1, 22, 33, 4044]),
])
def test_processes(text, pids):
    assert hits(text) == pids


@pytest.mark.parametrize(("text", "ids"), [
    ("rtt > 20ms", [2]), ("rtt > 20 ms or retrans_pct >= 1", [2, 3]), ("RTT <= 500us", [1]),
    ("srtt < 0.001s", [1]), ("rtt is unknown", [3]), ("not rtt > 20ms", [1]),
    ("retrans_pct >= 1", [3]), ("zero_window = true", [3]), ("port = 5432", [2, 3]),
    ("10.1.0", [2, 3]), ("peer = 10.1.0.6:5432", [3]), ("tx = 2K", [2]), ("TX/s > 1.9KiB", [2]),
    ("tx_bytes > 9KB", [2]), ("sent_ago > 2s", [1]), ("state = SYN_SENT", [3]),
    ("dir = out", [2, 3]),
    ("command = sshd", [1]), ("active is unknown", [1])])
def test_connections(text, ids):
    assert links(text) == ids


@pytest.mark.parametrize(("text", "at", "said"), [
    ("nosuch > 5", 0, "no column or field nosuch"), ("cpu > 1 and rsss > 5", 12, "is it rss"),
    ("age > 5", 6, "age is a time: 5ms"), ("cpu > 5ms", 6, "plain number"),
    ("rss > 5ms", 6, "bytes"), ("cpu > abc", 6, "figure"), ('comm ~ "a(b"', 9, "pattern"),
    ("comm ~ *", 7, "nothing to repeat"), ("comm ~ " + "x" * 201, 207, "200"),
    ('comm ~ "((a{99}){99}){99}"', 8, "repetitions")])
def test_what_cannot_be_asked_is_pointed_at(text, at, said):
    with pytest.raises(QueryError) as caught:
        compile(parse(text), WORDS)
    assert said in caught.value.message
    assert caught.value.at == at


@pytest.mark.parametrize(("text", "number", "kind"), [
    ("20ms", 20e6, "ns"), ("1.5s", 1.5e9, "ns"), ("3us", 3e3, "ns"), ("3µs", 3e3, "ns"),
    ("2m", 120e9, "ns"), ("2m05s", 125e9, "ns"), ("12d04h", (12 * 24 + 4) * 3600e9, "ns"),
    ("1KB", 1000, "bytes"), ("1KiB", 1024, "bytes"), ("812B", 812, "bytes"), ("1k", 1000, ""),
    ("2M", 2e6, ""), ("5%", 5, ""), ("<0.1", 0.1, ""), ("-3", -3, ""), (".5", .5, "")])
def test_figures(text, number, kind):
    found = figure(text)
    assert found is not None
    assert found[0] == pytest.approx(number)
    assert found[1] == kind


@pytest.mark.parametrize("text", ["", "x", "5x", "ms", "1.2.3", "0x10", "5 ms", "nan", "inf"])
def test_no_figures(text):
    assert figure(text) is None


def test_a_column_without_a_value_is_compared_as_it_is_shown():
    column = Column("life", "LIFE", 6, str, kind="ns")
    keep = compile(parse("life > 5ms"), Vocabulary([column])).keep
    assert keep(["6ms", "4.0ms", "-", "2m05s", "", "900us"]) == ["6ms", "2m05s"]


def test_rows_of_another_kind_do_not_break_it():
    thread = Thread(5, 22, "worker", "R", 0, cpu_pct=80.0)
    assert compile(parse("cpu > 70"), WORDS).keep([*PROCESSES, thread]) == [thread]
    assert compile(parse("rss > 1"), WORDS).keep([thread]) == []


@pytest.mark.parametrize("pattern", [
    "(a|a)" * 28 + "c", "(a+)+$", "(x+x+)+y", "x*y", "(?:a{1,30}){1,30}b", "(a*)*b", "(.*)(.*)z+"])
def test_no_pattern_hangs(pattern):
    column = Column("c", "C", 9, str, "left")
    matcher = compile(parse(f"c ~ {query.quote(pattern)}"), Vocabulary([column]))
    began = time.thread_time()
    with contextlib.suppress(SlowPattern):
        matcher.keep(["a" * 4000] * 100 + ["x" * 4000] * 100)
    assert time.thread_time() - began < 20  # PASS_S, or for ever


@pytest.mark.filterwarnings("ignore::FutureWarning")
@settings(max_examples=200, deadline=None)
@given(st.text("ab|*+?(){},.[]^$\\12 x", max_size=12), st.text("abx1,{ ", max_size=10))
def test_patterns_are_those_of_re(pattern, text):
    column = Column("c", "C", 9, str, "left")
    try:
        truth = re.compile(pattern, re.IGNORECASE)
    except (re.error, OverflowError):
        truth = None
    try:
        matcher = compile(Query(Compare("c", "~", pattern, True)), Vocabulary([column]))
    except QueryError:
        return
    assert truth is not None
    if text != "-":
        assert bool(matcher.keep([text])) == bool(truth.search(text))


# -- completion ------------------------------------------------------------------------------------


def offered(text: str, cursor: int | None = None) -> list[str]:
    return [c.text for c in complete(text, len(text) if cursor is None else cursor, WORDS,
                                     PROCESSES)]


def test_completion():
    assert offered("")[:3] == ["pid", "user", "state"]
    assert "comm" in offered("")
    assert offered("cp")[0] == "cpu"
    assert offered("cpu >")[:2] == [">", ">="]
    assert offered("cpu ")[0] == "="
    assert "is unknown" in offered("cpu ")
    assert offered("comm = ")[0] in {p.comm for p in PROCESSES}
    assert offered("comm = post") == ["postgres"]
    assert offered('comm = "pg') == ["pg_dump"]
    assert offered("cpu > 5 ") == ["and", "or"]
    assert offered("cpu > 5 a") == ["and"]
    assert offered("cpu > 5 and st")[0] == "state"
    assert offered("cp > 5", 2)[0] == "cpu"
    choice = complete("cpu > 1 and sta > 2", 15, WORDS)[0]
    assert (choice.text, choice.start, choice.end) == ("state", 12, 15)
