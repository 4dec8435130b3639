"""The border for frames from elsewhere: a file, another host. Their text is made harmless again.

Our own collector cleans text where it enters (ktop.text); a file may have been written by anybody.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from ktop.model import Frame
from ktop.text import LIMIT, clean, is_clean

_encoder = msgspec.json.Encoder()


def harmless(frame: Frame) -> Frame:
    """The frame, its text cleaned in place where any of it is not clean already.

    A walk over all of a frame is slow, a look at its JSON is not: it is taken where that looks odd.
    """
    if _odd(_encoder.encode(frame)):
        walk(frame, clean)
    return frame


def _odd(text: bytes) -> bool:
    """Whether there may be text in this JSON that `clean` would change."""
    plain = text.replace(b"\\\\", b"''").replace(b'\\"', b"''")
    if b"\\" in plain or b"\x7f" in plain:  # what is left are escapes of control characters
        return True
    if not (plain.isascii() or is_clean(plain.decode("utf-8", "replace"))):
        return True
    return len(plain) > LIMIT and max(map(len, plain.split(b'"'))) > LIMIT


def walk(value: Any, change: Callable[[str], str]) -> Any:
    """Replace every string in a Part, list or dict, in place; what stands for `value` itself."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            part = getattr(value, name)
            if isinstance(part, (str, list, dict, msgspec.Struct)):
                setattr(value, name, walk(part, change))
    elif isinstance(value, list):
        if value and not isinstance(value[0], (int, float)):
            value[:] = [walk(item, change) for item in value]
    elif isinstance(value, dict):
        for key in list(value):
            if isinstance(key, str):
                value[change(key)] = walk(value.pop(key), change)
            else:
                value[key] = walk(value[key], change)
    return value
