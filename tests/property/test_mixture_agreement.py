"""Mixtures against every combination of shares and of cores between them, each part by brute force."""

from __future__ import annotations

import itertools
from dataclasses import replace
from random import Random

import pytest

from ipa.model.pipeline import AccuracyRule, Bounds, Objective
from ipa.model.plan import Termination
from ipa.optimize.mixture.plan import Mixture, MixtureLimits, part_problem
from ipa.optimize.mixture.solve import solve_mixture
from ipa.optimize.problem import Problem
from tests.fakes.planner_instances import brute_force, chained, random_stage

# All points take multiples of half a core.
GRID_CORES = 0.5


def small_problem(random: Random) -> Problem:
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
    return Problem(
        "small",
        random.choice([5.0, 20.0, random.uniform(2, 60)]),
        light_s * random.choice([1.5, 3.0, 8.0]),
        chained(stages),
        objective,
        bounds,
    )


def best_by_brute_force(problem: Problem, limits: MixtureLimits) -> tuple[float | None, float | None]:
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


def solved(seed: int, limits: MixtureLimits) -> tuple[Problem, Mixture]:
    problem = small_problem(Random(seed))
    return problem, solve_mixture(problem, limits, deadline_s=60.0)


@pytest.mark.parametrize("group", range(20))
@pytest.mark.parametrize(("max_parts", "step_percent"), [(2, 5), (3, 10)])
def test_the_best_mixture_is_found(group: int, max_parts: int, step_percent: int) -> None:
    limits = MixtureLimits(max_parts, step_percent)
    for seed in range(group * 6, group * 6 + 6):
        problem, mixture = solved(seed, limits)
        single, several = best_by_brute_force(problem, limits)
        if single is None and several is None:
            assert mixture.termination is Termination.INFEASIBLE, seed
            continue
        expected = max(worth for worth in (single, several) if worth is not None)
        assert mixture.termination is Termination.OPTIMAL, seed
        assert mixture.objective == pytest.approx(expected, abs=1e-9, rel=1e-9), seed
        beaten = single is None or (several is not None and several > single + limits.min_gain + 1e-9)
        assert (len(mixture.parts) > 1) == beaten, seed
        if single is not None:
            assert mixture.gain == pytest.approx(expected - single, abs=1e-9), seed


def test_the_instances_are_of_every_kind() -> None:
    mixtures = [solved(seed, MixtureLimits(3, 10)) for seed in range(120)]
    several = [(problem, mixture) for problem, mixture in mixtures if len(mixture.parts) > 1]
    assert len(several) > 12
    assert sum(len(mixture.parts) > 2 for _, mixture in several) > 2
    assert sum(mixture.single.objective is None for _, mixture in several) > 0
    assert sum(mixture.termination is Termination.INFEASIBLE for _, mixture in mixtures) > 0
    # Parts that are not the best for their share alone: the cores between them bind.
    assert any(part.plan.termination is Termination.FEASIBLE for _, mix in several for part in mix.parts)
