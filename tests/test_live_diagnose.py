"""`ktop diagnose` as a user runs it, on the running kernel."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.livekit import python

pytestmark = pytest.mark.live

MUTEX = """
import ctypes, threading
libc, lock = ctypes.CDLL(None), ctypes.create_string_buffer(64)
def fight():
    while True:
        libc.pthread_mutex_lock(lock); libc.usleep(2000); libc.pthread_mutex_unlock(lock)
for _ in range(5): threading.Thread(target=fight, daemon=True).start()
print(flush=True)
threading.Event().wait()
"""


def diagnose(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "ktop", "diagnose", *args], check=False,
                          capture_output=True, text=True, timeout=120)


def test_a_contended_mutex_in_the_scope_of_its_process() -> None:
    child = python(MUTEX)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        done = diagnose("--duration", "5", "--pid", str(child.pid), "--json", "--exit-code")
    finally:
        child.kill()
        child.wait()
    assert done.returncode == 10, done.stderr
    found = json.loads(done.stdout)
    assert found["verdict"]["pipe"] == "lock"
    assert found["verdict"]["culprits"][0]["pid"] == child.pid
    assert 3.0 < found["verdict"]["stalled"] < 4.2
    assert found["health"]["source"] == "bpf"


def test_as_text_and_without_an_exit_code() -> None:
    done = diagnose("--duration", "2")
    assert done.returncode == 0, done.stderr
    assert "confidence" in done.stdout.splitlines()[0] and "\npipes\n" in done.stdout


@pytest.mark.parametrize("args", [
    ("--pid", "4194303"), ("--cgroup", "/no/such"), ("--duration", "0"), ("--comm", "(")])
def test_what_cannot_be_looked_at_is_one_line_and_status_2(args: tuple[str, ...]) -> None:
    done = diagnose(*args) if "--duration" in args else diagnose(*args, "--duration", "1")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1 and "Traceback" not in done.stderr
