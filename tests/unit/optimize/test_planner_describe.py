"""The figures of a given configuration, also where it cannot carry its load."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ipa.model.pipeline import MeasuredVariant, Objective
from ipa.model.plan import StageConfig
from ipa.model.profile import OperatingPoint
from ipa.model.resources import Prices, Resources
from ipa.optimize.describe import ENDLESS_S, describe
from ipa.optimize.problem import Compat, PlanningProblem, StageProblem
from ipa.optimize.solve import solve
from tests.fakes.world import PIPELINE, SMALLEST

POINT = OperatingPoint("v", 0.9, 1, 1.0, 0.1, 10.0, 0.1)
PROBLEM = PlanningProblem("p", 5.0, 2.0, (StageProblem("s", (POINT,), batch_timeout_s=0.1),), Objective())
TAIL = replace(PROBLEM, compat=Compat.TAIL)


@pytest.mark.parametrize("problem", [PROBLEM, TAIL])
def test_a_plan_described_is_the_plan(problem: PlanningProblem) -> None:
    plan = solve(problem, "exact")
    given = describe(problem, plan.configs)
    assert given is not None
    assert given.latency_s == pytest.approx(plan.latency_s)
    assert given.objective == pytest.approx(plan.objective)
    assert given.solve_s == 0.0


def test_a_load_that_cannot_be_carried_waits_without_end_and_is_still_json() -> None:
    given = describe(replace(TAIL, rate_rps=50.0), [StageConfig("s", "v", 1, 1.0, 1)])
    assert given is not None and given.latency_s is not None
    assert given.latency_s >= ENDLESS_S
    assert given.stages[0].utilisation_ratio == pytest.approx(5.0)
    json.dumps(given.to_json(), allow_nan=False)


def test_accuracies_of_parts_are_weighed_by_their_shares() -> None:
    stage = replace(PROBLEM.stages[0], points=(POINT, replace(POINT, variant="w", accuracy=0.5)))
    given = describe(
        replace(PROBLEM, stages=(stage,)),
        [StageConfig("s", "v", 1, 1.0, 1, 60), StageConfig("s", "w", 1, 1.0, 1, 40)],
    )
    assert given is not None and given.pas == pytest.approx(0.74)
    assert given.objective == pytest.approx(0.74 - 0.1 * 2 - 1e-6 * 2)
    # Each part has its share of 5 rps, and a replica carries 10.
    assert [each.utilisation_ratio for each in given.stages] == pytest.approx([0.3, 0.2])


def test_a_configuration_has_a_price_where_its_resources_are_measured_and_priced() -> None:
    prices = Prices({"cores": 0.5, "memory": 0.1}, is_money=True)
    priced = replace(PIPELINE, prices=prices)
    held = MeasuredVariant(0.9, Resources(memory_gib=2.0))
    measured = {(config.stage, config.variant): held for config in SMALLEST}
    known = replace(PIPELINE.bounds, measured=measured)
    assert replace(priced, bounds=known).usd_per_hour(SMALLEST) == pytest.approx(2 * (0.5 + 0.1 * 2.0))
    assert priced.usd_per_hour(SMALLEST) is None
    assert replace(PIPELINE, bounds=known).usd_per_hour(SMALLEST) is None


@pytest.mark.parametrize("unknown", ["objective", "pas", "cost_cores", "latency_s"])
def test_a_plan_without_one_of_its_figures_has_no_summary(unknown: str) -> None:
    plan = solve(PROBLEM, "exact")
    assert plan.summary is not None and plan.summary.configs == plan.configs
    assert replace(plan, **{unknown: None}).summary is None


def test_what_was_not_measured_is_not_described() -> None:
    assert describe(TAIL, [StageConfig("s", "v", 2, 1.0, 1)]) is None
    assert describe(TAIL, [StageConfig("other", "v", 1, 1.0, 1)]) is None
