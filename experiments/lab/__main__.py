"""python -m experiments.lab [NAME|FILE ...] [--quick] [--resume] [--out runs/experiments]"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from experiments.lab.pool import ONE_THREAD, Interrupted

# Those whose answer is looked for first come first; `make experiment` runs them all.
ORDER = ("ipa-paper", "ipa-tight", "infadapter", "fan-out", "forecast", "scale", "what-if")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the experiments that are named, all without a name: 0, 130 where it was interrupted."""
    os.environ.update(ONE_THREAD)
    from ipa.model.errors import IpaError

    arguments = _arguments(argv)
    try:
        _run(arguments)
    except Interrupted as stopped:
        print(f"\nstopped: {stopped}; --resume (RESUME=1) goes on from there", file=sys.stderr)
        return 130
    except IpaError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m experiments.lab", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME|FILE", help=f"without: {', '.join(ORDER)}")
    parser.add_argument("--quick", action="store_true", help="the quick form of each")
    parser.add_argument("--resume", action="store_true", help="keep the runs that are finished")
    parser.add_argument("--check", action="store_true", help="read the files and count the runs, no more")
    parser.add_argument("--workers", type=int, default=2, help="processes; 2")
    parser.add_argument(
        "--trace", type=Path, help="replaces the workloads: requests a second, a line a second"
    )
    parser.add_argument("--pipeline", help="replaces the pipelines")
    parser.add_argument("--out", type=Path, default=Path("runs/experiments"))
    return parser.parse_args(argv)


def _run(arguments: argparse.Namespace) -> None:
    from experiments.lab.conduct import conduct, prepared
    from experiments.lab.files import find_experiment
    from experiments.lab.progress import words_of
    from experiments.lab.report import write_index

    begin = time.monotonic()
    paths = [find_experiment(name) for name in arguments.names or ORDER]
    # All files are read before the first run: a mistake in the last shows now.
    experiments = [
        prepared(path, quick=arguments.quick, trace=arguments.trace, pipeline=arguments.pipeline)
        for path in paths
    ]
    for experiment in experiments:
        conduct(
            experiment,
            arguments.out,
            resume=arguments.resume,
            workers=arguments.workers,
            check_only=arguments.check,
        )
    if not arguments.check:
        page = write_index(arguments.out, ORDER)
        print(f"{page} ({words_of(time.monotonic() - begin)})")


if __name__ == "__main__":
    sys.exit(main())
