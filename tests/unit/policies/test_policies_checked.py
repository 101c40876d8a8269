"""The policy that takes a plan only where a simulation confirms it, with verdicts that are made up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest

from ipa.model.errors import DeadlineError, UsageError
from ipa.model.forecast import Forecast
from ipa.model.observation import Measured, Missing, MissingReason, Observation, StageObservation
from ipa.model.pipeline import Pipeline
from ipa.model.plan import Plan, StageConfig, Termination
from ipa.optimize.problem import Compat
from ipa.policies.base import AT_REST, Configs, PolicyState, SimulationVerdict, StartingState
from ipa.policies.checked import CheckedPolicy, CheckedPredictor
from ipa.policies.ours import Ours
from ipa.policies.profiled import Profiled
from ipa.policies.table import PolicyInputs, make_policy
from tests.fakes.world import PIPELINE, PROFILES, SMALLEST

UNSEEN = Missing(MissingReason.NOT_ASKED)
SEEN = Observation("pages", 0.0, UNSEEN, UNSEEN, UNSEEN, ())
STATE = PolicyState(SMALLEST)
PROFILED = Profiled(PIPELINE, PROFILES, compat=Compat.TAIL, solver="exact")
SLA_S = PIPELINE.sla.latency_s


@dataclass
class Said:
    """A checker that says what it was told of each configuration, and remembers what it was asked."""

    quantile_s: Callable[[Configs, float], float | None]
    asked: list[tuple[Configs, float, StartingState]] = field(default_factory=list)
    most_checks: int = 8

    def __call__(
        self, configs: Configs, rate_rps: float, start: StartingState = AT_REST
    ) -> SimulationVerdict | None:
        self.asked.append((configs, rate_rps, start))
        quantile_s = self.quantile_s(configs, rate_rps)
        if quantile_s is None:
            return None
        return SimulationVerdict(quantile_s, SLA_S, 1000, quantile_s < SLA_S, quantile_s > 1.1 * SLA_S)


def predicted_s(configs: Configs, rate_rps: float) -> float:
    seen = PROFILED.predict(configs, rate_rps)
    assert seen is not None
    return seen.latency_s


def checked(says: Said) -> CheckedPolicy:
    return CheckedPolicy(Ours(PIPELINE, PROFILED.plan), PROFILED.shorter, says)


def decide(says: Said, rate_rps: float = 10.0, observation: Observation = SEEN) -> Plan:
    forecast = Forecast(rate_rps, rate_rps, 0.95, 20.0, "given", 1.0)
    return checked(says).decide(observation, forecast, STATE)


def best(rate_rps: float = 10.0) -> Plan:
    return PROFILED.plan(PIPELINE, rate_rps, SMALLEST)


def test_the_best_plan_is_taken_where_it_is_confirmed_with_one_simulation() -> None:
    says = Said(lambda configs, rate_rps: 0.5)
    plan = decide(says)
    assert plan.configs == best().configs and plan.termination is Termination.OPTIMAL and plan.note == ""
    assert [asked[:2] for asked in says.asked] == [(best().configs, 10.0)]


def test_a_plan_that_is_late_by_simulation_is_replaced_by_the_best_that_is_not() -> None:
    """The truth is half as much again as what is predicted."""
    says = Said(lambda configs, rate_rps: 1.5 * predicted_s(configs, rate_rps))
    plan = decide(says)
    first = best()
    assert plan.configs != first.configs and plan.termination is Termination.FEASIBLE
    assert 1.5 * predicted_s(plan.configs, 10.0) < SLA_S
    assert plan.sla_s == SLA_S and plan.rate_rps == 10.0
    assert first.objective is not None and plan.objective is not None and plan.objective < first.objective
    assert plan.bound == first.objective and plan.gap is not None and plan.gap > 0
    assert "by simulation" in plan.note and plan.note.startswith("the best plan takes")
    # All others that were tried are late or worse.
    for configs, rate_rps, _ in says.asked:
        seen = PROFILED.predict(configs, rate_rps)
        assert seen is not None
        assert 1.5 * seen.latency_s >= SLA_S or seen.objective <= plan.objective + 1e-9


def test_no_plan_is_simulated_twice_and_no_more_than_there_is_time_for() -> None:
    says = Said(lambda configs, rate_rps: 9.0)
    decide(says)
    seen = [configs for configs, _, _ in says.asked]
    assert 2 < len(seen) == len(set(seen)) <= says.most_checks


def test_between_a_late_plan_and_one_in_time_the_middle_is_tried() -> None:
    """What is said of the first is so late that the second is shorter by far than is needed."""
    first = best()

    def said(configs: Configs, rate_rps: float) -> float:
        return 1.9 * SLA_S if configs == first.configs else predicted_s(configs, rate_rps) / 0.9

    says = Said(said)
    plan = decide(says)
    in_time = [configs for configs, rate_rps, _ in says.asked if said(configs, rate_rps) < SLA_S]
    assert len(in_time) > 1 and plan.configs != in_time[0]
    objectives = [seen.objective for it in in_time if (seen := PROFILED.predict(it, 10.0)) is not None]
    assert plan.objective == pytest.approx(max(objectives))
    assert plan.objective > objectives[0]


def test_where_none_is_confirmed_the_nearest_is_taken_and_says_so() -> None:
    says = Said(lambda configs, rate_rps: 2.0 + predicted_s(configs, rate_rps))
    plan = decide(says)
    nearest = min((configs for configs, _, _ in says.asked), key=lambda it: predicted_s(it, 10.0))
    assert plan.configs == nearest
    assert plan.note.startswith(f"none of {len(says.asked)} plans meets the SLA of {SLA_S:g} s for sure")
    seen = PROFILED.predict(plan.configs, 10.0)
    assert seen is not None and seen.carries


def test_where_the_best_is_the_nearest_it_is_taken_with_the_note() -> None:
    first = best()
    says = Said(lambda configs, rate_rps: 1.0 if configs == first.configs else 5.0)
    plan = decide(says)
    assert plan.configs == first.configs and plan.note.startswith("none of")


def test_what_the_simulation_does_not_know_is_taken_as_planned() -> None:
    says = Said(lambda configs, rate_rps: None)
    assert decide(says).configs == best().configs


def test_an_overload_is_checked_at_the_rate_that_is_carried() -> None:
    says = Said(lambda configs, rate_rps: 1.5 * predicted_s(configs, rate_rps))
    plan = decide(says, 5_000.0)
    assert plan.rate_rps < 5_000.0 and plan.note.startswith("a load of 5e+03 rps exceeds every plan")
    assert {rate_rps for _, rate_rps, _ in says.asked} == {plan.rate_rps}


def test_the_simulation_is_told_what_runs_and_what_waits() -> None:
    stages = tuple(
        StageObservation(name, UNSEEN, UNSEEN, UNSEEN, UNSEEN, length)
        for name, length in (("detect", Measured(40.0, 1.0)), ("read", Missing(MissingReason.ABSENT)))
    )
    says = Said(lambda configs, rate_rps: 0.5)
    decide(says, observation=replace(SEEN, stages=stages))
    assert says.asked[0][2] == StartingState(SMALLEST, (("detect", 40.0),))


def test_a_solver_that_fails_on_a_shorter_sla_leaves_what_is_known() -> None:
    def slow(pipeline: Pipeline, rate_rps: float, running: Configs, sla_ratio: float) -> Plan:
        raise DeadlineError("the time was too short")

    says = Said(lambda configs, rate_rps: 1.0)
    policy = CheckedPolicy(Ours(PIPELINE, PROFILED.plan), slow, says)
    plan = policy.decide(SEEN, Forecast(10.0, 10.0, 0.95, 20.0, "given", 1.0), STATE)
    assert plan.configs == best().configs and plan.note.startswith("none of 1 plans")


def test_what_runs_is_judged_as_plans_are() -> None:
    predict = CheckedPredictor(PROFILED.predict, Said(lambda configs, rate_rps: 3.0))
    seen = predict(best().configs, 10.0)
    assert seen is not None and seen.latency_s == 3.0 and seen.carries and not seen.feasible
    # What is late by prediction stays so.
    short = CheckedPredictor(PROFILED.predict, Said(lambda configs, rate_rps: 0.01))(best().configs, 10.0)
    assert short is not None and short.latency_s == predicted_s(best().configs, 10.0)
    # Nothing is simulated of what does not even carry the load, or was not measured.
    none = Said(lambda configs, rate_rps: 3.0)
    lacking = CheckedPredictor(PROFILED.predict, none)(SMALLEST, 500.0)
    assert lacking is not None and not lacking.carries
    assert CheckedPredictor(PROFILED.predict, none)((StageConfig("detect", "x", 1, 1.0, 1),), 1.0) is None
    assert none.asked == []


def test_without_a_simulation_the_policy_is_refused() -> None:
    with pytest.raises(UsageError, match="simulation"):
        make_policy("ours-checked", PolicyInputs(PIPELINE, PROFILES))
    says = Said(lambda configs, rate_rps: 0.5)
    made = PolicyInputs(PIPELINE, PROFILES, solver="exact", checker=says)
    assert make_policy("ours-checked", made).name == "ours-checked"
    assert isinstance(made.predictor(), CheckedPredictor)
