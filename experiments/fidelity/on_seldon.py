"""Predicted and measured latencies on Seldon on this machine, in both shapes; runs/fidelity/seldon.json.

Each cell is one configuration under a constant rate: the formula's mean and 99th percentile, those of the
simulator with its median, and what a sender measured through the orchestrator or router.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from experiments.demo.__main__ import machine
from experiments.demo.summary import read_requests
from experiments.demo_seldon.cluster import (
    SeldonHere,
    pipeline_in,
    seldon_here,
    start_sending,
    until_ready,
)
from experiments.fidelity.case import SEED, bodies_of
from experiments.live.cells import PIPELINES, calibrated_subject
from ipa.forecast.arrivals import request_times, steps
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig
from ipa.model.profile import StageProfile
from ipa.policies.profiled import Profiled
from ipa.simulate.ground_truth import GroundTruth
from ipa.simulate.world import SimWorld, queue_kind
from ipa.targets.seldon.section import Shape
from ipa.targets.seldon.target import Seldon

GOAL_RATIO = 0.15
SECONDS, SETTLE_S, CALIBRATION_S = 60, 5.0, 60.0
SEEDS = 10
# Configurations by pipeline (variant, batch size, cores, replicas of each stage), and rates for each.
CASES: Mapping[str, Sequence[tuple[Sequence[tuple[str, int, float, int]], Sequence[float]]]] = {
    "digits": (
        ([("logistic", 1, 0.5, 1), ("tree", 1, 0.5, 1)], (20.0, 60.0)),
        ([("logistic", 1, 0.5, 1), ("forest", 4, 0.5, 1)], (10.0, 20.0)),
        ([("logistic", 1, 0.25, 2), ("forest", 4, 0.5, 2)], (20.0, 40.0)),
    ),
    "ocr": (
        ([("v6-320", 1, 0.5, 1), ("v6-160", 1, 0.5, 1)], (2.0, 4.0)),
        ([("v4-320", 1, 0.5, 1), ("v4-160", 1, 0.5, 2)], (3.0, 6.0)),
    ),
}


@dataclass(frozen=True, slots=True)
class Cell:
    """Latencies in seconds of one configuration at a rate; the formula has no median of its own."""

    pipeline: str
    shape: str
    configs: str
    rate_rps: float
    failed: int
    measured_p50_s: float
    measured_mean_s: float
    measured_p99_s: float
    formula_mean_s: float
    formula_p99_s: float
    simulated_p50_s: float
    simulated_p99_s: float


def measured_s(here: SeldonHere, pipeline: Pipeline, rate_rps: float, folder: Path) -> tuple[np.ndarray, int]:
    """The latencies of the answered requests, without the first seconds, and how many failed."""
    times_s = request_times(steps((rate_rps, SECONDS)), seed=SEED).tolist()
    if code := start_sending(here, pipeline, bodies_of(pipeline.name), times_s, folder).wait():
        raise RuntimeError(f"the sender ended with exit code {code}")
    requests = [it for it in read_requests(folder / "requests.jsonl") if it["at_s"] >= SETTLE_S]
    answered = [it["latency_s"] for it in requests if it["outcome"] == "answered"]
    return np.array(answered), len(requests) - len(answered)


def simulated_s(
    pipeline: Pipeline, profiles: Mapping[str, StageProfile], configs: Sequence[StageConfig], rate_rps: float
) -> np.ndarray:
    """The latencies of the same requests in the simulator, with each of several seeds for what is random."""
    return np.concatenate(
        [_simulated_s(pipeline, profiles, configs, rate_rps, seed) for seed in range(SEEDS)]
    )


def _simulated_s(
    pipeline: Pipeline,
    profiles: Mapping[str, StageProfile],
    configs: Sequence[StageConfig],
    rate_rps: float,
    seed: int,
) -> np.ndarray:
    target = Seldon()
    cluster, metrics = target.simulation(pipeline)
    times_s = request_times(steps((rate_rps, SECONDS)), seed=SEED)
    world = SimWorld(
        pipeline,
        GroundTruth(pipeline, profiles),
        configs,
        times_s,
        cluster=cluster,
        metrics=metrics,
        queue=queue_kind(target.serving(pipeline)),
        seed=seed,
    )
    world.clock.wait(float(SECONDS))
    world.finish()
    took_s: np.ndarray = (world.done_s - times_s)[times_s >= SETTLE_S]
    return took_s


def cells_of(name: str, shape: Shape, profiles: Mapping[str, StageProfile], folder: Path) -> list[Cell]:
    """Every configuration of the pipeline in that shape, at its rates."""
    pipeline = pipeline_in(shape, PIPELINES / name / "pipeline.yaml", folder / "pipelines", {})
    shaped = Seldon().shape(pipeline, profiles)
    profiled = Profiled(shaped, profiles, solver="exact")
    results = []
    for number, (rows, rates_rps) in enumerate(CASES[name]):
        configs = tuple(
            StageConfig(stage.name, variant, 1 if stage.unbatched else batch, cores, replicas)
            for stage, (variant, batch, cores, replicas) in zip(shaped.stages, rows, strict=True)
        )
        with seldon_here(folder / str(number)) as here:
            here.create(pipeline, configs)
            until_ready(here, pipeline)
            for rate_rps in rates_rps:
                plan = profiled.describe(configs, rate_rps)
                if plan is None:
                    raise RuntimeError(f"{name}: {configs} was not profiled")
                took_s, failed = measured_s(here, pipeline, rate_rps, folder / str(number))
                other_s = simulated_s(shaped, profiles, configs, rate_rps)
                results.append(
                    Cell(
                        pipeline=name,
                        shape=str(shape),
                        configs=", ".join(map(str, configs)),
                        rate_rps=rate_rps,
                        failed=failed,
                        measured_p50_s=float(np.median(took_s)),
                        measured_mean_s=float(np.mean(took_s)),
                        measured_p99_s=float(np.quantile(took_s, 0.99)),
                        formula_mean_s=sum(stage.mean_s for stage in plan.stages),
                        formula_p99_s=plan.latency_s or np.nan,
                        simulated_p50_s=float(np.quantile(other_s, 0.5)),
                        simulated_p99_s=float(np.quantile(other_s, 0.99)),
                    )
                )
                print(json.dumps(asdict(results[-1])), flush=True)
    return results


def main() -> None:
    """Print the table and write it."""
    parser = argparse.ArgumentParser(prog="python -m experiments.fidelity.on_seldon", description=__doc__)
    parser.add_argument("--pipelines", default=",".join(CASES), help="by comma")
    parser.add_argument("--shapes", default="single,split", help="by comma")
    parser.add_argument("--out", type=Path, default=Path("runs/fidelity"))
    options = parser.parse_args()
    results = []
    for name in options.pipelines.split(","):
        folder = options.out / "seldon" / name
        shutil.rmtree(folder, ignore_errors=True)
        subject = calibrated_subject(name, folder / "profiles", CALIBRATION_S)
        from ipa.files import load_profiles

        profiles = load_profiles(subject.profiles_dir, name)
        for shape in options.shapes.split(","):
            results += cells_of(name, Shape(shape), profiles, folder / shape)
    console = Console(highlight=False, width=150)
    table = Table(title="Predicted and measured on Seldon", title_justify="left")
    for column in (
        "pipeline",
        "shape",
        "rate",
        "p50",
        "simulated",
        "mean",
        "formula",
        "p99",
        "simulated",
        "formula",
    ):
        table.add_column(column)
    for it in results:
        table.add_row(
            it.pipeline,
            it.shape,
            f"{it.rate_rps:g}",
            f"{1e3 * it.measured_p50_s:.0f} ms",
            f"{it.simulated_p50_s / it.measured_p50_s - 1:+.0%}",
            f"{1e3 * it.measured_mean_s:.0f} ms",
            f"{it.formula_mean_s / it.measured_mean_s - 1:+.0%}",
            f"{1e3 * it.measured_p99_s:.0f} ms",
            f"{it.simulated_p99_s / it.measured_p99_s - 1:+.0%}",
            f"{it.formula_p99_s / it.measured_p99_s - 1:+.0%}",
        )
    console.print(table)
    path = options.out / "seldon.json"
    path.write_text(
        json.dumps({"machine": machine(), "cells": [asdict(it) for it in results]}, indent=1) + "\n"
    )
    console.print(str(path))


if __name__ == "__main__":
    main()
