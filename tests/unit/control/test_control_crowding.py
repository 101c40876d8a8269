"""The guard beside the model: what is crowded, what is added, and when nothing may be taken away."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from ipa.control.engine.guards import GuardSettings, total_cores
from ipa.control.engine.overload_guard import (
    OverloadState,
    disagreement,
    overloaded_stages,
    with_more_replicas,
)
from ipa.control.ports import Signals, StageSignals
from ipa.model.decision import Action, Mode, ReasonCode
from ipa.model.observation import Measured, Missing, MissingReason, Observation, StageObservation
from ipa.model.pipeline import Bounds
from ipa.model.plan import StageConfig
from tests.fakes.world import PIPELINE, Scenario, scenario

SETTINGS = GuardSettings()
# Of detect and of read.
CAPACITIES = (10.0, 20.0)
DETECT = StageConfig("detect", "small", 1, 1.0, 2)
READ = StageConfig("read", "small", 1, 1.0, 1)
ABSENT = Missing(MissingReason.ABSENT)
BROKEN = Missing(MissingReason.INVALID, "NaN")


def stage(
    config: StageConfig,
    rate_rps: Measured[float] | Missing,
    *,
    ready: int | None = None,
    queue: Measured[float] | Missing = ABSENT,
) -> StageObservation:
    answering = config.replicas if ready is None else ready
    return StageObservation(config.stage, Measured(config), Measured(answering), rate_rps, ABSENT, queue)


def seen(
    detect: StageObservation, read: StageObservation, latency_s: Measured[float] | Missing = ABSENT
) -> Observation:
    return Observation("pages", 0.0, Measured(5.0), ABSENT, latency_s, (detect, read))


CALM = seen(stage(DETECT, Measured(8.0)), stage(READ, Measured(8.0)))


def crowded(observation: Observation) -> list[str]:
    return [crowd.stage for crowd in overloaded_stages(observation, CAPACITIES, 1.0, SETTINGS)]


def test_a_stage_offered_more_than_its_ready_replicas_carry_is_crowded() -> None:
    assert crowded(CALM) == []
    assert crowded(seen(stage(DETECT, Measured(21.0)), stage(READ, Measured(8.0)))) == ["detect"]
    # Of two replicas one answers.
    assert crowded(seen(stage(DETECT, Measured(11.0), ready=1), stage(READ, Measured(8.0)))) == ["detect"]


def test_a_stage_of_which_nothing_answers_is_no_crowd() -> None:
    """More replicas of what does not start help nobody."""
    assert crowded(seen(stage(DETECT, Measured(50.0), ready=0), stage(READ, Measured(8.0)))) == []


def test_a_queue_that_takes_longer_than_the_sla_is_a_crowd() -> None:
    waiting = stage(DETECT, Measured(8.0), queue=Measured(21.0))
    assert crowded(seen(waiting, stage(READ, Measured(8.0)))) == ["detect"]
    assert crowded(seen(replace(waiting, queue_length=Measured(19.0)), stage(READ, Measured(8.0)))) == []


def test_a_late_pipeline_is_the_busiest_stages_doing_unless_that_is_idle() -> None:
    busy, idle = stage(DETECT, Measured(17.0)), stage(DETECT, Measured(8.0))
    read = stage(READ, Measured(9.0))
    assert crowded(seen(busy, read, Measured(1.2))) == ["detect"]
    assert crowded(seen(idle, read, Measured(1.2))) == []


@pytest.mark.parametrize("unseen", [ABSENT, BROKEN])
def test_what_was_not_seen_does_not_vote(unseen: Missing) -> None:
    assert crowded(seen(stage(DETECT, unseen, queue=unseen), stage(READ, unseen), unseen)) == []


def test_as_many_are_added_as_bring_it_down_within_bounds_and_steps() -> None:
    observation = seen(stage(DETECT, Measured(40.0)), stage(READ, Measured(8.0)))
    crowds = overloaded_stages(observation, CAPACITIES, 1.0, SETTINGS)
    wide = replace(PIPELINE, bounds=Bounds())
    assert with_more_replicas(wide, (DETECT, READ), crowds, SETTINGS)[0].replicas == 5  # 40 / (0.8 × 10)
    step = replace(SETTINGS, max_step_replicas=1)
    assert with_more_replicas(wide, (DETECT, READ), crowds, step)[0].replicas == 3
    few = replace(PIPELINE, bounds=Bounds(max_replicas=4))
    assert with_more_replicas(few, (DETECT, READ), crowds, SETTINGS)[0].replicas == 4
    poor = replace(PIPELINE, bounds=Bounds(cores=4.5))
    assert with_more_replicas(poor, (DETECT, READ), crowds, SETTINGS)[0].replicas == 3


@pytest.mark.parametrize(
    ("observation", "words"),
    [
        (CALM, ""),
        (replace(CALM, latency_s=Measured(0.9)), ""),
        (replace(CALM, latency_s=Measured(1.1)), "the latency is 1.1 s, the SLA is 1 s"),
        (replace(CALM, latency_s=BROKEN), "the latency is invalid"),
        (seen(stage(DETECT, BROKEN), stage(READ, Measured(1.0))), "the load of detect is invalid"),
        (seen(stage(DETECT, ABSENT), stage(READ, ABSENT)), ""),
        (
            seen(stage(DETECT, Measured(1.0), ready=1), stage(READ, Measured(1.0))),
            "only 1 of 2 replicas of detect",
        ),
    ],
)
def test_less_is_only_for_a_world_in_which_every_live_signal_agrees(
    observation: Observation, words: str
) -> None:
    found = disagreement(observation, 1.0)
    assert found.startswith(words) and bool(found) is bool(words)


def slower_than_profiled(made: Scenario, factor: float) -> None:
    """Let what the stages are offered look `factor` times as much as the pipeline is."""

    def fault(now_s: float, signals: Signals) -> Signals:
        stages = {
            name: StageSignals(Measured(one.arrival_rate_rps.value * factor), one.latency_s, one.queue_length)
            for name, one in signals.stages.items()
            if isinstance(one.arrival_rate_rps, Measured)
        }
        return replace(signals, stages=stages)

    made.metrics.fault = fault


def test_what_the_plan_does_not_see_is_added_after_some_ticks_and_not_taken_away_again() -> None:
    made = scenario(10.0)
    made.ticks(12)
    before = made.workload.desired
    slower_than_profiled(made, 1.5)
    decisions = made.ticks(3)
    assert [decision.action for decision in decisions[:2]] == [Action.HOLD] * 2
    assert decisions[2].reason is ReasonCode.SATURATED
    assert "of the capacity of its ready replicas" in decisions[2].detail
    made.ticks(20)
    grown = made.workload.desired
    assert total_cores(grown) > total_cores(before)
    made.metrics.fault = None
    reasons = {decision.reason for decision in made.ticks(30)}
    assert ReasonCode.SIGNALS_DISAGREE in reasons
    assert made.workload.desired == grown
    # Five minutes later the plan may have its way.
    made.ticks(60)
    assert total_cores(made.workload.desired) < total_cores(grown)


def test_a_crowd_of_one_tick_is_no_reason() -> None:
    made = scenario(10.0)
    made.ticks(12)
    before = len(made.workload.writes)
    for _ in range(5):
        slower_than_profiled(made, 1.5)
        made.ticks(2)
        made.metrics.fault = None
        made.ticks(1)
    assert len(made.workload.writes) == before


def test_in_advisory_mode_it_only_says_so() -> None:
    made = scenario(10.0)
    made.ticks(12)
    made.say(mode=Mode.ADVISORY)
    before = len(made.workload.writes)
    slower_than_profiled(made, 1.5)
    last = made.ticks(4)[-1]
    assert last.reason is ReasonCode.ADVISORY and "would apply.saturated" in last.detail
    assert len(made.workload.writes) == before


def test_what_comes_back_as_soon_as_it_was_let_go_is_held_twice_as_long() -> None:
    """Else a wrong profile would make it saw: added, let go, added again."""
    first = OverloadState().acted(100.0, 300.0)
    assert first.holds(399.0) and not first.holds(400.0)
    assert first.acted(200.0, 300.0).hold_s == 300.0  # still the same trouble
    second = first.acted(450.0, 300.0)
    assert second.hold_s == 600.0
    assert second.acted(3000.0, 300.0).hold_s == 300.0  # long over
    for _ in range(9):
        second = second.acted(second.acted_on_s + second.hold_s, 300.0)
    assert second.hold_s == 32 * 300.0


def test_a_wrong_profile_does_not_make_it_saw() -> None:
    made = scenario(10.0)
    made.ticks(12)
    slower_than_profiled(made, 1.5)
    made.ticks(720)  # an hour
    turns = [
        total_cores(change.configs) > total_cores(change.previous) for change in made.workload.accepted[1:]
    ]
    assert sum(before != after for before, after in pairwise(turns)) <= 8
