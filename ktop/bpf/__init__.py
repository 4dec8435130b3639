"""All that knows BPF: headers from BTF, the compile child, fd hand-over, map reads, iterators.

`btf`, `headers`, `layout`, `syscall`, `syscalls`, `probes` and `compile` also run under the
system's own python3 (the one the distribution's `bcc` belongs to, 3.9 or later): they import the
standard library and each other, nothing else.
"""
