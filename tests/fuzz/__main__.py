"""`make fuzz ARGS="--minutes 10"`: the tests of this directory again and again, with new examples.

Each round has a seed of its own, which is printed. What fails is shown with hypothesis' smallest
example and a `@reproduce_failure` line; the command that was run is printed, to run it again.
"""

from __future__ import annotations

import argparse
import os
import random
import secrets
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="for how long (default: 10)")
    parser.add_argument("--times", type=int, default=3,
                        help="examples of a round, times those of the test suite (default: 3)")
    parser.add_argument("--seed", type=int, help="one round with this seed")
    args = parser.parse_args()
    end = time.monotonic() + 60 * args.minutes
    rounds = 0
    while not rounds or (args.seed is None and time.monotonic() < end):
        seed = secrets.randbits(31) if args.seed is None else args.seed
        # in another order each time: the end of the time cuts off other tests
        files = sorted(str(file) for file in HERE.glob("test_*.py"))
        random.Random(seed).shuffle(files)
        command = [sys.executable, "-m", "pytest", "-q", "-x", *files,
                   f"--hypothesis-seed={seed}"]
        print(f"fuzz: round {rounds + 1}: KTOP_FUZZ_TIMES={args.times} {' '.join(command)}",
              flush=True)
        env = {**os.environ, "KTOP_FUZZ_TIMES": str(args.times)}
        try:
            status = subprocess.run(command, env=env, check=False, timeout=(
                max(60.0, end - time.monotonic()) if args.seed is None else None)).returncode
        except subprocess.TimeoutExpired:
            break  # the time is over in the middle of a round
        if status:
            print(f"fuzz: failed; again: make fuzz ARGS='--seed {seed} --times {args.times}'")
            return 1
        rounds += 1
    print(f"fuzz: {rounds} whole rounds, nothing broke")
    return 0


if __name__ == "__main__":
    sys.exit(main())
