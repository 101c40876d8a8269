"""python -m experiments.bench [planner] [--quick] [--out runs/bench]"""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module
from pathlib import Path

from experiments.bench import ONE_THREAD

# A new benchmark is one module with a function `run` and one word here.
BENCHES = ("planner", "without")


def main() -> int:
    """Run the benchmarks that were asked for, all without a name; the worst of their exit codes."""
    parser = argparse.ArgumentParser(prog="python -m experiments.bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(BENCHES)}; without: all")
    parser.add_argument("--quick", action="store_true", help="few problems: does it work at all")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in BENCHES]
    if unknown:
        parser.error(f"there is no benchmark {', '.join(unknown)}; there are: {', '.join(BENCHES)}")
    os.environ.update(ONE_THREAD)
    benches = [import_module(f"experiments.bench.{name}") for name in arguments.names or BENCHES]
    return int(max(bench.run(arguments.out, quick=arguments.quick, say=_say) for bench in benches))


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
