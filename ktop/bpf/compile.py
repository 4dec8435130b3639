"""The compile child: compiles the programs with bcc, loads and attaches them, hands over the fds.

Run by the system's python3, where the distribution's `bcc` lives: `compile.py FD OPTIONS-JSON`.
FD is a SOCK_SEQPACKET socket; each message is a JSON object, fds ride along (SCM_RIGHTS):

    {"kind": "map", "name", "key_size", "value_size", "max_entries"}           [map fd]
    {"kind": "probe", "name", "status", "reason", "attach"}                    [program, links...]
    {"kind": "facts", ...}          versions, notes, syscall names
    {"kind": "fatal", "reason"}     nothing could be loaded

It leaves by os._exit: LLVM's memory goes with it, and bcc's own cleanup, which would disable perf
events that now belong to the collector, never runs.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import resource
import shutil
import socket
import sys
from collections.abc import Collection
from typing import Any, cast

_HERE = os.path.dirname(os.path.abspath(__file__))
RING_PAGES = 1024  # 4 MiB of events: 15,000 executions between two drains


class Refused(Exception):
    """Nothing can be loaded; the message is one line for the user."""


def _last_line(text: str) -> str:
    """The line of a compiler's or verifier's output that says why."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "error:" in line]
    lines = [line for line in lines if not line.startswith(("processed ", "verification time"))]
    return (errors or lines or ["no reason given"])[0 if errors else -1][:300]


def _capture_stderr() -> int:
    """LLVM and libbpf write to fd 2: keep that off the terminal and readable."""
    log = os.memfd_create("ktop-compile")
    os.dup2(log, 2)
    return log


def _drain(log: int) -> str:
    text = os.pread(log, 1 << 20, 0).decode("utf-8", "replace")
    os.ftruncate(log, 0)
    os.lseek(log, 0, os.SEEK_SET)
    return text


def flavours(text: str, helpers: Collection[str]) -> list[tuple[str, ...]]:
    """The ways to build a program text, the best first; none that asks for helpers not there.

    helpers: BPF_FUNC_* that the kernel's BTF names. A compile that the verifier will refuse for
    them costs as much as one that it takes.
    """
    def lacks(helper: str) -> bool:
        return f"{helper}(" in text and f"BPF_FUNC_{helper}" not in helpers

    found: list[tuple[str, ...]] = [()]
    if not lacks("get_current_task_btf"):  # 5.11, 3ca1032ab7ab
        found.insert(0, ("KTOP_TYPED",))
        if "KTOP_TASK_STORAGE" in text and not lacks("task_storage_get"):  # 5.12, a10787e6d58c
            found.insert(0, ("KTOP_TYPED", "KTOP_TASK_STORAGE"))
    return found


class Loader:
    """Compiles one flavour of the programs after the other until the kernel takes them all."""

    def __init__(self, options: dict[str, Any], log: int) -> None:
        from ktop.bpf import attach, btf, headers, layers, syscall

        self.btf_mod, self.headers = btf, headers
        self.attach_mod, self.syscall = attach, syscall
        self.options, self.log = options, log
        group = layers.GROUPS[options.get("group", 0)]
        self.layers, self.probes = group.layers, layers.probes_of(group)
        self.defines = dict(layers.defines_of(group), KTOP_RING_PAGES=options.get(
            "ring_pages", RING_PAGES))
        self.sources = {name: self._read(f"{name}.bpf.c") for name in group.layers}
        self.common = "".join(self._read(name) for name in ("ktop.bpf.h", *group.headers))
        self.notes: list[str] = []
        self.reasons: dict[str, str] = {}  # probe -> why it was refused
        self.btf: Any = None

    @staticmethod
    def _read(name: str) -> str:
        with open(os.path.join(_HERE, name), encoding="ascii") as f:
            return f'#line 1 "{name}"\n' + f.read()

    def prepare_headers(self) -> None:
        """The include tree from BTF, or the installed kernel headers where there is no BTF."""
        try:
            if not self.options.get("btf", True):
                raise self.btf_mod.BtfError("BTF is switched off")
            self.btf = self.btf_mod.Btf()
        except self.btf_mod.BtfError as err:
            tree = f"/lib/modules/{platform.release()}"
            if not os.path.isdir(f"{tree}/build/"):
                raise Refused(f"{err}; and no kernel headers at {tree}/build") from None
            self.notes.append(f"{err}: using the kernel headers at {tree}/build")
            self.defines.update(self.headers.tree_features(tree))
            return
        want = self.headers.wanted(self.common + "".join(self.sources.values()))
        header = self.headers.kernel_header(self.btf, want)
        if header.missing:
            self.notes.append("this kernel has no " + ", ".join(header.missing))
        self.headers.write_tree(self.options["tree"], header)
        os.environ["BCC_KERNEL_SOURCE"] = self.options["tree"]

    def _compile(self, layers: tuple[str, ...], flavour: tuple[str, ...]) -> Any:
        import bcc

        flags = [f"-D{k}={v}" for k, v in self.defines.items()] + [f"-D{name}" for name in flavour]
        if self.options.get("cgroup_v1"):
            flags.append("-DKTOP_CGROUP_V1")
        if self.btf is None:
            flags.append("-DKTOP_KERNEL_HEADERS")
        text = self.common + "".join(self.sources[name] for name in layers)
        try:
            return bcc.BPF(text=text, cflags=flags)
        except Exception as err:
            raise Refused(_last_line(_drain(self.log) or str(err))) from None

    def compile_layers(self, flavour: tuple[str, ...]) -> Any:
        """All layers as one program text; if that fails, as many as compile."""
        try:
            return self._compile(self.layers, flavour)
        except Refused as err:
            reason = str(err)
        module, taken = None, cast("tuple[str, ...]", ())
        for layer in self.layers:
            try:
                module = self._compile((*taken, layer), flavour)
                taken = (*taken, layer)
            except Refused as err:
                reason = str(err)
                for probe in self.probes:
                    if probe.layer == layer or len(self.layers) == 1:
                        self.reasons[probe.name] = reason
        if module is None:
            raise Refused(f"the programs do not compile: {reason}")
        return module

    def _load_one(self, module: Any, probe: Any, typed: bool) -> int:
        sc, kinds = self.syscall, self.btf_mod
        try:
            insns = module.dump_func(probe.name.encode())
        except Exception:
            raise Refused(self.reasons.get(probe.name, "not built on this kernel")) from None
        if probe.kind == "clock":
            return int(sc.prog_load(insns, probe.name, sc.PROG_PERF_EVENT))
        if probe.kind == "tracepoint":
            return int(sc.prog_load(insns, probe.name, sc.PROG_TRACEPOINT))
        if probe.kind == "tp" and not typed:
            return int(sc.prog_load(insns, probe.name, sc.PROG_RAW_TRACEPOINT))
        name, kind, attach = (
            (f"bpf_iter_{probe.target}", kinds.KIND_FUNC, sc.ATTACH_TRACE_ITER)
            if probe.kind == "iter" else
            (f"btf_trace_{probe.target}", kinds.KIND_TYPEDEF, sc.ATTACH_TRACE_RAW_TP))
        btf_id = self.btf.find(name, kind) if self.btf else None
        if btf_id is None:
            raise Refused(f"this kernel has no {probe.attach_point}")
        return int(sc.prog_load(insns, probe.name, sc.PROG_TRACING, attach, btf_id))

    def load(self, flavour: tuple[str, ...]) -> tuple[Any, dict[str, int], int]:
        """(module, program fd by probe, how many the kernel's verifier refused)."""
        module = self.compile_layers(flavour)
        loaded, refused = {}, 0
        skip = self.options.get("skip", [])
        for probe in self.probes:
            try:
                if probe.name in skip:
                    raise Refused("switched off")
                loaded[probe.name] = self._load_one(module, probe, "KTOP_TYPED" in flavour)
                self.reasons.pop(probe.name, None)
            except Refused as err:
                self.reasons[probe.name] = str(err)
            except self.syscall.LoadError as err:
                refused += 1
                self.reasons[probe.name] = f"{err.strerror}: {_last_line(err.log)}"
            except OSError as err:
                self.reasons[probe.name] = err.strerror or str(err)
        return module, loaded, refused

    def load_best(self) -> tuple[Any, dict[str, int], tuple[str, ...]]:
        """The first flavour of which nothing is refused, else the one of which most is taken."""
        best: tuple[Any, dict[str, int], tuple[str, ...]] | None = None
        best_reasons: dict[str, str] = {}
        failure = Refused("nothing was tried")
        text = self.common + "".join(self.sources.values())
        typed = self.btf and self.options.get("typed", True)
        tried = flavours(text, self.btf.constants("bpf_func_id")) if typed else [()]
        for flavour in tried:
            self.reasons = {}
            try:
                module, loaded, refused = self.load(flavour)
            except Refused as err:
                failure = err
                continue
            if best is None or len(loaded) > len(best[1]):
                best, best_reasons = (module, loaded, flavour), self.reasons
            if not refused:
                break
        if best is None:
            raise failure
        self.reasons = best_reasons
        return best

    def attach(self, probe: Any, fd: int, typed: bool, maps: dict[str, int]) -> list[int]:
        """The program's fd and those that hold it attached; what is on demand is not attached."""
        if probe.kind == "tracepoint":
            note = self.attach_mod.mount_tracefs()
            if note:
                self.notes.append(note)
        return [fd] if probe.on_demand else [fd, *self.attach_mod.attach(
            probe, fd, typed, maps.__getitem__)]


def _send(sock: socket.socket, message: dict[str, Any], fds: list[int]) -> None:
    socket.send_fds(sock, [json.dumps(message).encode()], fds)


def _send_maps(sock: socket.socket, module: Any) -> dict[str, int]:
    """Hand over every map; their descriptors by name."""
    import ctypes as ct

    from bcc import lib

    lib.bpf_table_name.restype = ct.c_char_p
    for function in (lib.bpf_table_name, lib.bpf_table_key_size_id, lib.bpf_table_leaf_size_id,
                     lib.bpf_table_max_entries_id, lib.bpf_table_fd_id):
        function.argtypes = [ct.c_void_p, ct.c_size_t]
    lib.bpf_num_tables.argtypes = [ct.c_void_p]  # else cut to an int: a crash where that matters
    found = {}
    for i in range(lib.bpf_num_tables(module.module)):
        name = lib.bpf_table_name(module.module, i).decode()
        found[name] = lib.bpf_table_fd_id(module.module, i)
        _send(sock, {
            "kind": "map", "name": name,
            "key_size": lib.bpf_table_key_size_id(module.module, i),
            "value_size": lib.bpf_table_leaf_size_id(module.module, i),
            "max_entries": lib.bpf_table_max_entries_id(module.module, i),
        }, [found[name]])
    return found


def _fill_syscall_reasons(loader: Loader, module: Any, names: dict[int, str]) -> None:
    from ktop.bpf import syscalls

    try:
        table = module.get_table("syscall_reason")
    except KeyError:
        return
    for number, name in names.items():
        if number < 1024:
            loader.syscall.map_update(table.map_fd, number.to_bytes(4, sys.byteorder),
                                      bytes([syscalls.code_of(name)]))


def _syscall_names() -> dict[int, str]:
    """The running machine's syscall numbers, from bcc's own table."""
    from bcc import syscall

    return {number: name.decode() for number, name in syscall.syscalls.items()}


def run(sock: socket.socket, options: dict[str, Any], log: int) -> None:
    """Load what can be loaded and tell the collector about everything."""
    try:
        import bcc
    except ImportError as err:
        raise Refused(f"python3-bpfcc is not installed for {sys.executable} ({err})") from None
    if not hasattr(bcc, "BPF"):
        raise Refused(f"{bcc.__file__} is not the BPF Compiler Collection")
    sys.path.append(os.path.dirname(os.path.dirname(_HERE)))
    with contextlib.suppress(ValueError, OSError):  # not needed since 5.11, and bcc tries too
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY,) * 2)
    from ktop import capabilities

    capabilities.become_helper(capabilities.COMPILE)
    loader = Loader(options, log)
    loader.prepare_headers()
    module, loaded, flavour = loader.load_best()
    names = _syscall_names()
    _fill_syscall_reasons(loader, module, names)
    maps = _send_maps(sock, module)
    for probe in loader.probes:
        fds, reason = [], loader.reasons.get(probe.name, "")
        if probe.name in loaded:
            try:
                fds = loader.attach(
                    probe, loaded[probe.name], "KTOP_TYPED" in flavour, maps)
            except OSError as err:
                reason = f"{errno.errorcode.get(err.errno or 0, '?')}: {err.strerror or err}"
        _send(sock, {"kind": "probe", "name": probe.name, "reason": reason, "live": bool(fds)}, fds)
    _send(sock, {"kind": "facts", "notes": loader.notes, "flavour": list(flavour),
                 "bcc": bcc.__version__, "python": sys.executable, "syscalls": names,
                 "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}, [])


def main() -> None:
    """Entry point of the child."""
    sock = socket.socket(fileno=int(sys.argv[1]))
    options = json.loads(sys.argv[2])
    log = _capture_stderr()
    try:
        run(sock, options, log)
    except Refused as err:
        _send(sock, {"kind": "fatal", "reason": str(err)}, [])
    except Exception as err:  # whatever it is, the collector goes on without BPF and says why
        _send(sock, {"kind": "fatal", "reason": f"{type(err).__name__}: {err}"[:500]}, [])
    finally:
        shutil.rmtree(options["tree"], ignore_errors=True)
        os._exit(0)


if __name__ == "__main__":
    main()
