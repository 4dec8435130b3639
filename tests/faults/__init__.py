"""Real trouble on this kernel, and whether diagnosis names it: `python -m tests.faults`."""
