"""The points that `ipa profile --next` measures of shipped profiles, and what plans lose by the others.

`python -m experiments.next_points` takes the shipped profiles to be what a measurement of all points finds,
and asks for the next points until there are none. Plans of the points measured are then compared with those
of all points, at rates that were not asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean

from rich import print as show
from rich.table import Table

from ipa.files import load_pipeline, load_profiles
from ipa.model.profile import StageProfile, VariantProfile
from ipa.optimize.describe import describe
from ipa.optimize.registry import EXACT
from ipa.optimize.solve import solve
from ipa.policies.planning import PlanQuestion
from ipa.profiling.next_points import Grid
from ipa.service.measuring import measure_next, plans_over

DEADLINE_S = 30.0
# Rates between those that the measurement plans for, and of other ratios.
COMPARED = 97
# Of an objective between about 0 and 1: less than a hundredth of a core at the shipped weights.
AS_GOOD = 0.001
CASES = (
    ("digits", (5.0, 50.0)),
    ("digits", (50.0, 500.0)),
    ("ocr", (0.5, 5.0)),
    ("ocr", (1.0, 10.0)),
    ("text", (1.0, 10.0)),
    ("text", (10.0, 100.0)),
    ("text", (50.0, 500.0)),
)


def measured_of(truth: StageProfile, grid: Grid, known: StageProfile | None) -> StageProfile:
    """The known profile with the points of the grid, as the true one has them."""
    places = {
        (name, cores, size)
        for name, of_cores in grid.items()
        for cores in of_cores
        for size in of_cores[cores]
    } | {
        (each.variant, it.cores, it.batch_size)
        for each in (known.variants if known else ())
        for it in each.points
    }
    variants = (
        replace(
            each,
            points=tuple(it for it in each.points if (each.variant, it.cores, it.batch_size) in places),
        )
        for each in truth.variants
    )
    return replace(truth, variants=tuple(each for each in variants if each.points))


def grid_of(variants: Sequence[VariantProfile]) -> Grid:
    """The batch sizes that the profile has of each variant, by cores."""
    return {
        each.variant: {
            cores: [it.batch_size for it in each.points if it.cores == cores]
            for cores in sorted({it.cores for it in each.points})
        }
        for each in variants
    }


@dataclass(frozen=True, slots=True)
class Comparison:
    """The share of points measured, and of plans that are equal, or as good and in time, at all points.

    `lost` is the most of an objective lost.
    """

    measured_ratio: float
    equal_ratio: float
    good_ratio: float
    lost: float


def compared(name: str, rates_rps: tuple[float, float]) -> Comparison:
    """The plans of the points measured next, compared with those of all points of the shipped profiles."""
    pipeline = load_pipeline(Path("pipelines") / name / "pipeline.yaml")
    truth = load_profiles(Path("profiles"), name)
    plans = partial(plans_over, pipeline, rates_rps, EXACT, DEADLINE_S)
    grids = {stage.name: grid_of(truth[stage.name].variants) for stage in pipeline.served}
    profiles = measure_next(grids, {}, plans, lambda stage, *points: measured_of(truth[stage], *points))
    few, all_ = (
        sum(len(variant.points) for each in those.values() for variant in each.variants)
        for those in (profiles, truth)
    )
    low_rps, high_rps = rates_rps
    equal, good, lost = list[bool](), list[bool](), list[float]()
    for step in range(COMPARED):
        rate_rps = low_rps * (high_rps / low_rps) ** (step / (COMPARED - 1))
        ours, best = (
            solve(PlanQuestion(pipeline, those, rate_rps).problem(), EXACT, DEADLINE_S, explain=False)
            for those in (profiles, truth)
        )
        real = describe(PlanQuestion(pipeline, truth, rate_rps).problem(), ours.configs)
        assert real is not None and best.objective is not None and real.objective is not None
        equal.append(ours.configs == best.configs)
        lost.append(best.objective - real.objective)
        good.append(lost[-1] <= AS_GOOD and (real.latency_s or 0.0) <= real.sla_s)
    return Comparison(few / all_, fmean(equal), fmean(good), max(lost))


def main() -> None:
    """Print a row for each pipeline and range of rates."""
    table = Table(
        "pipeline", "rates, rps", "points measured", "plans equal", "as good", "objective lost, most"
    )
    for name, rates_rps in CASES:
        low_rps, high_rps = rates_rps
        it = compared(name, rates_rps)
        shares = [f"{share:.0%}" for share in (it.measured_ratio, it.equal_ratio, it.good_ratio)]
        table.add_row(name, f"{low_rps:g} to {high_rps:g}", *shares, f"{it.lost:.3f}")
    show(table)


if __name__ == "__main__":
    main()
