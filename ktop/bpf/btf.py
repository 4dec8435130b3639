"""BTF look-ups: where the running kernel keeps the fields that our programs read.

libbpf (which python3-bpfcc depends on) parses the blob and finds types by name; we only walk
members. Nothing here trusts libbpf to *print* a type: a dumped struct was silently wrong on a
kernel newer than the library, an offset read from the member itself cannot be.

BTF's format: Documentation/bpf/btf.rst in the kernel tree.
"""

from __future__ import annotations

import ctypes as ct
import os
from dataclasses import dataclass

VMLINUX = "/sys/kernel/btf/vmlinux"

(KIND_INT, KIND_PTR, KIND_ARRAY, KIND_STRUCT, KIND_UNION, KIND_ENUM, KIND_FWD, KIND_TYPEDEF,
 KIND_VOLATILE, KIND_CONST, KIND_RESTRICT, KIND_FUNC, KIND_FUNC_PROTO) = range(1, 14)
KIND_FLOAT, KIND_TYPE_TAG, KIND_ENUM64 = 16, 18, 19
_ALIASES = (KIND_TYPEDEF, KIND_VOLATILE, KIND_CONST, KIND_RESTRICT, KIND_TYPE_TAG)
_MAX_DEPTH = 32  # nesting of anonymous members and of typedef chains; a loop is a broken blob


class BtfError(Exception):
    """The BTF blob is absent, unreadable or broken. The message is one line for the user."""


class _Type(ct.Structure):
    _fields_ = [("name_off", ct.c_uint32), ("info", ct.c_uint32), ("size", ct.c_uint32)]


class _Member(ct.Structure):
    _fields_ = [("name_off", ct.c_uint32), ("type", ct.c_uint32), ("offset", ct.c_uint32)]


class _Array(ct.Structure):
    _fields_ = [("type", ct.c_uint32), ("index_type", ct.c_uint32), ("nelems", ct.c_uint32)]


class _Pair(ct.Structure):
    """struct btf_enum (name, value) and struct btf_param (name, type)."""

    _fields_ = [("name_off", ct.c_uint32), ("value", ct.c_int32)]


class _Enum64(ct.Structure):
    _fields_ = [("name_off", ct.c_uint32), ("lo", ct.c_uint32), ("hi", ct.c_uint32)]


@dataclass(frozen=True)
class Member:
    """A field found in a struct: offset in bits from its start, width in bits (0: no bit field)."""

    name: str
    type_id: int
    bit_offset: int
    bitfield_bits: int


def libbpf() -> ct.CDLL:
    """libbpf.so.1 with the prototypes we use. OSError where it is not installed."""
    lib = ct.CDLL("libbpf.so.1", use_errno=True)
    lib.btf__new.restype = lib.btf__load_vmlinux_btf.restype = ct.c_void_p
    lib.btf__new.argtypes = [ct.c_char_p, ct.c_uint32]
    lib.btf__load_vmlinux_btf.argtypes = []
    lib.btf__free.argtypes = lib.btf__type_cnt.argtypes = [ct.c_void_p]
    lib.btf__free.restype = None
    lib.btf__find_by_name_kind.argtypes = [ct.c_void_p, ct.c_char_p, ct.c_uint32]
    lib.btf__type_by_id.argtypes = [ct.c_void_p, ct.c_uint32]
    lib.btf__type_by_id.restype = ct.POINTER(_Type)
    lib.btf__name_by_offset.argtypes = [ct.c_void_p, ct.c_uint32]
    lib.btf__name_by_offset.restype = ct.c_char_p
    lib.libbpf_set_print.argtypes = [ct.c_void_p]
    lib.libbpf_set_print.restype = ct.c_void_p
    lib.libbpf_set_print(None)  # it would write warnings to stderr
    return lib


class Btf:
    """One BTF blob: the running kernel's, or any raw bytes (tests, other kernels)."""

    def __init__(self, raw: bytes | None = None) -> None:
        try:
            self._lib = libbpf()
        except OSError as err:
            raise BtfError(f"libbpf.so.1 cannot be loaded: {err}") from None
        if raw is None:
            if not os.path.exists(VMLINUX):
                raise BtfError(f"{VMLINUX}: this kernel has no BTF (CONFIG_DEBUG_INFO_BTF)")
            self._btf = self._lib.btf__load_vmlinux_btf()
        else:
            self._btf = self._lib.btf__new(raw, len(raw))
        if not self._btf:
            raise BtfError(f"BTF cannot be parsed: {os.strerror(ct.get_errno())}")
        self._members: dict[int, list[Member]] = {}
        self._count: int = self._lib.btf__type_cnt(self._btf)

    def close(self) -> None:
        """Free the blob; further calls are an error."""
        if self._btf:
            self._lib.btf__free(self._btf)
            self._btf = None

    def find(self, name: str, kind: int) -> int | None:
        """Type id of that name and kind, None where the kernel has none."""
        found: int = self._lib.btf__find_by_name_kind(self._btf, name.encode(), kind)
        return found if found > 0 else None

    def find_record(self, name: str) -> int | None:
        """Type id of a struct, a union, or a typedef of one, by name."""
        for kind in (KIND_STRUCT, KIND_UNION, KIND_TYPEDEF):
            found = self.find(name, kind)
            if found is not None:
                resolved = self.resolve(found)
                if self.kind(resolved) in (KIND_STRUCT, KIND_UNION):
                    return resolved
        return None

    def _type(self, type_id: int) -> ct._Pointer[_Type]:
        if not 0 < type_id < self._count:
            raise BtfError(f"BTF type {type_id} is out of range")
        pointer: ct._Pointer[_Type] = self._lib.btf__type_by_id(self._btf, type_id)
        return pointer

    def _after(self, type_id: int, cls: type[ct.Structure]) -> int:
        return ct.addressof(self._type(type_id).contents) + ct.sizeof(_Type)

    def _string(self, offset: int) -> str:
        raw = self._lib.btf__name_by_offset(self._btf, offset)
        return raw.decode("ascii", "replace") if raw else ""

    def kind(self, type_id: int) -> int:
        """KIND_*; 0 for void."""
        if type_id == 0:
            return 0
        return int((self._type(type_id).contents.info >> 24) & 0x1F)

    def name(self, type_id: int) -> str:
        """The type's own name, empty when it is anonymous."""
        return self._string(self._type(type_id).contents.name_off) if type_id else "void"

    def target(self, type_id: int) -> int:
        """What a pointer, typedef, qualifier, function or enum refers to (a type id)."""
        return int(self._type(type_id).contents.size)

    def resolve(self, type_id: int) -> int:
        """Through typedefs, const, volatile and type tags to the type itself."""
        for _ in range(_MAX_DEPTH):
            if self.kind(type_id) not in _ALIASES:
                return type_id
            type_id = self.target(type_id)
        raise BtfError("BTF typedef chain does not end")

    def size(self, type_id: int) -> int:
        """Size in bytes; a pointer is 8 (64-bit kernels only)."""
        type_id = self.resolve(type_id)
        kind = self.kind(type_id)
        if kind == KIND_PTR:
            return 8
        if kind == KIND_ARRAY:
            element, count = self.array(type_id)
            return self.size(element) * count
        if kind in (KIND_INT, KIND_STRUCT, KIND_UNION, KIND_ENUM, KIND_ENUM64, KIND_FLOAT):
            return int(self._type(type_id).contents.size)
        return 0

    def array(self, type_id: int) -> tuple[int, int]:
        """(element type id, number of elements) of an array type."""
        info = _Array.from_address(self._after(type_id, _Array))
        return info.type, info.nelems

    def signed(self, type_id: int) -> bool:
        """Whether an integer type is signed."""
        encoding = ct.c_uint32.from_address(self._after(type_id, _Type)).value
        return bool((encoding >> 24) & 1)

    def members(self, type_id: int) -> list[Member]:
        """Direct members of a struct or union, in order."""
        if type_id in self._members:
            return self._members[type_id]
        info = self._type(type_id).contents.info
        count, kind_flag = info & 0xFFFF, info >> 31
        base = self._after(type_id, _Member)
        found = []
        for index in range(count):
            m = _Member.from_address(base + index * ct.sizeof(_Member))
            bits, offset = (m.offset >> 24, m.offset & 0xFFFFFF) if kind_flag else (0, m.offset)
            found.append(Member(self._string(m.name_off), m.type, offset, bits))
        self._members[type_id] = found
        return found

    def field(self, type_id: int, name: str, _depth: int = 0) -> Member | None:
        """The member of that name, looked for in anonymous structs and unions too."""
        if _depth > _MAX_DEPTH:
            raise BtfError("BTF members nest without end")
        for member in self.members(type_id):
            if member.name == name:
                return member
            if member.name:
                continue
            inner_id = self.resolve(member.type_id)
            if self.kind(inner_id) in (KIND_STRUCT, KIND_UNION):
                inner = self.field(inner_id, name, _depth + 1)
                if inner is not None:
                    offset = member.bit_offset + inner.bit_offset
                    return Member(inner.name, inner.type_id, offset, inner.bitfield_bits)
        return None

    def constants(self, enum: str) -> dict[str, int]:
        """An enum's constants, in order; empty where the kernel lacks it."""
        found: dict[str, int] = {}
        for kind, cls in ((KIND_ENUM, _Pair), (KIND_ENUM64, _Enum64)):
            type_id = self.find(enum, kind)
            if type_id is None:
                continue
            base = self._after(type_id, cls)
            for index in range(self._type(type_id).contents.info & 0xFFFF):
                entry = cls.from_address(base + index * ct.sizeof(cls))
                found[self._string(entry.name_off)] = int(
                    entry.value if kind == KIND_ENUM else entry.hi << 32 | entry.lo)
        return found

    def enum_value(self, enum: str, constant: str) -> int | None:
        """Value of an enum's constant, None where the kernel lacks either."""
        return self.constants(enum).get(constant)

    def tracepoint_args(self, event: str) -> int | None:
        """How many arguments a raw tracepoint hands to a program; None where it is absent.

        `typedef void (*btf_trace_<event>)(void *__data, ...)`: the first is not handed on.
        """
        type_id = self.find(f"btf_trace_{event}", KIND_TYPEDEF)
        if type_id is None:
            return None
        proto = self.target(self.resolve(type_id))
        return max(0, int(self._type(proto).contents.info & 0xFFFF) - 1)
