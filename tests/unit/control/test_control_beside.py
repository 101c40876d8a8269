"""A second policy beside the one that controls: it decides on the same world, and nothing of that happens."""

from __future__ import annotations

import pytest

from ipa.control.audit.replay import Replayer, ReplayOutcome
from ipa.control.engine.tick import made_of
from ipa.control.loop.control_loop import ControlLoop, LoopPorts
from ipa.control.ports import Signals, StagePin, WorkloadState
from ipa.model.decision import Action, Mode, ReasonCode
from ipa.model.pipeline import Pin, Pipeline
from ipa.policies.table import PolicyInputs, make_policy
from tests.fakes.metrics import FakeMetrics
from tests.fakes.workload import FakeWorkload
from tests.fakes.world import PIPELINE, PROFILES, SMALLEST, Scenario, loop_over, scenario


class Named(FakeMetrics):
    """Answers for the pipeline alone, as adapters that look things up by name do."""

    def read(self, pipeline: Pipeline, window_s: float) -> Signals:
        assert pipeline is PIPELINE
        return super().read(pipeline, window_s)


class NamedWorkload(FakeWorkload):
    def read(self, pipeline: Pipeline) -> WorkloadState:
        assert pipeline.name == PIPELINE.name
        return super().read(pipeline)


def rising(t_s: float) -> float:
    return 5.0 if t_s < 60 else 38.0


def pair(policy: str = "hpa") -> tuple[Scenario, ControlLoop]:
    """The loop that controls, and one of that policy beside it."""
    case = scenario(rising, workload_of=NamedWorkload)
    metrics = Named(case.clock, rising)
    world = LoopPorts(case.clock, metrics, case.workload, case.store, case.store)
    inputs = PolicyInputs(PIPELINE, PROFILES, solver="exact")
    how = {"predict": inputs.predictor(), "window_s": 60.0, "made_of": made_of(inputs), "is_beside": True}
    return case, loop_over(PIPELINE, world, make_policy(policy, inputs), case.settings, **how)


def play(case: Scenario, loop: ControlLoop, ticks: int) -> None:
    for _ in range(ticks):
        loop.tick_once()
        case.loop.tick_once()
        case.clock.wait(case.settings.tick_s)


def test_it_goes_on_from_its_own_decisions_and_writes_nothing() -> None:
    case, loop = pair()
    play(case, loop, 40)
    decided = case.store.decisions("pages@hpa", limit=100)
    assert len(decided) == 40 and {it.mode for it in decided} == {Mode.SHADOW}
    assert {it.action for it in decided} == {Action.HOLD}
    assert {it.decision_id for it in decided}.isdisjoint(
        it.decision_id for it in case.store.decisions("pages")
    )
    # detect is offered 38 rps at 20 a replica: by its own rule 3 replicas, whatever our policy runs.
    would = loop.snapshot().would
    assert [config.replicas for config in would] == [3, 2]
    assert [config.variant for config in would] == [config.variant for config in SMALLEST]
    assert case.workload.writes and all(it.change.pipeline == "pages" for it in case.workload.writes)
    assert case.workload.desired != would


@pytest.mark.parametrize("policy", ["hpa", "ours"])
def test_what_it_decided_under_its_own_name_is_taken_again(policy: str) -> None:
    case, loop = pair(policy)
    play(case, loop, 40)
    again = Replayer(case.store)
    decided = case.store.decisions(f"pages@{policy}", limit=100)
    assert len(decided) == 40
    assert {again(it, PIPELINE, PROFILES).outcome for it in decided} == {ReplayOutcome.SAME}


def test_a_change_of_the_other_policy_that_rolls_out_does_not_hold_it() -> None:
    case, loop = pair()
    case.workload.readiness_s = 1e6
    play(case, loop, 30)
    assert case.loop.snapshot().decision.reason is ReasonCode.IN_PROGRESS  # type: ignore[union-attr]
    reasons = {it.reason for it in case.store.decisions("pages@hpa", limit=100)}
    assert ReasonCode.SHADOW in reasons and ReasonCode.IN_PROGRESS not in reasons


def test_a_pause_does_not_stop_it_and_a_pin_holds_for_both() -> None:
    case, loop = pair("ours")
    case.say(paused=True, pins=(StagePin("detect", Pin(replicas=2)),))
    play(case, loop, 20)
    assert not case.workload.writes
    assert loop.snapshot().would[0].replicas == 2
    assert case.store.decisions("pages@ours")[0].reason is not ReasonCode.PAUSED


def test_it_takes_up_its_own_record_after_a_restart() -> None:
    case, loop = pair()
    play(case, loop, 3)
    again, other = pair()
    again.store.recorded = case.store.recorded
    other.tick_once()
    assert case.store.decisions("pages@hpa")[0].tick == 4
