"""When something in ktop itself breaks: one line for the user, the traceback in a file."""

from __future__ import annotations

import os
import tempfile
import traceback

from ktop.text import clean


def report(what: str, err: BaseException) -> str:
    """One line (several with KTOP_DEBUG=1) about `err`; its traceback goes to a private file."""
    detail = "".join(traceback.format_exception(err))
    line = clean(f"{what}: {type(err).__name__}: {err}", 300)
    if os.environ.get("KTOP_DEBUG"):
        return f"{line}\n{detail}"
    try:
        descriptor, path = tempfile.mkstemp(prefix="ktop-crash-", suffix=".txt")
        with os.fdopen(descriptor, "w", errors="backslashreplace") as file:
            file.write(detail)
    except OSError:
        return f"{line} (KTOP_DEBUG=1 shows the details)"
    return f"{line} (details: {path})"
