"""Prints how much dearer each policy is than the clairvoyant one, and writes runs/regret.json.

The cost of a run is that of its cores, of the accuracy forgone, and of late requests: all that the SLA allows
are worth the cores of a plan for the mean load.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean

from experiments.published.data import PIPELINES
from experiments.reality.loads import LOADS
from experiments.reality.worlds import WORLDS, Cell, setup_of
from experiments.regret.clairvoyant import Clairvoyant, with_margins
from ipa.simulate.run import simulate

WORKERS = 2
POLICIES = ("ours", "hpa", "kpa", "static", "ipa")
OURS, CLAIRVOYANT = "ours", "clairvoyant"
# What the others keep in reserve: without it they are late more often.
MARGIN_RATIO = -0.2


@dataclass(frozen=True, slots=True)
class Run:
    """A policy in a cell: `cost_ratio` is its cost over the clairvoyant's."""

    pipeline: str
    load: str
    world: str
    seed: int
    policy: str
    late_ratio: float
    cores: float
    pas: float
    changes: int
    cost_ratio: float


def runs(cell: Cell, policies: Sequence[str]) -> list[Run]:
    """The runs of all policies in the cell, and of the clairvoyant."""
    setup = setup_of(cell)
    clairvoyant = Clairvoyant(setup)
    figures = {CLAIRVOYANT: simulate(replace(setup, policy=clairvoyant.policy())).summary()}
    with_reserve = with_margins(setup.pipeline, throughput_margin_ratio=MARGIN_RATIO)
    others = replace(setup, pipeline=with_reserve)
    figures |= {
        name: simulate(replace(setup if name == OURS else others, policy=name)).summary() for name in policies
    }
    costs = {
        name: clairvoyant.cost.of(each["cores_mean"], each["pas_mean"], each["violation_ratio"])
        for name, each in figures.items()
    }
    return [
        Run(
            cell.pipeline,
            cell.workload,
            cell.world,
            cell.seed,
            name,
            each["violation_ratio"],
            each["cores_mean"],
            each["pas_mean"],
            each["changes"],
            costs[name] / costs[CLAIRVOYANT],
        )
        for name, each in figures.items()
    ]


def table(results: Iterable[Run], by: str) -> list[str]:
    """A line for each load or world and policy."""
    rows = list(results)
    lines = [
        f"| {by} | policy | cost | worst | late % | worst | cores | PAS | changes |",
        "|---|" + "---|" * 8,
    ]
    for key in ("all", *dict.fromkeys(getattr(each, by) for each in rows)):
        for policy in dict.fromkeys(each.policy for each in rows):
            mine = [each for each in rows if each.policy == policy and key in ("all", getattr(each, by))]
            late = [100 * each.late_ratio for each in mine]
            ratios = [each.cost_ratio for each in mine]
            lines.append(
                f"| {key} | {policy} | {mean(ratios):.2f} | {max(ratios):.2f} | {mean(late):.2f} | "
                f"{max(late):.2f} | {mean(each.cores for each in mine):.2f} | "
                f"{mean(each.pas for each in mine):.3f} | {mean(each.changes for each in mine):.1f} |"
            )
    return lines


def main() -> int:
    """Make every run and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m experiments.regret", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--pipelines", default=",".join(PIPELINES), help="some of them, by comma")
    parser.add_argument("--loads", default=",".join(LOADS), help="some of them, by comma")
    parser.add_argument("--worlds", default=",".join(WORLDS), help="some of them, by comma")
    parser.add_argument("--policies", default=",".join(POLICIES), help="by comma")
    parser.add_argument("--workers", type=int, default=WORKERS)
    parser.add_argument("--out", type=Path, default=Path("runs/regret.json"))
    options = parser.parse_args()
    cells = [
        Cell(pipeline, load, world, seed)
        for world in options.worlds.split(",")
        for load in options.loads.split(",")
        for pipeline in options.pipelines.split(",")
        for seed in range(1, options.seeds + 1)
    ]
    policies = [each for each in options.policies.split(",") if each]
    results: list[Run] = []
    with ProcessPoolExecutor(options.workers, initializer=logging.disable) as pool:
        for number, made in enumerate(pool.map(runs, cells, [policies] * len(cells)), 1):
            results += made
            if number % 20 == 0:
                print(f"{number} of {len(cells)} cells", file=sys.stderr, flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps([asdict(each) for each in results], indent=1) + "\n", encoding="utf-8")
    for by in ("world", "load"):
        print("\n".join(table(results, by)), end="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
