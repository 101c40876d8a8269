"""`python -m experiments.fuzz`: asks the whole API what nobody would; exit code 1 for anything wrong."""

from __future__ import annotations

import argparse
import sys
from time import monotonic

from experiments.fuzz.run import fuzz


def main() -> int:
    """Run it and print what came of it."""
    parser = argparse.ArgumentParser(prog="python -m experiments.fuzz", description=__doc__)
    parser.add_argument("--examples", type=int, default=130, help="made-up requests of each operation")
    parser.add_argument("--steps", type=int, default=6, help="requests of a chain")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    began_s = monotonic()
    fuzzed = fuzz(args.examples, args.steps, args.seed, tell=lambda line: print(line, flush=True))
    print(f"{fuzzed.cases} requests of {len(fuzzed.operations)} operations in {monotonic() - began_s:.0f} s")
    print("by status:", ", ".join(f"{status}: {count}" for status, count in sorted(fuzzed.by_status.items())))
    print("never asked:", ", ".join(fuzzed.uncovered) or "none")
    for finding, count in fuzzed.findings.most_common():
        print(f"\n{count} × {finding}\n{fuzzed.details[finding]}")
    for error in dict.fromkeys(fuzzed.errors):
        print(f"\nerror: {error}")
    print(f"\n{sum(fuzzed.findings.values())} findings, {len(fuzzed.errors)} errors")
    return 1 if fuzzed.findings or fuzzed.errors or fuzzed.uncovered else 0


if __name__ == "__main__":
    sys.exit(main())
