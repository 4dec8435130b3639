"""What the Files pane remembers of past Frames: slow operations, opens, mounts. Bounded.

Part of ktop/history.py.
"""

from __future__ import annotations

from ktop.history_feeds import Feed
from ktop.model import Hist
from ktop.model_files import Files, MountEvent, OpenEvent, SlowOp

SLOW, OPENS, MOUNTS = 2_000, 2_000, 500


class FileFeeds:
    """The feeds of the files layer."""

    def __init__(self) -> None:
        self.slow: Feed[SlowOp] = Feed(SLOW)
        self.opens: Feed[OpenEvent] = Feed(OPENS)
        self.mounts: Feed[MountEvent] = Feed(MOUNTS)

    def add(self, files: Files | None) -> None:
        """Take a frame's events."""
        if files is not None:
            self.slow.add(files.slow)
            self.opens.add(files.opens)
            self.mounts.add(files.mounts)

    def clear(self) -> None:
        """Forget everything."""
        for feed in (self.slow, self.opens, self.mounts):
            feed.clear()


def file_hists(files: Files | None) -> dict[str, Hist] | None:
    """Latency on the whole host by operation; none while nobody looks."""
    if files is None or files.host is None or files.host.reads_per_s is None:
        return None
    return {"read": files.host.read or Hist({}), "write": files.host.write or Hist({}),
            "fsync": files.host.fsync or Hist({})}
