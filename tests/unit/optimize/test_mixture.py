"""Mixtures of configurations: when one is taken, what it says, and what its check refuses."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ipa.model.errors import SolverError, UsageError
from ipa.model.pipeline import Bounds, Goal, Objective
from ipa.model.plan import StageConfig, Termination
from ipa.model.profile import OperatingPoint
from ipa.optimize.mixture.mixtures import MixtureLimits, part_problem
from ipa.optimize.mixture.solve import solve_mixture
from ipa.optimize.mixture.verify import verify_mixture
from ipa.optimize.problem import PlanningProblem, StageProblem

# One core of the fast variant carries 10 rps, one of the good variant 4.
POINTS = (
    OperatingPoint("fast", 0.6, 1, 1.0, latency_s=0.1, capacity_rps=10.0),
    OperatingPoint("good", 0.9, 1, 1.0, latency_s=0.2, capacity_rps=4.0),
)
LIMITS = MixtureLimits()


def problem(rate_rps: float = 10.0, cores: float | None = 2.0, **objective: object) -> PlanningProblem:
    weights = Objective(**{"alpha": 10.0, "beta": 0.1, "delta": 0.0, **objective})  # type: ignore[arg-type]
    return PlanningProblem("p", rate_rps, 1.0, (StageProblem("s", POINTS),), weights, Bounds(cores=cores))


def test_spare_cores_of_a_fast_plan_go_to_a_better_variant_for_a_share() -> None:
    # All on good needs three cores; one core of each carries 40 % on good and the rest on fast.
    mixture = solve_mixture(problem())
    assert mixture.termination is Termination.OPTIMAL
    parts = {part.plan.stages[0].variant: part for part in mixture.parts}
    assert parts["good"].share_percent == 40 and parts["fast"].share_percent == 60
    assert mixture.cost_cores == 2.0
    assert mixture.mean_pas == pytest.approx(0.4 * 0.9 + 0.6 * 0.6)
    assert mixture.single.objective == pytest.approx(6.0 - 0.1)
    assert mixture.objective == pytest.approx(7.2 - 0.2)
    assert mixture.gain == pytest.approx(1.1)
    assert [part.share_percent for part in mixture.parts] == [60, 40]
    assert json.loads(json.dumps(mixture.to_json()))["parts"][0]["share_percent"] == 60


def test_a_single_plan_stays_where_no_mixture_gains_enough() -> None:
    enough = solve_mixture(problem(cores=None))
    assert [part.share_percent for part in enough.parts] == [100]
    assert enough.gain == 0.0
    for limits in (MixtureLimits(min_gain=1.2), MixtureLimits(max_parts=1)):
        assert [part.share_percent for part in solve_mixture(problem(), limits).parts] == [100]
    assert len(solve_mixture(problem(), MixtureLimits(min_gain=1.0)).parts) == 2
    coarse = solve_mixture(problem(), MixtureLimits(step_percent=25))
    assert sorted(part.share_percent for part in coarse.parts) == [25, 75]


def test_a_mixture_may_carry_what_no_single_plan_can() -> None:
    narrow = problem(rate_rps=13.8, max_replicas=1)
    mixture = solve_mixture(narrow)
    assert mixture.single.termination is Termination.INFEASIBLE
    assert mixture.gain is None and len(mixture.parts) == 2
    assert {part.plan.stages[0].variant: part.share_percent for part in mixture.parts} == {
        "fast": 72,
        "good": 28,
    }
    nothing = solve_mixture(problem(rate_rps=30.0))
    assert nothing.termination is Termination.INFEASIBLE
    assert nothing.parts == () and nothing.objective is None


def test_what_is_not_looked_for_is_said() -> None:
    asked = problem(goal=Goal.LEXICOGRAPHIC)
    mixture = solve_mixture(asked)
    assert len(mixture.parts) == 1 and "lexicographic" in mixture.note
    late = solve_mixture(problem(), deadline_s=0.0)
    assert "time ran out" in late.note and late.termination is not Termination.OPTIMAL


def test_the_memory_of_all_parts_together_is_within_the_bound() -> None:
    points = (replace(POINTS[0], memory_gib=1.0), replace(POINTS[1], memory_gib=4.0))
    asked = replace(problem(), stages=(StageProblem("s", points),))
    enough = replace(asked, bounds=Bounds(cores=2.0, memory_gib=5.0))
    mixture = solve_mixture(enough)
    assert [part.share_percent for part in mixture.parts] == [60, 40]
    # Each part fits into 4.5 GiB, both together do not.
    little = replace(asked, bounds=Bounds(cores=2.0, memory_gib=4.5))
    assert [part.share_percent for part in solve_mixture(little).parts] == [100]
    with pytest.raises(SolverError, match="5 GiB of memory are above the bound"):
        verify_mixture(little, LIMITS, mixture)


def test_what_runs_and_what_a_change_costs_is_left_out() -> None:
    running = replace(
        problem(transition_per_core=5.0, max_cost_cores=1.5), running=(StageConfig("s", "fast", 1, 1.0, 1),)
    )
    part = part_problem(running, 30)
    assert (part.rate_rps, part.objective.alpha, part.running) == (3.0, 3.0, ())
    assert part.bounds.cores == 1.5
    assert [each.share_percent for each in solve_mixture(running).parts] == [100]


def test_limits_that_make_no_sense_are_refused() -> None:
    for wrong in ({"max_parts": 4}, {"step_percent": 30}, {"step_percent": 0}, {"min_gain": -1.0}):
        with pytest.raises(UsageError, match=next(iter(wrong))):
            MixtureLimits(**wrong)  # type: ignore[arg-type]


def test_a_mixture_that_does_not_hold_is_refused() -> None:
    asked = problem()
    mixture = solve_mixture(asked)
    verify_mixture(asked, LIMITS, mixture)
    first, second = mixture.parts
    broken = {
        "sum to 100": replace(mixture, parts=(first,)),
        "does not hold": replace(
            mixture, parts=(replace(first, share_percent=61), replace(second, share_percent=39))
        ),
        "objective": replace(mixture, objective=9.0),
        "cost_cores": replace(mixture, cost_cores=1.0),
        "mean_pas": replace(mixture, mean_pas=0.99),
        "gain is": replace(mixture, gain=None),
        "yet there are parts": replace(mixture, termination=Termination.INFEASIBLE),
    }
    for words, wrong in broken.items():
        with pytest.raises(SolverError, match=words):
            verify_mixture(asked, LIMITS, wrong)
    with pytest.raises(SolverError, match="multiples of 25"):
        verify_mixture(asked, MixtureLimits(step_percent=25), mixture)
    with pytest.raises(SolverError, match="not more than 2"):
        verify_mixture(asked, MixtureLimits(min_gain=2.0), mixture)
    with pytest.raises(SolverError, match="above the bound"):
        verify_mixture(replace(asked, bounds=Bounds(cores=1.0)), LIMITS, mixture)
