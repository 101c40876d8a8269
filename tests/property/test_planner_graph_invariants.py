"""Invariants of best plans: any graph, limit, goal, running configuration, and parts beside replicas."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from ipa.model.parts import NO_OVERHEAD, Overhead
from ipa.model.pipeline import CombineRule
from ipa.model.plan import Plan, StageConfig
from ipa.model.rolling import SIDE_BY_SIDE
from ipa.optimize.backends import label_setting
from ipa.optimize.describe import describe
from ipa.optimize.problem import PlanningProblem
from ipa.optimize.solve import solve
from tests.amounts import many
from tests.fakes.planner_agreement import planned, randoms, with_variant
from tests.fakes.planner_graphs import random_graph_problem

problems = randoms.map(random_graph_problem)
common = settings(
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=many(30),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
# Comparing two sums of a dozen floats.
ROUNDING = 1e-9


def best(problem: PlanningProblem) -> Plan:
    """The plan of the search, also where trying all plans would be faster."""
    with patch.object(label_setting, "FEW", 0):
        return solve(problem, "exact", 60.0, explain=False)


def is_no_worse(plan: Plan, than: Plan) -> bool:
    if than.objective is None:
        return True
    return plan.objective is not None and plan.objective >= than.objective - ROUNDING * max(
        1, abs(than.objective)
    )


def looser(problem: PlanningProblem, ratio: float) -> list[PlanningProblem]:
    """The problem with each of its limits moved alone."""
    bounds, objective = problem.bounds, problem.objective
    problems = [replace(problem, sla_s=problem.sla_s * ratio)]
    if bounds.cores is not None:
        problems.append(replace(problem, bounds=replace(bounds, cores=bounds.cores * ratio)))
    if bounds.memory_gib is not None:
        problems.append(replace(problem, bounds=replace(bounds, memory_gib=bounds.memory_gib * ratio)))
    if bounds.accuracy_floor is not None:
        floor = bounds.accuracy_floor / ratio
        problems.append(replace(problem, bounds=replace(bounds, accuracy_floor=floor)))
    if objective.max_cost_cores is not None:
        ceiling = objective.max_cost_cores * ratio
        problems.append(replace(problem, objective=replace(objective, max_cost_cores=ceiling)))
    return problems


@common
@given(problems, st.floats(1.0, 3.0))
def test_looser_limits_never_make_the_best_plan_worse(problem: PlanningProblem, ratio: float) -> None:
    plan = best(problem)
    assert all(is_no_worse(best(each), plan) for each in looser(problem, ratio))


@common
@given(randoms)
def test_a_variant_more_never_makes_the_best_plan_worse(random: Random) -> None:
    problem = random_graph_problem(random)
    with_points = [at for at, stage in enumerate(problem.stages) if stage.points]
    assert is_no_worse(best(with_variant(problem, random.choice(with_points), random)), best(problem))


@common
@given(problems, st.randoms(use_true_random=False))
def test_the_order_of_the_points_does_not_matter(problem: PlanningProblem, random: Random) -> None:
    shuffled = tuple(
        replace(stage, points=tuple(random.sample(stage.points, len(stage.points))))
        for stage in problem.stages
    )
    assert best(replace(problem, stages=shuffled)).configs == best(problem).configs


@common
@given(problems)
def test_only_the_ratios_of_the_weights_matter(problem: PlanningProblem) -> None:
    weights = problem.objective
    doubled = replace(
        weights,
        alpha=2 * weights.alpha,
        beta=2 * weights.beta,
        delta=2 * weights.delta,
        transition_per_core=2 * weights.transition_per_core,
    )
    assert best(replace(problem, objective=doubled)).configs == best(problem).configs


@common
@given(problems)
def test_the_search_and_enumeration_give_the_same_plan(problem: PlanningProblem) -> None:
    searched, every = best(problem), solve(problem, "exact", 60.0, explain=False)
    assert (searched.termination, searched.configs) == (every.termination, every.configs)


@pytest.mark.parametrize("seed", [186, 823, 1522, 1903, 2110, 2930])
def test_of_equal_plans_the_search_and_enumeration_name_the_same(seed: int) -> None:
    # A path's time and an alternative's accuracy are forgotten on the way: the search may not choose by them.
    problem = random_graph_problem(Random(seed))
    assert best(problem).configs == solve(problem, "exact", 60.0, explain=False).configs != ()


def peaks(problem: PlanningProblem, configs: tuple[StageConfig, ...]) -> tuple[float, float]:
    """Cores and memory while the old replicas still run and the new ones do already."""
    together: dict[tuple[str, str, int, float], int] = {}
    for config in (*problem.running, *configs):
        # Of the same configuration only the larger number of replicas runs.
        kind = (config.stage, config.variant, config.batch_size, config.cores)
        together[kind] = max(together.get(kind, 0), config.replicas)
    gib = {(stage.name, p.variant): p.memory_gib for stage in problem.stages for p in stage.points}
    return (
        sum(replicas * kind[3] for kind, replicas in together.items()),
        sum(replicas * gib[kind[:2]] for kind, replicas in together.items()),
    )


@common
@given(problems, st.sampled_from(["exact", "gurobi", "highs"]))
def test_old_and_new_replicas_fit_side_by_side(problem: PlanningProblem, solver: str) -> None:
    assume(problem.running)
    plan = solve(problem, solver, 60.0, explain=False)
    assume(plan.configs)
    assert plan.cost_cores is not None
    (cores, gib), (cores_now, gib_now), bounds = (
        peaks(problem, plan.configs),
        peaks(problem, ()),
        problem.bounds,
    )
    side_by_side = problem.rolling == SIDE_BY_SIDE
    if bounds.cores is not None:
        assert plan.cost_cores <= bounds.cores + ROUNDING
    if bounds.most_cores is not None and side_by_side:
        # What runs may go on where the bound has shrunk below it, until the change is done.
        assert cores <= max(bounds.most_cores, cores_now) + ROUNDING
    if bounds.memory_gib is not None and side_by_side:
        assert gib <= max(bounds.memory_gib, gib_now) + ROUNDING


# Configurations up to which all are tried.
MOST = 5_000
INSTANCES = settings(
    max_examples=many(25),
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def with_overhead(random: Random, problem: PlanningProblem) -> PlanningProblem:
    """The problem with an orchestrator of its own, or one beside each replica of a stage, or both."""
    served = [stage.name for stage in problem.stages if not stage.is_free]
    kind = random.choice(["fixed", "each", "both"])
    overhead = Overhead(
        random.choice([0.25, 0.5, 1.5]) if kind != "each" else 0.0,
        ((random.choice(served), random.choice([0.25, 0.5, 1.0])),) if kind != "fixed" else (),
    )
    bounds = problem.bounds
    cores = None if bounds.cores is None else bounds.cores + random.choice([0.0, 0.5, 2.0])
    return replace(problem, bounds=replace(bounds, cores=cores, overhead=overhead))


def cores_of(plan: Plan, overhead: Overhead) -> float:
    beside = dict(overhead.each_cores)
    replicas = sum(one.replicas * (one.cores + beside.get(one.stage, 0.0)) for one in plan.configs)
    return overhead.fixed_cores + replicas


@INSTANCES
@given(randoms)
def test_the_engines_agree_with_each_other_and_with_enumeration(random: Random) -> None:
    verdict = planned(with_overhead(random, random_graph_problem(random)), MOST)
    assert not verdict.faults, verdict.instance


@pytest.mark.parametrize("solver", ["gurobi", "highs"])
@pytest.mark.parametrize("seed", [5, 13, 45])
def test_the_solvers_plan_for_the_best_of_several_inputs_themselves(seed: int, solver: str) -> None:
    """If a solver finds no plan, label setting does, and the note says so."""
    problem = random_graph_problem(Random(seed))
    assert CombineRule.MAX in {stage.combine for stage in problem.stages}
    plan = solve(problem, solver, 60.0, explain=False)
    assert plan.configs == best(problem).configs and "infeasible" not in plan.note


@INSTANCES
@given(randoms)
def test_the_cost_is_that_of_all_that_runs_and_within_the_budget(random: Random) -> None:
    problem = with_overhead(random, random_graph_problem(random))
    overhead, limit = problem.bounds.overhead, problem.bounds.cores
    plan = solve(problem, "exact", 60.0, explain=False)
    if not plan.configs:
        return
    assert plan.cost_cores is not None and abs(plan.cost_cores - cores_of(plan, overhead)) < 1e-9
    assert limit is None or problem.running or plan.cost_cores <= limit + 1e-9
    described = describe(problem, plan.configs)
    assert described is not None and described.cost_cores is not None
    assert abs(described.cost_cores - plan.cost_cores) < 1e-9
    if problem.running:
        return
    # A budget of as many cores less, without overhead of its own, would do where it is fixed.
    if not overhead.each_cores and limit is not None and limit > overhead.fixed_cores:
        less = replace(problem.bounds, cores=limit - overhead.fixed_cores, overhead=NO_OVERHEAD)
        ceiling = problem.objective.max_cost_cores
        objective = replace(
            problem.objective,
            max_cost_cores=None if ceiling is None else max(ceiling - overhead.fixed_cores, 0.0),
        )
        alone = solve(replace(problem, bounds=less, objective=objective), "exact", 60.0, explain=False)
        assert alone.configs == plan.configs
