"""What the kernel says, wrongly, in part or not at all: /proc that lies, BTF without a field."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktop.bpf import btf, headers
from ktop.collect import detail_proc, pressure, proctext
from tests.fuzz import bounded

SOURCES = sorted(Path(btf.__file__).parent.glob("*.bpf.[ch]"))
TEXTS = [Path(f"/proc/{name}").read_bytes() for name in (
    "self/stat", "self/status", "self/limits", "self/cgroup", "self/io", "vmstat", "mounts")]
BITS = [b"", b"0", b"-1", b"18446744073709551616", b"9" * 400, b"\xff\xfe", b"\0", b"kB", b":",
        b"\n", b" ", b"unlimited", b"nan", b"1e999", b"total=", b"some ", b"full avg10=", b"max",
        "\u0663".encode(), "²".encode()]


@st.composite
def lies(draw: st.DrawFn) -> bytes:
    """A file of /proc, cut off, with parts put into it, or others in their place."""
    text = draw(st.sampled_from(TEXTS))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(text)))
        length = draw(st.sampled_from([0, 1, 4, 20]))
        text = text[:at] + draw(st.sampled_from(BITS)) + text[at + length:]
    return text[:draw(st.one_of(st.integers(0, len(text)), st.just(len(text))))]


@bounded(150)
@given(raw=st.one_of(lies(), st.binary(max_size=200)))
def test_proc_that_lies(raw: bytes) -> None:
    main = None
    with contextlib.suppress(ValueError, IndexError):  # by contract: this is no stat
        main = detail_proc.stat(raw)
    found = detail_proc.fields(raw)
    detail_proc.credentials(found, 40)
    detail_proc.memory(found)
    detail_proc.io_counters(found)
    detail_proc.limits(raw)
    detail_proc.cgroups(raw)
    detail_proc.arguments(raw)
    if main is not None:
        detail_proc.scheduling(found, main)
    text = raw.decode("utf-8", "replace")
    pressure.psi_totals(text)
    pressure.vmstat_totals(proctext.figures(text))
    pressure.groups_of(text)


@pytest.mark.skipif(not Path(btf.VMLINUX).exists(), reason="this kernel has no BTF")
def test_every_field_absent_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is missing by name, or its KTOP_HAS_ is not defined; everything else is as it was."""
    blob = btf.Btf()
    find = headers._find
    gone: tuple[int | None, tuple[str, ...]] = (None, ())
    monkeypatch.setattr(headers, "_find", lambda b, type_id, name: (
        None if type_id == gone[0] and name in gone[1] else find(b, type_id, name)))
    looked = 0
    for path in SOURCES:
        want = headers.wanted(path.read_text())
        before = headers.kernel_header(blob, want)
        for record, fields in want.records.items():
            type_id = blob.find_record(record)
            for name, (names, optional) in fields.items():
                flag = f"#define KTOP_HAS_{record}_{name.replace('.', '_')} 1\n"
                if type_id is None or flag not in before.text:
                    continue
                gone = (type_id, names)
                after = headers.kernel_header(blob, want)
                assert flag not in after.text
                full = f"{record}.{name.replace('.', '_')}"
                assert (full in after.missing) == (not optional), (path.name, full)
                looked += 1
        gone = (None, ())
    assert looked > 50
