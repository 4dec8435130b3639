"""What a volume is sold as: `vda=3000iops,125MBps`; an interface: `eth0=100kpps,1Gbit/s`."""

from __future__ import annotations

import re

from ktop.model_block import Limit
from ktop.text import clean

_NUMBER = re.compile(r"(\d+(?:\.\d+)?)\s*(k|K|M|G|Ki|Mi|Gi)?\s*(iops|IOPS|pps|Bps|B/s|bit/s|bps)")
_FACTORS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "ki": 2.0**10, "mi": 2.0**20, "gi": 2.0**30}


def parse_limit(text: str) -> Limit:
    """`DEVICE=N iops, N pps, N MBps`, one of them at least. ValueError says what is wrong.

    k, M, G are powers of 1000, Ki, Mi, Gi of 1024; B is a byte (Bps, B/s), `bit/s` an eighth.
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
        if found[3] == "bps":
            raise ValueError(f"--limit {shown}: bits or bytes? Write 125MBps or 1Gbit/s")
        value = float(found[1]) * _FACTORS[(found[2] or "").lower()]
        value /= 8 if found[3] == "bit/s" else 1
        field = {"iops": "iops", "pps": "packets_per_s"}.get(found[3].lower(), "bytes_per_s")
        if value <= 0:
            raise ValueError(f"--limit {shown}: a limit is more than nothing")
        if getattr(limit, field) is not None:
            raise ValueError(f"--limit {shown}: says the same twice")
        setattr(limit, field, value)
    return limit
