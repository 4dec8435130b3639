"""A path between two network namespaces on which some packets are late, so that others overtake
them: `python -I relay.py NETNS NETNS SHARE LATE_MS PATH_MS`. Standard library only.

netem does this where a kernel has it. Here two TUN devices, 10.79.0.1 in the first namespace and
10.79.0.2 in the second, are this process's two ends: of what the first one sends, SHARE is held for
LATE_MS more than the PATH_MS that each packet takes. Says `ready`, runs until it is killed.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import itertools
import os
import random
import select
import signal
import struct
import subprocess
import sys
import time

FIRST, SECOND = "10.79.0.1", "10.79.0.2"
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 1, 0x1000


def end(namespace: str, name: str, address: str) -> int:
    """One end of the path; it goes with the descriptor."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(fd, _TUNSETIFF, struct.pack("@16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    for command in (f"ip link set {name} netns {namespace}",
                    f"ip -n {namespace} addr add {address}/24 dev {name}",
                    f"ip -n {namespace} link set {name} up"):
        subprocess.run(command.split(), check=True)
    return fd


def packets(fd: int) -> list[bytes]:
    """What waits there, some at a time."""
    found: list[bytes] = []
    try:
        while len(found) < 64:
            found.append(os.read(fd, 65_536))
    except BlockingIOError:
        pass
    return found


def relay(first: int, second: int, share: float, late_s: float, path_s: float) -> None:
    """Carry packets for ever."""
    under_way: list[tuple[float, int, int, bytes]] = []
    number = itertools.count()
    while True:
        wait = max(0.0, under_way[0][0] - time.monotonic()) if under_way else 1.0
        for fd in select.select([first, second], [], [], wait)[0]:
            now = time.monotonic()
            for packet in packets(fd):
                held = late_s if fd == first and random.random() < share else 0.0
                heapq.heappush(under_way, (now + path_s + held, next(number),
                                           second if fd == first else first, packet))
        now = time.monotonic()
        while under_way and under_way[0][0] <= now:
            _, _, fd, packet = heapq.heappop(under_way)
            os.write(fd, packet)


def main() -> None:
    """Be the path."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    a, b, share, late_ms, path_ms = sys.argv[1:]
    number = os.getpid()
    ends = end(a, f"ktr{number}a", FIRST), end(b, f"ktr{number}b", SECOND)
    print("ready", flush=True)
    relay(*ends, float(share), float(late_ms) / 1e3, float(path_ms) / 1e3)


if __name__ == "__main__":
    main()
