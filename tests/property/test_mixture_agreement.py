"""Mixtures against every combination of shares and of cores between them, each part by brute force."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from ipa.model.plan import Termination
from ipa.optimize.mixture.mixtures import Mixture, MixtureLimits
from ipa.optimize.mixture.solve import solve_mixture
from ipa.optimize.problem import PlanningProblem
from tests.fakes.mixture_instances import (
    best_bounded_by_enumeration,
    best_mixture_by_enumeration,
    bounded_problem,
    small_problem,
)


def solved(seed: int, limits: MixtureLimits) -> tuple[PlanningProblem, Mixture]:
    problem = small_problem(Random(seed))
    return problem, solve_mixture(problem, limits, deadline_s=60.0)


def check(
    mixture: Mixture, limits: MixtureLimits, single: float | None, several: float | None, seed: int
) -> None:
    if single is None and several is None:
        assert mixture.termination is Termination.INFEASIBLE, seed
        return
    expected = max(worth for worth in (single, several) if worth is not None)
    assert mixture.termination is Termination.OPTIMAL, seed
    assert mixture.objective == pytest.approx(expected, abs=1e-9, rel=1e-9), seed
    beaten = single is None or (several is not None and several > single + limits.min_gain + 1e-9)
    assert (len(mixture.parts) > 1) == beaten, seed
    if single is not None:
        assert mixture.gain == pytest.approx(expected - single, abs=1e-9), seed


@pytest.mark.parametrize("group", range(20))
@pytest.mark.parametrize(("max_parts", "step_percent"), [(2, 5), (3, 10)])
def test_the_best_mixture_is_found(group: int, max_parts: int, step_percent: int) -> None:
    limits = MixtureLimits(max_parts, step_percent)
    for seed in range(group * 6, group * 6 + 6):
        problem, mixture = solved(seed, limits)
        check(mixture, limits, *best_mixture_by_enumeration(problem, limits), seed)


@pytest.mark.parametrize("group", range(10))
@pytest.mark.parametrize(("max_parts", "step_percent"), [(2, 10), (3, 20)])
def test_the_best_mixture_within_memory_and_accelerators_is_found(
    group: int, max_parts: int, step_percent: int
) -> None:
    limits = MixtureLimits(max_parts, step_percent)
    for seed in range(group * 6, group * 6 + 6):
        problem = bounded_problem(Random(seed))
        mixture = solve_mixture(problem, limits, deadline_s=60.0)
        check(mixture, limits, *best_bounded_by_enumeration(problem, limits), seed)


def test_the_bounded_instances_are_of_every_kind() -> None:
    limits = MixtureLimits(3, 20)
    problems = [bounded_problem(Random(seed)) for seed in range(60)]
    mixtures = [solve_mixture(problem, limits, deadline_s=60.0) for problem in problems]
    several = [mixture for mixture in mixtures if len(mixture.parts) > 1]
    assert len(several) > 7
    # Memory and accelerators bind, in mixtures too.
    free = [replace(each, bounds=replace(each.bounds, memory_gib=None, accelerators={})) for each in problems]
    without = [solve_mixture(problem, limits, deadline_s=60.0) for problem in free]
    bound = [one for one, other in zip(mixtures, without, strict=True) if one.objective != other.objective]
    assert len(bound) > 10 and sum(len(mixture.parts) > 1 for mixture in bound) > 4
    assert sum(mixture.termination is Termination.INFEASIBLE for mixture in mixtures) > 0
    assert any(part.plan.termination is Termination.FEASIBLE for mix in several for part in mix.parts)


def test_the_instances_are_of_every_kind() -> None:
    mixtures = [solved(seed, MixtureLimits(3, 10)) for seed in range(120)]
    several = [(problem, mixture) for problem, mixture in mixtures if len(mixture.parts) > 1]
    assert len(several) > 12
    assert sum(len(mixture.parts) > 2 for _, mixture in several) > 2
    assert sum(mixture.single.objective is None for _, mixture in several) > 0
    assert sum(mixture.termination is Termination.INFEASIBLE for _, mixture in mixtures) > 0
    # Parts that are not the best for their share alone: the cores between them bind.
    assert any(part.plan.termination is Termination.FEASIBLE for _, mix in several for part in mix.parts)
