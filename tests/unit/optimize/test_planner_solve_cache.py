"""A problem is solved once and its stages are fitted once: again after another question, limit or profile."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ipa.model.plan import Plan, Termination
from ipa.model.profile import OperatingPoint, StageProfile
from ipa.optimize import solve as solving
from ipa.optimize.problem import Compat, PlanningProblem
from ipa.optimize.solve import SolveCache, solve
from ipa.policies.planning import planning_problem
from ipa.policies.profiled import PlannerInputs, Profiled
from ipa.profiling.points import Allocation
from tests.fakes.policy_contract import with_points
from tests.fakes.world import PIPELINE, PROFILES, SMALLEST


@pytest.fixture
def solved(monkeypatch: pytest.MonkeyPatch) -> list[PlanningProblem]:
    """The problems that came to the solver."""
    problems: list[PlanningProblem] = []

    def counted(problem: PlanningProblem, *args: Any, **options: Any) -> Plan:
        problems.append(problem)
        return solve(problem, *args, **options)

    monkeypatch.setattr(solving, "solve", counted)
    return problems


def test_an_equal_problem_has_the_plan_that_was_made(solved: list[PlanningProblem]) -> None:
    plans = SolveCache(4)
    first = plans.solve(planning_problem(PIPELINE, PROFILES, 5.0), "exact")
    assert plans.solve(planning_problem(PIPELINE, PROFILES, 5.0), "exact") is first
    twin = planning_problem(replace(PIPELINE, name="twin"), PROFILES, 5.0)
    assert SolveCache(4, beyond=plans).solve(twin, "exact") == replace(first, pipeline="twin")
    assert len(solved) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"rate_rps": 6.0},
        {"sla_s": 0.5},
        {"percentile": 95.0},
        {"running": SMALLEST},
        {"bounds": replace(PIPELINE.bounds, cores=6.0)},
        {"objective": replace(PIPELINE.objective(None), beta=0.5)},
    ],
    ids=str,
)
def test_any_other_problem_is_solved(solved: list[PlanningProblem], other: dict[str, Any]) -> None:
    plans, problem = SolveCache(4), planning_problem(PIPELINE, PROFILES, 5.0)
    plans.solve(problem, "exact")
    changed = replace(problem, **other)
    assert replace(plans.solve(changed, "exact"), solve_s=0.0) == replace(
        solve(changed, "exact"), solve_s=0.0
    )
    assert len(solved) == 2


def test_another_solver_or_an_explanation_is_asked_for_itself(solved: list[PlanningProblem]) -> None:
    plans, problem = SolveCache(4), planning_problem(PIPELINE, PROFILES, 5.0)
    for options in ({}, {"explain": False}, {"solver": "highs"}):
        plans.solve(problem, **{"solver": "exact"} | options)
    assert len(solved) == 3


@pytest.mark.parametrize(
    "ended", [{"termination": Termination.FEASIBLE}, {"solve_s": 0.6}], ids=["not proven", "late"]
)
def test_what_more_time_could_make_better_is_not_kept(
    monkeypatch: pytest.MonkeyPatch, ended: dict[str, Any]
) -> None:
    problem = planning_problem(PIPELINE, PROFILES, 5.0)
    made = [replace(solve(problem, "exact"), **ended)] * 2
    monkeypatch.setattr(solving, "solve", lambda *_, **__: made.pop())
    plans = SolveCache(4)
    for _ in range(2):
        plans.solve(problem, "exact", 1.0)
    assert made == []


def test_only_the_newest_are_kept(solved: list[PlanningProblem]) -> None:
    plans = SolveCache(2)
    for rate_rps in (5.0, 6.0, 7.0, 5.0):
        plans.solve(planning_problem(PIPELINE, PROFILES, rate_rps), "exact")
    assert len(solved) == 4


def test_a_load_that_stands_still_is_planned_for_once(solved: list[PlanningProblem]) -> None:
    known = Profiled(PlannerInputs(PIPELINE, PROFILES, solver="exact"))
    plans = [known.plan(PIPELINE, 5.0, SMALLEST) for _ in range(3)]
    assert plans[0] is plans[2] and len(solved) == 1
    held = replace(PIPELINE, bounds=replace(PIPELINE.bounds, max_replicas=2))
    known.plan(held, 5.0, SMALLEST)
    assert len(solved) == 2
    assert known.predict(SMALLEST, 5.0) == Profiled(PlannerInputs(PIPELINE, PROFILES)).predict(SMALLEST, 5.0)


def test_what_ifs_that_differ_in_rate_or_sla_share_their_stages() -> None:
    first = planning_problem(PIPELINE, PROFILES, 5.0)
    objective = replace(PIPELINE.objective(None), sla_s=0.5)
    tighter = replace(PIPELINE, objectives={**PIPELINE.objectives, objective.name: objective})
    again = planning_problem(tighter, PROFILES, 9.0)
    assert (again.rate_rps, again.sla_s) == (9.0, 0.5)
    assert [one is other for one, other in zip(first.stages, again.stages, strict=True)] == [True, True]


def slower(profile: StageProfile) -> StageProfile:
    return with_points(profile, lambda point: replace(point, latency_s=2 * point.latency_s))


def test_what_a_stage_is_fitted_from_is_looked_at_anew_each_time() -> None:
    def points(**options: object) -> list[tuple[OperatingPoint, ...]]:
        made = planning_problem(PIPELINE, PROFILES, 5.0, **options)  # type: ignore[arg-type]
        return [stage.points for stage in made.stages]

    before = points()
    measured_anew = {name: slower(profile) for name, profile in PROFILES.items()}
    slow = planning_problem(PIPELINE, measured_anew, 5.0)
    assert slow.stages[0].points[0].latency_s == pytest.approx(2 * before[0][0].latency_s)
    narrow = replace(PIPELINE, bounds=replace(PIPELINE.bounds, batch_sizes=(2,)))
    sizes = {point.batch_size for point in planning_problem(narrow, PROFILES, 5.0).stages[0].points}
    assert sizes == {2}
    assert points(allocation=Allocation.BASE) != before
    assert points(compat=Compat.IPA_ARTIFACT) != before
    assert points() == before
