"""Sets agree with every split of the cores tried in turn, larger ones with a linear program."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from ipa.model.plan import Termination
from ipa.optimize.set_solve import SetProblem, solve_set
from tests.amounts import many
from tests.fakes.set_instances import best_by_milp, bounded_set, enumerate_sets, random_set

DEADLINE_S = 60.0
GROUPS, GROUP = 20, 25
# Of so many groups every instance is enumerated, with shares of any size and in whole percents.
ENUMERATED = many(2)


@pytest.mark.parametrize("group", range(ENUMERATED))
@pytest.mark.parametrize("whole_percents", [False, True])
def test_memory_accelerators_and_prices_hold(group: int, whole_percents: bool) -> None:
    for seed in range(group * GROUP, (group + 1) * GROUP):
        check(bounded_set(Random(seed)), whole_percents, seed)


def check(problem: SetProblem, whole_percents: bool, seed: int) -> None:
    """The search finds what enumeration finds."""
    expected, missing_rps = enumerate_sets(problem, whole_percents)
    plan = solve_set(problem, DEADLINE_S, whole_percents=whole_percents)
    if expected is None:
        assert plan.termination is Termination.INFEASIBLE, seed
        if not whole_percents:
            assert plan.missing_rps == pytest.approx(missing_rps, rel=1e-9), seed
    else:
        assert plan.termination is Termination.OPTIMAL and plan.bound == plan.objective, seed
        assert plan.objective == pytest.approx(expected, abs=1e-9, rel=1e-9), seed


def test_larger_tasks_are_solved_as_by_highs() -> None:
    for seed in range(1000, 1040):
        problem = random_set(Random(seed), variants=8, most_cores=12)
        expected = best_by_milp(problem)
        objective = solve_set(problem, DEADLINE_S).objective
        assert (objective is None) == (expected is None), seed
        if expected is not None:
            assert objective == pytest.approx(expected, abs=1e-9, rel=1e-9), seed


def test_the_instances_are_of_every_kind() -> None:
    plans = [solve_set(random_set(Random(seed), variants=4)) for seed in range(GROUPS * GROUP)]
    infeasible = sum(plan.termination is Termination.INFEASIBLE for plan in plans)
    assert 100 < infeasible < 300
    assert sum(len(plan.parts) > 1 for plan in plans) > 80
    assert sum(len(plan.parts) > 2 for plan in plans) > 10


def test_the_limits_bind() -> None:
    problems = [bounded_set(Random(seed)) for seed in range(GROUPS * GROUP)]
    bound = [solve_set(problem) for problem in problems]
    free = [solve_set(replace(problem, limits={})) for problem in problems]
    worse = [plan for plan, best in zip(bound, free, strict=True) if plan.objective != best.objective]
    assert sum(bool(plan.parts) for plan in worse) > 30
    assert sum(len(plan.parts) > 1 for plan in worse) > 8
    assert sum(plan.termination is Termination.INFEASIBLE for plan in worse) > 50
