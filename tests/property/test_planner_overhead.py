"""The parts beside the replicas count in every plan's cost and budget, for every engine alike."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from hypothesis import HealthCheck, given, settings

from ipa.model.parts import NO_OVERHEAD, Overhead
from ipa.model.plan import Plan
from ipa.optimize.describe import describe
from ipa.optimize.problem import PlanningProblem
from ipa.optimize.solve import solve
from tests.amounts import many
from tests.fakes.planner_agreement import planned, randoms
from tests.fakes.planner_graphs import random_graph_problem

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
