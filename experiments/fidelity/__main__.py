"""Runs a pipeline on this machine for two minutes and simulates the same; runs/fidelity/<pipeline>.json."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from experiments.fidelity.case import RATES, SEED, Case, case_of
from experiments.fidelity.figures import Figures, compared, figures_of
from experiments.fidelity.real import run_real
from ipa.simulate.cluster import ClusterSettings
from ipa.simulate.metrics import MetricsSettings
from ipa.simulate.truth import Truth
from ipa.simulate.world import SimWorld

GOAL_RATIO = 0.10


def run_simulated(case: Case, seed: int) -> Figures:
    """What comes of the same arrivals, configurations and change in the simulator."""
    world = SimWorld(
        case.pipeline,
        Truth(case.pipeline, case.profiles),
        case.before,
        case.times_s,
        cluster=ClusterSettings(),
        metrics=MetricsSettings(),
        seed=seed,
    )
    world.advance(case.change_s)
    world.change(case.after, str(world.cluster.revision))
    world.advance(case.duration_s)
    paid = world.cluster.core_seconds(case.duration_s)
    world.finish()
    sla_s = case.pipeline.sla.latency_s
    return figures_of(world.done_s - world.born_s, sla_s, world.accuracy_mean(), paid)


def main() -> None:
    """Print the table and write it."""
    parser = argparse.ArgumentParser(prog="python -m experiments.fidelity", description=__doc__)
    parser.add_argument("pipeline", nargs="?", default="ocr", choices=sorted(RATES))
    parser.add_argument("--seconds", type=int, default=120)
    parser.add_argument("--seeds", type=int, default=10, help="of the simulation")
    parser.add_argument("--shares-cpus", action="store_true", help="the busiest stage may have half cores")
    parser.add_argument("--out", type=Path, default=Path("runs/fidelity"))
    options = parser.parse_args()
    case = case_of(options.pipeline, options.seconds, shares_cpus=options.shares_cpus)
    real = run_real(case, options.out / "local")
    rows = compared(real, [run_simulated(case, SEED + number) for number in range(options.seeds)])
    console = Console(highlight=False, width=120)
    for name, configs in (("before", case.before), ("after", case.after)):
        console.print(f"{name}: {', '.join(str(config) for config in configs)}", markup=False)
    title = f"{options.pipeline}, {len(case.times_s)} requests in {case.duration_s:g} s"
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
    console.print(table)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{options.pipeline}.json"
    path.write_text(json.dumps({"seconds": options.seconds, "rows": rows}, indent=1) + "\n")
    console.print(f"{path}")


if __name__ == "__main__":
    main()
