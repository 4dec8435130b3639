"""What the faults run, one function each: `python -I loads.py ROLE ARGS`. Standard library only.

All run until killed, and die with the process that started them.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import mmap
import os
import queue
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

BLOCK = 4096


def ready() -> None:
    """Tell the stage."""
    print("ready", flush=True)


def threads(number: int, work: object, *args: object) -> None:
    """Run `work` in so many threads, for ever."""
    for _ in range(number):
        threading.Thread(target=work, args=args, daemon=True).start()  # type: ignore[arg-type]
    threading.Event().wait()


def fill(path: str, size: int) -> int:
    """A file of that size on the disk, opened past the page cache."""
    with open(path, "wb") as f:
        chunk = os.urandom(1 << 20)
        for _ in range(size >> 20):
            f.write(chunk)
        f.flush()
        os.fsync(f.fileno())
    return os.open(path, os.O_RDWR | os.O_DIRECT)


def spin(processes: str = "1") -> None:
    """Burn CPU."""
    for _ in range(int(processes) - 1):
        if not os.fork():
            break
    while True:
        pass


def pulse(work_ms: str, sleep_ms: str) -> None:
    """Work a moment, sleep a moment."""
    while True:
        end = time.thread_time() + float(work_ms) / 1e3
        while time.thread_time() < end:
            pass
        time.sleep(float(sleep_ms) / 1e3)


def forks(per_s: str) -> None:
    """A shell that starts short processes."""
    code = f"while :; do /bin/true; /bin/sh -c 'exit 0'; sleep {2 / float(per_s):.4f}; done"
    os.execv("/bin/sh", ["sh", "-c", code])


def health_check(pause_s: str) -> None:
    """A loop that starts a shell, which starts three: none of them lives for long."""
    code = ("while :; do /bin/sh -c '/bin/true | /bin/cat | /bin/true; exit 0'; "
            f"sleep {pause_s}; done")
    os.execv("/bin/sh", ["sh", "-c", code])


def bursts(every_s: str, processes: str, each_ms: str) -> None:
    """A script that runs some processes at once now and then: more than its quota has."""
    while True:
        time.sleep(float(every_s))
        children = []
        for _ in range(int(processes)):
            if not (pid := os.fork()):
                end = time.thread_time() + float(each_ms) / 1e3
                while time.thread_time() < end:
                    pass
                os._exit(0)
            children.append(pid)
        for pid in children:
            os.waitpid(pid, 0)


def pool(workers: str, per_s: str, work_ms: str) -> None:
    """A pool of threads that a thread feeds: most of them wait for work."""
    jobs: queue.Queue[int] = queue.Queue()

    def work() -> None:
        while True:
            jobs.get()
            end = time.thread_time() + float(work_ms) / 1e3
            while time.thread_time() < end:
                pass

    for _ in range(int(workers)):
        threading.Thread(target=work, daemon=True).start()
    while True:
        jobs.put(1)
        time.sleep(random.expovariate(float(per_s)))


def writers(path: str, number: str, size: str) -> None:
    """Many threads that write past the page cache."""
    fd = fill(path, 64 << 20)
    ready()

    def write() -> None:
        page = mmap.mmap(-1, int(size))
        page.write(os.urandom(int(size)))
        while True:
            os.pwritev(fd, [page], random.randrange((64 << 20) // int(size)) * int(size))

    threads(int(number), write)


def committer(path: str, per_s: str) -> None:
    """Write a little and fsync; so many times a second, 0: as fast as it goes."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    while True:
        os.pwrite(fd, os.urandom(random.randrange(500, 8000)), random.randrange(1 << 20))
        os.fsync(fd)
        if per_s != "0":
            time.sleep(random.expovariate(float(per_s)))


def sync_writer(device: str, size: str) -> None:
    """Write a block at a time at random, past the page cache; do not mind errors."""
    fd = os.open(device, os.O_WRONLY | os.O_DIRECT)
    page = mmap.mmap(-1, 4096)
    while True:
        try:
            os.pwritev(fd, [page], random.randrange(int(size) // 4096) * 4096)
        except OSError:
            time.sleep(0.02)


def dump(path: str, size: str) -> None:
    """Write a file through the page cache, again and again."""
    chunk = os.urandom(1 << 20)
    while True:
        with open(path, "wb") as f:
            for _ in range(int(size) >> 20):
                f.write(chunk)


def anonymous(size: str) -> None:
    """Use that much memory of no file and nobody else's, all of it at random."""
    m = mmap.mmap(-1, int(size), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    pages = int(size) // 4096
    for i in range(pages):
        m[i * 4096] = i & 255
    while True:
        m[random.randrange(pages) * 4096] = 1


def readers(path: str, number: str, size: str, pause_ms: str = "0") -> None:
    """Threads that read at random past the page cache."""
    fd = fill(path, 64 << 20)
    ready()

    def read() -> None:
        page = mmap.mmap(-1, int(size))
        while True:
            os.preadv(fd, [page], random.randrange((64 << 20) // int(size)) * int(size))
            if pause_ms != "0":
                time.sleep(random.expovariate(1e3 / float(pause_ms)))

    threads(int(number), read)


def copier(source: str, size: str) -> None:
    """Copy a file that is not in the page cache, again and again."""
    fd = fill(source, int(size))
    ready()
    while True:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        with open(source, "rb") as a, open(source + ".copy", "wb") as b:
            while data := a.read(1 << 20):
                b.write(data)


def cached(path: str) -> None:
    """Read what is in the page cache."""
    os.close(fill(path, 256 << 20))
    with open(path, "rb", buffering=0) as f:
        ready()
        while True:
            f.seek(0)
            while f.read(1 << 20):
                pass


def sink(port: str) -> None:
    """A server that reads all."""
    server = socket.create_server(("0.0.0.0", int(port)), backlog=64)
    ready()

    def swallow(client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while client.recv(1 << 16):
                pass

    while True:
        threading.Thread(target=swallow, args=(server.accept()[0],), daemon=True).start()


def deaf(port: str) -> None:
    """A server that accepts and never reads."""
    server = socket.create_server(("0.0.0.0", int(port)), backlog=64)
    ready()
    kept = []
    while True:
        kept.append(server.accept()[0])


def pour(address: str, port: str, number: str, pause_ms: str) -> None:
    """Send all the time."""
    def send() -> None:
        data = os.urandom(1 << 15)
        while True:
            with contextlib.suppress(OSError), socket.create_connection(
                    (address, int(port))) as s:
                while True:
                    s.sendall(data)
                    time.sleep(float(pause_ms) / 1e3)

    threads(int(number), send)


def absent_minded(port: str, backlog: str) -> None:
    """A listener that does not accept."""
    server = socket.create_server(("0.0.0.0", int(port)), backlog=int(backlog))
    ready()
    time.sleep(1e6)
    server.close()


def connect(address: str, port: str, per_s: str, timeout_s: str, keep: str = "0") -> None:
    """Connect again and again."""
    kept = []

    def once() -> None:
        s = socket.socket()
        s.settimeout(float(timeout_s))
        try:
            s.connect((address, int(port)))
            if keep != "0":
                kept.append(s)
                return
        except OSError:
            pass
        s.close()

    while True:
        threading.Thread(target=once, daemon=True).start()
        time.sleep(1 / float(per_s))


def datagrams(address: str, per_s: str) -> None:
    """UDP to ever new ports: an entry of connection tracking each."""
    port = 1024
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    while True:
        port = 1024 + (port + 1) % 60000
        with contextlib.suppress(OSError):
            s.sendto(b"x", (address, port))
        time.sleep(1 / float(per_s))


def swallow(port: str) -> None:
    """Read datagrams."""
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind(("0.0.0.0", int(port)))
    ready()
    while True:
        s.recv(2048)


def packets(address: str, port: str, per_s: str) -> None:
    """Small datagrams at a steady rate, whatever the clock's granularity."""
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    began, sent = time.monotonic(), 0
    while True:
        while sent < (time.monotonic() - began) * float(per_s):
            s.sendto(b"x", (address, int(port)))
            sent += 1
        time.sleep(0.01)


def mutex(number: str, hold_us: str) -> None:
    """Threads that queue at a pthread mutex."""
    libc = ctypes.CDLL(None)
    lock = ctypes.create_string_buffer(64)
    hold = int(hold_us)

    def fight() -> None:
        while True:
            libc.pthread_mutex_lock(lock)
            libc.usleep(hold)
            libc.pthread_mutex_unlock(lock)

    threads(int(number), fight)


def semaphore(number: str, hold_ms: str) -> None:
    """Threads that queue at a lock of Python's, which is a semaphore."""
    lock = threading.Lock()

    def fight() -> None:
        while True:
            with lock:
                time.sleep(float(hold_ms) / 1e3)

    threads(int(number), fight)


def answer(port: str, delay_ms: str, work_ms: str = "0") -> None:
    """A server that answers each message after a while."""
    server = socket.create_server(("0.0.0.0", int(port)), backlog=2048)
    ready()

    def serve(client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while client.recv(4096):
                end = time.thread_time() + float(work_ms) / 1e3
                while time.thread_time() < end:
                    pass
                if delay_ms != "0":
                    time.sleep(float(delay_ms) / 1e3)
                client.sendall(b"y" * 1000)

    while True:
        threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()


def queries(address: str, port: str, number: str, each: str, work_ms: str) -> None:
    """Threads that ask so many things one after the other, then work for a moment."""
    def client() -> None:
        s = socket.create_connection((address, int(port)))
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            for _ in range(int(each)):
                s.sendall(b"x" * random.randrange(50, 400))
                s.recv(4096)
            end = time.thread_time() + float(work_ms) / 1e3
            while time.thread_time() < end:
                pass

    threads(int(number), client)


def ask(address: str, port: str, number: str, pause_ms: str, idle: str = "0") -> None:
    """Clients of `answer`, and so many connections that had an answer once and are idle."""
    kept = []
    for _ in range(int(idle)):
        s = socket.create_connection((address, int(port)))
        s.sendall(b"x")
        kept.append(s)
    for s in kept:
        s.recv(4096)

    def client() -> None:
        s = socket.create_connection((address, int(port)))
        while True:
            s.sendall(b"x" * 200)
            s.recv(4096)
            if pause_ms != "0":
                time.sleep(random.expovariate(1e3 / float(pause_ms)))

    threads(int(number), client)


def thrash(path: str, size: str, pause_ms: str = "0") -> None:
    """Use more of a mapped file than the memory limit leaves room for."""
    os.close(fill(path, int(size)))
    fd = os.open(path, os.O_RDONLY)
    m = mmap.mmap(fd, int(size), prot=mmap.PROT_READ)
    total = 0
    ready()
    while True:
        total += m[random.randrange(int(size))]
        if pause_ms != "0":
            time.sleep(float(pause_ms) / 1e3)


def missing(per_s: str) -> None:
    """Open what is not there."""
    n = 0
    while True:
        n += 1
        with contextlib.suppress(OSError):
            os.close(os.open(f"conf.d/{n % 7}.conf", os.O_RDONLY))
        time.sleep(1 / float(per_s))


def leak(per_s: str) -> None:
    """Open and never close."""
    while True:
        os.open("/dev/null", os.O_RDONLY)
        time.sleep(1 / float(per_s))


def convoy(path: str, number: str, hold_ms: str) -> None:
    """Processes that take turns at a file lock."""
    for _ in range(int(number) - 1):
        if not os.fork():
            break
    with open(path, "w") as f:
        while True:
            fcntl.flock(f, fcntl.LOCK_EX)
            time.sleep(float(hold_ms) / 1e3)
            fcntl.flock(f, fcntl.LOCK_UN)


def slow_reads(path: str) -> None:
    """Read the slow half of the file of tests/fuse_slow.py."""
    fd = os.open(path, os.O_RDONLY)
    while True:
        os.pread(fd, 4096, (1 << 19) + random.randrange(1 << 18))


def build(jobs: str) -> None:
    """Compile many small programs, so many at once."""
    source = "\n".join(f"int f{i}(int a, char *b) {{ return a * {i} + b[a % {i + 1}]; }}"
                       for i in range(1500))
    with open("unit.c", "w") as f:
        f.write("#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n" + source)

    def worker(number: int) -> None:
        while True:
            subprocess.run(["gcc", "-O2", "-c", "unit.c", "-o", f"unit{number}.o"], check=False)

    for i in range(int(jobs)):
        threading.Thread(target=worker, args=(i,), daemon=True).start()
    threading.Event().wait()


def _hurry(libc: ctypes.CDLL) -> None:
    """Ask for short slices, which EEVDF grants sooner: other work here is not the case's fault."""
    number = {"x86_64": 314, "aarch64": 274}.get(os.uname().machine)
    if number is not None:
        slice_ns = 100_000
        libc.syscall(number, 0, struct.pack("@IIQiIQQQ", 48, 0, 0, -20, 0, slice_ns, 0, 0), 0)


def main() -> None:
    """Be a role."""
    libc = ctypes.CDLL(None)
    libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    for file in filter(None, os.environ.get("LOAD_GROUPS", "").split(":")):
        with open(file, "w", encoding="ascii") as f:
            f.write("0")
    if os.environ.get("LOAD_HURRY"):
        _hurry(libc)
    globals()[sys.argv[1]](*sys.argv[2:])


if __name__ == "__main__":
    main()
