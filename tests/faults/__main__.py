"""`python -m tests.faults [--runs N] [--seed S] [--readme] [names]`: the confusion matrix.

Each case runs as a real load in control groups (and network namespaces) of its own. The verdict is
read twice: for the fault's own control group, and for the whole host. Waits for a CPU that other
work on the machine uses are not counted: neither as the right answer nor as a wrong one.
Exit status 1 when a case was judged wrongly, 2 when they cannot run here.

`steal` is not among them: only a hypervisor can take CPUs away (tests/test_diagnosis.py has the
rule on built frames).
"""

from __future__ import annotations

import argparse
import signal
import sys
import time

from ktop.collect.main import Collector, Options
from tests.faults.cases import FAULTS
from tests.faults.healthy import HEALTHY
from tests.faults.matrix import Outcome, confusion, line, markdown, misses, summary, write_readme
from tests.faults.run import Run
from tests.faults.stage import lacking, sweep


def _end(number: int, _frame: object) -> None:
    """Clean up and go; not be hurried in it."""
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)
    raise KeyboardInterrupt(signal.Signals(number).name)


def main() -> int:
    """All cases, or those named."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--readme", action="store_true", help="write the table into README.md")
    parser.add_argument("-v", "--verbose", action="store_true", help="each tick, on stderr")
    parser.add_argument("names", nargs="*", help="parts of names; all when there are none")
    args = parser.parse_args()
    wanted = [c for c in (*FAULTS, *HEALTHY)
              if not args.names or any(n in c.name for n in args.names)]
    if reason := lacking() or ("" if wanted else "no case has such a name"):
        print(f"faults: {reason}", file=sys.stderr)
        return 2
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, _end)
    sweep()
    outcomes: list[Outcome] = []
    interrupted = False
    collector = Collector(Options(watch=("processes", "sched", "files", "tcp", "block")))
    collector.start()
    print(f"seed {args.seed}\n{'case':<17}{'right':<7}{'culprit':<9}{'named s':>8}{'gone s':>8}  "
          "own group                      host", flush=True)
    try:
        collector.settle()
        for number in range(args.runs):
            for i, case in enumerate(wanted):
                seed = args.seed + 1000 * number + i
                run = Run(case, collector, seed, args.verbose)
                try:
                    own, host, cost = run()
                except OSError as err:
                    own, host, cost = run.own, run.host, 0.0
                    own.why = own.why or f"it could not be made: {err}"
                outcomes.append(Outcome(case, seed, run.good and not (run.faulty and own.why),
                                        own, host, cost))
                print(line(outcomes[-1]), flush=True)
    except KeyboardInterrupt as err:
        interrupted = True
        print(f"faults: interrupted ({err})", file=sys.stderr)
    finally:
        collector.close()
    if outcomes:
        print("\n".join(["", *confusion(outcomes), "", summary(outcomes), *misses(outcomes)]))
    if args.readme and outcomes and not interrupted:
        write_readme(markdown(outcomes, args.seed))
    return 130 if interrupted else 0 if all(o.good for o in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
