"""The re-check refuses every plan whose numbers or rows do not hold."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ipa.model.errors import SolverError
from ipa.model.pipeline import Bounds, Objective
from ipa.model.plan import Plan, StagePlan, Termination
from ipa.model.profile import OperatingPoint
from ipa.optimize.plans import verify
from ipa.optimize.problem import PlanningProblem, StageProblem
from ipa.optimize.solve import solve
from tests.fakes.planner_instances import chained

SLOW = OperatingPoint("slow", 0.9, 2, 1.0, 0.1, 20.0)
FAST = OperatingPoint("fast", 0.6, 1, 1.0, 0.02, 50.0)
PROBLEM = PlanningProblem(
    "p",
    30.0,
    1.0,
    chained([StageProblem("first", (SLOW, FAST)), StageProblem("second", (SLOW, FAST))], [2.0]),
    Objective(alpha=10.0, beta=0.1, delta=1e-3),
    Bounds(cores=12.0, max_replicas=8, accuracy_floor=0.3),
)


@pytest.fixture
def plan() -> Plan:
    return solve(PROBLEM, "exact")


def with_stage(plan: Plan, **changes: Any) -> Plan:
    first: StagePlan = replace(plan.stages[0], **changes)
    return replace(plan, stages=(first, *plan.stages[1:]))


def test_an_honest_plan_stands(plan: Plan) -> None:
    verify(PROBLEM, plan)
    assert plan.objective is not None and plan.termination is Termination.OPTIMAL


@pytest.mark.parametrize("field", ["objective", "pas", "cost_cores", "latency_s", "sla_s"])
def test_a_wrong_figure_is_refused(plan: Plan, field: str) -> None:
    with pytest.raises(SolverError, match=field):
        verify(PROBLEM, replace(plan, **{field: getattr(plan, field) + 1e-5}))
    with pytest.raises(SolverError, match=field):
        verify(PROBLEM, replace(plan, **{field: float("nan")}))


@pytest.mark.parametrize("replicas", [1.5, 2.0, True])
def test_replicas_that_are_no_whole_number_are_refused(plan: Plan, replicas: Any) -> None:
    with pytest.raises(SolverError, match="whole number"):
        verify(PROBLEM, with_stage(plan, replicas=replicas))


def test_a_configuration_nobody_measured_is_refused(plan: Plan) -> None:
    with pytest.raises(SolverError, match="operating points"):
        verify(PROBLEM, with_stage(plan, batch_size=3))


def test_too_few_replicas_are_refused(plan: Plan) -> None:
    with pytest.raises(SolverError, match="carries"):
        verify(PROBLEM, with_stage(plan, replicas=1))


@pytest.mark.parametrize(
    ("tightened", "words"),
    [
        (replace(PROBLEM, bounds=replace(PROBLEM.bounds, cores=2.0)), "cores are above"),
        (replace(PROBLEM, bounds=replace(PROBLEM.bounds, accuracy_floor=0.95)), "below the floor"),
        (replace(PROBLEM, bounds=replace(PROBLEM.bounds, max_replicas=1)), "replicas outside"),
        (replace(PROBLEM, bounds=replace(PROBLEM.bounds, min_replicas=9)), "replicas outside"),
        (replace(PROBLEM, objective=replace(PROBLEM.objective, max_replicas=1)), "replicas outside"),
        (replace(PROBLEM, sla_s=0.01), "above the SLA"),
        (replace(PROBLEM, objective=replace(PROBLEM.objective, max_batch_size=1)), "does not allow"),
        (replace(PROBLEM, bounds=replace(PROBLEM.bounds, batch_sizes=(4,))), "does not allow"),
    ],
)
def test_a_violated_row_is_refused(plan: Plan, tightened: PlanningProblem, words: str) -> None:
    with pytest.raises(SolverError, match=words):
        verify(tightened, plan)


def test_stages_left_out_are_refused(plan: Plan) -> None:
    with pytest.raises(SolverError, match="stages"):
        verify(PROBLEM, replace(plan, stages=plan.stages[:1]))


def test_an_objective_above_its_own_bound_is_refused(plan: Plan) -> None:
    assert plan.objective is not None
    with pytest.raises(SolverError, match="bound"):
        verify(PROBLEM, replace(plan, bound=plan.objective - 1e-3))


def test_a_plan_that_says_it_is_none_has_no_configuration(plan: Plan) -> None:
    with pytest.raises(SolverError, match="infeasible"):
        verify(PROBLEM, replace(plan, termination=Termination.INFEASIBLE))


def test_every_fault_is_listed(plan: Plan) -> None:
    with pytest.raises(SolverError) as caught:
        verify(PROBLEM, replace(plan, pas=0.1, cost_cores=1.0, latency_s=0.1))
    assert len(caught.value.problems) == 3
