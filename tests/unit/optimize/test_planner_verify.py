"""The re-check refuses plans that do not hold; remedies of an infeasible plan help, and less would not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from random import Random
from typing import Any

import pytest

from ipa.model.errors import SolverError
from ipa.model.pipeline import Bounds, Objective
from ipa.model.plan import Plan, StagePlan, Termination
from ipa.model.profile import OperatingPoint
from ipa.optimize.deadline import Deadline
from ipa.optimize.plans import verify
from ipa.optimize.problem import Compat, PlanningProblem, StageProblem
from ipa.optimize.relaxations import Relaxation, relaxations
from ipa.optimize.solve import solve
from tests.fakes.planner_brute import brute_force
from tests.fakes.planner_instances import chained, random_problem

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


@pytest.mark.parametrize("field", ["objective", "pas", "cost_cores", "latency_s", "sla_s"])
def test_a_wrong_figure_is_refused(plan: Plan, field: str) -> None:
    with pytest.raises(SolverError, match=field):
        verify(PROBLEM, replace(plan, **{field: getattr(plan, field) + 1e-5}))
    with pytest.raises(SolverError, match=field):
        verify(PROBLEM, replace(plan, **{field: float("nan")}))


WRONG: dict[str, tuple[Callable[[Plan], Plan], str]] = {
    "half a replica": (lambda plan: with_stage(plan, replicas=1.5), "whole number"),
    "replicas as a float": (lambda plan: with_stage(plan, replicas=2.0), "whole number"),
    "true for replicas": (lambda plan: with_stage(plan, replicas=True), "whole number"),
    "a configuration nobody measured": (lambda plan: with_stage(plan, batch_size=3), "operating points"),
    "too few replicas": (lambda plan: with_stage(plan, replicas=1), "carries"),
    "stages left out": (lambda plan: replace(plan, stages=plan.stages[:1]), "stages"),
    "an objective above its bound": (lambda plan: replace(plan, bound=(plan.objective or 0) - 1e-3), "bound"),
    "half of the requests": (lambda plan: with_stage(plan, share_percent=50), "50 % of the requests"),
    "another gap": (lambda plan: replace(plan, gap=0.5), "gap is"),
    "no plan": (lambda plan: replace(plan, termination=Termination.INFEASIBLE), "infeasible"),
    "no plan, with stages": (
        lambda plan: replace(plan, termination=Termination.INFEASIBLE, objective=None),
        "infeasible",
    ),
    "no plan, with an objective": (
        lambda plan: replace(plan, termination=Termination.INFEASIBLE, stages=()),
        "infeasible",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_plan_that_does_not_hold_together_is_refused(plan: Plan, wrong: str) -> None:
    change, words = WRONG[wrong]
    with pytest.raises(SolverError, match=words):
        verify(PROBLEM, change(plan))


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


def test_every_fault_is_listed(plan: Plan) -> None:
    with pytest.raises(SolverError) as caught:
        verify(PROBLEM, replace(plan, pas=0.1, cost_cores=1.0, latency_s=0.1))
    assert len(caught.value.problems) == 3


SLOWER = OperatingPoint("slow", 0.9, 1, 2.0, 0.2, 5.0)
QUICK = OperatingPoint("fast", 0.6, 1, 1.0, 0.1, 10.0)
TIGHT = PlanningProblem(
    "p",
    20.0,
    1.0,
    chained([StageProblem("first", (SLOWER, QUICK)), StageProblem("second", (SLOWER, QUICK))]),
    Objective(max_replicas=100),
)


def moves_of(problem: PlanningProblem) -> dict[str, Relaxation]:
    return {move.kind: move for move in relaxations(problem, Deadline(60.0))}


def loosened(move: Relaxation, ratio: float) -> PlanningProblem:
    """The relaxed problem with its value moved back by a ratio, to the side that was infeasible."""
    match move.kind:
        case "sla":
            return replace(move.problem, sla_s=move.value * (1 - ratio))
        case "cores":
            return replace(move.problem, bounds=replace(move.problem.bounds, cores=move.value * (1 - ratio)))
        case "accuracy_floor":
            bounds = replace(move.problem.bounds, accuracy_floor=move.value * (1 + ratio))
            return replace(move.problem, bounds=bounds)
        case _:
            return replace(move.problem, rate_rps=move.value * (1 + ratio))


def test_each_limit_that_alone_is_too_tight_is_named_with_the_least_value() -> None:
    assert moves_of(replace(TIGHT, sla_s=0.15))["sla"].value == pytest.approx(0.2)
    scarce = replace(TIGHT, bounds=Bounds(cores=3.0))
    moves = moves_of(scarce)
    assert moves["cores"].value == pytest.approx(4.0)
    # 3 cores hold one stage of two replicas and one of a single one: not both above 10 rps.
    assert moves["rate"].value == pytest.approx(10.0)
    exacting = replace(TIGHT, bounds=Bounds(accuracy_floor=0.95))
    assert moves_of(exacting)["accuracy_floor"].value == pytest.approx(0.81)


def test_a_value_has_four_digits_rounded_to_the_feasible_side() -> None:
    odd = replace(QUICK, latency_s=0.123456, accuracy=0.654321)
    only = replace(TIGHT, stages=chained([StageProblem(name, (odd,)) for name in ("first", "second")]))
    assert moves_of(replace(only, sla_s=0.15))["sla"].value == 0.247
    floor = moves_of(replace(only, bounds=Bounds(accuracy_floor=0.95)))["accuracy_floor"]
    assert floor.value == 0.4281


def test_the_plan_says_it_in_words() -> None:
    plan = solve(replace(TIGHT, bounds=Bounds(cores=3.0)), "exact")
    assert plan.termination is Termination.INFEASIBLE
    assert plan.objective is None and plan.stages == ()
    assert plan.relaxations == ("cores ≥ 4 instead of 3", "rate ≤ 10 rps instead of 20 rps")


def test_where_two_limits_bind_no_single_move_is_promised() -> None:
    plan = solve(replace(TIGHT, sla_s=0.15, bounds=Bounds(accuracy_floor=0.95)), "exact")
    assert plan.relaxations == ()
    assert "no change of a single limit" in plan.note


def test_a_stage_without_options_is_infeasible_at_any_limit() -> None:
    empty = replace(TIGHT, stages=chained([*TIGHT.stages, StageProblem("third", ())]))
    for solver in ("gurobi", "highs", "exact"):
        plan = solve(empty, solver)
        assert plan.termination is Termination.INFEASIBLE
        assert plan.relaxations == ()


def test_time_that_is_up_leaves_moves_out() -> None:
    assert relaxations(replace(TIGHT, sla_s=0.15), Deadline(0.0)) == ()


def infeasible_seeds(count: int) -> list[int]:
    return list(islice((seed for seed in range(1000) if brute_force(small(seed)) is None), count))


def small(seed: int) -> PlanningProblem:
    problem = random_problem(Random(seed), stages=(1, 3), variants=(1, 2), batches=2)
    if seed % 3:
        return problem
    return replace(problem, bounds=replace(problem.bounds, cores=0.5 + seed % 7 * len(problem.stages)))


def test_moves_on_random_problems_are_feasible_and_least() -> None:
    kinds = set()
    for seed in infeasible_seeds(50):
        for move in relaxations(small(seed), Deadline(60.0)):
            kinds.add(move.kind)
            assert brute_force(move.problem) is not None, (seed, move.text)
            assert brute_force(loosened(move, 2e-3)) is None, (seed, move.text)
            assert move.text.split(" ")[0] in ("SLA", "cores", "accuracy", "rate")
    assert kinds == {"sla", "cores", "accuracy_floor", "rate"}


def test_a_limit_without_a_move_is_not_what_stands_in_the_way() -> None:
    for seed in infeasible_seeds(25):
        problem = small(seed)
        kinds = {move.kind for move in relaxations(problem, Deadline(60.0))}
        if "sla" not in kinds:
            assert brute_force(replace(problem, sla_s=1e9)) is None, seed
        if "cores" not in kinds and problem.bounds.cores is not None:
            free = replace(problem.bounds, cores=None)
            assert brute_force(replace(problem, bounds=free)) is None, seed
        if "accuracy_floor" not in kinds and problem.bounds.accuracy_floor is not None:
            free = replace(problem.bounds, accuracy_floor=None)
            assert brute_force(replace(problem, bounds=free)) is None, seed


def test_relaxations_hold_under_the_released_semantics_too() -> None:
    tight = replace(TIGHT, sla_s=0.15, compat=Compat.IPA_ARTIFACT)
    assert moves_of(tight)["sla"].value == pytest.approx(0.2)
