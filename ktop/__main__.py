"""`python -m ktop`."""

import sys

from ktop.cli import main

if __name__ == "__main__":
    sys.exit(main())
