"""Take tests/data/stacks.msgpack.gz anew: real stacks of a little shop of our own (root, gcc).

    python -m tests.make_stacks
"""

from __future__ import annotations

import gzip
import subprocess
import tempfile
import time
from pathlib import Path

import msgspec

from ktop.collect.main import Collector, Options
from ktop.model import Stacks
from ktop.wire import Profile
from tests.stacks import FILE

SOURCE = r"""
#include <fcntl.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#define NI __attribute__((noinline))
/* libc keeps no frame pointers: its caller would be skipped */
static inline __attribute__((always_inline)) long raw(long n, long a, long b, long c, long d)
{
    long r;
    register long r10 asm("r10") = d;
    asm volatile("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10)
                 : "rcx", "r11", "memory");
    return r;
}
static int log_fd, data_fd, queue[2];
static volatile unsigned long x;
static char page[1 << 16];
static void work(int n) { for (int i = 0; i < n * 1000; i++) x += i; }
NI void parse_headers(void) { work(300); }
NI void parse_body(void) { work(150); }
NI void parse_request(void) { parse_headers(); parse_body(); work(40); }
NI void compare_keys(void) { work(900); }
NI void descend_btree(void) { compare_keys(); work(80); }
NI void read_page(long at) { raw(SYS_pread64, data_fd, (long)page, sizeof page, at % 64 << 16); }
NI void fetch_rows(long at) { for (int i = 0; i < 12; i++) read_page(at + i); work(60); }
NI void plan_query(void) { work(120); }
NI void run_query(long at) { plan_query(); descend_btree(); fetch_rows(at); }
NI void escape_html(void) { work(260); }
NI void longest_match(void) { work(1100); }
NI void deflate_fast(void) { longest_match(); work(130); }
NI void compress_page(void) { deflate_fast(); }
NI void render_page(void) { escape_html(); compress_page(); }
NI void flush_log(void) { raw(SYS_fdatasync, log_fd, 0, 0, 0); }
NI void write_log(void) { raw(SYS_write, log_fd, (long)page, 4096, 0); flush_log(); }
NI void wait_for_upstream(void)
{
    struct timespec t = {0, 4000000};
    raw(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, (long)&t, 0);
}
NI void wake_worker(void) { char c = 0; raw(SYS_write, queue[1], (long)&c, 1, 0); }
NI void serve_request(long at)
{
    parse_request();
    run_query(at);
    wait_for_upstream();
    render_page();
    write_log();
    wake_worker();
}
NI void take_job(void) { char c; raw(SYS_read, queue[0], (long)&c, 1, 0); }
NI void send_mail(void) { work(200); }
NI void *worker(void *none)
{
    prctl(PR_SET_NAME, "shop-mailer");
    for (;;) { take_job(); send_mail(); }
    return none;
}
int main(void)
{
    pthread_t thread;
    log_fd = open("log", O_CREAT | O_RDWR | O_TRUNC, 0600);
    data_fd = open("data", O_CREAT | O_RDWR, 0600);
    for (int i = 0; i < 64; i++) if (write(data_fd, page, sizeof page) < 0) return 1;
    if (pipe(queue)) return 1;
    pthread_create(&thread, 0, worker, 0);
    for (long at = 0; ; at++) { serve_request(at); if (at % 256 == 255) lseek(log_fd, 0, 0); }
}
"""
SECONDS = 20.0


def take() -> Stacks:
    """Build the shop, let it work, take its stacks."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        (Path(directory) / "shop.c").write_text(SOURCE)
        subprocess.run(["gcc", "-O0", "-fno-omit-frame-pointer", "-static", "-pthread", "-o",
                        "shop", "shop.c"], cwd=directory, check=True)
        shop = subprocess.Popen(["./shop"], cwd=directory)
        collector = Collector(Options())
        try:
            collector.start()
            collector.tick()
            collector.profile(Profile(pids=[shop.pid], seconds=SECONDS))
            while True:
                time.sleep(0.2)
                collector.drain()
                stacks = collector.tick().stacks
                assert stacks is not None and stacks.state != "failed", stacks
                if stacks.state == "ended" and not stacks.naming:
                    return stacks
        finally:
            collector.close()
            shop.kill()
            shop.wait()


def main() -> None:
    """Take and write."""
    stacks = take()
    FILE.write_bytes(gzip.compress(msgspec.msgpack.encode(stacks), mtime=0))
    print(f"{len(stacks.stacks)} stacks, {len(stacks.names)} names, "
          f"{FILE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
