"""Mixtures against every combination of shares and of cores between them, each part by brute force."""

from __future__ import annotations

from random import Random

import pytest

from ipa.model.plan import Termination
from ipa.optimize.mixture.mixtures import Mixture, MixtureLimits
from ipa.optimize.mixture.solve import solve_mixture
from ipa.optimize.problem import PlanningProblem
from tests.fakes.mixture_instances import best_mixture_by_enumeration, small_problem


def solved(seed: int, limits: MixtureLimits) -> tuple[PlanningProblem, Mixture]:
    problem = small_problem(Random(seed))
    return problem, solve_mixture(problem, limits, deadline_s=60.0)


@pytest.mark.parametrize("group", range(20))
@pytest.mark.parametrize(("max_parts", "step_percent"), [(2, 5), (3, 10)])
def test_the_best_mixture_is_found(group: int, max_parts: int, step_percent: int) -> None:
    limits = MixtureLimits(max_parts, step_percent)
    for seed in range(group * 6, group * 6 + 6):
        problem, mixture = solved(seed, limits)
        single, several = best_mixture_by_enumeration(problem, limits)
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
