"""Bounds on memory, accelerators and accuracy hold whoever asks for a configuration."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from ipa.control.canonical import canonical_json, digest_of, plain, restored
from ipa.control.engine.guards import bound_faults, limit_steps
from ipa.control.engine.state import ChangeRequest
from ipa.control.engine.transition import safe_step
from ipa.model.decision import Action, ReasonCode
from ipa.model.errors import InputError
from ipa.model.measured import with_profiles
from ipa.model.observation import Forecast, Observation
from ipa.model.pipeline import Bounds, Pin, Pipeline
from ipa.model.plan import Plan, StageConfig
from ipa.model.resources import Resources
from ipa.model.rolling import SIDE_BY_SIDE
from ipa.optimize.problem import Compat
from ipa.policies.base import PolicyState, constrained
from ipa.policies.ours import Ours
from ipa.policies.profiled import PlannerInputs, Profiled
from ipa.service.checks import checked_configs, pin_problems
from tests.fakes.world import PIPELINE, PROFILES, SMALLEST, Scenario, planner, scenario

GPU = "nvidia.com/gpu"
# Big variants hold 9.5 GiB and an accelerator each, small ones 1 GiB.
HELD = {"small": Resources(memory_gib=1.0), "big": Resources(memory_gib=9.5, accelerators={GPU: 1})}
PROFILED = {
    stage: replace(
        profile,
        variants=tuple(
            replace(
                each,
                memory_gib=HELD[each.variant].memory_gib,
                accelerators=HELD[each.variant].accelerators,
            )
            for each in profile.variants
        ),
    )
    for stage, profile in PROFILES.items()
}
# 38 GiB and 4 accelerators.
LARGE = (StageConfig("detect", "big", 1, 1.0, 2), StageConfig("read", "big", 1, 1.0, 2))


def bounded(**limits: object) -> Pipeline:
    bounds = replace(PIPELINE.bounds, **limits)  # type: ignore[arg-type]
    return with_profiles(replace(PIPELINE, bounds=bounds), PROFILED)


@dataclass(frozen=True)
class Careless:
    """A policy that knows no bounds."""

    name: str = "careless"

    def decide(self, observation: Observation, forecast: Forecast, state: PolicyState) -> Plan:
        """The best plan of the pipeline without its bounds."""
        free = replace(PIPELINE, bounds=Bounds(batch_sizes=(1, 2, 4, 8)))
        return planner(free, forecast.upper_rps)


def loop(pipeline: Pipeline, **made: object) -> Scenario:
    return scenario(pipeline=pipeline, **made)  # type: ignore[arg-type]


LIMITS = [
    ({"memory_gib": 16.0}, "38 GiB of memory exceed the budget of 16"),
    ({"accelerators": {GPU: 3}}, f"4 {GPU} exceed the budget of 3"),
    ({"accuracy_floor": 0.9}, "accuracy 0.855 is below the floor of 0.9"),
]


@pytest.mark.parametrize(("limits", "fault"), LIMITS)
def test_a_requested_configuration_above_a_bound_is_refused(limits: dict[str, object], fault: str) -> None:
    world = loop(bounded(**limits))
    decision = world.loop.tick_once(ChangeRequest(LARGE, "rollback by kim", by="kim"))
    assert decision.action is Action.HOLD and decision.reason is ReasonCode.INFEASIBLE
    assert fault in decision.detail
    assert world.workload.desired == SMALLEST


@pytest.mark.parametrize(
    "limits", [{"memory_gib": 12.0}, {"accelerators": {GPU: 0}}, {"accuracy_floor": 0.95}], ids=str
)
def test_a_policy_that_ignores_a_bound_is_held(limits: dict[str, object]) -> None:
    world = loop(bounded(cores=None, **limits), policy=Careless(), rate_rps=8.0)
    decisions = world.ticks(8)
    assert {each.action for each in decisions} == {Action.HOLD}
    assert "exceed the budget" in decisions[-1].detail or "below the floor" in decisions[-1].detail
    free = loop(bounded(cores=None), policy=Careless(), rate_rps=8.0).ticks(8)
    assert Action.APPLY in {each.action for each in free}


def test_our_policy_plans_within_them() -> None:
    pipeline = bounded(memory_gib=16.0, accelerators={GPU: 1})
    known = Profiled(PlannerInputs(pipeline, PROFILED, solver="exact"), compat=Compat.PAPER)
    world = loop(pipeline, policy=Ours(pipeline, known.plan), rate_rps=6.0)
    for decision in world.ticks(30):
        held = pipeline.bounds.held(decision.configs)
        assert held.memory_gib <= 16.0 and held.amount(GPU) <= 1
    # It goes as far as it may.
    assert pipeline.bounds.held(world.workload.desired).amount(GPU) == 1


def test_a_step_never_holds_more_of_anything_than_a_change_may() -> None:
    bounds = bounded(cores=None, memory_gib=20.0, accelerators={GPU: 1}).bounds
    wanted = (replace(SMALLEST[0], variant="big"), replace(SMALLEST[1], variant="big"))
    step = safe_step(SMALLEST, wanted, SIDE_BY_SIDE, bounds)
    # One big variant has room beside what runs, the second would need another accelerator.
    assert [config.variant for config in step.configs] == ["big", "small"]
    stuck = safe_step(step.configs, wanted, SIDE_BY_SIDE, bounds)
    assert stuck.configs == step.configs and stuck.lacking.accelerators == {GPU: 1}


def test_what_runs_above_a_bound_that_shrank_may_stay_but_not_be_planned() -> None:
    pipeline = bounded(memory_gib=16.0)
    assert bound_faults(pipeline, LARGE) == ["38 GiB of memory exceed the budget of 16"]
    fewer = tuple(replace(config, replicas=1) for config in LARGE)
    # Slower removal would stay above the bound.
    limits = bounded(memory_gib=19.0).bounds
    assert limit_steps(fewer, LARGE, limits, max_step=1) == fewer
    problem = Profiled(PlannerInputs(pipeline, PROFILED, solver="exact"), compat=Compat.PAPER)
    plan = problem.plan(constrained(pipeline, PolicyState(LARGE)), 2.0, LARGE)
    assert plan.configs and plan.resources.memory_gib <= 16.0


@pytest.mark.parametrize(("limits", "fault"), LIMITS)
def test_a_configuration_given_to_the_service_is_refused_with_its_fault(
    limits: dict[str, object], fault: str
) -> None:
    with pytest.raises(InputError) as raised:
        checked_configs(bounded(**limits), LARGE)
    assert [problem.message for problem in raised.value.problems] == [fault]


def test_a_pin_of_more_than_there_is_is_refused() -> None:
    pipeline = bounded(memory_gib=16.0, accelerators={GPU: 1})
    problems = pin_problems(pipeline, "detect", Pin(variant="big", replicas=2))
    assert [(each.message, each.pointer) for each in problems] == [
        ("19 GiB of memory exceed the budget of 16", "/variant"),
        (f"2 {GPU} exceed the budget of 1", "/variant"),
    ]
    assert pin_problems(pipeline, "detect", Pin(variant="big", replicas=1)) == []


def test_digests_and_records_of_pipelines_without_them_are_as_before() -> None:
    # Of the pipeline as it was before it knew other resources than cores.
    assert "accelerators" not in canonical_json(PIPELINE) and "prices" not in canonical_json(PIPELINE)
    assert digest_of(bounded()) == digest_of(replace(PIPELINE))
    assert canonical_json(bounded(accelerators={GPU: 1})).count("accelerators") == 1


def test_a_plan_with_accelerators_is_restored_from_a_record() -> None:
    pipeline = bounded()
    known = Profiled(PlannerInputs(pipeline, PROFILED, solver="exact"), compat=Compat.PAPER)
    plan = known.plan(pipeline, 2.0)
    assert plan.resources.amount(GPU) > 0
    assert restored(Plan, plain(plan)) == plan
