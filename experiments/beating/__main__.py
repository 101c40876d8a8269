"""Prints the comparison with IPA, with --write into docs/reference/measured.md; runs and cells into runs/."""

from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

from experiments.beating.cells import OBJECTIVES, WORKLOADS_FILE, Outcome, jobs, run
from experiments.beating.page import cells, measured
from experiments.data.used import used
from experiments.measured import PAGE, tell
from ipa.experiment.loads import data_folder

WORKERS = 2


def main() -> int:
    """Make every run, or read those of before; then write the tables."""
    parser = argparse.ArgumentParser(prog="python -m experiments.beating", description=__doc__)
    parser.add_argument(
        "--data", type=Path, default=data_folder(), help="the published loads, where they are"
    )
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--out", type=Path, default=Path("runs/beating.json"))
    parser.add_argument("--seeds", default="10,3", help="runs of each cell and system, for each objective")
    parser.add_argument("--objectives", default=",".join(OBJECTIVES))
    parser.add_argument("--again", action="store_true", help="the tables anew, from the runs in --out")
    parser.add_argument("--write", action="store_true", help="also put the tables into the page")
    arguments = parser.parse_args()
    print(used(arguments.data, [WORKLOADS_FILE]))
    if arguments.again:
        results = json.loads(arguments.out.read_text("utf-8"))
    else:
        counts = [int(count) for count in arguments.seeds.split(",")]
        seeds = dict(zip(arguments.objectives.split(","), counts, strict=True))
        todo, published_loads = jobs(arguments.data, seeds)
        outcomes = []
        with ProcessPoolExecutor(WORKERS) as pool:
            for number, outcome in enumerate(pool.map(run, todo), 1):
                outcomes.append(asdict(outcome))
                if number % 50 == 0:
                    print(f"{number} of {len(todo)} runs", file=sys.stderr, flush=True)
        results = {"published_loads": published_loads, "runs": outcomes}
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    outcomes = [Outcome(**row) for row in results["runs"]]
    arguments.out.with_suffix(".md").write_text(cells(outcomes), encoding="utf-8")
    text = measured(outcomes, results["published_loads"])
    tell("python -m experiments.beating", text, arguments.page, write=arguments.write)
    return 0


if __name__ == "__main__":
    sys.exit(main())
