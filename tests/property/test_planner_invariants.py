"""What must hold of best plans whatever the numbers."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from ipa.model.plan import Plan
from ipa.optimize.problem import PlanningProblem
from ipa.optimize.solve import solve
from tests.amounts import many
from tests.fakes.planner_instances import random_problem

seeds = st.integers(0, 100_000)
# Comparing two sums of a dozen floats.
ROUNDING = 1e-9


def problem_of(seed: int) -> PlanningProblem:
    return random_problem(Random(seed), stages=(1, 4), variants=(1, 5), batches=3)


def best(problem: PlanningProblem) -> Plan:
    return solve(problem, "exact", 60.0, explain=False)


def is_no_worse(plan: Plan, than: Plan) -> bool:
    if than.objective is None:
        return True
    return plan.objective is not None and plan.objective >= than.objective - ROUNDING * max(
        1, abs(than.objective)
    )


@settings(deadline=None, max_examples=many(30))
@given(seeds, st.floats(1.0, 3.0))
def test_looser_limits_never_make_the_best_plan_worse(seed: int, ratio: float) -> None:
    problem = problem_of(seed)
    plan, bounds = best(problem), problem.bounds
    looser = [replace(problem, sla_s=problem.sla_s * ratio)]
    if bounds.cores is not None:
        looser.append(replace(problem, bounds=replace(bounds, cores=bounds.cores * ratio)))
    if bounds.accuracy_floor is not None:
        floor = bounds.accuracy_floor / ratio
        looser.append(replace(problem, bounds=replace(bounds, accuracy_floor=floor)))
    if bounds.max_replicas is not None:
        most = int(bounds.max_replicas * ratio)
        looser.append(replace(problem, bounds=replace(bounds, max_replicas=most)))
    assert all(is_no_worse(best(each), plan) for each in looser)


@settings(deadline=None, max_examples=many(30))
@given(seeds)
def test_an_operating_point_more_never_makes_the_best_plan_worse(seed: int) -> None:
    problem = problem_of(seed)
    first = problem.stages[0]
    # A point of a variant that is there, so that no rank moves.
    more = replace(first.points[0], cores=3.0, latency_s=first.points[0].latency_s * 0.7)
    richer = replace(first, points=(*first.points, more))
    assert is_no_worse(best(replace(problem, stages=(richer, *problem.stages[1:]))), best(problem))


@settings(deadline=None, max_examples=many(30))
@given(seeds, st.randoms(use_true_random=False))
def test_the_order_of_the_points_does_not_matter(seed: int, random: Random) -> None:
    problem = problem_of(seed)
    shuffled = tuple(
        replace(stage, points=tuple(random.sample(stage.points, len(stage.points))))
        for stage in problem.stages
    )
    assert best(replace(problem, stages=shuffled)).configs == best(problem).configs


@settings(deadline=None, max_examples=many(30))
@given(seeds)
def test_only_the_ratios_of_the_weights_matter(seed: int) -> None:
    problem = problem_of(seed)
    weights = problem.objective
    doubled = replace(weights, alpha=2 * weights.alpha, beta=2 * weights.beta, delta=2 * weights.delta)
    assert best(replace(problem, objective=doubled)).configs == best(problem).configs
