"""Runs a pipeline on this machine for two minutes and simulates the same; runs/fidelity/<pipeline>.json."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from experiments.fidelity.case import RATES, SEED, Case, case_of
from experiments.fidelity.figures import Figures, compared, figures_of
from experiments.fidelity.real import run_real
from experiments.fidelity.seen import SETTLE_S, Means, fitted
from ipa.model.observation import Measured
from ipa.model.plan import StageConfig
from ipa.model.profile import StageProfile
from ipa.simulate.cluster import ClusterSettings
from ipa.simulate.ground_truth import GroundTruth
from ipa.simulate.metrics import MetricsSettings
from ipa.simulate.world import SimWorld

GOAL_RATIO = 0.10


def run_simulated(case: Case, profiles: Mapping[str, StageProfile], seed: int) -> tuple[Figures, Means]:
    """The result of the same arrivals, configurations and change in the simulator."""
    half_s = case.duration_s - case.change_s
    world = SimWorld(
        replace(case.pipeline, drop_after_s=case.pipeline.deadline_s),
        GroundTruth(case.pipeline, profiles),
        case.before,
        case.times_s,
        cluster=ClusterSettings(),
        metrics=MetricsSettings(batches_window_s=half_s - SETTLE_S),
        seed=seed,
        queue="deadline",
    )
    world.clock.wait(case.change_s)
    means = _means(case, world, case.before)
    world.change(case.after, str(world.cluster.revision))
    world.clock.wait(half_s)
    means |= _means(case, world, case.after)
    paid = world.cluster.resource_seconds(case.duration_s).cpu_cores
    world.finish()
    sla_s = case.pipeline.sla.latency_s
    return figures_of(world.done_s - world.born_s, sla_s, world.accuracy_mean(), paid), means


def _means(case: Case, world: SimWorld, configs: Sequence[StageConfig]) -> dict[tuple[str, str], float]:
    """The mean service times in the half that ends now, of those of which some were seen."""
    stages = world.metrics.read(case.pipeline, 1.0).stages
    by_config = ((config, stages[config.stage].batches) for config in configs)
    return {
        (config.stage, config.variant): batches.value.service_s
        for config, batches in by_config
        if isinstance(batches, Measured)
    }


def main() -> None:
    """Print the tables and write them."""
    parser = argparse.ArgumentParser(prog="python -m experiments.fidelity", description=__doc__)
    parser.add_argument("pipeline", nargs="?", default="ocr", choices=sorted(RATES))
    parser.add_argument("--seconds", type=int, default=120)
    parser.add_argument("--seeds", type=int, default=10, help="of the simulation")
    parser.add_argument("--shares-cpus", action="store_true", help="the busiest stage may have half cores")
    parser.add_argument("--out", type=Path, default=Path("runs/fidelity"))
    options = parser.parse_args()
    case = case_of(options.pipeline, options.seconds, shares_cpus=options.shares_cpus)
    real, real_means = run_real(case, options.out / "local")
    slowed, slowdowns = fitted(
        case.profiles, real_means, lambda profiles: run_simulated(case, profiles, SEED)[1]
    )
    console = Console(highlight=False, width=120)
    for name, configs in (("before", case.before), ("after", case.after)):
        console.print(f"{name}: {', '.join(str(config) for config in configs)}", markup=False)
    console.print(f"{options.pipeline}, {len(case.times_s)} requests in {case.duration_s:g} s")
    tables = {}
    for name, words, profiles in (
        ("measured", "with the profiles as measured", case.profiles),
        ("seen", "with the service times of this run", slowed),
    ):
        runs = [run_simulated(case, profiles, SEED + number)[0] for number in range(options.seeds)]
        tables[name] = compared(real, runs)
        console.print(_table(f"simulated {words}", tables[name]))
    for each in slowdowns:
        console.print(f"{each.stage}={each.variant} took {each.ratio:.2f} times its profile", markup=False)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{options.pipeline}.json"
    ratios = {f"{each.stage}={each.variant}": each.ratio for each in slowdowns}
    path.write_text(json.dumps({"seconds": options.seconds, "slowdowns": ratios, **tables}, indent=1) + "\n")
    console.print(f"{path}")


def _table(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title=title, title_justify="left")
    for column in ("figure", "real", "simulated", "least … most", "difference", "within 10 %"):
        table.add_column(column, justify="left" if column == "figure" else "right")
    for row in rows:
        difference = row["difference_ratio"] if row["difference_ratio"] is not None else np.inf
        table.add_row(
            row["figure"],
            f"{row['real']:.4g}",
            f"{row['simulated']:.4g}",
            f"{row['simulated_least']:.4g} … {row['simulated_most']:.4g}",
            f"{difference:+.1%}",
            "yes" if abs(difference) <= GOAL_RATIO else "no",
        )
    return table


if __name__ == "__main__":
    main()
