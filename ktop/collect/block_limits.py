"""What a volume is sold as: `vda=3000iops,125MBps`."""

from __future__ import annotations

import re

from ktop.model_block import Limit
from ktop.text import clean

_NUMBER = re.compile(r"(\d+(?:\.\d+)?)\s*(k|K|M|G|Ki|Mi|Gi)?\s*(iops|IOPS|Bps|B/s|bit/s|bps)")
_FACTORS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "ki": 2.0**10, "mi": 2.0**20, "gi": 2.0**30}


def parse_limit(text: str) -> Limit:
    """`DEVICE=N iops, N MBps` in any order, one of them at least. ValueError says what is wrong.

    k, M, G are powers of 1000, Ki, Mi, Gi of 1024; B is a byte (Bps, B/s).
    """
    shown = clean(text, 80)
    device, equals, rest = text.strip().partition("=")
    device = device.strip().removeprefix("/dev/")
    if not equals or not device or re.search(r"[\s,/]", device):
        raise ValueError(f"--limit {shown}: expected DEVICE=3000iops,125MBps")
    limit = Limit(clean(device, 64))
    for word in rest.split(","):
        found = _NUMBER.fullmatch(word.strip())
        if found is None:
            wrong = clean(word.strip(), 40) or "nothing"
            raise ValueError(f"--limit {shown}: {wrong!r} is neither like 3000iops nor 125MBps")
        if found[3] in ("bps", "bit/s"):
            raise ValueError(f"--limit {shown}: volumes are sold in bytes: write 125MBps")
        value = float(found[1]) * _FACTORS[(found[2] or "").lower()]
        field = "iops" if found[3].lower() == "iops" else "bytes_per_s"
        if value <= 0:
            raise ValueError(f"--limit {shown}: a limit is more than nothing")
        if getattr(limit, field) is not None:
            raise ValueError(f"--limit {shown}: says the same twice")
        setattr(limit, field, value)
    return limit
