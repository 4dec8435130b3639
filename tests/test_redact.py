"""--redact: nothing that was hidden can be read, and no field is forgotten."""

from __future__ import annotations

from typing import Any, get_type_hints

import msgspec
import pytest

from ktop import model, model_detail
from ktop.model import Frame
from ktop.redact import HIDDEN, OPEN, Redactor, parts_below
from ktop.wire import encode_body
from tests import session
from tests.frames import make_frame


def classes(kind: type = Frame) -> set[type]:
    """Every class of a frame."""
    return {kind}.union(*(classes(part) for parts in parts_below(kind).values() for part in parts))


def holds_text(hint: Any) -> bool:
    return hint is str or any(holds_text(argument) for argument in getattr(hint, "__args__", ()))


def test_every_field_with_text_is_hidden_or_open():
    for kind in classes():
        texts = {name for name, hint in get_type_hints(kind).items() if holds_text(hint)}
        hidden, left = set(HIDDEN.get(kind, {})), set(OPEN.get(kind, ()))
        where = f"{kind.__module__}.{kind.__name__}: see ktop/redact.py"
        assert hidden <= texts <= hidden | left, where
        assert not hidden & left, kind
    assert set(HIDDEN) | set(OPEN) <= classes()


@pytest.mark.parametrize(("before", "after"), [
    ("/var/lib/pg/data", "/var/#/#/#"), ("/var", "/var"), ("/", "/"), ("./a b/c", "./#/#"),
    ("conf.d/x", "conf.d/#"), ("name", "name"), ("/a//b/", "/a//#/"), ("", "")])
def test_paths(before, after):
    assert "".join(plain(Redactor().path(before))) == after


def plain(text: str) -> list[str]:
    """With every hash shortened to `#`."""
    parts = text.split("#")
    return [parts[0], *("#" + part[8:] for part in parts[1:])]


def test_one_key_for_one_recording():
    one, other = Redactor(), Redactor()
    assert one.path("/srv/a/b") == one.path("/srv/a/b") != other.path("/srv/a/b")
    assert one.path("/srv/a/b").split("/")[2] == one.path("/mnt/a").split("/")[2]
    assert "".join(plain(one.line('/usr/bin/x -p secret "a b"'))) == "/usr/#/# # # # #"
    assert "".join(plain(one.line('"my prog" x'))) == "# # #"
    assert "".join(plain(one.descriptor("unix stream /run/a/b LISTEN"))) == (
        "unix stream /run/#/# LISTEN")
    assert one.descriptor("tcp 127.0.0.1:80 -> 10.0.0.1:5") == "tcp 127.0.0.1:80 -> 10.0.0.1:5"


def secrets(frame: Frame) -> set[str]:
    """Components of paths beyond the first, and arguments, found by hand."""
    found: set[str] = set()
    for p in frame.processes.rows:
        found.update((p.args or "").split(" ")[1:])
    for event in frame.processes.events:
        found.update((event.args or "").split(" ")[1:])
    paths = [g.path for g in frame.cgroups]
    if frame.files:
        paths += [r.path or "" for r in frame.files.rows]
        paths += [o.path for o in frame.files.opens]
        paths += [m.target or "" for m in frame.files.mounts]
    for path in paths:
        found.update(path.split("/")[2:])
    return {word for word in found if len(word) > 6}


def strings(value: Any) -> set[str]:
    if isinstance(value, str):
        return {value}
    if isinstance(value, (list, dict)):
        items = value if isinstance(value, list) else [*value, *value.values()]
        return set().union(*map(strings, items)) if items else set()
    return set()


def test_nothing_hidden_is_left_in_a_real_frame():
    redactor = Redactor()
    frame = session.frames()[-1]
    before = encode_body(frame)
    known = secrets(frame)
    names = {p.comm for p in frame.processes.rows} | {t.comm for t in frame.processes.threads}
    assert len(known) > 20
    hidden = redactor.frame(frame)
    assert encode_body(frame) == before  # the frame itself is as it was
    text = strings(msgspec.msgpack.decode(encode_body(hidden)))
    left = {word for word in known - names for string in text if word in string
            and string not in names}
    assert not left
    assert len(hidden.processes.rows) == len(frame.processes.rows)
    assert hidden.tcp == frame.tcp


def test_details_and_synthetic_frames():
    frame = make_frame()
    frame.detail = model_detail.Detail(
        7, args=["/bin/sh", "-c", "secret"], cwd="/srv/shop/data", cgroups=[("cpu", "/a/b")],
        descriptors=[model_detail.Descriptor(3, "file", "/srv/shop/x")])
    hidden = Redactor().frame(frame)
    found = hidden.detail
    assert found is not None and found.args[0].startswith("/bin/#") and "secret" not in str(found)
    assert found.cwd is not None and "shop" not in str(found) and found.cgroups[0][0] == "cpu"
    assert isinstance(hidden, model.Frame) and "healthcheck" not in str(hidden.processes.events)
