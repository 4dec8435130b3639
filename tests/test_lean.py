"""What the live interface does not carry about: each of these is megabytes or milliseconds."""

from __future__ import annotations

import subprocess
import sys

_CODE = """
import gc, sys
from ktop import launch
try:
    launch.interface_live(None)
except AttributeError:
    pass  # no session: everything is imported by now
assert "ktop.app" in sys.modules
heavy = ["_ssl", "_hashlib", "sqlite3", "ktop.collect.main", "bcc", "psutil", "pygments.lexers"]
print([name for name in heavy if name in sys.modules], gc.isenabled(), gc.get_freeze_count() > 9999)
"""


def test_what_the_live_interface_imports() -> None:
    done = subprocess.run([sys.executable, "-c", _CODE], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] True True"
