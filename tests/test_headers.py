"""Headers out of BTF: this kernel's, and one built by hand that lies, lacks and nests."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from ktop.bpf import btf, headers

PROGRAMS = sorted(Path(btf.__file__).parent.glob("*.bpf.[ch]"))
needs_btf = pytest.mark.skipif(not Path(btf.VMLINUX).exists(), reason="this kernel has no BTF")
needs_libbpf = pytest.mark.skipif(
    shutil.which("ldconfig") is not None and "libbpf.so.1" not in subprocess.run(
        ["ldconfig", "-p"], capture_output=True, text=True, check=False).stdout,
    reason="libbpf.so.1 is not installed")


class Blob:
    """A BTF blob in the making (Documentation/bpf/btf.rst)."""

    def __init__(self) -> None:
        self.strings, self.types, self.count = b"\0", b"", 0

    def name(self, text: str) -> int:
        self.strings += text.encode() + b"\0"
        return len(self.strings) - len(text) - 1

    def add(self, name: str, kind: int, size: int, vlen: int = 0, tail: bytes = b"",
            flag: int = 0) -> int:
        offset = self.name(name) if name else 0
        self.types += struct.pack("=III", offset, flag << 31 | kind << 24 | vlen, size) + tail
        self.count += 1
        return self.count

    def record(self, name: str, size: int, members: list[tuple[str, int, int]],
               kind: int = btf.KIND_STRUCT, flag: int = 0) -> int:
        tail = b"".join(struct.pack("=III", self.name(n) if n else 0, t, o) for n, t, o in members)
        return self.add(name, kind, size, len(members), tail, flag)

    def build(self) -> bytes:
        head = struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(self.types), len(self.types),
                           len(self.strings))
        return head + self.types + self.strings


def sample() -> bytes:
    b = Blob()
    u32 = b.add("unsigned int", btf.KIND_INT, 4, tail=struct.pack("=I", 32))
    s64 = b.add("long", btf.KIND_INT, 8, tail=struct.pack("=I", 1 << 24 | 64))
    atomic = b.record("", 4, [("counter", u32, 0)])
    atomic_t = b.add("atomic_t", btf.KIND_TYPEDEF, atomic)
    inner = b.record("", 8, [("hidden", s64, 0), ("same_place", u32, 0)], btf.KIND_UNION)
    b.record("thing", 40, [
        ("new_name", u32, 0), ("live", atomic_t, 32), ("", inner, 128),
        ("bits", u32, 3 << 24 | 197), ("tail", s64, 256)], flag=1)
    b.add("colour", btf.KIND_ENUM, 4, 2, struct.pack("=IiIi", b.name("RED"), 3, b.name("BLUE"), -1))
    proto = b.add("", btf.KIND_FUNC_PROTO, 0, 3, struct.pack("=6I", 0, s64, 0, u32, 0, u32))
    pointer = b.add("", btf.KIND_PTR, proto)
    b.add("btf_trace_happening", btf.KIND_TYPEDEF, pointer)
    return b.build()


WANT = """/* @kernel
 * thing: old_name|new_name live hidden same_place bits tail gone? missing
 * nothing: at_all
 * maybe: perhaps?
 * enum colour: RED GREEN
 * tracepoint happening never
 */"""


@needs_libbpf
def test_fields_are_where_the_blob_says() -> None:
    header = headers.kernel_header(btf.Btf(sample()), headers.wanted(WANT))
    assert header.missing == ["struct nothing", "thing.missing"]
    text = header.text
    assert "#define KTOP_HAS_thing_old_name 1" in text and "KTOP_HAS_thing_gone" not in text
    assert "KTOP_HAS_maybe" not in text and "struct maybe;" in text
    assert "u8 pad_hidden[16]; s64 hidden;" in text
    assert "u8 pad_same_place[16]; u32 same_place;" in text
    assert "u8 pad_live[4]; u32 live;" in text  # atomic_t is its counter
    assert ("u8 pad_bits[24]; union { u32 bits_word; struct { u32 : 5; u32 bits : 3; }; };"
            in text)
    assert "#define KTOP_SHIFT_thing_bits 5\n" in text
    assert "#define KTOP_MASK_thing_bits 7u\n" in text
    assert "#define RED 3" in text and "GREEN" not in text
    assert "#define KTOP_ARGS_happening 2" in text and "never" not in text


@needs_libbpf
def test_the_compiler_agrees_with_the_offsets(tmp_path: Path) -> None:
    """gcc checks every static assertion, and finds the bit field where it was put."""
    header = headers.kernel_header(btf.Btf(sample()), headers.wanted(WANT))
    headers.write_tree(str(tmp_path), header)
    program = tmp_path / "t.c"
    program.write_text("#include <linux/types.h>\n#include <ktop_kernel.h>\n"
                       "int main(void) { union { struct thing t; unsigned int w[10]; } u = {0};\n"
                       "u.w[6] = 7 << 5; return u.t.bits == 7 ? 0 : 1; }\n")
    gcc = shutil.which("gcc")
    if gcc is None:
        pytest.skip("no gcc")
    subprocess.run([gcc, "-nostdinc", f"-I{tmp_path}/include", "-o", tmp_path / "t", program],
                   check=True)
    assert subprocess.run([tmp_path / "t"], check=False).returncode == 0


@needs_libbpf
@needs_btf
def test_this_kernel_has_what_the_programs_name() -> None:
    source = "".join(p.read_text() for p in PROGRAMS)
    want = headers.wanted(source)
    assert {"task_struct", "sched_info", "signal_struct"} <= want.records.keys()
    blob = btf.Btf()
    header = headers.kernel_header(blob, want)
    assert header.missing == []
    task = blob.find_record("task_struct")
    assert task is not None
    pid = blob.field(task, "pid")
    assert pid is not None
    offset = pid.bit_offset // 8
    assert f"__builtin_offsetof(struct task_struct, pid) == {offset}" in header.text
    assert (blob.tracepoint_args("sched_switch") or 0) >= 3
    blob.close()


@needs_libbpf
@pytest.mark.parametrize("damage", [b"", b"\0" * 64, sample()[:40], sample()[:-5]])
def test_a_broken_blob_is_one_clear_error(damage: bytes) -> None:
    with pytest.raises(btf.BtfError) as caught:
        btf.Btf(damage)
    assert "\n" not in str(caught.value)


@needs_libbpf
def test_a_typedef_loop_ends() -> None:
    b = Blob()
    b.add("a", btf.KIND_TYPEDEF, 2)
    b.add("b", btf.KIND_TYPEDEF, 1)
    with pytest.raises(btf.BtfError):
        btf.Btf(b.build()).resolve(1)


def test_a_bad_manifest_line_is_named() -> None:
    with pytest.raises(ValueError, match="nonsense here"):
        headers.wanted("/* @kernel\n * nonsense here\n */")


def test_without_btf_the_headers_text_tells_what_differs(tmp_path: Path) -> None:
    events = tmp_path / "source/include/trace/events"
    events.mkdir(parents=True)
    (tmp_path / "source/include/linux").mkdir()
    sched = tmp_path / "source/include/linux/sched.h"
    switch = ("TRACE_EVENT(sched_switch,\n\n\tTP_PROTO(bool preempt,\n"
              "\t\t struct a *p, struct a *n{}),")
    sched.write_text("struct task_struct {\n\tunsigned int\t\t\t__state;\n};\n")
    (events / "sched.h").write_text(switch.format(",\n\t\t unsigned int prev_state"))
    assert headers.tree_features(str(tmp_path)) == {"KTOP_ARGS_sched_switch": "4"}
    sched.write_text("struct task_struct {\n\tvolatile long\t\t\tstate;\n};\n")
    (events / "sched.h").write_text(switch.format(""))
    assert headers.tree_features(str(tmp_path)) == {"__state": "state",
                                                    "KTOP_ARGS_sched_switch": "3"}
    assert headers.tree_features(str(tmp_path / "nowhere")) == {}
