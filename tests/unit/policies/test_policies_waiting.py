"""Plans that let requests wait while a peak lasts; the fewest cores at the accuracy that IPA would have."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipa.model.errors import SolverError
from ipa.model.observation import Forecast, Missing, MissingReason, Observation
from ipa.model.pipeline import Pipeline, Sla
from ipa.model.plan import Plan, Termination
from ipa.model.rolling import DEPLOYMENT
from ipa.policies import ours
from ipa.policies.base import Configs, PolicyState
from ipa.policies.ours import WAIT_RATIO, Frugal, waiting_plan
from ipa.policies.profiled import PlannerInputs, Profiled
from ipa.policies.table import PolicyInputs, make_policy
from tests.fakes.world import PIPELINE, PROFILES, SMALLEST

UNSEEN = Missing(MissingReason.NOT_ASKED)
SEEN = Observation("pages", 0.0, UNSEEN, UNSEEN, UNSEEN, ())
STATE = PolicyState(SMALLEST)
# An SLA that leaves time to wait.
LONG = replace(PIPELINE, sla=Sla(6.0), bounds=replace(PIPELINE.bounds, cores=None, max_replicas=50))
PROFILED = Profiled(PlannerInputs(LONG, PROFILES, solver="exact"))


def forecast(point_rps: float, upper_rps: float, peak_s: float = 5.0) -> Forecast:
    return Forecast(point_rps, upper_rps, 0.95, 20.0, "given", 1.0, peak_s=peak_s)


def waited(expected: Forecast) -> Plan | None:
    return waiting_plan(PROFILED.probe, LONG, expected, SMALLEST, LONG.sla.latency_s)


@given(st.floats(0.5, 40.0), st.floats(1.0, 4.0), st.floats(1.0, 10.0))
@settings(max_examples=30, deadline=None, derandomize=True, database=None)
def test_the_queue_that_a_peak_leaves_is_served_within_the_wait(
    point_rps: float, times: float, peak_s: float
) -> None:
    expected = forecast(point_rps, times * point_rps, peak_s)
    plan = waited(expected)
    if plan is None:
        assert times == 1.0
        return
    wait_s = WAIT_RATIO * LONG.sla.latency_s
    left = (expected.upper_rps - plan.rate_rps) * peak_s
    assert left <= plan.rate_rps * wait_s * (1 + 1e-9)
    assert point_rps <= plan.rate_rps <= plan.carried_rps == expected.upper_rps
    assert plan.latency_s is not None and plan.latency_s <= (1 - WAIT_RATIO) * LONG.sla.latency_s
    assert plan.sla_s == LONG.sla.latency_s


def test_where_there_is_time_to_wait_a_peak_takes_fewer_cores() -> None:
    frugal = make_policy("ours-frugal", PolicyInputs(LONG, PROFILES, solver="exact"))
    plan = frugal.decide(SEEN, forecast(10.0, 16.0), STATE)
    at_peak = frugal.decide(SEEN, forecast(16.0, 16.0), STATE)
    assert plan.cost_cores is not None and at_peak.cost_cores is not None
    assert plan.cost_cores < at_peak.cost_cores
    # 5 s at 16 rps leave 5 · (16 − 80 / 6.5) requests, which take 1.5 s at 80 / 6.5 rps.
    assert (plan.rate_rps, plan.peak_rps) == (pytest.approx(80 / 6.5), 16.0)
    assert "may wait up to 1.5 s longer" in plan.note


def test_where_there_is_none_the_peak_is_carried() -> None:
    tight = replace(PIPELINE, sla=Sla(0.25))
    frugal = make_policy("ours-frugal", PolicyInputs(tight, PROFILES, solver="exact"))
    plan = frugal.decide(SEEN, forecast(4.0, 5.0), STATE)
    assert plan.rate_rps == plan.carried_rps == 5.0 and plan.peak_rps is None


def test_a_forecast_without_spread_leaves_nothing_to_wait_for() -> None:
    assert waited(forecast(10.0, 10.0)) is None


def test_a_solver_that_fails_the_second_time_does_not_cost_the_first_plan() -> None:
    def failing(pipeline: Pipeline, rate_rps: float, running: Configs = (), sla_ratio: float = 1.0) -> Plan:
        raise SolverError("out of order")

    frugal = make_policy("ours-frugal", PolicyInputs(LONG, PROFILES, solver="exact"))
    assert isinstance(frugal, Frugal)
    plan = replace(frugal, shorter=failing).decide(SEEN, forecast(10.0, 16.0), STATE)
    assert plan.configs == frugal.decide(SEEN, forecast(16.0, 16.0), STATE).configs


@pytest.mark.parametrize("rate_rps", [1.0, 6.0, 20.0, 45.0])
def test_frugal_is_as_accurate_as_ipa_with_the_fewest_cores(rate_rps: float) -> None:
    inputs = PolicyInputs(LONG, PROFILES, solver="exact")
    expected = forecast(rate_rps, rate_rps)
    made = make_policy("ours-frugal", inputs).decide(SEEN, expected, PolicyState(()))
    ipa = make_policy("ipa", inputs).decide(SEEN, expected, PolicyState(()))
    assert ipa.pas is not None and made.pas is not None and made.cost_cores is not None
    assert made.pas >= ipa.pas - 1e-9
    floor = replace(LONG, bounds=replace(LONG.bounds, accuracy_floor=ipa.pas - 1e-9))
    # No plan at that accuracy has fewer cores: a core less is infeasible.
    less = replace(floor, bounds=replace(floor.bounds, cores=made.cost_cores - 0.5))
    assert PROFILED.plan(less, rate_rps).termination is Termination.INFEASIBLE


def test_frugal_decides_as_ours_where_ipa_has_no_plan() -> None:
    inputs = PolicyInputs(LONG, PROFILES, solver="exact")
    policy = make_policy("ours-frugal", inputs)
    assert isinstance(policy, Frugal)

    def without_plan(pipeline: Pipeline, rate_rps: float, running: Configs = ()) -> Plan:
        return replace(PROFILED.plan(pipeline, rate_rps), stages=(), pas=None)

    plan = replace(policy, published=without_plan).decide(SEEN, forecast(6.0, 9.0), STATE)
    assert plan.configs == make_policy("ours", inputs).decide(SEEN, forecast(6.0, 9.0), STATE).configs
    assert policy.at_once(SMALLEST)


def test_what_starts_has_a_price(monkeypatch: pytest.MonkeyPatch) -> None:
    def replacements() -> int:
        """The number of times that other pods are taken where the load moves a little."""
        # Where another batch size takes other pods.
        inputs = PolicyInputs(LONG, PROFILES, solver="exact", rolling=DEPLOYMENT)
        policy = make_policy("ours-frugal", inputs)
        changes = 0
        for rate_rps in range(4, 60, 2):
            runs = policy.decide(SEEN, forecast(rate_rps, rate_rps), PolicyState(())).configs
            after = policy.decide(SEEN, forecast(rate_rps - 1, rate_rps - 1), PolicyState(runs)).configs
            changes += [replace(each, replicas=0) for each in runs] != [
                replace(each, replicas=0) for each in after
            ]
        return changes

    priced = replacements()
    monkeypatch.setattr(ours, "STARTING_RATIO", 0.0)
    assert priced < replacements()
