"""The ktop that `bench.soak` runs: live, four samples a second, with a short memory of the past.

Imports nothing but ktop, so that its memory is ktop's. On SIGUSR1 each of its processes notes how
many blocks of memory its Python objects hold (sys.getallocatedblocks), garbage collected before,
and what malloc has given out: a leak shows there long before it shows beside the noise of RSS.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import signal
import sys
from pathlib import Path

INTERVAL_S = 0.25
PAST_BYTES = 1 << 20  # packed samples; 64 MB in earnest
SPAN_S = 60           # of charts; ten minutes in earnest
FEED = 300            # events of each kind; up to 5,000 in earnest
PLACE = "KTOP_SOAK"   # the environment's name for where to note it


class _Mallinfo(ctypes.Structure):
    """struct mallinfo2 of glibc 2.33."""

    _fields_ = tuple((name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks",
        "fordblks", "keepcost"))


def _malloced() -> int | None:
    """Bytes that malloc has given out; None where libc does not tell."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        return None
    libc.mallinfo2.restype = _Mallinfo
    found = libc.mallinfo2()
    return int(found.uordblks + found.hblkhd)


def _note(_number: int, _frame: object) -> None:
    gc.collect()
    file = Path(os.environ[PLACE], f"{os.getpid()}.held")
    file.with_suffix(".new").write_text(json.dumps(
        {"blocks": sys.getallocatedblocks(), "malloc": _malloced()}), encoding="ascii")
    file.with_suffix(".new").rename(file)


def main() -> int:
    """As the command `ktop`."""
    from ktop import cli, launch

    def interface(session: launch.Session) -> int:
        from ktop.history import SECOND, History
        from ktop.history_feeds import Feed
        from ktop.rewind import Ring

        begin = Feed.__init__
        Feed.__init__ = lambda self, most: begin(self, min(most, FEED))
        History.__init__.__defaults__ = (SPAN_S * SECOND, FEED)
        Ring.__init__.__defaults__ = (PAST_BYTES,)
        signal.signal(signal.SIGUSR1, _note)
        return launch.interface_live(session)

    def collect(sock: object, options: launch.Options) -> int:
        signal.signal(signal.SIGUSR1, _note)
        return launch.collect_live(sock, options)

    launch.run.__defaults__ = (collect, interface)
    sys.argv = ["ktop", "--interval", str(INTERVAL_S)]
    return cli.main() or 0


if __name__ == "__main__":
    sys.exit(main())
