"""Small problems for mixtures, and every combination of shares and of cores between them."""

from __future__ import annotations

import itertools
from dataclasses import replace
from random import Random

from ipa.model.pipeline import AccuracyRule, Bounds, Objective
from ipa.optimize.mixture.mixtures import MixtureLimits, part_problem
from ipa.optimize.problem import PlanningProblem
from tests.fakes.planner_instances import brute_force, chained, random_stage

# All points take multiples of half a core.
GRID_CORES = 0.5


def small_problem(random: Random) -> PlanningProblem:
    """One or two stages of two or three variants, cores and accuracy worth about the same, few cores."""
    count = random.randint(1, 2)
    stages = [random_stage(random, f"s{at}", random.randint(2, 3), 1) for at in range(count)]
    light_s = sum(min(point.latency_s for point in stage.points) for stage in stages)
    objective = Objective(
        alpha=random.choice([5.0, 20.0, 100.0]),
        beta=random.choice([0.0, 0.2, 0.5, 1.0]),
        delta=random.choice([0.0, 1e-3]),
        accuracy_rule=random.choice([AccuracyRule.PRODUCT, AccuracyRule.SUM, AccuracyRule.RANK_PRODUCT]),
        rank_floor=0.05,
        max_replicas=random.choice([None, 3]),
        max_cost_cores=random.choice([None, None, 8.0]),
    )
    bounds = Bounds(cores=random.choice([None, 3.0, 5.0, 7.5, 10.0]))
    return PlanningProblem(
        "small",
        random.choice([5.0, 20.0, random.uniform(2, 60)]),
        light_s * random.choice([1.5, 3.0, 8.0]),
        chained(stages),
        objective,
        bounds,
    )


def best_mixture_by_enumeration(
    problem: PlanningProblem, limits: MixtureLimits
) -> tuple[float | None, float | None]:
    """The best worth of a single plan, and of any mixture of at least two parts."""
    bounds = (problem.bounds.cores, problem.objective.max_cost_cores)
    cores = min((bound for bound in bounds if bound is not None), default=None)
    known: dict[tuple[int, float | None], float | None] = {}

    def part(share: int, most: float | None) -> float | None:
        if (share, most) not in known:
            of_share = part_problem(problem, share)
            known[share, most] = brute_force(replace(of_share, bounds=replace(of_share.bounds, cores=most)))
        return known[share, most]

    best: float | None = None
    shares = range(limits.step_percent, 100, limits.step_percent)
    for count in range(2, limits.max_parts + 1):
        for split in itertools.combinations_with_replacement(shares, count):
            if sum(split) != 100:
                continue
            for given in ways(cores, count):
                worths = [part(share, most) for share, most in zip(split, given, strict=True)]
                if all(worth is not None for worth in worths):
                    total = sum(worth for worth in worths if worth is not None)
                    best = total if best is None else max(best, total)
    return part(100, cores), best


def ways(cores: float | None, count: int) -> list[tuple[float | None, ...]]:
    """Every way to split the cores among the parts."""
    if cores is None:
        return [(None,) * count]
    steps = int(cores / GRID_CORES)
    return [
        (*(GRID_CORES * each for each in split), GRID_CORES * (steps - sum(split)))
        for split in itertools.product(range(1, steps), repeat=count - 1)
        if sum(split) < steps
    ]
