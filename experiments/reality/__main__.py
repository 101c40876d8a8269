"""Prints how many requests were late in each world, and writes runs/reality.json.

The violations of a world are set beside those of the same loads as profiled.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from statistics import mean

from experiments.reality.worlds import AS_PROFILED, WORLDS, Outcome, cells, run

WORKERS = 2
# Fewer late requests than this are as good as none: a ratio to them says nothing.
NONE_RATIO = 0.005


def main() -> int:
    """Make every run and print the table."""
    parser = argparse.ArgumentParser(prog="python -m experiments.reality", description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--worlds", default=",".join(WORLDS), help="some of them, by comma")
    parser.add_argument("--workers", type=int, default=WORKERS)
    parser.add_argument("--out", type=Path, default=Path("runs/reality.json"))
    arguments = parser.parse_args()
    worlds = tuple(arguments.worlds.split(","))
    todo = cells(arguments.seeds, worlds)
    outcomes: list[Outcome] = []
    with ProcessPoolExecutor(arguments.workers, initializer=logging.disable) as pool:
        for number, outcome in enumerate(pool.map(run, todo), 1):
            outcomes.append(outcome)
            if number % 50 == 0:
                print(f"{number} of {len(todo)} runs", file=sys.stderr, flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(
        json.dumps([asdict(each) for each in outcomes], indent=1) + "\n", encoding="utf-8"
    )
    print("\n".join(table(outcomes)))
    return 0


def table(outcomes: list[Outcome]) -> list[str]:
    """A line for each world: late requests, cores and accuracy on the mean of its cells."""
    lines = ["| world | late % (× as profiled) | cores | PAS | changes |", "|---|---|---|---|---|"]
    true = [each.late_ratio for each in outcomes if each.cell.world == AS_PROFILED]
    for world in dict.fromkeys(each.cell.world for each in outcomes):
        mine = [each for each in outcomes if each.cell.world == world]
        late = mean(each.late_ratio for each in mine)
        beside = f" ({late / max(mean(true), NONE_RATIO):.2g})" if true else ""
        lines.append(
            f"| {world} | {100 * late:.2f}{beside} | {mean(each.cores for each in mine):.1f} | "
            f"{mean(each.pas for each in mine):.3f} | {mean(each.changes for each in mine):.0f} |"
        )
    return lines


if __name__ == "__main__":
    sys.exit(main())
