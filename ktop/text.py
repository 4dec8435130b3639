"""The border for text: what comes from the kernel, /proc or a file is made harmless here.

A command name, an argument, a path or a cgroup name is whatever somebody chose: escape sequences,
newlines, direction overrides, half a UTF-8 character. `clean` turns bytes into one line of text
that any terminal shows as it stands. Nothing downstream escapes again, and nothing downstream may
interpret markup.
"""

from __future__ import annotations

import re
from functools import lru_cache

# C0 and C1 controls, DEL, soft hyphen; zero-width and direction controls, line and paragraph
# separators; format characters of single scripts; interlinear annotation, byte order mark;
# variation selectors, tags, private use, and lone surrogates. Combining marks past a run of three
# would climb over the lines above.
_HARMFUL = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    "\u2028-\u202f\u205f-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\uffff\ud800-\udfff\ue000-\uf8ff"
    "\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U0010ffff]"
    "|(?<=[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff]{3})"
    "[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff]")
_NAMED = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\x1b": "\\e", "\x00": "\\0"}
LIMIT = 4096


def _escape(match: re.Match[str]) -> str:
    char = match.group()
    code = ord(char)
    return _NAMED.get(char) or (f"\\x{code:02x}" if code < 0x100 else
                                f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")


def clean(raw: bytes | str, limit: int = LIMIT) -> str:
    """One harmless line of at most `limit` characters; what is cut off ends in an ellipsis.

    Bytes that are no UTF-8 become `\\xNN`, control characters a visible escape.
    """
    text = (raw[:4 * limit + 4].decode("utf-8", "backslashreplace") if isinstance(raw, bytes)
            else raw)
    text = _HARMFUL.sub(_escape, text[:2 * limit])
    return text if len(text) <= limit else text[:limit - 1] + "…"


def is_clean(text: str) -> bool:
    """Whether `clean` would leave it as it is, however long."""
    return _HARMFUL.search(text) is None


@lru_cache(maxsize=4096)
def comm(raw: bytes) -> str:
    """task_struct.comm: 16 bytes, NUL-terminated."""
    return clean(raw.split(b"\0", 1)[0], 64)


def arguments(raw: bytes, limit: int = LIMIT) -> str:
    """A NUL-separated command line as one line; arguments with spaces in them are quoted."""
    words = [clean(word, limit) for word in raw.rstrip(b"\0").split(b"\0")]
    return clean(" ".join(f'"{w}"' if " " in w or not w else w for w in words), limit)
