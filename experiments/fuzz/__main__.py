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
    asked = parser.parse_args()
    began_s = monotonic()
    found = fuzz(asked.examples, asked.steps, asked.seed, tell=lambda line: print(line, flush=True))
    print(f"{found.cases} requests of {len(found.operations)} operations in {monotonic() - began_s:.0f} s")
    print("by status:", ", ".join(f"{status}: {count}" for status, count in sorted(found.by_status.items())))
    print("never asked:", ", ".join(found.uncovered) or "none")
    for finding, count in found.findings.most_common():
        print(f"\n{count} × {finding}\n{found.details[finding]}")
    for error in dict.fromkeys(found.errors):
        print(f"\nerror: {error}")
    print(f"\n{sum(found.findings.values())} findings, {len(found.errors)} errors")
    return 1 if found.findings or found.errors or found.uncovered else 0


if __name__ == "__main__":
    sys.exit(main())
