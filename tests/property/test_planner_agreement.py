"""The three solvers agree with each other on random chains, and with brute force on small ones."""

from __future__ import annotations

from random import Random

import pytest

from ipa.model.plan import Plan, Termination
from ipa.optimize.options import build_program
from ipa.optimize.solve import BACKENDS, solve
from tests.fakes.planner_instances import brute_force, random_problem

DEADLINE_S = 60.0
GROUP = 12


def solved(seed: int) -> list[Plan]:
    problem = random_problem(Random(seed))
    return [solve(problem, name, DEADLINE_S, explain=False) for name in BACKENDS]


@pytest.mark.parametrize("group", range(28))
def test_all_solvers_give_the_same_plan(group: int) -> None:
    for seed in range(group * GROUP, (group + 1) * GROUP):
        first, *others = solved(seed)
        for other in others:
            assert other.termination is first.termination, seed
            assert (other.objective is None) == (first.objective is None), seed
            if first.objective is not None:
                assert other.objective == pytest.approx(first.objective, abs=1e-9, rel=1e-9), seed
            assert other.configs == first.configs, seed


@pytest.mark.parametrize("group", range(20))
def test_small_instances_equal_brute_force(group: int) -> None:
    for seed in range(group * GROUP, (group + 1) * GROUP):
        problem = random_problem(Random(seed), stages=(1, 3), variants=(1, 3), batches=2)
        expected = brute_force(problem)
        plan = solve(problem, "exact", DEADLINE_S, explain=False)
        assert (plan.objective is None) == (expected is None), seed
        if expected is not None:
            assert plan.objective == pytest.approx(expected, abs=1e-9, rel=1e-9), seed


def test_the_instances_are_of_every_kind() -> None:
    problems = [random_problem(Random(seed)) for seed in range(150)]
    plans = [solve(problem, "exact", DEADLINE_S, explain=False) for problem in problems]
    infeasible = sum(plan.termination is Termination.INFEASIBLE for plan in plans)
    assert 25 < infeasible < len(plans) - 75
    bound_by_latency = sum((plan.latency_s or 0) > 0.8 * plan.sla_s for plan in plans)
    assert bound_by_latency > 15
    assert sum(all(build_program(problem).stages) for problem in problems) > 75
    assert {problem.objective.accuracy_rule for problem in problems} == set(
        type(problems[0].objective.accuracy_rule)
    )
