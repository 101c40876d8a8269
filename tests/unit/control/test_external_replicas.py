"""Stages whose replicas another controller decides: planned for as they are, and told what would be best."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from ipa.adapters.metrics.catalogue import Catalogue
from ipa.adapters.metrics.publish import Publisher
from ipa.control.canonical import canonical_json
from ipa.control.engine.decision_inputs import inputs_of, read_inputs
from ipa.control.engine.guards import bound_faults
from ipa.control.engine.rules import judge
from ipa.control.engine.state import ChangeRequest, EngineState
from ipa.control.engine.tick import on_tick
from ipa.control.engine.transition import make_room
from ipa.control.ports import Signals
from ipa.metering.make import new_registry
from ipa.model.decision import Action, Decision, Mode, ReasonCode
from ipa.model.errors import InputError
from ipa.model.observation import Measured, Missing, MissingReason
from ipa.model.pipeline import Bounds, Pin, Pipeline, ReplicaOwner
from ipa.model.plan import StageConfig
from ipa.model.rolling import DEPLOYMENT, SIDE_BY_SIDE, Rolling
from ipa.optimize.problem import Compat
from ipa.policies.ours import Ours
from ipa.policies.profiled import Profiled
from ipa.service.checks import checked_configs, pin_problems
from tests.fakes.world import PIPELINE, PROFILES, SMALLEST, Scenario, made_loop, scenario

EXTERNAL = replace(
    PIPELINE, stages=(replace(PIPELINE.stages[0], replicas=ReplicaOwner.EXTERNAL), PIPELINE.stages[1])
)
LABELS = {"pipeline": "pages", "stage": "detect"}
ROOMY = replace(EXTERNAL, bounds=replace(EXTERNAL.bounds, cores=30.0))


def external(rate_rps: Callable[[float], float] | float = 5.0, **made: object) -> Scenario:
    """A loop over the pipeline whose detect is scaled by another controller."""
    pipeline = made.pop("pipeline", EXTERNAL)
    assert isinstance(pipeline, Pipeline)
    return scenario(rate_rps, pipeline=pipeline, policy=policy(pipeline), **made)  # type: ignore[arg-type]


def policy(pipeline: Pipeline) -> Ours:
    return Ours(pipeline, Profiled(pipeline, PROFILES, compat=Compat.PAPER, solver="exact").plan)


def scaled(made: Scenario, follows: Callable[[int], int], count: int) -> list[Decision]:
    """So many ticks; after each the other controller sets what it makes of the number it is told."""
    decisions = []
    for _ in range(count):
        decisions += made.ticks(1)
        told = made.loop.snapshot().desired["detect"]
        if follows(told) != made.workload.desired[0].replicas:
            made.workload.by_another_hand("detect", replicas=follows(told))
    return decisions


def steps(t_s: float) -> float:
    return 5.0 if t_s < 100 else 25.0 if t_s < 400 else 5.0


def test_no_change_is_one_of_replicas_that_are_another_controllers() -> None:
    made = external(steps)
    made.ticks(160)
    changes = made.workload.accepted
    assert {config.variant for change in changes for config in change.configs[:1]} == {"small", "big"}
    assert {change.configs[0].replicas for change in changes} == {1}
    assert {change.configs[1].replicas for change in changes} > {1}


def test_it_asks_for_the_best_plan_and_reaches_it_once_it_is_scaled_so() -> None:
    free, made = scenario(25.0), external(25.0)
    free.ticks(40)
    decisions = scaled(made, lambda told: told, 40)
    assert made.workload.desired == free.workload.desired
    assert made.loop.snapshot().desired == {"detect": free.workload.desired[0].replicas}
    assert not {ReasonCode.DRIFT, ReasonCode.ROLLBACK} & {each.reason for each in decisions}
    assert "detect would be best" not in decisions[-1].detail


def test_what_it_would_run_is_said_while_another_number_runs() -> None:
    made = external(25.0)
    decision = made.ticks(20)[-1]
    count = made.loop.snapshot().desired["detect"]
    assert count > 1
    said = f"{count} replicas of detect would be best, but its own controller runs 1"
    assert said in decision.detail


def test_scaling_while_a_change_rolls_out_is_neither_drift_nor_a_failure() -> None:
    made = external(25.0, readiness_s=12.0)
    changed = made.ticks(1)[0]
    assert changed.action is Action.APPLY
    made.workload.by_another_hand("detect", replicas=3)
    decisions = made.ticks(20)
    assert not {ReasonCode.DRIFT, ReasonCode.ROLLBACK} & {each.reason for each in decisions}
    assert made.workload.desired[0].replicas == 3


def test_a_change_is_followed_over_a_restart_though_it_was_scaled_meanwhile() -> None:
    made = external(25.0, readiness_s=1e9)
    made.ticks(1)
    before = made.workload.accepted[0].previous
    made.workload.by_another_hand("detect", replicas=3)
    made.workload.ready_at_s = 1e9
    made = replace(made, loop=made_loop(made, policy(EXTERNAL), "again", EXTERNAL))
    decisions = made.ticks(8)
    assert ReasonCode.ROLLBACK in {each.reason for each in decisions}
    back = next(change for change in made.workload.accepted if change.is_rollback)
    assert back.configs == (replace(before[0], replicas=3), *before[1:])


def test_a_step_by_hand_of_anything_else_is_still_drift() -> None:
    made = external(5.0)
    made.ticks(6)
    made.workload.by_another_hand("detect", replicas=3, variant="small", batch_size=8)
    assert made.ticks(1)[0].reason is ReasonCode.DRIFT


def test_it_stays_while_no_plan_can_be_made() -> None:
    made = external(25.0)
    made.ticks(10)
    before = made.loop.snapshot().desired
    assert before["detect"] > 1
    lost = Missing(MissingReason.UNREACHABLE, "down")
    made.metrics.fault = lambda t_s, seen: replace(seen, arrival_rate_rps=lost, load=lost)
    assert made.ticks(10)[-1].reason is ReasonCode.METRICS_MISSING
    assert made.loop.snapshot().desired == before
    made.metrics.fault = None
    made.metrics.rate_rps = lambda t_s: 0.5
    made.say(paused=True)
    assert made.ticks(5)[-1].reason is ReasonCode.PAUSED
    assert made.loop.snapshot().desired == before


def test_before_a_plan_it_is_what_runs() -> None:
    lost = Missing(MissingReason.UNREACHABLE, "down")

    def blind(t_s: float, seen: Signals) -> Signals:
        return replace(seen, arrival_rate_rps=lost, load=lost)

    made = external(25.0, configs=(replace(SMALLEST[0], replicas=4), SMALLEST[1]), fault=blind)
    made.ticks(1)
    assert made.loop.snapshot().desired == {"detect": 4}


def test_it_is_made_while_a_change_rolls_out_too() -> None:
    made = external(5.0, readiness_s=1e9)
    made.ticks(6)
    assert made.loop.snapshot().phase.value == "waiting_ready"
    before = made.loop.snapshot().desired["detect"]
    made.metrics.rate_rps = lambda t_s: 25.0
    made.ticks(1)
    assert made.loop.snapshot().desired["detect"] > before


def test_an_overloaded_stage_asks_for_more_than_the_model() -> None:
    """The profile says that it carries the load; the arrivals at the stage say that it does not."""

    def more(t_s: float, seen: Signals) -> Signals:
        crowded = replace(seen.stages["detect"], arrival_rate_rps=Measured(60.0))
        return replace(seen, stages={**seen.stages, "detect": crowded})

    calm, made = external(5.0, pipeline=ROOMY), external(5.0, pipeline=ROOMY, fault=more)
    calm.ticks(8)
    decision = made.ticks(8)[-1]
    assert made.loop.snapshot().desired["detect"] > calm.loop.snapshot().desired["detect"]
    assert "another controller decides its replicas" in decision.detail
    assert {change.configs[0].replicas for change in made.workload.accepted} <= {1}


def test_a_request_keeps_the_number_and_says_so() -> None:
    made = external(5.0, configs=(replace(SMALLEST[0], replicas=2), SMALLEST[1]))
    wanted = (StageConfig("detect", "big", 1, 1.0, 5), StageConfig("read", "small", 1, 1.0, 2))
    decision = made.loop.request(wanted, "requested by ann", "ann")
    assert decision.configs == (replace(wanted[0], replicas=2), wanted[1])
    assert "(another controller decides the replicas of detect, which stay)" in decision.detail


def test_bounds_of_replicas_are_for_what_is_asked_of_the_other_controller() -> None:
    """It may have more than we would run; then the plan is for what it has."""
    many = (replace(SMALLEST[0], replicas=9), SMALLEST[1])
    assert bound_faults(EXTERNAL, many) == []
    assert bound_faults(PIPELINE, many) != []
    assert checked_configs(EXTERNAL, many) == many
    with pytest.raises(InputError):
        checked_configs(PIPELINE, many)
    made = external(60.0, pipeline=replace(ROOMY, bounds=replace(ROOMY.bounds, cores=None)), configs=many)
    made.ticks(10)
    assert made.loop.snapshot().desired["detect"] <= 8
    assert {change.configs[0].replicas for change in made.workload.accepted} == {9}


def test_its_replicas_cannot_be_pinned() -> None:
    [problem] = pin_problems(EXTERNAL, "detect", Pin(replicas=3))
    assert problem.pointer == "/replicas" and "the controller that scales it decides them" in problem.message
    assert pin_problems(EXTERNAL, "detect", Pin(variant="big")) == []


@pytest.mark.parametrize("rolling", [SIDE_BY_SIDE, DEPLOYMENT])
def test_no_room_is_made_of_replicas_that_are_not_ours(rolling: Rolling) -> None:
    running = (StageConfig("detect", "small", 1, 1.0, 6), StageConfig("read", "small", 1, 1.0, 4))
    wanted = (replace(running[0], variant="big", cores=2.0), replace(running[1], variant="big"))
    bounds = Bounds(cores=11.0)
    ours = make_room(running, wanted, replace(rolling, external=()), bounds)
    theirs = make_room(running, wanted, replace(rolling, external=("detect",)), bounds)
    assert ours != running
    assert theirs[0].replicas == 6


def test_a_guarded_pipeline_asks_for_more_only() -> None:
    made = external(0.5, mode=Mode.GUARDED, configs=(replace(SMALLEST[0], replicas=4), SMALLEST[1]))
    made.ticks(10)
    assert made.loop.snapshot().desired == {"detect": 4}


def test_its_inputs_are_recorded_and_taken_again() -> None:
    made = external(steps)
    scaled(made, lambda told: told, 40)
    request = made.loop._request(None, recover=False)
    state = made.loop._state
    effects, after = on_tick(request, state)
    read = read_inputs(effects.decision.inputs)
    assert read.state == state and read.rolling.external == ("detect",)
    assert canonical_json(read) == canonical_json(inputs_of(request, state))
    assert on_tick(request, read.state) == (effects, after)


def test_pipelines_without_such_a_stage_are_recorded_as_ever() -> None:
    made = scenario(5.0)
    made.ticks(3)
    text = made.store.kept[-1].inputs
    assert "external" not in text and '"desired"' not in text


def test_a_verdict_of_the_rules_needs_no_such_stage() -> None:
    made = external(25.0)
    request = made.loop._request(ChangeRequest(SMALLEST, "ann asked"), recover=False)
    verdict, _ = judge(request, EngineState())
    assert verdict.reason is ReasonCode.NO_CHANGE


def published(made: Scenario, pipeline: Pipeline) -> CollectorRegistry:
    registry = new_registry()
    made.loop._hooks = (Publisher(Catalogue(registry, [pipeline])),)
    return registry


def test_the_number_is_published_for_such_stages_alone() -> None:
    made = external(25.0)
    registry = published(made, EXTERNAL)
    # An adapter takes NaN for 0: there is nothing before there is a number.
    assert b"ipa_desired_replicas{" not in generate_latest(registry)
    made.ticks(5)
    count = made.loop.snapshot().desired["detect"]
    assert registry.get_sample_value("ipa_desired_replicas", LABELS) == count > 1
    assert registry.get_sample_value("ipa_desired_replicas", {**LABELS, "stage": "read"}) is None


def test_only_the_leader_publishes_it() -> None:
    made = external(25.0)
    registry = published(made, EXTERNAL)
    made.ticks(3)
    assert registry.get_sample_value("ipa_desired_replicas", LABELS) is not None

    class Follows:
        def leading(self) -> bool:
            return False

    made.loop._world = replace(made.loop._world, leadership=Follows())
    made.ticks(1)
    assert registry.get_sample_value("ipa_desired_replicas", LABELS) is None


def test_it_is_gone_with_the_pipeline() -> None:
    registry = new_registry()
    catalogue = Catalogue(registry, [EXTERNAL])
    catalogue.desire("pages", {"detect": 3})
    assert registry.get_sample_value("ipa_desired_replicas", LABELS) == 3
    catalogue.end(EXTERNAL)
    assert b"ipa_desired_replicas{" not in generate_latest(registry)
