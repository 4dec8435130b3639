"""The ktop that `bench.soak` runs: live, four samples a second, a small memory for the past.

Imports nothing but ktop, so that its memory is ktop's.
"""

from __future__ import annotations

import sys

INTERVAL_S = 0.25
PAST_BYTES = 4 << 20


def main() -> int:
    """As the command `ktop`."""
    from ktop import cli, launch

    real = launch.interface_live

    def interface(session: launch.Session) -> int:
        from ktop.rewind import Ring

        Ring.__init__.__defaults__ = (PAST_BYTES,)
        return real(session)

    launch.interface_live = interface
    launch.run.__defaults__ = (launch.collect_live, interface)
    sys.argv = ["ktop", "--interval", str(INTERVAL_S)]
    return cli.main() or 0


if __name__ == "__main__":
    sys.exit(main())
