"""Small problems for mixtures, and every combination of shares and of cores between them."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import cache
from math import inf
from random import Random

from ipa.model.pipeline import AccuracyRule, Bounds, Objective
from ipa.model.resources import CORES, Resources, total
from ipa.optimize.mixture.mixtures import MixtureLimits, part_problem
from ipa.optimize.problem import PlanningProblem
from tests.fakes.planner_instances import brute_force, chained, every_plan, random_stage

# All points take multiples of half a core.
GRID_CORES = 0.5
GPU = "nvidia.com/gpu"


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


def bounded_problem(random: Random) -> PlanningProblem:
    """A small problem whose variants hold memory and accelerators, both bounded."""
    problem = small_problem(random)
    stages = []
    for stage in problem.stages:
        names = sorted({point.variant for point in stage.points})
        memory = {name: random.choice([0.5, 1.0, 2.0, 3.5]) for name in names}
        kinds = {name: {GPU: float(random.randint(0, 2))} for name in names}
        points = tuple(
            replace(point, memory_gib=memory[point.variant], accelerators=kinds[point.variant])
            for point in stage.points
        )
        stages.append(replace(stage, points=points))
    bounds = replace(
        problem.bounds,
        memory_gib=random.choice([None, 4.0, 6.0, 12.0, 24.0]),
        accelerators={GPU: random.choice([2.0, 4.0, 6.0, 10.0])},
    )
    return replace(problem, stages=tuple(stages), bounds=bounds)


def best_bounded_by_enumeration(
    problem: PlanningProblem, limits: MixtureLimits
) -> tuple[float | None, float | None]:
    """As `best_mixture_by_enumeration`, from every plan of every share and every limited resource."""
    most = problem.bounds.limits
    if problem.objective.max_cost_cores is not None:
        most = most | {CORES: min(problem.objective.max_cost_cores, most.get(CORES, inf))}

    @cache
    def plans(share: int) -> list[tuple[Resources, float]]:
        found = [
            (held, worth)
            for held, worth in every_plan(part_problem(problem, share))
            if not held.exceeded(most)
        ]
        # Those that another of no more of anything equals or exceeds are never needed.
        kept: list[tuple[Resources, float]] = []
        for held, worth in sorted(found, key=lambda plan: -plan[1]):
            if not any(other <= held for other, _ in kept):
                kept.append((held, worth))
        return kept

    best: float | None = None
    shares = range(limits.step_percent, 100, limits.step_percent)
    for count in range(2, limits.max_parts + 1):
        for split in itertools.combinations_with_replacement(shares, count):
            if sum(split) != 100:
                continue
            for parts in itertools.product(*map(plans, split)):
                worth = sum(worth for _, worth in parts)
                beats = best is None or worth > best
                if beats and not total(held for held, _ in parts).exceeded(most):
                    best = worth
    return max((worth for _, worth in plans(100)), default=None), best


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
