"""The include tree that lets bcc compile without kernel headers.

Each `*.bpf.c` says in a comment which kernel fields it reads:

    /* @kernel
     * task_struct: pid tgid comm __state|state in_iowait?
     * enum cgroup_subsys_id: cpu_cgrp_id
     * tracepoint sched_switch
     * helper task_pt_regs
     */

`a|b` is one field under the name it has had in different kernels, always emitted as `a`; `?` is
optional; `a.b` is a field of the member `a` whose own struct has no name, emitted as `a_b`. What is
emitted is not the kernel's struct but a union of fields, each at the offset that BTF gives, with a
static assertion of that offset: a layout cannot be wrong in silence. A bit field `a` has its word
beside it, `a_word`, for programs that read by helper (BITS in ktop.bpf.h).
For each thing named, `KTOP_HAS_<struct>_<field>`, `KTOP_HAS_<struct>`, `KTOP_HAS_<constant>` or
`KTOP_ARGS_<tracepoint>` is defined where the kernel has it, and `KTOP_HELPER_<name>` where BPF
programs may call that helper.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field

from ktop.bpf.btf import (
    KIND_ARRAY,
    KIND_ENUM,
    KIND_ENUM64,
    KIND_INT,
    KIND_PTR,
    KIND_STRUCT,
    KIND_UNION,
    Btf,
    Member,
)

_BLOCK = re.compile(r"/\*\s*@kernel\b(.*?)\*/", re.DOTALL)
_INTS = {(1, False): "u8", (1, True): "s8", (2, False): "u16", (2, True): "s16",
         (4, False): "u32", (4, True): "s32", (8, False): "u64", (8, True): "s64"}

# The rest of the tree: what bcc's own embedded helpers include, cut to what they use.
_STATIC = {
    "include/linux/types.h": """#pragma once
typedef unsigned char __u8; typedef signed char __s8;
typedef unsigned short __u16; typedef signed short __s16;
typedef unsigned int __u32; typedef signed int __s32;
typedef unsigned long long __u64; typedef signed long long __s64;
typedef __u8 u8; typedef __s8 s8; typedef __u16 u16; typedef __s16 s16;
typedef __u32 u32; typedef __s32 s32; typedef __u64 u64; typedef __s64 s64;
typedef __u16 __be16; typedef __u16 __le16; typedef __u32 __be32; typedef __u32 __le32;
typedef __u64 __be64; typedef __u64 __le64; typedef __u16 __sum16; typedef __u32 __wsum;
#define __aligned_u64 __u64 __attribute__((aligned(8)))
typedef _Bool bool; enum { false = 0, true = 1 };
typedef unsigned long size_t; typedef long ssize_t; typedef long long loff_t;
typedef unsigned long uintptr_t; typedef int pid_t; typedef unsigned int gfp_t;
typedef unsigned long pgoff_t; typedef unsigned long sector_t; typedef unsigned int uid_t;
#define NULL ((void *)0)
#define __user
#define __kernel
#define __always_inline inline __attribute__((always_inline))
#ifndef __packed
#define __packed __attribute__((packed))
#endif
#ifndef offsetof
#define offsetof(type, member) __builtin_offsetof(type, member)
#endif
""",
    "include/linux/kconfig.h": """#pragma once
#define CONFIG_BPF_SYSCALL 1
#define CONFIG_64BIT 1
#include <linux/types.h>
#include <ktop_kernel.h>
""",
    "include/linux/version.h": "#pragma once\n#define LINUX_VERSION_CODE 0\n"
                               "#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))\n",
    "include/linux/log2.h": "#pragma once\n#define roundup_pow_of_two(n) "
                            "(1UL << (64 - __builtin_clzl((n) - 1)))\n",
    "include/asm/page.h": f"#pragma once\n#define PAGE_SIZE {os.sysconf('SC_PAGESIZE')}\n",
    "include/linux/bpf_common.h": "#pragma once\n",
    "include/uapi/linux/bpf.h": "#pragma once\n",
    "include/uapi/linux/if_packet.h": "#pragma once\n",
    "include/uapi/linux/ptrace.h": "#pragma once\n",
    "include/linux/ptrace.h": "#pragma once\n",
}


@dataclass
class Wanted:
    """What the programs name: `records[struct] = [(names, optional)]`, enums and tracepoints."""

    records: dict[str, dict[str, tuple[tuple[str, ...], bool]]] = field(default_factory=dict)
    enums: dict[str, list[str]] = field(default_factory=dict)
    tracepoints: list[str] = field(default_factory=list)
    helpers: list[str] = field(default_factory=list)


@dataclass
class Header:
    """The generated header's text and the required things that this kernel lacks."""

    text: str
    missing: list[str]


def wanted(source: str) -> Wanted:
    """Read every `@kernel` block of a program's source. ValueError names a line that is off."""
    found = Wanted()
    for block in _BLOCK.findall(source):
        for line in block.splitlines():
            words = line.strip().lstrip("*").split()
            if not words:
                continue
            if words[0] == "tracepoint":
                found.tracepoints += [w for w in words[1:] if w not in found.tracepoints]
            elif words[0] == "helper":
                found.helpers += [w for w in words[1:] if w not in found.helpers]
            elif words[0] == "enum" and len(words) > 2 and words[1].endswith(":"):
                constants = found.enums.setdefault(words[1][:-1], [])
                constants += [w for w in words[2:] if w not in constants]
            elif words[0].endswith(":"):
                fields = found.records.setdefault(words[0][:-1], {})
                for word in words[1:]:
                    names = tuple(word.rstrip("?").split("|"))
                    fields.setdefault(names[0], (names, word.endswith("?")))
            else:
                raise ValueError(f"@kernel: cannot read {line.strip()!r}")
    return found


def _find(btf: Btf, type_id: int, name: str) -> Member | None:
    """The field, by name or by a dotted path of names."""
    first, _, rest = name.partition(".")
    found = btf.field(type_id, first)
    if found is None or not rest:
        return found
    inner = _find(btf, btf.resolve(found.type_id), rest)
    if inner is None:
        return None
    offset = found.bit_offset + inner.bit_offset
    return Member(inner.name, inner.type_id, offset, inner.bitfield_bits)


class _Emitter:
    def __init__(self, btf: Btf, records: dict[str, int]) -> None:
        self.btf = btf
        self.records = records

    def declaration(self, type_id: int, name: str) -> str:
        """C declaration of a field of that type, of exactly that size."""
        btf = self.btf
        type_id = btf.resolve(type_id)
        kind = btf.kind(type_id)
        if kind == KIND_PTR:
            inner = btf.resolve(btf.target(type_id))
            tag = btf.name(inner) if btf.kind(inner) in (KIND_STRUCT, KIND_UNION) else ""
            return f"struct {tag} *{name}" if tag in self.records else f"void *{name}"
        if kind == KIND_ARRAY:
            element, count = btf.array(type_id)
            return self.declaration(element, f"{name}[{count}]")
        if kind == KIND_INT:
            return f"{_INTS[btf.size(type_id), btf.signed(type_id)]} {name}"
        if kind in (KIND_ENUM, KIND_ENUM64):
            return f"{_INTS[btf.size(type_id), False]} {name}"
        if btf.name(type_id) in self.records:
            return f"struct {btf.name(type_id)} {name}"
        members = btf.members(type_id) if kind in (KIND_STRUCT, KIND_UNION) else []
        if len(members) == 1 and btf.size(members[0].type_id) == btf.size(type_id):
            return self.declaration(members[0].type_id, name)  # atomic_t, kuid_t and their like
        return f"u8 {name}[{btf.size(type_id)}]"

    def member(self, record: str, name: str, found: Member) -> str:
        """One arm of the union: padding up to the field, then the field."""
        if found.bitfield_bits:
            unit, bit = divmod(found.bit_offset, 32)
            pad = f"u8 pad_{name}[{unit * 4}]; " if unit else ""
            gap = f"u32 : {bit}; " if bit else ""
            return (f"    struct {{ {pad}union {{ u32 {name}_word; "
                    f"struct {{ {gap}u32 {name} : {found.bitfield_bits}; }}; }}; }};\n")
        offset = found.bit_offset // 8
        pad = f"u8 pad_{name}[{offset}]; " if offset else ""
        return f"    struct {{ {pad}{self.declaration(found.type_id, name)}; }};\n"

    def record(self, name: str, fields: dict[str, tuple[tuple[str, ...], bool]],
               missing: list[str]) -> str:
        type_id = self.records[name]
        size = self.btf.size(type_id)
        arms, after = "", f"_Static_assert(sizeof(struct {name}) == {size}, \"{name}\");\n"
        for field_name, (names, optional) in fields.items():
            canonical = field_name.replace(".", "_")
            found = next((m for m in (_find(self.btf, type_id, n) for n in names) if m), None)
            if found is None:
                if not optional:
                    missing.append(f"{name}.{canonical}")
                continue
            arms += self.member(name, canonical, found)
            after += f"#define KTOP_HAS_{name}_{canonical} 1\n"
            if found.bitfield_bits:
                after += (f"#define KTOP_SHIFT_{name}_{canonical} {found.bit_offset % 32}\n"
                          f"#define KTOP_MASK_{name}_{canonical} "
                          f"{(1 << found.bitfield_bits) - 1}u\n")
            else:
                after += (f"_Static_assert(__builtin_offsetof(struct {name}, {canonical}) == "
                          f"{found.bit_offset // 8}, \"{name}.{canonical}\");\n")
        return (f"#define KTOP_HAS_{name} 1\nstruct {name} {{ union {{\n"
                f"    u8 ktop_size[{size}];\n{arms}}}; }};\n{after}")


def _embedding_order(btf: Btf, records: dict[str, int], want: Wanted) -> list[str]:
    """Structs in an order in which each comes after those it embeds by value."""
    order: list[str] = []

    def visit(name: str, trail: tuple[str, ...]) -> None:
        if name in order or name in trail:
            return
        for names, _ in want.records[name].values():
            for member in (_find(btf, records[name], n) for n in names):
                inner = btf.resolve(member.type_id) if member else 0
                while inner and btf.kind(inner) == KIND_ARRAY:
                    inner = btf.resolve(btf.array(inner)[0])
                tag = btf.name(inner) if inner and btf.kind(inner) in (4, 5) else ""
                if tag in records:
                    visit(tag, (*trail, name))
        order.append(name)

    for name in records:
        visit(name, ())
    return order


def kernel_header(btf: Btf, want: Wanted) -> Header:
    """`ktop_kernel.h`: the structs, constants and tracepoints that the programs name."""
    records = {n: i for n, i in ((n, btf.find_record(n)) for n in want.records) if i is not None}
    missing: list[str] = []
    for name, fields in want.records.items():
        if name not in records and not all(optional for _, optional in fields.values()):
            missing.append(f"struct {name}")
    emitter = _Emitter(btf, records)
    text = "#pragma once\n" + "".join(f"struct {name};\n" for name in want.records)
    for name in _embedding_order(btf, records, want):
        text += emitter.record(name, want.records[name], missing)
    for enum, constants in want.enums.items():
        for constant in constants:
            value = btf.enum_value(enum, constant)
            if value is not None:
                text += f"#define {constant} {value}\n#define KTOP_HAS_{constant} 1\n"
    for event in want.tracepoints:
        count = btf.tracepoint_args(event)
        if count is not None:
            text += f"#define KTOP_ARGS_{event} {count}\n"
    helpers = btf.constants("bpf_func_id") if want.helpers else {}
    for helper in want.helpers:
        if f"BPF_FUNC_{helper}" in helpers:
            text += f"#define KTOP_HELPER_{helper} 1\n"
    return Header(text, missing)


def tree_features(tree: str) -> dict[str, str]:
    """Without BTF: defines for what differs between installed kernel headers, read off their text.

    tree: /lib/modules/RELEASE; distributions split its headers over `build` and `source`.
    """
    found = {}
    for part in ("build", "source"):
        base = os.path.join(tree, part, "include")
        try:
            with open(os.path.join(base, "linux/sched.h"), encoding="utf-8") as f:
                if not re.search(r"\b__state;", f.read()):  # before 5.14, 2f064a59a11f
                    found["__state"] = "state"
            with open(os.path.join(base, "trace/events/sched.h"), encoding="utf-8") as f:
                switch = re.search(r"TRACE_EVENT\(sched_switch,\s*TP_PROTO\(([^)]*)\)", f.read())
            if switch:
                found["KTOP_ARGS_sched_switch"] = str(switch.group(1).count(",") + 1)
            break
        except OSError:
            continue
    return found


def write_tree(directory: str, header: Header) -> None:
    """Write the include tree that BCC_KERNEL_SOURCE is to point at."""
    for path, text in (*_STATIC.items(), ("include/ktop_kernel.h", header.text)):
        full = os.path.join(directory, path)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with open(full, "w", encoding="ascii") as out:
            out.write(text)
